r"""CelebA-HQ mask-to-face, 256 x 256: maps of 19 face parts to portraits, in an exemplar's style.

`configs/celebahq_mask.py` follows the paper (its supplement shows this task, figure 2), and
`configs/celebahq_mask.py:released` the authors' release (SPEC: `celebahq`).

    python -m cocosnet_jax.main --config=configs/celebahq_mask.py --workdir=runs/celebahq_mask \
        --config.data.source=CELEBAMASK_HQ_FOLDER \
        --config.data.exemplar_list=LIST --config.data.validation_exemplar_list=LIST \
        --config.vgg.weights=vgg19.pth

The folder is CelebAMask-HQ's own, with a `val.txt` that lists the validation photographs; see
docs/data.md. For tests, `random` instead of LIST pairs any two faces.

The paper reports no figures for this task.
"""

from ml_collections import ConfigDict

from cocosnet_jax.configs import base

VARIANTS = ("paper", "released")


@base.at_sizes
def get_config(variant: str = "paper") -> ConfigDict:
    """Returns one of `VARIANTS`; `512`, `1024` and `VARIANT-512` are larger."""
    if variant not in VARIANTS:
        raise base.unknown_variant("configs/celebahq_mask.py", variant, VARIANTS)
    config = base.get_config()
    config.data.dataset = "celebahq"
    config.data.condition = "labels_glasses"
    config.data.channels = 19
    config.data.image_size = 256
    config.data.load_size = 286
    config.data.exemplar_list = ""  # The dataset has none; users set it.
    config.loss.pseudo_exemplar = 10.0
    config.optimiser.constant_epochs = 30
    config.optimiser.decay_epochs = 30
    config.train.batch_size = 32
    if variant == "paper":
        # Only ADE20k has masks in the correspondence network; supplement, section D.
        return base.paper(config)
    base.released(config)
    config.model.adaptor_kernel = 4
    config.model.mask_input = "features"
    config.model.warped_mask = "direct"
    config.model.warp_upsampling = "bilinear"
    config.loss.mask = 100.0
    config.loss.perceptual = 0.001
    config.loss.perceptual_layer = "relu4_2"
    config.loss.regularisation = 0.1
    return config
