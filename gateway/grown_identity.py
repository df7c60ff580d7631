"""A study whose identity has grown since its outputs were made: a late instance, or a late order, named somebody they were not cleaned of.

Invariants
- The received study keeps a keyed digest of the terms that all of its registered outputs were made under. The terms themselves, which
  name people, are kept nowhere; the digest is under the hospital's secret and canonical, so that the order of arrival makes no difference.
- While the digest of a run is another one, every registered instance is made again from its original. What comes out the same stays as
  it is; what comes out otherwise replaces what stood and amends the study; what can no longer be proved clean is withdrawn and held.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from compliance.crosswalk import lookup_secret
from compliance.identified import DeidentifiedDataset, InstanceAttributes
from compliance.identity_terms import IdentityTerms
from compliance.study import Instance
from crypto.canonical import keyed_digest
from crypto.keys import KeyStore
from crypto.vault import SealedObject
from gateway.application import Application
from gateway.received import ReceivedInstance, ReceivedStudy
from gateway.study_holds import Refusal

Output = tuple[ReceivedInstance, DeidentifiedDataset, SealedObject]


def terms_digest(keys: KeyStore, hospital_id: str, terms: IdentityTerms) -> str:
    """Hex digest of the terms under the hospital's secret; equal terms have equal digests, in whatever order they were met.

    Makers' and models' names are left out: they are nobody's identity, and a late series of another machine would remake a study for them.
    """
    kinds = {one.name: sorted(_text(value) for value in getattr(terms, one.name)) for one in fields(terms) if one.name != "public"}
    return keyed_digest(lookup_secret(keys, hospital_id), "identity-terms", json.dumps(kinds, sort_keys=True))


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


@dataclass
class Made:
    """What a run made of a study's instances, and the digest of the terms it made them under."""

    terms_digest: str
    outputs: list[Output] = field(default_factory=list)
    refusals: list[tuple[ReceivedInstance, Refusal]] = field(default_factory=list)
    #: What the instances say of the study that were made again and came out as they stand.
    unchanged: list[InstanceAttributes] = field(default_factory=list)

    @property
    def is_remade(self) -> bool:
        """Whether instances that had gone on were made again."""
        return bool(self.unchanged) or bool(self.withdrawn) or any(row.sop_instance_uid is not None for row, _, _ in self.outputs)

    @property
    def withdrawn(self) -> frozenset[str]:
        """Instances that had gone on and are refused now."""
        return frozenset(row.sop_instance_uid for row, _ in self.refusals if row.sop_instance_uid is not None)

    def without_unchanged(
        self, app: Application, received: ReceivedStudy, made: Sequence[tuple[ReceivedInstance, DeidentifiedDataset]]
    ) -> list[tuple[ReceivedInstance, DeidentifiedDataset]]:
        """Those of `made` that are not registered already with the same bytes; the others are noted as unchanged, and let go."""
        kept: list[tuple[ReceivedInstance, DeidentifiedDataset]] = []
        with app.database.reading() as session:
            standing = {row.instance_pk: session.get(Instance, row.sop_instance_uid) for row, _ in made if row.sop_instance_uid is not None}
        for row, output in made:
            instance = standing.get(row.instance_pk)
            # Without a digest on record what is stored is in doubt, and takes the new copy's place even where that is the same.
            if instance is None or not _is_same(instance, output) or not received.terms_digest:
                kept.append((row, output))
            else:
                self.unchanged.append(output.attributes)
                output.let_payload_go()
        return kept


def _is_same(instance: Instance, output: DeidentifiedDataset) -> bool:
    is_same_name = instance.sop_instance_uid == output.sop_instance_uid and instance.transfer_syntax_uid == output.transfer_syntax_uid
    return is_same_name and instance.payload_digest == output.payload_digest
