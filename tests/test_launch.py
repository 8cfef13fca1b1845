import os
import subprocess

import pytest

from tests.conftest import ROOT


def stub(folder, name, script):
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("project", [[], ["--project=mine"]])
def test_tpu_vm_works_with_the_tools_of_macos(tmp_path, project):
    stub(tmp_path, "git", "exit 0")
    stub(tmp_path, "gcloud", 'echo "$@"')
    # Like that of macOS, without long options.
    stub(tmp_path, "mktemp", f'[ "$*" = -d ] && mkdir {tmp_path}/made && echo {tmp_path}/made')
    done = subprocess.run(
        [
            "bash",
            ROOT / "launch/tpu_vm.sh",
            "--tpu=v5e",
            "--zone=z",
            *project,
            "--",
            "--config=a b",
        ],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    where = " ".join(["--zone=z", *project, "--worker=all"])
    copied, started = done.stdout.split("\n", 1)
    archive = tmp_path / "made/cocosnet_jax.tar.gz"
    assert copied == f"compute tpus tpu-vm scp {archive} v5e:cocosnet_jax.tar.gz {where}"
    assert started.startswith(f"compute tpus tpu-vm ssh v5e {where} --command=")
    assert started.endswith(r"--distributed=auto --config=a\ b" + "\n")
    assert not (tmp_path / "made").exists()
