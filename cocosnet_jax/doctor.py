r"""Checks this machine and what a run needs, and says what is wrong and how to fix it.

    python -m cocosnet_jax.doctor [--config=ade20k:released --config.data.source=FOLDER ...] \
        [--workdir=runs/ade20k]

Without flags it checks versions, devices, memory and environment. `--config`, with the overrides of
the run's own command, adds data, exemplar lists, weights and batch size. `--workdir` adds the
folder and its free space. Nothing is written, downloaded or compiled. Each line begins with `ok`,
`note` (fine if it is intended) or `problem`. The exit status is 1 if there are problems.
"""

import itertools

from absl import flags

from cocosnet_jax import checkup, command
from cocosnet_jax.errors import UserError

_SETTINGS = command.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "the run's folder, which is checked together with its disk"
)


def main() -> int:
    """Prints what is found; returns 1 if there are problems."""
    settings, found = None, []
    if flags.FLAGS["config"].value is not None:
        try:
            settings = _SETTINGS()
        except UserError as error:
            found.append(checkup.Finding("problem", "config", str(error)))
    return checkup.report(itertools.chain(found, checkup.examine(settings, _WORKDIR.value)))


def run() -> None:
    """The command `cocosnet-doctor`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
