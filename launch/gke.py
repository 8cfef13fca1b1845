r"""Trains on a TPU slice of Google Kubernetes Engine, as a JobSet.

    python -m launch.gke run --name=ade20k --image=REGISTRY/cocosnet_jax --topology=4x4 \
        --bucket=my-bucket --spot -- \
        --config=configs/ade20k.py --workdir=gs://my-bucket/runs/ade20k \
        --config.data.source=/bucket/ADEChallengeData2016 --config.vgg.weights=keras \
        --config.data.exemplar_list=/bucket/train.txt \
        --config.data.validation_exemplar_list=/bucket/test.txt

The flags after `--` are those of cocosnet_jax.main. `run` applies launch/gke_jobset.yaml and
follows the log of the first host. The cluster restarts the run after preemptions and crashes, and
the run resumes from its workdir. All hosts see the bucket as the folder /bucket. The same command
finds a run that is going on, and starts one again that has ended. Other commands:

    setup     once, by an administrator of the cluster: JobSet, accounts and roles; see --user
    log       follow the log of the run on the first host
    delete    delete the run: it gets two minutes to save; the workdir in the bucket stays

`--dry-run` prints the commands, with what they apply, and runs none. Needs kubectl with access to
the cluster, which must have Workload Identity and the Cloud Storage FUSE driver. Run it in the
project's folder, with its Python.
"""

import argparse
import json
import math
import re
import string
import time
from collections.abc import Sequence

from cocosnet_jax.errors import UserError
from launch import commands
from launch.commands import PROJECT, Commands, say

JOBSET = "https://github.com/kubernetes-sigs/jobset/releases/download/v0.8.2/manifests.yaml"
PAUSE = 15.0  # seconds between two looks at the run

# Accelerator -> its topologies. https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_TOPOLOGIES = {"tpu-v5-lite-podslice": _FLAT, "tpu-v6e-slice": _FLAT}


def filled(file: str, **values: object) -> str:
    """A manifest of this folder with its `${...}` filled in; JSON, which YAML contains."""
    text = (PROJECT / "launch" / file).read_text()
    # Without the comments about the file itself, which end at the first key.
    _, _, rest = text.partition("\napiVersion")
    quoted = {name: json.dumps(value) for name, value in values.items()}
    return string.Template(f"apiVersion{rest}").substitute(quoted)


def jobset(flags: argparse.Namespace, of_run: Sequence[str]) -> str:
    """The JobSet of a run, as YAML."""
    hosts, chips = hosts_of(flags)
    nodes = {
        "cloud.google.com/gke-tpu-accelerator": flags.accelerator,
        "cloud.google.com/gke-tpu-topology": flags.topology,
    }
    if flags.spot:
        nodes["cloud.google.com/gke-spot"] = "true"
    variables = [dict(zip(("name", "value"), e.split("=", 1), strict=True)) for e in flags.env]
    return filled(
        "gke_jobset.yaml",
        name=flags.name,
        namespace=flags.namespace,
        hosts=hosts,
        chips=chips,
        service_account=flags.service_account,
        nodes=nodes,
        image=flags.image,
        # A single host has no cluster to join.
        arguments=[*(["--distributed=auto"] if hosts > 1 else []), *of_run],
        variables=variables,
        bucket=flags.bucket,
    )


def hosts_of(flags: argparse.Namespace) -> tuple[int, int]:
    """Number of hosts, and of chips of each.

    Raises:
      UserError: there is no such slice.
    """
    if flags.accelerator not in _TOPOLOGIES:
        raise UserError(
            f"--accelerator={flags.accelerator} is unknown; use {' or '.join(_TOPOLOGIES)}"
        )
    known = _TOPOLOGIES[flags.accelerator]
    if flags.topology not in known:
        found = f"={flags.topology} does not exist" if flags.topology else " is missing"
        raise UserError(f"--topology{found}; use one of {', '.join(known)}")
    total = math.prod(map(int, flags.topology.split("x")))
    chips = flags.chips_per_host or min(total, 4)
    if chips not in (1, 4, 8) or total % chips:
        raise UserError(
            f"--chips-per-host={chips}: the {total} chips of {flags.topology} are on hosts of 1, 4"
            " or 8; take the number in the name of the node pool's machine type, such as"
            " ct5lp-hightpu-4t"
        )
    return total // chips, chips


