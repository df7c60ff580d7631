"""C-STORE load that is never the bottleneck: every PDU is built before the clock starts, one process per association.

TCP_QUICKACK is set before every read, so that a peer that writes its response in two pieces (dcmtk, Orthanc) is not charged 40 ms of
delayed acknowledgement that no real network would show.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

EXPLICIT_LE = "1.2.840.10008.1.2.1"
CALLED_AE_TITLE = "READGATE"
_OUR_PDU_BYTES_MAX = 131072
_UID_DIGITS = 24


@dataclass(frozen=True)
class Work:
    """What is sent: `count` instances of one shape."""

    name: str
    sop_class_uid: str
    count: int
    rows: int
    columns: int
    frames: int = 1

    @property
    def instance_bytes(self) -> int:
        """Pixel bytes of one instance, 16 bits each."""
        return self.rows * self.columns * self.frames * 2


@dataclass(frozen=True)
class Outcome:
    """What one run came to, as its senders saw it."""

    instances: int
    refused: int
    payload_bytes: int
    seconds: float
    response_seconds: tuple[float, ...]

    @property
    def instances_per_second(self) -> float:
        """Over all associations."""
        return self.instances / self.seconds


WORKS = {
    "ct": Work("400 CT 512x512", "1.2.840.10008.5.1.4.1.1.2", 400, 512, 512),
    "mr": Work("1000 MR 256x256", "1.2.840.10008.5.1.4.1.1.4", 1000, 256, 256),
    "mg": Work("8 MG 3328x2560", "1.2.840.10008.5.1.4.1.1.1.2", 8, 3328, 2560),
    "multiframe": Work("1 enhanced MR of 400 MB", "1.2.840.10008.5.1.4.1.1.4.1", 1, 512, 512, 763),
}


def payloads(work: Work) -> list[tuple[str, bytes]]:
    """(SOP Instance UID, encoded data set) of each instance: one header, one noise, and a UID of its own."""
    stem = f"2.25.1{int.from_bytes(os.urandom(8), 'big'):020d}"
    study, template = f"{stem}1", f"{stem}2.{'9' * _UID_DIGITS}"
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID, dataset.SOPInstanceUID = work.sop_class_uid, template
    dataset.StudyDate, dataset.StudyTime, dataset.Modality = "20260314", "101500", "OT"
    dataset.StudyDescription, dataset.SeriesDescription = "Load", "Load"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = "LOAD^TEST", "LOAD-1", "19700101", "O"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{stem}3"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.NumberOfFrames = work.frames
    dataset.Rows, dataset.Columns = work.rows, work.columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.add_new("PixelData", "OW", os.urandom(work.instance_bytes))
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = False, True
    write_dataset(out, dataset)
    encoded = bytes(out.getvalue())
    made = []
    for number in range(work.count):
        uid = template[:-_UID_DIGITS] + str(10 ** (_UID_DIGITS - 1) + number)
        made.append((uid, encoded.replace(template.encode(), uid.encode(), 1)))
    return made


def run_load(address: tuple[str, int], work: Work, instances: Sequence[tuple[str, bytes]], associations: int) -> Outcome:
    """Send the instances, dealt out to so many associations at once."""
    context = multiprocessing.get_context("fork")
    results: SimpleQueue[tuple[int, int, int, list[float]]] = context.SimpleQueue()
    start = context.Barrier(associations + 1)
    senders = [
        context.Process(target=_send, args=(address, f"LOAD{index}", work.sop_class_uid, instances[index::associations], start, results))
        for index in range(associations)
    ]
    for sender in senders:
        sender.start()
    start.wait(120)
    began = time.perf_counter()
    rows = [results.get() for _ in senders]
    seconds = time.perf_counter() - began
    for sender in senders:
        sender.join()
    counts, refused, sizes, times = zip(*rows, strict=True)
    return Outcome(sum(counts), sum(refused), sum(sizes), seconds, tuple(sorted(each for row in times for each in row)))


def _send(
    address: tuple[str, int],
    calling: str,
    sop_class_uid: str,
    instances: Sequence[tuple[str, bytes]],
    start: Barrier,
    results: SimpleQueue[tuple[int, int, int, list[float]]],
) -> None:
    connection = socket.create_connection(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(_associate_request(calling, sop_class_uid))
    kind, body = _read_pdu(connection)
    if kind != 2:
        raise SystemExit(f"the association was refused: PDU type {kind}")
    at = body.index(b"\x51\0\0\4", 68) + 4
    fragment = min(struct.unpack(">I", body[at : at + 4])[0] or _OUR_PDU_BYTES_MAX, _OUR_PDU_BYTES_MAX) - 6
    prepared = [_message(sop_class_uid, uid, payload, number % 65535 + 1, fragment) for number, (uid, payload) in enumerate(instances)]
    times, refused = [], 0
    start.wait(120)
    for message in prepared:
        began = time.perf_counter()
        connection.sendall(message)
        kind, body = _read_pdu(connection)
        times.append(time.perf_counter() - began)
        refused += kind != 4 or _status(body) != 0
    connection.sendall(bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
    _read_pdu(connection)
    results.put((len(prepared), refused, sum(len(payload) for _, payload in instances), times))


def _message(sop_class_uid: str, sop_instance_uid: str, payload: bytes, message_id: int, fragment: int) -> bytes:
    elements = [(0x0002, sop_class_uid.encode()), (0x0100, b"\1\0"), (0x0110, message_id.to_bytes(2, "little")), (0x0700, b"\0\0")]
    elements += [(0x0800, b"\1\0"), (0x1000, sop_instance_uid.encode())]
    body = b"".join(
        struct.pack("<HHI", 0, number, len(value) + len(value) % 2) + value + b"\0" * (len(value) % 2) for number, value in elements
    )
    command = struct.pack("<HHII", 0, 0, 4, len(body)) + body
    pieces: list[bytes | memoryview] = [struct.pack(">BBIIBB", 4, 0, len(command) + 6, len(command) + 2, 1, 3), command]
    view = memoryview(payload)
    for at in range(0, len(view), fragment):
        part = view[at : at + fragment]
        pieces += [struct.pack(">BBIIBB", 4, 0, len(part) + 6, len(part) + 2, 1, 2 if at + fragment >= len(view) else 0), part]
    return b"".join(pieces)


def _associate_request(calling: str, sop_class_uid: str) -> bytes:
    def item(kind: int, body: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(body)) + body

    context = bytes((1, 0, 0, 0)) + item(0x30, sop_class_uid.encode()) + item(0x40, EXPLICIT_LE.encode())
    user = item(0x51, struct.pack(">I", _OUR_PDU_BYTES_MAX)) + item(0x52, b"1.2.3.4.5")
    items = item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    body = struct.pack(">HH", 1, 0) + CALLED_AE_TITLE.encode().ljust(16) + calling.encode().ljust(16) + bytes(32) + items
    return struct.pack(">BBI", 1, 0, len(body)) + body


def _read_pdu(connection: socket.socket) -> tuple[int, bytes]:
    kind, _, length = struct.unpack(">BBI", _read(connection, 6))
    return kind, _read(connection, length)


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        piece = connection.recv(count - len(data))
        if not piece:
            raise SystemExit("the peer closed the connection")
        data += piece
    return data


def _status(body: bytes) -> int:
    position = 6
    while position + 8 <= len(body):
        _, number, length = struct.unpack_from("<HHI", body, position)
        if number == 0x0900:
            return int.from_bytes(body[position + 8 : position + 10], "little")
        position += 8 + length
    return -1
