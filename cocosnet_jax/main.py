r"""Trains or evaluates.

    python -m cocosnet_jax.main --config=toy --workdir=runs/toy \
        --config.train.batch_per_device=4 [--mode=evaluate]

The same command resumes a stopped run. Any setting can be overridden:
`--config.train.batch_size=8`. With `--init_from=CHECKPOINT`, a new run starts from the weights of a
checkpoint, and may have other settings: learning rates, data, classes.
"""

from absl import flags

from cocosnet_jax import command
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings

_SETTINGS = command.define_config()
_WORKDIR = flags.DEFINE_string("workdir", "", "folder of the run; created if it does not exist")
_INIT_FROM = flags.DEFINE_string(
    "init_from",
    "",
    "start a new run from the weights of a checkpoint: a run's workdir, its folder checkpoints, a"
    " step's folder, or a file of weights (.safetensors); ignored if the new run already has"
    " checkpoints",
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "what to do")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    "",
    "evaluation: the checkpoint to evaluate, as WORKDIR/best or WORKDIR/checkpoints/STEP; without"
    " it, the newest one of --workdir. Results of another run's are in WORKDIR/evaluation, named"
    " after it",
)
_KEYPOINTS = flags.DEFINE_string(
    "keypoints",
    "",
    "evaluation: points whose true correspondence is known, an .npz file with `names` and `xy`;"
    " without it, keypoints*.npz in config.data.source is taken, if there is one",
)
_CHECK_FOR = flags.DEFINE_integer(
    "check_for",
    0,
    "check flags and settings for a run on this many devices, and end",
)
_JOIN = command.define_distributed()
_MEASURING = command.define_measuring()


def main() -> int:
    """Checks the settings, joins the other processes, and trains or evaluates."""
    settings = _SETTINGS()
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name the folder of the run: --workdir=runs/NAME")
    if _INIT_FROM.value and _MODE.value == "evaluate":
        raise UserError("--init_from is for training; to evaluate that run, set --workdir to it")
    measuring = _MEASURING()
    if _MODE.value != "evaluate":
        _check_training_flags(settings, measuring)
    # Slow imports, after the checks of the settings.
    import jax

    from cocosnet_jax import mesh

    if devices := _CHECK_FOR.value:
        settings = settings.on_devices(devices)
        batch = settings.train.batch_size
        accumulate = settings.train.accumulate
        group_size = settings.loss.group_size
        mesh.check_batch(batch, devices, group_size=group_size, accumulate=accumulate)
        print(f"batches of {batch}, {batch // devices} on each of {devices} device(s)")
        return 0

    _JOIN()
    settings = settings.on_devices(jax.device_count())

    # Slower ones, TensorFlow among them.
    from cocosnet_jax import evaluation, preparation, train, workdir

    folder = workdir.check(_WORKDIR.value, settings, evaluates=_MODE.value == "evaluate")
    if _MODE.value == "evaluate":
        evaluation.check_checkpoint(_CHECKPOINT.value or folder)
    preparation.check_data(settings.data)
    if _MODE.value == "train":
        return train.train(settings, folder, _INIT_FROM.value, measuring.inception)
    networks = evaluation.networks_of(
        settings, measuring.inception, measuring.lpips, measuring.lpips_vgg
    )
    evaluation.evaluate(
        settings,
        folder,
        networks,
        _KEYPOINTS.value,
        checkpoint_path=_CHECKPOINT.value,
        picture_format=measuring.format,
    )
    return 0


def _check_training_flags(settings: Settings, measuring: command.Measuring) -> None:
    """Raises UserError if a flag has no effect on training, or one is missing."""
    given = {
        "checkpoint": _CHECKPOINT.value,
        "keypoints": _KEYPOINTS.value,
        "lpips": measuring.lpips,
        "lpips-vgg": measuring.lpips_vgg,
        "format": measuring.format != "png",
    }
    for flag, value in given.items():
        if value:
            raise UserError(f"--{flag} is for --mode=evaluate; leave it out")
    if measuring.inception and not settings.train.evaluate_every:
        raise UserError(
            "--inception is for evaluation: set --mode=evaluate, or to measure during training"
            " config.train.evaluate_every, for example to 1000"
        )
    if settings.train.keep_best in ("fid", "kid") and not measuring.inception:
        raise UserError(
            f"config.train.keep_best={settings.train.keep_best} needs --inception, the weights of"
            " FID's Inception"
        )


def run() -> None:
    """The command `cocosnet-main`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
