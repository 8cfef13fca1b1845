"""Cloud TPU: the commands by a stand-in for gcloud, the scripts of the hosts by running them."""

import os
import re
import subprocess
import time

import pytest

from cocosnet_jax.errors import UserError
from launch import tpu_host, tpu_vm
from tests.conftest import LIMIT_S

SLICE = ["--tpu=ade20k", "--zone=us-west4-a"]
RUN = ["run", *SLICE, "--type=v5litepod-16", "--", "--config=a b", "--workdir=gs://b/w"]
ABSENT = ("describe", "NOT_FOUND: no such thing", "")
pytestmark = pytest.mark.usefixtures("unhurried")


@pytest.fixture
def gcloud(stand_ins):
    stand_ins.add("gcloud", "git")
    return stand_ins


def state(name):
    return ("describe", 0, name)


def of_run(*said):
    return [("run: none", 0, f"run: {status}") for status in said]


def done(stand_ins):
    """The commands of a run; a look at the working tree is none."""
    return [line for line in stand_ins.commands() if not line.startswith("git status")]


def verbs(stand_ins):
    """What was done, shortened to one word per command."""
    words = []
    for line in stand_ins.commands():
        if line.startswith("gcloud"):
            verb = line.split()[4]
            if verb == "ssh":
                parts = {"make install": "install", "run.new": "start", "tail": "follow"}
                parts |= {"run: none": "look", "kill -TERM": "stop"}
                verb = next(word for part, word in parts.items() if part in line)
            words.append(verb)
    return words


def test_a_run_queues_a_spot_slice_and_uses_all_of_its_hosts(gcloud):
    gcloud.answer(ABSENT, state("WAITING_FOR_RESOURCES"), state("ACTIVE"), *of_run("none", 0))
    assert tpu_vm.main(RUN) == 0
    assert verbs(gcloud) == [
        *("describe", "create", "describe", "describe"),
        *("look", "scp", "install", "start", "follow", "look"),
    ]
    lines = done(gcloud)
    where = "--zone=us-west4-a"
    assert lines[1] == (
        f"gcloud compute tpus queued-resources create ade20k {where} --node-id=ade20k"
        " --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot"
    )
    install, start, follow = lines[-4:-1]
    for line in (install, start):
        assert line.startswith(
            f"gcloud compute tpus tpu-vm ssh ade20k {where} --worker=all --command="
        )
    assert "--worker=0" in follow
    assert "cocosnet_jax.main --distributed=auto '--config=a b' --workdir=gs://b/w\n" in start


def test_a_dry_run_prints_exactly_what_a_run_does(gcloud, capsys):
    options = ["--project=mine", "--data=gs://b/data", "--env=A=b c", "--on-demand", "--delete"]
    arguments = [*RUN[:4], *options, *RUN[4:]]
    tpu_vm.main([*arguments[:4], "--dry-run", *arguments[4:]])
    assert done(gcloud) == []
    printed = capsys.readouterr().out
    answers = ABSENT, state("ACTIVE"), *of_run("none", 0)
    gcloud.answer(*answers)
    assert tpu_vm.main(arguments) == 0
    ran = done(gcloud)
    (gcloud.folder / "calls").unlink()
    gcloud.answer(*answers)
    subprocess.run(["bash"], input=printed, text=True, check=False)

    # The archive of a run is in a temporary folder.
    in_folder = re.compile(r"[^ =]*/(?=cocosnet_jax.tar.gz)")
    assert done(gcloud) == [in_folder.sub("", line) for line in ran]


def test_a_slice_that_was_made_again_without_the_run_gets_it_again(gcloud):
    gcloud.answer(*2 * [state("ACTIVE")], *of_run("none", "none", "none", 0))
    assert tpu_vm.main(RUN) == 0
    round_of_host = ["look", "scp", "install", "start", "follow", "look"]
    words = [word for word in verbs(gcloud) if word != "describe"]
    assert words == 2 * round_of_host


def test_a_preempted_slice_is_queued_again_and_the_run_resumed(gcloud):
    gcloud.answer(
        *(state("ACTIVE"), ("tail", 255, ""), ("run: none", 255, ""), ("run: none", 255, "")),
        *(state("SUSPENDING"), state("SUSPENDING"), state("SUSPENDED")),
        *(state("PROVISIONING"), state("ACTIVE"), *of_run("none", 0)),
    )
    assert tpu_vm.main(RUN) == 0
    round_of_host = ["look", "scp", "install", "start", "follow", "look"]
    assert verbs(gcloud) == [
        *("describe", *round_of_host),
        *("describe", "describe", "describe", "delete", "create", "describe", "describe"),
        *round_of_host,
    ]
    deleted = next(line for line in gcloud.commands() if " delete " in line)
    assert deleted.endswith("delete ade20k --zone=us-west4-a --force --quiet")


def test_a_lost_connection_does_not_disturb_the_run(gcloud):
    said = of_run("none", "going on", 0)
    gcloud.answer(*[state("ACTIVE")] * 2, ("tail", 255, ""), *said)
    assert tpu_vm.main(RUN) == 0
    assert verbs(gcloud).count("start") == 1
    assert verbs(gcloud).count("follow") == 2


def test_a_run_that_goes_on_is_only_followed(gcloud):
    gcloud.answer(state("ACTIVE"), *of_run("going on", 0))
    assert tpu_vm.main(RUN) == 0
    assert verbs(gcloud) == ["describe", "look", "start", "follow", "look"]


