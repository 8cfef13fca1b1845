import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.data import images, inputs, pair_files, pairing
from cocosnet_jax.data.pairing import Pair, Places
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings
from tests.data.conftest import draw_label, write_pair

DATA = DataSettings(dataset="ade20k", channels=6, exemplar_list="random")


@pytest.fixture
def folder(tmp_path):
    """Two inputs and two exemplars, each with photograph and label map beside each other."""
    for index in range(2):
        write_pair(tmp_path / "inputs", f"in_{index}", draw_label(index))
        write_pair(tmp_path / "exemplars", f"ex_{index}", draw_label(10 + index))
    return tmp_path


def find(folder, labels, exemplar, label=None, list_file="", output="out", needs_label=True, **how):
    """`exemplar` and `label` are names, or lists of them."""

    def paths(names):
        names = [names] if isinstance(names, str) else names or []
        return tuple(folder / name for name in names)

    return pairing.find_pairs(
        Places(folder / labels, paths(exemplar), paths(label), folder / output),
        str(folder / list_file) if list_file else "",
        DATA,
        needs_label=needs_label,
        **how,
    )


def test_one_pair(folder):
    files = ("inputs/in_0.png", "exemplars/ex_0.jpg", "exemplars/ex_0.png")
    label, exemplar, exemplar_label = (folder / name for name in files)
    wanted = Pair(label, (exemplar,), (exemplar_label,), folder / "out.png")
    assert find(folder, *files, output="out.png") == [wanted]


def test_one_pair_into_a_folder_that_exists(folder):
    (folder / "out").mkdir()
    pairs = find(folder, "inputs/in_0.png", "exemplars/ex_0.jpg", "exemplars/ex_0.png")
    assert pairs[0].output == folder / "out/in_0.png"


@pytest.mark.parametrize("output", ["inputs/out", "exemplars/out"])
def test_results_of_an_earlier_command_are_no_inputs(folder, output):
    wanted = find(folder, "inputs", "exemplars", "exemplars", output=output)
    assert len(wanted) == 4
    for pair in wanted:
        pair.output.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(pair.output)
    assert find(folder, "inputs", "exemplars", "exemplars", output=output) == wanted


@pytest.mark.parametrize("ending", inputs.LOSSLESS)
def test_a_folder_takes_the_label_maps_that_a_file_may_be(folder, ending):
    """With photographs beside them, some of which could be label maps by their ending."""
    for place in ("inputs/in_0", "exemplars/ex_0"):
        with Image.open(folder / f"{place}.png") as image:
            image.save(folder / f"{place}{ending.upper()}", lossless=True)
        (folder / f"{place}.png").unlink()
        (folder / f"{place}.jpg").rename(folder / f"{place}.jpeg")
    (folder / "inputs/in_1.jpg").rename(folder / "inputs/in_1.webp")
    alone = f"inputs/in_0{ending.upper()}"
    [one] = find(folder, alone, "exemplars/ex_1.jpg", needs_label=False, output="one.png")
    pairs = find(folder, "inputs", "exemplars", "exemplars", blend=True)
    assert [pair.label.name for pair in pairs] == [f"in_0{ending.upper()}", "in_1.png"]
    assert pairs[0].label == one.label
    assert [path.name for path in pairs[0].exemplars] == ["ex_0.jpeg", "ex_1.jpg"]
    assert [path.name for path in pairs[0].exemplar_labels] == [f"ex_0{ending.upper()}", "ex_1.png"]
    planes = pair_files.Reader(DATA, 64).read(pairs[0])
    for read, label in ((planes.label, 0), (planes.exemplar_label[0], 10)):
        np.testing.assert_array_equal(
            read[..., 0], images.resize_label(draw_label(label), (64, 64))
        )


