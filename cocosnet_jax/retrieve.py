r"""Finds the exemplars of every image and writes them as a list, `key,ref1,ref2,...`, best first.

    python -m cocosnet_jax.retrieve --config=configs/ade20k.py --config.data.source=FOLDER \
        --config.vgg.weights=vgg19.pth --output=ref.txt

lists for each training photograph the training photographs most like it. With --split=validation
the list is for validation photographs, and its exemplars are training photographs. Who asks is then
the photograph itself, which is what is to be made; the paper asks with the output of a plain
translation network instead, a run of `configs/ade20k.py:plain`:

    python -m cocosnet_jax.retrieve ... --split=validation --checkpoint=PLAIN_RUN --output=test.txt

Photographs are compared by the cosine of their VGG-19 features (relu5_2, mean over positions). The
search is exact, on the accelerator, in blocks: its memory does not grow with the number of images.
Features are kept in `OUTPUT.features/`; an interrupted run goes on from there, and another --k
needs no new ones.
"""

import concurrent.futures
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from etils import epath
from jaxtyping import Float, Int

from cocosnet_jax import command, files
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings

_LAYER = "relu5_2"
# Sides of the blocks of the search: 2048 x 8192 similarities are 64 MiB.
_QUERIES, _CANDIDATES = 2048, 8192


def _define_flags() -> Callable[[], Settings]:
    """Not at import: other entry points have flags of the same names."""
    read_settings = command.define_config(trains=False)
    flags.DEFINE_string("output", "", "list file to write")
    flags.DEFINE_enum("split", "train", ["train", "validation"], "whose exemplars to find")
    flags.DEFINE_integer("k", 10, "exemplars per image", lower_bound=1)
    flags.DEFINE_string("checkpoint", "", "run of a plain translation network, whose outputs ask")
    flags.DEFINE_integer("batch", 16, "photographs per pass through VGG-19", lower_bound=1)
    return read_settings


def main(read_settings: Callable[[], Settings]) -> int:
    """Checks everything, computes features, searches, writes the list."""
    given = flags.FLAGS.flag_values_dict()
    config = given["config"]
    if config is not None:
        # The lists are what is to be made.
        config.data.exemplar_list = config.data.validation_exemplar_list = ""
    settings = read_settings()
    output = files.local(given["output"], "--output")
    if not given["output"] or output.is_dir() or not output.absolute().parent.is_dir():
        raise UserError(f"--output={given['output']} must name a file in a folder that exists")
    try:
        retrieve(
            settings,
            output,
            split=given["split"],
            k=given["k"],
            checkpoint=given["checkpoint"],
            batch_size=given["batch"],
        )
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
        return 130
    return 0


def retrieve(
    settings: Settings,
    output: Path,
    *,
    split: str,
    k: int,
    checkpoint: str = "",
    batch_size: int = 16,
) -> None:
    """Writes the list.

    Args:
      settings: which data and which VGG-19.
      output: the list file; features go to the folder `OUTPUT.features`.
      split: `train` or `validation`.
      k: exemplars per image, or as many as there are.
      checkpoint: a plain translation network whose outputs ask; empty for the photographs.
      batch_size: photographs per pass through the networks.

    Raises:
      UserError: weights, data or checkpoint are missing or do not fit together.
    """
    # Slow to import: what is wrong with the flags is said first.
    from cocosnet_jax import data, vgg_weights
    from cocosnet_jax.data import exemplars

    weights = vgg_weights.load(settings.vgg.weights, settings.vgg.width)
    if settings.vgg.weights == "random":
        print("an untrained VGG compares (config.vgg.weights=random): fine for trying things out")
    restored = _plain(checkpoint, settings) if checkpoint else None
    data.prepare(settings.data)
    asking, pool = _splits(settings, split)
    own = own_places(asking.keys, pool.keys)
    k = min(k, len(pool) - int((own >= 0).any()))
    if k < 1:
        raise UserError(
            f"the split {pool.name} has one photograph, which cannot be its own exemplar"
        )
    folder = Path(f"{output}.features")
    embed = _embedding(weights)
    candidates = _features(folder, pool, embed, settings, "photographs", batch_size)
    queries = candidates
    if restored is not None:
        made = _translation(restored, embed)
        what = f"outputs of {restored.folder}"
        queries = _features(folder, asking, made, settings, what, batch_size)
    elif asking.name != pool.name:
        queries = _features(folder, asking, embed, settings, "photographs", batch_size)
    found = nearest(queries, candidates, k, own, progress=True)
    exemplars.write_list(
        output,
        {
            key: [pool.keys[place] for place in places]
            for key, places in zip(asking.keys, found.places, strict=True)
        },
    )
    first = found.similarities[:, 0]
    print(
        f"{output}: {k} exemplars for each of {len(asking)} images; the first has a cosine of"
        f" {np.median(first):.3f} in the median, {first.min():.3f} at worst"
    )


