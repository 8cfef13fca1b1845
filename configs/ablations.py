r"""The paper's ablations (table 4, figures 9, 18 and 19), small: drawn scenes, 64 x 64.

    python -m benchmarks.ablations --folder=runs/ablations --vgg=vgg16.pth --seeds=0,1,2

trains and measures all variants. An epoch of that program has `EPOCH` steps, so that the mask's
warm-up and the fall of the learning rate fit into a short run.

`full` is `configs/drawn.py` with L_reg, so it has every term of the paper's objective, and the
release's networks, which take the label map of the input alone. L_reg weighs a tenth of L_feat, as
in the release's recipe for edges. Two terms are not the paper's: `loss.mask`, which it has during
its warm-up alone, and `loss.self_warp`. So few steps teach little correspondence without them.

The other variants change `full` as `CHANGES` says. `paper` and `released` are the two whole recipes
of `configs/ade20k.py` instead, with the weights of `full` where those of the terms are not part of
what differs between them. `plain` is that file's baseline without exemplar.
"""

from ml_collections import ConfigDict

from cocosnet_jax.configs import ade20k, base, drawn

# Steps of one epoch in `benchmarks.ablations`.
EPOCH = 40
# Epochs in which the correspondence network takes masks: the paper's 80 of 100, rounded.
WARM_UP = 12

# Variant -> field -> value, where it differs from `full`.
CHANGES: dict[str, dict[str, object]] = {
    "full": {},
    "no_features": {"loss.pseudo_exemplar": 0.0},  # L_feat, equation 8
    "no_domain": {"loss.alignment": 0.0},  # equation 9
    "no_perceptual": {"loss.perceptual": 0.0},  # equation 10
    "no_contextual": {"loss.contextual": 0.0},  # equation 11
    "no_regularisation": {"loss.regularisation": 0.0},  # equation 12
    "batch_norm": {"model.generator_norm": "batch"},  # figure 18
    "centre_positions": {"model.centre": "positions"},  # figure 19
    # The paper's warm-up: masks enter the adaptors, and their loss ends with them.
    "mask_warm_up": {
        "model.mask_input": "adaptor",
        "model.mask_epochs": WARM_UP,
        "model.mask_at_inference": False,
        "loss.mask_schedule": "warm_up",
    },
    # The release's second recipe: masks enter after the adaptors, noise follows, the loss stays.
    "mask_noise": {
        "model.mask_input": "features",
        "model.mask_epochs": WARM_UP,
        "model.mask_at_inference": False,
    },
}
VARIANTS = (*CHANGES, "paper", "released", "plain")


def get_config(variant: str = "full") -> ConfigDict:
    """Returns one of `VARIANTS`."""
    if variant not in VARIANTS:
        raise base.unknown_variant("configs/ablations.py", variant, VARIANTS)
    config = _full()
    if variant == "paper":
        return _paper(config)
    if variant == "released":
        return _released(config)
    if variant == "plain":
        return ade20k.plain(config)
    for name, value in CHANGES[variant].items():
        section, field = name.split(".")
        config[section][field] = value
    return config


def _full() -> ConfigDict:
    config = drawn.get_config()
    config.data.image_size = 64
    config.data.load_size = 72
    config.model.base_filters = 4
    config.loss.regularisation = config.loss.pseudo_exemplar / 10
    config.optimiser.generator_rate = 1e-3
    config.optimiser.discriminator_rate = 7e-4
    config.optimiser.constant_epochs = 10
    config.optimiser.decay_epochs = 5
    # Three times faster than in longer runs: the average of about 50 steps.
    config.optimiser.ema = 0.98
    config.train.batch_size = 2
    config.train.checkpoint_every = 100
    config.train.keep_checkpoints = 1
    return config


def _paper(config: ConfigDict) -> ConfigDict:
    perceptual, regularisation = config.loss.perceptual, config.loss.regularisation
    base.paper(config)
    config.data.self_pair_list = ""
    config.model.warp_upsampling = "nearest"
    config.model.mask_input = "adaptor"
    config.model.mask_epochs = WARM_UP
    config.model.mask_at_inference = False
    config.model.warped_mask = "direct"
    config.loss.mask = 100.0
    config.loss.mask_schedule = "warm_up"
    config.loss.perceptual, config.loss.regularisation = perceptual, regularisation
    return config


def _released(config: ConfigDict) -> ConfigDict:
    config.data.self_pair_list = ""
    config.model.mask_input = "features"
    config.model.warp_upsampling = "nearest"
    config.loss.self_warp = 0.0
    config.loss.contextual_relu2_2 = False
    config.loss.perceptual_layer = "relu5_2"
    config.loss.regularisation = 0.0
    return config
