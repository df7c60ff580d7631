"""A deployment of the demonstration for tests: its people, a clock that the test moves, and studies made by the pipeline's own functions.

The people are registered once per test process (key derivation takes its time); each site works on its own copy of that data folder.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pydicom
import pyotp
from argon2 import PasswordHasher
from pydicom.dataset import Dataset
from sqlmodel import col, select
from starlette.testclient import TestClient

from compliance.burned_in import PixelScreening, screen_pixels
from compliance.crosswalk import study_lookup
from compliance.device_masks import Box, DeviceMask
from compliance.order import file_order
from compliance.study import Study, require_study
from crypto import passwords
from crypto.errors import ReadgateError
from gateway.application import Application, open_application
from gateway.config import Settings
from gateway.demo_site import DemoLogin, HospitalPorts, populate
from gateway.http_app import make_http_app
from gateway.intake import GatewayIntake, receive_instance
from gateway.intake_port import InstanceHead
from gateway.processing import archive_originals, deidentify_study, route_study
from gateway.received import ReceivedState, ReceivedStudy
from gateway.spool_index import SpoolIndex
from reporting.content import ReportKind
from reporting.delivery import deliver
from reporting.delivery_queue import Delivery, due_deliveries
from tests.builders import make_ct_study, payload_of
from worklist.workitem import ProcedureStep

EXPLICIT = "1.2.840.10008.1.2.1"
ADDRESS = "127.0.0.1"


class Clock:
    """The application's time; starts now and stands still unless moved."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **by: float) -> datetime:
        self.at += timedelta(**by)
        return self.at


class PlainScreener:
    """The pixel step in this process, without a text detector: the studies made here hold no text."""

    def screen(
        self,
        dataset: pydicom.Dataset,
        identity: Sequence[str],
        *,
        masks: Iterable[DeviceMask] | None = None,
        reviewed: Sequence[Box] | None = None,
    ) -> PixelScreening:
        return screen_pixels(dataset, list(identity), None, masks=masks, reviewed=reviewed)


@dataclass
class Outbox:
    """Takes what is delivered, or raises `refusal` instead."""

    documents: list[bytes] = field(default_factory=list)
    refusal: ReadgateError | None = None

    def store(self, target: object, part10: bytes) -> dict[str, Any]:
        return self._take(part10, {"status": "0000H"})

    def send_message(self, target: object, message: bytes) -> dict[str, Any]:
        return self._take(message, {"code": "AA"})

    def _take(self, document: bytes, receipt: dict[str, Any]) -> dict[str, Any]:
        if self.refusal is not None:
            raise self.refusal
        self.documents.append(document)
        return receipt


