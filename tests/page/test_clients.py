"""Gradio's client: the page as an API, and many clients at once."""

import concurrent.futures
import time

import numpy as np
import pytest
from PIL import Image

from tests.page.conftest import read

gradio_client = pytest.importorskip("gradio_client")
pytestmark = [pytest.mark.parity, pytest.mark.xdist_group("page")]

CLIENTS = 10


def client_of(page, folder):
    return gradio_client.Client(page.url, download_files=str(folder), verbose=False)


@pytest.fixture(scope="module")
def files(truth, tmp_path_factory):
    """The page's scenes as files: photographs and label maps."""
    folder = tmp_path_factory.mktemp("scenes")
    for number, example in enumerate(truth.examples):
        Image.fromarray(example.image).save(folder / f"{number}.png")
        Image.fromarray(example.planes[..., 0]).save(folder / f"{number}_map.png")

    def file(name):
        return gradio_client.handle_file(str(folder / f"{name}.png"))

    return file


def test_the_api_is_named_and_described(served, tmp_path):
    named = client_of(served, tmp_path).view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/translate", "/edit", "/makeup", "/correspond"}
    names = [x["parameter_name"] for x in named["/edit"]["parameters"]]
    assert names == ["photograph", "label", "edited_label", "paste", "seam"]


def test_results_are_those_of_translate_to_the_byte(served, truth, files, tmp_path):
    found = client_of(served, tmp_path).predict(
        label=files("1_map"), exemplar=files(0), api_name="/translate"
    )
    wanted = truth.translate(truth.examples[1].planes, truth.examples[0].image)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(read(one), other)


def test_an_edit_leaves_the_rest_unchanged(served, truth, files, tmp_path):
    edited = truth.examples[2].planes[..., 0].copy()
    edited[100:120, 20:60] = 7
    Image.fromarray(edited).save(tmp_path / "edited.png")
    found = client_of(served, tmp_path).predict(
        photograph=files(2),
        label=files("2_map"),
        edited_label=gradio_client.handle_file(str(tmp_path / "edited.png")),
        api_name="/edit",
    )
    result, photograph = read(found), truth.examples[2].image
    assert (result[100:120, 20:60] != photograph[100:120, 20:60]).any()
    np.testing.assert_array_equal(result[:80], photograph[:80])


def test_strokes_land_on_matching_places(served, truth, files, tmp_path):
    roof = 10
    layer = np.zeros((128, 128, 4), np.uint8)
    layer[truth.examples[5].planes[..., 0] == roof] = (255, 0, 0, 255)
    Image.fromarray(layer).save(tmp_path / "strokes.png")
    found = client_of(served, tmp_path).predict(
        portrait=files(5),
        strokes=gradio_client.handle_file(str(tmp_path / "strokes.png")),
        target=files(4),
        target_label=files("4_map"),
        api_name="/makeup",
    )
    changed = (read(found).astype(int) - truth.examples[4].image)[..., 0] > 30
    there = truth.examples[4].planes[..., 0] == roof
    assert changed[there].mean() > 0.7
    assert changed[~there].mean() < 0.05


def test_a_picture_matches_its_own_map(served, truth, files, tmp_path):
    place, *_ = client_of(served, tmp_path).predict(
        label=files("0_map"), exemplar=files(0), x=90, y=50, api_name="/correspond"
    )
    assert abs(place["x"] - 90) <= 8
    assert abs(place["y"] - 50) <= 8
    assert 0 < place["confidence"] <= 1


def test_errors_are_words(served, files, tmp_path):
    client = client_of(served, tmp_path)
    with pytest.raises(Exception, match=r"label contains the colours .* but this model knows un"):
        client.predict(label=files(0), exemplar=files(0), api_name="/translate")
    with pytest.raises(Exception, match="exemplar is missing; choose or upload one"):
        client.predict(label=files("0_map"), exemplar=None, api_name="/translate")
    with pytest.raises(Exception, match=r"x is 1000000000.0; it must be a number from 0"):
        client.predict(files("0_map"), files(0), 1e9, 2, api_name="/correspond")
    with pytest.raises(Exception, match="point 1, 500,2, is outside of the input"):
        client.predict(files("0_map"), files(0), 500, 2, api_name="/correspond")


def test_ten_clients_at_once(served, truth, files, tmp_path):
    pairs = [(i % 6, (i + 1 + i // 6) % 6) for i in range(CLIENTS)]

    def visit(number):
        layout, style = pairs[number]
        client = client_of(served, tmp_path / str(number))
        found = [
            client.predict(files(f"{layout}_map"), files(style), None, api_name="/translate")
            for _ in range(2)
        ]
        return [read(picture) for pair in found for picture in pair]

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(visit, range(CLIENTS)))
    seconds = time.monotonic() - began
    for (layout, style), results in zip(pairs, found, strict=True):
        wanted = truth.translate(truth.examples[layout].planes, truth.examples[style].image)
        for one, other in zip(results, [*wanted, *wanted], strict=True):
            # Rounding may be another in a batch.
            np.testing.assert_allclose(one.astype(int), other.astype(int), atol=1)
    print(f"{2 * CLIENTS} translations for {CLIENTS} clients in {seconds:.1f} s")
