"""The nine steps as nine functions, in order, on one study: what each promises is true when it returns."""

from __future__ import annotations

import json
from pathlib import Path

from sqlmodel import select

from compliance import deidentify as deidentify_module
from compliance.audit import AuditEntry, EventType
from compliance.audit_checkpoint import verify_log
from compliance.crosswalk import ensure_patient, uid_secret
from compliance.identified import DeidentifiedDataset, IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityTerms
from compliance.principal import LoginSession, require_principal
from compliance.study import Instance, Study, require_study
from crypto.canonical import keyed_uid
from gateway import dicomweb
from gateway.login import Visitor
from gateway.processing import archive_originals, deidentify_study
from gateway.received import ReceivedInstance
from reporting.authoring import save_draft
from reporting.content import ReportKind
from reporting.delivery import deliver
from reporting.delivery_queue import Delivery, DeliveryState
from reporting.signing import sign
from reporting.verification import verify_report_pdf
from tests.builders import make_ct_study, payload_of
from tests.gateway_site import GatewaySite, PlainScreener, gateway_site
from worklist.claim import claim
from worklist.procedure_step import State
from worklist.routing import route
from worklist.workitem import ProcedureStep, require_step


def test_one_study_through_all_nine_steps(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "data") as site:
        app = site.app
        datasets = make_ct_study(instances=3, number=71)
        # 1. receive: acknowledged means it survives; the bytes come back bit for bit.
        received_study_pk = site.receive(datasets, order={"indication": "Headache.", "question": "", "procedure": "CT head"})
        with app.database.reading() as session:
            rows = session.exec(select(ReceivedInstance).where(ReceivedInstance.received_study_pk == received_study_pk)).all()
        assert len(rows) == 3 and all(row.segment_id for row in rows)
        # 2. de-identify: of the same instance, the type that alone may cross.
        _deidentified_by_hand(site, payload_of(datasets[0]), str(datasets[0].SOPClassUID), str(datasets[0].SOPInstanceUID))
        # 3. seal: originals and de-identified instances lie in the vault under the study's key.
        archive_originals(app, received_study_pk)
        study_instance_uid = deidentify_study(app, received_study_pk, PlainScreener())
        assert study_instance_uid == keyed_uid(uid_secret(app.keys, "h1"), str(datasets[0].StudyInstanceUID))
        packs = {name for name, _ in app.vault.pack_names()}
        with app.database.reading() as session:
            study_pk = require_study(session, study_instance_uid).study_pk
            instances = session.exec(select(Instance).where(Instance.study_pk == study_pk)).all()
        assert len(instances) == 3 and {instance.pack_name for instance in instances} <= packs
        # 4. route
        with app.database.transaction() as session:
            routing = route(session, app.law, require_study(session, study_instance_uid), now=app.now(), new_uid=app.new_uid)
        assert routing.is_new and routing.eligible == ["r1"] and set(routing.refused) == {"r2", "r3", "r4", "r5"}
        # 5. claim
        visitor = _logged_in(site)
        step_uid = routing.procedure_step_uid
        held = claim(
            app.database, app.law, procedure_step_uid=step_uid, reader_id="r1", login_digest=visitor.login_digest, transaction_uid="2.25.7",
            now=app.now(),
        )  # fmt: skip
        # 6. view: decided and audited before the first byte.
        series = dicomweb.search_series(app, visitor, study_instance_uid)[0]["0020000E"]["Value"][0]
        metadata = dicomweb.retrieve_series_metadata(app, visitor, study_instance_uid, series)
        frame = dicomweb.retrieve_frames(app, visitor, study_instance_uid, series, metadata[0]["00080018"]["Value"][0], [1])
        assert len(metadata) == 3 and len(frame.body) > 100
        assert _entries(site, EventType.OPEN) == 1
        # 7. report
        sections = {"findings": "No bleeding.", "impression": "Normal.", "kind": "FINAL"}
        draft = save_draft(
            app.database, app.keys, procedure_step_uid=step_uid, reader_id="r1", login_digest=visitor.login_digest, base_version=0,
            sections=sections, now=app.now(),
        )  # fmt: skip
        # 8. sign
        report = sign(
            app.database, app.keys, app.law, procedure_step_uid=step_uid, reader_id="r1", login_digest=visitor.login_digest,
            transaction_uid=held.transaction_uid, kind=ReportKind.FINAL, draft_version=draft.version,
            manifest_digest=_manifest(site, study_instance_uid), passphrase=site.logins["r1"].passphrase,
            now=app.now(), new_uid=app.new_uid,
        )  # fmt: skip
        with app.database.reading() as session:
            assert require_step(session, step_uid).state == State.COMPLETED
            assert report.manifest_digest == require_study(session, study_instance_uid).manifest_digest
            deliveries = session.exec(select(Delivery.delivery_pk).where(Delivery.report_uid == report.report_uid)).all()
        # 9. deliver: under the patient's own name, with a receipt.
        for delivery_pk in deliveries:
            assert delivery_pk is not None
            state = deliver(
                app.database, app.keys, app.law, delivery_pk=delivery_pk, senders=site.outbox, signer_of=app.document_signer,
                trust_roots=app.certificates.trust_roots(), now=app.now(),
            )  # fmt: skip
            assert state == DeliveryState.DELIVERED
        _delivered_under_the_own_name(site, str(datasets[0].PatientName), str(datasets[0].StudyInstanceUID))
        with app.database.reading() as session:
            assert verify_log(session, app.log_signer.public_key).is_sound


