"""The translator: what it draws, carries and matches, against the networks themselves."""

import dataclasses
import functools
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

from cocosnet_jax import inference, model, state, steps, warp
from cocosnet_jax.checkpoint import Restored
from cocosnet_jax.encode import encode
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings, LossSettings, ModelSettings, Settings
from cocosnet_jax.types import Batch
from tests.conftest import PLAIN_LOSS, PLAIN_MODEL
from tests.untrained import untrained

SIZE = 64
DATA = DataSettings(
    dataset="ade20k", channels=6, exemplar_list="random", image_size=SIZE, load_size=SIZE
)
SETTINGS = Settings(data=DATA, model=ModelSettings(base_filters=2, mask_input="features"))


@functools.cache
def restored(settings):
    return Restored(settings, untrained(settings), 7, Path("run/7"))


@pytest.fixture(scope="module")
def translator():
    return inference.Translator(restored(SETTINGS))


@pytest.fixture(scope="module")
def arrays():
    """Two inputs, their exemplars and the exemplars' maps."""
    rng = np.random.default_rng(0)
    label, exemplar_label = rng.integers(0, 6, (2, 2, SIZE, SIZE, 1), np.uint8)
    return label, rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8), exemplar_label


@pytest.fixture(scope="module")
def expected(arrays):
    """What the prediction step makes of them, with the maps given and not."""
    label, exemplar, exemplar_label = arrays
    batch = Batch(exemplar, exemplar, label, exemplar_label, np.zeros(2, np.float32))

    def outputs(give_mask):
        predict = jax.jit(steps.predict_step(SETTINGS, give_mask, with_mask=True))
        return predict(restored(SETTINGS).state, batch)

    return {give_mask: outputs(give_mask) for give_mask in (True, False)}


def close(found, wanted):
    # The temperature multiplies rounding errors of cosines by 100.
    np.testing.assert_allclose(found, np.asarray(wanted), atol=5e-5)


def test_translate_and_warp(translator, arrays, expected):
    outputs = translator.translate(*arrays)
    close(outputs.image, expected[True].image)
    close(outputs.warped_exemplar, expected[True].warped_exemplar)
    assert outputs.warped_mask is None
    assert isinstance(outputs.image, np.ndarray)
    close(translator.warp(*arrays), expected[True].warped_exemplar)


def test_masks_are_given_and_carried_as_asked(translator, arrays, expected):
    for give_mask in (True, False):
        outputs = translator.translate(*arrays, give_mask=give_mask, with_mask=True)
        close(outputs.image, expected[give_mask].image)
        close(outputs.warped_mask, expected[give_mask].warped_mask)
    assert np.abs(expected[True].warped_mask - expected[False].warped_mask).max() > 1e-3


