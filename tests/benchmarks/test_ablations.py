import functools
import json

import pytest
from etils import epath

from benchmarks import ablation_table, ablations
from cocosnet_jax import settings as settings_lib
from cocosnet_jax.configs import ablations as recipes
from cocosnet_jax.configs import ade20k
from cocosnet_jax.errors import UserError
from tests.conftest import ROOT


def fields(settings):
    return {
        f"{section}.{name}": value
        for section, found in settings_lib.to_mapping(settings).items()
        for name, value in found.items()
    }


def of_ade20k(variant):
    config = ade20k.get_config(variant)
    config.data.exemplar_list = "random"
    return fields(settings_lib.from_mapping(config.to_dict()))


def of(variant):
    return fields(ablations.variant_settings(variant))


@pytest.mark.parametrize("variant", recipes.CHANGES)
def test_a_variant_changes_the_named_fields_and_no_others(variant):
    full = of("full")
    changed = {name: value for name, value in of(variant).items() if value != full[name]}
    assert changed == recipes.CHANGES[variant]


def test_full_has_every_term_of_the_paper():
    # Equations 8 to 13.
    loss = ablations.variant_settings("full").loss
    terms = (loss.pseudo_exemplar, loss.alignment, loss.perceptual, loss.contextual)
    assert min(*terms, loss.regularisation, loss.adversarial) > 0


def test_paper_and_released_differ_as_on_ade20k():
    theirs = [of_ade20k(name) for name in ("paper", "released")]
    ours = [of(name) for name in ("paper", "released")]
    differing = {name for name in theirs[0] if theirs[0][name] != theirs[1][name]}
    # Numbers of epochs, sizes of pictures, and what depends on them.
    own = {name for name in differing if name.startswith(("optimiser.", "data.load_size"))}
    own |= {"model.mask_epochs", "loss.perceptual", "loss.regularisation", "optimiser.beta2"}
    for name in differing - own:
        assert [x[name] for x in ours] == [x[name] for x in theirs], name
    assert [x["optimiser.beta2"] for x in ours] == [0.999, 0.9]
    assert ours[1]["loss.regularisation"] == 0 < ours[0]["loss.regularisation"]
    assert 0 < ours[0]["model.mask_epochs"] < ablations.variant_settings("paper").epochs


def test_plain_has_no_exemplar():
    plain = of("plain")
    assert plain["model.generator_condition"] == "input"
    assert plain["data.exemplar_probability"] == 0


def run(variant, seed, **numbers):
    return {"variant": variant, "seed": seed, "changes": {}, "numbers": numbers}


def test_table_has_mean_and_deviation_over_seeds():
    runs = [
        run("full", 0, **{"pck@0.1": 0.25, "swd": 20.0, "pck@0.1_by_chance": 0.03}),
        run("full", 1, **{"pck@0.1": 0.35, "swd": 26.0, "pck@0.1_by_chance": 0.03}),
        run("plain", 0, swd=30.25),
    ]
    lines = ablation_table.table(runs, ("plain", "no_domain", "full")).splitlines()
    assert lines[0] == "|  | seeds | PCK@0.1 ↑ | SWD ↓ |"
    # sqrt(((0.25 - 0.3)^2 + (0.35 - 0.3)^2) / 1) = 0.0707; sqrt(9 + 9) = 4.24
    assert lines[2:4] == [
        "| `plain` | 1 | - | 30.2 |",
        "| `full` | 2 | 0.300 ± 0.071 | 23.0 ± 4.2 |",
    ]
    assert "| chance |  | 0.030 | - |" in lines
    assert "FID" in lines[-1]
    assert "SWD" not in lines[-1]


def test_the_documentation_has_the_table_of_the_recorded_runs():
    docs = ROOT / "docs"
    text = ablation_table.of_file(docs / "learning/ablations.json")
    assert text.split("\n\n")[0] in (docs / "learning.md").read_text()


HOW = {"scenes": 64, "full": settings_lib.to_file(ablations.variant_settings("full"))}


def test_finished_runs_are_not_repeated_and_a_failed_one_is_named(tmp_path):
    results = epath.Path(tmp_path) / "results.json"
    runs = ablations.plan(["full", "no_domain"], ["0", "1"], "random")
    assert [one.name for one in runs] == ["full-0", "no_domain-0", "full-1", "no_domain-1"]
    did = []

    def do(one, advance):
        did.append(one.name)
        advance(one.settings.epochs * recipes.EPOCH)
        if one.name == "no_domain-0" and did.count(one.name) == 1:
            raise FloatingPointError("no number")
        return {"swd": 1.0}

    def rest():
        done = ablations.read(results, HOW)
        return [one for one in runs if not ablations.find(done, one)], done

    def do_rest():
        remaining, done = rest()
        keep = functools.partial(ablations.write, results.parent, results, HOW, done)
        return ablations.do_all(remaining, do, keep, done, results.parent)

    assert do_rest() == ["no_domain-0"]
    assert "no number" in (tmp_path / "no_domain-0/failed.txt").read_text()
    assert [one.name for one in rest()[0]] == ["no_domain-0"]
    assert not do_rest()
    assert did == ["full-0", "no_domain-0", "full-1", "no_domain-1", "no_domain-0"]
    assert not rest()[0]
    assert "| `no_domain` | 2 |" in (tmp_path / ablations.TABLE).read_text()


def test_results_of_other_settings_are_refused(tmp_path):
    results = epath.Path(tmp_path) / "results.json"
    ablations.write(results.parent, results, HOW, [])
    with pytest.raises(UserError, match="scenes: 64, 32"):
        ablations.read(results, HOW | {"scenes": 32})
    other = json.loads(json.dumps(HOW["full"]))
    other["loss"]["mask"] = 7.0
    with pytest.raises(UserError, match=r"loss\.mask: 100\.0, 7\.0"):
        ablations.read(results, HOW | {"full": other})
    results.write_text("{}")
    with pytest.raises(UserError, match=r"results\.json is no file of this program"):
        ablations.read(results, HOW)
    one = run("no_domain", 0) | {"changes": {"loss.mask": "100.0, 0.0"}}
    with pytest.raises(UserError, match="no_domain-0 of another recipe"):
        ablations.find([one], ablations.plan(["no_domain"], ["0"], "random")[0])


@pytest.mark.parametrize(
    ("variants", "seeds", "vgg", "line"),
    [
        (["all"], ["0"], "random", "--variants=all: choose among full, "),
        (["full"], ["x"], "random", "--seeds=x must be numbers"),
        (["full"], ["0"], "", "--vgg is missing"),
    ],
)
def test_wrong_flags_are_named(variants, seeds, vgg, line):
    with pytest.raises(UserError, match=line):
        ablations.plan(variants, seeds, vgg)
