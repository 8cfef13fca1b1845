"""Records what host and devices do during some steps, with JAX's profiler."""

import jax
from etils import epath

from cocosnet_jax.distributed import is_lead, say


class Profile:
    """Traces the steps `train.profile`, in the lead process; errors do not stop the run."""

    def __init__(self, steps: str, folder: epath.Path, start: int, last: int):
        """Says so if the run has none of these steps.

        Args:
          steps: FIRST:LAST, or empty.
          folder: the workdir, whose folder `profile` gets the trace.
          start: the run starts after this step.
          last: the run's last step.
        """
        self._first, self._last = map(int, steps.split(":")) if steps else (0, 0)
        self._folder = folder / "profile"
        self._running = False
        if steps and (self._last <= start or self._first > last):
            say(
                f"config.train.profile is {steps!r}, but this start goes from step {start + 1} to"
                f" {last}: nothing is traced"
            )

    def before(self, step: int) -> None:
        """Starts tracing if it is time."""
        if self._running or not self._first <= step <= self._last or not is_lead():
            return
        try:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        # The profiler's errors have no common type.
        except Exception as error:
            self._give_up(error)

    def after(self, step: int, results: object) -> None:
        """Writes the trace once the last of its steps has computed these results."""
        if self._running and step >= self._last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes the trace if one is running."""
        if not self._running:
            return
        self._running = False
        try:
            jax.profiler.stop_trace()
        except Exception as error:
            self._give_up(error)
            return
        say(
            f"trace of steps: {self._folder}; to look at it: pip install xprof, then"
            f" `xprof --logdir={self._folder}`; or open the *.trace.json.gz in it at"
            " https://ui.perfetto.dev"
        )

    def _give_up(self, error: Exception) -> None:
        self._last = 0
        say(f"warning: the steps of config.train.profile cannot be traced: {error}")
