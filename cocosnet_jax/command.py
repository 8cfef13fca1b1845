"""Common code of all entry points: the flag --config, `--help`, and error messages."""

import contextlib
import dataclasses
import gc
import importlib
import os
import pathlib
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from absl import app, flags, logging
from ml_collections import config_flags

from cocosnet_jax import compile_cache, flags_help
from cocosnet_jax import settings as settings_lib
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings

# Python looks for garbage whenever this many objects have come into being. With its default, 700,
# that takes a quarter of the time of imports and of tracing, which leave hardly any garbage.
NEW_OBJECTS = 50_000
_CONFIGS = pathlib.Path(__file__).parent / "configs"


class ReadSettings(Protocol):
    """Returns the checked settings; see `define_config`."""

    def __call__(self, decided: Mapping[str, object] | None = None) -> Settings: ...


def define_config(trains: bool = True) -> ReadSettings:
    """Defines `--config=NAME[:VARIANT]` with overrides `--config.section.field=value`.

    NAME is one of the project's configs, or the path of a file.

    Args:
      trains: whether the program trains. Other programs need no exemplar list; without one, they
        set the exemplar probability to 0.

    Returns:
      A function that returns the checked settings, to be called after flags are parsed. Its
      argument holds settings from the program's other flags, `section.field` -> value. It raises
      UserError for an unknown field or an invalid value.
    """
    # New attributes are accepted here, because Settings checks the names.
    holder = config_flags.DEFINE_config_file(
        "config",
        help_string="the settings' file, with a variant after a colon: ade20k:released; one of"
        f" {', '.join(known_configs())}, or the path of your own Python file",
        lock_config=False,
        accept_new_attributes=True,
    )

    def settings(decided: Mapping[str, object] | None = None) -> Settings:
        if holder.value is None:
            raise UserError(f"--config is missing; {_valid_configs()}")
        total, per_device = "config.train.batch_size", "config.train.batch_per_device"
        if total in flags.FLAGS and per_device in flags.FLAGS:
            raise UserError(f"--{total} and --{per_device} are both given; leave out one of them")
        values = holder.value.to_dict()
        if total in flags.FLAGS:
            # The config may have set the other one, which has precedence.
            values["train"]["batch_per_device"] = 0
        for name, value in (decided or {}).items():
            section, field = name.split(".")
            values.setdefault(section, {})[field] = value
        if not trains:
            # A dataset's config has no list; users set it for training.
            data = values.setdefault("data", {})
            if not data.get("exemplar_list"):
                data["exemplar_probability"] = 0.0
        return settings_lib.from_mapping(values)

    return settings


def define_distributed() -> Callable[[], None]:
    """Defines `--distributed` and `--join_timeout`; returns what joins the other processes."""
    processes = flags.DEFINE_string(
        "distributed",
        "",
        "for a run of several processes: `auto` if the cluster configures them (TPU, Slurm), or"
        " HOST:PORT,PROCESSES,INDEX; scripts in launch/ set it",
    )
    limit = flags.DEFINE_integer(
        "join_timeout",
        600,
        "seconds within which all processes of --distributed must have started",
        lower_bound=1,
    )

    def join() -> None:
        # Slow to import: flags are checked first.
        from cocosnet_jax import distributed

        distributed.join(processes.value, limit.value)

    return join


class Measuring(NamedTuple):
    """The flags that all evaluations share, of runs and of folders of pictures."""

    inception: str
    lpips: str
    lpips_vgg: str
    format: Any  # png or jpeg


def define_measuring() -> Callable[[], Measuring]:
    """Defines the flags of `Measuring`; returns what reads them once they are parsed."""
    inception = flags.DEFINE_string(
        "inception",
        "",
        "FID's Inception, for FID and KID: pytorch-fid's pt_inception-2015-12-05-6726825d.pth",
    )
    lpips = flags.DEFINE_string(
        "lpips", "", "heads of LPIPS 0.1 for VGG-16: the lpips package's vgg.pth, or an .npz"
    )
    lpips_vgg = flags.DEFINE_string(
        "lpips-vgg", "", "LPIPS's VGG-16, torchvision's; needed where the other VGG is VGG-19"
    )
    form = flags.DEFINE_enum(
        "format",
        "png",
        ["png", "jpeg"],
        "measure generated pictures as they are, or compressed as JPEG of quality 75, as for some"
        " published FIDs; JPEG changes FID by several points",
    )
    return lambda: Measuring(inception.value, lpips.value, lpips_vgg.value, form.value)


def project_settings(name: str) -> Settings:
    """The settings in one of the project's config files."""
    config = importlib.import_module(f"cocosnet_jax.configs.{name}").get_config()
    return settings_lib.from_mapping(config.to_dict())


