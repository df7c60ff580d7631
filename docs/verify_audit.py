#!/usr/bin/env python3
"""Checks an exported Readgate audit bundle offline. Python's standard library only; nothing of Readgate is imported or trusted.

    python3 verify_audit.py BUNDLE [--key VERIFIER_KEY] [--checkpoint NOTE]...

0. The bundle is JSON Lines in canonical form (RFC 8785): a header, entries, checkpoints, an end. Anything else is a finding.
1. The log's key is the one you were given (--key), not merely the one the bundle names.
2. Every entry gives its leaf: SHA-256(0x00 || canonical JSON of number, time, event and the salted digest of the whole body), RFC 6962.
3. A whole bundle: entries run from 0 without a gap, and the root over them is that of the end and of every checkpoint on the way.
   A part: every entry is proved to be in the tree of the newest checkpoint (RFC 9162 2.1.3.2), not that no other exists.
4. Every checkpoint is signed by the log's key (C2SP signed note, Ed25519 by RFC 8032). The newest one covers the end.
5. Every checkpoint that you kept yourself (--checkpoint) is signed, lies within the bundle, and has the root that the bundle gives: this
   alone tells a log that was rewritten and signed anew.

Exit 0: everything holds. 1: findings, one per line. 2: the files cannot be read.
Without --key and --checkpoint the answer is only that the bundle agrees with itself.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

FORMAT = "readgate-audit-bundle/1"
BODY = (
    "action", "outcome", "actor", "hospital_id", "study_instance_uid", "object_id", "decision_digest", "network_address", "detail",
    "sealed_body",
)  # fmt: skip
ENTRY = {"index", "at", "event_id", "event_type", "salt", *BODY}


quoted = json.JSONEncoder(ensure_ascii=False).encode


class Finding(Exception):
    """One thing that does not hold."""


def canonical(value: Any) -> str:
    """The one spelling of a JSON value (RFC 8785)."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        value.encode()  # a lone surrogate is a ValueError, which every caller takes for a finding
        return quoted(value)
    if isinstance(value, int):
        if abs(value) > 2**53 - 1:
            raise Finding("a number is beyond what JSON holds exactly")
        return str(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    if isinstance(value, dict):
        names = sorted(value) if "".join(value).isascii() else sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(canonical(name) + ":" + canonical(value[name]) for name in names) + "}"
    raise Finding("a value has no JSON form")


def number(value: float) -> str:
    """ECMAScript's Number::toString, which RFC 8785 prescribes."""
    if value != value or value in (float("inf"), float("-inf")):
        raise Finding("a number has no JSON form")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        text = digits.ljust(point, "0") if len(digits) <= point else digits[:point] + "." + digits[point:]
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = digits[0] + ("." + digits[1:] if len(digits) > 1 else "") + f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return sign + text


def parse(line: bytes) -> dict[str, Any]:
    """One line of the bundle; another spelling of the same value, a repeated name included, is a finding."""
    try:
        value: dict[str, Any] = json.loads(line)
        is_exact = isinstance(value, dict) and canonical(value).encode() == line
    except (ValueError, RecursionError):
        raise Finding("is not JSON") from None
    if not is_exact:
        raise Finding("is not in canonical form")
    return value


def leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """The roots of the complete subtrees of the leaves so far, largest first."""

    def __init__(self) -> None:
        self.size, self.hashes = 0, list[bytes]()

    def append(self, leaf: bytes) -> None:
        size, current = self.size, leaf
        while size & 1:
            current = node_hash(self.hashes.pop(), current)
            size >>= 1
        self.hashes.append(current)
        self.size += 1

    def root(self) -> bytes:
        if not self.hashes:
            return hashlib.sha256(b"").digest()
        current = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            current = node_hash(left, current)
        return current


def is_included(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> bool:
    if not 0 <= index < size:
        return False
    first, last, current = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if first & 1 or first == last:
            current = node_hash(sibling, current)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        first, last = first >> 1, last >> 1
    return last == 0 and current == root


# -- Ed25519 (RFC 8032 5.1): verification only, so nothing here has to run in constant time

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]


def _add(a: Point, b: Point) -> Point:
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g = 2 * a[3] * b[3] * D % P
    h = 2 * a[2] * b[2] % P
    return (f - e) * (h - g) % P, (h + g) * (f + e) % P, (h - g) * (h + g) % P, (f - e) * (f + e) % P


def _times(scalar: int, point: Point) -> Point:
    total: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point = _add(point, point)
        scalar >>= 1
    return total


def _point(encoded: bytes) -> Point | None:
    y = int.from_bytes(encoded, "little")
    is_odd, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (x * x - square) % P or (x == 0 and is_odd):
        return None
    if x & 1 != is_odd:
        x = P - x
    return x, y, 1, x * y % P


_BASE = _point(bytes.fromhex("58" + "66" * 31))


def is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    if len(public_key) != 32 or len(signature) != 64 or _BASE is None:
        return False
    key, commitment = _point(public_key), _point(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if key is None or commitment is None or scalar >= L:
        return False
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % L
    left, right = _times(scalar, _BASE), _add(commitment, _times(challenge, key))
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0


# -- checkpoints (C2SP tlog-checkpoint in a signed note)


class LogKey:
    """'<name>+<key id, hex>+<base64 of 0x01 and the 32 bytes of the public key>'."""

    def __init__(self, text: str) -> None:
        name, _, rest = text.strip().partition("+")
        identifier, _, encoded = rest.partition("+")
        decoded = exact_base64(encoded)
        if len(decoded) != 33 or decoded[0] != 1 or not name:
            raise Finding("the verifier key is not a log's Ed25519 key")
        self.text, self.name, self.public_key = text.strip(), name, decoded[1:]
        self.identifier = hashlib.sha256(name.encode() + b"\n" + decoded).digest()[:4]
        if identifier != self.identifier.hex():
            raise Finding("the verifier key contradicts its id")


def exact_base64(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        raise Finding("is not base64") from None
    if base64.b64encode(decoded).decode() != text:
        raise Finding("is not base64 in its one spelling")
    return decoded


def checkpoint(note: str, key: LogKey) -> tuple[int, bytes]:
    """Size and root that the log's key signed."""
    cut = note.rfind("\n\n")
    lines = note[: cut + 1].split("\n")[:-1]
    if cut < 0 or not note.endswith("\n") or len(lines) < 3 or "" in lines or lines[0] != key.name:
        raise Finding("is no checkpoint of this log")
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1], re.ASCII):
        raise Finding("has no size")
    root = exact_base64(lines[2])
    for line in note[cut + 2 :].split("\n")[:-1]:
        prefix, _, encoded = line.rpartition(" ")
        signed = exact_base64(encoded)
        # Lines of other keys are witnesses' cosignatures: they add, and are not needed.
        if prefix == f"\N{EM DASH} {key.name}" and signed[:4] == key.identifier:
            if len(root) == 32 and is_signed(key.public_key, note[: cut + 1].encode(), signed[4:]):
                return int(lines[1]), root
            raise Finding("has a signature that does not verify")
    raise Finding("is not signed by the log's key")


def exact_hash(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-f]{64}", text, re.ASCII):
        raise Finding("holds no hash")
    return bytes.fromhex(text)


def leaf_of(entry: dict[str, Any]) -> bytes:
    """The leaf that the log must hold for `entry`."""
    if entry.keys() != ENTRY:
        raise Finding("has other fields than an entry has")
    body = {name: entry[name] for name in BODY}
    commitment = hashlib.sha256(str(entry["salt"]).encode() + canonical(body).encode()).hexdigest()
    event = f"{entry['event_id']}/{entry['event_type']}"
    return canonical({"v": 1, "index": entry["index"], "at": entry["at"], "event": event, "body": commitment}).encode()


class Bundle:
    """One pass over a bundle; what does not hold is in `findings`."""

    def __init__(self, data: bytes, given_key: str | None, witnessed: list[str]) -> None:
        self.findings: list[str] = []
        self.tree, self.entries, self.checkpoints, self.covered = Tree(), 0, 0, -1
        self.covered_root = b""
        #: of a part: index -> (leaf hash, proof)
        self.proofs: dict[int, tuple[bytes, list[bytes]]] = {}
        #: size -> roots of the checkpoints that you kept
        self.kept: dict[int, list[bytes]] = {}
        self.end: dict[str, Any] | None = None
        lines = data.split(b"\n")
        if lines.pop() != b"":
            self.findings.append("the bundle does not end with a whole line")
        try:
            self.header = parse(lines[0]) if lines else {}
            if self.header.keys() != {"format", "key", "kind"} or self.header["format"] != FORMAT:
                raise Finding(f"is no header of {FORMAT}")
            if self.header["kind"] not in ("WHOLE", "PART"):
                raise Finding("says neither WHOLE nor PART")
            self.key = LogKey(str(self.header["key"]))
            if given_key is not None and LogKey(given_key).text != self.key.text:
                raise Finding("names another key than the one you were given")
        except Finding as finding:
            self.findings.append(f"line 1 {finding}")
            return
        self.is_whole = self.header["kind"] == "WHOLE"
        for where, note in enumerate(witnessed, start=1):
            self._guard(f"the checkpoint you kept ({where})", lambda note=note: self._keep(note))
        for number, line in enumerate(lines[1:], start=2):
            self._guard(f"line {number}", lambda line=line: self._line(line))
        self._finish()

    def _guard(self, where: str, act: Any) -> None:
        try:
            act()
        except Finding as finding:
            self.findings.append(f"{where} {finding}")
        except (KeyError, TypeError, ValueError, AttributeError):
            self.findings.append(f"{where} is not as a bundle has it")

    def _line(self, line: bytes) -> None:
        if self.end is not None:
            raise Finding("stands behind the end")
        record = parse(line)
        if record.keys() == {"checkpoint"}:
            self._checkpoint(record["checkpoint"])
        elif record.keys() == {"end"}:
            self.end = record["end"]
        elif record.keys() == ({"entry"} if self.is_whole else {"entry", "proof"}):
            self._entry(record)
        else:
            raise Finding("is nothing that a bundle holds")

    def _keep(self, note: str) -> None:
        size, root = checkpoint(note, self.key)
        self.kept.setdefault(size, []).append(root)

    def _checkpoint(self, note: str) -> None:
        self.checkpoints += 1
        size, root = checkpoint(note, self.key)
        if self.is_whole and (size, root) != (self.tree.size, self.tree.root()):
            raise Finding(f"is a checkpoint of size {size} that the entries before it contradict")
        self.covered, self.covered_root = size, root

    def _entry(self, record: dict[str, Any]) -> None:
        entry = record["entry"]
        leaf, index = leaf_hash(leaf_of(entry)), entry["index"]
        self.entries += 1
        if not self.is_whole:
            if self.proofs and index <= max(self.proofs):
                raise Finding("is out of order")
            self.proofs[index] = leaf, [exact_hash(node) for node in record["proof"]]
            return
        self.tree.append(leaf)
        if any(root != self.tree.root() for root in self.kept.pop(self.tree.size, [])):
            self.findings.append(f"the entries contradict a checkpoint you kept, of size {self.tree.size}: the log was rewritten")
        if index != self.tree.size - 1:
            raise Finding(f"is entry {index} where {self.tree.size - 1} belongs")

    def _finish(self) -> None:
        end = self.end
        if end is None or end.keys() != {"size", "root", "entries", "checkpoints"}:
            self.findings.append("the bundle has no end: something was cut off")
            return
        size, root = end["size"], end["root"]
        if (end["entries"], end["checkpoints"]) != (self.entries, self.checkpoints):
            self.findings.append("the end counts other entries or checkpoints than there are")
        if self.covered != size or self.covered_root.hex() != root:
            self.findings.append("no checkpoint covers the end")
        if self.is_whole and (size, root) != (self.tree.size, self.tree.root().hex()):
            self.findings.append("the entries do not give the root that the end names")
        for kept, roots in sorted(self.kept.items()):
            if kept > size:
                self.findings.append(f"a checkpoint you kept, of size {kept}, reaches beyond the bundle: entries are missing at its end")
            elif kept == size and any(one.hex() != root for one in roots):
                self.findings.append(f"a checkpoint you kept, of size {kept}, contradicts the end: the log was rewritten")
            elif kept < size:
                self.findings.append(f"a checkpoint you kept, of size {kept}, can only be compared with a whole bundle or one of that size")
        for index, (leaf, proof) in self.proofs.items():
            if not is_included(leaf, index, size, proof, self.covered_root):
                self.findings.append(f"entry {index} is not in the log that was signed")


def main() -> int:
    parser = argparse.ArgumentParser(description="Check an exported Readgate audit bundle offline.")
    parser.add_argument("bundle")
    parser.add_argument("--key", help="the log's verifier key, as you were given it")
    parser.add_argument("--checkpoint", action="append", default=[], help="a checkpoint that you kept (repeatable)")
    options = parser.parse_args()
    try:
        data = Path(options.bundle).read_bytes()
        notes = [Path(name).read_bytes().decode("utf-8") for name in options.checkpoint]
    except (OSError, UnicodeDecodeError) as error:
        print(f"cannot be read: {error}", file=sys.stderr)
        return 2
    bundle = Bundle(data, options.key, notes)
    for finding in bundle.findings:
        print(finding)
    if bundle.findings:
        print(f"NOT SOUND: {len(bundle.findings)} findings")
        return 1
    assert bundle.end is not None
    trust = "against the key you were given" if options.key else "against the bundle's own key: give --key to know whose log it is"
    print(f"SOUND: {bundle.entries} entries of {bundle.end['size']}, {bundle.checkpoints} checkpoints, {len(notes)} kept by you; {trust}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
