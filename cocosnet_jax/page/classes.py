"""Names and colours of the classes that are painted with."""

from typing import NamedTuple

from cocosnet_jax import pictures
from cocosnet_jax.data.drawn import things
from cocosnet_jax.data.labels import face_parts, label_maps
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
    names, colours = _names(data), _colours(data)
    return [
        PaintClass(number, names.get(number, f"class {number}"), colours[number])
        for number in range(data.channels)
    ]


def _names(data: DataSettings) -> dict[int, str]:
    names: tuple[str, ...] = ()
    if data.dataset == "drawn_scenes":
        names = things.CLASS_NAMES
    elif data.dataset == "toy_scenes":
        # Its package needs TensorFlow, which takes seconds to import.
        from cocosnet_jax.data.builders.toy_classes import CLASS_NAMES

        names = CLASS_NAMES
    elif data.dataset == "celebahq":
        names = tuple(_FACE_PARTS.get(name, name) for name in face_parts.CLASS_NAMES)
    elif data.dataset in ("ade20k", "ade20k_outdoor", "flickr"):
        names = ("unknown", *ADE20K)
    elif data.classes:
        names = label_maps.parse_classes(data.classes, "config.data.classes").names
    return dict(enumerate(names))


def _colours(data: DataSettings) -> list[str]:
    """The colours of the training maps if they had colours, else some that look different."""
    if data.dataset == "drawn_scenes":
        return [_hex(colour) for colour in things.CLASS_COLOURS]
    colours = [_hex(colour) for colour in pictures.palette(data.channels)]
    own = dict(label_maps.parse_palette(data.palette))
    if data.classes:
        listed = label_maps.parse_classes(data.classes, "config.data.classes").colours
        own |= {number: several[0] for number, several in enumerate(listed)}
    for number, colour in own.items():
        if number < len(colours):
            colours[number] = label_maps.show(colour)
    return colours


def _hex(colour: object) -> str:
    red, green, blue = (int(x) for x in colour)  # type: ignore[attr-defined]
    return label_maps.show((red << 16) + (green << 8) + blue)


_FACE_PARTS = {
    **{f"l_{part}": f"left {part}" for part in ("brow", "eye", "ear")},
    **{f"r_{part}": f"right {part}" for part in ("brow", "eye", "ear")},
    **{"u_lip": "upper lip", "l_lip": "lower lip", "cloth": "clothes", "eye_g": "glasses"},
    **{"ear_r": "earring", "neck_l": "necklace"},
}
# Of ADE20k's scene parsing benchmark; maps of Flickr landscapes have the same.
_ADE20K = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf,
house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub,
railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper,
fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door,
stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel,
bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television, airplane,
dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage,
van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel,
basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name,
microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower,
radiator, glass, clock, flag
"""
ADE20K = tuple(" ".join(name.split()) for name in _ADE20K.split(","))  # classes 1 to 150
