"""What the tests of the start-up scripts share: the scripts as modules, and interpreters that only answer the probe."""

import json
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def script(name):
    """Import a script that has no .py suffix."""
    module = module_from_spec(spec_from_loader(name, SourceFileLoader(name, str(ROOT / "scripts" / name))))
    module.__loader__.exec_module(module)
    return module


def report(version, missing=(), path="/somewhere/python"):
    return {"path": path, "base": "/somewhere", "version": list(version), "missing": list(missing)}


def fake_python(folder, name, version="3.12.1", missing=(), status=0):
    """An executable that answers the probe as a Python of the given version would."""
    path = folder / name
    answer = json.dumps(report([int(v) for v in version.split(".")], missing, str(path)))
    path.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
    path.chmod(0o755)
    return str(path)
