"""The page's tabs. Each is built by one function, which has what it does beside how it looks."""

from typing import Any

import gradio as gr
import numpy as np

from cocosnet_jax.apps import drawing
from cocosnet_jax.data.drawn import things
from cocosnet_jax.errors import UserError
from cocosnet_jax.page import painting
from cocosnet_jax.page.parts import Desk, gallery, number, painter, shown, upload
from cocosnet_jax.page.studio import STROKES, STROKES_SIDE, Numbers, Photograph, Point

MAX_POINTS = 12  # that are shown at once
FACE = 5  # the scene that strokes are painted on at first
GOLD = next(x.number for x in STROKES if x.name == "gold")


def translate(desk: Desk) -> None:
    """Paint a map, choose an exemplar, see the warp and the result."""
    studio, examples = desk.studio, desk.studio.scenes
    exemplar_label_value = first = result = warp = None
    start = painting.encode(np.zeros((studio.size, studio.size), np.uint8))
    if examples:
        first, exemplar_label_value = examples[0].image, studio.map_picture(examples[0].planes)
        start = painting.encode(studio.numbers(examples[1].planes))
        result, warp = studio.translate(examples[1].planes, first, examples[0].planes)
    gr.Markdown(
        "Choose a picture whose **look** you like, and paint **what** shall be **where**. The"
        " networks find which place of that picture belongs to which place of your painting, and"
        " draw your painting in that look."
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=240):
            gr.Markdown("### 1 · Choose the look")
            if examples:
                looks = gallery("scenes", [x.image for x in examples], elem_id="looks")
            exemplar = upload(
                "the exemplar; drop a picture of your own here",
                first,
                height=260,
                elem_id="exemplar",
            )
            exemplar_label = upload(
                "its label map", exemplar_label_value, visible=studio.needs_exemplar_label
            )
        with gr.Column(scale=5, min_width=460):
            gr.Markdown("### 2 · Paint the content")
            canvas = painter(
                start, studio.size, studio.classes, strokes=False, name="translate-painter"
            )
            if examples:
                maps = gallery(
                    "or start from one of these",
                    [studio.show(x.planes) for x in examples],
                    columns=6,
                    elem_id="maps",
                )
            with gr.Accordion("or upload a label map", open=not examples):
                own = upload("class numbers in a grey PNG", height=120, elem_id="own-map")
        with gr.Column(scale=4, min_width=300):
            gr.Markdown("### 3 · The result")
            picture = shown("your painting in that look", result, elem_id="translate-result")
            warped = shown(
                "the exemplar, warped to your painting", warp, elem_id="translate-warped"
            )
            button = gr.Button("Translate again", elem_id="translate-button")

    def run(painted: Any, look: Any, look_label: Any) -> tuple[Photograph, Photograph]:
        planes = studio.planes(desk.painted(painted))
        photograph = desk.photograph(look, "the exemplar")
        return studio.translate(planes, photograph, desk.exemplar_map(look_label, look))

    def choose_look(event: gr.SelectData) -> tuple[Photograph, Numbers]:
        example = examples[_index(event, len(examples))]
        return example.image, studio.map_picture(example.planes)

    def choose_map(event: gr.SelectData) -> str:
        return painting.encode(studio.numbers(examples[_index(event, len(examples))].planes))

    def load(given: Any) -> str:
        return painting.encode(studio.numbers(desk.map(given, "the label map")))

    if examples:
        desk.on([looks.select], choose_look, [], [exemplar, exemplar_label])
        desk.on([maps.select], choose_map, [], [canvas])
    desk.on([own.upload], load, [own], [canvas])
    desk.on(
        [button.click, canvas.change, exemplar.change],
        run,
        [canvas, exemplar, exemplar_label],
        [picture, warped],
    )


