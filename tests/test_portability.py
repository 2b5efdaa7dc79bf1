"""The code and the tests do the same on every processor."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("jaxpo", "scripts", "tests")
SCRIPTS = [p for p in sorted((ROOT / "scripts").iterdir()) if p.is_file() and not p.suffix]


def sources():
    yield from SCRIPTS
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def breaks_ties_by_processor(call):
    """An `argsort` or `argpartition` that orders equal values as the vector unit of the day does.

    numpy's default algorithm depends on the processor, and its order of equal values with it; jax.numpy's sorts are
    stable by default. Sorted values (`np.sort`, `np.partition`) show no ties, `np.lexsort` and `sorted` are stable.
    """
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name != "argsort":
        return name == "argpartition"
    said = {ast.unparse(keyword) for keyword in call.keywords}
    by_default = ast.unparse(call.func) == "jnp.argsort" and "stable=False" not in said
    return not by_default and not said & {"kind='stable'", "stable=True"}


def unstable(text):
    """Line numbers of the sorts to mend."""
    if not re.search("argsort|argpartition", text):
        return []  # parsing every file takes seconds
    calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return sorted(call.lineno for call in calls if breaks_ties_by_processor(call))


def test_equal_values_are_ordered_the_same_on_every_processor():
    found = [f"{p.relative_to(ROOT)}:{n}" for p in sources() for n in unstable(p.read_text(encoding="utf-8"))]
    assert not found, f'say kind="stable": {", ".join(found)}'


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("np.argsort(x)\nx.argsort()\nnp.argpartition(x, 3, kind='introselect')\nargsort(x)", [1, 2, 3, 4]),
        ("np.argsort(np.argsort(x), kind='stable')", [1]),
        ("np.argsort(x, kind='quicksort')\njnp.argsort(x, stable=False)", [1, 2]),
        ("np.argsort(x, kind='stable')\nx.argsort(stable=True)\njnp.argsort(x)\nnp.sort(x)\nsorted(x)", []),
    ],
)
def test_what_counts_as_unstable(text, lines):
    assert unstable(text) == lines
