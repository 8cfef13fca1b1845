"""The rules of the house: imports point one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cocosnet_jax"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}

# Entry points: they alone see a ConfigDict.
ENTRY = {"command", "main", "prepare", "retrieve", "convert", "compile_check"}
BENEATH_TENSORFLOW = [
    *("encode", "model", "losses", "state", "steps", "partition", "vgg"),
    *("checkpoint", "mesh", "distributed", "interrupt", "rng"),
]


def statements(body, *, nested):
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        if nested:
            yield from (child for child in ast.walk(node) if child is not node)


def imports(name, *, nested):
    """Modules that a module imports: at its top, or anywhere if `nested`."""
    found = set()
    for node in statements(ast.parse(FILES[name].read_text()).body, nested=nested):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in FILES else str(node.module))
    return found


def reachable(name):
    """All modules that importing a module brings in, of this package and others."""
    seen, todo = set(), [name]
    while todo:
        here = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        if here in FILES:
            todo += imports(here, nested=True)
            parts = here.split(".")
            todo += [".".join(parts[:end]) for end in range(1, len(parts))]
    return seen


def test_the_import_graph_has_no_cycle():
    graph = {name: imports(name, nested=False) & FILES.keys() for name in FILES}
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {name for name in graph if name not in done and graph[name] <= done}
        assert ready, f"these import each other: {sorted(graph.keys() - done)}"
        done |= ready


@pytest.mark.parametrize("room", BENEATH_TENSORFLOW)
def test_the_model_side_runs_without_tensorflow(room):
    others = {name.split(".")[0] for name in reachable(f"cocosnet_jax.{room}")}
    assert "jax" in others
    assert not others & {"tensorflow", "tensorflow_datasets", "clu", "ml_collections", "absl"}


def test_only_entry_points_see_a_config_dict():
    seen = {name.split(".")[1] for name in FILES if "ml_collections" in reads(name)}
    assert seen <= ENTRY


def reads(name):
    return {module.split(".")[0] for module in imports(name, nested=True)}


def test_the_checks_see_what_they_look_for():
    assert "tensorflow" in {name.split(".")[0] for name in reachable("cocosnet_jax.train")}
    assert "ml_collections" in reads("cocosnet_jax.command")
