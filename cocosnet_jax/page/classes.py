"""Names and colours of the classes that are painted with."""

from typing import NamedTuple

from cocosnet_jax.data.classes import class_colours, class_names
from cocosnet_jax.data.labels import label_maps
from cocosnet_jax.settings import DataSettings


class PaintClass(NamedTuple):
    """A class of the palette.

    Attributes:
      number: in label maps.
      name: as a person calls it.
      colour: `#RRGGBB`, only for the screen.
    """

    number: int
    name: str
    colour: str


def paint_classes(data: DataSettings) -> list[PaintClass]:
    """The palette of a model's label maps or edge maps; numbers where classes have no names."""
    if data.condition == "channels":
        return [PaintClass(0, "nothing", "#000000"), PaintClass(1, "line", "#FFFFFF")]
    names: tuple[str, ...] = class_names(data)
    if data.dataset == "toy_scenes":
        # Its package needs TensorFlow, which takes seconds to import.
        from cocosnet_jax.data.builders.toy_classes import CLASS_NAMES

        names = CLASS_NAMES
    given = dict(enumerate(names))
    return [
        PaintClass(
            number,
            given.get(number, f"class {number}"),
            label_maps.show(label_maps.code_of(colour)),
        )
        for number, colour in enumerate(class_colours(data)[: data.channels])
    ]
