"""The document behind evidence: kept sealed, the same one for ever, opened on record."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlmodel import select

from compliance.audit import AuditEntry
from compliance.evidence_document import EvidenceDocument, keep_document, open_document
from crypto.errors import BadInput, Conflict, IntegrityFailure, NotFound
from tests.gateway_site import gateway_site

CONTRACT = b"%PDF-1.7 agreement between the hospital and the firm"


def test_document_is_sealed_and_no_other_one_takes_its_place(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "data", has_study=False) as site:
        app, now = site.app, site.clock.at
        with app.database.transaction() as session:
            digest = keep_document(session, app.keys, "dpa-1", CONTRACT, actor="po", now=now)
            assert keep_document(session, app.keys, "dpa-1", CONTRACT, actor="po", now=now) == digest
            row = session.get(EvidenceDocument, "dpa-1")
            assert row is not None and b"agreement" not in row.sealed
            with pytest.raises(Conflict):
                keep_document(session, app.keys, "dpa-1", b"another", actor="po", now=now)
            with pytest.raises(NotFound):
                keep_document(session, app.keys, "dpa-99", CONTRACT, actor="po", now=now)
            with pytest.raises(BadInput):
                keep_document(session, app.keys, "dpa-2", b"", actor="po", now=now)
            with pytest.raises(NotFound):
                open_document(session, app.keys, "dpa-2", actor="po", now=now)
            assert open_document(session, app.keys, "dpa-1", actor="po", now=now) == CONTRACT
        with app.database.transaction() as session:
            actions = [one.action for one in session.exec(select(AuditEntry).where(AuditEntry.object_id == "evidence/dpa-1")).all()]
            assert actions == ["C", "R"]
            row = session.get(EvidenceDocument, "dpa-1")
            assert row is not None
            row.sealed = row.sealed[:-1] + bytes([row.sealed[-1] ^ 1])
            session.add(row)
            with pytest.raises(IntegrityFailure):
                open_document(session, app.keys, "dpa-1", actor="po", now=now)
