"""The examples of the launch programs, Slurm, several processes, and all shell scripts."""

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from jax._src import clusters

from cocosnet_jax.errors import UserError
from launch import commands, slurm, tpu_host
from tests.conftest import ROOT

SHELLCHECK = Path(sys.executable).with_name("shellcheck")


def example(module):
    """The command line in a program's --help, up to the program's name."""
    lines = module.__doc__.split("\n\n")[1]
    words = shlex.split(lines.replace("\\\n", " "))
    assert words[:3] == ["python", "-m", module.__name__]
    return words[3:]


@pytest.mark.parametrize("name", ["tpu_vm", "gke", "slurm"])
def test_the_example_is_complete(name, stand_ins, capsys, monkeypatch):
    """Its run is checked for 16 devices; tests/test_examples.py has that check."""
    checked = []
    monkeypatch.setattr(
        commands, "check_run", lambda of_run, devices, **_: checked.append((of_run, devices))
    )
    module = importlib.import_module(f"launch.{name}")
    arguments = example(module)
    place = arguments.index("--")
    module.main([*arguments[:place], "--dry-run", *arguments[place:]])
    assert checked == [(arguments[place + 1 :], 16)]
    printed = capsys.readouterr().out
    assert "--distributed=auto" in printed or "launch/slurm.sbatch" in printed


def test_a_run_is_checked_by_main_for_its_number_of_devices(capsys):
    of_run = ["--config=toy", "--workdir=gs://b/w", "--config.train.batch_size=32"]
    commands.check_run(of_run, 16, bucket=True)
    assert capsys.readouterr().err == "batches of 32, 2 on each of 16 device(s)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give them after `--`"),
        (["--config=toy", "--workdir=runs/toy"], "--workdir is runs/toy; it must be in a bucket"),
        (["--config=toy"], "--workdir is missing; it must be in a bucket"),
        (
            ["--config=toy", "--workdir=gs://b/w", "--config.train.batch_size=24"],
            r"config.train.batch_size is 24, which does not split evenly over 16 devices; set it",
        ),
    ],
)
def test_the_flags_of_a_run_are_checked_before_anything_is_created(arguments, message):
    with pytest.raises(UserError, match=message):
        commands.check_run(arguments, 16, bucket=True)


@pytest.fixture
def cluster(stand_ins):
    stand_ins.add("sbatch", "srun", "scontrol")
    return stand_ins


@pytest.mark.usefixtures("unhurried")
def test_slurm_submits_the_job(cluster, capsys):
    arguments = ["--nodes=2", "--gpus-per-node=8", "--time=24:00:00", "--", "--config=a b"]
    assert slurm.main([*arguments[:3], "--dry-run", *arguments[3:]]) == 0
    assert cluster.commands() == []
    printed = capsys.readouterr().out
    assert slurm.main(arguments) == 0
    line = "sbatch --nodes=2 --gpus-per-node=8 --time=24:00:00 launch/slurm.sbatch"
    assert cluster.commands() == [f"{line} --config=a b"]
    assert printed == f"{line} '--config=a b'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes=2"], "required: --gpus-per-node"),
        (["--nodes=0", "--gpus-per-node=1"], "--nodes=0: must be 1 or more"),
        (["--nodes=1", "--gpus-per-node=1", "--config=toy"], "--config=toy is no flag of sbatch"),
        (["--nodes=1", "--gpus-per-node=1", "toy"], "toy is no flag of sbatch"),
    ],
)
@pytest.mark.usefixtures("unhurried")
def test_slurm_checks_its_flags(cluster, arguments, message):
    with pytest.raises(UserError, match=message):
        slurm.main(arguments)
    assert cluster.commands() == []


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (2, False), (143, True)])
def test_the_job_is_queued_again_if_it_was_interrupted(cluster, tmp_path, status, requeued):
    cluster.answer(("srun", status, ""))
    done = subprocess.run(
        ["bash", ROOT / "launch/slurm.sbatch", "--config=a b"],
        env=os.environ
        | {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4"},
    )
    assert done.returncode == status
    line, _, variables = cluster.calls()[0]
    assert line == "srun .venv/bin/python -m cocosnet_jax.main --distributed=auto --config=a b"
    assert variables["JAX_LOCAL_DEVICE_IDS"] == "0,1,2,3"
    assert cluster.commands()[1:] == ["scontrol requeue 7"] * requeued


def test_jax_finds_the_processes_of_the_job(monkeypatch):
    """What srun sets is what JAX looks for; 16 GPUs on two nodes are two processes."""
    for name, value in {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node[3-4]",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    address, processes, index, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, [0, 1, 2, 3], None, 1
    )
    assert address.startswith("node3:")
    assert (processes, index, list(devices)) == (2, 1, [0, 1, 2, 3])


def test_jax_finds_the_hosts_of_a_slice_in_kubernetes(monkeypatch):
    """What GKE sets in pods of a slice is what JAX looks for, before the Kubernetes API."""
    monkeypatch.setattr(clusters.cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(clusters.cluster, "running_in_cloud_tpu_vm", True)
    for name, value in {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "TPU_WORKER_HOSTNAMES": "localhost,b,c,d",
        "TPU_WORKER_ID": "3",
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
        "MEGASCALE_NUM_SLICES": "1",
        "MEGASCALE_SLICE_ID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, 1
    )
    assert found == ("localhost:8482", 4, 3, None)


def local(*arguments, **variables):
    return subprocess.run(
        [ROOT / "launch/local_multiprocess.sh", *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


def test_local_processes_explain_themselves():
    told = local("--help").stdout
    assert "launch/local_multiprocess.sh [--dry-run] 2 --config=configs/toy.py" in told
    printed = local("--dry-run", "2", "--config=a b", PORT="8000", DEVICES="4", PYTHON="python")
    first, *lines = printed.stdout.splitlines()
    assert "xla_force_host_platform_device_count=4" in first
    assert [shlex.split(line) for line in lines] == [
        f"python -m cocosnet_jax.main --config=a|b --distributed=localhost:8000,2,{i} &".replace(
            " ", "\0"
        )
        .replace("|", " ")
        .split("\0")
        for i in (0, 1)
    ]


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ((), {}, "error: the first argument is ''; it must be the number of processes"),
        (("0",), {}, "error: the first argument is '0'"),
        (("2",), {"DEVICES": "x"}, "error: DEVICES is 'x'"),
    ],
)
def test_local_processes_check_their_arguments(arguments, variables, message):
    done = local(*arguments, **variables)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["tpu_vm", "gke", "slurm"])
def test_help_has_the_example_and_all_flags(name, capsys):
    module = importlib.import_module(f"launch.{name}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert module.__doc__ in told
    assert "--dry-run" in told.split("options:")[1]


def test_shell_scripts_are_sound(tmp_path):
    """shellcheck's, for the files and for what the hosts of a TPU run."""
    files = [*(ROOT / "launch").glob("*.sh"), *(ROOT / "launch").glob("*.sbatch")]
    assert len(files) == 3
    scripts = {
        "install": tpu_host.install("gs://b/data"),
        "start": tpu_host.start(["--config=a b"], ["A=b c"]),
        "stop": tpu_host.STOP,
        "follow": tpu_host.FOLLOW,
        "status": tpu_host.STATUS,
    }
    for name, script in scripts.items():
        files.append(tmp_path / name)
        files[-1].write_text(f"#!/usr/bin/env bash\n{script}")
    done = subprocess.run([SHELLCHECK, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
