"""The page as an API: what Gradio's client calls by name.

    from gradio_client import Client, handle_file
    client = Client("http://127.0.0.1:7860")
    result, warped = client.predict(
        handle_file("label.png"), handle_file("photo.jpg"), api_name="/translate"
    )

The tabs call functions of their own, which take what is painted; these take files.
"""

from typing import Any

import gradio as gr

from cocosnet_jax.page.parts import Desk, number, shown, upload
from cocosnet_jax.page.studio import Photograph, Point


def define(desk: Desk) -> None:
    """Adds the named functions and their arguments, which the page does not show."""
    studio = desk.studio

    def translate(label: Any, exemplar: Any, exemplar_label: Any = None) -> Any:
        """Translates a label map in the style of an exemplar: the result, the warped exemplar."""
        planes = desk.map(label, "label")
        theirs = desk.exemplar_map(exemplar_label, exemplar)
        return studio.translate(planes, desk.photograph(exemplar, "exemplar"), theirs)

    def edit(
        photograph: Any, label: Any, edited_label: Any, paste: Any = True, seam: Any = 6
    ) -> Photograph:
        """Edits a photograph by its label map; `seam` is in % of its longer side."""
        pixels = desk.photograph(photograph, "photograph")
        maps = (
            desk.map(label, "label", photograph),
            desk.map(edited_label, "edited_label", photograph),
        )
        width = number(seam, 0, 100, "seam")
        return studio.edit(pixels, *maps, paste=bool(paste), seam=width)

    def makeup(
        portrait: Any, strokes: Any, target: Any, target_label: Any, portrait_label: Any = None
    ) -> Photograph:
        """Carries a transparent layer of strokes from a portrait to the target."""
        return studio.makeup(
            desk.photograph(portrait, "portrait"),
            desk.exemplar_map(portrait_label, portrait),
            desk.layer(strokes, "strokes"),
            desk.photograph(target, "target"),
            desk.map(target_label, "target_label", target),
        )

    def correspond(
        label: Any,
        exemplar: Any,
        x: Any,
        y: Any,
        on_exemplar: Any = False,
        exemplar_label: Any = None,
    ) -> tuple[dict[str, float], Photograph | None, Photograph, Photograph]:
        """Matches a point: its match, its heat map, and the dense warps both ways.

        The point is on the map at the networks' size, or on the exemplar, in pixels.
        """
        planes, pixels = desk.map(label, "label"), desk.photograph(exemplar, "exemplar")
        point = Point(number(x, 0, 1e6, "x"), number(y, 0, 1e6, "y"), bool(on_exemplar))
        theirs = desk.exemplar_map(exemplar_label, exemplar)
        found = studio.match(planes, pixels, theirs, [point])
        place = dict(zip(("x", "y", "confidence"), map(float, found.rows[0][4:]), strict=True))
        return place, found.heat, found.warped_exemplar, found.warped_input

    with gr.Row(visible=False):
        for function, inputs, outputs in (
            (translate, _files("label", "exemplar", "exemplar_label"), _results(2)),
            (
                edit,
                [*_files("photograph", "label", "edited_label"), gr.Checkbox(True), gr.Number(6)],
                _results(1),
            ),
            (
                makeup,
                _files("portrait", "strokes", "target", "target_label", "portrait_label"),
                _results(1),
            ),
            (
                correspond,
                [
                    *_files("label", "exemplar"),
                    *(gr.Number(label="x"), gr.Number(label="y"), gr.Checkbox(False)),
                    *_files("exemplar_label"),
                ],
                [gr.JSON(), *_results(3)],
            ),
        ):
            name = function.__name__
            desk.on([gr.Button(name).click], function, inputs, outputs, api_name=name)


def _files(*names: str) -> list[gr.Image]:
    return [upload(name) for name in names]


def _results(count: int) -> list[gr.Image]:
    return [shown("result") for _ in range(count)]
