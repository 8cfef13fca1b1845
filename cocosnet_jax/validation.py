"""Measures validation pairs: all of them in an evaluation, some of them during training."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, PyTree

from cocosnet_jax import compiler, files, mesh, vgg
from cocosnet_jax.data import keypoints, pipeline
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.data.keypoints import PairPoints
from cocosnet_jax.distributed import say
from cocosnet_jax.errors import UserError
from cocosnet_jax.metrics import Metric, baselines
from cocosnet_jax.metrics.correspondence import Correspondence
from cocosnet_jax.metrics.pck import Pck
from cocosnet_jax.metrics.sets import SetDistances
from cocosnet_jax.metrics.warp_accuracy import WarpAccuracy
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState
from cocosnet_jax.steps import predict_step
from cocosnet_jax.types import Batch, Outputs


def points_of(dataset: Dataset, settings: Settings, file: str = "") -> PairPoints | None:
    """Finds the points of the validation pairs whose true correspondence is known.

    Args:
      dataset: of the evaluation.
      settings: of the run.
      file: file of points (`data.keypoints`). If it is empty, the points are those of drawn images,
        or of a file in the dataset's own folder.

    Returns:
      None if there are no points, or the networks have no exemplar.

    Raises:
      UserError: the file does not fit.
    """
    if not Pck().applies(settings):
        return None
    path = files.local(file, "--keypoints") if file else keypoints.find(settings.data.source)
    pairs = dataset.evaluation("validation")
    find = dataset.points_of if path is None else keypoints.Keypoints(path).of
    found = PairPoints(find, pairs, settings.data.image_size)
    if found.known:
        say(f"points of {found.known} of {len(pairs)} pairs are known: {path or 'drawn'}")
        return found
    if path is None:
        return None
    raise UserError(
        f"{path} has points of no pair of the dataset, such as {pairs.images.keys[0]} and its"
        " exemplar: names must be those of the dataset's photographs"
    )


def metrics_of(settings: Settings, points: PairPoints | None) -> list[Metric]:
    """Returns the metrics that apply to a run with these settings and points."""
    every: list[Metric] = [WarpAccuracy(), Correspondence()]
    if points is not None:
        every.append(Pck())
    return [metric for metric in every if metric.applies(settings)]


def place(
    devices: Mesh, points: PairPoints | None, batch: Batch, valid: np.ndarray, keys: Sequence[str]
) -> tuple[Batch, jax.Array]:
    """Moves a batch of the pipeline to the devices, and adds its points if they are known."""
    if points is not None:
        own, others = points.of(keys)
        batch = batch._replace(points=own, exemplar_points=others)
    rows = jax.make_array_from_process_local_data(mesh.split(devices), valid)
    return mesh.to_global(devices, batch), rows


def predict_and_count(
    settings: Settings, devices: Mesh, metrics: Sequence[Metric], *, beside: bool = True
) -> Any:
    """Returns a jitted function that translates and measures a batch.

    Args:
      settings: of the run.
      devices: devices that split the batch.
      metrics: metrics to count.
      beside: whether to measure the baselines as well.

    Returns:
      (state, VGG of the baselines or None, batch, valid) -> (outputs, counts of each metric, whose
      arrays have a row for each picture).
    """
    predict = predict_step(settings, with_mask=True, with_match=True, samples=devices)

    def step(
        state: TrainState,
        weights: vgg.VggWeights | None,
        batch: Batch,
        valid: Bool[Array, "b"],
    ) -> tuple[Outputs, list[PyTree]]:
        outputs = predict(state, batch)
        if beside and outputs.matches is not None:
            _, h, w = outputs.matches[""].place.shape
            others = baselines.matches(batch, h, w, weights)
            outputs = outputs._replace(matches=outputs.matches | others)

        def of_picture(*one: PyTree) -> list[PyTree]:
            batch, outputs, valid = jax.tree.map(lambda x: x[None], one)
            return [metric.count(batch, outputs, valid) for metric in metrics]

        counts = jax.vmap(of_picture)(batch, outputs, valid)
        # These are large, and only the metrics read them.
        return outputs._replace(warped_mask=None, matches=None), counts

    return jax.jit(
        step,
        out_shardings=(mesh.split(devices), mesh.replicated(devices)),
        compiler_options=compiler.options(devices, compiler.LESS),
    )


def summed(counted: Sequence[PyTree]) -> PyTree:
    """Adds up the counts of all batches, in float64."""
    return jax.tree.map(lambda *some: np.sum(some, axis=0, dtype=np.float64), *counted)


def results(metrics: Sequence[Metric], counted: Sequence[PyTree]) -> dict[str, float]:
    """Computes the metrics' numbers from the counts of all batches."""
    numbers: dict[str, float] = {}
    for metric, sums in zip(metrics, summed(counted), strict=True):
        numbers |= metric.result(sums)
    return numbers


class Validation:
    """Measures the first `train.evaluate_images` validation pairs during training.

    Attributes:
      count: number of these pairs.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        devices: Mesh,
        network: Mapping[str, Any] | None = None,
    ):
        """Looks up the points. Images are read by the first measurement.

        Args:
          settings: of the run.
          dataset: its data.
          devices: devices that split a batch.
          network: Inception of FID and KID; None leaves them out.

        Raises:
          UserError: the file of points does not fit.
        """
        self._settings, self._dataset, self._devices = settings, dataset, devices
        self._points = points_of(dataset, settings)
        self._metrics = metrics_of(settings, self._points)
        # The baselines do not change while the networks learn.
        self._predict = predict_and_count(settings, devices, self._metrics, beside=False)
        self._batches: list[tuple[Batch, np.ndarray, list[str]]] = []
        self._sets = SetDistances(settings.data.image_size, devices, network)
        self.count = min(
            settings.train.evaluate_images, len(dataset.evaluation("validation").references)
        )
        self._real: np.ndarray | None = None

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns the metrics' numbers, the same in every process."""
        if not self._batches:
            self._batches = self._first()
        counted, generated, real = [], [], []
        for number, (batch, valid, keys) in enumerate(self._batches):
            placed = place(self._devices, self._points, batch, valid, keys)
            outputs, counts = self._predict(state, None, *placed)
            counts = jax.device_get(counts)
            counted.append(jax.tree.map(lambda x: np.sum(x, 0, np.float64), counts))
            generated.append(self._sets.rows(outputs.image, number, "generated"))
            if self._real is None:
                real.append(self._sets.rows(placed[0].image, number, "real"))
        if self._real is None:
            self._real = np.concatenate(real)[: self.count]
        rows = np.concatenate(generated)[: self.count]
        return results(self._metrics, counted) | self._sets.distances(rows, self._real)

    def _first(self) -> list[tuple[Batch, np.ndarray, list[str]]]:
        """Reads the batches that contain the first pairs; later pairs in them are not valid."""
        train = self._settings.train
        size = mesh.round_up(train.evaluation_batch_size)
        batches = pipeline.evaluation_batches(
            self._dataset,
            batch_size=size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        found = []
        share = size // jax.process_count()
        rows = np.arange(share) + share * jax.process_index()
        count = -(-train.evaluate_images // size)
        for number, (batch, valid, keys) in enumerate(itertools.islice(batches, count)):
            found.append((batch, valid & (number * size + rows < train.evaluate_images), keys))
        return found
