"""Reporting everything that is wrong at once, without flooding the terminal."""

from collections.abc import Sequence

from cocosnet_jax.errors import UserError

_LISTED = 10


def raise_if_any(subject: str, problems: Sequence[str]) -> None:
    """Raises one `UserError` with the count of problems and the first ten of them."""
    if not problems:
        return
    if len(problems) == 1:
        raise UserError(f"{subject}: {problems[0]}")
    lines = [f"{subject} has {len(problems)} problems:"]
    lines += [f"  {problem}" for problem in problems[:_LISTED]]
    if len(problems) > _LISTED:
        lines.append(f"  ... and {len(problems) - _LISTED} more")
    raise UserError("\n".join(lines))
