r"""Trains on a Slurm cluster: one process per node, with all of its GPUs.

    python -m launch.slurm --nodes=2 --gpus-per-node=8 --time=24:00:00 --partition=gpu -- \
        --config=configs/ade20k.py --workdir=/SHARED/ade20k \
        --config.data.source=/SHARED/ADEChallengeData2016 --config.vgg.weights=/SHARED/vgg19.pth \
        --config.data.exemplar_list=/SHARED/train.txt \
        --config.data.validation_exemplar_list=/SHARED/test.txt

The flags after `--` are those of cocosnet_jax.main. Those before it are sbatch's. The program
checks the run's settings for that many GPUs and submits launch/slurm.sbatch. Two minutes before the
time limit the run saves a checkpoint and is queued again; after a preemption, too. All nodes must
see the project's folder and the workdir.

    tail -F slurm-JOB.log           follows the log
    scancel --signal=TERM JOB       lets the run save and be queued again
    scancel JOB                     ends it

`--dry-run` prints the command and runs none. Run it in the project's folder, with its Python, after
`make install` and the line for CUDA in README.md.
"""

from collections.abc import Sequence

from cocosnet_jax.errors import UserError
from launch import commands
from launch.commands import Commands


def main(arguments: Sequence[str]) -> int:
    """Submits the run; returns the exit status.

    Raises:
      UserError: a flag is wrong or missing.
    """
    own, of_run = commands.split(arguments)
    parser = commands.Parser(prog="python -m launch.slurm", description=__doc__)
    parser.add_argument("--nodes", type=int, required=True, help="number of nodes")
    parser.add_argument("--gpus-per-node", type=int, required=True, help="GPUs of each node")
    parser.add_argument("--dry-run", action="store_true", help="print the command and run none")
    flags, of_sbatch = parser.parse_known_args(own)
    for name in ("nodes", "gpus_per_node"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}={getattr(flags, name)}: must be 1 or more")
    for argument in of_sbatch:
        if not argument.startswith("-") or argument.startswith("--config"):
            raise UserError(
                f"{argument} is no flag of sbatch: write those as --NAME=VALUE, and the run's own"
                " after `--`"
            )
    commands.check_run(of_run, flags.nodes * flags.gpus_per_node, bucket=False)
    shell = Commands(flags.dry_run)
    shell.need("sbatch", "run this on a login node of the cluster")
    return shell.run(
        *("sbatch", f"--nodes={flags.nodes}", f"--gpus-per-node={flags.gpus_per_node}"),
        *(*of_sbatch, "launch/slurm.sbatch", *of_run),
    )


if __name__ == "__main__":
    commands.main(main)
