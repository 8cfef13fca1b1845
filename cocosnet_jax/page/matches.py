"""The tab of matches: how it looks, then what it does."""

from typing import Any

import gradio as gr

from cocosnet_jax.apps import drawing
from cocosnet_jax.errors import UserError
from cocosnet_jax.page.parts import Desk, chosen, gallery, number, shown, upload
from cocosnet_jax.page.studio import Numbers, Photograph, Point

MAX_POINTS = 12  # that are shown at once


def correspond(desk: Desk) -> None:
    """Click a point in one picture, see its match in the other."""
    studio, examples = desk.studio, desk.studio.scenes
    numbers = first = label = begun = None
    points: list[Point] = []
    if examples:
        numbers, first = studio.numbers(examples[1].planes), examples[0].image
        label = studio.map_picture(examples[0].planes)
        places = ((0.28, 0.18), (0.76, 0.5))  # a roof and a tree
        points = [Point(x * studio.size, y * studio.size, False) for x, y in places]
        begun = studio.match(examples[1].planes, first, examples[0].planes, points)
    state, clicked = gr.State(numbers), gr.State(points)
    gr.Markdown(
        "**Click a place** in either picture. Its match in the other gets the same number, and the"
        " heat map shows how similar every other place is."
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=240):
            gr.Markdown("### 1 · Choose two pictures")
            if examples:
                maps = gallery(
                    "the input", [studio.show(x.planes) for x in examples], elem_id="match-maps"
                )
                looks = gallery("the exemplar", [x.image for x in examples], elem_id="match-looks")
            with gr.Accordion("or upload your own", open=not examples):
                own_map = upload("label map as input", height=120, elem_id="match-own-map")
                exemplar = upload("exemplar", first, height=120, elem_id="match-own")
                exemplar_label = upload(
                    "its label map", label, visible=studio.needs_exemplar_label, height=120
                )
        with gr.Column(scale=9, min_width=600):
            gr.Markdown("### 2 · Click a place")
            with gr.Row():
                left = shown(
                    "the input: click in it",
                    begun and begun.input,
                    elem_id="match-input",
                    buttons=[],
                )
                right = shown(
                    "the exemplar: or in it",
                    begun and begun.exemplar,
                    elem_id="match-exemplar",
                    buttons=[],
                )
            heat = shown(
                "how similar each place is to the last point: red is most",
                begun and begun.heat,
                elem_id="match-heat",
            )
            with gr.Row():
                table = gr.Markdown(_table(begun.rows) if begun else "", elem_id="match-table")
                clear = gr.Button("Forget the points", scale=0, min_width=180)
            with gr.Row():
                warped = shown("the exemplar, warped to the input", begun and begun.warped_exemplar)
                returned = shown("the input, warped to the exemplar", begun and begun.warped_input)

    def match(painted: Any, look: Any, look_label: Any, now: list[Point]) -> tuple[Any, ...]:
        if painted is None:
            raise UserError("the input is missing; choose or upload a label map")
        pixels = desk.photograph(look, "the exemplar")
        theirs = desk.exemplar_map(look_label, look)
        found = studio.match(studio.planes(painted), pixels, theirs, now)
        both = found.warped_exemplar, found.warped_input
        return found.input, found.exemplar, _table(found.rows), found.heat, *both, now

    def click(painted: Any, look: Any, look_label: Any, now: Any, event: gr.SelectData) -> Any:
        return add(painted, look, look_label, now, event, False)

    def click_right(
        painted: Any, look: Any, look_label: Any, now: Any, event: gr.SelectData
    ) -> Any:
        return add(painted, look, look_label, now, event, True)

    def add(
        painted: Any, look: Any, look_label: Any, now: Any, event: Any, on_exemplar: bool
    ) -> Any:
        if len(now) >= MAX_POINTS:
            raise UserError(f"{MAX_POINTS} points are shown at most; forget them first")
        rows = len(desk.photograph(look, "the exemplar")) if on_exemplar else studio.size
        index = event.index if isinstance(event.index, list | tuple) else ()
        if len(index) != 2:
            raise UserError("the click did not arrive whole; click again")
        x, y = (
            (number(value, 0, 1e6, "a clicked place") + 0.5) * rows / drawing.HEIGHT - 0.5
            for value in index
        )
        return match(painted, look, look_label, [*now, Point(x, y, on_exemplar)])

    def forget(painted: Any, look: Any, look_label: Any) -> Any:
        if look is None:
            return gr.skip()  # It was removed, and another one will be dropped.
        return match(painted, look, look_label, [])

    def choose_map(look: Any, look_label: Any, event: gr.SelectData) -> Any:
        painted = studio.numbers(examples[chosen(event, len(examples))].planes)
        return *match(painted, look, look_label, []), painted

    def load_map(given: Any, look: Any, look_label: Any) -> Any:
        painted = studio.numbers(desk.map(given, "the label map"))
        return *match(painted, look, look_label, []), painted

    def choose_look(event: gr.SelectData) -> tuple[Photograph, Numbers]:
        example = examples[chosen(event, len(examples))]
        return example.image, studio.map_picture(example.planes)

    outputs = [left, right, table, heat, warped, returned, clicked]
    pair = [exemplar, exemplar_label]
    if examples:
        desk.on([maps.select], choose_map, pair, [*outputs, state])
        desk.on([looks.select], choose_look, [], pair)
    desk.on([own_map.upload], load_map, [own_map, *pair], [*outputs, state])
    desk.on([exemplar.change, clear.click], forget, [state, *pair], outputs)
    desk.on([left.select], click, [state, *pair, clicked], outputs)
    desk.on([right.select], click_right, [state, *pair, clicked], outputs)


def _table(rows: list[list[float | str]]) -> str:
    """Points and matches as a Markdown table; empty without points."""
    if not rows:
        return ""
    head = "| point | on the | x | y | match x | match y | confidence |"
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([head, "|---" * 7 + "|", *lines])
