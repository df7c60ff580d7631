"""A whole site in this process: listeners, worker, pages, and the hospitals' own archive and information system, on free ports.

Where `gateway_site` calls the steps one by one with a clock that stands still, here everything runs by itself, as in `readgate serve`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

from pydicom.dataset import Dataset
from sqlmodel import Session, select

from compliance.crosswalk import study_lookup
from compliance.quarantine import QuarantineItem
from compliance.study import Study, require_study
from gateway.application import Application, open_application
from gateway.config import Settings
from gateway.demo_hospital import DemoHospital
from gateway.demo_reader import DemoReader
from gateway.demo_sender import send_sample
from gateway.demo_site import DemoLogin, HospitalPorts, populate
from gateway.dicom_tls import TlsMaterial, client_context
from gateway.received import ReceivedState, ReceivedStudy
from gateway.samples import Expectation, Person, SampleStudy, make_order
from gateway.server import Server
from gateway.store_scu import RemoteAe, store_all
from tests.page_server import VIEWER
from worklist.workitem import ProcedureStep

_PROCESSED_SECONDS = 120.0
T = TypeVar("T")


@dataclass
class RunningSite:
    """One deployment that runs; its people are those of the demonstration."""

    app: Application
    server: Server
    logins: dict[str, DemoLogin]
    #: What the hospitals received lies in <received>/<hospital_id>.
    received: Path

    @property
    def plaintext(self) -> tuple[str, int]:
        return self.server.dicom_addresses[0]

    @property
    def tls(self) -> tuple[str, int]:
        return self.server.dicom_addresses[1]

    @property
    def url(self) -> str:
        assert self.server.http_address is not None
        return "http://{}:{}".format(*self.server.http_address)

    def remote(self, hospital_id: str = "h1") -> RemoteAe:
        """Readgate as the hospital's archive reaches it, with the archive's own certificate."""
        ae_title = f"{hospital_id.upper()}_PACS"
        pair = self.app.certificates.client(ae_title)
        material = TlsMaterial(pair.certificate_pem, pair.key_pem, b"".join(self.app.certificates.trust_roots()))
        return RemoteAe(*self.tls, called_ae_title="READGATE", calling_ae_title=ae_title, tls=client_context(material))

    def send(self, datasets: Sequence[Dataset], hospital_id: str = "h1") -> None:
        """Every instance was acknowledged."""
        statuses = store_all(list(datasets), self.remote(hospital_id))
        assert not any(statuses), [f"{status:04X}" for status in statuses]

    def send_with_order(self, person: Person, datasets: Sequence[Dataset], hospital_id: str = "h1") -> None:
        """The order came over MLLP, then every instance over DICOM; each was acknowledged."""
        order = make_order(person, datasets, hospital_id=hospital_id)
        sample = SampleStudy("study", hospital_id, person, datasets, order, Expectation.WORKLIST)
        send_sample(self.app, sample, dicom=self.tls, orders=self.server.orders[0].address)

    def claim(self, procedure_step_uid: str, principal_id: str = "r1") -> DemoReader:
        """The reader, logged in by HTTP, holds the step."""
        assert self.server.http_address is not None
        reader = DemoReader(self.logins[principal_id], self.server.http_address)
        reader.log_in()
        reader.page("/worklist")
        assert reader.post_form(f"/worklist/{procedure_step_uid}/claim", {}) == 303
        return reader

    def sign(self, reader: DemoReader, procedure_step_uid: str, principal_id: str = "r1") -> None:
        """A final report of the step is written and signed."""
        reader.page(f"/read/{procedure_step_uid}")
        sections = {"technique": "", "comparison": "", "findings": "No bleeding.", "impression": "Normal."}
        critical = {"is_critical": False, "statement": "", "communicated_to": "", "communicated_at": ""}
        reader.post_json(f"/read/{procedure_step_uid}/draft", {"version": 0, "kind": "FINAL", "sections": sections, "critical": critical})
        # What is signed is named by the form's own hidden fields: the draft, the images, the order that were shown.
        preview = reader.page(f"/read/{procedure_step_uid}/sign")
        fields = dict(re.findall(r'type="hidden" name="([a-z_]+)" value="([^"]*)"', preview))
        passphrase = self.logins[principal_id].passphrase
        assert reader.post_form(f"/read/{procedure_step_uid}/sign", {**fields, "passphrase": passphrase}) == 303

    def received_study(self, session: Session, original_uid: str, hospital_id: str = "h1") -> ReceivedStudy | None:
        lookup = study_lookup(self.app.keys, hospital_id, original_uid)
        return session.exec(select(ReceivedStudy).where(ReceivedStudy.study_lookup == lookup)).first()

    def routed(self, original_uid: str, hospital_id: str = "h1", *, seconds: float = _PROCESSED_SECONDS) -> tuple[Study, ProcedureStep]:
        """The study and its workitem, once it is on the worklist; fails if it is held instead."""

        def find() -> tuple[Study, ProcedureStep] | None:
            with self.app.database.reading() as session:
                row = self.received_study(session, original_uid, hospital_id)
                assert row is None or row.state != ReceivedState.QUARANTINED, self._held(session, row)
                if row is None or row.state != ReceivedState.AVAILABLE:
                    return None
                study = require_study(session, row.study_instance_uid or "")
                step = session.exec(select(ProcedureStep).where(ProcedureStep.study_pk == study.study_pk)).first()
                return None if step is None else (study, step)

        return eventually(find, seconds, "the study did not reach the worklist")

    def held(self, original_uid: str, hospital_id: str = "h1", *, seconds: float = _PROCESSED_SECONDS) -> QuarantineItem:
        """The quarantine item of the study, once it is held; fails if the study went through."""

        def find() -> QuarantineItem | None:
            with self.app.database.reading() as session:
                row = self.received_study(session, original_uid, hospital_id)
                assert row is None or row.state != ReceivedState.AVAILABLE, "the study went through"
                return self._held(session, row) if row is not None and row.state == ReceivedState.QUARANTINED else None

        return eventually(find, seconds, "the study was not held")

    def _held(self, session: Session, row: ReceivedStudy) -> QuarantineItem | None:
        return session.exec(select(QuarantineItem).where(QuarantineItem.received_study_pk == row.received_study_pk)).first()


def eventually(find: Callable[[], T | None], seconds: float, otherwise: str, *, pause: Callable[[], object] = lambda: time.sleep(0.1)) -> T:
    """What `find` returns as soon as it is not None; asks again and again, for so long at most, with a `pause` in between."""
    deadline = time.monotonic() + seconds
    while (found := find()) is None:
        assert time.monotonic() < deadline, otherwise
        pause()
    return found


@contextmanager
def running_site(folder: Path, *, quiet_seconds: float = 1.0, host: str = "127.0.0.1") -> Iterator[RunningSite]:
    """A site in the empty `folder`, stopped at the end."""
    settings = Settings.model_validate(
        {
            "dicom": {"host": host, "plaintext_port": 0, "tls_port": 0, "free_bytes_floor": 1, "drain_seconds": 2.0},
            "http": {"port": 0},
            "law": {"demo_confirmations": True},
            "orders": [{"port": 0, "hospital_id": "h1"}],
            "jobs": {"poll_seconds": 0.2},
        }
    )
    app = open_application(folder, settings=settings)
    app.certificates.enrol_authority("Readgate test authority")
    app.certificates.enrol_server(["localhost"], ["127.0.0.1"])
    received = folder / "received"
    hospitals = {name: DemoHospital(name, received / name) for name in ("h1", "h2")}
    server = Server(app)
    try:
        for hospital in hospitals.values():
            hospital.start()
        ports = HospitalPorts(
            {name: hospital.dicom_port for name, hospital in hospitals.items()},
            {name: hospital.mllp_port for name, hospital in hospitals.items()},
        )
        logins = {login.principal_id: login for login in populate(app, ports, quiet_seconds=quiet_seconds)}
        # The viewer is a package of its own; a checkout that built it has it here.
        with patch.dict(os.environ, {"READGATE_VIEWER_DIR": str(VIEWER)} if (VIEWER / "index.html").is_file() else {}):
            server.start()
        yield RunningSite(app, server, logins, received)
    finally:
        server.stop()
        app.close()
        for hospital in hospitals.values():
            hospital.stop()
