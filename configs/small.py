r"""Your own photographs with label maps, 64 x 64, narrow networks: what a CPU can train in hours.

    python -m cocosnet_jax.prepare --config=configs/small.py --source=FOLDER --preview=sheet.png
    python -m cocosnet_jax.main --config=configs/small.py --workdir=runs/own \
        --config.data.source=FOLDER --config.data.channels=N --config.vgg.weights=vgg16.pth

The first command prints N, the number of classes; docs/data.md says what the folder holds, and
`configs/folder.py` has full networks. vgg16.pth is torchvision's VGG-16. `configs/small.py:128` is
for pictures of 128 x 128, which take four times as long.

Set `--config.data.flip=False` if classes distinguish left and right, as those of faces do: a
photograph does not show that it was flipped, so flipped training may teach to match either eye.

The recipe is that of `configs/drawn.py`, with three differences: as photographs have no second
picture in the same style, an image is its own exemplar half of the time, distorted; the
correspondence has twice the resolution, 2 x 2 pixels per position; and a step takes only 2
pictures, since VGG's losses take time in proportion to them. The correspondence network never sees
the exemplar's label map. docs/learning.md says what 4,170 steps on 1,668 photographs have learned.
For fewer photographs set more epochs (`--config.optimiser.constant_epochs`, `decay_epochs`).
"""

from ml_collections import ConfigDict

from cocosnet_jax.configs import base, drawn

VARIANTS = ("64", "128")


def get_config(variant: str = "64") -> ConfigDict:
    """Returns one of `VARIANTS`, the side of the pictures."""
    if variant not in VARIANTS:
        raise base.unknown_variant("configs/small.py", variant, VARIANTS)
    config = drawn.get_config()
    config.data.dataset = "folder"
    config.data.channels = 0  # Counted by `prepare`.
    config.data.image_size = int(variant)
    config.data.load_size = config.data.image_size * 9 // 8
    config.data.self_pair_list = ""
    config.data.distortion = "geometric"
    config.data.exemplar_probability = 0.5
    config.model.base_filters = 8
    config.model.warp_stride = 2
    # Groups of 2, so that a batch of any number of devices consists of whole groups. A sample's
    # terms weigh as they do in groups of 4 with weights of 100.
    config.loss.group_size = 2
    config.loss.pseudo_exemplar = 50.0
    config.loss.self_warp = 50.0
    config.optimiser.generator_rate = 1e-3
    config.optimiser.discriminator_rate = 7e-4
    config.optimiser.constant_epochs = 3
    config.optimiser.decay_epochs = 2
    config.optimiser.ema = 0.998
    config.train.batch_per_device = 2
    config.train.evaluation_batch_size = 8
    return config
