r"""Generated landscapes, 64 x 64, and narrow networks: the method in minutes on a laptop's CPU.

    python -m cocosnet_jax.main --config=configs/toy.py --workdir=runs/toy \
        --config.train.batch_per_device=4

The recipe is the release's for ADE20k: the correspondence network takes the exemplar's mask for
three epochs, as a warm-up, and noise instead for one. `configs/toy.py:no_mask` uses no mask, so
that the correspondence depends on the pictures alone. The perceptual losses use an untrained narrow
VGG (`vgg.weights=random`), which needs no download and suffices for the colours and textures of
drawings.

`make train-demo` runs this config, and measures it after the warm-up and at the end.
"""

from ml_collections import ConfigDict

from cocosnet_jax.configs import base

VARIANTS = ("mask", "no_mask")
MASK_EPOCHS = 3


def get_config(variant: str = "mask") -> ConfigDict:
    """Returns one of `VARIANTS`."""
    if variant not in VARIANTS:
        raise base.unknown_variant("configs/toy.py", variant, VARIANTS)
    config = base.released(base.get_config())
    config.data.dataset = "toy_scenes"
    config.data.image_size = 64
    config.data.load_size = 72
    config.data.channels = 11
    config.data.exemplar_list = "random"
    config.data.validation_exemplar_list = "random"
    config.data.exemplar_probability = 0.3
    config.model.base_filters = 8
    config.model.adaptor_kernel = 3
    # Memory suffices at this size, and the step compiles faster.
    config.model.rematerialise = "nothing"
    config.model.mask_input = "features" if variant == "mask" else "none"
    if variant == "mask":
        config.model.mask_epochs = MASK_EPOCHS
    config.model.warped_mask = "direct"
    config.loss.mask = 200.0
    # With the release's weight, 10, the adversarial loss dominates such a short training: colours
    # end further from the exemplar, with each of three seeds.
    config.loss.adversarial = 2.0
    # Deep layers of an untrained VGG hardly respond to colour, but its second stage does.
    config.loss.contextual_relu2_2 = True
    config.loss.perceptual = 0.001
    config.loss.pseudo_exemplar = 10.0
    config.vgg.weights = "random"
    config.vgg.width = 16
    # A run of few steps needs high rates, and most images as their own exemplar, from which colours
    # are learned fastest.
    config.optimiser.generator_rate = 1e-3
    config.optimiser.discriminator_rate = 7e-4
    config.optimiser.constant_epochs = 3
    config.optimiser.decay_epochs = 1
    config.train.batch_size = 4
    config.train.log_every = 10
    config.train.images_every = 0
    # One per epoch. The demo also measures the one after the warm-up, so it must be kept, however
    # often the run is interrupted and saved.
    config.train.checkpoint_every = 80
    config.train.keep_checkpoints = 320
    return config