@pytest.mark.parametrize(
    ("statuses", "result", "starts"),
    [((2,), 2, 1), ((130,), 130, 1), ((143, 0), 0, 2), ((1, 134, 0), 0, 3), ((1, 1, 1), 1, 3)],
)
def test_how_a_run_ended_says_whether_it_is_started_again(gcloud, statuses, result, starts):
    gcloud.answer(*[state("ACTIVE")] * 9, *of_run(*(x for one in statuses for x in ("none", one))))
    assert tpu_vm.main(RUN) == result
    assert verbs(gcloud).count("start") == starts
    assert "create" not in verbs(gcloud)


def test_a_request_that_fails_is_an_error(gcloud):
    gcloud.answer(ABSENT, state("FAILED"))
    with pytest.raises(UserError, match="request of ade20k failed, see above; delete it"):
        tpu_vm.main(RUN)
    assert verbs(gcloud) == ["describe", "create", "describe", "describe"]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([("describe", "ERROR: (gcloud) You do not have an active account", "")], "active account"),
        ([state("ACTIVE"), ("run.new", 3, "")], "another run is on ade20k"),
        ([state("ACTIVE")] * 9 + [("make install", 1, "")] * 5, "hosts cannot be reached"),
    ],
)
def test_what_fails_in_the_cloud_is_an_error(gcloud, answers, message):
    gcloud.answer(*answers)
    with pytest.raises(UserError, match=message):
        tpu_vm.main(RUN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", *SLICE], "--type is missing"),
        (["run", *SLICE, "--type=v5litepod-24"], "N of v5litepod-N is one of 1, 4, 8, 16"),
        (["run", *SLICE, "--type=h100-8"], "--type=h100-8 is unknown; use one of v5litepod-N"),
        (["run", "--zone=us-west4-a"], "required: --tpu; see --help"),
        (["run", "--tpu=Ade", "--zone=us-west4-a"], "--tpu=Ade: must be lower-case"),
        (["run", "--tpu=ade", "--zone=us-west4"], "--zone=us-west4 is no zone"),
        (["run", *SLICE, "--type=v4-16", "--data=data"], "--data=data: must be in a bucket"),
        (["run", *SLICE, "--type=v4-16", "--env=A"], "--env=A: must be NAME=VALUE"),
        (["run", *SLICE, "--typ=v4-16"], "unrecognized arguments: --typ=v4-16"),
        (["log", *SLICE, "--", "--config=toy"], "`log` takes no flags of a run"),
    ],
)
def test_bad_input_is_one_error_before_anything_is_created(gcloud, arguments, message):
    with pytest.raises(UserError, match=message):
        tpu_vm.main(arguments)
    assert gcloud.commands() == []


def test_without_gcloud_the_error_says_where_it_is(stand_ins, monkeypatch):
    monkeypatch.setenv("PATH", str(stand_ins.folder))
    with pytest.raises(UserError, match="gcloud is not installed: https://cloud"):
        tpu_vm.main(["status", *SLICE])


@pytest.mark.parametrize(
    ("accelerator", "chips"), [("v5litepod-256", 256), ("v6e-8", 8), ("v5p-8", 4), ("v4-32", 16)]
)
def test_chips_of_a_type(accelerator, chips):
    assert tpu_vm.chips_of(accelerator) == chips


class Host:
    """A home folder in which the scripts of a host are run, as gcloud's ssh does."""

    def __init__(self, home):
        self.home = home
        self.folder = home / "cocosnet_jax"
        python = self.folder / ".venv/bin/python"
        python.parent.mkdir(parents=True)
        # Instead of training it waits for `go`, or ends on SIGTERM as training does.
        python.write_text(
            "#!/bin/bash\ntrap 'echo saved; exit 143' TERM\necho \"$A $*\"\n"
            "while [ ! -s go ]; do sleep 0.02; done\nexit $(cat go)\n"
        )
        python.chmod(0o755)

    def run(self, script):
        return subprocess.run(
            ["bash", "-c", script],
            cwd=self.home,
            env=os.environ | {"HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )

    def start(self, *arguments):
        return self.run(tpu_host.start(arguments, ["A=b c"])).returncode

    def status(self):
        return self.run(tpu_host.STATUS).stdout.strip()

    def started(self):
        """Waits until the run has set its trap and printed."""
        end, log = time.monotonic() + LIMIT_S, self.folder / "run.log"
        while not (log.exists() and log.read_text()):
            assert time.monotonic() < end
            time.sleep(0.02)


def test_the_scripts_of_a_host_start_follow_and_report(tmp_path):
    host = Host(tmp_path)
    assert host.status() == "run: none"
    assert host.start("--config=toy") == 0
    host.started()
    assert host.status() == "run: going on"
    # The same run again is left alone; another one is refused.
    assert host.start("--config=toy") == 0
    assert host.start("--config=other") == 3
    (host.folder / "go").write_text("7")
    log = host.run(tpu_host.FOLLOW).stdout
    assert log == "b c -m cocosnet_jax.main --distributed=auto --config=toy\n"
    assert host.status() == "run: 7"


def test_stop_lets_the_run_save(tmp_path):
    host = Host(tmp_path)
    host.start("--config=toy")
    host.started()
    assert host.run(tpu_host.STOP).returncode == 0
    assert (host.folder / "run.log").read_text().endswith("saved\n")
    assert host.status() == "run: 130"
    # After that, another run may start.
    (host.folder / "go").write_text("0")
    assert host.start("--config=other") == 0
    host.run(tpu_host.FOLLOW)
    assert host.status() == "run: 0"


def test_a_run_that_vanished_ended_with_an_error(tmp_path):
    host = Host(tmp_path)
    (host.folder / "run.pid").write_text("4194304\n")  # No process: the highest number is one less.
    assert host.status() == "run: 1"