def test_matches_are_those_of_the_warp(translator, arrays):
    """A correlation that is sharp enough carries, to each position, what lies at its match."""
    own = SETTINGS.model.match_kernel
    match = translator.match(*arrays, match_kernel=own)
    side = match.cosine.shape[1]
    assert match.place.shape == (2, side, side, 2)
    label, exemplar, exemplar_label = arrays
    batch = Batch(exemplar, exemplar, label, exemplar_label, np.zeros(2, np.float32))

    def correspondence(variables, batch):
        key = jax.random.key(0)
        inputs = encode(batch, DATA)
        return model.build(SETTINGS).apply(variables, inputs, key, True, train=False).correspondence

    variables = state.inference_variables(restored(SETTINGS).state)
    found = jax.jit(correspondence)(variables, batch)
    sharp = warp.soft_match(
        found.theta,
        found.phi,
        1e-7,
        match_kernel=SETTINGS.model.match_kernel,
        centre=SETTINGS.model.centre,
    )
    numbers = np.tile(np.arange(side * side, dtype=np.float32)[:, None], (2, 1, 1))
    carried = np.asarray(sharp.to_input(numbers)).reshape(2, side, side)
    places = match.place[..., 0] * side + match.place[..., 1]
    assert np.mean(np.abs(carried - places) < 0.01) > 0.99

    back = translator.match(*arrays, back=True, match_kernel=own)
    carried = np.asarray(sharp.to_exemplar(numbers)).reshape(2, side, side)
    places = back.place[..., 0] * side + back.place[..., 1]
    assert np.mean(np.abs(carried - places) < 0.01) > 0.99

    # The cosine of a match of neighbourhoods as wide as points are matched by, from either side.
    cells = np.array([[[3, 5]], [[0, side - 1]]])
    for way in (False, True):
        similar = translator.similarity(*arrays, cells=cells, back=way)
        wide = translator.match(*arrays, back=way)
        best = wide.cosine[[0, 1], cells[:, 0, 0], cells[:, 0, 1]]
        close(similar.max((1, 2, 3)), best)

    # A layer three times as fine as the networks' pictures, in patches of 12 x 12.
    layer = np.random.default_rng(1).random((2, 3 * SIZE, 3 * SIZE, 2), np.float32)
    patches = layer.reshape(2, side, 12, side, 12, 2).transpose(0, 1, 3, 2, 4, 5)
    soft = warp.soft_match(
        found.theta,
        found.phi,
        SETTINGS.model.temperature,
        match_kernel=SETTINGS.model.match_kernel,
        centre=SETTINGS.model.centre,
    )
    for way, moved in ((False, soft.to_input), (True, soft.to_exemplar)):
        wanted = np.asarray(moved(patches.reshape(2, side * side, -1)))
        wanted = wanted.reshape(patches.shape).transpose(0, 1, 3, 2, 4, 5).reshape(layer.shape)
        close(translator.warp(*arrays, layer=layer, back=way), wanted)


@pytest.mark.parity
def test_one_exemplar_twice_as_a_blend_equals_once(translator, arrays, expected):
    label, *given = arrays
    outputs = translator.translate(
        label, *(np.stack([x, x], 1) for x in given), with_confidence=True
    )
    close(outputs.image, expected[True].image)
    close(outputs.warped_exemplar, expected[True].warped_exemplar)
    side = SIZE // SETTINGS.model.warp_stride
    assert outputs.confidence.shape == (2, side, side)
    assert outputs.confidence.min() >= 0
    assert outputs.confidence.max() <= 1


def test_a_blend_takes_each_place_from_the_exemplar_that_fits(translator, arrays):
    """By the formula: one softmax over the positions of both exemplars."""
    label, *given = arrays
    several = [np.stack([x, x[::-1]], 1) for x in given]
    variables = state.inference_variables(restored(SETTINGS).state)

    def correspondence(batch):
        key = jax.random.key(0)
        inputs = encode(batch, DATA)
        return model.build(SETTINGS).apply(variables, inputs, key, True, train=False).correspondence

    logits, colours = [], []
    for i in range(2):
        batch = Batch(several[0][:, i], several[0][:, i], label, several[1][:, i], np.zeros(2))
        found = jax.jit(correspondence)(batch)
        theta, phi = (
            np.asarray(
                warp.matching_features(x, SETTINGS.model.match_kernel, SETTINGS.model.centre),
                np.float64,
            )
            for x in (found.theta, found.phi)
        )
        logits.append(theta @ phi.swapaxes(1, 2) / SETTINGS.model.temperature)
        stride = SETTINGS.model.warp_stride
        side = SIZE // stride
        pixels = several[0][:, i].reshape(2, side, stride, side, stride, 3) / 127.5 - 1
        colours.append(pixels.mean((2, 4)).reshape(2, side * side, 3))
    weights = np.exp(np.concatenate(logits, -1))
    weights /= weights.sum(-1, keepdims=True)
    wanted = (weights @ np.concatenate(colours, 1)).reshape(2, side, side, 3)
    outputs = translator.translate(label, *several, with_confidence=True)
    np.testing.assert_allclose(outputs.warped_exemplar[:, ::4, ::4], wanted, atol=1e-4)
    alone = translator.translate(label, *(x[:, :1] for x in several))
    close(alone.image, translator.translate(*arrays).image)


@pytest.mark.parity
def test_bfloat16_computes_nearly_the_same(arrays, expected):
    translator = inference.Translator(restored(SETTINGS), bfloat16=True)
    assert translator.settings.model.dtype == "bfloat16"
    outputs = translator.translate(*arrays)
    difference = np.abs(outputs.image - np.asarray(expected[True].image))
    assert 0 < difference.mean() < 0.05


