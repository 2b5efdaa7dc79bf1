"""Reading the documentation that ships inside every Python: topics and docstrings, with `ast`, importing nothing."""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxpo.errors import DataError

LEFT_OUT = frozenset(
    {"test", "tests", "idlelib", "site-packages", "dist-packages", "__pycache__"}
    | {"turtledemo", "lib-dynload", "pydoc_data", "_bundled"}
)
TOPICS = Path("pydoc_data") / "topics.py"
REMEDY = (
    "Use a complete Python (python.org, uv, pyenv; on Debian and Ubuntu the package libpython3-stdlib), or train on "
    "your own files with --text PATH."
)
Kind = Literal["topic", "module", "class", "function", "method"]
_HEADING = re.compile(r"^(?P<title>\S[^\n]*)\n(?P<rule>([*=\-^~\"#])\3{2,})[ \t]*$", re.MULTILINE)
_Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Entry:
    """One documented thing.

    Attributes:
      group: what is held out as a whole: top-level module ("json") or help topic ("topic assert").
      page: the source file's module ("json.decoder") or the topic; its entries make one document.
      name: dotted name ("json.decoder.JSONDecoder.decode") or the section's title.
      headings: the section's title with the rule below it; none for docstrings, whose names and signatures are code.
      doc: its text without the heading.
    """

    kind: Kind
    group: str
    page: str
    name: str
    headings: tuple[str, ...]
    doc: str


def stdlib_folder() -> Path:
    """Where this Python keeps its standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def source_files(root: Path) -> list[Path]:
    """The library's source files in a fixed order, without tests, idlelib, site-packages and bundled wheels."""

    def wanted(path: Path) -> bool:
        parts = path.relative_to(root).parts
        return not any(part in LEFT_OUT or part.startswith("config-") for part in parts)

    files = sorted((p for p in root.rglob("*.py") if wanted(p)), key=lambda p: p.relative_to(root).as_posix())
    if not files:
        raise DataError("no standard-library source files (*.py) here.", file=root, remedy=REMEDY)
    return files


def read_entries(root: Path) -> list[Entry]:
    """All topics and docstrings under a standard-library folder; DataError when either kind is missing."""
    topics = list(read_topics(root / TOPICS))
    docstrings = [entry for path in source_files(root) for entry in read_module(path, root)]
    if not docstrings:
        raise DataError("its source files hold no docstrings: they were stripped.", file=root, remedy=REMEDY)
    return topics + docstrings


def read_topics(path: Path) -> Iterator[Entry]:
    """The help topics of `pydoc_data.topics`, one entry per section."""
    if not path.is_file():
        raise DataError("this Python has no pydoc_data (the help topics).", file=path, remedy=REMEDY)
    for topic, text in sorted(_topics_literal(path).items()):
        text = clean(text)
        marks = list(_HEADING.finditer(text))
        starts = [*(m.start() for m in marks), len(text)]
        if text[: starts[0]].strip():
            yield Entry("topic", f"topic {topic}", topic, topic, (), text[: starts[0]].strip("\n"))
        for mark, end in zip(marks, starts[1:], strict=True):
            title, body = mark["title"].strip(), text[mark.end() : end].strip("\n")
            if body.strip():
                yield Entry("topic", f"topic {topic}", topic, title, (f"{title}\n{mark['rule']}",), body)


def _topics_literal(path: Path) -> dict[str, str]:
    """The dict literal assigned to `topics`."""
    for node in ast.parse(path.read_bytes(), filename=str(path)).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "topics" for t in node.targets):
            value = ast.literal_eval(node.value)
            if isinstance(value, dict) and value:
                return value
    raise DataError("holds no dictionary named 'topics'.", file=path, remedy=REMEDY)


def read_module(path: Path, root: Path) -> Iterator[Entry]:
    """The docstrings of one source file: module, classes, functions and methods, in source order."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    page, group = ".".join(parts), parts[0]
    try:
        with warnings.catch_warnings():
            # Invalid escapes in old library files are the library's concern.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise DataError(f"cannot be parsed: {error.msg}.", file=path, row=error.lineno, remedy=REMEDY) from error
    doc = ast.get_docstring(tree)
    if doc:
        yield Entry("module", group, page, page, (), clean(doc))
    for node, qualified, inside_class in _documented(tree.body, "", False):
        doc = ast.get_docstring(node)
        if doc and clean(doc).strip():
            kind: Kind = "class" if isinstance(node, ast.ClassDef) else "method" if inside_class else "function"
            yield Entry(kind, group, page, f"{page}.{qualified}", (), clean(doc))


def _documented(body: list[ast.stmt], prefix: str, inside: bool) -> Iterator[tuple[_Documented, str, bool]]:
    """Classes and functions with their qualified names, through classes and `if`/`try` but not function bodies."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, prefix + node.name, inside
            if isinstance(node, ast.ClassDef):
                yield from _documented(node.body, f"{prefix}{node.name}.", True)
        elif isinstance(node, ast.If | ast.Try):
            yield from _documented([*node.body, *node.orelse], prefix, inside)
            for handler in getattr(node, "handlers", []):
                yield from _documented(handler.body, prefix, inside)


def clean(text: str) -> str:
    """Tabs expanded, no trailing spaces, Unix line ends, encodable in UTF-8."""
    text = text.encode("utf-8", "replace").decode("utf-8").expandtabs()
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