@dataclass
class GatewaySite:
    """One deployment; `clients` are logged in at their first use and stay so."""

    app: Application
    clock: Clock
    logins: dict[str, DemoLogin]
    outbox: Outbox = field(default_factory=Outbox)
    _clients: dict[str, TestClient] = field(default_factory=dict)

    @functools.cached_property
    def http(self) -> Any:
        return make_http_app(self.app)

    def anonymous(self) -> TestClient:
        return TestClient(self.http, client=(ADDRESS, 50000), follow_redirects=False)

    def client(self, principal_id: str) -> TestClient:
        """A browser of this person, logged in."""
        if principal_id not in self._clients:
            self._clients[principal_id] = self.log_in(principal_id)
        return self._clients[principal_id]

    def log_in(self, principal_id: str) -> TestClient:
        login, client = self.logins[principal_id], self.anonymous()
        code = pyotp.TOTP(login.totp_secret).at(self.clock.at)
        form = {"user_name": principal_id, "password": login.password, "code": code, "declared_country": login.country}
        answer = client.post("/login", data=form, headers=PAGE)
        assert answer.status_code == 303, answer.text
        return client

    def csrf(self, principal_id: str) -> str:
        found = re.search(r'name="csrf-token" content="([^"]+)"', self.client(principal_id).get("/", headers=PAGE).text)
        assert found is not None
        return found[1]

    def post(self, principal_id: str, path: str, **form: str) -> Any:
        """The form as the person's browser posts it."""
        return self.client(principal_id).post(path, data={"csrf_token": self.csrf(principal_id), **form}, headers=PAGE)

    def post_json(self, principal_id: str, path: str, body: Any) -> Any:
        headers = {"Accept": "application/json", "X-CSRF-Token": self.csrf(principal_id)}
        return self.client(principal_id).post(path, json=body, headers=headers)

    # -- studies

    def receive(
        self, datasets: Sequence[Dataset], hospital_id: str = "h1", order: dict[str, Any] | None = None, *, complete: bool = True
    ) -> int:
        """The instances are in the spool with their rows, and their study is COMPLETE (or as it arrives); its key."""
        app = self.app
        first = datasets[0]
        if order is not None:
            with app.database.transaction() as session:
                file_order(
                    session, app.keys, hospital_id, first.AccessionNumber, order, priority="MEDIUM", expected_instances=None, now=app.now()
                )
        index = SpoolIndex(app.database, app.spool)
        index.start()
        intake = GatewayIntake(
            app.database,
            app.keys,
            app.spool,
            index,
            spool_path=app.data / "spool",
            ae_title="READGATE",
            free_bytes_floor=0,
            now=app.now,
        )
        session_ = intake.session(hospital_id, f"{hospital_id.upper()}_PACS", {})
        for number, dataset in enumerate(datasets):
            head = InstanceHead(dataset.SOPClassUID, dataset.SOPInstanceUID, EXPLICIT, number + 1)
            assert receive_instance(intake, session_, head, [memoryview(payload_of(dataset))]) == 0
        intake.close(session_)
        index.stop()
        lookup = study_lookup(app.keys, hospital_id, first.StudyInstanceUID)
        with app.database.transaction() as session:
            row = session.exec(select(ReceivedStudy).where(ReceivedStudy.study_lookup == lookup)).one()
            if complete:
                row.state, row.complete_at = ReceivedState.COMPLETE, app.now()
            session.add(row)
            assert row.received_study_pk is not None
            return row.received_study_pk

    def process(self, received_study_pk: int) -> str:
        """The study's pseudonymous UID once it is routed, "" when it was held."""
        archive_originals(self.app, received_study_pk)
        study_instance_uid = deidentify_study(self.app, received_study_pk, PlainScreener())
        if study_instance_uid:
            route_study(self.app, study_instance_uid)
        return study_instance_uid

    @functools.cached_property
    def study_instance_uid(self) -> str:
        """A small CT study of h1 with its order, processed and routed at its first use."""
        with self.app.database.reading() as session:
            standing = session.exec(select(Study.study_instance_uid).order_by(col(Study.study_pk))).first()
        if standing is not None:
            return standing
        order = {"indication": "Headache for three days.", "question": "Bleeding?", "procedure": "CT head"}
        return self.process(self.receive(make_ct_study(instances=2), order=order))

    @property
    def study(self) -> Study:
        with self.app.database.reading() as session:
            return require_study(session, self.study_instance_uid)

    @property
    def step_uid(self) -> str:
        """The newest procedure step of that study."""
        with self.app.database.reading() as session:
            study = require_study(session, self.study_instance_uid)
            steps = session.exec(select(ProcedureStep).where(ProcedureStep.study_pk == study.study_pk)).all()
            return next(step.procedure_step_uid for step in steps if step.procedure_step_uid not in {one.predecessor_uid for one in steps})

    def claim(self, principal_id: str = "r1") -> str:
        """The step of that study, held by the reader."""
        step_uid = self.step_uid
        answer = self.post(principal_id, f"/worklist/{step_uid}/claim")
        assert answer.headers.get("location") == f"/read/{step_uid}", (answer.status_code, answer.headers)
        return step_uid

    def write(self, step_uid: str, principal_id: str = "r1", *, kind: str = ReportKind.FINAL, version: int = 0, **sections: str) -> Any:
        body = {
            "version": version,
            "kind": kind,
            "sections": {"technique": "", "comparison": "", "findings": "No bleeding.", "impression": "Normal.", **sections},
            "critical": {"is_critical": False, "statement": "", "communicated_to": "", "communicated_at": ""},
        }
        return self.post_json(principal_id, f"/read/{step_uid}/draft", body)

    def sign(self, step_uid: str, principal_id: str = "r1") -> Any:
        preview = self.client(principal_id).get(f"/read/{step_uid}/sign", headers=PAGE).text
        fields = dict(re.findall(r'name="(draft_version|report_digest|manifest_digest|order_digest)" value="([^"]*)"', preview))
        return self.post(principal_id, f"/read/{step_uid}/sign", passphrase=self.logins[principal_id].passphrase, **fields)

    def deliver(self) -> list[str]:
        """One attempt for every delivery that is due; the states."""
        app = self.app
        with app.database.reading() as session:
            due = [row.delivery_pk for pk in due_deliveries(session, now=app.now()) if (row := session.get(Delivery, pk)) is not None]
        return [
            deliver(
                app.database,
                app.keys,
                app.law,
                delivery_pk=pk,
                senders=self.outbox,
                signer_of=app.document_signer,
                trust_roots=app.certificates.trust_roots(),
                now=app.now(),
            )
            for pk in due
            if pk is not None
        ]


