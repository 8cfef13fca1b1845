r"""Your own photographs, 256 x 256, with label maps, edges or poses.

`configs/folder.py` reads `images/` and `labels/` in a folder, `configs/folder.py:edges` `images/`
and `edges/` (or `images/` alone, with edges by Canny), and `configs/folder.py:poses` `images/` and
`poses/` by OpenPose; see docs/data.md. The recipes are the release's for ADE20k, CelebA-HQ edges
and DeepFashion.

    python -m cocosnet_jax.prepare --config=configs/folder.py --source=FOLDER --preview=sheet.png
    python -m cocosnet_jax.retrieve --config=configs/folder.py --config.data.source=FOLDER \
        --config.data.channels=N --config.vgg.weights=vgg19.pth --output=exemplars.txt
    python -m cocosnet_jax.main --config=configs/folder.py --config.data.source=FOLDER \
        --config.data.channels=N --config.vgg.weights=vgg19.pth \
        --config.data.exemplar_list=exemplars.txt --config.train.batch_per_device=4 \
        --workdir=runs/own

The first command prints N, the number of classes (edges and poses need none). It also reports if
label maps in colour need `classes.txt`, or maps with the value 255 need `--config.data.value_255`.
The second is optional: without a list, any two photographs are paired. `--init_from=runs/released`
starts from the matching weights of a published model, converted by `cocosnet_jax.convert`. For a
smaller, faster model, add `--config.model.base_filters=16 --config.data.image_size=128
--config.data.load_size=144`.
"""

from ml_collections import ConfigDict

from cocosnet_jax.configs import ade20k, base, celebahq_edge, deepfashion

VARIANTS = ("labels", "edges", "poses")


def get_config(variant: str = "labels") -> ConfigDict:
    """Returns one of `VARIANTS`."""
    if variant not in VARIANTS:
        raise base.unknown_variant("configs/folder.py", variant, VARIANTS)
    if variant == "labels":
        config = ade20k.get_config("released")
        config.data.dataset = "folder"
        config.data.channels = 0  # Counted by `prepare`.
    elif variant == "edges":
        config = celebahq_edge.get_config("released")
        config.data.dataset = "folder_edges"
        config.data.channels = 2
    else:
        config = deepfashion.get_config("released")
        config.data.dataset = "folder_poses"
        config.data.self_pair_list = ""
    config.data.exemplar_list = config.data.validation_exemplar_list = "random"
    config.train.batch_size = 4
    config.train.evaluation_batch_size = 4
    return config