def test_a_photograph_is_not_its_own_label_map(folder):
    (folder / "exemplars/ex_0.jpg").rename(folder / "exemplars/ex_0.webp")
    (folder / "exemplars/ex_0.png").unlink()
    (folder / "out").mkdir()
    pairs = find(folder, "inputs/in_0.png", "exemplars", "exemplars", blend=True)
    assert pairs[0].exemplar_labels[0] == folder / "exemplars/ex_0.png"
    with pytest.raises(UserError, match=r"exemplars/ex_0\.png does not exist"):
        pair_files.check(pairs, DATA)


def test_a_folder_takes_one_exemplar(folder):
    pairs = find(folder, "inputs", "exemplars/ex_1.jpg", "exemplars/ex_1.png")
    assert [(pair.label.name, pair.exemplars[0].name, pair.output.name) for pair in pairs] == [
        ("in_0.png", "ex_1.jpg", "in_0.png"),
        ("in_1.png", "ex_1.jpg", "in_1.png"),
    ]


def test_several_exemplars_make_a_grid(folder):
    """Of a folder, without the label maps beside its photographs; of several flags, in order."""
    for given in ("exemplars", ["exemplars/ex_0.jpg", "exemplars/ex_1.jpg"]):
        maps = given if given == "exemplars" else ["exemplars/ex_0.png", "exemplars/ex_1.png"]
        pairs = find(folder, "inputs", given, maps, ending=".jpg")
        found = [
            (pair.exemplars, pair.exemplar_labels, pair.output.relative_to(folder).as_posix())
            for pair in pairs
        ]
        assert found == [
            (
                (folder / f"exemplars/ex_{j}.jpg",),
                (folder / f"exemplars/ex_{j}.png",),
                f"out/in_{i}/ex_{j}.jpg",
            )
            for i in range(2)
            for j in range(2)
        ]
    [one, _] = find(folder, "inputs/in_0.png", "exemplars", "exemplars")
    assert one.output == folder / "out/in_0/ex_0.png"


def test_a_blend_has_all_exemplars_at_once(folder):
    twice = ["exemplars/ex_0.jpg"] * 2
    pairs = find(folder, "inputs", twice, ["exemplars/ex_0.png"] * 2, blend=True)
    assert [pair.output for pair in pairs] == [folder / "out/in_0.png", folder / "out/in_1.png"]
    assert pairs[0].exemplars == (folder / "exemplars/ex_0.jpg",) * 2
    [pair] = find(
        folder, "inputs/in_0.png", twice, needs_label=False, blend=True, output="out.jpeg"
    )
    assert pair == Pair(folder / "inputs/in_0.png", pairs[0].exemplars, (), folder / "out.jpeg")


def test_a_pair_is_read_as_arrays_of_one_size(folder):
    [pair, _] = find(folder, "inputs", ["exemplars"], ["exemplars"], blend=True)
    planes = pair_files.Reader(DATA, 64).read(pair)
    assert planes.original_size == (90, 120)
    np.testing.assert_array_equal(
        planes.label[..., 0], images.resize_label(draw_label(0), (64, 64))
    )
    for i in range(2):
        photograph = images.read_photograph(folder / f"exemplars/ex_{i}.jpg")
        np.testing.assert_array_equal(
            planes.exemplar[i], images.resize_photograph(photograph, (64, 64))
        )
        label = images.resize_label(draw_label(10 + i), (64, 64))
        np.testing.assert_array_equal(planes.exemplar_label[i, ..., 0], label)


def test_a_sheet_replaces_no_input(folder):
    pairs = find(folder, "inputs", "exemplars/ex_0.jpg", "exemplars/ex_0.png")
    with pytest.raises(UserError, match=r"in_0\.png would replace an input file"):
        pair_files.check(pairs, DATA, sheets=[folder / "inputs/in_0.png"])


def test_a_list_says_which_input_takes_which_exemplar(folder):
    (folder / "list.txt").write_text("in_1.jpg,ex_0.jpg,ex_1.jpg\r\nin_0.jpg,sub\\ex_1.jpg\r\n")
    write_pair(folder / "exemplars/sub", "ex_1", draw_label(3))
    pairs = find(folder, "inputs", "exemplars", "exemplars", "list.txt")
    assert [pair.exemplars[0] for pair in pairs] == [
        folder / "exemplars/sub/ex_1.jpg",
        folder / "exemplars/ex_0.jpg",
    ]
    assert [pair.exemplar_labels[0] for pair in pairs] == [
        folder / "exemplars/sub/ex_1.png",
        folder / "exemplars/ex_0.png",
    ]


