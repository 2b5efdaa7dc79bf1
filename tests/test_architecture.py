"""Imports run downwards only and in no circle, and the light entrances stay light."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jaxpo"

# The house, from the ground up. A room imports rooms that stand above it in this table, and itself; nothing else.
ROOMS = {
    "errors": "what a user can act on",
    "sandbox": "foreign code behind a fence",
    "config": "frozen dataclasses: what a run is, to and from JSON",
    "losses": "pure maths; imports no other room",
    "merge": "pure functions over parameter trees; imports no other room",
    "sharding": "meshes, rules, placement",
    "ops": "attention, convolution, head: one public function each",
    "diffusion": "schedules, samplers, inversion and guidance; names no model",
    "models": "parameter tables and forward functions",
    "data": "rows -> tokens -> packing -> batches",
    "corpora": "data that jaxpo makes itself",
    "objectives": "what a stage minimises",
    "checkpoint": "Orbax",
    "sampling": "generation",
    "train": "state, step, loop",
    "convert": "finished models on disk, in and out",
    "evaluate": "probes, measurements, reports",
    "judges": "what gives an answer its score",
    "tools": "what a model may call",
    "construct": "data made between stages",
    "curriculum": "difficulty",
    "online": "data made between steps",
    "recipe": "a file and flags -> a checked run",
    "recipes": "the ones that come with jaxpo",
    "stages": "running it",
    "serve": "answers over HTTP",
    "selftest": "what an installed jaxpo checks of itself",
    "cli": "the command line",
}
ORDER = tuple(ROOMS)
ALONE = ("losses", "merge")  # these may import errors and themselves


def room_of(module):
    room = module.split(".")[1] if "." in module else ""
    return room if room in ROOMS else None


@cache
def modules():
    """Module name -> its syntax tree."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("jaxpo", *path.relative_to(PACKAGE).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


def for_types_only(tree):
    """Nodes below `if TYPE_CHECKING:`, which never run."""
    tests = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {id(inner) for node in tests for inner in ast.walk(node)}


@cache
def imports():
    """`(importing module, imported module)` for every import of ours, inside functions too."""
    found = []
    for module, tree in modules().items():
        unused = for_types_only(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxpo"):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found.append((module, inner if inner in modules() else node.module, id(node) in unused))
            elif isinstance(node, ast.Import):
                found += [(module, a.name, id(node) in unused) for a in node.names if a.name.startswith("jaxpo")]
    return found


def circles(edges):
    """Sets of modules that import one another, by Tarjan's strongly connected components."""
    graph = {}
    for a, b in edges:
        if a != b:
            graph.setdefault(a, set()).add(b)
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            part = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            found.extend([part] if len(part) > 1 else [])

    for node in list(graph):
        if node not in index:
            visit(node)
    return found


def test_every_folder_is_a_room():
    rooms = {p.stem for p in PACKAGE.iterdir() if p.is_dir() and any(p.rglob("*.py"))} | {"errors", "sandbox"}
    assert rooms == set(ROOMS)


def test_imports_run_downwards():
    upward = []
    for importer, imported, _ in imports():
        here, there = room_of(importer), room_of(imported)
        if here and there and ORDER.index(there) > ORDER.index(here):
            upward.append(f"{importer} imports {imported}")
    assert not upward, "\n".join(sorted(set(upward)))


def test_no_modules_import_one_another():
    found = circles((a, b) for a, b, types_only in imports() if not types_only)
    assert not found, "\n".join(", ".join(sorted(part)) for part in found)


@pytest.mark.parametrize(("edges", "expected"), [
    ([("a", "b"), ("b", "c")], []),
    ([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")], [{"a", "b", "c"}]),
    ([("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")], [{"a", "b"}, {"c", "d"}]),
])  # fmt: skip
def test_circles_are_found(edges, expected):
    assert sorted(circles(edges), key=sorted) == expected


def test_losses_and_merge_import_no_other_room():
    for importer, imported, _ in imports():
        if room_of(importer) in ALONE:
            assert room_of(imported) in (room_of(importer), "errors"), f"{importer} imports {imported}"


def test_a_family_of_models_is_named_in_its_own_room_alone():
    """Whoever else wants something of a model asks `jaxpo.models.family`."""
    for importer, imported, _ in imports():
        if imported.startswith("jaxpo.models.") and imported.count(".") > 2:
            assert room_of(importer) == "models", f"{importer} imports {imported}"


def test_no_module_imports_nnx():
    for path in PACKAGE.rglob("*.py"):
        assert "flax.nnx" not in path.read_text(), path


def test_orbax_is_confined_to_the_checkpoint_room():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if "import orbax" in text or "from orbax" in text:
            assert path.parent.name == "checkpoint", path
