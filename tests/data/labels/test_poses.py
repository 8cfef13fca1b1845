import json
from pathlib import Path

import numpy as np
import pytest

from cocosnet_jax.data import images
from cocosnet_jax.data.labels.pose_canvas import canvas_of
from cocosnet_jax.data.labels.pose_drawing import LIMBS, PLANES, draw_pose
from cocosnet_jax.data.labels.poses import find_pose, read_pose
from cocosnet_jax.errors import UserError

SHARED = Path(__file__).parents[3] / ".." / "shared"
SIZE = (90, 120)  # height, width


def a_pose(seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, (SIZE[1], SIZE[0]), (18, 2))


def write_text(folder, joints, *, subset=None, extra_rows=0):
    seen = np.flatnonzero(~np.isnan(joints[:, 0]))
    rows = np.column_stack([joints[seen], np.full(len(seen), 0.9), np.arange(len(seen))])
    rows = np.concatenate([np.full((extra_rows, 4), 3.0), rows])
    indices = np.full(18, -1.0)
    indices[seen] = np.arange(len(seen)) + extra_rows
    subset = [[*indices, 17.5, len(seen)]] if subset is None else subset
    np.savetxt(folder / "a_candidate.txt", rows)
    np.savetxt(folder / "a_subset.txt", subset)
    return folder / "a_candidate.txt"


def test_text_files(tmp_path):
    joints = a_pose()
    joints[[4, 11]] = np.nan
    path = write_text(tmp_path, joints, extra_rows=2)
    np.testing.assert_array_equal(read_pose(path, SIZE), joints)
    np.testing.assert_array_equal(read_pose(tmp_path / "a_subset.txt", SIZE), joints)


def test_the_person_of_the_highest_score_is_taken(tmp_path):
    joints = a_pose()
    first, second = [-1.0] * 18, [-1.0] * 18
    first[0], second[0] = 3, 5
    write_text(tmp_path, joints, subset=[[*first, 1.0, 1], [*second, 2.0, 1]])
    np.testing.assert_array_equal(read_pose(tmp_path / "a_subset.txt", SIZE)[0], joints[5])


def person(keypoints, confidence=0.5):
    flat = np.column_stack([np.nan_to_num(keypoints), np.full(len(keypoints), confidence)])
    flat[np.isnan(keypoints[:, 0])] = 0
    return {"pose_keypoints_2d": flat.reshape(-1).tolist()}


def test_json_of_both_models(tmp_path):
    coco = a_pose(1)
    coco[[3, 16]] = np.nan
    # BODY_25: the hips' middle comes after the left wrist; six joints of the feet at the end.
    body = np.concatenate([coco[:8], [[7, 7]], coco[8:], np.full((6, 2), 5.0)])
    for name, keypoints in (("coco", coco), ("body", body)):
        path = tmp_path / f"{name}_keypoints.json"
        path.write_text(json.dumps({"people": [person(a_pose(2), 0.1), person(keypoints)]}))
        np.testing.assert_array_equal(read_pose(path, SIZE), coco)


def test_a_list_of_one_pose(tmp_path):
    joints = a_pose(1)
    content = {"people": [person(joints)], "canvas_width": 120, "canvas_height": 90}
    (tmp_path / "a.json").write_text(json.dumps([content]))
    np.testing.assert_allclose(read_pose(tmp_path / "a.json", SIZE), joints)
    assert canvas_of(tmp_path / "a.json", None, "") == SIZE


def test_joints_from_minus_1_to_1(tmp_path):
    joints = np.linspace((-0.5, -0.9), (0.4, 0.9), 18)
    (tmp_path / "a.json").write_text(json.dumps({"people": [person(joints)]}))
    with pytest.raises(UserError, match="all joints between -1 and 1, which are not pixels"):
        read_pose(tmp_path / "a.json", SIZE)


def test_a_picture_of_a_pose_is_no_pose(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=r"picture .*a\.png; run .* --write_json"):
        read_pose(find_pose(tmp_path / "a"), SIZE)


def test_the_size_that_was_given_is_not_the_advice(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"people": [person(a_pose() * 5)]}))
    with pytest.raises(UserError, match=r"outside .* of 256x256 .*for example 512x512"):
        read_pose(tmp_path / "a.json", (256, 256))


def test_text_and_json_give_one_drawing(tmp_path):
    joints = np.floor(a_pose())
    path = write_text(tmp_path, joints)
    json_path = tmp_path / "a_keypoints.json"
    json_path.write_text(json.dumps({"people": [person(joints)]}))
    first, second = (draw_pose(read_pose(p, SIZE), SIZE, (64, 64)) for p in (path, json_path))
    np.testing.assert_array_equal(first, second)


def test_a_single_joint_is_a_disc_in_its_exchanged_colour():
    joints = np.full((18, 2), np.nan)
    joints[1] = (40.9, 30.2)
    planes = draw_pose(joints, SIZE, SIZE)
    assert planes.shape == (*SIZE, PLANES)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    squared = (x - 40) ** 2 + (y - 30) ** 2  # truncated coordinates
    assert (planes[squared <= 15, :3] == (0, 85, 255)).all()
    assert (planes[squared > 20, :3] == 0).all()
    assert (planes[..., 3:] == 255).all()


