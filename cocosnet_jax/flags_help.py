"""The text of `--help`: a command's description, and all its flags and settings."""

import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from typing import Any, Literal

from absl import flags

from cocosnet_jax.settings import Settings

_WIDTH = 96


def text(doc: str | None) -> str:
    """Returns the help of the running program.

    Args:
      doc: the docstring of the program's module.
    """
    blocks = [inspect.cleandoc(doc or ""), "flags:"]
    own = [
        flag
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        if module == sys.argv[0] or module.startswith("cocosnet_jax.")
        for flag in defined
    ]
    blocks += [_of_flag(flag) for flag in own]
    if any(flag.name == "config" for flag in own):
        blocks.append(
            "settings, which can be set on the command line in addition to --config; the values"
            " shown are\nthe defaults, which apply unless the config sets others:"
        )
        defaults = Settings()
        for section in dataclasses.fields(Settings):
            blocks += _of_section(section.name, getattr(defaults, section.name))
    return "\n\n".join(block for block in blocks if block)


def _of_flag(flag: flags.Flag[Any]) -> str:
    if flag.boolean:
        return f"  --{flag.name}\n{_indented(str(flag.help), 6)}"
    choices = getattr(flag.parser, "enum_values", None)
    value = "|".join(choices) if choices else "..."
    # absl puts an enumeration's values before its description.
    words = str(flag.help).removeprefix(f"<{value}>: ")
    default = f" (default: {flag.default})" if flag.default not in (None, "", []) else ""
    return f"  --{flag.name}={value}\n{_indented(words + default, 6)}"


def _of_section(name: str, values: Any) -> list[str]:
    """The section's title, then its fields in order; fields with a common description together."""
    cls = type(values)
    title = inspect.cleandoc(cls.__doc__ or "").splitlines()[0]
    blocks = [f"{name}: {title}"]
    described = attributes(cls)
    kinds = typing.get_type_hints(cls)
    heads: list[str] = []
    for field in dataclasses.fields(cls):
        kind = kinds[field.name]
        line = f"  --config.{name}.{field.name}={getattr(values, field.name)!r}"
        if typing.get_origin(kind) is Literal:
            line += f"  (of {', '.join(repr(choice) for choice in typing.get_args(kind))})"
        heads.append(line)
        words = described.get(field.name, "")
        # The last of several fields has their common description.
        if words is not None:
            head = "\n".join(heads)
            blocks.append(f"{head}\n{_indented(words, 6)}" if words else head)
            heads = []
    return blocks


def attributes(cls: type) -> dict[str, str | None]:
    """Field -> its description in the section `Attributes` of a class's docstring.

    Of fields that share a description, all but the last have None.
    """
    section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2]
    descriptions: dict[str, str | None] = {}
    for entry in re.split(r"\n(?=  \S)", section.rstrip()):
        names, _, words = entry.strip().partition(": ")
        *others, last = names.split(", ")
        descriptions |= dict.fromkeys(others)
        descriptions[last] = " ".join(words.split())
    return descriptions


def _indented(words: str, by: int) -> str:
    return textwrap.fill(
        " ".join(words.split()),
        _WIDTH,
        initial_indent=" " * by,
        subsequent_indent=" " * by,
        break_on_hyphens=False,
    )