PAGE = {"Accept": "text/html"}


@contextmanager
def gateway_site(folder: Path, *, has_study: bool = True) -> Iterator[GatewaySite]:
    """A site in `folder` (empty or missing), closed at the end. Its study is there already unless `has_study` is False."""
    shutil.copytree(_template(has_study), folder, dirs_exist_ok=True)
    with _opened(folder) as site:
        yield site


@contextmanager
def _opened(folder: Path) -> Iterator[GatewaySite]:
    app = open_application(folder, settings=_settings())
    clock = Clock()
    app.now = clock
    # UIDs that sort as they were made, so that a failure reads the same in every run.
    app.new_uid = lambda: f"2.25.{10**30 + next(_NUMBERS)}"
    logins = {login.principal_id: login for login in populate(app, _PORTS)}
    try:
        yield GatewaySite(app, clock, logins)
    finally:
        app.close()


_PORTS = HospitalPorts({"h1": 104, "h2": 104}, {"h1": 2575, "h2": 2575})
_NUMBERS = itertools.count(1)
_LOCK = threading.RLock()
#: The parameters stand in each hash, so that logins are cheap too; what they protect here is nothing.
_CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


def _settings() -> Settings:
    return Settings.model_validate(
        {"law": {"demo_confirmations": True}, "dicom": {"tls_port": 0, "blank_segments": 0}, "http": {"port": 0}}
    )


def _template(has_study: bool) -> Path:
    with _LOCK:
        return _with_study() if has_study else _populated()


@functools.cache
def _populated() -> Path:
    folder = _folder()
    app = open_application(folder, settings=_settings())
    app.certificates.enrol_authority("Readgate test authority")
    with patch.object(passwords, "_HASHER", _CHEAP):
        populate(app, _PORTS, quiet_seconds=0.5)
    app.close()
    return folder


@functools.cache
def _with_study() -> Path:
    folder = _folder()
    shutil.copytree(_populated(), folder, dirs_exist_ok=True)
    with _opened(folder) as site:
        assert site.study_instance_uid
    return folder


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="readgate-site-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def received(site: GatewaySite, hospital_id: str = "h1", **order: str) -> str:
    """A study of one slice with an order, processed: its UID, or nothing where it is held."""
    return site.process(site.receive(make_ct_study(instances=1), hospital_id, order={"indication": "Cough.", **order}))
