"""`readgate demo`: a whole deployment on embedded defaults in one folder, with invented people, and sample studies sent over real DICOM.

Stays up until Ctrl-C; a second start on the same folder carries on. With --once it plays a hospital and a reader through all nine steps,
prints each with its evidence, and exits 0 only if everything holds.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from crypto.errors import BadInput
from gateway.application import Application, open_application
from gateway.certificate_store import CertificateStore
from gateway.config import CONFIG_NAME, Settings, load_settings
from gateway.demo_hospital import DemoHospital
from gateway.demo_play import READ_STUDY, Play, Player, wait_until_processed
from gateway.demo_sender import SentStudy, send_sample
from gateway.demo_site import DemoLogin, HospitalPorts, populate
from gateway.logs import configure_logs
from gateway.samples import Expectation, SampleStudy, make_head_ct, make_order, sample_studies
from gateway.samples.people import KAETHE_GRUENWALD
from gateway.server import Server

_STATE_NAME = "demo-state.json"
_SENT_NAME = "sent.json"
HOSPITALS = ("h1", "h2")


def demo_command(data: Path, *, once: bool, as_json: bool, http_port: int, dicom_port: int, dicom_tls_port: int) -> int:
    """The exit code. Raises: BadInput."""
    configure_logs(as_json=False, level=logging.WARNING)
    console = _console(stderr=True)
    demo = Demo(data, http_port=http_port, dicom_port=dicom_port, dicom_tls_port=dicom_tls_port)
    console.print(f"Starting on {data}: SQLite, local vault, file key store, own certificate authority; nothing leaves this machine.")
    demo.start()
    try:
        sent = demo.send_samples(console)
        if once:
            play = demo.play(demo.with_a_study_to_read(sent, console), console)
            _print_play(play, as_json=as_json)
            return 0 if play.holds else 1
        demo.print_addresses(console)
        demo.wait()
        return 0
    finally:
        demo.stop()


class Demo:
    """The demonstration's processes in one: Readgate and the two hospitals' own systems."""

    def __init__(self, data: Path, *, http_port: int, dicom_port: int, dicom_tls_port: int) -> None:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.data = data
        self._state: dict[str, Any] = json.loads((data / _STATE_NAME).read_text()) if (data / _STATE_NAME).exists() else {}
        if not (data / CONFIG_NAME).exists():
            (data / CONFIG_NAME).write_text(
                "# A demonstration: example confirmations by invented people put the shipped law packs in force.\n"
                "[law]\ndemo_confirmations = true\n"
            )
        store = CertificateStore(data / "certificates")
        store.enrol_authority("Readgate demonstration authority")
        store.enrol_server(["localhost"], ["127.0.0.1"])
        settings = self._settings(load_settings(data), http_port, dicom_port, dicom_tls_port)
        self.app: Application = open_application(data, settings=settings)
        self.server = Server(self.app)
        ports = self._state.get("ports", {})
        self.hospitals = {
            name: DemoHospital(
                name, data / "received" / name, dicom_port=ports.get(f"{name}-dicom", 0), mllp_port=ports.get(f"{name}-mllp", 0)
            )
            for name in HOSPITALS
        }
        self.logins: list[DemoLogin] = []

    def start(self) -> None:
        """Raises: BadInput when a port is taken."""
        try:
            for hospital in self.hospitals.values():
                hospital.start()
        except OSError:
            raise BadInput("a port of the demonstration's hospitals is taken; stop the other demonstration or use another --data") from None
        dicom = {name: hospital.dicom_port for name, hospital in self.hospitals.items()}
        mllp = {name: hospital.mllp_port for name, hospital in self.hospitals.items()}
        self._state["ports"] = {
            **{f"{name}-dicom": port for name, port in dicom.items()},
            **{f"{name}-mllp": port for name, port in mllp.items()},
        }
        self._keep_state()
        self.logins = populate(self.app, HospitalPorts(dicom, mllp))
        self.server.start()

    def stop(self) -> None:
        self.server.stop()
        self.app.close()
        for hospital in self.hospitals.values():
            hospital.stop()

    def send_samples(self, console: Console) -> dict[str, SentStudy]:
        """The sample studies of both hospitals are acknowledged; a second start finds them sent and sends nothing. Those of h1, by name."""
        known = self.data / "received" / _SENT_NAME
        if known.exists():
            return {name: SentStudy(**fields) for name, fields in json.loads(known.read_text()).items()}
        sent: dict[str, SentStudy] = {}
        today = self._state.setdefault("today", self.app.now().date().isoformat())
        for number, hospital_id in enumerate(HOSPITALS):
            console.print(f"Making and sending the sample studies of {hospital_id} over DICOM TLS")
            for sample in sample_studies(hospital_id, today=date.fromisoformat(today)):
                done = send_sample(self.app, sample, dicom=self.server.dicom_addresses[-1], orders=self.server.orders[number].address)
                console.print(f"  {sample.name}: {done.instances} instances in {done.seconds:.1f} s")
                if hospital_id == "h1":
                    sent[sample.name] = done
        # The hospital's own knowledge of its patients lies on the hospital's side of the folder.
        _write_private(self.data / "received" / _SENT_NAME, json.dumps({name: asdict(done) for name, done in sent.items()}, indent=1))
        return sent

    def with_a_study_to_read(self, sent: dict[str, SentStudy], console: Console) -> dict[str, SentStudy]:
        """`sent` with a follow-up that nobody has read yet: on a folder whose play was played, the patient comes once more."""
        plays = self._state["plays"] = self._state.get("plays", 0) + 1
        self._keep_state()
        if plays == 1:
            return sent
        console.print("Making and sending one more follow-up of the same patient")
        day = date.fromisoformat(self._state["today"]) + timedelta(days=7 * (plays - 1))
        datasets = make_head_ct(KAETHE_GRUENWALD, seed=11 + plays, study_on=day, number=110 + plays)
        sample = SampleStudy(READ_STUDY, "h1", KAETHE_GRUENWALD, datasets, make_order(KAETHE_GRUENWALD, datasets), Expectation.WORKLIST)
        return {
            **sent,
            READ_STUDY: send_sample(self.app, sample, dicom=self.server.dicom_addresses[-1], orders=self.server.orders[0].address),
        }

    def play(self, sent: dict[str, SentStudy], console: Console) -> Play:
        console.print("Waiting until every sample study is routed or in quarantine")
        wait_until_processed(self.app, sent)
        assert self.server.http_address is not None, "started"
        reader = next(login for login in self.logins if login.principal_id == "r1")
        return Player(self.app, self.server.http_address, reader, sent, self.data / "received" / "h1").run()

    def print_addresses(self, console: Console) -> None:
        assert self.server.http_address is not None, "started"
        http = f"http://{self.server.http_address[0]}:{self.server.http_address[1]}"
        plain, tls = self.server.dicom_addresses
        console.print(f"\n[bold]Pages[/bold]      {http}")
        console.print(
            f"[bold]DICOM[/bold]      {plain[0]}:{plain[1]} plaintext, {tls[0]}:{tls[1]} TLS; called {self.app.settings.dicom.ae_title}, "
            "calling H1_PACS or H2_PACS"
        )
        console.print(f"[bold]Received[/bold]   {self.data / 'received'} is where the hospitals keep the reports they get\n")
        table = Table()
        for heading in ("login", "who", "password", "signing passphrase", "declare"):
            # Folded, never cut: what cannot be read cannot be typed.
            table.add_column(heading, overflow="fold")
        for login in self.logins:
            table.add_row(login.principal_id, login.who, login.password, login.passphrase or "-", login.country)
        console.print(table)
        console.print(
            f"The six-digit code of a login: readgate otp NAME --data {self.data}\nCtrl-C stops everything; the same command carries on."
        )

    def wait(self) -> None:
        """Until SIGINT or SIGTERM."""
        asked = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: asked.set())
        while not asked.wait(0.5):
            pass

    def _settings(self, settings: Settings, http_port: int, dicom_port: int, dicom_tls_port: int) -> Settings:
        ports = self._state.get("order_ports", {})
        return Settings.model_validate(
            {
                **settings.model_dump(),
                "http": {**settings.http.model_dump(), "port": http_port},
                "dicom": {
                    **settings.dicom.model_dump(),
                    "plaintext_port": dicom_port,
                    "tls_port": dicom_tls_port,
                    "free_bytes_floor": 200_000_000,
                    "blank_segments": 0,
                },
                "orders": [{"hospital_id": name, "port": ports.get(name, 0)} for name in HOSPITALS],
            }
        )

    def _keep_state(self) -> None:
        _write_private(self.data / _STATE_NAME, json.dumps(self._state, indent=1))


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.replace(path)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=160)


def _print_play(play: Play, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(play.document(), indent=1, default=str))
        return
    table = Table(title="One study through all nine steps")
    for heading in ("step", "s", "", "evidence"):
        table.add_column(heading, overflow="fold")
    for step in play.steps:
        lines = [
            f"{name}: {json.dumps(value, default=str) if isinstance(value, dict | list) else value}"
            for name, value in step.evidence.items()
        ]
        table.add_row(step.name, f"{step.seconds:.2f}", "holds" if step.holds else "FAILS", "\n".join(lines) or step.problem)
    console = _console(stderr=False)
    console.print(table)
    console.print("Everything holds." if play.holds else f"It does not hold: {play.steps[-1].name}: {play.steps[-1].problem}")