def test_inputs_without_a_line_are_left_out(folder, capsys):
    (folder / "list.txt").write_text("\ufeffx\\in_1.jpg,ex_0.jpg,gone.jpg\r\nin_7.jpg,gone.jpg\r\n")
    pairs = find(folder, "inputs", "exemplars", "exemplars", "list.txt")
    assert [(pair.label.name, pair.exemplars[0].name) for pair in pairs] == [
        ("in_1.png", "ex_0.jpg")
    ]
    assert capsys.readouterr().out == (
        f"note: exemplar list {folder}/list.txt has lines for 1 of the 2 inputs; the other 1 are"
        " left out (in_0.png); lines for absent images: 1\n"
    )


POSES = dataclasses.replace(DATA, dataset="deepfashion", condition="channels", channels=20)


@pytest.fixture
def people(tmp_path):
    """DeepFashion's layout: four photographs of 128 x 192 with their poses."""
    joints = np.linspace((40, 30), (99, 150), 18)
    person = np.column_stack([joints, np.ones(18)]).ravel().tolist()
    for name in ("WOMEN/id_1/01_1_front", "WOMEN/id_2/01_1_front", "MEN/id_3/x", "MEN/id_4/x"):
        pose = tmp_path / f"people/pose/{name}_keypoints.json"
        pose.parent.mkdir(parents=True)
        pose.write_text(json.dumps({"people": [{"pose_keypoints_2d": person}]}))
        photograph = tmp_path / f"people/img/{name}.jpg"
        photograph.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((192, 128, 3), np.uint8)).save(photograph)
    return tmp_path / "people"


@pytest.mark.parametrize("inputs_in", ["", "img", "pose", "img/WOMEN"])
def test_the_releases_list_with_photographs_or_poses(people, inputs_in):
    """The list lies in the folder, names photographs, and two of the four only as exemplars."""
    (people / "test.txt").write_text(
        "img\\WOMEN\\id_1\\01_1_front.jpg,img\\MEN\\id_3\\x.jpg\r\n"
        "img\\WOMEN\\id_2\\01_1_front.jpg,img\\MEN\\id_4\\x.jpg"
    )
    places = Places(people / inputs_in, (people,), (), people / "out")
    pairs = pairing.find_pairs(places, f"{people}/test.txt", POSES, needs_label=False)
    assert [pair.label.parent.name for pair in pairs] == ["id_1", "id_2"]
    assert [pair.exemplars[0].relative_to(people).as_posix() for pair in pairs] == [
        "img/MEN/id_3/x.jpg",
        "img/MEN/id_4/x.jpg",
    ]
    pair_files.check(pairs, POSES)


def test_no_result_replaces_the_photograph_of_a_pose(people):
    pose = people / "pose/MEN/id_3/x_keypoints.json"
    pair = Pair(pose, (), (), people / "img/MEN/id_3/x.jpg")
    with pytest.raises(UserError, match=r"id_3/x\.jpg would replace an input file"):
        pair_files.check([pair], POSES)


def test_an_exemplars_pose_is_found_in_its_folder(people):
    (people / "list.txt").write_text("id_1/01_1_front,id_3/x\n")
    folders = (people / "img/MEN",), (people / "pose/MEN",)
    places = Places(people / "pose/WOMEN", *folders, people / "out")
    [pair] = pairing.find_pairs(places, f"{people}/list.txt", POSES, needs_label=True)
    assert pair.exemplar_labels == (people / "pose/MEN/id_3/x_keypoints.json",)
    pair_files.check([pair], POSES)


