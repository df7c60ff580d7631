"""The hospital's side of the demonstration: its archive (a C-STORE SCP) and its information system (an MLLP listener).

What arrives is written to DIR/received/<hospital>/, where a person can look at it; nothing of Readgate reads it back.
"""

from __future__ import annotations

import logging
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import EncapsulatedPDFStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from gateway.negotiation import silence_pynetdicom
from reporting.mllp import frame, unframe
from reporting.oru import acknowledgement

_ANSWER_SECONDS = 300.0


class DemoHospital:
    """One hospital's archive and information system on loopback, from `start` to `stop`."""

    def __init__(self, hospital_id: str, folder: Path, *, dicom_port: int = 0, mllp_port: int = 0) -> None:
        self.hospital_id, self._folder = hospital_id, folder
        self._ports = dicom_port, mllp_port
        self._archive: Any = None
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()

    @property
    def dicom_port(self) -> int:
        port: int = self._archive.socket.getsockname()[1]
        return port

    @property
    def mllp_port(self) -> int:
        assert self._listener is not None, "started"
        port: int = self._listener.getsockname()[1]
        return port

    def start(self) -> None:
        silence_pynetdicom()
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        entity = AE(ae_title=f"{self.hospital_id.upper()}_ARCHIVE")
        entity.supported_contexts = []
        entity.add_supported_context(EncapsulatedPDFStorage)
        entity.add_supported_context(Verification)
        self._archive = entity.start_server(("127.0.0.1", self._ports[0]), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        self._listener = socket.create_server(("127.0.0.1", self._ports[1]))
        threading.Thread(target=self._accept, name=f"{self.hospital_id}-his", daemon=True).start()

    def stop(self) -> None:
        if self._archive is not None:
            self._archive.shutdown()
        if self._listener is not None:
            self._listener.close()

    def _store(self, event: Any) -> int:
        dataset: Dataset = event.dataset
        dataset.file_meta = event.file_meta
        name = str(dataset.SOPInstanceUID)
        document = bytes(dataset.EncapsulatedDocument)[: dataset.get("EncapsulatedDocumentLength") or None]
        with self._lock:
            dataset.save_as(self._folder / f"{name}.dcm", enforce_file_format=True)
            (self._folder / f"{name}.pdf").write_bytes(document)
        return 0x0000

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        received = b""
        with connection:
            connection.settimeout(_ANSWER_SECONDS)
            while True:
                message, received = unframe(received)
                if message is None:
                    try:
                        chunk = connection.recv(65536)
                    except OSError:
                        return
                    if not chunk:
                        return
                    received += chunk
                    continue
                control_id = message.split(b"\r", 1)[0].split(b"|")[9].decode("ascii", "replace")
                with self._lock:
                    (self._folder / f"{control_id}.hl7").write_bytes(message)
                connection.sendall(frame(acknowledgement(message, "AA", now=datetime.now(UTC), control_id=control_id[::-1])))
