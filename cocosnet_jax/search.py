"""Exact search for the pictures most alike, and the exemplar lists that are made by it."""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
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
from cocosnet_jax.inference import Translator, needs_exemplar
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.settings import Settings

# Sides of the blocks of the search: 2048 x 8192 similarities are 64 MiB.
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
      settings: which data and which VGG.
      output: the list file; features go to the folder `OUTPUT.features`.
      split: `train` or `validation`.
      k: exemplars per image, or as many as there are.
      checkpoint_path: a plain translation network whose outputs are the queries; empty for the
        photographs themselves.
      batch_size: photographs per pass through the networks.

    Raises:
      UserError: weights, data or checkpoint are missing or do not fit together.
    """
    weights = vgg_weights.load(settings.vgg.weights, settings.vgg.width)
    if settings.vgg.weights == "random":
        print("an untrained VGG compares (config.vgg.weights=random): fine for trying things out")
    else:
        print(f"{weights.network} of {settings.vgg.weights} compares")
    restored = _plain(checkpoint_path, settings) if checkpoint_path else None
    dataset = data.prepare(settings.data)
    if restored is not None:
        label_maps.check_same_colours(restored.settings.data, dataset.settings)
    asked, pool = _splits(dataset, split)
    own = own_positions(asked.keys, pool.keys)
    k = min(k, len(pool) - int((own >= 0).any()))
    if k < 1:
        raise UserError(
            f"the split {pool.name} has one photograph, which cannot be its own exemplar"
        )
    folder = Path(f"{output}.features")
    embed = features.vgg_embedding(weights)
    compute = partial(_features, folder, settings, dataset.content, batch_size)
    candidates = compute(pool, embed, "photographs")
    queries = candidates
    if restored is not None:
        translator = Translator(restored, advice="set a smaller --batch")
        made = _translations(translator, embed)
        what = f"outputs of {restored.folder}"
        queries = compute(asked, made, what)
    elif asked.name != pool.name:
        queries = compute(asked, embed, "photographs")
    found = nearest(queries, candidates, k, own, progress=True)
    exemplars.write_list(
        output,
        {
            key: [pool.keys[place] for place in places]
            for key, places in zip(asked.keys, found.places, strict=True)
        },
    )
    first = found.similarities[:, 0]
    print(
        f"{output}: {k} exemplars for each of {len(asked)} images; the first has a cosine of"
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
    """The split of the queries, and that of the candidates."""

    def opened(split: str) -> _Images:
        return _Images(split, dataset.split(split))

    validation = opened("validation")
    # The training photographs at the size of the others, where a dataset keeps them.
    has_both = "exemplars" in validation.split.siblings
    if name == "train":
        training = opened("exemplars" if has_both else "train")
        return training, training
    return validation, opened("exemplars") if has_both else validation


def _plain(path: str, settings: Settings) -> checkpoint.Restored:
    """A plain translation network that fits the data."""
    restored = checkpoint.restore_for_inference(path)
    theirs, ours = restored.settings, settings
    if needs_exemplar(theirs):
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


def _translations(translator: Translator, embed: features.Embedding) -> features.Embedding:
    """As `embed`, of what the plain network makes of the labels."""
    return lambda image, label: embed(np.asarray(translator.translate(label).image), label)


def _features(
    folder: Path,
    settings: Settings,
    content: str,
    batch_size: int,
    images: _Images,
    embed: features.Embedding,
    what: str,
) -> Float[np.ndarray, "n width"]:
    """The features of a split; their files are named after all that they depend on."""
    weights = files.local(settings.vgg.weights, "config.vgg.weights")
    seen = weights.stat() if weights.is_file() else None
    identity = {
        "what": f"{what}: {images.name} of {settings.data.dataset}",
        "prepared": str(settings.data),
        "files": content,
        "keys": hashlib.sha256("\n".join(images.keys).encode()).hexdigest(),
        "vgg": [str(settings.vgg), seen and [seen.st_size, seen.st_mtime_ns]],
        "layer": features.LAYER,
    }
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    path = folder / f"{images.name}-{digest}"
    return features.compute(path, images.split, embed, batch_size, f"{images.name}: {what}")


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


def own_positions(asked: Sequence[str], pool: Sequence[str]) -> Int[np.ndarray, "m"]:
    """For each key that asks, its own place in the pool, or -1."""
    place = {key: index for index, key in enumerate(pool)}
    return np.array([place.get(key, -1) for key in asked], np.int32)
