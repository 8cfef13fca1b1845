"""Translates, warps and matches pictures with the networks of a checkpoint.

    translator = Translator("runs/ade20k")
    outputs = translator.translate(label, exemplar)

Pictures are NumPy arrays; `data.pair_files.Reader` reads them from files, and `pictures.to_bytes`
converts results to bytes.

Longer than other files because one class does everything with a checkpoint's networks, and its
methods share compiled programs.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, Shaped

from cocosnet_jax import mesh, model
from cocosnet_jax import settings as settings_lib
from cocosnet_jax.checkpoint import Restored, restore_for_inference
from cocosnet_jax.encode import batch_shapes, encode
from cocosnet_jax.errors import UserError
from cocosnet_jax.fit import compile_to_fit
from cocosnet_jax.generator import COARSEST
from cocosnet_jax.matching import BestMatch, best_match, reading_kernel, similarity
from cocosnet_jax.nn.resize import from_patches, to_patches
from cocosnet_jax.settings import DataSettings
from cocosnet_jax.state import TrainState, inference_variables
from cocosnet_jax.steps import PredictStep, predict_step
from cocosnet_jax.types import Array, Batch, Outputs
from cocosnet_jax.warp import soft_match


def side_of(data: DataSettings, size: int) -> int:
    """The side of the results: `size`, or if that is 0, the training's.

    Raises:
      UserError: the networks cannot produce that size.
    """
    if not size:
        return data.image_size
    if size < 64 or size % 32:
        raise UserError(
            f"--size={size} must be a multiple of 32, 64 or more, for example"
            f" {max(64, round(size / 32) * 32)}"
        )
    return size


class Translator:
    """Translates pictures with the networks of one checkpoint.

    All methods take b pictures of S x S pixels in the format of `types.Batch`: `label` and
    `exemplar_label` (b, S, S, p), `exemplar` (b, S, S, 3). The exemplar is optional unless
    `ModelSettings.needs_exemplar`, its map unless `needs_exemplar_label`. The first call with a new
    b compiles, which takes seconds to minutes. `translate` also takes several exemplars per input.

    Where there are several devices, `translate` gives each of them whole pictures if b is a
    multiple of their number. Otherwise, and in all other methods, they share the rows of each
    picture, or the first device computes alone where the rows cannot be shared (`mesh.for_rows`).

    They raise ValueError if an array is missing or has another shape, and UserError if this many
    pictures of this size do not fit in the devices' memory.

    Attributes:
      settings: of the training.
      step: number of optimisation steps of the networks.
      size: S.
      device_count: number of the devices that it uses.
      digest: of the networks' weights and settings, in hexadecimal.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | Restored,
        size: int = 0,
        *,
        bfloat16: bool = False,
        devices: Sequence[jax.Device] | None = None,
        advice: str = "set --size to {size}",
    ):
        """Reads the networks.

        Args:
          checkpoint: a workdir or one checkpoint in it, or a restored checkpoint.
          size: S, a multiple of 32; 0 for the size of the training.
          bfloat16: compute the networks in bfloat16, as the setting `model.dtype` does; the
            correlation stays float32.
          devices: what computes; None for all of this machine.
          advice: what the user can set if pictures do not fit in memory; `{size}` in it becomes a
            size that fits.

        Raises:
          UserError: there is no checkpoint, or its networks cannot produce this size.
        """
        restored = (
            checkpoint if isinstance(checkpoint, Restored) else restore_for_inference(checkpoint)
        )
        self.settings, self.step = restored.settings, restored.step
        if bfloat16:
            computing = dataclasses.replace(self.settings.model, dtype="bfloat16")
            self.settings = dataclasses.replace(self.settings, model=computing)
        self.size = side_of(self.settings.data, size)
        self._all = mesh.make(devices)
        self._rows = mesh.for_rows(self.size // COARSEST, devices)
        self.device_count = self._all.size
        self._state = restored.state
        self._placed: dict[Mesh, TrainState] = {}
        self._advice = advice
        self._programs: dict[Hashable, Any] = {}

    @functools.cached_property
    def digest(self) -> str:
        found = hashlib.sha256(settings_lib.to_json(self.settings).encode())
        for path, leaf in jax.tree.leaves_with_path(inference_variables(self._state)):
            found.update(jax.tree_util.keystr(path).encode())
            found.update(np.asarray(leaf).tobytes())
        return found.hexdigest()

    @property
    def reading_kernel(self) -> int:
        """Side of the neighbourhoods by which points are matched (`matching.reading_kernel`)."""
        settings = self.settings.model
        grid = self.size // settings.warp_stride
        return reading_kernel(grid, settings.match_kernel, settings.centre)

    def round_up(self, count: int) -> int:
        """The smallest batch size, `count` or more, in which no device is idle.

        A single picture stays one, even if only one device can compute it.
        """
        if count == 1 or (count < self.device_count and self._rows.size == self.device_count):
            return count
        return -(-count // self.device_count) * self.device_count

    def compile(self, count: int = 1, exemplars: int = 1, *, with_confidence: bool = False) -> Any:
        """Compiles a translation ahead of the first call.

        Args:
          count: b, number of inputs.
          exemplars: of each input; more than one for a blend.
          with_confidence: see `translate`.

        Returns:
          The program, a `jax.stages.Compiled`.
        """
        data = dataclasses.replace(self.settings.data, image_size=self.size, load_size=self.size)
        one, several = (batch_shapes(data, b) for b in (count, count * exemplars))
        whole = self._takes_whole(count)

        def shape(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            split = mesh.split(self._all) if whole else mesh.rows_of(self._rows, leaf.ndim)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split)

        # Shapes alone: the devices may be those of a machine that is not there.
        shapes = one._replace(exemplar=several.exemplar, exemplar_label=several.exemplar_label)
        batch = jax.tree.map(shape, shapes)
        kind = "translate", None, False, with_confidence
        return self._compiled(kind, self._translation(whole, *kind[1:]), batch)

    def translate(
        self,
        label: Shaped[Array, "b height width planes"],
        exemplar: Shaped[Array, "b *r height width 3"] | None = None,
        exemplar_label: Shaped[Array, "b *r height width planes"] | None = None,
        *,
        give_mask: bool | None = None,
        with_mask: bool = False,
        with_confidence: bool = False,
    ) -> Outputs:
        """Returns the inputs in the style of their exemplars, and the warped exemplars.

        Args:
          label: the inputs.
          exemplar: their exemplars, (b, S, S, 3); or (b, r, S, S, 3) for a blend, in which each
            position of an input matches among the positions of its r exemplars together
            (`warp.blend`).
          exemplar_label: the exemplars' own maps, (b, S, S, p) or (b, r, S, S, p).
          give_mask: give the maps, or noise, to the correspondence network; None: as in the
            settings.
          with_mask: also warp the exemplars' maps, if they have classes.
          with_confidence: also measure how sharp the match of each position is.
        """
        if (give_mask or with_mask) and exemplar_label is None:
            raise ValueError("exemplar_label is missing")
        whole = self._takes_whole(len(label))
        batch = self._batch(label, exemplar, exemplar_label, whole=whole)
        kind = "translate", give_mask, with_mask, with_confidence
        return self._run(kind, self._translation(whole, *kind[1:]), batch)

    def warp(
        self,
        label: Shaped[Array, "b height width planes"],
        exemplar: Shaped[Array, "b height width 3"],
        exemplar_label: Shaped[Array, "b height width planes"] | None = None,
        *,
        layer: Float[Array, "b rows columns c"] | None = None,
        back: bool = False,
    ) -> Float[np.ndarray, "b rows columns c"]:
        """Warps by the correspondence (equation 4); nothing is generated.

        Args:
          label: the inputs.
          exemplar: their exemplars.
          exemplar_label: the exemplars' own maps.
          layer: what to warp instead of the exemplars, in patches that each belong to a position of
            the grid: its sides are multiples of S, so a finer layer stays as fine.
          back: the layer lies on the inputs, and is warped to the exemplars.

        Returns:
          The warped exemplars, in [-1, 1], or the warped layer.
        """
        batch = self._batch(label, exemplar, exemplar_label)
        if layer is None:
            self._check_correspondence()
            if back:
                raise ValueError("layer is missing, which lies on the inputs")
            translate = self._translation(False, None, False, False)

            # The compiler removes the generator, whose output is unused.
            def exemplars(state: TrainState, batch: Batch) -> Any:
                return translate(state, batch).warped_exemplar

            return self._run("warp", exemplars, batch)

        shape, times = np.shape(layer), np.shape(layer)[1] // self.size
        if not times or shape != (len(label), *[times * self.size] * 2, shape[-1]):
            raise ValueError(
                f"layer is {shape} and must be ({len(label)}, k * {self.size}, k * {self.size}, c)"
            )
        settings = self.settings.model

        def carried(rows: jax.Array, columns: jax.Array, layer: jax.Array) -> jax.Array:
            match = soft_match(
                rows,
                columns,
                settings.temperature,
                match_kernel=settings.match_kernel,
                centre=settings.centre,
                correlation=settings.correlation,
                mesh=self._rows,
            )
            patches = to_patches(layer, settings.warp_stride * times)
            b, h, w, k = patches.shape
            warped = match.to_input(patches.reshape(b, h * w, k)).reshape(b, h, w, k)
            return from_patches(warped, settings.warp_stride * times)

        return self._compare("layer", back, carried, batch, np.asarray(layer, np.float32))

    def match(
        self,
        label: Shaped[Array, "b height width planes"],
        exemplar: Shaped[Array, "b height width 3"],
        exemplar_label: Shaped[Array, "b height width planes"] | None = None,
        *,
        back: bool = False,
        match_kernel: int = 0,
    ) -> BestMatch:
        """Returns the best matching exemplar position for each position of the inputs.

        With `back`, the best matching input position for each position of the exemplars.

        Args:
          label: the inputs.
          exemplar: their exemplars.
          exemplar_label: the exemplars' own maps.
          back: match the exemplars' positions.
          match_kernel: side of the compared neighbourhoods, odd; 0 for `reading_kernel`, which
            finds more points than the warp's own, `settings.model.match_kernel`.
        """
        settings, kernel = self.settings.model, match_kernel or self.reading_kernel

        def best(rows: jax.Array, columns: jax.Array) -> BestMatch:
            return best_match(rows, columns, settings.temperature, kernel, settings.centre)

        batch = self._batch(label, exemplar, exemplar_label)
        return self._compare(f"match {kernel}", back, best, batch)

    def similarity(
        self,
        label: Shaped[Array, "b height width planes"],
        exemplar: Shaped[Array, "b height width 3"],
        exemplar_label: Shaped[Array, "b height width planes"] | None = None,
        *,
        cells: Int[Array, "b points 2"],
        back: bool = False,
    ) -> Float[np.ndarray, "b points h w"]:
        """Returns the cosines of some positions and all of the other picture (equation 3).

        They are those by which `match` finds its matches.

        Args:
          label: the inputs.
          exemplar: their exemplars.
          exemplar_label: the exemplars' own maps.
          cells: row and column of the positions in the inputs' grid.
          back: the positions are the exemplars', and are compared with all of the inputs.
        """
        settings = self.settings.model

        def compared(rows: jax.Array, columns: jax.Array, cells: jax.Array) -> jax.Array:
            return similarity(rows, columns, cells, self.reading_kernel, settings.centre)

        batch = self._batch(label, exemplar, exemplar_label)
        return self._compare("similarity", back, compared, batch, np.asarray(cells, np.int32))

    def _compare(
        self, kind: str, back: bool, function: Callable[..., Any], batch: Batch, *more: Array
    ) -> Any:
        """Runs a function of both pictures' features, theta first, or with `back` phi first."""
        self._check_correspondence()
        if len(batch.exemplar) != len(batch.label):
            raise ValueError("only translate takes several exemplars per input")
        # A program of its own, so that everything that compares shares it.
        features = self._compiled("features", self._features, batch)(self._on(self._rows), batch)

        def step(state: TrainState, *arguments: Array) -> Any:
            return function(*arguments)

        arguments = *(features[::-1] if back else features), *more
        return self._run(kind, step, *jax.device_put(arguments, mesh.replicated(self._rows)))

    def _features(self, state: TrainState, batch: Batch) -> tuple[Array, Array]:
        """Theta and phi of `Correspondence`."""
        # With the devices: kernels that cannot be split over them are then left out.
        translation = model.build(self.settings, mesh=self._rows).apply(
            inference_variables(state),
            encode(batch, self.settings.data),
            jax.random.key(0),
            self.settings.model.mask_at_inference,
            train=False,
        )
        assert isinstance(translation, model.Translation)
        assert translation.correspondence is not None
        return translation.correspondence.theta, translation.correspondence.phi

    def _translation(
        self, whole: bool, give_mask: bool | None, with_mask: bool, with_confidence: bool
    ) -> PredictStep:
        return predict_step(
            self.settings,
            give_mask,
            with_mask=with_mask,
            with_confidence=with_confidence,
            mesh=None if whole else self._rows,
            samples=self._all if whole else None,
        )

    def _takes_whole(self, count: int) -> bool:
        """Whether each device takes whole pictures of so many, or else they share rows."""
        return self.device_count > 1 and count % self.device_count == 0

    def _on(self, devices: Mesh) -> TrainState:
        """The state on these devices, which is put there at the first call.

        The first device has it already, and JAX shares its memory instead of copying it.
        """
        if devices not in self._placed:
            self._placed[devices] = jax.device_put(self._state, mesh.replicated(devices))
        return self._placed[devices]

    def _check_correspondence(self) -> None:
        if not self.settings.model.needs_exemplar:
            raise ValueError("a plain translation network has no correspondence")

    def _batch(
        self,
        label: Array,
        exemplar: Array | None,
        exemplar_label: Array | None,
        *,
        whole: bool = False,
    ) -> Batch:
        """Checks shapes, and makes a batch on the devices, with exemplars in one dimension."""
        if exemplar is None:
            if self.settings.model.needs_exemplar:
                raise ValueError("exemplar is missing")
            exemplar = np.zeros((*np.shape(label)[:3], 3), np.uint8)
        blended = np.shape(exemplar)[1:-3]  # (r,), or () for one exemplar per input
        if exemplar_label is None:
            if self.settings.model.needs_exemplar_label:
                raise ValueError("exemplar_label is missing")
            # Not read.
            exemplar_label = np.zeros((len(label), *blended, *np.shape(label)[1:]), np.uint8)
        planes = self.settings.data.planes
        for name, array, several, channels in (
            ("label", label, (), planes),
            ("exemplar", exemplar, blended[:1], 3),
            ("exemplar_label", exemplar_label, blended[:1], planes),
        ):
            wanted = (len(label), *several, self.size, self.size, channels)
            if np.shape(array) != wanted:
                raise ValueError(f"{name} is {np.shape(array)} and must be {wanted}")
        exemplar, exemplar_label = (
            array.reshape(-1, *array.shape[-3:]) for array in (exemplar, exemplar_label)
        )
        batch = Batch(
            # Not read: the ground truth is unknown.
            image=np.zeros((len(label), self.size, self.size, 3), np.uint8),
            exemplar=exemplar,
            label=label,
            exemplar_label=exemplar_label,
            self_reference=np.zeros(len(label), np.float32),
        )
        if whole:
            return jax.device_put(batch, mesh.split(self._all))
        return mesh.split_rows(self._rows, batch)

    def _compiled(self, kind: Hashable, step: Callable[..., Any], *arguments: Any) -> Any:
        """The compiled step for arguments like these, on the devices where they are."""
        key = kind, jax.tree.map(lambda array: (array.shape, array.dtype), arguments)
        if key not in self._programs:
            devices = _mesh_of(arguments)
            state = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=mesh.replicated(devices)
                ),
                self._state,
            )
            self._programs[key] = compile_to_fit(
                jax.jit(step), (state, *arguments), devices, self.size, self._advice
            )
        return self._programs[key]

    def _run(self, kind: Hashable, step: Callable[..., Any], *arguments: Any) -> Any:
        program = self._compiled(kind, step, *arguments)
        return jax.device_get(program(self._on(_mesh_of(arguments)), *arguments))


def _mesh_of(arguments: Any) -> Mesh:
    """The devices where arrays are."""
    found: Mesh = jax.tree.leaves(arguments)[0].sharding.mesh
    return found
