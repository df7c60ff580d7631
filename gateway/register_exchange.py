"""Registers in and out as documents: consents as FHIR R4 Consent, credentials and evidence as JSON. Every change is audited and at once.

Pages, programs and commands hand in what a file holds (already parsed) and who acts; nothing here asks who that is. A command, which may
run beside a server under another law, leaves the effect to that server (`has_effect=False`, register_changes.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlmodel import Session, col, select

from compliance import audit
from compliance.consent_fhir import ConsentStatement, actors_of, read_consent, told_name, write_consent
from compliance.credential import Consent, Credential, Employer, Evidence, Reader, newest_consent
from compliance.crosswalk import PatientLink
from compliance.facts import credential_facts, evidence_facts
from compliance.facts_vocabulary import CREDENTIAL_COMMON, CREDENTIAL_TYPES
from compliance.hospital import Hospital
from compliance.lawbook import LawBundle
from compliance.rule import Wanted
from crypto.errors import BadInput, NotFound
from gateway.application import Application
from gateway.register_effects import take_effect, take_effect_of_evidence
from gateway.register_entries import file_credential, file_evidence, require_newer_word
from gateway.register_note import note

CREDENTIALS_FORMAT = "readgate-credentials-1"
EVIDENCE_FORMAT = "readgate-evidence-1"
_ITEMS_MAX = 1000


def import_consent(app: Application, actor: str, document: Any, *, hospital_id: str | None = None, has_effect: bool = True) -> list[int]:
    """The consents in `document` (a Consent, or a Bundle of them) count from now on; their versions, in order. All or none; of
    `hospital_id` alone, where that is given.

    Raises: BadInput with the path of what was not understood; NotFound for a patient, hospital or actor that is not here; Conflict where
    what is on file is newer.
    """
    statements = [read_consent(resource) for resource in _resources(document)]
    if hospital_id is not None and any(statement.hospital_id != hospital_id for statement in statements):
        raise NotFound("Consent.organization: no such hospital")
    versions = []
    with app.database.transaction() as session:
        for statement in statements:
            versions.append(_record(session, app.now(), actor, statement))
    for statement in statements if has_effect else ():
        take_effect(app, hospital_ids=[statement.hospital_id], patient_pseudonym=statement.patient_pseudonym)
    return versions


def export_consents(session: Session, *, hospital_id: str | None = None, patient_pseudonym: str | None = None) -> dict[str, Any]:
    """The standing consents as a FHIR Bundle of type collection."""
    rows = newest_consents(session, hospital_id=hospital_id, patient_pseudonym=patient_pseudonym)
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": write_consent(row)} for row in rows]}


def newest_consents(session: Session, *, hospital_id: str | None = None, patient_pseudonym: str | None = None) -> list[Consent]:
    """The newest version of each kind of each patient's consent: that one counts."""
    query = select(Consent).order_by(col(Consent.consent_pk))
    if hospital_id is not None:
        query = query.where(Consent.hospital_id == hospital_id)
    if patient_pseudonym is not None:
        query = query.where(Consent.patient_pseudonym == patient_pseudonym)
    newest: dict[tuple[str, str, str], Consent] = {}
    for row in session.exec(query).all():
        key = (row.hospital_id, row.patient_pseudonym, row.kind)
        if key not in newest or row.version >= newest[key].version:
            newest[key] = row
    return list(newest.values())


def import_credentials(app: Application, actor: str, document: Any, *, has_effect: bool = True) -> list[int]:
    """The credentials in `document` count from now on; their keys. All or none; what is on file already, word for word, is left as it is.

    Raises: BadInput naming the item and the field.
    """
    keys, touched = [], set()
    rows = [(where, _credential(where, item, app.now())) for where, item in _items(document, CREDENTIALS_FORMAT, "credentials")]
    with app.database.transaction() as session:
        for where, credential in rows:
            standing = _same_credential(session, credential)
            if standing is not None:
                keys.append(standing)
                continue
            try:
                keys.append(file_credential(session, actor, credential, now=app.now()))
            except (BadInput, NotFound) as problem:
                raise BadInput(f"{where}: {problem}") from None
            touched.add(credential.reader_id)
    if touched and has_effect:
        take_effect(app, reader_ids=sorted(touched))
    return keys


