"""Checks of what a run needs from its machine; `cocosnet_jax.doctor` prints them.

Longer than other files: it is a list of short checks, each independent of the others.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from cocosnet_jax import files
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings

GIB = 2**30
# Package -> the versions that were tested, from the first to below the second; as in
# pyproject.toml.
TRIED = {
    "jax": ("0.10.2", "0.13"),
    "flax": ("0.12.8", "0.13"),
    "optax": ("0.2.8", "0.3"),
    "orbax-checkpoint": ("0.12.8", "0.13"),
    "numpy": ("2.4.6", "3"),
    "tensorflow-datasets": ("4.9.10", "5"),
}
TRIED_PYTHON = ((3, 11), (3, 14))
# Either is TensorFlow.
TENSORFLOW, TRIED_TENSORFLOW = ("tensorflow-cpu", "tensorflow"), ("2.21", "2.22")
# A launcher's variables that say how many processes a run has.
_LAUNCHERS = ("SLURM_NTASKS", "TPU_WORKER_HOSTNAMES", "JAX_NUM_PROCESSES", "JOB_COMPLETION_INDEX")
# They make every step slow.
_SLOW = ("JAX_DISABLE_JIT", "JAX_DEBUG_NANS", "JAX_ENABLE_X64")


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
      state: `problem` prevents or spoils a run; `note` is fine if it is intended.
      about: what was checked.
      text: what was found, and for a problem how to fix it.
    """

    state: Literal["ok", "note", "problem"]
    about: str
    text: str


Findings = Iterator[Finding]


def examine(settings: Settings | None, workdir: str) -> Findings:
    """Makes all checks, one after the other; raises nothing.

    Args:
      settings: of a run, or None.
      workdir: of a run, or empty.
    """
    looks: list[tuple[str, Callable[[], Findings]]] = [
        ("versions", versions),
        ("devices", devices),
        ("memory", host_memory),
        ("environment", environment),
        ("compilation cache", compilation_cache),
    ]
    if settings is not None:
        run = settings
        looks += [
            ("batch", lambda: batch(run)),
            ("weights", lambda: weights(run)),
            ("data", lambda: prepared_data(run)),
        ]
    if workdir:
        looks.append(("workdir", lambda: run_folder(workdir, settings)))
    for about, look in looks:
        try:
            yield from look()
        except UserError as error:
            yield Finding("problem", about, str(error))
        # A check that fails unexpectedly must not hide the results of the others.
        except Exception as error:
            text = " ".join(str(error).split()) or "no message"
            yield Finding("problem", about, f"{type(error).__name__}: {text}")


def versions() -> Findings:
    """Compares Python and the packages with the versions that were tested."""
    own = sys.version_info[:2]
    low, high = (".".join(map(str, version)) for version in TRIED_PYTHON)
    if TRIED_PYTHON[0] <= own < TRIED_PYTHON[1]:
        yield Finding("ok", "versions", f"Python {platform.python_version()}")
    else:
        yield Finding(
            "problem",
            "versions",
            f"Python {platform.python_version()}; use one from {low} to below {high}",
        )
    for name, (low, high) in TRIED.items():
        yield _version(name, _installed(name), low, high)
    found = next((v for name in TENSORFLOW if (v := _installed(name))), None)
    yield _version("tensorflow", found, *TRIED_TENSORFLOW)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _version(name: str, found: str | None, low: str, high: str) -> Finding:
    if found is None:
        text = f"{name} is not installed: pip install -r requirements.txt"
        return Finding("problem", "versions", text)
    if _numbers(low) <= _numbers(found) < _numbers(high):
        return Finding("ok", "versions", f"{name} {found}")
    text = f"{name} {found} was not tested; use a version from {low} to below {high}"
    return Finding("problem" if _numbers(found) < _numbers(low) else "note", "versions", text)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def devices() -> Findings:
    """The devices that JAX finds, their memory, and accelerators that it does not find."""
    import jax

    try:
        found = jax.local_devices()
    except RuntimeError as error:
        raise UserError(
            f"JAX finds no device ({' '.join(str(error).split())}); check whether another process"
            " uses it, whether the driver fits jax[cuda13] or jax[tpu], and JAX_PLATFORMS"
        ) from error
    kind = found[0].device_kind
    yield Finding("ok", "devices", f"{len(found)} x {kind} ({found[0].platform})")
    for device in found:
        statistics = device.memory_stats() or {}
        if limit := statistics.get("bytes_limit"):
            used = statistics.get("bytes_in_use", 0)
            text = f"{device}: {used / GIB:.1f} of {limit / GIB:.1f} GiB in use"
            yield Finding("ok", "devices", text)
    if found[0].platform == "cpu" and os.environ.get("JAX_PLATFORMS", "") != "cpu":
        for pattern, extra in (("nvidia[0-9]*", "cuda13"), ("accel[0-9]*", "tpu")):
            if any(Path("/dev").glob(pattern)):
                yield Finding(
                    "problem",
                    "devices",
                    "this machine has an accelerator, but JAX sees CPUs only: pip install"
                    f' "jax[{extra}]=={jax.__version__}"',
                )


