r"""ADE20k, 256 x 256: 151-class label maps to photographs, in the style of an exemplar.

`configs/ade20k.py` follows the paper (section 4 and the supplement), `configs/ade20k.py:released`
the authors' release, and `configs/ade20k.py:noise` the release's second recipe, whose translation
needs no label map of the exemplar. `configs/ade20k.py:plain` translates without exemplar, like
SPADE: a baseline, and the source of `cocosnet_jax.retrieve`'s queries for test images.

    python -m cocosnet_jax.main --config=configs/ade20k.py --workdir=runs/ade20k \
        --config.data.source=ADE20K_FOLDER \
        --config.data.exemplar_list=LIST --config.data.validation_exemplar_list=LIST \
        --config.vgg.weights=vgg19.pth

The folder contains `training/` and `validation/`, each with `X.jpg` beside its label map `X.png`,
or the dataset's own `images/` and `annotations/`. A list has one line per image,
`key,exemplar1,exemplar2,...`, best first; see docs/data.md. For tests, `random` instead of LIST
pairs any two images.

Expected results (the paper's tables 1 and 2, 100 epochs on 8 GPUs in about 4 days): FID 26.4,
semantic consistency 0.862, style relevance 0.962 (colour) and 0.941 (texture).
"""

from ml_collections import ConfigDict

from cocosnet_jax.configs import base

VARIANTS = ("paper", "released", "noise", "plain")


@base.at_sizes
def get_config(variant: str = "paper") -> ConfigDict:
    """Returns one of `VARIANTS`; `512`, `1024` and `VARIANT-512` are larger."""
    if variant not in VARIANTS:
        raise base.unknown_variant("configs/ade20k.py", variant, VARIANTS)
    config = base.get_config()
    config.data.dataset = "ade20k"
    config.data.condition = "labels"
    config.data.channels = 151
    config.data.image_size = 256
    config.data.load_size = 286
    config.data.exemplar_list = ""  # The dataset has none; users set it.
    config.loss.pseudo_exemplar = 10 * 0.1
    config.train.batch_size = 32
    if variant == "paper":
        base.paper(config)
        # Masks for 80 epochs as a warm-up, then Gaussian noise; supplement, section D.
        config.model.mask_input = "adaptor"
        config.model.mask_epochs = 80
        config.model.mask_at_inference = False
        config.model.warped_mask = "direct"
        config.loss.mask = 100.0
        config.loss.mask_schedule = "warm_up"
        config.optimiser.constant_epochs = 50
        config.optimiser.decay_epochs = 50
        return config
    base.released(config)
    if variant == "plain":
        return plain(config)
    config.model.adaptor_kernel = 3
    config.model.mask_input = "features"
    config.model.warped_mask = "direct"
    config.loss.mask = 100.0
    config.loss.perceptual = 0.01
    config.loss.perceptual_layer = "relu5_2"
    config.loss.regularisation = 0.0
    config.optimiser.constant_epochs = 100
    config.optimiser.decay_epochs = 100
    if variant == "noise":
        config.model.mask_epochs = 150
        config.model.mask_at_inference = False
    return config


def plain(config: ConfigDict) -> ConfigDict:
    """A plain translation network with SPADE's objective: hinge, feature matching, VGG features.

    Every image is its own exemplar, in a group of its own, so `loss.pseudo_exemplar` is the mean
    distance to the ground truth: SPADE's VGG loss, with its weight 10.
    """
    config.data.exemplar_probability = 0.0
    config.model.generator_condition = "input"
    config.model.generator_norm = "batch"
    config.model.mask_input = "none"
    config.model.warped_mask = "none"
    config.model.non_local = False
    config.loss.pseudo_exemplar = 10.0
    config.loss.group_size = 1
    for term in ("alignment", "perceptual", "contextual", "mask", "regularisation", "self_warp"):
        config.loss[term] = 0.0
    return config
