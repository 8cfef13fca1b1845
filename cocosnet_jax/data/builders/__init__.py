"""The datasets, by their names in the settings. Each makes pairs from its own files."""

from cocosnet_jax.data import records
from cocosnet_jax.data.builders.ade20k import Ade20k, Ade20kOutdoor
from cocosnet_jax.data.builders.celebahq import Celebahq, Celebahqedge
from cocosnet_jax.data.builders.deepfashion import Deepfashion
from cocosnet_jax.data.builders.drawn_scenes import DrawnEdges, DrawnScenes
from cocosnet_jax.data.builders.folder import Flickr, Folder, FolderEdges, FolderPoses
from cocosnet_jax.data.builders.toy_scenes import ToyScenes
from cocosnet_jax.data.pair_builder import PairBuilder
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

BUILDERS: dict[str, type[PairBuilder]] = {
    "ade20k": Ade20k,
    "ade20k_outdoor": Ade20kOutdoor,
    "celebahq": Celebahq,
    "celebahqedge": Celebahqedge,
    "deepfashion": Deepfashion,
    "drawn_edges": DrawnEdges,
    "drawn_scenes": DrawnScenes,
    "flickr": Flickr,
    "folder": Folder,
    "folder_edges": FolderEdges,
    "folder_poses": FolderPoses,
    "toy_scenes": ToyScenes,
}


def open_builder(settings: DataSettings) -> PairBuilder:
    """Makes the builder of `settings.dataset`; reads and writes nothing yet.

    Raises:
      UserError: there is no dataset of this name, or its maps have another condition.
    """
    if settings.dataset not in BUILDERS:
        raise UserError(
            f"config.data.dataset is {settings.dataset!r}; it must be one of"
            f" {', '.join(sorted(BUILDERS))}"
        )
    builder_class = BUILDERS[settings.dataset]
    if settings.condition != builder_class.condition:
        raise UserError(
            f"config.data.condition is {settings.condition!r}, but {settings.dataset} needs"
            f" {builder_class.condition!r}; use its file in configs/, or set the field"
        )
    return records.open_builder(builder_class, settings)