def run(main: Callable[[], int | None], doc: str | None) -> None:
    """Parses flags, calls `main`, and exits with its status.

    A UserError is printed without traceback, and determines the exit status. Ctrl-C is handled in
    the same way, unless `main` catches it, as training does.

    Args:
      main: the program; it returns the exit status, None for 0.
      doc: the text of `--help` above the flags.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        if set(argv[1:]) & {"--help", "-help", "-h", "--helpshort", "--helpfull"}:
            with contextlib.suppress(BrokenPipeError):  # `| head` closes the pipe.
                print(flags_help.text(doc), flush=True)
            # Not sys.exit, which reports the broken pipe.
            os._exit(0)
        return _parse(argv)

    gc.set_threshold(NEW_OBJECTS)

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is not a flag; write flags as --name=value")
        if not flags.FLAGS["verbosity"].present:
            # At absl's default level, Orbax logs every internal step.
            logging.set_verbosity(logging.WARNING)
        # Hides tracebacks of background threads, whose errors are also raised in this thread.
        others = re.compile(r"[/\\](orbax|clu)[/\\]")
        logging.get_absl_handler().addFilter(lambda record: not others.search(record.pathname))
        # The user chose the files. Pillow refuses pictures of twice as many pixels by itself.
        warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
        compile_cache.enable()
        return main()

    try:
        app.run(guarded, flags_parser=parse)
    except UserError as error:
        # In one write, because several processes may share a terminal.
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        sys.exit(error.status)
    except PermissionError as error:
        # Of a file or folder that a flag names, or of one below: the user can change it.
        if error.filename is None:
            raise
        sys.stderr.write(
            f"error: {error.filename} may not be read or written ({error.strerror}); change its"
            " permissions, or those of the folders that it is in\n"
        )
        sys.exit(UserError.status)
    except KeyboardInterrupt:
        print("interrupted: run the same command again", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        # Immediately: Python's normal exit waits for threads, and XLA's may crash it.
        os._exit(130)


def _parse(argv: Sequence[str]) -> list[str]:
    given = file = ""
    sections = [field.name for field in dataclasses.fields(Settings)]
    joined: list[str] = []
    for argument in argv[1:]:
        # A value may be an argument of its own, after its flag.
        if joined and joined[-1] in ("--config", "-config"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    for place, argument in enumerate(joined):
        match = re.match(r"--?(?:no)?config(?:=([^:]*)|\.(\w+))", argument)
        if match and match[1] is not None:
            given = match[1]
            file = _config_file(given)
            joined[place] = f"--config={file}{argument[match.end() :]}"
        if deeper := re.match(r"--?(?:no)?(config\.\w+\.\w+\.[\w.]+)", argument):
            raise UserError(f"{deeper[1]} is unknown; write settings as config.SECTION.FIELD")
        if match and match[2] and match[2] not in sections:
            raise UserError(f"config.{match[2]} is unknown; config has {', '.join(sections)}")
    try:
        others = flags.FLAGS([*argv[:1], *joined])
        if file:
            # Reports a file that cannot be opened now, not at its first use.
            loaded: Any = flags.FLAGS["config"].value
            loaded.to_dict()
        return others
    except flags.IllegalFlagValueError as error:
        raise _of_illegal_value(str(error)) from error
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split())}; --help lists the flags") from error
    except UserError:
        raise
    # A config file is a program, and may raise anything.
    except Exception as error:
        if not file:
            raise
        trace = traceback.extract_tb(error.__traceback__)
        lines = [place.lineno for place in trace if place.filename == file]
        where = f" in line {lines[-1]}" if lines else ""
        what = " ".join(str(error).split())
        raise UserError(
            f"--config={given} cannot be loaded: {type(error).__name__}{where}: {what}; correct the"
            " file"
        ) from error


def _of_illegal_value(message: str) -> UserError:
    match = re.match(r"flag --config\.(\w+)\.(\w+)=(.*?): ", message, re.DOTALL)
    if not match:
        first, last = message.split(": ")[0], message.strip().splitlines()[-1].strip()
        return UserError(last if last.startswith(first) else f"{first}: {last}")
    section, field, value = match.groups()
    kind = type(dataclasses.asdict(Settings())[section][field]).__name__
    return UserError(f"config.{section}.{field} is {value!r}; it must be of type {kind}")


def known_configs() -> list[str]:
    """Names of the project's configs, without `base`, their common base."""
    return sorted(x.stem for x in _CONFIGS.glob("*.py") if x.stem not in ("__init__", "base"))


def _config_file(given: str) -> str:
    """Returns the file of `--config=GIVEN`.

    A name refers to the project's config, whatever is in the current folder. A path refers to a
    file; if `configs/NAME.py` does not exist, it refers to the project's config.
    """
    known = known_configs()
    match = re.fullmatch(r"(\w+)|configs/(\w+)\.py", given)
    if match and match[1] in known:
        return str(_CONFIGS / f"{match[1]}.py")
    if os.path.isfile(given):
        if not given.endswith(".py"):
            raise UserError(f"--config={given} is not a Python file; {_valid_configs()}")
        return given
    if match and match[2] in known:
        return str(_CONFIGS / f"{match[2]}.py")
    what = "is not a file" if re.search(r"[./\\]", given) else "is unknown"
    raise UserError(f"--config={given} {what}; {_valid_configs()}")


def _valid_configs() -> str:
    return f"choose one of {', '.join(known_configs())}, or the path of your own Python file"
