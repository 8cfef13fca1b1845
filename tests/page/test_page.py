"""The page's parts without networks: what it reads, refuses, paints and serves."""

import asyncio
import concurrent.futures
import http.client
import json
import os
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.errors import UserError
from cocosnet_jax.inference import Translator
from cocosnet_jax.page import painting, uploads
from cocosnet_jax.page.classes import paint_classes
from cocosnet_jax.page.studio import STROKES, STROKES_SIDE, Studio
from cocosnet_jax.settings import DataSettings, ModelSettings, Settings

MODEL = ModelSettings(mask_input="none")  # The exemplar's map is not read.
DATA = DataSettings(dataset="folder", channels=5, image_size=64, exemplar_list="random")


def studio_of(**fields):
    """A studio of a model that was never trained; nothing of it is computed."""
    data = DataSettings(**{"exemplar_list": "random", "image_size": 64, **fields})
    translator = Translator.__new__(Translator)
    translator.settings, translator.size = Settings(data=data, model=MODEL), 64
    return Studio(translator)


def test_a_painting_is_read_back():
    numbers = np.random.default_rng(0).integers(0, 5, (64, 64)).astype(np.uint8)
    numbers[:30] = 3
    np.testing.assert_array_equal(painting.decode(painting.encode(numbers), 64, 5), numbers)
    photograph = np.zeros((600, 300, 3), np.uint8)
    value = json.loads(painting.encode(numbers, photograph))
    assert value["ratio"] == 0.5
    assert value["photograph"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{}",
            "[]",
            "null",
            "[" * 100_000,
            '{"side": 64}',
            7,
            {"side": 64, "runs": [4096, 0]},
        ),
        *(
            json.dumps({"side": side, "runs": runs})
            for side, runs in (
                *((64, [4095, 0]), (64, [4097, 0]), (64, [4096]), (64, []), (64, [[4096, 0]])),
                *((64, [4097, 0, -1, 0]), (64, [2**62, 0, 2**62, 0]), (64, [2**70, 0])),
                *((64, [4096, 1.5]), (64, ["a", 0]), (32, [1024, 0]), (2**31, [4096, 0])),
            )
        ),
    ],
)
def test_a_broken_painting_is_refused(text):
    with pytest.raises(UserError, match="did not arrive whole"):
        painting.decode(text, 64, 5)


def test_classes_beyond_the_models_are_refused():
    for number in (5, 255, -1, 2**40):
        with pytest.raises(UserError, match="classes beyond 0 to 4"):
            painting.decode(json.dumps({"side": 64, "runs": [4096, number]}), 64, 5)
    with pytest.raises(UserError, match="nothing is painted yet"):
        painting.decode(None, 64, 5)


def test_only_files_below_the_folder_are_read(tmp_path):
    folder = tmp_path / "uploads"
    (folder / "a").mkdir(parents=True)
    inside, outside = folder / "a/x.png", tmp_path / "secret.png"
    for path in (inside, outside):
        path.write_bytes(b"x")
    (folder / "link.png").symlink_to(outside)
    assert uploads.path_of({"path": str(inside)}, folder, "it") == inside
    assert uploads.path_of(None, folder, "it") is None
    for path in (
        *(str(outside), f"{folder}/../secret.png", f"{folder}/link.png", str(folder), "a/x.png"),
        *("http://127.0.0.1/x.png", "\0", "x" * 5000, 7, None, {"path": str(inside)}),
    ):
        with pytest.raises(UserError, match="it is not an uploaded file"):
            uploads.path_of({"path": path}, folder, "it")
    with pytest.raises(UserError, match="it is not an uploaded file"):
        uploads.path_of(str(inside), folder, "it")


def test_pictures_have_limits(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    Image.new("L", (50, 40)).save(path)
    assert uploads.read_photograph(path, "the exemplar").shape == (40, 50, 3)
    monkeypatch.setattr(uploads, "MAX_PIXELS", 1999)
    with pytest.raises(UserError, match="the exemplar of 50x40 pixels has too many"):
        uploads.read_photograph(path, "the exemplar")
    monkeypatch.setattr(uploads, "MAX_BYTES", 20)
    with pytest.raises(UserError, match=r"the exemplar has 0\.0 MB; the page takes up to 0 MB"):
        uploads.read_photograph(path, "the exemplar")


@pytest.mark.parametrize("kind", ["GIF", "PPM", "TGA", "ICO"])
def test_other_formats_are_refused(tmp_path, kind):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png", kind)
    with pytest.raises(UserError, match="the map cannot be read as a picture; use PNG"):
        uploads.read_map(tmp_path / "x.png", "the map", DATA, 64)


def test_errors_say_what_a_file_is_not_where_it_lies(tmp_path):
    Image.new("L", (16, 16), 77).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"^the map contains the values 77 \(256 pixels\)") as error:
        uploads.read_map(tmp_path / "x.png", "the map", DATA, 64)
    assert str(tmp_path) not in str(error.value)


