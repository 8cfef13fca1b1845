r"""CelebA-HQ edge-to-face, 256 x 256: edges and distance maps to portraits, in an exemplar's style.

`configs/celebahq_edge.py` follows the paper (section 4), and `configs/celebahq_edge.py:released`
the authors' release (SPEC: `celebahqedge`).

    python -m cocosnet_jax.main --config=configs/celebahq_edge.py --workdir=runs/celebahq_edge \
        --config.data.source=CELEBAMASK_HQ_FOLDER \
        --config.data.exemplar_list=LIST --config.data.validation_exemplar_list=LIST \
        --config.vgg.weights=vgg19.pth

The folder is CelebAMask-HQ's own, with a `val.txt` that lists the validation photographs; see
docs/data.md. For tests, `random` instead of LIST pairs any two faces.

Expected results (the paper's tables 1 to 3): FID 14.3, semantic consistency 0.949, style relevance
0.977 (colour) and 0.958 (texture).
"""

from ml_collections import ConfigDict

from cocosnet_jax.configs import base

VARIANTS = ("paper", "released")


@base.at_sizes
def get_config(variant: str = "paper") -> ConfigDict:
    """Returns one of `VARIANTS`; `512`, `1024` and `VARIANT-512` are larger."""
    if variant not in VARIANTS:
        raise base.unknown_variant("configs/celebahq_edge.py", variant, VARIANTS)
    config = base.get_config()
    config.data.dataset = "celebahqedge"
    config.data.condition = "channels"
    config.data.channels = 15
    config.data.image_size = 256
    config.data.load_size = 286
    config.data.exemplar_list = ""  # The dataset has none; users set it.
    config.loss.pseudo_exemplar = 10.0
    config.optimiser.constant_epochs = 30
    config.optimiser.decay_epochs = 30
    config.train.batch_size = 32
    if variant == "paper":
        return base.paper(config)
    base.released(config)
    config.model.adaptor_kernel = 4
    config.model.mask_input = "features"
    config.model.warped_mask = "none"
    config.model.warp_upsampling = "bilinear"
    config.loss.mask = 0.0
    config.loss.perceptual = 0.001
    config.loss.perceptual_layer = "relu4_2"
    config.loss.regularisation = 1.0
    return config
