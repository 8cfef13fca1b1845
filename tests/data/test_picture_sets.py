import shutil

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.data import picture_sets
from cocosnet_jax.errors import UserError

SIDE = 16


def write(path, seed=0, size=(SIDE, SIDE)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    for index in range(3):
        write(tmp_path / f"results/{index}.png", index)
        write(tmp_path / f"photographs/{index}.jpg", 10 + index)
    return tmp_path


def find(folder, **given):
    return picture_sets.find(folder / "results", folder / "photographs", **given)


def test_files_belong_together_by_name(folder):
    shutil.copytree(folder / "photographs", folder / "exemplars")
    (folder / "list.txt").write_text("0,2.jpg\n2,0.jpg\nanother,1.jpg\n")
    sets = find(folder, exemplar_folder=folder / "exemplars")
    assert sets.keys == ["0", "1", "2"]
    assert [path.name for path in sets.real] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [path.name for path in sets.exemplars] == ["0.jpg", "1.jpg", "2.jpg"]
    listed = find(folder, exemplar_folder=folder / "exemplars", list_file=str(folder / "list.txt"))
    assert listed.keys == ["0", "2"]
    assert [path.name for path in listed.real] == ["0.jpg", "2.jpg"]
    assert [path.name for path in listed.exemplars] == ["2.jpg", "0.jpg"]


def test_what_lies_beside_results_is_left_out(folder, capsys):
    """By `translate --warped --confidence`, of PNG and JPEG."""
    find(folder)
    assert capsys.readouterr().out == ""
    write(folder / "results/3.jpg")
    write(folder / "photographs/3.jpg")
    for name in ("1_warped.png", "1_confidence.png", "3_warped.jpg", "3_confidence.png"):
        write(folder / f"results/{name}")
    assert find(folder).keys == ["0", "1", "2", "3"]
    results = folder / "results"
    assert capsys.readouterr().out == (
        "note: 4 file(s) that `translate` writes beside its results are left out:"
        f" {results}/1_confidence.png, {results}/1_warped.png, {results}/3_confidence.png, ...\n"
    )
    # A result may have such a name.
    for name in ("a_warped.png", "_confidence.png"):
        write(folder / f"results/{name}")
        write(folder / f"photographs/{name}")
    assert find(folder).keys == ["0", "1", "2", "3", "_confidence", "a_warped"]


def test_the_sheets_of_a_grid_are_left_out(folder, capsys):
    write(folder / "results/grid.png")
    write(folder / "photographs/grid.jpg")
    assert find(folder).keys == ["0", "1", "2", "grid"]  # a picture of this name
    assert capsys.readouterr().out == ""
    for sheets in (["grid.png"], ["grid_1.jpg", "grid_2.jpg"]):
        shutil.rmtree(folder / "results")
        write(folder / "results/in/0.png")
        for name in sheets:
            write(folder / f"results/{name}")
        assert find(folder, paired=False).keys == ["in/0"]
        shown = ", ".join(f"{folder}/results/{name}" for name in sheets)
        assert capsys.readouterr().out.endswith(f"beside its results are left out: {shown}\n")


def test_all_files_without_counterpart_are_listed(folder):
    write(folder / "results/a.png")
    write(folder / "results/b.png")
    write(folder / "photographs/c.png")
    write(folder / "labels/0.png")
    with pytest.raises(UserError) as error:
        find(folder, labels=folder / "labels")
    for part in (
        "has 8 problems",
        f"--real={folder}/photographs has none of the name of a.png",
        "none of the name of b.png",
        f"--generated={folder}/results has none of the name of c.png",
        "5 generated and 4 real pictures",
        "--unpaired",
        f"--labels={folder}/labels has none of the name of 1.png",
    ):
        assert part in str(error.value)
    sets = find(folder, paired=False)
    assert (len(sets.generated), len(sets.real)) == (5, 4)
    with pytest.raises(UserError, match="--labels=nowhere is no folder"):
        find(folder, labels=folder.__class__("nowhere"))


def test_all_unreadable_files_and_other_sizes_are_listed(folder):
    write(folder / "results/0.png", size=(20, 16))
    (folder / "photographs/2.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError) as error:
        picture_sets.check(find(folder), 0, "png")
    assert "has 2 problems" in str(error.value)
    # The odd one is named, though it is the first.
    assert (
        f"{folder}/results/0.png has 20x16 pixels (width x height), and 4 of 5 files have 16x16:"
        " --size=SIDE resizes all"
    ) in str(error.value)
    assert "photographs/2.jpg cannot be read" in str(error.value)
    write(folder / "photographs/2.jpg")
    sets = picture_sets.check(find(folder), 32, "png")
    assert sets.picture(sets.generated[0]).shape == (32, 32, 3)


def test_photographs_of_another_size_than_results_are_listed(folder):
    for index in range(3):
        write(folder / f"photographs/{index}.jpg", size=(20, 16))
    with pytest.raises(UserError) as error:
        picture_sets.check(find(folder), 0, "png")
    assert "has 3 problems" in str(error.value)
    wanted = f"{folder}/photographs/2.jpg has 20x16 pixels (width x height), and 3 of 6 files have"
    assert f"{wanted} 16x16" in str(error.value)
    (folder / "photographs/2.jpg").unlink()
    write(folder / "photographs/2.jpg")
    write(folder / "photographs/1.jpg")
    write(folder / "photographs/0.jpg")
    assert picture_sets.check(find(folder), 0, "png").size == (SIDE, SIDE)


def test_generated_pictures_are_compressed_once(folder):
    pixels = write(folder / "results/0.png")
    sets = picture_sets.check(find(folder), 0, "jpeg")
    Image.fromarray(pixels).save(folder / "wanted.jpg", quality=75)
    wanted = np.asarray(Image.open(folder / "wanted.jpg"))
    np.testing.assert_array_equal(sets.picture(sets.generated[0], generated=True), wanted)
    np.testing.assert_array_equal(sets.picture(sets.generated[0]), pixels)
    # What is JPEG already stays as it is.
    np.testing.assert_array_equal(sets.picture(folder / "wanted.jpg", generated=True), wanted)
