"""The viewer's own files under /ohif/: OHIF, built by viewer/build.py, from the data package `readgate_viewer` or a folder.

- Only files seen when the application was wired are served: a name is looked up, never joined to a path, so nothing
  outside the folder can be reached however it is spelled.
- The policy below is for these files alone. The decoders need WebAssembly and OHIF's components set inline styles; Readgate's own
  pages allow neither. Nothing may be loaded from or sent to another host, and only our own pages may frame the viewer.
- Names that carry a content hash never change and are kept by the browser for a year; everything else is asked for again.

The files are public software. What they show comes from /dicom-web/, where every call is decided.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from crypto.errors import BadInput, NotFound
from gateway.web.contexts import ErrorPage
from gateway.web.rendering import render

VIEWER_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; "
    "font-src 'self'; connect-src 'self'; worker-src 'self'; frame-src 'self' blob:; object-src 'self' blob:; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'self'"
)

#: Paths that OHIF's own router reads in the browser; each is the same page.
_PAGE_PATH = re.compile(r"^(|viewer(/.*)?|index\.html)$")
_CONTENT_HASH = re.compile(r"(^|\.)[0-9a-f]{16}\.")
_CACHE_FOR_GOOD = "public, max-age=31536000, immutable"
_CACHE_ASK_AGAIN = "no-cache"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
}
_MISSING_TEXT = (
    "The image viewer is not installed here. An operator builds it from the source with: make viewer, or names the folder of a built "
    "viewer in READGATE_VIEWER_DIR. Claims, reports and signatures work without it."
)


@dataclass(frozen=True)
class ViewerFile:
    """One file that may be served; `packed` is its gzip neighbour."""

    path: Path
    packed: Path | None
    media_type: str
    is_immutable: bool


def find_viewer(environ: Mapping[str, str]) -> Path | None:
    """The folder of the built viewer: READGATE_VIEWER_DIR, else the installed package, else None.

    Raises: BadInput when READGATE_VIEWER_DIR names a folder without index.html: what an operator asked for is never silently replaced.
    """
    named = environ.get("READGATE_VIEWER_DIR")
    if named:
        folder = Path(named)
        if not (folder / "index.html").is_file():
            raise BadInput("READGATE_VIEWER_DIR holds no index.html; name the folder that viewer/build.py filled")
        return folder
    if find_spec("readgate_viewer") is None:
        return None
    installed = Path(str(resources.files("readgate_viewer"))) / "dist"
    return installed if (installed / "index.html").is_file() else None


def viewer_href(study_instance_uids: Sequence[str], initial_series_instance_uid: str = "") -> str:
    """The address that opens these studies; without an initial series OHIF shows the first, which for CT is often a localizer."""
    query = {"StudyInstanceUIDs": ",".join(study_instance_uids)}
    if initial_series_instance_uid:
        query["initialSeriesInstanceUID"] = initial_series_instance_uid
    return f"/ohif/viewer?{urlencode(query, safe=',')}"


def list_viewer_files(folder: Path) -> dict[str, ViewerFile]:
    """Every file of the viewer by its name below /ohif/; a link that leaves the folder is left out."""
    root = folder.resolve()
    files: dict[str, ViewerFile] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix in {".gz", ".py"} or not path.is_file() or not path.resolve().is_relative_to(root):
            continue
        packed = path.with_name(path.name + ".gz")
        is_packed = packed.is_file() and packed.resolve().is_relative_to(root)
        media_type = _MEDIA_TYPES.get(path.suffix, "application/octet-stream")
        name = path.relative_to(root).as_posix()
        files[name] = ViewerFile(path, packed if is_packed else None, media_type, _CONTENT_HASH.search(path.name) is not None)
    return files


def viewer_router(folder: Path | None) -> APIRouter:
    """The routes below /ohif/ for the viewer in `folder`; without one, a plain page that says how to get it."""
    router = APIRouter()
    files = list_viewer_files(folder) if folder is not None else {}

    @router.get("/ohif", include_in_schema=False)
    def without_slash() -> Response:
        return RedirectResponse("/ohif/", status_code=308)

    @router.api_route("/ohif/{name:path}", methods=["GET", "HEAD"], include_in_schema=False)
    def viewer_file(name: str, request: Request) -> Response:
        is_page = _PAGE_PATH.match(name) is not None
        if not files and is_page:
            return _viewer_missing()
        found = files.get("index.html" if is_page else name)
        if found is None:
            raise NotFound("the viewer has no such file")
        return _respond(found, request)

    return router


def _respond(found: ViewerFile, request: Request) -> Response:
    headers = {
        "Cache-Control": _CACHE_FOR_GOOD if found.is_immutable else _CACHE_ASK_AGAIN,
        "Content-Security-Policy": VIEWER_CONTENT_SECURITY_POLICY,
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    path = found.path
    if found.packed is not None and _accepts_gzip(request.headers.get("accept-encoding", "")):
        path = found.packed
        headers["Content-Encoding"] = "gzip"
    if not found.is_immutable:
        # Small files only; read at each request, so that an edited app-config.js is seen without a restart.
        content = path.read_bytes()
        headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=found.media_type, headers=headers)
    return FileResponse(path, media_type=found.media_type, headers=headers)


def _accepts_gzip(header: str) -> bool:
    """Whether Accept-Encoding lists gzip with a weight above zero (RFC 9110, 12.5.3)."""
    for offer in header.lower().split(","):
        coding, _, parameters = offer.partition(";")
        if coding.strip() in {"gzip", "*"}:
            weight = parameters.strip().removeprefix("q=") or "1"
            return weight.strip("0.") != ""
    return False


def _viewer_missing() -> Response:
    page = ErrorPage(
        title="The viewer is not installed",
        message=_MISSING_TEXT,
        what_to_do="The rest of this page works. Ask the operator of this gateway to install the viewer.",
        status=503,
        reference="viewer_not_installed",
    )
    return render("viewer_missing.html.j2", page, status_code=503, may_be_framed=True)
