"""Trains or evaluates.

    python -m cocosnet_jax.main --config=configs/toy.py --workdir=runs/toy [--mode=evaluate]

The same command again resumes where the run stopped. Any setting can be overridden:
`--config.train.batch_size=8`.
"""

from absl import flags

from cocosnet_jax import command
from cocosnet_jax.errors import UserError

_SETTINGS = command.define_config()
_WORKDIR = flags.DEFINE_string("workdir", "", "folder of the run; made where it is missing")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "what to do")
_DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    "",
    "several processes make one run: `auto` where the cluster says which (TPU, Slurm),"
    " or HOST:PORT,PROCESSES,INDEX; launch/ has scripts that set it",
)


def main() -> int:
    """Checks the settings, joins the other processes, and hands over to the mode."""
    settings = _SETTINGS()
    # Slow to import: what is wrong with the settings is said first.
    from cocosnet_jax import evaluate, train, workdir

    folder = workdir.check(_WORKDIR.value, settings)
    _join(_DISTRIBUTED.value)
    if _MODE.value == "evaluate":
        return evaluate.evaluate(settings, folder)
    return train.train(settings, folder)


def _join(others: str) -> None:
    """Starts JAX's distributed runtime, before anything touches a device."""
    import jax

    if not others:
        return
    if others == "auto":
        jax.distributed.initialize()
        return
    try:
        address, processes, index = others.split(",")
        count, own = int(processes), int(index)
    except ValueError:
        raise UserError(
            f"--distributed={others!r} must be `auto` or HOST:PORT,PROCESSES,INDEX"
        ) from None
    jax.distributed.initialize(address, count, own)


if __name__ == "__main__":
    command.run(main)
