import os
import signal
import subprocess

from tests.conftest import ROOT


def test_sigterm_leaves_nothing(program, tmp_path):
    process = subprocess.Popen(
        program.command(
            "prepare", "--config=configs/toy.py", f"--config.data.data_dir={tmp_path}/prepared"
        ),
        cwd=ROOT,
        env=program.environment(),
        stderr=subprocess.PIPE,
    )
    said = b""
    # The progress line is written again and again, without line ends: its second picture is enough.
    while b"/320 [00:0" not in said.replace(b" 0/320 [00:0", b""):
        part = os.read(process.stderr.fileno(), 4096)
        assert part, said
        said += part
    process.send_signal(signal.SIGTERM)
    said += process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert b"interrupted: nothing is prepared; the same command starts again" in said
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