class Found(NamedTuple):
    """What a search finds, best first.

    Attributes:
      places: (m, k) positions among the candidates.
      similarities: (m, k) cosines.
    """

    places: Int[np.ndarray, "m k"]
    similarities: Float[np.ndarray, "m k"]


def nearest(
    queries: Float[np.ndarray, "m width"],
    candidates: Float[np.ndarray, "n width"],
    k: int,
    own: Int[np.ndarray, "m"],
    *,
    progress: bool = False,
) -> Found:
    """The candidates with the highest inner product with each query, exactly.

    Of equal ones the first comes first. Both arrays may be memory-mapped: blocks of them are
    brought to the device one after the other.

    Args:
      queries: unit vectors.
      candidates: unit vectors.
      k: how many, at most n, or n - 1 where `own` excludes one.
      own: for each query the place of a candidate that it must not find, or -1.
      progress: show how far it is, and the time left.
    """
    import jax
    import jax.numpy as jnp
    import tqdm

    # The smallest blocks that do, so that few images are quick as well.
    rows, columns = min(_QUERIES, len(queries)), min(_CANDIDATES, len(candidates))

    @jax.jit
    def better(
        best: tuple[jax.Array, jax.Array],
        query: jax.Array,
        own: jax.Array,
        block: jax.Array,
        start: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        places = start + jnp.arange(columns)
        # Full precision: a rounded product would change the order on some accelerators.
        similarity = jnp.matmul(query, block.T, precision=jax.lax.Precision.HIGHEST)
        barred = (places >= len(candidates)) | (places == own[:, None])
        here, index = jax.lax.top_k(jnp.where(barred, -jnp.inf, similarity), min(k, columns))
        # Earlier blocks stand first, and top_k takes the first of equal ones.
        values = jnp.concatenate([best[0], here], 1)
        places = jnp.concatenate([best[1], start + index], 1)
        values, index = jax.lax.top_k(values, k)
        return values, jnp.take_along_axis(places, index, 1)

    found = Found(np.zeros((len(queries), k), np.int32), np.zeros((len(queries), k), np.float32))
    bar = tqdm.tqdm(total=len(queries), desc="searching", unit=" images", disable=not progress)
    for top in range(0, len(queries), rows):
        query = jnp.asarray(_block(queries, top, rows))
        barred = jnp.asarray(_block(own, top, rows))
        best = jnp.full((rows, k), -jnp.inf), jnp.full((rows, k), -1)
        for start in range(0, len(candidates), columns):
            block = jnp.asarray(_block(candidates, start, columns))
            best = better(best, query, barred, block, jnp.asarray(start))
        count = min(rows, len(queries) - top)
        found.similarities[top : top + count] = best[0][:count]
        found.places[top : top + count] = best[1][:count]
        bar.update(count)
    bar.close()
    return found


def _block(array: np.ndarray, start: int, size: int) -> np.ndarray:
    """Rows from `start` on, filled up with zeros to `size`: one shape, so one compilation."""
    rows = np.asarray(array[start : start + size])
    return np.pad(rows, [(0, size - len(rows)), *[(0, 0)] * (rows.ndim - 1)])


def own_places(asking: Sequence[str], pool: Sequence[str]) -> Int[np.ndarray, "m"]:
    """For each key that asks, its own place in the pool, or -1."""
    place = {key: index for index, key in enumerate(pool)}
    return np.array([place.get(key, -1) for key in asking], np.int32)


class _Images(NamedTuple):
    """A split and its name."""

    name: str
    split: Any

    @property
    def keys(self) -> list[str]:
        return self.split.keys

    def __len__(self) -> int:
        return len(self.split)


def _splits(settings: Settings, name: str) -> tuple[_Images, _Images]:
    """Who asks, and who may answer."""
    from cocosnet_jax import data

    def opened(split: str) -> _Images:
        return _Images(split, data.open_split(settings.data, split))

    validation = opened("validation")
    # The training photographs at the size of the others, where a dataset keeps them.
    has_both = "exemplars" in validation.split.siblings
    if name == "train":
        training = opened("exemplars" if has_both else "train")
        return training, training
    return validation, opened("exemplars") if has_both else validation


Embedding = Callable[[np.ndarray, np.ndarray], Any]


def _embedding(weights: Any) -> Embedding:
    """(images (b, H, W, 3) uint8, labels) -> unit vectors (b, width), jitted."""
    import jax
    import jax.numpy as jnp

    from cocosnet_jax import encode, vgg

    weights = jax.device_put(weights)

    @jax.jit
    def embed(weights: vgg.VggWeights, image: jax.Array) -> jax.Array:
        found = vgg.features(weights, encode.unit_image(image), (_LAYER,))[_LAYER]
        mean = jnp.mean(found.astype(jnp.float32), axis=(1, 2))
        return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)

    return lambda image, label: embed(weights, image)


