"""The common base of all configs, and the two recipes: the paper's and the release's.

A config file defines `get_config(variant)`, which returns a ConfigDict with the sections and fields
of `cocosnet_jax.settings.Settings`, where each is documented and checked. Any field can be set on
the command line: `--config.train.batch_size=8`.

docs/fidelity.md lists the differences between paper and release.
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from cocosnet_jax import settings
from cocosnet_jax.errors import UserError

# Variants of other sizes than 256: the batch size on eight chips, and `model.rematerialise`.
SIZES = {"512": (16, "elementwise"), "1024": (8, "blocks")}


def get_config() -> ConfigDict:
    """Returns the defaults of every field."""
    return ConfigDict(settings.to_mapping(settings.Settings()))


def released(config: ConfigDict) -> ConfigDict:
    """Sets the common part of the release's recipes (SPEC sections 3 to 8)."""
    model, loss, optimiser, data = config.model, config.loss, config.optimiser, config.data
    data.distortion = "crop_flip"
    model.projection = "separate"
    model.block_norm = model.generator_norm = "positional"
    model.feature_norm = "instance"
    model.match_kernel = 3
    model.centre = "channels"
    model.generator_input = "condition"
    model.generator_condition = "warped_and_input"
    model.condition_resize = "nearest"
    model.spectral_everywhere = False
    loss.perceptual_norm = "l2"
    loss.contextual_relu2_2 = False
    loss.mask_schedule = "always"
    loss.group_size = 4  # 32 samples on 8 GPUs
    loss.discriminator_features = 10.0
    optimiser.beta1, optimiser.beta2 = 0.0, 0.9
    return config


def paper(config: ConfigDict) -> ConfigDict:
    """Sets the common part of the paper's recipes (SPEC section 9); gaps filled by the release."""
    model, loss, optimiser, data = config.model, config.loss, config.optimiser, config.data
    data.load_size = data.image_size  # section 4, "all the images are resized to 256 x 256"
    data.distortion = "geometric"  # section 3.3, "pseudo exemplars"
    model.adaptor_kernel = 4  # supplement, table 1
    model.block_norm = model.feature_norm = "batch"  # supplement, section E
    model.generator_norm = "positional"  # section 3.2
    model.match_kernel = 1  # equation 2
    model.centre = "channels"
    model.projection = "shared"  # supplement, table 1
    model.mask_input = "none"
    model.warped_mask = "none"
    model.generator_input = "constant"  # section 3.2
    model.generator_condition = "warped"
    model.condition_resize = "bilinear"  # supplement, table 1
    model.spectral_everywhere = True
    loss.discriminator_features = 0.0
    loss.perceptual, loss.perceptual_layer, loss.perceptual_norm = 0.001, "relu4_2", "l1"
    loss.contextual_relu2_2 = True
    loss.mask = 0.0
    loss.group_size = 4  # equation 8 gives no weight: the release's
    loss.regularisation = 1.0  # equation 12, with the weight of the release's edge recipe
    loss.self_warp = 0.0
    optimiser.beta1, optimiser.beta2 = 0.0, 0.999
    return config


def unknown_variant(file: str, variant: str, known: tuple[str, ...]) -> UserError:
    """Returns the error for `--config=FILE:VARIANT` with an unknown variant."""
    return UserError(
        f"--config={file}:{variant} is unknown; {file} has the variants {', '.join(known)}"
    )


def at_sizes(get_config: Callable[..., ConfigDict]) -> Callable[..., ConfigDict]:
    """Adds the variants `512`, `1024`, `VARIANT-512` and `VARIANT-1024` to a config file.

    They use the same recipe for larger pictures, with bfloat16 activations. At 1024, the backward
    pass recomputes residual blocks to save memory. A batch has two 512 x 512 pictures, or one of
    1024 x 1024, for each of eight chips. `cocosnet_jax.compile_check` computes the memory required.
    """

    @functools.wraps(get_config)
    def sized(variant: str = "") -> ConfigDict:
        recipe, _, size = variant.rpartition("-")
        if size not in SIZES:
            if size.isdecimal():
                raise UserError(
                    f"--config=...:{variant} is unknown; sizes are {' and '.join(SIZES)} (256 by"
                    " default); for others, set config.data.image_size and load_size"
                )
            return get_config(variant) if variant else get_config()
        config = get_config(recipe) if recipe else get_config()
        # The same ratio as at 256: 286 / 256, or 1 in the paper's recipes.
        config.data.load_size = int(size) * config.data.load_size // config.data.image_size
        config.data.image_size = int(size)
        config.model.dtype = "bfloat16"
        batch, config.model.rematerialise = SIZES[size]
        config.train.batch_size = config.train.evaluation_batch_size = batch
        return config

    return sized
