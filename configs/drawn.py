r"""Drawn scenes, 128 x 128, narrow networks: the small model that comes with the program.

    python -m cocosnet_jax.main --config=configs/drawn.py --workdir=runs/drawn \
        --config.vgg.weights=vgg16.pth
    python -m cocosnet_jax.main --config=configs/drawn.py:colours --workdir=runs/colours \
        --init_from=runs/drawn --config.vgg.weights=vgg16.pth
    python -m cocosnet_jax.convert --checkpoint=runs/colours --safetensors=drawn.safetensors \
        --bfloat16

The first trains such a model, the second trains it further, so that regions have the exemplar's
colours, and the third makes the file that `translate --checkpoint` takes; vgg16.pth is
torchvision's VGG-16. `configs/drawn.py` takes label maps, `configs/drawn.py:edges` the
outlines of things. Houses and trees have parts and patterns whose place the class alone does not
tell; no layout and no style is validated that was trained on.

The recipe is the release's for ADE20k, where an exemplar of the image's own look is another layout
in its style, as the release has it for DeepFashion: with that exemplar the image itself is what the
translation and the warp should be, so that correspondence is learned between different layouts. The
correspondence network never sees the exemplar's label map. The warp carries whole patches. Losses
against the truth weigh more than the release's, those of style and of the adversary less.

`configs/drawn.py:colours` has `loss.colour`, `loss.class_colour` and `loss.warp_class_colour`, a
weaker contextual loss, lower rates, and exemplars in the image's own style alone.

What comes with the program, `cocosnet_jax/pretrained/drawn.safetensors`, are averaged weights:
those after 7,800 of the first recipe's 10,560 steps (24 of 33 epochs), by when one NVIDIA H200 had
trained for 265 s, trained further in small batches on two CPU cores, in turns of which the last had
the settings of `:colours`. So these commands make a model of this kind, not the same numbers:
docs/learning.md has all of it.

Without a VGG file the losses use untrained weights (`vgg.weights=random`): fine for trying things
out, not for results.
"""

from ml_collections import ConfigDict

from cocosnet_jax.configs import base

VARIANTS = ("labels", "edges", "colours")


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
    config.model.mask_input = "none"
    if variant != "edges":
        config.data.dataset = "drawn_scenes"
        config.data.channels = 14
        config.model.warped_mask = "direct"
        config.loss.mask = 100.0
    else:
        config.data.dataset = "drawn_edges"
        config.data.condition = "channels"
        config.data.channels = 2
        config.model.warped_mask = "none"
        config.loss.mask = 0.0
    config.loss.adversarial = 5.0
    config.loss.contextual = 5.0
    config.loss.contextual_relu2_2 = True
    config.loss.perceptual = 0.5
    config.loss.perceptual_layer = "relu4_2"
    config.loss.pseudo_exemplar = 100.0
    config.loss.self_warp = 100.0
    config.vgg.weights = "random"
    # Few steps of narrow networks: higher rates than the release's.
    config.optimiser.generator_rate = 5e-4
    config.optimiser.discriminator_rate = 5e-4
    config.optimiser.constant_epochs = 20
    config.optimiser.decay_epochs = 13
    config.optimiser.ema = 0.999
    config.train.batch_size = 16
    config.train.evaluation_batch_size = 16
    if variant == "colours":
        # The exemplar is always another layout in the image's style, with which colours are taught.
        config.data.exemplar_probability = 0.0
        config.loss.class_colour = 5000.0
        config.loss.warp_class_colour = 2000.0
        config.loss.colour = 3000.0
        config.loss.contextual = 2.0
        config.optimiser.generator_rate = 3e-4
        config.optimiser.discriminator_rate = 3e-4
        config.optimiser.constant_epochs = 6
        config.optimiser.decay_epochs = 4
    return config
