"""Google Kubernetes Engine: manifests by a schema, commands by a stand-in for kubectl."""

import json

import jsonschema
import pytest
import yaml

from cocosnet_jax.errors import UserError
from launch import gke
from tests.conftest import ROOT

SCHEMA = json.loads((ROOT / "tests/launch/jobset.schema.json").read_text())
FLAGS = ["--name=ade20k", "--image=r/i", "--topology=4x4", "--bucket=my-bucket"]
OF_RUN = ["--", "--config=a 'b' \"c\" $d", "--workdir=gs://my-bucket/w"]
pytestmark = pytest.mark.usefixtures("unhurried")


@pytest.fixture
def kubectl(stand_ins):
    stand_ins.add("kubectl", "gcloud")
    return stand_ins


def manifest(*flags):
    parsed, of_run = gke.parse(["run", *FLAGS, *flags, *OF_RUN])
    return yaml.safe_load(gke.jobset(parsed, of_run))


@pytest.mark.parametrize(
    ("flags", "hosts", "chips"),
    [
        ((), 4, 4),
        (("--topology=2x4", "--chips-per-host=8"), 1, 8),
        (("--topology=16x16", "--spot", "--env=A=b=c", "--namespace=research"), 64, 4),
        (("--topology=1x1", "--accelerator=tpu-v6e-slice"), 1, 1),
    ],
)
def test_the_manifest_is_a_jobset(flags, hosts, chips):
    found = manifest(*flags)
    jsonschema.validate(found, SCHEMA)
    job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == hosts
    (container,) = job["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["google.com/tpu"] == chips
    assert container["args"] == [*["--distributed=auto"][: hosts > 1], *OF_RUN[1:]]
    # The container that exit statuses are of, and the volume that is mounted, exist.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    volumes = [volume["name"] for volume in job["template"]["spec"]["volumes"]]
    assert [mount["name"] for mount in container["volumeMounts"]] == volumes
    assert ("cloud.google.com/gke-spot" in job["template"]["spec"]["nodeSelector"]) == (
        "--spot" in flags
    )
    variables = [{"name": "A", "value": "b=c"}] if "--env=A=b=c" in flags else []
    assert container["env"] == variables


def test_the_schema_finds_mistakes():
    for path, value in (
        (("spec", "replicatedjobs"), []),
        (("spec", "failurePolicy", "rules", 0, "action"), "Fail"),
        (("spec", "replicatedJobs", 0, "template", "spec", "parallelism"), "4"),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "image"), "i"),
    ):
        wrong = manifest()
        place = wrong
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)


def test_a_run_is_applied_and_followed(kubectl):
    kubectl.answer(("get jobset", 0, ""), ("get jobset", 0, "ade20k:Completed"))
    assert gke.main(["run", *FLAGS, *OF_RUN]) == 0
    look, apply, log, _ = kubectl.commands()
    assert look.startswith("kubectl --namespace=default get jobset ade20k --ignore-not-found")
    assert apply == "kubectl --namespace=default apply --filename=-"
    assert yaml.safe_load(kubectl.calls()[1][1]) == manifest()
    assert log == (
        "kubectl --namespace=default logs --follow --tail=50 --container=cocosnet"
        " --selector=jobset.sigs.k8s.io/jobset-name=ade20k"
        ",batch.kubernetes.io/job-completion-index=0"
    )


def test_restarts_are_followed_and_a_run_that_ended_starts_again(kubectl):
    kubectl.answer(
        ("get jobset", 0, "ade20k:Failed"),
        *[("get jobset", 0, "ade20k:")] * 2,
        ("get jobset", 0, "ade20k:Completed"),
        ("logs", 1, ""),
    )
    assert gke.main(["run", *FLAGS, *OF_RUN]) == 0
    words = [line.split()[2] for line in kubectl.commands()]
    assert words == ["get", "delete", "apply", *["logs", "get"] * 3]


def test_a_run_that_goes_on_is_left_alone(kubectl):
    kubectl.answer(("get jobset", 0, "ade20k:"), ("get jobset", 0, "ade20k:Completed"))
    assert gke.main(["run", *FLAGS, *OF_RUN]) == 0
    assert [line.split()[2] for line in kubectl.commands()] == ["get", "logs", "get"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (("get jobset", 0, "ade20k:Failed"), "ade20k has failed; see its log"),
        (("get jobset", 0, ""), "there is no run ade20k in the namespace default"),
        (("get jobset", "error: no connection", ""), "kubectl: error: no connection"),
    ],
)
def test_what_fails_in_the_cluster_is_an_error(kubectl, answer, message):
    kubectl.answer(answer)
    with pytest.raises(UserError, match=message):
        gke.main(["log", "--name=ade20k"])


def test_setup_creates_the_account_of_the_manifest_and_a_role_for_the_user(kubectl, capsys):
    flags = ["--project=mine", "--user=me@example.com", "--bucket=my-bucket"]
    gke.main(["setup", *flags, "--dry-run"])
    assert kubectl.commands() == []
    printed = capsys.readouterr().out
    kubectl.answer(("projects describe", 0, "123"))
    assert gke.main(["setup", *flags]) == 0
    number, controller, access, grant = kubectl.commands()
    for line in (number, controller, access):
        assert line.replace("(", "'(") in printed or line in printed.replace("'", "")
    assert grant == (
        "gcloud storage buckets add-iam-policy-binding gs://my-bucket"
        " --member=principal://iam.googleapis.com/projects/123/locations/global/"
        "workloadIdentityPools/mine.svc.id.goog/subject/ns/default/sa/cocosnet"
        " --role=roles/storage.objectUser"
    )
    applied = kubectl.calls()[2][1]
    assert applied.strip() in printed
    account, role, binding = yaml.safe_load_all(applied)
    pods = manifest()["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert account["metadata"]["name"] == pods["serviceAccountName"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == "me@example.com"
    # What `run`, `log` and `delete` do; `apply` gets, creates and patches.
    allowed = {
        (resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert allowed >= {("jobsets", verb) for verb in ("get", "create", "patch", "delete", "watch")}
    assert allowed >= {("pods", "list"), ("pods/log", "get")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", *FLAGS[:2], FLAGS[3]], "--topology is missing; `run` needs it"),
        (["run", *FLAGS, "--topology=3x3"], "--topology=3x3 does not exist; use one of 1x1"),
        (["run", *FLAGS, "--chips-per-host=3"], "--chips-per-host=3: the 16 chips of 4x4"),
        (["run", *FLAGS, "--accelerator=gpu"], "--accelerator=gpu is unknown"),
        (["run", *FLAGS, "--bucket=gs://b"], "the bucket's name alone, without gs://"),
        (["run", *FLAGS, "--namespace=A_b"], "--namespace=A_b: must be lower-case"),
        (["delete"], "--name is missing"),
        (["log", "--name=a", "--", "--config=toy"], "`log` takes no flags of a run"),
    ],
)
def test_bad_input_is_one_error_before_anything_is_created(kubectl, arguments, message):
    with pytest.raises(UserError, match=message):
        gke.main(arguments)
    assert kubectl.commands() == []
