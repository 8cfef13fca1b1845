"""Draws the pictures of docs/applications.md from drawn scenes, with the shipped model.

    python -m cocosnet_jax.apps.gallery --folder=docs/pictures

is what `make pictures` runs. It writes into the folder

    translate.png    label maps in the styles of exemplars
    edit.png         a photograph, edited by its label map
    makeup.png       strokes on one house, carried to others
    matches.png      numbered points and their matches
    warps.png        the dense warps, both ways
    heat.png         how similar each place is to a point

The scenes are of the validation split, which no training has seen.
"""

import sys
from pathlib import Path

import numpy as np
import tqdm
from absl import flags
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from cocosnet_jax import checkpoint, command, pictures, workdir
from cocosnet_jax.apps import correspond, edit, makeup
from cocosnet_jax.data.drawn.scene import POINTS, Scene, draw_scene
from cocosnet_jax.data.drawn.splits import SHARING, VALIDATION_SEED
from cocosnet_jax.data.drawn.things import CLASS_COLOURS, CROWN, ROOF, SKY, SUN, TRUNK, WALL
from cocosnet_jax.inference import Translator
from cocosnet_jax.pretrained import SHIPPED

# Numbers of scenes in the validation split, chosen for houses of one kind: between others, a label
# map tells less of what belongs where. docs/applications.md says how they were chosen.
TRANSLATED = (64, 222, 12)
EXEMPLARS = (150, 4, 200, 90)
EDITED = 64
PORTRAIT = 54
PORTRAITS = (42, 200, 118, 92)
MATCHED = ((52, 216), (4, 6))
HEATED = (64, 150)
# Named points that are matched, and those of the heat maps.
MARKED = (
    *("house door", "house window", "house window upstairs", "house wall outer top"),
    *("house chimney", "house roof middle", "house roof eaves"),
)
HOT = ("house wall outer top", "house window upstairs")
LARGE = 256  # side of portraits in pixels: larger than the networks see

Picture = UInt8[np.ndarray, "rows columns 3"]


