"""Google Cloud Storage on this machine, as far as this project's libraries use it.

Each library has its own client: TensorFlow (epath, TensorBoard), TensorStore and Google's Python
package (Orbax), Riegeli (ArrayRecord). All but TensorFlow's can be told another address. TensorFlow
gets a proxy, which answers for *.googleapis.com with a certificate made for the test.
"""

import hashlib
import http.server
import json
import re
import ssl
import subprocess
import threading
import urllib.parse
from pathlib import Path
from typing import Any

HOSTS = ("www.googleapis.com", "storage.googleapis.com", "oauth2.googleapis.com")


class Bucket:
    """The server; objects are `BUCKET/NAME` -> (content, generation)."""

    def __init__(self, folder: Path):
        """Starts the server; `folder` receives its certificate."""
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.sessions: dict[str, tuple[str, bytearray]] = {}
        self.lock = threading.RLock()
        self.requests: list[str] = []
        self.generation = 0
        key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        names = ",".join(f"DNS:{host}" for host in HOSTS)
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=test", "-addext", f"subjectAltName={names}"),
                *("-keyout", str(key), "-out", str(self.certificate)),
            ],
            check=True,
            capture_output=True,
        )
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(self.certificate, key)
        handler = type("Handler", (_Handler,), {"bucket": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """What makes the libraries use this server."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "https_proxy": self.url,
            "no_proxy": "127.0.0.1,localhost",
            "CURL_CA_BUNDLE": str(self.certificate),
            # None of them looks for credentials.
            "NO_GCE_CHECK": "true",
            "GCE_METADATA_HOST": "127.0.0.1:1",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        }

    def names(self) -> list[str]:
        with self.lock:
            return sorted(self.objects)

    def put(self, name: str, content: bytes) -> int:
        with self.lock:
            self.generation += 1
            self.objects[name] = content, self.generation
            return self.generation

    def upload(self, source: Path, name: str) -> None:
        """Copies a folder into the bucket, as `gcloud storage cp -r` does."""
        for path in sorted(source.rglob("*")):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(source)}", path.read_bytes())


def _described(name: str, content: bytes, generation: int) -> dict[str, Any]:
    bucket, _, key = name.partition("/")
    return {
        "kind": "storage#object",
        "id": f"{name}/{generation}",
        "name": key,
        "bucket": bucket,
        "generation": str(generation),
        "metageneration": "1",
        "size": str(len(content)),
        "updated": "2030-01-01T00:00:00.000Z",
        "timeCreated": "2030-01-01T00:00:00.000Z",
        "etag": hashlib.md5(content).hexdigest(),
    }


class _Handler(http.server.BaseHTTPRequestHandler):
    bucket: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.connection = self.bucket.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def _error(self, status: int) -> None:
        self._json({"error": {"code": status, "message": f"status {status}"}}, status)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _any(self) -> None:
        body = self._body()
        parts = urllib.parse.urlsplit(self.path)
        query = {k: v[-1] for k, v in urllib.parse.parse_qs(parts.query, True).items()}
        with self.bucket.lock:
            self.bucket.requests.append(f"{self.command} {self.path}")
            self._dispatch(parts.path, query, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _any

    def _dispatch(self, path: str, query: dict[str, str], body: bytes) -> None:
        unquote = urllib.parse.unquote
        path = path.removeprefix("/download")
        if path.startswith("/session/"):
            return self._continue(path, body)
        if match := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path):
            return self._upload(unquote(match[1]), query, body)
        if match := re.fullmatch(r"/storage/v1/b/([^/]+)/o/?", path):
            return self._list(unquote(match[1]), query)
        if match := re.fullmatch(r"/storage/v1/b/([^/]+)(/storageLayout)?", path):
            return self._json({"kind": "storage#bucket", "name": match[1], "location": "US"})
        copied = r"/storage/v1/b/([^/]+)/o/(.+?)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.+)"
        if match := re.fullmatch(copied, path):
            source, target = (f"{match[i]}/{unquote(match[i + 1])}" for i in (1, 3))
            if source not in self.bucket.objects:
                return self._error(404)
            content = self.bucket.objects[source][0]
            generation = self.bucket.put(target, content)
            resource = _described(target, content, generation)
            return self._json({"done": True, "resource": resource})
        if match := re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)", path):
            return self._object(f"{match[1]}/{unquote(match[2])}", query, "alt" in query)
        return self._object(unquote(path[1:]), query, True)

    def _refused(self, name: str, query: dict[str, str]) -> int:
        """The status of a condition that does not hold, or 0."""
        now = self.bucket.objects[name][1] if name in self.bucket.objects else 0
        if int(query.get("ifGenerationMatch", now)) != now:
            return 412
        if int(query.get("ifGenerationNotMatch", -1)) == now:
            return 304
        return 0

    def _object(self, name: str, query: dict[str, str], media: bool) -> None:
        if name not in self.bucket.objects:
            return self._error(404)
        if status := self._refused(name, query):
            return self._answer(status)
        content, generation = self.bucket.objects[name]
        if self.command == "DELETE":
            del self.bucket.objects[name]
            return self._answer(204)
        if not media or query.get("alt") == "json":
            return self._json(_described(name, content, generation))
        headers = {
            "x-goog-generation": str(generation),
            "x-goog-stored-content-length": str(len(content)),
            "Content-Type": "application/octet-stream",
        }
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self._answer(200, content, **headers)
        if wanted[1]:
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        else:
            first, last = max(len(content) - int(wanted[2]), 0), len(content) - 1
        last = min(last, len(content) - 1)
        if first >= len(content):
            return self._answer(416)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._answer(206, content[first : last + 1], **headers)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        first, end = query.get("startOffset", ""), query.get("endOffset", "")
        items, prefixes = [], set()
        for name, (content, generation) in sorted(self.bucket.objects.items()):
            key = name.removeprefix(f"{bucket}/")
            if key == name or not key.startswith(prefix) or key < first or (end and key >= end):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest[: rest.index(delimiter) + 1])
                continue
            items.append(_described(name, content, generation))
        self._json({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def _upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        kind, name = query["uploadType"], query.get("name", "")
        if kind == "resumable":
            name = name or json.loads(body)["name"]
            session = f"/session/{len(self.bucket.sessions)}"
            self.bucket.sessions[session] = f"{bucket}/{name}", bytearray()
            host = self.headers["Host"]
            scheme = "http" if host.startswith("127.") else "https"
            return self._answer(200, Location=f"{scheme}://{host}{session}")
        if kind == "multipart":
            boundary = re.search(r'boundary="?([^";]+)"?', self.headers["Content-Type"])
            assert boundary
            _, described, content, _ = body.split(f"--{boundary[1]}".encode())
            name = name or json.loads(described.split(b"\r\n\r\n", 1)[1])["name"]
            body = content.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        whole = f"{bucket}/{name}"
        if status := self._refused(whole, query):
            return self._error(status)
        self._json(_described(whole, body, self.bucket.put(whole, body)))

    def _continue(self, session: str, body: bytes) -> None:
        """A part of a resumable upload, or a question how much has arrived."""
        name, so_far = self.bucket.sessions[session]
        ranged = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", self.headers["Content-Range"])
        assert ranged
        if ranged[1]:
            so_far[int(ranged[1]) :] = body
        if ranged[2] != "*" and len(so_far) == int(ranged[2]):
            content = bytes(so_far)
            return self._json(_described(name, content, self.bucket.put(name, content)))
        headers = {"Range": f"bytes=0-{len(so_far) - 1}"} if so_far else {}
        self._answer(308, **headers)