def _manifest(site: GatewaySite, study_instance_uid: str) -> str:
    with site.app.database.reading() as session:
        return require_study(session, study_instance_uid).manifest_digest


def test_each_step_twice_comes_out_once(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "data") as site:
        received_study_pk = site.receive(make_ct_study(instances=2, number=72))
        first = site.process(received_study_pk)
        assert site.process(received_study_pk) == first
        with site.app.database.reading() as session:
            study_pk = session.exec(select(Study.study_pk).where(Study.study_instance_uid == first)).one()
            assert len(session.exec(select(ProcedureStep).where(ProcedureStep.study_pk == study_pk)).all()) == 1
            assert len(session.exec(select(Instance).where(Instance.study_pk == study_pk)).all()) == 2


def test_the_prior_of_the_same_patient_links(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "data") as site:
        prior = site.process(site.receive(make_ct_study(instances=1, number=73, seed=1)))
        current = site.process(site.receive(make_ct_study(instances=1, number=74, seed=2)))
        with site.app.database.reading() as session:
            one, two = require_study(session, prior), require_study(session, current)
        assert one.patient_pseudonym == two.patient_pseudonym and one.study_instance_uid != two.study_instance_uid


def _deidentified_by_hand(site: GatewaySite, payload: bytes, sop_class_uid: str, sop_instance_uid: str) -> None:
    source = IdentifiedDataset(payload, "1.2.840.10008.1.2.1", sop_class_uid, sop_instance_uid)
    with site.app.database.transaction() as session:
        pseudonym, offset = ensure_patient(session, site.app.keys, "h1", "X", "", now=site.app.now())
    under = Pseudonymity("h1", uid_secret(site.app.keys, "h1"), pseudonym, offset, "A1", IdentityTerms.from_instance(source))
    made = deidentify_module.deidentify(source, under, screen=PlainScreener().screen)
    assert isinstance(made, DeidentifiedDataset) and made.sop_instance_uid.startswith("2.25.")
    assert made.action_counts


def _logged_in(site: GatewaySite) -> Visitor:
    site.client("r1")
    with site.app.database.reading() as session:
        login = session.exec(select(LoginSession).where(LoginSession.principal_id == "r1")).one()
        return Visitor(require_principal(session, "r1"), login)


def _entries(site: GatewaySite, event_type: EventType) -> int:
    with site.app.database.reading() as session:
        return len(session.exec(select(AuditEntry).where(AuditEntry.event_type == event_type)).all())


def _delivered_under_the_own_name(site: GatewaySite, patient_name: str, study_instance_uid: str) -> None:
    part10 = next(document for document in site.outbox.documents if document[128:132] == b"DICM")
    start = part10.index(b"%PDF-")
    pdf = part10[start : part10.rindex(b"%%EOF") + 6].rstrip(b"\0")
    found = verify_report_pdf(pdf, site.app.certificates.trust_roots())
    assert found.is_valid, json.dumps(found.document(), default=str)
    assert found.source is not None
    assert found.source.patient.name == patient_name and found.source.study.study_instance_uid == study_instance_uid
