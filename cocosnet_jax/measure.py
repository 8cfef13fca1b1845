"""Measures a set of finished pictures: the numbers of the paper's tables 1 to 3, and LPIPS.

`measure` serves folders of pictures and the translations of runs. Each picture passes once through
each network, in batches, on all devices. The result is a row on disk. So an interrupted measuring
continues where it stopped, and memory does not grow with the number of pictures. With several
processes, each measures a part of the pictures.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Array, Float

from cocosnet_jax import features, mesh
from cocosnet_jax.distributed import gather_rows, is_lead, say
from cocosnet_jax.metrics import consistency, fid, inception, rows, swd
from cocosnet_jax.subjects import Read, Subject
from cocosnet_jax.yardsticks import Yardsticks

# Of the rows on disk. Raise it if the content of a row changes.
_VERSION = 3


@dataclasses.dataclass(frozen=True)
class Measured:
    """The results.

    Attributes:
      numbers: by their names in metrics.json.
      protocols: name of a number -> how it was measured: network, file, hash, `Subject.protocol`.
      left_out: what was not measured -> what is missing for it.
      keys: names of the generated pictures.
      scores: name -> (n,) numbers of each picture.
    """

    numbers: dict[str, float]
    protocols: dict[str, str]
    left_out: dict[str, str]
    keys: Sequence[str]
    scores: dict[str, Float[np.ndarray, "n"]]


def measure(subject: Subject, yardsticks: Yardsticks, folder: Path, batch_size: int) -> Measured:
    """Measures a set of pictures by all metrics for which everything is given.

    Args:
      subject: the pictures.
      yardsticks: networks; a metric whose network is missing is left out.
      folder: of the rows, which stay there and are used again.
      batch_size: pictures per pass.

    Returns:
      The numbers, the same in every process.

    Raises:
      UserError: a picture cannot be read, or rows cannot be written.
    """
    plan = _Plan(subject, yardsticks)
    made = {
        name: _rows(folder, name, plan, batch_size)
        for name in ("real", "generated")
        if plan.widths(name)
    }
    found = Measured({}, {}, dict(plan.left_out), subject.keys, {})
    columns = {name: _columns(some, plan.widths(name)) for name, some in made.items()}
    if "inception" in plan.sets:
        real, generated = (gather_rows(columns[x]["inception"]) for x in ("real", "generated"))
        _add_fid(found, generated, real, plan)
    if "swd" in plan.sets:
        _add_swd(found, columns, plan)
    for name in plan.scores:
        _add_scores(found, name, gather_rows(columns["generated"][name]), plan)
    return found


class _Plan:
    """Which metrics are measured, and what a row contains for them.

    Attributes:
      sets: what compares two sets of pictures: `inception`, `swd` -> numbers in a row.
      scores: metrics of single pictures: name -> names of the numbers in a row.
      left_out: metric -> what is missing for it.
    """

    def __init__(self, subject: Subject, yardsticks: Yardsticks):
        self.subject, self.yardsticks = subject, yardsticks
        self.sets: dict[str, int] = {}
        self.scores: dict[str, tuple[str, ...]] = {}
        self.left_out: dict[str, str] = {}
        height, width = subject.size
        if yardsticks.inception is None:
            self.left_out["fid, kid"] = f"set --inception={yardsticks.INCEPTION_HOW}"
        elif min(len(subject.keys), subject.real_count) < 2:
            self.left_out["fid, kid"] = "two pictures or more of each set are needed"
        else:
            self.sets["inception"] = inception.WIDTH
        if height != width or width < swd.SMALLEST or width & (width - 1):
            self.left_out["swd"] = (
                f"pictures are {width}x{height}, and its pyramid needs squares with a side of 16,"
                " 32, 64 ...: --size=256 resizes them"
            )
        elif len(subject.keys) != subject.real_count:
            self.left_out["swd"] = (
                f"it needs equal numbers of pictures, and here are {len(subject.keys)} and"
                f" {subject.real_count}"
            )
        else:
            self.sets["swd"] = len(swd.levels(width)) * swd.PATCHES * swd.SIDE**2 * 3
        self._plan_scores()

    def _plan_scores(self) -> None:
        subject, given = self.subject, self.yardsticks
        vgg = "--vgg (of a run: a trained one as config.vgg.weights)"
        wanted: dict[str, tuple[list[object], str, tuple[str, ...]]] = {
            "semantic_consistency": (
                [subject.label, subject.paired and subject.real, given.vgg],
                f"--labels, real pictures that belong to the generated ones, and {vgg}",
                consistency.CONSISTENCY_LAYERS,
            ),
            "style_relevance": (
                [subject.label, subject.exemplar, subject.exemplar_label, given.vgg],
                f"--labels, --exemplars, --exemplar-labels and {vgg}",
                (*consistency.STYLE_LAYERS, "common"),
            ),
            "lpips": (
                [subject.paired and subject.real, given.lpips],
                f"real pictures that belong to the generated ones, --lpips ({given.LPIPS_HOW}) and"
                " torchvision's VGG-16 as --vgg or --lpips-vgg",
                ("truth",),
            ),
            "lpips_diversity": (
                [subject.others, given.lpips],
                "--others (results of the same inputs in the style of other exemplars), and what"
                " lpips needs",
                ("diversity",),
            ),
        }
        for name, (needed, what, numbers) in wanted.items():
            if all(needed):
                self.scores[name] = numbers
            else:
                self.left_out[name] = f"it needs {what}"

    def protocol(self, how: str) -> str:
        """How a number was measured, for the report; `how` is specific to the number."""
        subject = self.subject
        common = {"pictures": str(len(subject.keys))}
        if subject.real_count != len(subject.keys):
            common["pictures"] += f" against {subject.real_count}"
        common |= {"size": "{1}x{0}".format(*subject.size)} | subject.protocol
        return "; ".join([how, *(f"{name}: {value}" for name, value in common.items())])

    def widths(self, of: str) -> dict[str, int]:
        """Metric -> how many numbers of a row belong to it, for `real` or `generated` pictures."""
        of_single = {name: len(numbers) for name, numbers in self.scores.items()}
        return self.sets | (of_single if of == "generated" else {})

    def inputs(self, of: str) -> dict[str, Read]:
        """The inputs of a row: name -> its reader."""
        subject = self.subject
        found: dict[str, Read | None] = {
            "image": subject.real if of == "real" else subject.generated
        }
        if of == "generated":
            if self.scores.keys() & {"semantic_consistency", "lpips"}:
                found["truth"] = subject.real
            if self.scores.keys() & {"semantic_consistency", "style_relevance"}:
                found["label"] = subject.label
            if "style_relevance" in self.scores:
                found |= {"exemplar": subject.exemplar, "exemplar_label": subject.exemplar_label}
            if "lpips_diversity" in self.scores:
                found |= {f"other_{i}": read for i, read in enumerate(subject.others)}
        if "swd" in self.sets:
            side = subject.size[0]
            found["corners"] = lambda index: swd.positions(side, [index], swd.SEED, of)[0]
        return {name: read for name, read in found.items() if read is not None}


@dataclasses.dataclass(frozen=True)
class _Share:
    """The part of the pictures that this process takes, as `features.compute` reads it."""

    readers: Sequence[Read]
    places: range

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        return tuple(read(self.places[index]) for read in self.readers)


def _rows(folder: Path, of: str, plan: _Plan, batch_size: int) -> np.ndarray:
    """Rows of this process's part of a set, memory-mapped; those on disk are not computed again."""
    subject, process, processes = plan.subject, jax.process_index(), jax.process_count()
    count = subject.real_count if of == "real" else len(subject.keys)
    bounds = [count * part // processes for part in (process, process + 1)]
    inputs = plan.inputs(of)
    identity = {
        "version": _VERSION,
        "set": of,
        "pictures": subject.real_identity if of == "real" else subject.identity,
        "size": subject.size,
        "count": count,
        "row": plan.widths(of),
        "networks": plan.yardsticks.identity()[: 1 if of == "real" else None],
        "swd": [swd.SEED, swd.PATCHES],
    }
    name = f"{of}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]}"
    share = _Share(list(inputs.values()), range(*bounds))
    if not len(share):
        return np.zeros((0, sum(plan.widths(of).values())), np.float32)
    embed = _embedding(plan, of, list(inputs))
    title = f"{of}: {', '.join(plan.widths(of))}"
    path = folder / f"{name}-{bounds[0]}-{bounds[1]}"
    elsewhere = features.other_parts(path)
    return features.compute(path, share, embed, batch_size, title, elsewhere)


def _columns(rows: np.ndarray, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Metric -> its part of the rows."""
    ends = np.cumsum(list(widths.values()))
    return {
        name: rows[:, end - width : end]
        for (name, width), end in zip(widths.items(), ends, strict=True)
    }


def _embedding(plan: _Plan, of: str, names: Sequence[str]) -> features.Embedding:
    """Batches -> rows, on all devices of this process."""
    devices = mesh.make(jax.local_devices())
    networks = jax.device_put(plan.yardsticks.networks(), mesh.replicated(devices))
    scores, sets = tuple(plan.scores), tuple(plan.sets)

    @jax.jit
    def embed(networks: Any, batch: dict[str, Array]) -> Float[Array, "b width"]:
        # Accelerators would round products to fewer digits than the report prints.
        with jax.default_matmul_precision("highest"):
            parts = rows.of_sets(networks, batch, sets)
            if of == "generated":
                parts += rows.of_pictures(networks, batch, scores)
        return jnp.concatenate(parts, 1)

    def on_devices(*columns: np.ndarray) -> Float[Array, "b width"]:
        batch = dict(zip(names, columns, strict=True))
        return embed(networks, jax.device_put(batch, mesh.split(devices)))

    return on_devices


def _add_fid(found: Measured, generated: np.ndarray, real: np.ndarray, plan: _Plan) -> None:
    say("Fréchet distance and KID ...")
    found.numbers["fid"] = fid.frechet_distance(fid.Moments.of(generated), fid.Moments.of(real))
    found.numbers["kid"] = fid.kid(generated, real)
    protocol = plan.protocol(plan.yardsticks.inception_name)
    found.protocols["fid"] = f"{protocol}; resized to 299 (bilinear), pool3"
    found.protocols["kid"] = f"{found.protocols['fid']}; cubic kernel, unbiased over all pairs"
    if warning := fid.few_pictures(min(len(generated), len(real)), inception.WIDTH):
        found.protocols["fid"] += f"; WARNING: {warning}"
        say(f"warning: {warning}")


def _add_swd(found: Measured, columns: dict[str, dict[str, np.ndarray]], plan: _Plan) -> None:
    levels = swd.levels(plan.subject.size[0])
    say(f"sliced Wasserstein distance of {len(levels)} levels ...")
    shape = (-1, len(levels), swd.PATCHES, swd.SIDE**2 * 3)
    real, generated = (columns[x]["swd"].reshape(shape) for x in ("real", "generated"))
    distances = []
    total, quiet = len(levels) * swd.DIRECTIONS, not is_lead()
    with tqdm.tqdm(total=total, desc="swd", unit=" directions", delay=1, disable=quiet) as bar:
        for place, level in enumerate(levels):
            sets = generated[:, place], real[:, place]
            distances.append(swd.distance(*sets, swd.SEED, gather_rows, bar.update))
            found.numbers[f"swd_{level}"] = distances[-1]
    found.numbers["swd"] = float(np.mean(distances))
    drawn = f"{swd.PATCHES} patches per picture and level, {swd.DIRECTIONS} directions, x 1000"
    found.protocols["swd"] = plan.protocol(f"levels {levels[0]} to 16, {drawn}, seed {swd.SEED}")


def _add_scores(found: Measured, name: str, rows: np.ndarray, plan: _Plan) -> None:
    by_number = dict(zip(plan.scores[name], np.asarray(rows, np.float64).T, strict=True))
    network = plan.yardsticks.vgg_name
    if name == "semantic_consistency":
        found.scores[name] = np.mean(list(by_number.values()), 0)
        found.numbers[name] = float(found.scores[name].mean())
        found.protocols[name] = plan.protocol(f"{network}, mean of relu3_2, relu4_2, relu5_2")
    elif name == "style_relevance":
        without = int((by_number.pop("common") == 0).sum())
        if without == len(rows):
            found.left_out[name] = (
                "no picture's label map has a class above 0 in common with its exemplar's: check"
                " that the maps of inputs and of exemplars use the same numbers"
            )
            return
        found.numbers["style_relevance_pairs_without_common_class"] = without
        for short, layer in (("colour", consistency.COLOUR), ("texture", consistency.TEXTURE)):
            found.scores[f"{name}_{short}"] = by_number[layer]
            found.numbers[f"{name}_{short}"] = float(by_number[layer].mean())
            found.protocols[f"{name}_{short}"] = plan.protocol(
                f"{network}, {layer}; {without} pairs without a common class count 0"
            )
    else:
        (values,) = by_number.values()
        found.scores[name], found.numbers[name] = values, float(values.mean())
        found.protocols[name] = plan.protocol(plan.yardsticks.lpips_name)
        return
    for layer, values in by_number.items():
        found.numbers[f"{name}_{layer}"] = float(values.mean())
