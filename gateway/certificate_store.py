"""Certificates of one deployment as files: its authority, its own TLS certificate, its senders' and each hospital's seal.

In production the hospital brings its own certificates and the authority's key stays elsewhere: the files have the same names.
"""

from __future__ import annotations

import os
from pathlib import Path

from crypto.certificates import KeyAndCertificate, create_ca, issue_client, issue_document_signer, issue_server
from crypto.errors import BadInput


class CertificateStore:
    """`authority`, `server`, `client-<name>`, `seal-<hospital>`: each a .pem and, 0600, a .key."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def authority(self) -> KeyAndCertificate:
        """Raises: BadInput."""
        return self._require("authority")

    def server(self) -> KeyAndCertificate:
        """Raises: BadInput."""
        return self._require("server")

    def document_signer(self, hospital_id: str) -> KeyAndCertificate:
        """Raises: BadInput."""
        return self._require(f"seal-{hospital_id}")

    def client(self, name: str) -> KeyAndCertificate:
        """Raises: BadInput."""
        return self._require(f"client-{name}")

    def trust_roots(self) -> list[bytes]:
        """The authorities senders and seals are checked against: every `authority*.pem`."""
        return [path.read_bytes() for path in sorted(self.root.glob("authority*.pem"))]

    def enrol_authority(self, common_name: str) -> KeyAndCertificate:
        return self._find("authority") or self._keep("authority", create_ca(common_name))

    def enrol_server(self, dns: list[str], ips: list[str]) -> KeyAndCertificate:
        return self._find("server") or self._keep("server", issue_server(self.authority(), dns, ips))

    def enrol_client(self, name: str) -> KeyAndCertificate:
        return self._find(f"client-{name}") or self._keep(f"client-{name}", issue_client(self.authority(), name))

    def enrol_document_signer(self, hospital_id: str, organisation: str) -> KeyAndCertificate:
        return self._find(f"seal-{hospital_id}") or self._keep(f"seal-{hospital_id}", issue_document_signer(self.authority(), organisation))

    def path(self, name: str, suffix: str) -> Path:
        return self.root / f"{name}{suffix}"

    def _find(self, name: str) -> KeyAndCertificate | None:
        key, certificate = self.path(name, ".key"), self.path(name, ".pem")
        if not (key.exists() and certificate.exists()):
            return None
        return KeyAndCertificate(key_pem=key.read_bytes(), certificate_pem=certificate.read_bytes())

    def _require(self, name: str) -> KeyAndCertificate:
        found = self._find(name)
        if found is None:
            raise BadInput(
                f"no certificate {name} in {self.root}; enrol it first (readgate site add, or put {name}.pem and {name}.key there)"
            )
        return found

    def _keep(self, name: str, pair: KeyAndCertificate) -> KeyAndCertificate:
        # The key first: a certificate without its key would count as enrolled and not work.
        for suffix, content in ((".key", pair.key_pem), (".pem", pair.certificate_pem)):
            temporary = self.path(name, suffix + ".new")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path(name, suffix))
        return pair