def export_credentials(session: Session, *, reader_id: str | None = None) -> dict[str, Any]:
    """The standing credentials, as `import_credentials` takes them."""
    query = select(Credential).where(col(Credential.superseded_at).is_(None)).order_by(col(Credential.credential_pk))
    if reader_id is not None:
        query = query.where(Credential.reader_id == reader_id)
    rows = []
    for row in session.exec(query).all():
        facts = {name: value for name, value in credential_facts(row).items() if name != "id"}
        rows.append({"reader": row.reader_id, **facts, "verified_by": row.verified_by})
    return {"format": CREDENTIALS_FORMAT, "credentials": rows}


def import_evidence(app: Application, actor: str, document: Any, *, has_effect: bool = True) -> list[str]:
    """The evidence in `document` is on file; its ids. All or none.

    Raises: BadInput naming the item and the field; Conflict where an id stands for something else.
    """
    ids: list[str] = []
    touched: set[tuple[str, ...]] = set()
    rows = [(where, _evidence(app, where, item)) for where, item in _items(document, EVIDENCE_FORMAT, "evidence")]
    with app.database.transaction() as session:
        for where, evidence in rows:
            ids.append(evidence.evidence_id)
            standing = session.get(Evidence, evidence.evidence_id)
            if standing is not None and evidence_facts(standing) == evidence_facts(evidence):
                continue
            try:
                file_evidence(session, app.keys, actor, evidence, now=app.now())
            except BadInput as problem:
                raise BadInput(f"{where}: {problem}") from None
            touched.add(tuple(evidence.parties))
    for parties in sorted(touched) if has_effect else ():
        take_effect_of_evidence(app, parties)
    return ids


def export_evidence(session: Session) -> dict[str, Any]:
    """The evidence that counts, as `import_evidence` takes it."""
    rows = session.exec(select(Evidence).where(col(Evidence.withdrawn_at).is_(None)).order_by(Evidence.evidence_id)).all()
    return {"format": EVIDENCE_FORMAT, "evidence": [evidence_facts(row) for row in rows]}


def evidence_types(law: LawBundle) -> list[str]:
    """Every type of evidence that a rule of `law` asks for."""

    def walk(wanted: Wanted) -> set[str]:
        own = {wanted.name} if wanted.form == "evidence" else set()
        return own.union(*(walk(one) for group in wanted.groups for one in group))

    return sorted(set().union(*(walk(need) for rule in law.rules.values() for need in rule.needs)))


def _resources(document: Any) -> list[Any]:
    if not isinstance(document, Mapping) or document.get("resourceType") != "Bundle":
        return [document]
    entries = document.get("entry")
    if not isinstance(entries, list) or not 0 < len(entries) <= _ITEMS_MAX or not all(isinstance(entry, Mapping) for entry in entries):
        raise BadInput(f"Bundle.entry: is a list of 1 to {_ITEMS_MAX} entries")
    return [entry.get("resource") for entry in entries]


def _record(session: Session, now: datetime, actor: str, statement: ConsentStatement) -> int:
    if session.get(Hospital, statement.hospital_id) is None:
        raise NotFound("Consent.organization: no such hospital")
    known = session.exec(
        select(PatientLink.link_pk).where(
            PatientLink.hospital_id == statement.hospital_id, PatientLink.pseudonym == statement.patient_pseudonym
        )
    ).first()
    if known is None:
        raise NotFound("Consent.patient: this hospital has no patient of that pseudonym")
    for kind, name in sorted(actors_of(statement.terms)):
        if session.get(Reader if kind == "reader" else Employer, name) is None:
            raise NotFound(f"Consent.provision.actor: no {kind} of that id; a name nobody has would permit and deny nothing")
    if max(statement.given_at, statement.withdrawn_at or statement.given_at) > now:
        raise BadInput("Consent.dateTime: lies in the future")
    before = newest_consent(session, statement.hospital_id, statement.patient_pseudonym, statement.kind)
    require_newer_word(before, statement.withdrawn_at or statement.given_at)
    version = before.version + 1 if before is not None else 1
    session.add(
        Consent(
            hospital_id=statement.hospital_id,
            patient_pseudonym=statement.patient_pseudonym,
            status=statement.status,
            kind=statement.kind,
            version=version,
            given_at=statement.given_at,
            withdrawn_at=statement.withdrawn_at,
            expires_at=statement.expires_at,
            terms=statement.terms,
            document_digest=statement.document_digest,
            recorded_at=now,
        )
    )
    session.flush()
    note(
        session,
        now,
        actor,
        audit.EventType.SECURITY_CONFIGURATION,
        statement.hospital_id,
        {
            "consent": statement.status,
            "kind": statement.kind,
            "version": version,
            "patient": statement.patient_pseudonym,
            "document": statement.document_digest,
        },
    )
    return version