def test_classes_have_names_and_colours():
    def named(**fields):
        return paint_classes(DataSettings(**{"exemplar_list": "random", **fields}))

    drawn = named(dataset="drawn_scenes", channels=14)
    assert (drawn[10].name, drawn[10].colour) == ("roof", "#B93C32")
    ade = named(dataset="ade20k", channels=151)
    # Places that the dataset's own documentation names.
    assert [ade[i].name for i in (0, 1, 3, 5, 150)] == ["unknown", "wall", "sky", "tree", "flag"]
    faces = named(dataset="celebahq", channels=19, condition="labels_glasses")
    assert (faces[4].name, faces[15].name) == ("right brow", "hat")
    own = named(dataset="folder", channels=2, classes="sea #0000FF\nland #00FF00")
    assert own == [(0, "sea", "#0000FF"), (1, "land", "#00FF00")]
    assert named(dataset="folder", channels=3)[2].name == "class 2"
    edges = named(dataset="folder_edges", channels=2, condition="channels")
    assert [x.name for x in edges] == ["nothing", "line"]


def test_maps_become_planes_and_come_back():
    numbers = np.zeros((64, 64), np.uint8)
    numbers[10:30] = 16
    faces = studio_of(dataset="celebahq", channels=19, condition="labels_glasses")
    planes = faces.planes(numbers)
    np.testing.assert_array_equal(planes[..., 1], numbers == 16)
    np.testing.assert_array_equal(faces.numbers(planes), numbers)
    lines = (numbers > 0).astype(np.uint8)
    edges = studio_of(dataset="folder_edges", channels=2, condition="channels")
    assert edges.planes(lines)[50, 0, 1] == 21 // 3  # 21 pixels below the last line
    np.testing.assert_array_equal(edges.numbers(edges.planes(lines)), lines)


def test_models_that_a_page_cannot_serve_say_so():
    with pytest.raises(UserError, match="inputs cannot be painted; use python -m"):
        studio_of(dataset="deepfashion", channels=20, condition="channels")


def test_strokes_are_a_transparent_layer():
    studio = studio_of(dataset="folder", channels=5)
    strokes = np.zeros((STROKES_SIDE, STROKES_SIDE), np.uint8)
    strokes[:128] = 5
    layer = studio.layer(strokes, (512, 256), 0.5)
    assert layer.shape == (512, 256, 4)
    gold = bytes.fromhex(STROKES[5].colour[1:])
    np.testing.assert_array_equal(layer[:255], np.broadcast_to([*gold, 128], (255, 256, 4)))
    assert not layer[258:, :, 3].any()
    soft = studio.layer(strokes, (512, 256), 1, softness=5)
    # Half of the stroke's opacity at its edge, in its own colour.
    assert abs(int(soft[256, 0, 3]) - 127) <= 4
    np.testing.assert_allclose(soft[256, 0, :3], list(gold), atol=1)


class Repeats(Studio):
    """Draws what it is given, while the gate is open; counts what came to it."""

    gate = threading.Event()
    came: ClassVar[list] = []

    def translate(self, planes, exemplar, exemplar_planes):
        self.came.append(exemplar)
        assert self.gate.wait(300)
        if exemplar.mean() > 250:
            raise ZeroDivisionError("an error of its own")
        return exemplar, np.repeat(planes, 3, -1)


@pytest.fixture(scope="module")
def site():
    pytest.importorskip("gradio")
    from cocosnet_jax.page.site import Site

    studio = studio_of(dataset="folder", channels=5)
    studio.__class__ = Repeats
    studio.turns.most = 1
    studio.gate.set()
    with Site(studio, "127.0.0.1", 0) as page:
        yield page
    assert not page.folder.exists()


