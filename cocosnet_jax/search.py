"""Finds the most similar pictures exactly, and writes them as exemplar lists."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Float, Int

from cocosnet_jax import checkpoint, data, features, files
from cocosnet_jax.data import exemplars
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.data.labels import label_maps
from cocosnet_jax.errors import UserError
from cocosnet_jax.inference import Translator
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.settings import Settings

# Block sizes of the search: 2048 x 8192 similarities take 64 MiB.
_QUERIES, _CANDIDATES = 2048, 8192


def write_list(
    settings: Settings,
    output: Path,
    *,
    split: str,
    k: int,
    checkpoint_path: str = "",
    batch_size: int = 16,
) -> None:
    """Writes the exemplars of every image of a split, best first.

    Args:
      settings: of the data and VGG.
      output: the list file; the folder `OUTPUT.features` caches features.
      split: `train` or `validation`.
      k: exemplars per image, or all if there are fewer.
      checkpoint_path: a plain translation network whose outputs are the queries; empty for the
        photographs themselves.
      batch_size: photographs per pass through the networks.

    Raises:
      UserError: weights, data or checkpoint are missing or do not match.
    """
    # What can be told at once, before VGG is fetched.
    data.check(settings.data)
    restored = _plain(checkpoint_path, settings) if checkpoint_path else None
    weights = vgg_weights.load(settings.vgg.weights, settings.vgg.width)
    if settings.vgg.weights == "random":
        print("note: VGG is untrained (config.vgg.weights=random); use the list for tests only")
    else:
        print(f"comparing photographs by {weights.network} of {settings.vgg.weights}")
    dataset = data.prepare(settings.data)
    if restored is not None:
        label_maps.check_same_colours(restored.settings.data, dataset.settings)
    images, pool = _splits(dataset, split)
    own = own_positions(images.keys, pool.keys)
    k = min(k, len(pool) - int((own >= 0).any()))
    if k < 1:
        raise UserError(
            f"the split {pool.name} has one photograph, which cannot be its own exemplar; add more"
        )
    cache = _FeatureCache(Path(f"{output}.features"), settings, dataset.content, batch_size)
    embed = features.vgg_embedding(weights)
    candidates = cache.compute(pool, embed, "photographs")
    queries = candidates
    if restored is not None:
        translator = Translator(restored, advice="set a smaller --batch")
        embed_output = _embedding_of_translations(translator, embed)
        queries = cache.compute(images, embed_output, f"outputs of {restored.folder}")
    elif images.name != pool.name:
        queries = cache.compute(images, embed, "photographs")
    neighbours = nearest(queries, candidates, k, own, progress=True)
    exemplars.write_list(
        output,
        {
            key: [pool.keys[position] for position in positions]
            for key, positions in zip(images.keys, neighbours.positions, strict=True)
        },
    )
    first = neighbours.similarities[:, 0]
    print(
        f"{output}: {k} exemplars for each of {len(images)} images; cosine of the first:"
        f" {np.median(first):.3f} in the median, {first.min():.3f} at worst"
    )


class _Images(NamedTuple):
    """A split and its name."""

    name: str
    split: Any

    @property
    def keys(self) -> list[str]:
        return self.split.keys

    def __len__(self) -> int:
        return len(self.split)


def _splits(dataset: Dataset, name: str) -> tuple[_Images, _Images]:
    """The split of the queries, and the split of the candidates."""

    def opened(split: str) -> _Images:
        return _Images(split, dataset.split(split))

    validation = opened("validation")
    # `exemplars` are the training photographs at image_size, if the dataset has them.
    has_exemplars = "exemplars" in validation.split.siblings
    if name == "train":
        training = opened("exemplars" if has_exemplars else "train")
        return training, training
    return validation, opened("exemplars") if has_exemplars else validation


def _plain(path: str, settings: Settings) -> checkpoint.Restored:
    """Reads a plain translation network, and checks that it matches the data."""
    restored = checkpoint.restore_for_inference(path)
    theirs, ours = restored.settings, settings
    if theirs.model.needs_exemplar:
        raise UserError(
            f"--checkpoint={path} needs exemplars; name a run of a plain translation network"
            " (configs/ade20k.py:plain)"
        )
    for field in ("condition", "channels", "image_size"):
        a, b = getattr(theirs.data, field), getattr(ours.data, field)
        if a != b:
            raise UserError(
                f"--checkpoint={path} was trained with config.data.{field}={a!r}, but this config"
                f" has {b!r}; set it to {a!r}, or use another checkpoint"
            )
    return restored


def _embedding_of_translations(
    translator: Translator, embed: features.Embedding
) -> features.Embedding:
    """As `embed`, for the plain network's translations of the labels."""
    return lambda image, label: embed(np.asarray(translator.translate(label).image), label)