def _items(document: Any, kind: str, name: str) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(document, Mapping) or document.get("format") != kind or set(document) != {"format", name}:
        raise BadInput(f"not a document of format {kind} with {name} and nothing else")
    rows = document[name]
    if not isinstance(rows, list) or len(rows) > _ITEMS_MAX or not all(isinstance(row, Mapping) for row in rows):
        raise BadInput(f"{name}: is a list of at most {_ITEMS_MAX} objects")
    return [(f"{name}[{index}]", row) for index, row in enumerate(rows)]


def _credential(where: str, item: Mapping[str, Any], now: datetime) -> Credential:
    kind = str(item.get("kind"))
    if kind not in CREDENTIAL_TYPES:
        raise BadInput(f"{where}.kind: is one of {', '.join(CREDENTIAL_TYPES)}")
    own = set(CREDENTIAL_TYPES[kind][0]) - set(CREDENTIAL_COMMON)
    _only(where, item, {"reader", "kind", "status", "issued", "expires", "psv_at", "psv_method", "verified_by"} | own)
    verified_at = _instant(where, item, "psv_at")
    if verified_at > now:
        raise BadInput(f"{where}.psv_at: lies in the future")
    return Credential(
        reader_id=str(item.get("reader", "")),
        kind=kind,
        claim={name: item[name] for name in sorted(own) if name in item},
        status=str(item.get("status", "ACTIVE")),
        issued_at=_instant(where, item, "issued"),
        expires_at=_instant(where, item, "expires"),
        verified_at=verified_at,
        verification_method=str(item.get("psv_method", ""))[:200],
        verified_by=str(item.get("verified_by", ""))[:64],
        recorded_at=now,
    )


def _same_credential(session: Session, credential: Credential) -> int | None:
    wanted = credential_facts(credential)
    rows = session.exec(
        select(Credential).where(Credential.reader_id == credential.reader_id, col(Credential.superseded_at).is_(None))
    ).all()
    same = (row for row in rows if {name: value for name, value in credential_facts(row).items() if name != "id"} == wanted)
    return next((row.credential_pk for row in same), None)


def _evidence(app: Application, where: str, item: Mapping[str, Any]) -> Evidence:
    _only(where, item, {"id", "type", "parties", "issued", "expires", "verified_by", "sha256"})
    if item.get("type") not in evidence_types(app.law):
        raise BadInput(f"{where}.type: no rule in force asks for it")
    parties = item.get("parties")
    if not isinstance(parties, list) or not all(isinstance(party, str) for party in parties):
        raise BadInput(f"{where}.parties: is a list of ids")
    return Evidence(
        evidence_id=str(item.get("id", "")),
        evidence_type=str(item["type"]),
        parties=[str(party) for party in parties],
        issued_at=_instant(where, item, "issued"),
        expires_at=_instant(where, item, "expires"),
        verified_by=str(item.get("verified_by", "")),
        document_digest=item.get("sha256"),
        recorded_at=app.now(),
    )


def _only(where: str, item: Mapping[str, Any], known: set[str]) -> None:
    if set(item) - known:
        raise BadInput(f"{where}.{told_name(set(item) - known)}: not understood")


def _instant(where: str, item: Mapping[str, Any], name: str) -> datetime:
    try:
        at = datetime.fromisoformat(str(item.get(name)))
    except ValueError:
        raise BadInput(f"{where}.{name}: is no instant") from None
    if at.tzinfo is None:
        raise BadInput(f"{where}.{name}: has no time zone")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise BadInput(f"{where}.{name}: is no instant") from None