def test_a_limb_is_a_blended_ellipse_with_its_distance_map():
    joints = np.full((18, 2), np.nan)
    joints[1], joints[2] = (20, 40), (100, 40)  # neck and right shoulder: the first limb
    planes = draw_pose(joints, SIZE, SIZE)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ellipse = ((x - 60) / 40) ** 2 + ((y - 40) / 4) ** 2
    limb = planes[..., 3] == 0  # within two pixels of the ellipse
    assert limb[ellipse < 0.8].all()
    assert not limb[(np.abs(x - 60) > 42) | (np.abs(y - 40) > 6)].any()
    drawn = (planes[..., :3] > 0).any(-1) & (np.abs(x - 60) < 35)  # away from the discs
    assert drawn[(ellipse < 0.8) & (np.abs(x - 60) < 35)].all()
    assert not drawn[ellipse > 1.3].any()
    # The first colour over black at 0.6, with the channels exchanged.
    assert planes[40, 60, :3].tolist() == [0, 0, 153]
    # Far above the middle the nearest pixel of the limb is straight below.
    assert planes[6, 60, 3] == (36 - 6) // 3
    assert (planes[..., 4:] == 255).all()


def test_joints_and_limbs_are_openposes():
    assert len(LIMBS) == 17
    assert np.unique(LIMBS).tolist() == list(range(1, 19))  # every joint belongs to a limb
    assert np.isin(2, LIMBS[0])


def test_maps_are_resized_bilinearly_and_the_drawing_by_nearest():
    planes, double = (draw_pose(a_pose(), (64, 64), size) for size in ((64, 64), (128, 128)))
    np.testing.assert_array_equal(double[::2, ::2, :3], planes[..., :3])
    np.testing.assert_array_equal(double[1::2, 1::2, :3], planes[..., :3])
    inner = planes[:, :, 3:].astype(np.float64)
    # Half-pixel centres: a quarter of the neighbour and three quarters of the pixel, per axis.
    rows = 0.75 * inner[1:-1] + 0.25 * inner[:-2]
    expected = 0.75 * rows[:, 1:-1] + 0.25 * rows[:, :-2]
    assert np.abs(double[2:-2:2, 2:-2:2, 3:] - expected).max() <= 1


@pytest.mark.parametrize(
    ("candidate", "subset", "message"),
    [
        ("1 2 3\n", "", r"a_candidate\.txt, line 1, is '1 2 3', but must be 4 numbers"),
        ("1 2 nan 0\n", "", r"a_candidate\.txt, line 1"),
        ("1 2 .9 0\n", "0 1 2\n", r"a_subset\.txt, line 1, is '0 1 2', but must be 20 numbers"),
        ("1 2 .9 0\n", "", r"contains no person; run the pose detector again"),
        ("1 2 .9 0\n", "-1 " * 18 + "0 0\n", r"contains no person"),
        ("1 2 .9 0\n", "4 " * 18 + "9 18\n", r"refers to row 4 as joint 1, .* has 1 rows"),
        ("1 2 .9 0\n", "0.5 " * 18 + "9 18\n", r"refers to row 0\.5 as joint 1"),
        ("1 2 .9 0\n900 2 .9 0", "1 " * 18 + "9 18\n", r"joint at \(900, 2\), .* 120x90 pixels"),
        (".5 .2 .9 0\n", "0 " * 18 + "9 18\n", r"all joints between 0 and 1"),
        (None, "0 " * 18 + "9 18\n", r"a_candidate\.txt does not exist"),
    ],
)
def test_wrong_text_files(tmp_path, candidate, subset, message):
    if candidate is not None:
        (tmp_path / "a_candidate.txt").write_text(candidate)
    (tmp_path / "a_subset.txt").write_text(subset)
    with pytest.raises(UserError, match=message):
        read_pose(tmp_path / "a_subset.txt", SIZE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a\.json is not OpenPose's JSON \(JSONDecodeError"),
        ("[]", r"is not OpenPose's JSON \(TypeError"),
        ('{"persons": []}', r"is not OpenPose's JSON \(KeyError: 'people'"),
        ('{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', r"pose_keypoints_2d has 3 numbers"),
        ('{"people": []}', r"a\.json contains no person"),
    ],
)
def test_wrong_json(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_pose(tmp_path / "a.json", SIZE)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared with sample photographs")
def test_sample_photographs_equal_the_release():
    reference = np.load(SHARED / "reference" / "labels_deepfashion.npz")
    root = SHARED / "samples" / "DeepFashion"
    list_file = (SHARED / "samples" / "deepfashion_ref_test.txt").read_text()
    pairs = dict(line.split(",") for line in list_file.replace("\\", "/").splitlines())
    for position, name in enumerate(reference["names"]):
        key = str(name).removeprefix("DeepFashion/")
        for which, picture, file in (("label", "image", key), ("label_ref", "ref", pairs[key])):
            photograph = images.read_photograph(root / file)
            pose = root / file.replace("img/", "pose/", 1).replace(".jpg", "_candidate.txt")
            joints = read_pose(pose, photograph.shape[:2])
            planes = draw_pose(joints, photograph.shape[:2], (256, 256)).transpose(2, 0, 1)
            expected = np.rint(reference[which][position].astype(np.float64) * 255)
            np.testing.assert_array_equal(planes, expected)
            resized = images.resize_photograph(photograph, (256, 256)).transpose(2, 0, 1)
            expected = (reference[picture][position].astype(np.float64) + 1) * 127.5
            assert np.abs(resized - expected).max() <= 1
