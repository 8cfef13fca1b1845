"""Hostile clients: a hundred files, paths, addresses and requests that the page must refuse."""

import http.client
import json
import time
import urllib.parse
import uuid

import pytest

from tests.page.conftest import read
from tests.page.hostile import files

gradio_client = pytest.importorskip("gradio_client")
pytestmark = [pytest.mark.parity, pytest.mark.xdist_group("page")]

WAIT_S = 120  # for an answer, on a loaded machine
# More RAM, in MB, than before the first round of hostile files, and than before the second.
# Libraries load parts of themselves once, and Gradio keeps records of its last 2000 visits. The
# pixels of one of the files alone would have gigabytes.
SLACK, SLACK_AGAIN = 100, 30


class Wire:
    """Speaks to the page's server as no browser would."""

    def __init__(self, page):
        self.host = urllib.parse.urlsplit(page.url).netloc

    def ask(self, method, path, body=b"", headers=None):
        """Status and text of an answer."""
        connection = http.client.HTTPConnection(self.host, timeout=WAIT_S)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def upload(self, name, content):
        """What the server says of an upload: a status, and the file's path there or words."""
        edge = uuid.uuid4().hex
        shown = name.replace("\\", "\\\\").replace('"', "%22").replace("\n", "%0A")
        head = (
            f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{shown}"\r\n\r\n'
        )
        body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
        status, text = self.ask("POST", "/gradio_api/upload", body, kind)
        return (status, json.loads(text)[0]) if status == 200 else (status, text)

    def call(self, name, data):
        """The error that a named function answers; fails if it answers with a result."""
        send = json.dumps({"data": data}).encode()
        kind = {"Content-Type": "application/json"}
        status, text = self.ask("POST", f"/gradio_api/call/{name}", send, kind)
        if status != 200:
            return text
        event = json.loads(text)["event_id"]
        status, text = self.ask("GET", f"/gradio_api/call/{name}/{event}")
        assert "event: error" in text, text[:300]
        return text.split("event: error", 1)[1]


@pytest.fixture(scope="module")
def wire(served):
    return Wire(served)


@pytest.fixture
def works(served, tmp_path):
    """Checks that the page still translates."""

    def check():
        client = gradio_client.Client(served.url, download_files=str(tmp_path), verbose=False)
        from PIL import Image

        Image.new("L", (128, 128), 1).save(tmp_path / "map.png")
        Image.new("RGB", (128, 128), "teal").save(tmp_path / "look.png")
        given = [gradio_client.handle_file(str(tmp_path / x)) for x in ("map.png", "look.png")]
        found = client.predict(*given, None, api_name="/translate")
        assert read(found[0]).shape == (128, 128, 3)

    return check


def file(path, **more):
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def words(text):
    """Whether an error says something: a sentence, and no traceback."""
    return len(text.split()) >= 4 and "Traceback" not in text and 'File "' not in text


def test_a_hundred_hostile_files(served, wire, works):
    works()
    ready = wire.upload("good.png", _good())[1]
    hostile = files()
    assert len(hostile) >= 100
    memory = [served.megabytes()]
    for _ in range(2):
        most = refuse(served, wire, hostile, ready)
        works()
        time.sleep(2)
        memory.append(served.megabytes())
    start, first, second = (f"{x:.0f}" for x in memory)
    print(f"{len(hostile)} files twice; {start} MB, {first}, then {second}; at most {most:.0f}")
    assert memory[2] < memory[0] + SLACK
    assert memory[2] < memory[1] + SLACK_AGAIN
    assert "Traceback" not in served.log.read_text()


def refuse(served, wire, hostile, ready):
    """Sends all files; each must be refused in words. Returns the most RAM, in MB."""
    most = 0.0
    for name, content in hostile:
        status, text = wire.upload(name, content)
        if status == 200:
            # As a photograph and as a map; the other picture is a good one.
            for data in ([file(ready), file(text), None], [file(text), file(ready), None]):
                text_said = wire.call("translate", data)
                assert words(text_said), (name, text_said)
        else:
            assert words(text), (name, status, text)
        most = max(most, served.megabytes())
    return most


def _good():
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (64, 64), 1).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "/proc/self/environ", "../../etc/passwd", "/dev/zero", "/", "", "~/.ssh"),
        *("file:///etc/passwd", "http://127.0.0.1:9/x.png", "https://example.invalid/x.png"),
        *("data:image/png;base64,AAAA", "gs://bucket/x.png", "\0", 7, {"path": "/etc/passwd"}),
    ],
)
def test_only_uploaded_files_are_read(served, wire, path):
    ready = wire.upload("good.png", _good())[1]
    folder = ready.rsplit("/", 2)[0]
    given = [path]
    if isinstance(path, str):
        given += [f"{folder}/{path}", f"{folder}/../../../../../{path}"]
    for one in given:
        for data in ([file(one), file(ready), None], [file(ready), file(one, url=ready), None]):
            said = wire.call("translate", data)
            assert "not uploaded to this page" in said or "not an uploaded file" in said
            assert "root:" not in said


def test_other_files_and_servers_are_not_fetched(served, wire):
    ready = wire.upload("good.png", _good())[1]
    assert wire.ask("GET", f"/gradio_api/file={ready}")[0] == 200
    for path in (
        *("file=/etc/passwd", "file=/proc/self/environ", "file=cocosnet_jax/demo.py"),
        *(f"file={ready}/../../../../etc/passwd", "file=..%2f..%2fetc%2fpasswd"),
        *("file=http://127.0.0.1:9/", "file=https://example.invalid/", "proxy=http://127.0.0.1:9/"),
        *("file/etc/passwd", "deep_link", "run-history/buckets", "vibe-code", "monitoring", "user"),
        *("stream/a/b/1/playlist.m3u8", "custom_component/1/client/component/x"),
    ):
        status, text = wire.ask("GET", f"/gradio_api/{path}")
        assert status in (403, 404), path
        assert words(text)
    for path in ("component_server", "run/translate", "api/translate", "process_recording"):
        assert wire.ask("POST", f"/gradio_api/{path}", b"{}")[0] == 404
    assert wire.ask("GET", "/assets/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd")[0] in (403, 404)


def test_requests_are_small_and_plain(wire, works):
    kind = {"Content-Type": "application/json"}
    path = "/gradio_api/queue/join"
    assert wire.ask("POST", path, b"[" * 200_000, kind)[0] == 400
    assert wire.ask("POST", path, b'{"data": NaN', kind)[0] == 400
    claimed = kind | {"Content-Length": str(2**40)}
    assert wire.ask("POST", path, b"{}", claimed)[0] == 413
    assert wire.ask("POST", "/gradio_api/upload", b"", claimed)[0] == 413
    assert wire.ask("DELETE", "/", b"")[0] in (404, 405)
    status, text = wire.ask("GET", "/", headers={"Host": "evil.example"})
    assert status == 403
    assert "use the address that its server printed" in text
    works()


def test_the_page_is_served_on_this_machine_alone(served):
    open_to = {c.laddr.ip for c in served.process.net_connections() if c.status == "LISTEN"}
    assert open_to == {"127.0.0.1"}
    # And it has connected to no other machine.
    spoken = {c.raddr.ip for c in served.process.net_connections() if c.raddr}
    assert spoken <= {"127.0.0.1"}