def test_a_page_that_does_not_start_leaves_no_folder(tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    from cocosnet_jax.page import site

    def fail(_):
        raise SystemExit(143)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(site, "build", fail)
    with pytest.raises(SystemExit):
        site.Site(object(), "127.0.0.1", 0)
    assert not list(tmp_path.iterdir())


def test_folders_of_results_that_are_gone_go_too(tmp_path):
    pytest.importorskip("gradio")
    from cocosnet_jax.page import guard

    for name in ("fresh", "old", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full/image.png").write_bytes(b"x")
    long_ago = time.time() - 2 * guard.BROKEN_OFF_S
    for name in ("old", "full"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    guard._sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"fresh", "full"}


def submit(site, folder, exemplar):
    """The future result of a request, whose files are not those of another one."""
    from gradio_client import Client, handle_file

    folder = Path(tempfile.mkdtemp(dir=folder))
    Image.new("L", (64, 64), 3).save(folder / "map.png")
    exemplar.save(folder / "exemplar.png")
    client = Client(site.url, download_files=str(folder), verbose=False)
    given = [handle_file(str(folder / name)) for name in ("map.png", "exemplar.png")]
    return client.submit(*given, None, api_name="/translate")


def translate(site, folder, exemplar):
    return submit(site, folder, exemplar).result()


def test_what_is_drawn_arrives_to_the_byte(site, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    result, warped = translate(site, tmp_path, Image.fromarray(noise))
    np.testing.assert_array_equal(np.asarray(Image.open(result)), noise)
    assert (np.asarray(Image.open(warped)) == 3).all()


def test_equal_results_are_files_of_their_own(site, tmp_path):
    """Else one visitor may get the file while another's request has just emptied it."""
    teal = Image.new("RGB", (64, 64), "teal")
    before = set(site.folder.rglob("image.png"))
    for _ in range(2):
        translate(site, tmp_path, teal)
    new = [file.read_bytes() for file in set(site.folder.rglob("image.png")) - before]
    assert [new.count(content) for content in sorted(new)] == [2, 2, 2, 2]


def test_an_error_of_the_page_stops_nobody(site, tmp_path):
    with pytest.raises(Exception, match="the page failed; the terminal of its server says why"):
        translate(site, tmp_path, Image.new("RGB", (64, 64), "white"))
    translate(site, tmp_path, Image.new("RGB", (64, 64), "teal"))


def test_who_finds_the_line_full_is_told_so(site, tmp_path, monkeypatch):
    """Two are served, up to two wait; they get their results all the same."""
    monkeypatch.setattr(site._blocks._queue, "max_size", 2)
    teal = Image.new("RGB", (64, 64), "teal")
    Repeats.gate.clear()
    Repeats.came.clear()
    try:
        jobs = [submit(site, tmp_path, teal) for _ in range(2)]
        while len(Repeats.came) < 2:
            time.sleep(0.01)
        jobs += [submit(site, tmp_path, teal) for _ in range(5)]
        assert concurrent.futures.wait(jobs, 60, "FIRST_COMPLETED").done
    finally:
        Repeats.gate.set()
    concurrent.futures.wait(jobs, 60)
    errors = [str(job.exception()) for job in jobs if job.exception()]
    assert set(errors) == {"Queue is full! Please try again."}
    results = [job.result()[0] for job in jobs if not job.exception()]
    assert len(results) >= 3
    for path in results:
        assert (np.asarray(Image.open(path)) == (0, 128, 128)).all()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/gradio_api/file=/etc/passwd", 403), ("/gradio_api/run-history/buckets", 404)],
)
def test_few_addresses_are_served(site, path, status):
    parts = urllib.parse.urlsplit(site.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == status
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    text = answer.read()
    assert status == 200 or len(json.loads(text)["detail"].split()) > 3
    connection.close()


def test_requests_name_only_uploaded_files(tmp_path):
    pytest.importorskip("gradio")
    from cocosnet_jax.page.guard import MAX_JSON, Guard

    (tmp_path / "x.png").write_bytes(b"x")
    passed = []

    async def inner(scope, receive, send):
        passed.append((await receive())["body"])

    def ask(body, path="/gradio_api/queue/join", host="127.0.0.1:7860", length=None, more=()):
        said = []

        async def send(message):
            said.append(message)

        async def receive():
            return {"type": "http.request", "body": body}

        size = str(len(body) if length is None else length).encode()
        headers = [(b"host", host.encode()), (b"content-length", size), *more]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        guard = Guard(inner, tmp_path, frozenset({"127.0.0.1"}))
        asyncio.run(guard(scope, receive, send))
        return said[0]["status"] if said else 200

    def body(path):
        return json.dumps({"data": [{"a": [{"path": path}]}]}).encode()

    assert ask(body(str(tmp_path / "x.png"))) == 200
    # Another web site may not send requests through its visitor's browser.
    for origin, status in (("http://127.0.0.1:7860", 200), ("http://evil.example", 403)):
        assert ask(b"{}", more=[(b"origin", origin.encode())]) == status
    passed.pop()
    # Uploads that were broken off go; those of people who are there stay.
    for name, age in (("tmp_new", 0), ("tmp_old", 3600)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert ask(b"{}") == 200
    passed.pop()
    assert [path.name for path in tmp_path.glob("tmp_*")] == ["tmp_new"]
    assert passed == [body(str(tmp_path / "x.png"))]
    for path in ("/etc/passwd", "http://127.0.0.1/", f"{tmp_path}/../x", 7, ["/etc/passwd"]):
        assert ask(body(path)) == 400
    assert ask(b"[" * 100_000) == ask(b"") == 400
    assert ask(b"{}", length=MAX_JSON + 1) == ask(bytes(MAX_JSON + 1), length=2) == 413
    assert ask(b"{}", path="/gradio_api/component_server") == 404
    assert ask(b"{}", host="evil.example") == 403
    assert ask(b"{}", length="") == 411
    assert len(passed) == 1
