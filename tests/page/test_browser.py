"""The page in Chromium: paint, upload and click, and what is shown is what `translate` draws."""

import io
import json
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.data.drawn.things import CLASS_COLOURS
from cocosnet_jax.page import painting

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.parity,
    pytest.mark.xdist_group("page"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
WAIT_MS = 120_000
# Where to keep a screenshot of every tab, to be looked at.
SHOTS = os.environ.get("PAGE_SCREENSHOTS", "")
ROOF, WATER = 10, 7


@pytest.fixture(scope="module")
def tab(served):
    """A browser's tab with the page, and all addresses that it asked for."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        # The sandbox needs rights that containers do not have; the page is our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 1150})
        page.set_default_timeout(WAIT_MS)
        asked, wrong = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(served.url)
        page.wait_for_selector("#translate-painter canvas")
        yield page
        assert not wrong
        elsewhere = [x for x in asked if not x.startswith((served.url, "data:", "blob:"))]
        assert not elsewhere
        browser.close()


def open_tab(tab, name, place):
    """Opens a tab, and waits until the mouse can use what is at `place` in it."""
    tab.get_by_role("tab", name=name).click()
    wait_for_pictures(tab)
    # Visible, not moving, and not covered.
    tab.locator(place).first.hover(trial=True)


def wait_for_pictures(tab):
    """Waits until all pictures that the page shows are loaded: before, they have no height."""
    tab.wait_for_function(
        "[...document.images].every(x => !x.checkVisibility() || (x.complete && x.naturalWidth))"
    )


def keep(tab, name):
    if SHOTS:
        wait_for_pictures(tab)
        tab.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def address(tab, place):
    return tab.locator(f"{place} img").first.get_attribute("src")


def changed(tab, place, before):
    """The picture that is shown once it is another one than at the address `before`."""
    end = time.monotonic() + WAIT_MS / 1000
    while not tab.locator(f"{place} img").count() or address(tab, place) == before:
        assert time.monotonic() < end, "the picture did not change"
        tab.wait_for_timeout(100)
    return picture(tab, place)


def picture(tab, place):
    content = tab.request.get(address(tab, place)).body()
    return np.asarray(Image.open(io.BytesIO(content)))


def drawn(tab, place, side):
    """What a painter's canvas shows, and the colours of its palette."""
    pixels = tab.eval_on_selector(
        f"{place} canvas",
        "c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)",
    )
    return np.array(pixels, np.uint8).reshape(side, side, 4)


def stroke(tab, place, start, end, number):
    """Paints a line with a class, from and to places in parts of the canvas."""
    tab.locator(f"{place} button[data-number='{number}']").click()
    canvas = tab.locator(f"{place} canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    xs, ys = (
        [box[k] + x * box[n] for x in p]
        for k, n, p in (("x", "width", (start[0], end[0])), ("y", "height", (start[1], end[1])))
    )
    tab.mouse.move(xs[0], ys[0])
    tab.mouse.down()
    tab.mouse.move(xs[1], ys[1], steps=8)
    tab.mouse.up()


def numbers_of(pixels, truth):
    """The classes that a canvas shows in their colours."""
    same = (pixels[:, :, None, :3] == CLASS_COLOURS).all(-1)
    assert (same.sum(-1) == 1).all()
    return same.argmax(-1).astype(np.uint8)


def test_a_painted_map_is_translated_to_the_byte(tab, truth):
    before = address(tab, "#translate-result")
    wanted = truth.translate(truth.examples[1].planes, truth.examples[0].image)
    np.testing.assert_array_equal(picture(tab, "#translate-result"), wanted[0])
    stroke(tab, "#translate-painter", (0.1, 0.8), (0.6, 0.85), WATER)
    shown = changed(tab, "#translate-result", before)
    planes = numbers_of(drawn(tab, "#translate-painter", 128), truth)[..., None]
    old = truth.examples[1].planes
    assert (planes[planes != old] == WATER).all()
    assert 200 < (planes != old).sum() < 1200
    wanted = truth.translate(planes, truth.examples[0].image)
    np.testing.assert_array_equal(shown, wanted[0])
    np.testing.assert_array_equal(picture(tab, "#translate-warped"), wanted[1])
    keep(tab, "translate")


def test_another_look_and_an_upload(tab, truth, tmp_path):
    before = address(tab, "#translate-result")
    tab.locator("#looks .thumbnail-item").nth(2).click()
    changed(tab, "#translate-result", before)
    before = address(tab, "#translate-result")
    own = np.asarray(Image.fromarray(truth.examples[3].image).resize((300, 200)))
    Image.fromarray(own).save(tmp_path / "own.png")
    tab.locator("#exemplar button[aria-label='Remove Image']").click()
    tab.locator("#exemplar input[type=file]").set_input_files(tmp_path / "own.png")
    shown = changed(tab, "#translate-result", before)
    planes = numbers_of(drawn(tab, "#translate-painter", 128), truth)[..., None]
    np.testing.assert_array_equal(shown, truth.translate(planes, own)[0])

    before = address(tab, "#translate-result")
    tab.get_by_text("or upload a label map").click()
    painted = CLASS_COLOURS[truth.examples[4].planes[..., 0]]
    Image.fromarray(painted).save(tmp_path / "map.png")
    tab.locator("#own-map input[type=file]").set_input_files(tmp_path / "map.png")
    shown = changed(tab, "#translate-result", before)
    np.testing.assert_array_equal(shown, truth.translate(truth.examples[4].planes, own)[0])


def test_an_upload_that_is_no_picture_is_said(tab, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    tab.locator("#exemplar button[aria-label='Remove Image']").click()
    tab.locator("#exemplar input[type=file]").set_input_files(tmp_path / "broken.png")
    tab.get_by_text("the exemplar cannot be read as a picture").first.wait_for()
    before = address(tab, "#translate-result")
    tab.locator("#looks .thumbnail-item").nth(0).click()
    changed(tab, "#translate-result", before)


def test_edit(tab, truth):
    open_tab(tab, "Edit", "#edit-painter canvas")
    stroke(tab, "#edit-painter", (0.1, 0.92), (0.5, 0.92), WATER)
    shown = changed(tab, "#edit-result", None)
    before = truth.examples[2]
    planes = numbers_of(drawn(tab, "#edit-painter", 128), truth)[..., None]
    assert (planes != before.planes).any()
    assert (shown != before.image).any()
    np.testing.assert_array_equal(shown[:80], before.image[:80])
    keep(tab, "edit")


def test_makeup(tab):
    open_tab(tab, "Makeup", "#makeup-painter canvas")
    before = address(tab, "#makeup-results")
    stroke(tab, "#makeup-painter", (0.1, 0.1), (0.5, 0.1), 1)
    changed(tab, "#makeup-results", before)
    assert tab.locator("#makeup-results .thumbnail-item").count() == 5
    keep(tab, "makeup")


def test_a_click_is_matched(tab, truth):
    open_tab(tab, "Correspondence", "#match-exemplar img")
    before = address(tab, "#match-heat")
    place = tab.locator("#match-exemplar img")
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    tab.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.4 * box["height"])
    changed(tab, "#match-heat", before)
    rows = tab.locator("#match-table tbody tr").all_inner_texts()
    assert len(rows) == 3
    number, side, x, y, *_ = rows[-1].split()
    assert (number, side) == ("3", "exemplar")
    assert abs(float(x) - 0.75 * 128) < 2
    assert abs(float(y) - 0.4 * 128) < 2
    keep(tab, "correspondence")
    before = address(tab, "#match-input")
    tab.get_by_role("button", name="Forget the points").click()
    changed(tab, "#match-input", before)
    assert not tab.locator("#match-table tbody tr").count()


def test_the_painters_text_is_what_the_server_reads(tab, truth):
    open_tab(tab, "Translate", "#maps .thumbnail-item")
    tab.locator("#maps .thumbnail-item").nth(5).click()
    wanted = CLASS_COLOURS[truth.examples[5].planes[..., 0]]
    end = time.monotonic() + WAIT_MS / 1000
    while (drawn(tab, "#translate-painter", 128)[..., :3] != wanted).any():
        assert time.monotonic() < end, "the map is not shown"
        tab.wait_for_timeout(100)
    text = painting.encode(numbers_of(drawn(tab, "#translate-painter", 128), truth))
    assert json.loads(text)["side"] == 128
    # Not above: Gradio takes seconds to import, also where this file's tests are not run.
    from cocosnet_jax.page.tabs import FACE

    assert len(truth.examples) > FACE