def edit(desk: Desk) -> None:
    """Repaint a photograph's own map, and see the photograph change."""
    studio, examples = desk.studio, desk.studio.scenes
    first = numbers = None
    start = painting.encode(np.zeros((studio.size, studio.size), np.uint8))
    if examples:
        first, numbers = examples[2].image, studio.numbers(examples[2].planes)
        start = painting.encode(numbers, first)
    original = gr.State(numbers)
    gr.Markdown(
        "Change **what is where** in a photograph: repaint its label map, and the photograph"
        " follows in its own look. Move the slider under the map to see the photograph through it."
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=240):
            gr.Markdown("### 1 · Choose a photograph")
            if examples:
                choices = gallery("scenes", [x.image for x in examples], elem_id="edit-scenes")
            photograph = shown("the photograph", first, elem_id="edit-photograph")
            with gr.Accordion("or upload your own, with its label map", open=not examples):
                own = upload("photograph", height=120, elem_id="edit-own")
                own_map = upload("its label map", height=120, elem_id="edit-own-map")
        with gr.Column(scale=5, min_width=460):
            gr.Markdown("### 2 · Repaint its map")
            canvas = painter(start, studio.size, studio.classes, strokes=False, name="edit-painter")
        with gr.Column(scale=4, min_width=300):
            gr.Markdown("### 3 · The edited photograph")
            result = shown("appears when you paint", elem_id="edit-result")
            paste = gr.Checkbox(True, label="keep the photograph where the map did not change")
            seam = gr.Slider(0, 20, 6, step=1, label="width of the seam, in % of the picture")

    def run(painted: Any, before: Any, photo: Any, keep: Any, width: Any) -> Photograph | None:
        if before is None:
            raise UserError("the photograph is missing; choose a scene, or upload one and its map")
        after = desk.painted(painted)
        if np.array_equal(after, before):
            return None  # Just loaded, or everything undone.
        return studio.edit(
            desk.photograph(photo, "the photograph"),
            *(studio.planes(before), studio.planes(after)),
            paste=bool(keep),
            seam=number(width, 0, 100, "the width of the seam"),
        )

    def choose(event: gr.SelectData) -> tuple[Photograph, str, Numbers]:
        example = examples[_index(event, len(examples))]
        numbers = studio.numbers(example.planes)
        return example.image, painting.encode(numbers, example.image), numbers

    def load(photo: Any, given: Any) -> Any:
        if photo is None or given is None:
            return gr.skip()  # The other one is yet to come.
        pixels = desk.photograph(photo, "the photograph")
        numbers = studio.numbers(desk.map(given, "the label map", photo))
        return pixels, painting.encode(numbers, pixels), numbers

    loaded = [photograph, canvas, original]
    if examples:
        desk.on([choices.select], choose, [], loaded)
    desk.on([own.upload, own_map.upload], load, [own, own_map], loaded)
    desk.on(
        [canvas.change, paste.input, seam.release],
        run,
        [canvas, original, photograph, paste, seam],
        [result],
    )