class Run:
    """A run in the cluster."""

    def __init__(self, flags: argparse.Namespace, shell: Commands) -> None:
        self._flags, self._shell = flags, shell
        self._kubectl = ("kubectl", f"--namespace={flags.namespace}")

    def state(self, assume: str = "Completed") -> str | None:
        """`Completed`, `Failed`, empty while it goes on; None if there is none."""
        status, output, problem = self._shell.read(
            *(*self._kubectl, "get", "jobset", self._flags.name, "--ignore-not-found"),
            "--output=jsonpath={.metadata.name}:{.status.terminalState}",
            assume=assume and f":{assume}",
        )
        if status:
            raise UserError(f"kubectl: {problem.splitlines()[-1] if problem else status}")
        return output.partition(":")[2] if output else None

    def start(self, manifest: str) -> None:
        """Starts the run unless it goes on."""
        state = self.state(assume="")
        if state == "":
            say(f"{self._flags.name} is going on; to change it, delete it first")
            return
        if state:
            say(f"{self._flags.name} has ended ({state.lower()}); starting it again")
            self.delete()
        self._shell.must(*self._kubectl, "apply", "--filename=-", given=manifest)

    def follow(self) -> int:
        """Follows the log of the first host to the end of the run; returns its exit status."""
        name, began = self._flags.name, time.monotonic()
        pods = f"jobset.sigs.k8s.io/jobset-name={name},batch.kubernetes.io/job-completion-index=0"
        while True:
            self._shell.run(
                *(*self._kubectl, "logs", "--follow", "--tail=50", "--container=cocosnet"),
                f"--selector={pods}",
            )
            state = self.state()
            if state == "Completed":
                return 0
            if state == "Failed":
                raise UserError(f"{name} has failed; see its log, and delete it")
            if state is None:
                raise UserError(f"there is no run {name} in the namespace {self._flags.namespace}")
            minutes = (time.monotonic() - began) / 60
            say(f"{name}: its first host does not run; {minutes:.0f} minutes so far")
            time.sleep(PAUSE)

    def delete(self) -> None:
        """Deletes the run, and waits until its pods have ended."""
        self._shell.must(
            *(*self._kubectl, "delete", "jobset", self._flags.name, "--ignore-not-found"),
            "--cascade=foreground",
        )


def set_up(flags: argparse.Namespace, shell: Commands) -> None:
    """Installs JobSet, and creates accounts and roles."""
    shell.need("gcloud", "https://cloud.google.com/sdk/docs/install")
    status, number, problem = shell.read(
        *("gcloud", "projects", "describe", flags.project, "--format=value(projectNumber)"),
        assume="PROJECT_NUMBER",
    )
    if status:
        raise UserError(f"--project={flags.project}: {problem or 'gcloud cannot describe it'}")
    access = filled(
        "gke_access.yaml",
        service_account=flags.service_account,
        namespace=flags.namespace,
        user=flags.user,
    )
    # With its own controller, account and roles.
    shell.must("kubectl", "apply", "--server-side", f"--filename={JOBSET}")
    shell.must("kubectl", "apply", "--filename=-", given=access)
    pool = f"projects/{number}/locations/global/workloadIdentityPools/{flags.project}.svc.id.goog"
    account = f"ns/{flags.namespace}/sa/{flags.service_account}"
    shell.must(
        *("gcloud", "storage", "buckets", "add-iam-policy-binding", f"gs://{flags.bucket}"),
        f"--member=principal://iam.googleapis.com/{pool}/subject/{account}",
        "--role=roles/storage.objectUser",
    )


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags of this program, checked, and those of the run.

    Raises:
      UserError: a flag is wrong or missing.
    """
    parser = commands.Parser(prog="python -m launch.gke", description=__doc__)
    add = parser.add_argument
    add("command", choices=["setup", "run", "log", "delete"])
    add("--name", default="", help="of the run (run, log, delete)")
    add("--namespace", default="default", help="Kubernetes namespace")
    add("--image", default="", help="container image, see gke_jobset.yaml (run)")
    add("--accelerator", default="tpu-v5-lite-podslice", help="that, or tpu-v6e-slice (run)")
    add("--topology", default="", help="of the slice, such as 4x4 (run)")
    add("--chips-per-host", type=int, default=0, help="1, 4 or 8; 4 by default (run)")
    add("--bucket", default="", help="Cloud Storage bucket, /bucket on all hosts (setup, run)")
    add("--service-account", default="cocosnet", help="Kubernetes account of the hosts")
    add("--spot", action="store_true", help="on Spot nodes: cheaper, and preempted (run)")
    add("--project", default="", help="Google Cloud project of the cluster (setup)")
    add("--user", default="", help="who may start runs, an e-mail address (setup)")
    flags, of_run = commands.parse(parser, arguments)
    needed = {
        "setup": ("project", "user", "bucket"),
        "run": ("name", "image", "topology", "bucket"),
    }.get(flags.command, ("name",))
    for name in needed:
        if not getattr(flags, name):
            raise UserError(f"--{name} is missing; `{flags.command}` needs it; see --help")
    for name in ("name", "namespace", "service-account"):
        if value := getattr(flags, name.replace("-", "_")):
            commands.check_name(f"--{name}", value)
    if flags.bucket and not re.fullmatch(r"[a-z0-9][-_.a-z0-9]+[a-z0-9]", flags.bucket):
        raise UserError(f"--bucket={flags.bucket}: must be the bucket's name alone, without gs://")
    if flags.command == "run":
        hosts, chips = hosts_of(flags)
        commands.check_run(of_run, hosts * chips, bucket=True)
    return flags, of_run


def main(arguments: Sequence[str]) -> int:
    """Runs one of the commands; returns the exit status."""
    flags, of_run = parse(arguments)
    shell = Commands(flags.dry_run)
    shell.need("kubectl", "https://cloud.google.com/kubernetes-engine/docs/how-to/cluster-access")
    if flags.command == "setup":
        set_up(flags, shell)
        return 0
    run = Run(flags, shell)
    if flags.command == "delete":
        run.delete()
        return 0
    if flags.command == "run":
        run.start(jobset(flags, of_run))
    return run.follow()


if __name__ == "__main__":
    commands.main(main)
