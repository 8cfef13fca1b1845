"""Matches, warps and heat of correspondences that are known."""

import numpy as np
import pytest

from cocosnet_jax.apps import correspond, drawing, points
from cocosnet_jax.errors import UserError
from tests.apps.exact import CELLS, SIZE, STEP, Exact, coded

POINTS = np.array([[13.0, 20.0], [30.5, 41.25], [50.0, 63.0]])


@pytest.fixture(scope="module")
def translator():
    return Exact()


def test_identical_pictures_match_place_by_place(translator):
    shown = correspond.correspond(translator, coded(), coded(), None, POINTS)
    np.testing.assert_allclose(shown.matches[:, :2], POINTS, atol=1e-9)
    np.testing.assert_allclose(shown.matches[:, 2], 1, atol=1e-5)
    np.testing.assert_array_equal(shown.warped_exemplar, coded())
    np.testing.assert_array_equal(shown.warped_input, coded())


@pytest.mark.parametrize("back", [False, True])
def test_a_shifted_exemplar_shifts_the_matches(translator, back):
    """Three cells to the right in the exemplar; seen from there, three to the left."""
    exemplar = coded(right=3)
    shown = correspond.correspond(translator, coded(), exemplar, None, POINTS[:2], back=back)
    step = -12 if back else 12
    np.testing.assert_allclose(shown.matches[:, :2], POINTS[:2] + np.array([step, 0]), atol=1e-9)
    np.testing.assert_array_equal(shown.warped_exemplar, coded())
    np.testing.assert_array_equal(shown.warped_input, exemplar)


def test_points_and_matches_are_in_pixels_of_their_own_pictures(translator):
    """An exemplar four times as large: pixel 13 covers 52 to 55 of it, and 53.5 is the middle."""
    picture = coded(2 * SIZE)[:, :SIZE]  # half as wide as high: each pixel is two of the network's
    given = translator, coded(), coded(4 * SIZE), None
    shown = correspond.correspond(*given, np.array([[6.0, 26.0]]), picture=picture)
    np.testing.assert_allclose(shown.matches[0, :2], [25.5, 52.5], atol=1e-9)
    assert shown.warped_exemplar.shape == picture.shape
    assert shown.warped_input.shape == (4 * SIZE, 4 * SIZE, 3)


def test_places_that_are_alike_share_the_confidence(translator):
    exemplar = coded()
    exemplar[:STEP, :STEP] = exemplar[-STEP:, -STEP:]
    corners = np.array([[SIZE - 1.0, SIZE - 1.0], [20, 20]])
    shown = correspond.correspond(translator, coded(), exemplar, None, corners)
    # Two of 16 x 16: 1 - log(2) / log(256).
    np.testing.assert_allclose(shown.matches[:, 2], [1 - 1 / 8, 1], atol=1e-5)


@pytest.mark.parametrize("back", [False, True])
def test_similarity_and_heat_are_where_the_match_is(translator, back):
    exemplar = coded(right=3)
    cells = np.array([[[5, 4], [9, 7]]])
    found = translator.similarity(coded()[None], exemplar[None], cells=cells, back=back)
    assert found.shape == (1, 2, CELLS, CELLS)
    step = -3 if back else 3
    for number, (row, column) in enumerate(cells[0]):
        assert found[0, number, row, column + step] == pytest.approx(1)
        assert np.sum(found[0, number] > 0.01) == 1
    drawn = correspond.heat_map(translator, coded(), exemplar, None, (18, 22), back=back)
    assert drawn.shape[0] == drawing.HEIGHT
    # The other picture is the right one, or with `back` the left one.
    other = drawn[:, : drawing.HEIGHT] if back else drawn[:, -drawing.HEIGHT :]
    middle = [int((cell + 0.5) * drawing.HEIGHT / CELLS) for cell in (5, 4 + step)]
    red, green, blue = other[middle[0], middle[1]].astype(int)
    assert red > green + 60
    assert red > blue + 60
    red, _, blue = other[10, 10].astype(int)
    assert red < blue


def test_numbers_are_drawn_on_their_points():
    drawn = np.asarray(drawing.number_points(np.zeros((64, 128, 3), np.uint8), POINTS[:1]))
    assert drawn.shape == (drawing.HEIGHT, 2 * drawing.HEIGHT, 3)
    ys, xs = np.nonzero(drawn.any(-1))
    assert abs(xs.mean() - (13.5 * 8 - 0.5)) < 1
    assert abs(ys.mean() - (20.5 * 8 - 0.5)) < 1


def test_points_are_read_from_text_and_from_files(tmp_path):
    wanted = [[1, 2], [3.5, 4]]
    assert points.parse("1,2; 3.5,4").tolist() == wanted
    assert points.parse("").shape == (0, 2)
    plain, named = tmp_path / "plain.csv", tmp_path / "named.csv"
    plain.write_text("1,2\n3.5,4,ear\n")
    assert points.parse(str(plain)).tolist() == wanted
    named.write_bytes(points.as_csv(np.array(wanted), np.zeros((2, 3))))
    assert named.read_text().splitlines()[0] == "number,x,y,match_x,match_y,confidence"
    assert points.parse(str(named)).tolist() == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("1,2;3", r"--points: point 2 is '3'; write each point as two numbers, x,y"),
        ("a,b", r"point 1 is 'a,b'"),
        ("1,nan", r"point 1 is '1,nan'"),
        ("none.csv", r"--points=none.csv cannot be read"),
        (";", r"--points has no points"),
    ],
)
def test_wrong_points_are_said(given, message):
    with pytest.raises(UserError, match=message):
        points.parse(given)


@pytest.mark.parametrize(("back", "name"), [(False, "input"), (True, "exemplar")])
def test_a_point_outside_is_said(translator, back, name):
    with pytest.raises(UserError, match=rf"point 1, 64,3, is outside of the {name}.* 64x64 pixels"):
        correspond.correspond(
            translator, coded(), coded(), None, np.array([[64.0, 3.0]]), back=back
        )
