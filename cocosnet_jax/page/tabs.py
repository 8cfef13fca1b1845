"""The tabs that paint. Each is built by one function: how it looks, then what it does."""

from typing import Any

import gradio as gr
import numpy as np

from cocosnet_jax.data.drawn import things
from cocosnet_jax.errors import UserError
from cocosnet_jax.page import painting
from cocosnet_jax.page.parts import Desk, chosen, gallery, number, painter, shown, upload
from cocosnet_jax.page.studio import STROKES, STROKES_SIDE, Numbers, Photograph

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
                "the exemplar, or drop your own",
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
                own = upload(
                    "a PNG of class numbers, or of colours if the model knows them",
                    height=120,
                    elem_id="own-map",
                )
        with gr.Column(scale=4, min_width=300):
            gr.Markdown("### 3 · The result")
            picture = shown("your painting in that look", result, elem_id="translate-result")
            warped = shown(
                "the exemplar, warped to your painting", warp, elem_id="translate-warped"
            )
            button = gr.Button("Translate again", elem_id="translate-button")

    def run(painted: Any, look: Any, look_label: Any) -> Any:
        if look is None:
            return gr.skip()  # It was removed, and another one will be dropped.
        planes = studio.planes(desk.painted(painted))
        photograph = desk.photograph(look, "the exemplar")
        return studio.translate(planes, photograph, desk.exemplar_map(look_label, look))

    def choose_look(event: gr.SelectData) -> tuple[Photograph, Numbers]:
        example = examples[chosen(event, len(examples))]
        return example.image, studio.map_picture(example.planes)

    def choose_map(event: gr.SelectData) -> str:
        return painting.encode(studio.numbers(examples[chosen(event, len(examples))].planes))

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
            result = shown("the edited photograph", elem_id="edit-result")
            paste = gr.Checkbox(True, label="keep the photograph where the map did not change")
            seam = gr.Slider(0, 20, 6, step=1, label="width of the seam, in % of the picture")

    def run(painted: Any, before: Any, photo: Any, keep: Any, width: Any) -> Photograph | None:
        if before is None:
            raise UserError("the photograph is missing; choose a scene, or upload one and its map")
        after = desk.painted(painted)
        if np.array_equal(after, before):
            return None  # The map was just loaded, or every edit undone.
        return studio.edit(
            desk.photograph(photo, "the photograph"),
            *(studio.planes(before), studio.planes(after)),
            paste=bool(keep),
            seam=number(width, 0, 100, "the width of the seam"),
        )

    def choose(event: gr.SelectData) -> tuple[Photograph, str, Numbers]:
        example = examples[chosen(event, len(examples))]
        numbers = studio.numbers(example.planes)
        return example.image, painting.encode(numbers, example.image), numbers

    def load(photo: Any, given: Any) -> Any:
        if photo is None or given is None:
            return gr.skip()  # The other file is still missing.
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
    first, first_map, start = None, None, painting.encode(blank)
    carried: list[Photograph] = []
    if examples:
        first, first_map = examples[FACE].image, studio.map_picture(examples[FACE].planes)
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
                "to paint on, or drop your own",
                first,
                elem_id="portrait",
            )
            portrait_label = upload("its label map", first_map, visible=studio.needs_exemplar_label)
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
        example = examples[chosen(event, len(examples))]
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


def _on_roofs(numbers: Numbers) -> Numbers:
    """Strokes of gold on the roofs of a drawn scene, to begin with."""
    place = np.arange(STROKES_SIDE) * len(numbers) // STROKES_SIDE
    return np.where(numbers[place][:, place] == things.ROOF, GOLD, 0).astype(np.uint8)
