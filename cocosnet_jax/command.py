"""What all entry points share: the config flag, `--help`, one line instead of a traceback."""

import contextlib
import dataclasses
import importlib
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from absl import app, flags, logging
from ml_collections import config_flags

from cocosnet_jax import flags_help
from cocosnet_jax import settings as settings_lib
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings

_CONFIGS = pathlib.Path(__file__).parent / "configs"


class ReadSettings(Protocol):
    """Returns the checked settings; see `define_config`."""

    def __call__(self, decided: Mapping[str, object] | None = None) -> Settings: ...


def define_config(trains: bool = True) -> ReadSettings:
    """Defines `--config=NAME[:VARIANT]` with overrides `--config.section.field=value`.

    NAME is one of the project's configs, or the path of a file.

    Args:
      trains: whether the program trains; others need no exemplar list, and without one their
        settings have the exemplar probability 0.

    Returns:
      A function that returns the checked settings, to be called once flags are parsed. It takes
      settings that the program's other flags decide, `section.field` -> value, and raises UserError
      for a field that is unknown or a value that is impossible.
    """
    # New attributes are let in here, because Settings names the fields there are.
    holder = config_flags.DEFINE_config_file(
        "config",
        help_string="where the settings come from, with a variant after a colon: ade20k:released;"
        f" one of {', '.join(known_configs())}, or the path of a Python file of your own",
        lock_config=False,
        accept_new_attributes=True,
    )

    def settings(decided: Mapping[str, object] | None = None) -> Settings:
        if holder.value is None:
            raise UserError(f"--config is missing; {_there_are()}")
        both = ("config.train.batch_size", "config.train.batch_per_device")
        if all(name in flags.FLAGS for name in both):
            raise UserError(f"--{both[0]} and --{both[1]} are both given; leave one of them out")
        values = holder.value.to_dict()
        for name, value in (decided or {}).items():
            section, field = name.split(".")
            values.setdefault(section, {})[field] = value
        if not trains:
            # A dataset's config names no list: which one is the user's to say, before training.
            data = values.setdefault("data", {})
            if not data.get("exemplar_list"):
                data["exemplar_probability"] = 0.0
        return settings_lib.from_mapping(values)

    return settings


def define_distributed() -> flags.FlagHolder[str]:
    """Defines `--distributed`, for `distributed.join`."""
    return flags.DEFINE_string(
        "distributed",
        "",
        "several processes make one run: `auto` where the cluster says which (TPU, Slurm),"
        " or HOST:PORT,PROCESSES,INDEX; launch/ has scripts that set it",
    )


class Measuring(NamedTuple):
    """What evaluations are told by flags, wherever their pictures are from."""

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
        "measure generated pictures as they are, or compressed as JPEG of quality 75, as some"
        " published FIDs were; it moves FID by points",
    )
    return lambda: Measuring(inception.value, lpips.value, lpips_vgg.value, form.value)


def project_settings(name: str) -> Settings:
    """The settings of one of the project's configs, as its file has them."""
    config = importlib.import_module(f"cocosnet_jax.configs.{name}").get_config()
    return settings_lib.from_mapping(config.to_dict())


def run(main: Callable[[], int | None], doc: str | None) -> None:
    """Parses flags, calls `main`, exits with its status; a UserError is one line, and its own.

    Ctrl-C is one line as well, wherever `main` does not catch it: training does, once it has begun.

    Args:
      main: the program; it returns the exit status, None for 0.
      doc: what `--help` shows above the flags.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        if set(argv[1:]) & {"--help", "-help", "-h", "--helpshort", "--helpfull"}:
            with contextlib.suppress(BrokenPipeError):  # `| head` has seen enough
                print(flags_help.text(doc), flush=True)
            # Not sys.exit, which complains of the pipe.
            os._exit(0)
        return _parse(argv)

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is not a flag; flags look like --name=value")
        if not flags.FLAGS["verbosity"].present:
            # At absl's default level Orbax logs every step of its work.
            logging.set_verbosity(logging.WARNING)
        # What fails in a background thread is raised here as well, without that thread's history.
        others = re.compile(r"[/\\](orbax|clu)[/\\]")
        logging.get_absl_handler().addFilter(lambda record: not others.search(record.pathname))
        return main()

    try:
        app.run(guarded, flags_parser=parse)
    except UserError as error:
        # At once: several processes may write to one terminal.
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("interrupted: run the same command again", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        # At once: Python's own way out waits for threads, and XLA's may crash it.
        os._exit(130)


def _parse(argv: Sequence[str]) -> list[str]:
    given = file = ""
    sections = [field.name for field in dataclasses.fields(Settings)]
    joined: list[str] = []
    for argument in argv[1:]:
        # A value may follow its flag as an argument of its own.
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
            raise UserError(f"{deeper[1]} is unknown; settings are config.SECTION.FIELD")
        if match and match[2] and match[2] not in sections:
            raise UserError(f"config.{match[2]} is unknown; config has {', '.join(sections)}")
    try:
        others = flags.FLAGS([*argv[:1], *joined])
        if file:
            # A file that cannot be opened is an error at its first use.
            loaded: Any = flags.FLAGS["config"].value
            loaded.to_dict()
        return others
    except flags.IllegalFlagValueError as error:
        raise _of_illegal_value(str(error)) from error
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split())}; --help lists the flags") from error
    except UserError:
        raise
    # A config is a program, and may raise anything.
    except Exception as error:
        if not file:
            raise
        trace = traceback.extract_tb(error.__traceback__)
        lines = [place.lineno for place in trace if place.filename == file]
        where = f" in line {lines[-1]}" if lines else ""
        what = " ".join(str(error).split())
        raise UserError(
            f"--config={given} cannot be loaded: {type(error).__name__}{where}: {what}; correct it"
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
    """Names of the project's configs; `base` is what they start from."""
    return sorted(x.stem for x in _CONFIGS.glob("*.py") if x.stem not in ("__init__", "base"))


def _config_file(given: str) -> str:
    """Returns the file that `--config=GIVEN` means.

    A name is the project's config, whatever lies in the current folder. A path is a file; where
    there is none, `configs/NAME.py` is the project's as well, as documentation calls it.
    """
    known = known_configs()
    match = re.fullmatch(r"(\w+)|configs/(\w+)\.py", given)
    if match and match[1] in known:
        return str(_CONFIGS / f"{match[1]}.py")
    if os.path.isfile(given):
        if not given.endswith(".py"):
            raise UserError(f"--config={given} is no Python file; {_there_are()}")
        return given
    if match and match[2] in known:
        return str(_CONFIGS / f"{match[2]}.py")
    what = "is not a file" if re.search(r"[./\\]", given) else "is unknown"
    raise UserError(f"--config={given} {what}; {_there_are()}")


def _there_are() -> str:
    return f"there are {', '.join(known_configs())}, or give the path of a Python file of your own"
