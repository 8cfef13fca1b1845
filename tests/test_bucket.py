"""A run whose workdir and data are in a bucket (tests/fake_bucket.py)."""

import json
import subprocess

import pytest

from cocosnet_jax import files, workdir
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings
from tests.conftest import LIMIT_S, PLAIN, ROOT
from tests.fake_bucket import Bucket

RUN, DATA = "gs://bucket/runs/one", "gs://bucket/data"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    server = Bucket(tmp_path_factory.mktemp("bucket"))
    yield server
    server.close()


def run(program, bucket, module, *arguments):
    done = subprocess.run(
        program.command(module, *arguments),
        cwd=ROOT,
        env=program.environment() | bucket.environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Several programs, one after the other.
@pytest.mark.long
def test_a_run_in_a_bucket_is_trained_resumed_evaluated_and_used(program, bucket, tmp_path):
    local = tmp_path / "prepared"
    fields = {
        "data__data_dir": DATA,
        "train__checkpoint_every": 1,
        "train__keep_checkpoints": 1,
        "train__log_every": 1,
        "train__evaluate_every": 1,
        "train__keep_best": "swd",
        "train__images_every": 1,
    }

    def arguments(stop_after, **changed):
        given = PLAIN | fields | {"train__stop_after": stop_after} | changed
        return program.train_arguments(RUN, **given)

    prepared = [x for x in arguments(2, data__data_dir=local) if "--workdir" not in x]
    run(program, bucket, "prepare", *(x for x in prepared if ".train." not in x))
    bucket.upload(local, DATA.removeprefix("gs://"))

    said = run(program, bucket, "main", *arguments(2))
    assert "finished at step 2" in said
    assert "no longer written" not in said
    said = run(program, bucket, "main", *arguments(3))
    assert f"resuming at step 2 from {RUN}" in said
    names = [name.removeprefix("bucket/runs/one/") for name in bucket.names()]
    steps = {name.split("/")[1] for name in names if name.startswith("checkpoints/")} - {""}
    assert steps == {"3"}
    for name in ("settings.json", "best.json", "pictures/step_0000003.png"):
        assert name in names
    assert any(name.startswith("tensorboard/events") for name in names)
    assert not any("cocosnet-" in name or name.endswith(".partial") for name in names)

    run(program, bucket, "main", *arguments(3), "--mode=evaluate")
    content, _ = bucket.objects["bucket/runs/one/evaluation/step_0000003/metrics.json"]
    measured = json.loads(content)
    assert (measured["step"], measured["images"]) == (3, 4)
    assert measured["swd"] > 0
    # A finished evaluation is not made again.
    said = run(program, bucket, "main", *arguments(3), "--mode=evaluate")
    assert "4 of 4 pictures are translated already" in said
    for checkpoint in (RUN, f"{RUN}/best"):
        output = tmp_path / "result.png"
        run(program, bucket, "translate", *program.translation_arguments(checkpoint, output))
        assert output.stat().st_size > 100


def test_other_buckets_and_missing_packages_are_told_at_once(monkeypatch):
    with pytest.raises(
        UserError, match=r"s3://bucket/run is in a bucket of a kind that is not sup"
    ):
        workdir.check("s3://bucket/run", Settings())
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="gs://bucket/run needs the package google-cloud-storage"):
        workdir.check("gs://bucket/run", Settings())
