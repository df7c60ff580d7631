"""A reader who works through HTTP alone, as a browser does. `readgate demo --once` plays this part."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from crypto.errors import NotAllowed, TemporarilyUnable
from crypto.passwords import totp_now
from gateway.demo_site import DemoLogin

_CSRF = re.compile(r'name="csrf-token" content="([^"]+)"')
_BOUNDARY = re.compile(r"boundary=([^;]+)")
_TIMEOUT_SECONDS = 60.0
_LOGIN_ATTEMPTS = 3


class DemoReader:
    """One reader's browser session against a Readgate on loopback."""

    def __init__(self, login: DemoLogin, address: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self._login, self._address, self._tls = login, address, tls
        self._cookies: dict[str, str] = {}
        self._csrf = ""

    def log_in(self) -> None:
        """Raises: NotAllowed."""
        for attempt in range(_LOGIN_ATTEMPTS):
            form = {
                "user_name": self._login.principal_id,
                "password": self._login.password,
                "declared_country": self._login.country,
                "code": totp_now(self._login.totp_secret, datetime.now(UTC)),
                "next": "",
            }
            status, _headers, _body = self._send(
                "POST", "/login", urlencode(form).encode(), {"Content-Type": "application/x-www-form-urlencoded"}
            )
            if status == 303:
                return
            if attempt + 1 < _LOGIN_ATTEMPTS:
                # A code works once: who logged in a moment ago waits for the next one.
                time.sleep(31 - time.time() % 30)
        raise NotAllowed("LOGIN_REFUSED", f"the demonstration's reader {self._login.principal_id} could not log in")

    def page(self, path: str) -> str:
        """The HTML of a page, whose CSRF token is used from now on."""
        status, _headers, body = self._send("GET", path, None, {"Accept": "text/html"})
        if status != 200:
            raise TemporarilyUnable(f"GET {path} answered {status}")
        text = body.decode()
        found = _CSRF.search(text)
        if found is not None:
            self._csrf = found.group(1)
        return text

    def get_json(self, path: str) -> Any:
        status, _headers, body = self._send("GET", path, None, {"Accept": "application/dicom+json, application/json"})
        if status != 200:
            raise TemporarilyUnable(f"GET {path} answered {status}")
        return json.loads(body)

    def get_part(self, path: str) -> bytes:
        """The one part of a multipart/related answer."""
        status, headers, body = self._send(
            "GET", path, None, {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}
        )
        boundary = _BOUNDARY.search(headers.get("content-type", ""))
        if status != 200 or boundary is None:
            raise TemporarilyUnable(f"GET {path} answered {status}")
        part = body.split(b"--" + boundary.group(1).strip('"').encode())[1]
        return part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")

    def post_form(self, path: str, fields: Mapping[str, str]) -> int:
        form = urlencode({**fields, "csrf_token": self._csrf}).encode()
        status, _headers, _body = self._send(
            "POST", path, form, {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
        )
        return status

    def post_json(self, path: str, body: Any) -> Any:
        """Raises: NotAllowed with the refusal's reason code."""
        headers = {"Content-Type": "application/json", "X-CSRF-Token": self._csrf, "Accept": "application/json"}
        status, _headers, answer = self._send("POST", path, json.dumps(body).encode(), headers)
        document = json.loads(answer)
        if status != 200:
            raise NotAllowed(str(document.get("reason_code", status)), f"POST {path} answered {status}")
        return document

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        connection = (
            http.client.HTTPConnection(*self._address, timeout=_TIMEOUT_SECONDS)
            if self._tls is None
            else http.client.HTTPSConnection(*self._address, timeout=_TIMEOUT_SECONDS, context=self._tls)
        )
        try:
            sent = dict(headers)
            if self._cookies:
                sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            for name, value in answer.getheaders():
                if name.lower() == "set-cookie":
                    key, _, rest = value.partition("=")
                    self._cookies[key] = rest.partition(";")[0]
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        except OSError:
            raise TemporarilyUnable("the web server does not answer") from None
        finally:
            connection.close()
