"""Imports run downwards only, and the light entrances stay light."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "jaxpo"

# From the bottom up. A room may import the rooms before it in this list, and itself.
ORDER = (
    "errors",
    "config",
    "losses",
    "merge",
    "models.spec",
    "sharding",
    "ops",
    "models",
    "data",
    "objectives",
    "checkpoint",
    "sampling",
    "convert",
    "train",
    "evaluate",
    "construct",
    "curriculum",
    "stages",
    "cli",
)


def room_of(module):
    parts = module.split(".")[1:]
    named = [room for room in ORDER if ".".join(parts[: room.count(".") + 1]) == room]
    return max(named, key=len) if named else None


def imports():
    """`(importing module, imported module)` for every import of ours, inside functions too."""
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(("jaxpo", *path.relative_to(PACKAGE).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxpo"):
                for alias in node.names:
                    yield module, f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                yield from ((module, a.name) for a in node.names if a.name.startswith("jaxpo"))


def test_imports_run_downwards():
    upward = []
    for importer, imported in imports():
        here, there = room_of(importer), room_of(imported)
        if here and there and ORDER.index(there) > ORDER.index(here):
            upward.append(f"{importer} imports {imported}")
    assert not upward, "\n".join(sorted(set(upward)))


def test_losses_and_merge_import_no_other_room():
    for importer, imported in imports():
        if room_of(importer) in ("losses", "merge"):
            assert room_of(imported) in (room_of(importer), "errors"), f"{importer} imports {imported}"


def test_no_module_imports_nnx():
    for path in PACKAGE.rglob("*.py"):
        assert "flax.nnx" not in path.read_text(), path


def test_orbax_is_confined_to_the_checkpoint_room():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if "import orbax" in text or "from orbax" in text:
            assert path.parent.name == "checkpoint", path
