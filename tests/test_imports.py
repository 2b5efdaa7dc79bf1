"""Every module can be imported: nothing waits in a corner until a user calls it."""

import importlib
from pathlib import Path

import jaxpo

PACKAGE = Path(jaxpo.__file__).parent


def test_every_module_is_importable():
    names = [
        ".".join(("jaxpo", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__main__.py"
    ]
    assert len(names) > 200
    for name in names:
        importlib.import_module(name)
