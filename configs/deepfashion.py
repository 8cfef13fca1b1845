r"""DeepFashion pose-to-body, 256 x 256: poses to people, in the clothes of an exemplar.

`configs/deepfashion.py` follows the paper (section 4), and `configs/deepfashion.py:released` the
authors' release.

    python -m cocosnet_jax.main --config=configs/deepfashion.py --workdir=runs/deepfashion \
        --config.data.source=DEEPFASHION_FOLDER \
        --config.data.exemplar_list=LIST --config.data.validation_exemplar_list=LIST \
        --config.vgg.weights=vgg19.pth

The folder contains `img/`, `pose/` with OpenPose's files and a `val.txt`; see docs/data.md. The
paper trains with exemplars of other people (from the list), and with each photograph itself,
geometrically distorted. The release trains without a list: the exemplar of a photograph is another
view of the same person in the same clothes, found by the dataset's file names, or the photograph
itself. Two details of `configs/deepfashion.py` are from the release: the probability of the list's
exemplar, and no flips (the limbs' channels distinguish left and right). If poses were detected in
pictures of 256 x 256, and the photographs are larger, set `--config.data.pose_size=256x256`.

Expected results (the paper's tables 1 to 3): FID 14.4, semantic consistency 0.968, style relevance
0.982 (colour) and 0.958 (texture).
"""

from ml_collections import ConfigDict

from cocosnet_jax.configs import base

VARIANTS = ("paper", "released")


@base.at_sizes
def get_config(variant: str = "paper") -> ConfigDict:
    """Returns one of `VARIANTS`; `512`, `1024` and `VARIANT-512` are larger."""
    if variant not in VARIANTS:
        raise base.unknown_variant("configs/deepfashion.py", variant, VARIANTS)
    config = base.get_config()
    config.data.dataset = "deepfashion"
    config.data.condition = "channels"
    config.data.channels = 20
    config.data.image_size = 256
    config.data.load_size = 286
    config.data.flip = False
    config.data.exemplar_list = ""  # The dataset has none; users set it.
    config.loss.pseudo_exemplar = 10.0
    config.optimiser.constant_epochs = 50
    config.optimiser.decay_epochs = 50
    config.train.batch_size = 32
    if variant == "paper":
        return base.paper(config)
    base.released(config)
    config.data.exemplar_probability = 0.0
    config.data.self_pair_list = "names"
    config.model.adaptor_kernel = 4
    config.model.mask_input = "none"
    config.model.warped_mask = "none"
    config.model.warp_upsampling = "patch"
    config.loss.mask = 0.0
    config.loss.perceptual = 0.001
    config.loss.perceptual_layer = "relu4_2"
    config.loss.regularisation = 0.0
    config.loss.self_warp = 100.0
    return config
