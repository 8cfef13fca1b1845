"""Limits what the page's server accepts: few addresses, small requests, only uploaded files.

Gradio has many more addresses than this page needs: some fetch other servers' files, some write
files or keep what they are sent. `Guard` stands before all of them, and answers in words.
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cocosnet_jax.page import uploads

MAX_JSON = 4 * 2**20  # bytes of a request that is no upload
MAX_FORM = 2**16  # bytes of an upload beside its file
MAX_FOLDER = 2**30  # bytes of all uploads and results that are kept
BROKEN_OFF_S = 600  # age at which an upload that did not end is deleted
_API = "/gradio_api"
_READ = (
    *("/", "/config", "/config/", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json"),
    *(f"{_API}/{name}" for name in ("info", "info/", "app_id", "app_id/", "theme.css")),
    *(f"{_API}/{name}" for name in ("startup-events", "upload_progress", "queue/data")),
    *(f"{_API}/{name}" for name in ("queue/status", "openapi.json")),
)
_READ_BELOW = (
    *("/assets/", "/static/", "/svelte/"),
    *(f"{_API}/{name}" for name in ("call/", "heartbeat/", "file=")),
)
_WRITE = tuple(f"{_API}/{name}" for name in ("queue/join", "cancel", "reset", "reset/", "upload"))
_WRITE_BELOW = (f"{_API}/call/",)
# Browsers keep the page from loading or sending anything elsewhere. Gradio compiles templates,
# which is `unsafe-eval`.
_HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:;"
    " frame-ancestors 'none'; form-action 'self'; base-uri 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}


class Guard:
    """An ASGI application before another.

    Attributes:
      folder: where uploads and results are kept; requests may name the files in it.
      hosts: names under which the server may be addressed; None for any. Otherwise a web page
        elsewhere could reach a server on this machine under a name of its own.
    """

    def __init__(self, app: ASGIApp, folder: Path, hosts: frozenset[str] | None):
        self._app, self.folder, self.hosts = app, folder, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): text for name, text in scope["headers"]}
        refusal = self._refuse(scope["method"], scope["path"], headers)
        if refusal is None and scope["method"] == "POST":
            # Not on the event loop, which answers everybody.
            refusal = await anyio.to_thread.run_sync(self._refuse_for_space, headers)
        if refusal is None and scope["method"] == "POST" and scope["path"] != f"{_API}/upload":
            body = await _read(receive, MAX_JSON)
            refusal = self._refuse_body(body)
            receive = _replay(body, receive)
        if refusal is not None:
            status, text = refusal
            response = JSONResponse({"detail": text, "error": text}, status, _HEADERS)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, _with_headers(send))

    def _refuse(self, method: str, path: str, headers: dict[str, bytes]) -> tuple[int, str] | None:
        """Status and words for a request that is not let in, by its head."""
        host = headers.get("host", b"").decode("latin-1").lower()
        if self.hosts is not None and _without_port(host) not in self.hosts:
            return 403, f"this page is not {host!r}; use the address that its server printed"
        # Other web sites may not use the page through the browser of somebody who visits them.
        origin = headers.get("origin", b"").decode("latin-1").lower()
        if origin and _without_port(origin.partition("://")[2]) != _without_port(host):
            return 403, f"this page takes nothing from {origin!r}; open it at its own address"
        if method in ("GET", "HEAD"):
            if path in _READ or path.startswith(_READ_BELOW):
                file = path.removeprefix(f"{_API}/file=")
                if file != path and not uploads.is_uploaded(file, self.folder):
                    return 403, "this is no file of this page"
                return None
            return 404, "this page has no such address"
        if method == "OPTIONS":
            return None
        if method != "POST" or not (path in _WRITE or path.startswith(_WRITE_BELOW)):
            return 404, "this page has no such address"
        length = headers.get("content-length", b"").decode("latin-1")
        if not length.isdecimal():
            return 411, "the request does not say its length"
        is_upload = path == f"{_API}/upload"
        most = uploads.MAX_BYTES + MAX_FORM if is_upload else MAX_JSON
        if int(length) > most:
            what = f"{int(length) / 2**20:.0f} MB are too many"
            return 413, f"{what}; the page takes files up to {uploads.MAX_BYTES // 2**20} MB"
        return None

    def _refuse_for_space(self, headers: dict[str, bytes]) -> tuple[int, str] | None:
        """Status and words if uploads and results have taken all their space."""
        _sweep(self.folder)
        if _size(self.folder) + int(headers["content-length"]) > MAX_FOLDER:
            return 507, "the page has too many pictures at the moment; try again in an hour"
        return None

    def _refuse_body(self, body: bytes | None) -> tuple[int, str] | None:
        """Status and words for a request that names a file of its own choice."""
        if body is None:
            return 413, "the request is longer than it said"
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return 400, "the request is not JSON"
        todo = [value]
        while todo:
            here: Any = todo.pop()
            if isinstance(here, dict):
                path = here.get("path")
                if path is not None and not (
                    isinstance(path, str) and uploads.is_uploaded(path, self.folder)
                ):
                    return 400, "a file that was not uploaded to this page; upload it first"
                todo += here.values()
            elif isinstance(here, list):
                todo += here
        return None


def _without_port(host: str) -> str:
    return host.rsplit(":", 1)[0] if not host.endswith("]") and ":" in host else host


def _sweep(folder: Path) -> None:
    """Deletes uploads that were broken off, and the folders of results that Gradio has deleted.

    Gradio moves finished uploads into folders.
    """
    for path in folder.glob("tmp*"):
        with contextlib.suppress(OSError):
            if path.is_file() and time.time() - path.stat().st_mtime > BROKEN_OFF_S:
                path.unlink()
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.is_dir() and time.time() - path.stat().st_mtime > BROKEN_OFF_S:
                path.rmdir()  # An error where it is not empty.


def _size(folder: Path) -> int:
    """Bytes of all files in a folder; those that vanish meanwhile are left out."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


async def _read(receive: Receive, most: int) -> bytes | None:
    """The body of a request, or None if it has more than `most` bytes."""
    parts, total = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        part = message.get("body", b"")
        total += len(part)
        if total > most:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes | None, receive: Receive) -> Receive:
    """Gives a body that was read once more, then what else is received."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body or b"", "more_body": False}

    return again


def _with_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.encode(), text.encode()) for name, text in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return with_headers