def host_memory() -> Findings:
    """The memory that is free for batches, checkpoints and the compiler."""
    import jax

    from cocosnet_jax import fit

    whole = fit.capacity(jax.devices("cpu")[0])
    line = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    free = min(whole, int(line[1]) * 1024) if line else whole
    text = f"{free / GIB:.1f} of {whole / GIB:.1f} GiB free, {os.cpu_count()} CPU cores"
    # Compiling the step of the full model takes about 4 GiB.
    if free < 4 * GIB:
        yield Finding("note", "memory", f"{text}; compiling the full model takes about 4 GiB")
    else:
        yield Finding("ok", "memory", text)


def environment() -> Findings:
    """Variables that change what JAX and XLA do, and those of a launcher."""
    names = re.compile(r"(JAX|XLA|LIBTPU|TPU|CUDA|NCCL)_")
    for name, value in sorted(os.environ.items()):
        if name in _SLOW and value.lower() not in ("", "0", "false"):
            yield Finding("note", "environment", f"{name}={value} makes every step slow")
        elif names.match(name):
            yield Finding("ok", "environment", f"{name}={value}")
    if given := [name for name in _LAUNCHERS if os.environ.get(name)]:
        text = f"a launcher sets {', '.join(given)}: give --distributed=auto to main"
        yield Finding("note", "environment", text)
    else:
        yield Finding("ok", "environment", "one process; launch/ has scripts for several")


def compilation_cache() -> Findings:
    """Where compiled programs are kept, so that a restart need not compile."""
    import jax

    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    if not folder:
        text = "none: every start compiles again; JAX_COMPILATION_CACHE_DIR=FOLDER sets one"
        yield Finding("note", "compilation cache", text)
    elif files.is_url(folder):
        yield Finding("ok", "compilation cache", f"{folder}, in a bucket")
    else:
        path = Path(folder)
        used = sum(x.stat().st_size for x in path.glob("*") if x.is_file())
        text = f"{path}, {used / GIB:.2f} GiB"
        yield _disk("compilation cache", path, text, GIB)


def batch(settings: Settings) -> Findings:
    """Whether a batch, and each of its small batches, splits evenly over the devices."""
    import jax

    from cocosnet_jax import mesh

    train = settings.on_devices(jax.device_count()).train
    size, accumulate = train.batch_size, train.accumulate
    mesh.check_batch(size, group_size=settings.loss.group_size, accumulate=accumulate)
    text = f"{size}, {size // jax.device_count()} on each of {jax.device_count()} device(s)"
    if accumulate > 1:
        text += f", in {accumulate} small batches"
    yield Finding("ok", "batch", text)


def weights(settings: Settings) -> Findings:
    """The VGG of the losses, as the program reads it."""
    from cocosnet_jax.pretrained import vgg

    given = settings.vgg.weights
    if given == "random":
        text = "config.vgg.weights=random: an untrained VGG, for trying things out"
        yield Finding("note", "weights", text)
        return
    if given == "keras" and not vgg.keras_file().is_file():
        text = f"config.vgg.weights=keras: fetched at the first start, to {vgg.keras_file()}"
        yield Finding("note", "weights", text)
        return
    path = vgg.keras_file() if given == "keras" else given
    network = vgg.load(path, settings.vgg.width)
    digest = files.sha256(files.local(path, "config.vgg.weights"))
    text = f"{path}: {network.network}, {network.preprocessing} preprocessing, SHA-256 {digest}"
    yield Finding("ok" if network.network == "VGG-19" else "note", "weights", text)


