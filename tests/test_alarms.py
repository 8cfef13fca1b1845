import pytest

from cocosnet_jax import alarms
from cocosnet_jax.alarms import ALARMS, Alarms, of_losses
from cocosnet_jax.settings import LossSettings

HEALTHY = {
    "like_exemplar": 0.2,
    "like_truth": 0.6,
    "match_entropy": 0.5,
    "matched_places": 0.2,
    "matched_in_place": 0.1,
    "discriminator": 0.7,
    "discriminator_on_fake": -1.0,
    "data_share": 0.01,
}
FAILURES = [
    ({"like_exemplar": 0.9}, "the translation copies the exemplar"),
    ({"matched_places": 0.001}, "the correspondence has collapsed to a few places"),
    ({"match_entropy": 0.999}, "the correspondence carries no information"),
    ({"matched_in_place": 0.8}, "lower config.loss.regularisation"),
    ({"discriminator": 0.01}, "the discriminator is saturated"),
    ({"discriminator_on_fake": -30.0}, "the discriminator is saturated"),
    ({"data_share": 0.4}, "data are slower than the devices: 40% of the time"),
]


@pytest.mark.parametrize(("numbers", "said"), FAILURES)
def test_a_failure_that_lasts_is_said_once(numbers, said, capsys):
    watch = Alarms()
    watch.look(100, HEALTHY | numbers)
    # Once may be chance.
    assert capsys.readouterr().out == ""
    for step in range(150, 2000, 50):
        watch.look(step, HEALTHY | numbers)
    out = capsys.readouterr().out
    assert out.count("warning at step") == out.count("\n") == 1
    assert said in out


def test_what_is_healthy_or_passes_is_no_failure(capsys):
    watch = Alarms()
    for step in range(0, 5000, 50):
        watch.look(step, HEALTHY)
        # Every other time.
        for numbers, _ in FAILURES:
            watch.look(step, numbers if step % 100 else {name: HEALTHY[name] for name in numbers})
    assert capsys.readouterr().out == ""


def test_a_discriminator_may_win_for_some_steps(capsys):
    watch = Alarms()
    for step in range(0, 500, 50):
        watch.look(step, {"discriminator": 0.0, "discriminator_on_fake": -1.0})
    assert capsys.readouterr().out == ""
    watch.look(500, {"discriminator": 0.0, "discriminator_on_fake": -1.0})
    assert "saturated" in capsys.readouterr().out


def test_an_exemplar_that_looks_like_the_truth_is_no_copy(capsys):
    watch = Alarms()
    for step in (1, 2, 3):
        watch.look(step, HEALTHY | {"like_exemplar": 0.8, "like_truth": 0.9})
    assert capsys.readouterr().out == ""


def test_every_alarm_is_made_to_happen():
    made = {
        said for numbers, said in FAILURES for alarm in ALARMS if alarm.sounds(HEALTHY | numbers)
    }
    assert made == {said for _, said in FAILURES}
    assert all(any(alarm.sounds(HEALTHY | numbers) for numbers, _ in FAILURES) for alarm in ALARMS)


def test_every_process_looks_for_its_own_data(monkeypatch, capsys):
    monkeypatch.setattr(alarms.jax, "process_count", lambda: 2)
    monkeypatch.setattr(alarms.jax, "process_index", lambda: 1)
    watch = Alarms()
    for step in (1, 2):
        watch.look(step, HEALTHY | {"data_share": 0.5, "match_entropy": 1.0})
    out = capsys.readouterr().out
    assert out.startswith("warning of process 1 at step 2: data are slower")
    assert "data_dir" in out


@pytest.mark.parametrize(
    ("on_fake", "on_real", "share"),
    [(-2.0, 3.0, 0.0), (0.0, 0.0, 1.0), (-0.5, 0.5, 0.5), (1.0, -1.0, 2.0)],
)
def test_a_discriminators_losses(on_fake, on_real, share):
    """From the formulas of the hinge loss."""
    weight = 10.0
    losses = {
        "discriminator_fake": weight * max(0.0, 1 + on_fake),
        "discriminator_real": weight * max(0.0, 1 - on_real),
        "adversarial": -weight * on_fake,
    }
    found = of_losses(losses, LossSettings(adversarial=weight))
    assert found == {"discriminator": share, "discriminator_on_fake": on_fake}
    assert of_losses(losses, LossSettings(adversarial=0.0)) == {}
