"""The structure of the package: imports point one way, and files stay short.

A room is a file or folder directly below the package. Rooms that do not import each other, and
import only from lower floors, make a floor.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cocosnet_jax"
# With configs/, which the package has as `cocosnet_jax.configs` through a link.
PATHS = [*PACKAGE.rglob("*.py"), *(PACKAGE / "configs").glob("*.py")]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PATHS
}

# From the bottom up. A room that is a folder also imports from itself. Nothing imports an entry
# point.
FLOORS = (
    ("errors", "types", "rng", "compile_cache", "operations", "watchdog"),
    ("settings", "files", "distributed"),
    ("nn", "mesh", "fit", "compiler", "pictures", "interrupt", "integrity"),
    ("alarms", "profiling", "watching"),
    ("encode",),
    ("correspondence", "generator", "discriminator", "vgg", "warp", "data"),
    ("matching",),
    ("model", "metrics"),
    ("losses", "state", "preparation"),
    ("colour_losses",),
    ("objective",),
    ("steps", "weights_file"),
    ("accumulation",),
    ("checkpoint", "partition"),
    ("workdir", "fine_tuning", "pretrained", "kept_step"),
    ("hooks", "inference", "features", "validation", "yardsticks", "subjects"),
    ("search", "best", "measure", "translations", "translated", "api", "portable", "checkup"),
    ("report",),
    ("evaluation", "train"),
    ("configs", "flags_help"),
    ("command",),
    (
        *("main", "evaluate", "prepare", "retrieve", "convert", "export", "translate"),
        *("compile_check", "doctor", "apps"),
    ),
    ("page",),
    ("demo",),
    # The package itself: a Python program starts with its `load`.
    ("",),
)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}

# Only these see a ConfigDict.
SEE_CONFIG_DICTS = {"configs", "command"}
BENEATH_TENSORFLOW = [
    *("encode", "model", "losses", "colour_losses", "objective", "state", "steps"),
    *("partition", "vgg", "checkpoint", "mesh", "distributed", "interrupt", "rng", "api"),
]

LINES = 320


def statements(node):
    """All statements of a file, those in functions as well, but none for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from statements(child)


def imports_of(source, *, top=False):
    """Modules that a source text imports, at its top or anywhere in it."""
    found = set()
    for node in ast.parse(source).body if top else statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in FILES else str(node.module))
    return found


IMPORTS = {name: imports_of(path.read_text()) for name, path in FILES.items()}
TOP = {name: imports_of(path.read_text(), top=True) for name, path in FILES.items()}
GRAPH = {name: found & FILES.keys() for name, found in IMPORTS.items()}


def room(name):
    """The file or folder directly below the package that a module is, or lies in."""
    return "".join(name.split(".")[1:2])


def reachable(name):
    """All modules that using a module brings in, of this package and others."""
    seen, todo = set(), [name]
    while todo:
        here = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        if here in FILES:
            todo += IMPORTS[here]
            # The packages that it lies in are imported, and not used.
            parts = here.split(".")
            todo += [x for end in range(1, len(parts)) for x in TOP[".".join(parts[:end])]]
    return seen


def cycle(graph):
    """Nodes of cycles, and those between two cycles; empty where there is none."""
    rest = set(graph)
    while True:
        imported = set().union(*(graph[name] for name in rest))
        kept = {name for name in rest if name in imported and graph[name] & rest}
        if kept == rest:
            return rest
        rest = kept


def test_the_import_graph_has_no_cycle():
    assert not cycle(GRAPH)


def test_every_room_has_a_floor():
    assert {room(name) for name in FILES} == FLOOR.keys()
    assert len(FLOOR) == sum(map(len, FLOORS))


def test_imports_point_to_lower_floors():
    between = {(room(name), room(other)) for name in GRAPH for other in GRAPH[name]}
    upward = {
        (importer, imported)
        for importer, imported in between
        if importer != imported and imported and FLOOR[importer] <= FLOOR[imported]
    }
    assert not upward


def test_a_module_is_imported_by_its_name():
    # The checks here see no other imports. A config's name is what the user gives.
    by_text = [name for name, path in FILES.items() if "import_module(" in path.read_text()]
    assert by_text == ["cocosnet_jax.command"]


@pytest.mark.parametrize("name", BENEATH_TENSORFLOW)
def test_the_model_side_runs_without_tensorflow(name):
    others = {module.split(".")[0] for module in reachable(f"cocosnet_jax.{name}")}
    assert "jax" in others
    assert not others & {"tensorflow", "tensorflow_datasets", "clu", "ml_collections", "absl"}


def test_only_configs_and_commands_see_a_config_dict():
    def brings_one(module):
        return module.split(".")[0] == "ml_collections" or room(module) == "configs"

    seen = {room(name) for name in FILES if any(map(brings_one, IMPORTS[name]))}
    assert seen == SEE_CONFIG_DICTS


def test_a_long_file_says_why():
    long = {
        name.removeprefix("cocosnet_jax.")
        for name, path in FILES.items()
        if len(path.read_text().splitlines()) > LINES
        and "Longer than" not in (ast.get_docstring(ast.parse(path.read_text())) or "")
    }
    assert not long


def test_the_checks_see_what_they_look_for():
    source = """
from typing import TYPE_CHECKING
import jax
if TYPE_CHECKING:
    import clu
def load():
    if jax:
        from cocosnet_jax import train
        from cocosnet_jax.data import pipeline, nothing
"""
    assert imports_of(source) == {
        "typing",
        "jax",
        "cocosnet_jax.train",
        "cocosnet_jax.data.pipeline",
        "cocosnet_jax.data",
    }
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {"b", "c"}
    assert not cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert "tensorflow" in {name.split(".")[0] for name in reachable("cocosnet_jax.train")}
    assert "ml_collections" in IMPORTS["cocosnet_jax.command"]
    assert "cocosnet_jax.configs.toy" in FILES
