"""Python files as configurations: executed as modules of their own, their errors explained with the file's own line."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxpo.config.moved import moved_hint
from jaxpo.errors import ConfigError, did_you_mean

FILE_MODULE = "jaxpo_config_"
"""Modules made of configuration files have names that start so."""


def load_module(path: Path) -> ModuleType:
    """Execute a Python configuration file as a module of its own."""
    name = FILE_MODULE + re.sub(r"\W", "_", str(path))
    module_spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or module_spec is None or module_spec.loader is None:
        raise ConfigError(f"{path}: is not a Python configuration file.")
    module = importlib.util.module_from_spec(module_spec)
    # A saved configuration names its types by this: it must lead there from any directory.
    module.__file__ = str(path.absolute())
    sys.modules[name] = module
    with explained(path):
        module_spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def explained(path: Path) -> Any:
    """Turn an exception inside a configuration file into one line with the file's own line number."""
    try:
        yield
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"{error.filename or path}, line {error.lineno}: {error.msg}.") from error
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = f", line {frames[-1].lineno}" if frames else ""
        hint = keyword_hint(error) + moved_hint(error)
        raise ConfigError(f"{path}{line}: {type(error).__name__}: {error}{hint}") from error


def keyword_hint(error: Exception) -> str:
    """A suggestion for a misspelt keyword of one of the configuration's dataclasses."""
    match = re.match(r"(?:\w+\.)*(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if not match:
        return ""
    from jaxpo import config

    cls = getattr(config, match[1], None)
    return "." + did_you_mean(match[2], [f.name for f in dataclasses.fields(cls)]) if cls else ""