def makeup(desk: Desk) -> None:
    """Paint strokes on one picture, and see them on others."""
    studio, examples = desk.studio, desk.studio.scenes
    blank = np.zeros((STROKES_SIDE, STROKES_SIDE), np.uint8)
    first, start = None, painting.encode(blank)
    carried: list[Photograph] = []
    if examples:
        first = examples[FACE].image
        strokes = _on_roofs(studio.numbers(examples[FACE].planes))
        start = painting.encode(strokes, first)
        layer = studio.layer(strokes, first.shape[:2], 0.8, 1)
        carried = [
            studio.makeup(first, examples[FACE].planes, layer, x.image, x.planes)
            for number, x in enumerate(examples)
            if number != FACE
        ]
    gr.Markdown(
        "Paint **strokes on one picture**, and the correspondence carries them to the matching"
        " places of others: lipstick to every mouth, a new colour to every roof."
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=240):
            gr.Markdown("### 1 · Choose a picture")
            if examples:
                choices = gallery("scenes", [x.image for x in examples], elem_id="makeup-scenes")
            portrait = upload(
                "to paint on; drop your own here",
                first,
                elem_id="portrait",
            )
            portrait_label = upload("its label map", visible=studio.needs_exemplar_label)
            with gr.Accordion("carry the strokes to a picture of your own", open=not examples):
                target = upload("picture", height=120, elem_id="target")
                target_map = upload("its label map", height=120, elem_id="target-map")
        with gr.Column(scale=5, min_width=460):
            gr.Markdown("### 2 · Paint strokes on it")
            canvas = painter(start, STROKES_SIDE, STROKES, strokes=True, name="makeup-painter")
            opacity = gr.Slider(5, 100, 80, step=5, label="opacity in %")
            softness = gr.Slider(0, 10, 1, step=0.5, label="softness of the edges")
        with gr.Column(scale=4, min_width=300):
            gr.Markdown("### 3 · The same strokes on the others")
            results = gallery(
                "carried by the correspondence", carried, columns=2, elem_id="makeup-results"
            )

    def run(
        painted: Any, face: Any, face_label: Any, cover: Any, soft: Any, other: Any, other_map: Any
    ) -> list[tuple[Photograph, None]]:
        strokes = desk.strokes(painted)
        photo = desk.photograph(face, "the picture to paint on")
        layer = studio.layer(
            strokes,
            (photo.shape[0], photo.shape[1]),
            number(cover, 0, 100, "the opacity") / 100,
            number(soft, 0, 10, "the softness"),
        )
        planes = desk.exemplar_map(face_label, face)
        targets = [x for x in examples if not np.array_equal(x.image, photo)]
        carried = [studio.makeup(photo, planes, layer, x.image, x.planes) for x in targets]
        if other is not None and other_map is not None:
            own = desk.photograph(other, "the picture"), desk.map(other_map, "its label map", other)
            carried.insert(0, studio.makeup(photo, planes, layer, *own))
        return [(picture, None) for picture in carried]

    def choose(event: gr.SelectData) -> tuple[Photograph, Numbers, str]:
        example = examples[_index(event, len(examples))]
        label = studio.map_picture(example.planes)
        return example.image, label, painting.encode(blank, example.image)

    def load(face: Any) -> str:
        return painting.encode(blank, desk.photograph(face, "the picture to paint on"))

    if examples:
        desk.on([choices.select], choose, [], [portrait, portrait_label, canvas])
    desk.on([portrait.upload], load, [portrait], [canvas])
    desk.on(
        [canvas.change, opacity.release, softness.release, target.upload, target_map.upload],
        run,
        [canvas, portrait, portrait_label, opacity, softness, target, target_map],
        [results],
    )


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
        return match(painted, look, look_label, [])

    def choose_map(look: Any, look_label: Any, event: gr.SelectData) -> Any:
        painted = studio.numbers(examples[_index(event, len(examples))].planes)
        return *match(painted, look, look_label, []), painted

    def load_map(given: Any, look: Any, look_label: Any) -> Any:
        painted = studio.numbers(desk.map(given, "the label map"))
        return *match(painted, look, look_label, []), painted

    def choose_look(event: gr.SelectData) -> tuple[Photograph, Numbers]:
        example = examples[_index(event, len(examples))]
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


def _on_roofs(numbers: Numbers) -> Numbers:
    """Strokes of gold on the roofs of a drawn scene, to begin with."""
    place = np.arange(STROKES_SIDE) * len(numbers) // STROKES_SIDE
    return np.where(numbers[place][:, place] == things.ROOF, GOLD, 0).astype(np.uint8)


def _table(rows: list[list[float | str]]) -> str:
    """Points and matches as a Markdown table; empty without points."""
    if not rows:
        return ""
    head = "| point | on the | x | y | match x | match y | confidence |"
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([head, "|---" * 7 + "|", *lines])


def _index(event: gr.SelectData, count: int) -> int:
    """Which picture of a gallery was clicked; raises a `UserError` if there is no such one."""
    if not isinstance(event.index, int) or not 0 <= event.index < count:
        raise UserError("there is no such scene; reload the page")
    return event.index
