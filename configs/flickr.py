r"""Landscapes, 256 x 256: label maps like ADE20k's to photographs, in the style of an exemplar.

The paper uses 56,568 landscapes from Flickr with label maps by a pretrained UPerNet101 (supplement,
section 7), and describes no separate recipe: `configs/flickr.py` and `configs/flickr.py:released`
are those of `configs/ade20k.py`. The photographs were not published; use any landscapes.

    python -m cocosnet_jax.main --config=configs/flickr.py --workdir=runs/flickr \
        --config.data.source=FOLDER \
        --config.data.exemplar_list=LIST --config.data.validation_exemplar_list=LIST \
        --config.vgg.weights=vgg19.pth

The folder contains `images/` and `labels/` (0 unknown, 1 to 150 ADE20k's classes, 255 becomes 150);
see docs/data.md. The paper reports no figures for this task.
"""

from ml_collections import ConfigDict

from cocosnet_jax.configs import ade20k, base

VARIANTS = ("paper", "released")


@base.at_sizes
def get_config(variant: str = "paper") -> ConfigDict:
    """Returns one of `VARIANTS`; `512`, `1024` and `VARIANT-512` are larger."""
    if variant not in VARIANTS:
        raise base.unknown_variant("configs/flickr.py", variant, VARIANTS)
    config = ade20k.get_config(variant)
    config.data.dataset = "flickr"
    return config