def scene(number: int, size: int) -> Scene:
    """A scene of the validation split in its own style."""
    return draw_scene(VALIDATION_SEED + number, VALIDATION_SEED + number // SHARING, size)


def translated(translator: Translator) -> Picture:
    """A row of exemplars, then a row for each label map: itself, and its translations."""
    size = translator.size
    exemplars = [scene(number, size).image for number in EXEMPLARS]
    rows = [[np.full_like(exemplars[0], 255), *exemplars]]
    for number in TRANSLATED:
        label = scene(number, size).label
        labels = np.stack([label] * len(exemplars))[..., None]
        outputs = translator.translate(labels, np.stack(exemplars))
        rows.append([CLASS_COLOURS[label], *pictures.to_bytes(np.asarray(outputs.image))])
    return pictures.sheet(rows, ["", *["exemplar"] * len(exemplars)])


def edited(translator: Translator) -> Picture:
    """Edited label maps, what the networks draw, and the same pasted into the photograph."""
    photograph, label, *_ = scene(EDITED, translator.size)
    columns = [[CLASS_COLOURS[label], photograph, photograph]]
    edits = edits_of(label)
    for changed in edits.values():
        given = translator, photograph, label[..., None], changed[..., None]
        columns.append([CLASS_COLOURS[changed], edit.edit(*given), edit.edit(*given, paste=True)])
    rows = [list(row) for row in zip(*columns, strict=True)]
    return pictures.sheet(rows, ["photograph", *edits])


def edits_of(label: UInt8[np.ndarray, "height width"]) -> dict[str, np.ndarray]:
    """Edited versions of a label map, by what a person would say was done."""
    size = len(label)

    def painted(thing: int, shapes: list[tuple[float, ...]], on: np.ndarray) -> np.ndarray:
        image = Image.fromarray(on)
        draw = ImageDraw.Draw(image)
        for shape in shapes:
            corners = [size * x for x in shape]
            if len(corners) == 4:
                draw.ellipse(corners, fill=thing)
            else:
                draw.polygon(corners, fill=thing)
        return np.asarray(image)

    moved = painted(SUN, [(0.28, 0.05, 0.5, 0.27)], np.where(label == SUN, SKY, label))
    # Where trees were, the class above them continues.
    without = label.copy()
    for row in range(1, size):
        tree = np.isin(without[row], (CROWN, TRUNK))
        without[row, tree] = without[row - 1, tree]
    tree = painted(TRUNK, [(0.72, 0.6, 0.77, 0.6, 0.77, 0.92, 0.72, 0.92)], label)
    tree = painted(CROWN, [(0.61, 0.32, 0.88, 0.72)], tree)
    tower = painted(WALL, [(0.08, 0.48, 0.4, 0.48, 0.4, 0.91, 0.08, 0.91)], label)
    tower = painted(ROOF, [(0.03, 0.48, 0.24, 0.26, 0.45, 0.48)], tower)
    return {"sun moved": moved, "trees felled": without, "tree added": tree, "tower added": tower}


def made_up(translator: Translator) -> Picture:
    """Houses, and the same with the strokes of the first."""
    portrait = scene(PORTRAIT, LARGE)
    layer = strokes(portrait)
    painted = Image.alpha_composite(
        Image.fromarray(portrait.image).convert("RGBA"), Image.fromarray(layer)
    )
    above, below = [portrait.image], [np.asarray(painted.convert("RGB"))]
    for number in PORTRAITS:
        label = scene(number, translator.size).label[..., None]
        other = scene(number, LARGE).image
        above.append(other)
        below.append(makeup.carry(translator, portrait.image, None, layer, other, label))
    return pictures.sheet([above, below], ["painted", *["carried"] * len(PORTRAITS)], scale=1)


def strokes(house: Scene) -> UInt8[np.ndarray, "rows columns 4"]:
    """A layer with wreaths around the windows and a yellow door."""
    size = len(house.label)
    layer = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(layer)
    for name, (x, y) in zip(POINTS, (house.points + 0.5) / size, strict=True):
        if np.isnan(x):
            continue
        if "window" in name:
            box = [size * v for v in (x - 0.065, y - 0.065, x + 0.065, y + 0.065)]
            draw.ellipse(box, outline=(255, 40, 120, 255), width=size // 50)
        elif name == "house door":
            box = [size * v for v in (x - 0.06, y - 0.095, x + 0.06, y + 0.09)]
            draw.rectangle(box, fill=(255, 220, 0, 190))
    return np.asarray(layer)


def marked(pair: tuple[Scene, Scene]) -> np.ndarray:
    """The points of `MARKED` that both scenes show, in the first."""
    both = np.isfinite(pair[0].points + pair[1].points).all(1)
    places = [POINTS.index(name) for name in MARKED]
    return pair[0].points[[place for place in places if both[place]]].astype(float)


def matched(translator: Translator) -> tuple[Picture, Picture]:
    """Matches of named points, and the dense warps both ways."""
    drawn, rows = [], []
    for numbers in MATCHED:
        pair = scene(numbers[0], translator.size), scene(numbers[1], translator.size)
        given = pair[0].label[..., None], pair[1].image, None
        shown = correspond.correspond(translator, *given, marked(pair))
        drawn.append(shown.picture)
        rows.append(
            [CLASS_COLOURS[pair[0].label], shown.warped_exemplar, pair[1].image, shown.warped_input]
        )
    titles = ["input", "exemplar, warped to it", "exemplar", "input, warped to it"]
    return pictures.tile([[x] for x in drawn], 4), pictures.sheet(rows, titles)


def heated(translator: Translator) -> Picture:
    """Heat maps of two points."""
    first, second = (scene(number, translator.size) for number in HEATED)
    drawn = []
    for number, name in enumerate(HOT, 1):
        x, y = first.points[POINTS.index(name)].tolist()
        given = translator, first.label[..., None], second.image, None
        drawn.append(correspond.heat_map(*given, (x, y), number=number))
    return pictures.tile([[x] for x in drawn], 4)


def main() -> None:
    """Draws and writes all pictures."""
    folder = checkpoint.absolute(flags.FLAGS["folder"].value)
    workdir.check_writable(folder, "folder")
    translator = Translator(SHIPPED)
    with tqdm.tqdm(total=6, desc="drawing", unit=" pictures", file=sys.stdout) as progress:

        def write(name: str, picture: Picture) -> None:
            pictures.write_png(folder / name, picture)
            progress.update()

        write("translate.png", translated(translator))
        write("edit.png", edited(translator))
        write("makeup.png", made_up(translator))
        matches, warps = matched(translator)
        write("matches.png", matches)
        write("warps.png", warps)
        write("heat.png", heated(translator))
    print(f"six pictures in {Path(folder)}")


def run() -> None:
    """The command `cocosnet-gallery`."""
    flags.DEFINE_string("folder", "docs/pictures", "folder to write; made where missing")
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
