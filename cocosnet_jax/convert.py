r"""Converts checkpoints: from and to the release's PyTorch weights, and to safetensors.

    python -m cocosnet_jax.convert --config=configs/ade20k.py:released \
        --corr=X_net_Corr.pth --generator=X_net_G.pth [--discriminator=X_net_D.pth] \
        [--corr-ema=... --generator-ema=...] --output=WORKDIR
    python -m cocosnet_jax.convert --to-torch --checkpoint=WORKDIR --output=FOLDER
    python -m cocosnet_jax.convert --checkpoint=WORKDIR --safetensors=FILE.safetensors [--bfloat16]

The first command makes a workdir for translation, evaluation and further training. The second
writes its newest checkpoint as `STEP_net_Corr.pth`, `STEP_net_G.pth` and `STEP_net_D.pth`. The
third writes the weights for inference into one file, which `--checkpoint` accepts as well.
"""

from absl import flags

from cocosnet_jax import command, files
from cocosnet_jax.errors import UserError

_SETTINGS = command.define_config(trains=False)
_CORR = flags.DEFINE_string("corr", "", "the release's *_net_Corr.pth")
_GENERATOR = flags.DEFINE_string("generator", "", "the release's *_net_G.pth")
_DISCRIMINATOR = flags.DEFINE_string(
    "discriminator", "", "the release's *_net_D.pth, for further training"
)
_CORR_EMA = flags.DEFINE_string("corr-ema", "", "averaged weights, in addition to --corr")
_GENERATOR_EMA = flags.DEFINE_string(
    "generator-ema", "", "averaged weights, in addition to --generator"
)
_TO_TORCH = flags.DEFINE_bool(
    "to-torch", False, "convert --checkpoint to PyTorch files in the folder --output"
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "", "with --to-torch or --safetensors: a workdir, or one checkpoint in it"
)
_SAFETENSORS = flags.DEFINE_string(
    "safetensors", "", "write the weights of --checkpoint into this file (.safetensors)"
)
_BFLOAT16 = flags.DEFINE_bool(
    "bfloat16", False, "with --safetensors: round weights to bfloat16, for half the size"
)
_OUTPUT = flags.DEFINE_string("output", "", "the workdir to write, or with --to-torch the folder")


def main() -> None:
    """Converts in the direction of the flags."""
    if _SAFETENSORS.value:
        _to_safetensors()
        return
    if not _OUTPUT.value:
        raise UserError("--output is missing; name the folder to write")
    if _TO_TORCH.value:
        _to_torch()
    else:
        _from_torch()


def _to_torch() -> None:
    if not _CHECKPOINT.value:
        raise UserError("--checkpoint is missing; name a workdir or a checkpoint to convert")
    from cocosnet_jax import checkpoint
    from cocosnet_jax.pretrained import release

    settings, state, *_ = checkpoint.restore_for_inference(_CHECKPOINT.value, all_networks=True)
    for path in release.write_torch(settings, state, files.local(_OUTPUT.value, "--output")):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def _to_safetensors() -> None:
    if not _CHECKPOINT.value:
        raise UserError("--checkpoint is missing: --safetensors reads a workdir or one checkpoint")
    if not _SAFETENSORS.value.endswith(".safetensors"):
        raise UserError(f"--safetensors={_SAFETENSORS.value} must end in .safetensors")
    import jax.numpy as jnp

    from cocosnet_jax import checkpoint, weights_file

    path = checkpoint.absolute(files.local(_SAFETENSORS.value, "--safetensors"))
    settings, state, *_ = checkpoint.restore_for_inference(_CHECKPOINT.value)
    weights_file.write(path, settings, state, jnp.bfloat16 if _BFLOAT16.value else jnp.float32)
    print(f"{path}: {path.stat().length / 2**20:.1f} MiB")


def _from_torch() -> None:
    if not (_CORR.value and _GENERATOR.value):
        raise UserError(
            "--corr or --generator is missing; name a *_net_Corr.pth and a *_net_G.pth file"
        )
    if bool(_CORR_EMA.value) != bool(_GENERATOR_EMA.value):
        raise UserError("only one of --corr-ema and --generator-ema is given; give both or neither")
    settings = _SETTINGS()
    if _CORR_EMA.value and not settings.optimiser.ema:
        raise UserError(
            "config.optimiser.ema is 0, but averaged weights are given; set it (the release uses"
            " 0.999), or give the averaged files as --corr and --generator"
        )
    # Slow imports, after the checks of the flags.
    from cocosnet_jax import checkpoint
    from cocosnet_jax.pretrained import release

    workdir = checkpoint.absolute(_OUTPUT.value)
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"--output={workdir} already exists; name a new folder")
    weights: dict[release.Net, str] = {
        "correspondence": _CORR.value,
        "generator": _GENERATOR.value,
    }
    if _DISCRIMINATOR.value:
        weights["discriminator"] = _DISCRIMINATOR.value
    average: dict[release.Net, str] = {}
    if _CORR_EMA.value:
        average = {"correspondence": _CORR_EMA.value, "generator": _GENERATOR_EMA.value}
    state = release.train_state(settings, weights, average)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output={workdir} cannot be created ({error.strerror}); choose another folder"
        ) from error
    checkpoints = checkpoint.Checkpoints(workdir, settings)
    checkpoints.save(0, state, force=True)
    checkpoints.close()
    model = settings.model
    print(
        f"{workdir}: input channels {settings.data.channels}, base filters {model.base_filters},"
        f" adaptor kernel {model.adaptor_kernel}, as in the files. From the config, because weights"
        f" do not show them: match_kernel {model.match_kernel}, centre {model.centre},"
        f" warp_upsampling {model.warp_upsampling}"
    )
    if not _DISCRIMINATOR.value:
        print("no --discriminator is given: further training starts with a new one")


def run() -> None:
    """The command `cocosnet-convert`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
