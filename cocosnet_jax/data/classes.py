"""Names and colours of a model's classes, as a person sees them."""

import numpy as np
from jaxtyping import UInt8

from cocosnet_jax import pictures
from cocosnet_jax.data.drawn import things
from cocosnet_jax.data.labels import face_parts, label_maps
from cocosnet_jax.settings import DataSettings


def class_names(data: DataSettings) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers; empty if they are not known."""
    if data.dataset == "drawn_scenes":
        return things.CLASS_NAMES
    if data.dataset == "celebahq":
        return tuple(_FACE_PARTS.get(name, name) for name in face_parts.CLASS_NAMES)
    if data.dataset in ("ade20k", "ade20k_outdoor", "flickr"):
        return _SCENE_CLASSES
    return label_maps.parse_classes(data.classes, "config.data.classes of the checkpoint").names


def class_colours(data: DataSettings) -> UInt8[np.ndarray, "256 3"]:
    """The colours of the training maps if they had colours, else some that look different."""
    colours = pictures.palette(256)
    if data.dataset == "drawn_scenes":
        colours[: things.NUM_CLASSES] = things.CLASS_COLOURS
    own = dict(label_maps.parse_palette(data.palette))
    if data.classes:
        listed = label_maps.parse_classes(data.classes, "config.data.classes").colours
        own |= {number: several[0] for number, several in enumerate(listed)}
    for number, colour in own.items():
        colours[number] = colour >> 16, colour >> 8 & 255, colour & 255
    return colours


def show_in_own_colours(
    planes: UInt8[np.ndarray, "height width planes"], data: DataSettings
) -> UInt8[np.ndarray, "height width 3"]:
    """An input as a person sees it: classes in `class_colours`, edges, or the drawing of a pose."""
    if data.condition == "channels":
        return pictures.show_input(planes[None], data.condition)[0]
    return class_colours(data)[planes[..., 0]]


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
_SCENE_CLASSES = ("unknown", *(" ".join(name.split()) for name in _ADE20K.split(",")))
