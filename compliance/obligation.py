"""What an ALLOW asks in return, and who sees to it.

| obligation | kept by |
|---|---|
| VIEW_ONLY, NO_PERSIST | gateway/dicomweb.py: no whole instance, no pixel data in one piece; every answer `no-store` |
| WATERMARK | the reading page: reader, time and decision over the images |
| PRELIMINARY_ONLY, FINAL_BY_US_READER | reporting/signing.py and worklist/claim.py: a final is refused, a step for a final reader follows |
| STORE_REGION, COPY_IN, KEYS_IN | here, against where the study and its keys were written; not kept means not shown |
| DEFACE | nobody: faces are not taken off, because that can take anatomy with it; what asks for it is not shown |
| NOTIFY_PO, REVIEW_72H, COUNT | here, in the transaction of the disclosure |

An obligation that is none of these is not kept by anybody, and so refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlmodel import Session

from compliance.counters import count_disclosure
from compliance.decision import Decision
from compliance.lawbook import LawBundle
from compliance.privacy_review import NOTIFY_PO, REVIEW_72H, notify_privacy_officer, open_review
from compliance.study import Study
from crypto.keys import KeyStore

OBLIGATION_UNMET = "OBLIGATION_UNMET"
#: Kept elsewhere, see the table.
_ELSEWHERE = frozenset({"VIEW_ONLY", "NO_PERSIST", "WATERMARK", "PRELIMINARY_ONLY", "FINAL_BY_US_READER", NOTIFY_PO, REVIEW_72H})
_WITH_PLACES = re.compile(r"(STORE_REGION|COPY_IN|KEYS_IN)\(([A-Z|-]+)\)\Z")
_COUNT = re.compile(r"COUNT\([a-z_]+\)\Z")


def unmet_obligation(obligations: Iterable[str], law: LawBundle, *, storage_country: str, keys_country: str, at: datetime) -> str | None:
    """The first of `obligations` that is not kept, as a reason; None where all are, or will be by who is named above."""
    for text in sorted(obligations):
        placed = _WITH_PLACES.match(text)
        if placed is not None:
            country = keys_country if placed[1] == "KEYS_IN" else storage_country
            is_kept = any(_lies_in(law, country, region, at) for region in placed[2].split("|"))
        else:
            is_kept = text in _ELSEWHERE or _COUNT.match(text) is not None
        if not is_kept:
            return f"{OBLIGATION_UNMET}:{text}"
    return None


def unmet_for_study(obligations: Iterable[str], law: LawBundle, study: Study, facts: Mapping[str, Any], at: datetime) -> str | None:
    """`unmet_obligation` for a study as it was written; where that was not recorded, the hospital's word in `facts` is taken."""
    storage = str(facts["storage"]["country"])
    return unmet_obligation(obligations, law, storage_country=storage, keys_country=study.keys_country or storage, at=at)


def meet_at_disclosure(
    session: Session,
    decision: Decision,
    facts: Mapping[str, Any],
    study: Study,
    *,
    procedure_step_uid: str,
    keys: KeyStore | None,
    at: datetime,
) -> list[str]:
    """What the disclosure owes is done with it: counted, noticed, queued for review. The kinds it was counted under.

    The caller holds the hospital's counters locked where there are `keys`.
    """
    about: dict[str, Any] = {
        "hospital_id": study.hospital_id,
        "reader_id": facts["reader"]["id"],
        "study_instance_uid": study.study_instance_uid,
        "procedure_step_uid": procedure_step_uid,
        "decision_digest": decision.digest,
        "now": at,
    }
    if REVIEW_72H in decision.obligations:
        open_review(session, **about)
    if NOTIFY_PO in decision.obligations:
        notify_privacy_officer(session, **about, subject=NOTIFY_PO)
    if keys is None:
        return []
    return count_disclosure(session, keys, facts, decision.obligations, patient_pseudonym=study.patient_pseudonym, at=at)


def _lies_in(law: LawBundle, country: str, region: str, at: datetime) -> bool:
    """Whether `country` lies in a regime of the law ("EU") or is the code itself or below it."""
    territory = law.regimes.get(region)
    if territory is not None and territory.matches(country, at):
        return True
    return country == region or country.startswith(region + "-")