def test_poses_in_a_corner_are_a_question(people):
    for photograph in people.glob("img/WOMEN/*/*.jpg"):
        Image.fromarray(np.zeros((576, 384, 3), np.uint8)).save(photograph)
    out = people / "out"
    places = Places(people / "img", (), (), out)
    pairs = pairing.find_pairs(places, "", POSES, needs_label=False)
    pair_files.check(pairs, POSES)  # two of four
    women = pairs[2:]
    with pytest.raises(UserError) as error:
        pair_files.check(women, POSES)
    assert str(error.value) == (
        "in 2 of 2 poses all joints are in the upper left 60% of the photograph's width and height"
        f" ({people}/pose/WOMEN/id_1/01_1_front_keypoints.json: up to (99, 150) of 384x576 pixels)."
        " If the poses were detected in smaller pictures, set --pose-size to their"
        " size, for example --pose-size=256x256. If they are correct, set --pose-size=photograph"
    )
    for answer in ("photograph", "128x192"):
        pair_files.check(women, POSES, pose_size=answer)
    pair_files.check(women, dataclasses.replace(POSES, pose_size="128x192"))


def test_an_exemplars_pose_in_a_corner_is_said(people, capsys):
    exemplar = people / "img/WOMEN/id_1/01_1_front.jpg"
    pose = people / "pose/WOMEN/id_1/01_1_front_keypoints.json"
    pair = Pair(people / "img/MEN/id_3/x.jpg", (exemplar,), (pose,), people / "out.png")
    pair_files.check([pair], POSES)
    assert capsys.readouterr().out == ""
    Image.fromarray(np.zeros((576, 384, 3), np.uint8)).save(exemplar)
    pair_files.check([pair], POSES)
    assert f"({pose}: up to (99, 150) of 384x576 pixels)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.png", "exemplars/ex_0.jpg", "x.png"), "none.png does not exist"),
        (("inputs", "exemplars/ex_0.jpg"), "--exemplar-label is missing; this checkpoint"),
        (("inputs", "exemplars/empty", "exemplars"), "exemplars/empty contains no photographs"),
        (("inputs", "exemplars", "a.png"), "a.png must be a folder, because --exemplar="),
        (("inputs", ["a.jpg", "b.jpg"], "a.png"), "is given 2 times, but --exemplar-label 1 times"),
        (("inputs/in_0.png", "exemplars", "exemplars", "", "out.png"), "or set --blend for one"),
        (("inputs", ["b/a.jpg", "c/a.png"], ["x", "y"]), "a.jpg and .*c/a.png have the same name"),
        (("inputs", "a.jpg", "b.png", "short.txt"), "a.jpg must be one folder, because --list"),
        (("inputs", "exemplars", "exemplars", "none.txt"), "names none of the 2 inputs (in_0.png,"),
        (
            ("inputs", "exemplars", "exemplars", "wrong.txt"),
            "line 2: exemplar 'gone.jpg' is not",
        ),
        (("inputs/in_0.png", "a.jpg", "b.png", "short.txt"), "--list needs a folder of inputs"),
        (("exemplars/empty", "a.jpg", "b.png"), "for a model of ade20k (.png, .bmp, .tif"),
        (("inputs", "a.jpg", "b.png", "", "out.png"), "must be a folder, because"),
        (("inputs/in_0.png", "a.jpg", "b.png", "", "out.bmp"), "must end in .png or .jpg"),
    ],
)
def test_what_does_not_fit_together_is_said(folder, arguments, said):
    (folder / "short.txt").write_text("in_0.png,ex_0.jpg\n")
    (folder / "none.txt").write_text("in_7.png,ex_0.jpg\n")
    (folder / "wrong.txt").write_text("in_0.png,ex_0.jpg\nin_1.png,gone.jpg\n")
    (folder / "exemplars/empty").mkdir()
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        find(folder, *arguments)


