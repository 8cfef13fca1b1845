"""Reports all problems at once, without flooding the terminal."""

import concurrent.futures
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import tqdm

from cocosnet_jax.errors import UserError

_LISTED = 10
_Item = TypeVar("_Item")


def find(
    check: Callable[[_Item], str | None], items: Sequence[_Item], unit: str, quiet_s: float = 0
) -> list[str]:
    """The problems that `check` reports for items, in order; on all cores.

    Progress is shown after `quiet_s` seconds.
    """
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        checked = pool.map(check, items)
        progress = tqdm.tqdm(
            checked, total=len(items), desc="checking files", unit=f" {unit}", delay=quiet_s
        )
        return [problem for problem in progress if problem]
    finally:
        # On Ctrl-C, do not check the remaining items first.
        pool.shutdown(cancel_futures=True)


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
