"""Makes and writes picture grids that show translations at a glance."""

import colorsys
import io
import os
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageDraw, ImageOps, PngImagePlugin

from cocosnet_jax import files
from cocosnet_jax.errors import UserError
from cocosnet_jax.types import Batch, Outputs

# Pillow's and torchvision's default, with which this field's code saved.
JPEG_QUALITY = 75
# Of results: no difference can be seen, and colours keep their full resolution (4:4:4).
RESULT_QUALITY = 95
# Name of the metadata entry that contains a digest of everything that a result was made from.
_ORIGIN = "cocosnet_jax"
_LONGEST_JPEG = 65500  # libjpeg's limit
# The columns of `grid`.
COLUMNS = ("input", "exemplar", "warped exemplar", "output", "truth")

HEADER = 30  # height of the titles of `sheet`, in pixels


def to_bytes(image: Shaped[np.ndarray, "*shape 3"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Converts [-1, 1] to 0..255, rounded; bytes are returned unchanged."""
    if image.dtype == np.uint8:
        return image
    return np.rint((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)


def palette(classes: int) -> UInt8[np.ndarray, "classes 3"]:
    """One colour per class, the same in every run; class 0 is black."""
    # Hues a golden ratio apart, so that neighbouring class numbers look different.
    colours = [
        colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.4 + 0.3 * (i % 3), 1 - 0.2 * (i % 2))
        for i in range(classes)
    ]
    return np.rint(255 * np.array([(0, 0, 0), *colours[1:]])).astype(np.uint8)


def show_input(
    label: UInt8[np.ndarray, "b height width planes"], condition: str
) -> UInt8[np.ndarray, "b height width 3"]:
    """The input x_A as a picture: classes in colours, edges in grey, or the drawing of a pose."""
    if condition != "channels":
        return palette(256)[label[..., 0]]
    # The first plane of edge maps shows all edges, black or white (grey only in those of 2 planes);
    # the first three of poses are the drawing.
    is_edges = label.shape[-1] < 3 or set(np.unique(label[..., 0])) <= {0, 255}
    return np.repeat(label[..., :1], 3, axis=-1) if is_edges else label[..., :3]


def grid(batch: Batch, outputs: Outputs, condition: str) -> UInt8[np.ndarray, "height width 3"]:
    """One row per sample, `COLUMNS` from left to right; without a warp if the network has none."""
    columns = [
        show_input(np.asarray(batch.label), condition),
        batch.exemplar,
        outputs.warped_exemplar,
        outputs.image,
        batch.image,
    ]
    shown = [to_bytes(np.asarray(column)) for column in columns if column is not None]
    return tile([[column[row] for column in shown] for row in range(len(shown[0]))])


def tile(
    rows: Sequence[Sequence[UInt8[np.ndarray, "height width 3"]]], gap: int = 2
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Arranges pictures of one size in rows, with white gaps."""
    strips = [
        np.concatenate(
            [np.pad(picture, ((gap, 0), (gap, 0), (0, 0)), constant_values=255) for picture in row],
            axis=1,
        )
        for row in rows
    ]
    return np.pad(np.concatenate(strips), ((0, gap), (0, gap), (0, 0)), constant_values=255)


def to_jpeg(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The content of a JPEG file, as Pillow and torchvision save one."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=JPEG_QUALITY)
    return buffer.getvalue()


def write(path: epath.Path, image: UInt8[np.ndarray, "height width 3"]) -> None:
    """Writes a PNG or JPEG file, by the ending of its name, as `files.write` does."""
    if path.suffix == ".jpeg":
        files.write(path, to_jpeg(image))
    else:
        write_png(path, image)


def sheet(
    rows: Sequence[Sequence[UInt8[np.ndarray, "height width 3"]]],
    titles: Sequence[str],
    scale: int = 2,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """`tile` with a title above each column, in pictures enlarged `scale` times."""
    large = [[np.repeat(np.repeat(x, scale, 0), scale, 1) for x in row] for row in rows]
    gap = 4
    grid = tile(large, gap)
    header = Image.new("RGB", (grid.shape[1], HEADER), "white")
    draw = ImageDraw.Draw(header)
    width = large[0][0].shape[1] + gap
    for column, title in enumerate(titles):
        draw.text((column * width + 6, 3), title, fill="black", font_size=HEADER - 8)
    return np.concatenate([np.asarray(header), grid])


def write_png(path: epath.Path, image: UInt8[np.ndarray, "height width 3"] | Image.Image) -> None:
    """Writes a PNG file as `files.write` does; a Pillow image keeps its mode."""
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, "png")
    files.write(path, buffer.getvalue())


def write_result(
    path: epath.Path,
    image: UInt8[np.ndarray, "height width *channels"],
    origin: str,
) -> None:
    """Writes a result as `files.write` does: PNG, or JPEG if its name ends in `.jpg` or `.jpeg`.

    Args:
      path: of the file.
      image: (H, W, 3), or (H, W) for a grey picture.
      origin: what `origin_of` returns later, written into the file's metadata.

    Raises:
      StorageError: it cannot be written.
      UserError: the picture is larger than a JPEG file can be.
    """
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    if path.suffix.lower() == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_text(_ORIGIN, origin)
        picture.save(buffer, "png", pnginfo=text)
    elif max(picture.size) > _LONGEST_JPEG:
        width, height = picture.size
        raise UserError(
            f"{path} has {width}x{height} pixels (width x height), and a JPEG file has at most"
            f" {_LONGEST_JPEG} along a side; write PNG"
        )
    else:
        comment = f"{_ORIGIN} {origin}".encode()
        picture.save(buffer, "jpeg", quality=RESULT_QUALITY, subsampling="4:4:4", comment=comment)
    files.write(path, buffer.getvalue())


def origin_of(path: os.PathLike[str]) -> str:
    """The origin that `write_result` wrote into a file; empty if there is none."""
    try:
        with Image.open(path) as picture:
            comment = picture.info.get("comment", b"")
            found = picture.info.get(_ORIGIN, "")
    except Exception:  # Missing, or damaged, which makes Pillow raise nearly anything.
        return ""
    if isinstance(comment, bytes) and comment.startswith(f"{_ORIGIN} ".encode()):
        return comment.decode(errors="replace").split()[-1]
    return str(found)


def fit(image: UInt8[np.ndarray, "height width 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Resizes a picture into a square, and fills the rest of the square with white."""
    picture = Image.fromarray(image)
    return np.asarray(ImageOps.pad(picture, (side, side), Image.Resampling.BICUBIC, "white"))