def prepared_data(settings: Settings) -> Findings:
    """The dataset's own files, the records made of them, and the exemplar lists."""
    from cocosnet_jax.data import builders, dataset, exemplars, records

    data = settings.data
    if not data.channels:
        raise UserError(
            "config.data.channels is 0: python -m cocosnet_jax.prepare counts the classes, and says"
            " what to set"
        )
    builder = builders.open_builder(data)
    if data.source and not files.local(data.source, "config.data.source").is_dir():
        raise UserError(f"config.data.source is {data.source!r}, which is not a folder")
    lists = {
        "exemplar_list": data.exemplar_list if data.exemplar_probability else "",
        "validation_exemplar_list": data.validation_exemplar_list,
        "self_pair_list": data.self_pair_list,
    }
    for field, path in lists.items():
        if path not in ("", "random", "names"):
            count = len(exemplars.read_list(path))
            yield Finding("ok", "exemplars", f"config.data.{field}: {path}, {count} lines")
    root = Path(str(builder.data_dir_root))
    if records.is_prepared(builder):
        opened = dataset.open_dataset(data)
        parts = ", ".join(f"{count} {split}" for split, count in opened.lengths.items())
        yield Finding("ok", "data", f"{data.dataset} in {opened.folder}: {parts}")
        for note in opened.notes:
            yield Finding("note", "exemplars", note)
        if not data.validation_exemplar_list:
            text = "config.data.validation_exemplar_list is empty: validation images are their own"
            yield Finding("note", "exemplars", f"{text} exemplars, so pictures show little")
    else:
        text = (
            f"not prepared yet: training does it first, into {builder.data_dir}; `python -m"
            " cocosnet_jax.prepare` with the same config checks all files"
        )
        yield Finding("note", "data", text)
        if not files.is_url(str(root)):
            yield _disk("data", root, f"folder {root}", GIB)


def run_folder(workdir: str, settings: Settings | None) -> Findings:
    """Whether the folder belongs to this run, and holds its checkpoints."""
    from cocosnet_jax import checkpoint, integrity
    from cocosnet_jax import workdir as workdirs

    folder = checkpoint.absolute(workdir)
    if settings is not None:
        import jax

        workdirs.check(workdir, settings.on_devices(jax.device_count()))
    steps = integrity.steps(folder / checkpoint.FOLDER)
    yield Finding(
        "ok", "workdir", f"checkpoint {steps[0]} is the newest" if steps else "no checkpoint yet"
    )
    if files.is_url(workdir):
        yield Finding("ok", "workdir", f"{workdir}, in a bucket")
        return
    needed, least, text = float(GIB), float(GIB), f"folder {folder}"
    if settings is not None and settings.data.channels:
        import jax

        from cocosnet_jax import state

        shapes = state.state_shapes(settings)
        least = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
        missing = workdirs.missing_checkpoints(folder, settings)
        needed = missing * least
        text += f", {missing} more checkpoints of {least / GIB:.2f} GiB"
    yield _disk("workdir", Path(folder), text, needed, least)


def _disk(
    about: str, folder: Path, text: str, needed: float, least: float | None = None
) -> Finding:
    """Whether a folder, or the nearest that exists, can be written to and has enough space.

    Args:
      about: of the finding.
      folder: the folder.
      text: of the finding, to which the free space is added.
      needed: bytes that should be free.
      least: bytes without which a run does not start; None for `needed`.
    """
    existing, error = files.probe(folder)
    if error is not None:
        text += f": cannot be written to ({error.strerror}); choose another folder"
        return Finding("problem", about, text)
    free = shutil.disk_usage(existing).free
    text += f"; {free / GIB:.1f} GiB are free"
    if free < needed:
        text += f" of {needed / GIB:.1f} needed: free some space, or choose another folder"
        enough = least is not None and free >= least
        return Finding("note" if enough else "problem", about, text)
    return Finding("ok", about, text)


def report(findings: Iterable[Finding]) -> int:
    """Prints the findings as they come; returns the exit status, 1 if there are problems."""
    counts = {"ok": 0, "note": 0, "problem": 0}
    for finding in findings:
        counts[finding.state] += 1
        print(f"{finding.state:8}{finding.about}: {finding.text}", flush=True)
    print(f"{counts['problem']} problem(s), {counts['note']} note(s)", flush=True)
    return 1 if counts["problem"] else 0