def test_every_wrong_file_is_listed_before_anything_is_written(folder):
    bad = np.full((8, 8), 77, np.uint8)
    Image.fromarray(bad).save(folder / "inputs/in_1.png")
    photograph = folder / "exemplars/ex_0.jpg"
    photograph.write_bytes(photograph.read_bytes()[:100])
    pairs = find(folder, "inputs", "exemplars/ex_0.jpg", "exemplars/none.png")
    with pytest.raises(UserError) as error:
        pair_files.check(pairs, DATA)
    message = str(error.value)
    assert "the translation has 3 problems" in message
    assert (
        "in_1.png contains the values 77 (64 pixels); allowed are 0 to 5: the model knows no"
        in message
    )
    assert "ex_0.jpg cannot be read as an image" in message
    assert "none.png does not exist" in message
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("labels", "exemplar", "output", "warped", "said"),
    [
        ("inputs/in_0.png", "exemplars/ex_0.jpg", "inputs", False, "inputs/in_0.png would replace"),
        ("inputs", "exemplars/ex_0.jpg", "inputs", False, "has 2 problems"),
        ("inputs/in_0.png", "inputs/in_1.png", "inputs/in_1.png", False, "in_1.png would replace"),
        ("inputs", "exemplars/ex_0.jpg", "out", True, "a_warped.png would both be written to"),
    ],
)
def test_no_result_replaces_a_file_that_is_read(folder, labels, exemplar, output, warped, said):
    if warped:
        for name in ("a.png", "a_warped.png"):
            Image.fromarray(draw_label(0)).save(folder / "inputs" / name)
    pairs = find(folder, labels, exemplar, "exemplars/ex_0.png", output=output)
    with pytest.raises(UserError, match=said):
        pair_files.check(pairs, DATA, extra=pair_files.Extra(warped=warped))


def test_no_result_replaces_an_annotation(tmp_path):
    data = dataclasses.replace(DATA, dataset="folder_edges", condition="channels", channels=2)
    for name in ("images/a.png", "edges/a.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    picture = tmp_path / "images/a.png"
    pair = Pair(picture, (picture,), (), tmp_path / "edges/a.png")
    with pytest.raises(UserError, match=r"edges/a\.png would replace an input file"):
        pair_files.check([pair], data)
    pair_files.check([pair._replace(output=tmp_path / "out/a.png")], data)


def test_an_exemplar_in_its_datasets_layout_needs_no_map(tmp_path):
    data = dataclasses.replace(DATA, dataset="celebahqedge", condition="channels", channels=15)
    for folder in ("CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "elsewhere"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "7.jpg").touch()
    photograph = tmp_path / "CelebA-HQ-img/7.jpg"

    def pairs(inputs, exemplar, list_file=""):
        out = tmp_path / ("out" if inputs.is_dir() else "out.png")
        places = Places(inputs, (exemplar,), (), out)
        return pairing.find_pairs(places, list_file, data, needs_label=True)

    [pair] = pairs(photograph, photograph)
    assert pair == Pair(photograph, (photograph,), (photograph,), tmp_path / "out.png")
    [pair] = pairs(photograph.parent, photograph)
    assert pair.output == tmp_path / "out/7.png"
    (tmp_path / "list.txt").write_text("7,7")
    [pair] = pairs(photograph.parent, photograph.parent, str(tmp_path / "list.txt"))
    assert pair == Pair(photograph, (photograph,), (photograph,), tmp_path / "out/7.png")
    with pytest.raises(UserError, match="--exemplar-label is missing"):
        pairs(photograph, tmp_path / "elsewhere/7.jpg")


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    """Pictures would be left out. It is simulated, since root may read all folders."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed/a.png").touch()
    (tmp_path / "b.png").touch()
    assert pairing.files_below(tmp_path) == ["b.png", "closed/a.png"]
    scandir = os.scandir

    def guarded(folder):
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match="closed"):
        pairing.files_below(tmp_path)


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").touch()
    (tmp_path / "pictures/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "pictures")
    (tmp_path / "pictures/broken.png").symlink_to(tmp_path / "nothing")
    assert pairing.files_below(tmp_path / "pictures") == ["linked/a.png"]