def _plain(path: str, settings: Settings) -> Any:
    """A plain translation network that fits the data."""
    from cocosnet_jax import checkpoint

    restored = checkpoint.restore_for_inference(path)
    theirs, ours = restored.settings, settings
    if theirs.model.generator_condition != "input":
        raise UserError(
            f"--checkpoint={path} needs an exemplar itself; name a run of a plain translation"
            " network (configs/ade20k.py:plain)"
        )
    for field in ("condition", "channels", "image_size"):
        a, b = getattr(theirs.data, field), getattr(ours.data, field)
        if a != b:
            raise UserError(
                f"--checkpoint={path} was trained with config.data.{field}={a!r}, and this config"
                f" says {b!r}; they must be equal"
            )
    return restored


def _translation(restored: Any, embed: Embedding) -> Embedding:
    """As `embed`, of what the plain network makes of the labels."""
    import jax

    from cocosnet_jax.steps import predict_step
    from cocosnet_jax.types import Batch

    predict = jax.jit(predict_step(restored.settings))

    def made(image: np.ndarray, label: np.ndarray) -> Any:
        nothing = np.zeros_like(image)
        batch = Batch(nothing, nothing, label, label, np.zeros(len(image), np.float32))
        return embed(predict(restored.state, batch).image, label)

    return made


def _features(
    folder: Path, images: _Images, embed: Embedding, settings: Settings, what: str, batch_size: int
) -> Float[np.ndarray, "n width"]:
    """The features of a split, from the folder as far as they are there; memory-mapped."""
    import tqdm

    from cocosnet_jax import data

    weights = files.local(settings.vgg.weights, "config.vgg.weights")
    seen = weights.stat() if weights.is_file() else None
    metadata = data.open_builder(settings.data).info.metadata
    identity = {
        "what": f"{what}: {images.name} of {settings.data.dataset}",
        "prepared": str(settings.data),
        # Records of the first version have a digest of names, sizes and times alone.
        "files": metadata.get("content", metadata.get("fingerprint", "")),
        "keys": hashlib.sha256("\n".join(images.keys).encode()).hexdigest(),
        "vgg": [str(settings.vgg), seen and [seen.st_size, seen.st_mtime_ns]],
        "layer": _LAYER,
    }
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    rows = Rows(folder / f"{images.name}-{digest}", len(images))
    bar = tqdm.tqdm(
        total=len(images), initial=rows.done, desc=f"{images.name}: {what}"[:40], unit=" images"
    )
    for image, label in _batches(images.split, rows.done, batch_size):
        count = min(len(image), len(images) - rows.done)
        rows.append(np.asarray(embed(image, label))[:count])
        bar.update(count)
    bar.close()
    return rows.array()


def _batches(split: Any, start: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels from `start` on, the last batch filled up with the last image."""
    last = len(split) - 1
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:

        def begin(place: int) -> list[concurrent.futures.Future[Any]]:
            wanted = range(place, place + size) if place <= last else ()
            return [pool.submit(split.__getitem__, min(index, last)) for index in wanted]

        coming = begin(start)
        for place in range(start, last + 1, size):
            loaded, coming = coming, begin(place + size)
            pairs = [future.result() for future in loaded]
            yield np.stack([image for image, _ in pairs]), np.stack([label for _, label in pairs])


class Rows:
    """Rows of float32 on disk that are appended to, and found again by the next run.

    `NAME.npy` holds the rows, and `NAME.done` says how many of them are written.
    """

    def __init__(self, path: Path, count: int):
        """Opens the rows of `path`, of which there will be `count`."""
        self._path, self._done = path.with_suffix(".npy"), path.with_suffix(".done")
        self._count = count
        self.done = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._done.exists():
                done = min(int(self._done.read_text()), count)
                self.done = done if self._holds(done) else 0
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path.parent} cannot be used ({error}); delete it, or choose another --output"
            ) from error

    def _holds(self, rows: int) -> bool:
        """Whether the file is long enough: what was written last may be lost when power fails."""
        with self._path.open("rb") as file:
            try:
                np.lib.format.read_magic(file)
                shape, _, _ = np.lib.format.read_array_header_1_0(file)
            except ValueError:
                return False
            return self._path.stat().st_size >= file.tell() + rows * shape[1] * 4

    def append(self, rows: Float[np.ndarray, "b width"]) -> None:
        """Writes the next rows; they are in the file when this returns."""
        rows = np.ascontiguousarray(rows, "<f4")
        try:
            # Written, not mapped: on a full disk a mapped file ends the program without a word.
            with self._path.open("r+b" if self.done else "wb") as file:
                shape = (self._count, rows.shape[1])
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.seek(self.done * rows[0].nbytes, os.SEEK_CUR)
                file.write(rows.data)
            self.done += len(rows)
            files.write(epath.Path(self._done), str(self.done).encode())
        except OSError as error:
            raise UserError(
                f"features cannot be written to {self._path} ({error}); make room, or choose"
                " another --output"
            ) from error

    def array(self) -> Float[np.ndarray, "n width"]:
        """All rows, once they are written, memory-mapped."""
        return np.load(self._path, mmap_mode="r")


def run() -> None:
    """The command `cocosnet-retrieve`."""
    command.run(functools.partial(main, _define_flags()), __doc__)


if __name__ == "__main__":
    run()