class _FeatureCache(NamedTuple):
    """Computes features, and keeps them in files named after everything that they depend on.

    Attributes:
      folder: of the files.
      settings: of the data and VGG.
      content: digest of the dataset's files.
      batch_size: photographs per pass through the networks.
    """

    folder: Path
    settings: Settings
    content: str
    batch_size: int

    def compute(
        self, images: _Images, embed: features.Embedding, what: str
    ) -> Float[np.ndarray, "n width"]:
        """The features of a split by `embed`; `what` names the embedded pictures."""
        settings = self.settings
        weights = files.local(settings.vgg.weights, "config.vgg.weights")
        stat = weights.stat() if weights.is_file() else None
        identity = {
            "what": f"{what}: {images.name} of {settings.data.dataset}",
            "prepared": str(settings.data),
            "files": self.content,
            "keys": hashlib.sha256("\n".join(images.keys).encode()).hexdigest(),
            "vgg": [str(settings.vgg), stat and [stat.st_size, stat.st_mtime_ns]],
            "layer": features.LAYER,
        }
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
        path = self.folder / f"{images.name}-{digest}"
        return features.compute(
            path, images.split, embed, self.batch_size, f"{images.name}: {what}"
        )


class Neighbours(NamedTuple):
    """The nearest candidates of each query, best first.

    Attributes:
      positions: (m, k) positions among the candidates.
      similarities: (m, k) cosines.
    """

    positions: Int[np.ndarray, "m k"]
    similarities: Float[np.ndarray, "m k"]


def nearest(
    queries: Float[np.ndarray, "m width"],
    candidates: Float[np.ndarray, "n width"],
    k: int,
    own: Int[np.ndarray, "m"],
    *,
    progress: bool = False,
) -> Neighbours:
    """Finds the candidates with the highest inner product with each query, exactly.

    Equal candidates are in the order of their positions. Both arrays may be memory-mapped: one
    block at a time is copied to the device.

    Args:
      queries: unit vectors.
      candidates: unit vectors.
      k: number of neighbours, at most n, or n - 1 if `own` excludes one.
      own: for each query, the position of a candidate to exclude, or -1.
      progress: show progress and the time left.
    """
    # No larger than needed, so that few images are fast.
    rows, columns = min(_QUERIES, len(queries)), min(_CANDIDATES, len(candidates))

    @jax.jit
    def better(
        best: tuple[jax.Array, jax.Array],
        query: jax.Array,
        own: jax.Array,
        block: jax.Array,
        start: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        positions = start + jnp.arange(columns)
        # Full precision: rounded products would change the order on some accelerators.
        similarity = jnp.matmul(query, block.T, precision=jax.lax.Precision.HIGHEST)
        excluded = (positions >= len(candidates)) | (positions == own[:, None])
        in_block, index = jax.lax.top_k(jnp.where(excluded, -jnp.inf, similarity), min(k, columns))
        # Earlier blocks come first, and top_k prefers the first of equal values.
        values = jnp.concatenate([best[0], in_block], 1)
        positions = jnp.concatenate([best[1], start + index], 1)
        values, index = jax.lax.top_k(values, k)
        return values, jnp.take_along_axis(positions, index, 1)

    positions = np.zeros((len(queries), k), np.int32)
    similarities = np.zeros((len(queries), k), np.float32)
    bar = tqdm.tqdm(total=len(queries), desc="searching", unit=" images", disable=not progress)
    for top in range(0, len(queries), rows):
        query = jnp.asarray(_block(queries, top, rows))
        excluded = jnp.asarray(_block(own, top, rows))
        best = jnp.full((rows, k), -jnp.inf), jnp.full((rows, k), -1)
        for start in range(0, len(candidates), columns):
            block = jnp.asarray(_block(candidates, start, columns))
            best = better(best, query, excluded, block, jnp.asarray(start))
        count = min(rows, len(queries) - top)
        similarities[top : top + count] = best[0][:count]
        positions[top : top + count] = best[1][:count]
        bar.update(count)
    bar.close()
    return Neighbours(positions, similarities)


def _block(array: np.ndarray, start: int, size: int) -> np.ndarray:
    """Rows from `start` on, padded with zeros to `size`: one shape, so one compilation."""
    rows = np.asarray(array[start : start + size])
    return np.pad(rows, [(0, size - len(rows)), *[(0, 0)] * (rows.ndim - 1)])


def own_positions(keys: Sequence[str], pool: Sequence[str]) -> Int[np.ndarray, "m"]:
    """The position of each key in the pool, or -1."""
    position = {key: index for index, key in enumerate(pool)}
    return np.array([position.get(key, -1) for key in keys], np.int32)