def test_the_same_program_serves_again(translator, arrays, monkeypatch):
    translator.translate(*arrays)
    monkeypatch.setattr(inference, "compile_to_fit", None)
    again = translator.translate(*(array[::-1].copy() for array in arrays))
    close(again.image[::-1], translator.translate(*arrays).image)
    with pytest.raises(TypeError):
        translator.compile(3)


def test_what_does_not_fit_the_networks_is_refused(translator, arrays):
    label, exemplar, exemplar_label = arrays
    for arguments, message in (
        ((label,), "exemplar is missing"),
        ((label, exemplar), "exemplar_label is missing"),
        ((label, exemplar[:, :32], exemplar_label), r"exemplar is \(2, 32, 64, 3\) and must be"),
        ((label[..., [0, 0]], exemplar, exemplar_label), r"must be \(2, 64, 64, 1\)"),
        ((label, exemplar[:, None], exemplar_label), r"must be \(2, 1, 64, 64, 1\)"),
        ((label, exemplar[:, None, None], exemplar_label), r"exemplar is .* must be \(2, 1, 64,"),
    ):
        with pytest.raises(ValueError, match=message):
            translator.translate(*arguments)
    for layer, message in (
        (None, "layer is missing"),
        (exemplar[:, :, :32], r"layer is \(2, 64, 32, 3\) and must be \(2, k \* 64, k \* 64, c\)"),
        (exemplar[:1], r"layer is \(1, 64, 64, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            translator.warp(*arrays, layer=layer, back=True)


def test_a_plain_network_takes_the_input_alone(arrays):
    plain = dataclasses.replace(
        SETTINGS,
        loss=LossSettings(**PLAIN_LOSS),
        model=ModelSettings(**PLAIN_MODEL),
    )
    translator = inference.Translator(restored(plain))
    outputs = translator.translate(arrays[0])
    assert outputs.image.shape == (2, SIZE, SIZE, 3)
    assert outputs.warped_exemplar is None
    for method in (translator.warp, translator.match):
        with pytest.raises(ValueError, match="has no correspondence"):
            method(arrays[0], arrays[1])


@pytest.mark.parametrize(
    ("mask_input", "at_inference", "needed"),
    [("features", True, True), ("features", False, False), ("none", True, False)],
)
def test_when_the_exemplars_label_map_is_needed(mask_input, at_inference, needed):
    model = ModelSettings(mask_input=mask_input, mask_at_inference=at_inference)
    assert model.needs_exemplar_label is needed


@pytest.mark.parametrize(
    ("devices", "share_rows", "sizes"),
    [
        (1, True, {1: 1, 3: 3}),
        (4, True, {1: 1, 3: 3, 4: 4, 5: 8, 8: 8, 9: 12}),
        (4, False, {1: 1, 2: 4, 3: 4, 4: 4, 5: 8}),
    ],
)
def test_batches_in_which_no_device_is_idle(devices, share_rows, sizes):
    translator = inference.Translator.__new__(inference.Translator)
    translator.device_count = devices
    translator._rows = mock.Mock(size=devices if share_rows else 1)
    assert {count: translator.round_up(count) for count in sizes} == sizes


@pytest.mark.parametrize("whole", [True, False])
def test_what_devices_split(whole, monkeypatch):
    """XLA cannot split the kernels of `pallas`, so they must know whose pictures they see."""
    monkeypatch.setattr(inference, "predict_step", lambda *_, mesh, samples, **__: (mesh, samples))
    translator = inference.Translator.__new__(inference.Translator)
    translator.settings = Settings()
    translator._all, translator._rows = mock.Mock(), mock.Mock()
    expected = (None, translator._all) if whole else (translator._rows, None)
    assert translator._translation(whole, None, False, False) == expected


@pytest.mark.parametrize(("size", "example"), [(100, 96), (32, 64)])
def test_a_size_that_cannot_be_drawn(size, example):
    with pytest.raises(
        UserError, match=rf"--size={size} must be a multiple of 32, .* for example {example}"
    ):
        inference.side_of(DATA, size)
