r"""Drawn scenes, 128 x 128, narrow networks: what the small model that comes with the program is.

    python -m cocosnet_jax.main --config=configs/drawn.py --workdir=runs/drawn \
        --config.vgg.weights=vgg16.pth

`configs/drawn.py` takes label maps, `configs/drawn.py:edges` the outlines of things. Houses, trees
have parts and patterns whose place the class alone does not tell; no layout and no style is
validated that was trained on.

The recipe is the release's for ADE20k, where an exemplar of the image's own look is another
layout in its style, as the release has it for DeepFashion: with that exemplar the image itself is
what the translation and the warp should be, so that correspondence is learned between different
layouts. The warp carries whole patches, as there. With label maps, the correspondence network is
given the exemplar's mask as a warm-up, then noise: translation needs no exemplar mask.

Without a VGG file the losses use untrained weights (`vgg.weights=random`): fine for trying things
out, not for results.
"""

from ml_collections import ConfigDict

from cocosnet_jax.configs import base

VARIANTS = ("labels", "edges")
MASK_EPOCHS = 8


def get_config(variant: str = "labels") -> ConfigDict:
    """Returns one of `VARIANTS`."""
    if variant not in VARIANTS:
        raise base.unknown_variant("configs/drawn.py", variant, VARIANTS)
    config = base.released(base.get_config())
    config.data.image_size = 128
    config.data.load_size = 144
    config.data.exemplar_list = "random"
    config.data.validation_exemplar_list = "random"
    config.data.exemplar_probability = 0.4
    config.data.self_pair_list = "names"
    config.model.base_filters = 10
    config.model.adaptor_kernel = 3
    config.model.warp_upsampling = "patch"
    config.model.rematerialise = "nothing"
    if variant == "labels":
        config.data.dataset = "drawn_scenes"
        config.data.channels = 14
        config.model.mask_input = "features"
        config.model.mask_epochs = MASK_EPOCHS
        config.model.mask_at_inference = False
        config.model.warped_mask = "direct"
        config.loss.mask = 100.0
    else:
        config.data.dataset = "drawn_edges"
        config.data.condition = "channels"
        config.data.channels = 2
        config.model.mask_input = "none"
        config.model.warped_mask = "none"
        config.loss.mask = 0.0
    config.loss.contextual_relu2_2 = True
    config.loss.perceptual = 0.001
    config.loss.perceptual_layer = "relu4_2"
    config.loss.pseudo_exemplar = 10.0
    config.loss.self_warp = 100.0
    config.vgg.weights = "random"
    # Few steps of narrow networks: higher rates than the release's.
    config.optimiser.generator_rate = 5e-4
    config.optimiser.discriminator_rate = 5e-4
    config.optimiser.constant_epochs = 16
    config.optimiser.decay_epochs = 8
    config.optimiser.ema = 0.999
    config.train.batch_size = 16
    config.train.evaluation_batch_size = 16
    return config
