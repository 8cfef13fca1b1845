import pytest

from cocosnet_jax.data import exemplars
from cocosnet_jax.errors import StorageError, UserError

KEYS = ["training/a.jpg", "training/b.jpg", "validation/ü.jpg", "x/01_front.jpg", "y/01_front.jpg"]


def write(path, text):
    path.write_bytes(text.encode())
    return path


def test_windows_files_are_read_as_they_are(tmp_path):
    path = write(
        tmp_path / "l.txt", "\ufefftraining\\a.jpg,x\\01_front.jpg,b.jpg\r\n\r\nb,ü.jpg\r\n"
    )
    assert exemplars.read_list(path) == [
        (1, "training\\a.jpg", ("x\\01_front.jpg", "b.jpg")),
        (3, "b", ("ü.jpg",)),
    ]
    assert exemplars.resolve(path, KEYS, KEYS) == ({0: (3, 1), 1: (2,)}, 0)


def test_written_lists_are_read_back(tmp_path):
    lists = {"training/a.jpg": ["x/01_front.jpg", "ü.jpg"], "training/b.jpg": ["a.jpg"]}
    exemplars.write_list(tmp_path / "l.txt", lists)
    assert {k: list(r) for _, k, r in exemplars.read_list(tmp_path / "l.txt")} == lists
    assert [path.name for path in tmp_path.iterdir()] == ["l.txt"]


def test_lines_for_other_images_are_passed_over(tmp_path):
    path = write(tmp_path / "l.txt", "other.jpg,gone.jpg\nb,a\n")
    assert exemplars.resolve(path, KEYS, KEYS) == ({1: (0,)}, 1)


def test_images_without_a_line_are_left_out_and_said(tmp_path):
    path = write(tmp_path / "l.txt", "b,a\nother,a\na,b\n")
    pairing = exemplars.resolve(path, KEYS, KEYS)
    assert list(pairing.references) == [0, 1]  # in the order of the images
    exemplars.require_match(path, pairing, KEYS, "photographs")
    assert exemplars.left_out_note(path, pairing, KEYS, "photographs") == (
        f"note: exemplar list {path} has lines for 2 of the 5 photographs; the other 3 are left out"
        f" ({KEYS[2]}, {KEYS[3]}, {KEYS[4]}); lines for absent images: 1"
    )
    assert exemplars.left_out_note(path, pairing, KEYS[:2], "photographs") is None
    path = write(tmp_path / "l.txt", "\nother,a\n")
    with pytest.raises(
        UserError, match=r"names none of the 5 photographs \(.*, \.\.\.\); its line 2 is"
    ):
        exemplars.require_match(path, exemplars.resolve(path, KEYS, KEYS), KEYS, "photographs")


def test_only_the_first_exemplar_is_looked_for_where_only_it_is_read(tmp_path):
    path = write(tmp_path / "l.txt", "a,b,gone\n")
    found = exemplars.resolve(path, KEYS, KEYS, first_only=True)
    assert found.references == {0: (1,)}
    path = write(tmp_path / "l.txt", "a,gone,b\n")
    with pytest.raises(UserError, match=r"line 1: exemplar 'gone' is not in --exemplar=x"):
        exemplars.resolve(path, KEYS, KEYS, first_only=True, place="--exemplar=x")


def test_a_list_that_cannot_be_written_whole_is_not_there(tmp_path):
    path = write(tmp_path / "l.txt", "a,b\n")
    (tmp_path / "l.txt.partial").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"l\.txt cannot be written .*No space left"):
        exemplars.write_list(path, {"c": ["d"]})
    assert path.read_text() == "a,b\n"
    assert [path.name for path in tmp_path.iterdir()] == ["l.txt"]


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("training/a.jpg", 0),
        ("./training/a", 0),
        ("\\training\\a.png", 0),
        ("a.jpg", 0),
        ("a", 0),
        ("ADE/images/training/b.jpg", 1),  # folders above the dataset's
        ("u\u0308.jpg", 2),  # decomposed, as macOS writes it
        ("y\\01_front.jpg", 4),
        ("01_front.jpg", -1),
        ("z/01_front.jpg", None),  # another folder, whatever the file is called
        ("other/a.jpg", None),
        ("c.jpg", None),
        ("raining/a.jpg", None),
    ],
)
def test_a_key_is_found_by_any_of_its_names(name, position):
    assert exemplars.KeyIndex(KEYS).find(name) == position


def test_everything_wrong_is_reported_at_once(tmp_path):
    path = write(
        tmp_path / "l.txt", "a,b\nother.jpg,gone\nb,gone.jpg,a\na.jpg,ü\nü,01_front\n01_front,a\n"
    )
    with pytest.raises(UserError) as error:
        exemplars.resolve(path, KEYS, KEYS)
    assert str(error.value).splitlines() == [
        f"exemplar list {path} has 4 problems:",
        "  line 3: exemplar 'gone.jpg' is not in the dataset",
        "  line 4: image 'a.jpg' already has line 1; keep one of the two",
        "  line 5: exemplar '01_front' matches several images; add its folder to the name",
        "  line 6: image '01_front' matches several images; add its folder to the name",
    ]


def test_a_thousand_problems_are_counted_and_ten_shown(tmp_path):
    path = write(tmp_path / "l.txt", "a" + "".join(f",gone{i}" for i in range(1000)))
    with pytest.raises(UserError) as error:
        exemplars.resolve(path, KEYS, KEYS)
    lines = str(error.value).splitlines()
    assert (len(lines), lines[0][-18:]) == (12, "has 1000 problems:")
    assert lines[-1] == "  ... and 990 more"


def test_files_that_are_no_lists(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt does not exist"):
        exemplars.read_list(tmp_path / "gone.txt")
    with pytest.raises(UserError, match="the file is empty"):
        exemplars.read_list(write(tmp_path / "empty.txt", "\n"))
    with pytest.raises(UserError, match=r"line 2: 'b' must be 'key,ref1,ref2,\.\.\.'"):
        exemplars.read_list(write(tmp_path / "short.txt", "a,b\nb\n"))
    (tmp_path / "latin.txt").write_bytes("ü,a\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt is not UTF-8 text"):
        exemplars.read_list(tmp_path / "latin.txt")
