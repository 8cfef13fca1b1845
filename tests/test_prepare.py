from PIL import ImageFont

from cocosnet_jax.data import preview


def test_sigterm_leaves_nothing(program, tmp_path):
    given = ["--config=configs/toy.py", f"--config.data.data_dir={tmp_path}/prepared"]
    # Three pictures are done.
    done = program.signalled("SIGTERM", "tqdm:tqdm.update:3", "prepare", *given)
    assert done.returncode == 130, done.stderr
    assert "interrupted: nothing is prepared; run the same command again" in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_preview_that_cannot_be_written(program, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    # A few pictures.
    config, _, *fields = program.train_arguments(tmp_path)
    data = [field for field in fields if field.startswith("--config.data.")]
    arguments = [config, *data, f"--config.data.data_dir={tmp_path}/prepared"]
    done = program.run("prepare", *arguments, "--preview=/proc/1/sheet.png")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --preview=/proc/1 cannot be written to: ")
    assert not (tmp_path / "prepared").exists()
    # The home folder is meant by ~; what is written there first is on a disk that is full.
    partial = tmp_path / "sheet.png.partial"
    partial.symlink_to("/dev/full")
    done = program.run("prepare", *arguments, "--preview=~/sheet.png")
    assert done.returncode == 75
    assert done.stderr.splitlines()[-1] == (
        f"error: {tmp_path}/sheet.png cannot be written ([Errno 28] No space left on device);"
        " free some space, or choose another folder"
    )
    assert not partial.is_symlink()
    done = program.run("prepare", *arguments, "--preview=~/sheet.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.png").exists()


def test_titles_of_the_preview_fit_above_pictures_of_64_pixels():
    font = ImageFont.load_default()
    assert max(font.getlength(title) for title in preview.COLUMNS) <= 64 - 2 * 3
