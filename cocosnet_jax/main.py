r"""Trains or evaluates.

    python -m cocosnet_jax.main --config=toy --workdir=runs/toy \
        --config.train.batch_per_device=4 [--mode=evaluate]

The same command again resumes where the run stopped. Any setting can be overridden:
`--config.train.batch_size=8`. With `--init_from=CHECKPOINT` a new run starts from the weights of a
checkpoint, with settings of its own: another learning rate, other data, other classes.
"""

from absl import flags

from cocosnet_jax import command
from cocosnet_jax.errors import UserError

_SETTINGS = command.define_config()
_WORKDIR = flags.DEFINE_string("workdir", "", "folder of the run; made where it is missing")
_INIT_FROM = flags.DEFINE_string(
    "init_from",
    "",
    "start a new run from the weights of a checkpoint: a run's workdir, its folder checkpoints, or"
    " one step in it; not read where the run already has a checkpoint of its own",
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "what to do")
_DISTRIBUTED = command.define_distributed()
_MEASURING = command.define_measuring()


def main() -> int:
    """Checks the settings, joins the other processes, and hands over to the mode."""
    settings = _SETTINGS()
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name the folder of the run: --workdir=runs/NAME")
    if _INIT_FROM.value and _MODE.value == "evaluate":
        raise UserError("--init_from is for training; evaluate that run by its own --workdir")
    # Slow to import: what is wrong with the settings is said first.
    import jax

    from cocosnet_jax import distributed, evaluation, train, workdir

    distributed.join(_DISTRIBUTED.value)
    settings = settings.on_devices(jax.device_count())
    folder = workdir.check(_WORKDIR.value, settings)
    if _MODE.value == "evaluate":
        measuring = _MEASURING()
        return evaluation.evaluate(
            settings,
            folder,
            inception=measuring.inception,
            lpips=measuring.lpips,
            lpips_vgg=measuring.lpips_vgg,
            picture_format=measuring.format,
        )
    return train.train(settings, folder, _INIT_FROM.value)


def run() -> None:
    """The command `cocosnet-main`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
