r"""ADE20k-outdoor, 256 x 256: the outdoor scenes of ADE20k.

`configs/ade20k_outdoor.py` and `configs/ade20k_outdoor.py:released` are the recipes of
`configs/ade20k.py`, which paper and release use for both datasets.

    python -m cocosnet_jax.main --config=configs/ade20k_outdoor.py --workdir=runs/ade20k_outdoor \
        --config.data.source=ADE20K_FOLDER \
        --config.data.exemplar_list=LIST --config.data.validation_exemplar_list=LIST \
        --config.vgg.weights=vgg19.pth

The folder is ADE20k's, with its `sceneCategories.txt`. The dataset contains the scene categories in
which outdoor classes cover more pixels than floors, walls and ceilings. Preparation prints the
number of photographs.

Expected results (the paper's tables 1 and 2): FID 42.4, SWD 11.5, semantic consistency 0.873.
"""

from ml_collections import ConfigDict

from cocosnet_jax.configs import ade20k, base

VARIANTS = ("paper", "released")


@base.at_sizes
def get_config(variant: str = "paper") -> ConfigDict:
    """Returns one of `VARIANTS`; `512`, `1024` and `VARIANT-512` are larger."""
    if variant not in VARIANTS:
        raise base.unknown_variant("configs/ade20k_outdoor.py", variant, VARIANTS)
    config = ade20k.get_config(variant)
    config.data.dataset = "ade20k_outdoor"
    return config
