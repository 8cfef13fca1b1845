"""Warns once of each known way in which a training fails quietly; see docs/watching.md."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from cocosnet_jax.distributed import say
from cocosnet_jax.settings import LossSettings

Numbers = Mapping[str, float]


class Alarm(NamedTuple):
    """A condition on some numbers, and what it means.

    Attributes:
      needs: names of the numbers that it reads; it is skipped if one of them is missing.
      sounds: whether these numbers show the failure.
      steps: the condition must hold at every look over this many steps, and at two looks at least.
      warning: what it means and what to try; may contain numbers, such as `{like_exemplar:.2f}`.
      everywhere: whether every process looks at its own numbers, instead of the lead alone.
    """

    needs: tuple[str, ...]
    sounds: Callable[[Numbers], bool]
    steps: int
    warning: str
    everywhere: bool = False


ALARMS = (
    Alarm(
        ("like_exemplar", "like_truth"),
        lambda n: n["like_exemplar"] > max(0.5, n["like_truth"]),
        1,
        "the translation copies the exemplar: its edges are where the exemplar's are (correlation"
        " {like_exemplar:.2f}), not where the input's are ({like_truth:.2f}). Look at the workdir's"
        " pictures; raise config.loss.perceptual, which keeps the input's content, or lower"
        " config.loss.contextual; if the match stays in place, see docs/watching.md",
    ),
    Alarm(
        ("matched_places",),
        lambda n: n["matched_places"] < 0.02,
        1,
        "the correspondence has collapsed to a few places: all positions together match"
        " {matched_places:.1%} of the exemplar's. Look at the warped exemplars in the workdir's"
        " pictures; go back to an earlier checkpoint by --init_from with a lower"
        " config.optimiser.generator_rate, or check config.loss.alignment and the exemplar list",
    ),
    Alarm(
        ("match_entropy",),
        lambda n: n["match_entropy"] > 0.98,
        1,
        "the correspondence carries no information: the softmax is nearly uniform over the"
        " exemplar (entropy {match_entropy:.1%} of the maximum), so every warped colour is the"
        " exemplar's mean. Lower config.model.temperature (the papers' is 0.01), or check that"
        " config.loss.alignment is above 0",
    ),
    Alarm(
        ("matched_in_place",),
        lambda n: n["matched_in_place"] > 0.5,
        1,
        "the correspondence is the identity: {matched_in_place:.0%} of all positions match their"
        " own place in another picture. The usual cause is that L_reg weighs too much:"
        " lower config.loss.regularisation in a new run, --init_from an earlier checkpoint",
    ),
    Alarm(
        ("discriminator", "discriminator_on_fake"),
        lambda n: n["discriminator"] < 0.05 or n["discriminator_on_fake"] < -10,
        500,
        "the discriminator is saturated: for hundreds of steps it has separated translations from"
        " photographs almost perfectly (its hinge loss is {discriminator:.3f} of that of guessing,"
        " its mean output for translations is {discriminator_on_fake:.3g}), so the adversarial loss"
        " teaches little. Lower config.optimiser.discriminator_rate in a new run,"
        " --init_from an earlier checkpoint",
    ),
    Alarm(
        ("data_share",),
        lambda n: n["data_share"] > 0.2,
        1,
        "data are slower than the devices: {data_share:.0%} of the time is spent waiting for"
        " batches. Give this machine more CPU cores, put config.data.data_dir on a local disk, or"
        " have fewer devices per machine",
        everywhere=True,
    ),
)


def of_losses(losses: Numbers, weights: LossSettings) -> dict[str, float]:
    """What the discriminator's losses say.

    Args:
      losses: weighted, by name, as the training step gives them.
      weights: of the run.

    Returns:
      `discriminator`, its hinge loss divided by the loss of guessing (0 if it separates all images,
      1 if none), and `discriminator_on_fake`, its mean output for translations (trained to be below
      -1).
      Nothing without an adversarial loss.
    """
    weight = weights.adversarial
    names = ("discriminator_fake", "discriminator_real", "adversarial")
    if not weight or not all(name in losses for name in names):
        return {}
    fake, real, adversarial = (losses[name] / weight for name in names)
    return {"discriminator": (fake + real) / 2, "discriminator_on_fake": -adversarial}


class Alarms:
    """Checks numbers now and then, and prints each warning once per start of the program."""

    def __init__(self) -> None:
        self._since: dict[Alarm, int] = {}  # Step of the first look at which it held, and since.
        self._said: set[Alarm] = set()

    def look(self, step: int, numbers: Numbers) -> None:
        """Checks the alarms that these numbers are for."""
        for alarm in ALARMS:
            if any(name not in numbers for name in alarm.needs) or alarm in self._said:
                continue
            if not alarm.sounds(numbers):
                self._since.pop(alarm, None)
            elif step >= self._since.setdefault(alarm, step) + alarm.steps:
                self._said.add(alarm)
                text = alarm.warning.format(**numbers)
                if not alarm.everywhere or jax.process_count() == 1:
                    say(f"warning at step {step}: {text}")
                else:
                    process = f"process {jax.process_index()}"
                    print(f"warning of {process} at step {step}: {text}", flush=True)
