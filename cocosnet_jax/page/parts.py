"""What the page's tabs are made of: pictures, galleries, painters, events that answer in words."""

import functools
import logging
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from etils import epath
from jaxtyping import UInt8

from cocosnet_jax import pictures
from cocosnet_jax.errors import UserError
from cocosnet_jax.page import painting, uploads
from cocosnet_jax.page.classes import PaintClass
from cocosnet_jax.page.studio import STROKES, STROKES_SIDE, Numbers, Photograph, Planes, Studio

_HERE = Path(__file__).parent


class Desk:
    """Turns what clients send into arrays, and what the studio makes into values of the page.

    Attributes:
      studio: what computes.
      folder: where Gradio keeps uploads and results.
    """

    def __init__(self, studio: Studio, folder: Path):
        self.studio, self.folder = studio, folder

    def photograph(self, payload: Any, what: str) -> Photograph:
        """An uploaded photograph; raises a `UserError` if there is none, or a bad one."""
        return uploads.read_photograph(self._file(payload, what), what)

    def layer(self, payload: Any, what: str) -> UInt8[np.ndarray, "rows columns 4"]:
        """An uploaded layer of strokes; raises as `photograph` does."""
        return uploads.read_layer(self._file(payload, what), what)

    def map(self, payload: Any, what: str, photograph: Any = None) -> Planes:
        """An uploaded map, which must fit the uploaded `photograph` if that is given."""
        other = None if photograph is None else self._file(photograph, "the photograph")
        if other is not None:
            uploads.check_picture(other, "the photograph")
        return self.studio.read_map(self._file(payload, what), what, other)

    def exemplar_map(self, payload: Any, exemplar: Any) -> Planes | None:
        """The exemplar's map if the networks read it; raises as `photograph` does."""
        if not self.studio.needs_exemplar_label:
            return None
        return self.map(payload, "the exemplar's label map", exemplar)

    def painted(self, value: Any) -> Numbers:
        """A painted map; raises a `UserError` if there is none, or a broken one."""
        return painting.decode(value, self.studio.size, len(self.studio.classes))

    def strokes(self, value: Any) -> Numbers:
        """Painted strokes, likewise."""
        return painting.decode(value, STROKES_SIDE, len(STROKES))

    def _file(self, payload: Any, what: str) -> Path:
        path = uploads.path_of(payload, self.folder, what)
        if path is None:
            raise UserError(f"{what} is missing; choose or upload one")
        return path

    def on(
        self,
        triggers: Sequence[Any],
        function: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        api_name: str | None = None,
    ) -> None:
        """Calls a function when something happens.

        All visitors together have as many calls at once as two batches hold, so that one batch is
        read while the other is translated.

        Args:
          triggers: events, such as `button.click`.
          function: takes the values of `inputs` as clients send them, and perhaps Gradio's event.
          inputs: components.
          outputs: components that get what the function returns.
          api_name: the name for Gradio's client; None for what only the page calls.
        """
        gr.on(
            list(triggers),
            self._in_words(function),
            list(inputs),
            list(outputs),
            api_name=api_name,
            api_visibility="public" if api_name else "private",
            # Gradio would decode pictures without limits.
            preprocess=False,
            concurrency_id="networks",
            concurrency_limit=2 * self.studio.turns.most,
            trigger_mode="always_last",
            show_progress="minimal",
        )

    def _in_words(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            try:
                return self._written(function(*arguments))
            except UserError as error:
                raise gr.Error(str(error), duration=15, print_exception=False) from None
            except Exception as error:
                logging.exception("the page failed")
                raise gr.Error(
                    "the page failed; the terminal of its server says why", print_exception=False
                ) from error

        return call

    def _written(self, values: Any) -> Any:
        """The values that a function returns, with a new PNG file's path for each picture.

        Gradio would name the file after its content, and write it again for each visitor: if two
        get the same picture at the same moment, one could get an empty file.
        """
        if type(values) in (tuple, list):  # Not a point, which is a named tuple.
            return type(values)(self._written(value) for value in values)
        if not isinstance(values, np.ndarray) or values.ndim != 3:
            return values
        path = self.folder / secrets.token_hex(16) / "image.png"
        pictures.write_png(epath.Path(path), values)
        return str(path)


def number(value: Any, low: float, high: float, what: str) -> float:
    """A number that a client sent.

    Raises:
      UserError: it is no number, or not from `low` to `high`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"{what} is {value!r}; it must be a number from {low:g} to {high:g}")
    return float(value)


def chosen(event: gr.SelectData, count: int) -> int:
    """Which picture of a gallery was clicked; raises a `UserError` if there is no such one."""
    if not isinstance(event.index, int) or not 0 <= event.index < count:
        raise UserError("there is no such scene; reload the page")
    return event.index


def upload(label: str, value: Photograph | None = None, **options: Any) -> gr.Image:
    """A place for an uploaded picture; `value` is there at first."""
    return gr.Image(
        value,
        label=label,
        sources=["upload", "clipboard"],
        type="filepath",
        format="png",
        buttons=[],
        **{"height": 170, **options},
    )


def shown(label: str, value: Photograph | None = None, **options: Any) -> gr.Image:
    """A picture that the page shows, to the byte."""
    return gr.Image(
        value,
        label=label,
        interactive=False,
        type="filepath",
        format="png",
        elem_classes=["shown"],
        **{"buttons": ["download", "fullscreen"], **options},
    )


def gallery(label: str, pictures: Sequence[Photograph], **options: Any) -> gr.Gallery:
    """Pictures to choose from, or results."""
    return gr.Gallery(
        [(picture, None) for picture in pictures],
        label=label,
        format="png",
        allow_preview=False,
        interactive=False,
        object_fit="cover",
        type="filepath",
        **{"columns": 3, "height": "auto", "buttons": [], **options},
    )


def painter(
    value: str | None, side: int, classes: Sequence[PaintClass], *, strokes: bool, name: str
) -> gr.HTML:
    """A canvas with a palette.

    Args:
      value: text of `painting.encode`.
      side: of the painted map, in pixels.
      classes: the palette.
      strokes: class 0 is transparent; else all classes cover.
      name: `id` in the page.
    """
    texts = [(_HERE / f"painter.{kind}").read_text() for kind in ("html", "css", "js")]
    return gr.HTML(
        value,
        html_template=texts[0],
        css_template=texts[1],
        js_on_load=texts[2],
        apply_default_css=False,
        elem_id=name,
        side=side,
        classes=[list(entry) for entry in classes],
        strokes=strokes,
        start=min(6, len(classes) - 1),
    )
