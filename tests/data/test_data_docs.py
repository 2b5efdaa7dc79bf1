"""docs/data.md shows the first row of every example file, and every column that the library knows."""

from __future__ import annotations

import json
import re
from pathlib import Path

from jaxpo.construct.base import constructions
from jaxpo.data.rows.columns import REMEDIES
from jaxpo.data.rows.marks import SOURCES
from jaxpo.data.rows.requirements import REFERENCE_COLUMNS
from jaxpo.data.rows.rows import TYPES
from jaxpo.data.rows.segments import FURTHER

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def test_every_example_file_is_shown_as_it_is(files):
    shown = re.findall(r"\(`(\w+)\.jsonl`\)\n\n```json\n(.*?)\n```", DOCS.read_text(), re.DOTALL)
    assert {name for name, _ in shown} == {path.stem for path in files.glob("*.jsonl")}
    for name, row in shown:
        first = (files / f"{name}.jsonl").open().readline()
        assert json.loads(row) == json.loads(first), name


def test_every_column_is_named():
    text = DOCS.read_text()
    columns = {name for names in (*TYPES.values(), *FURTHER.values(), *SOURCES.values()) for name in names}
    for name in columns | set(REMEDIES) | set(REFERENCE_COLUMNS):
        assert re.search(rf"\b{name}\b", text), name
    for role in FURTHER:
        assert f'["{role}"]' in text, role


def test_every_construction_is_listed_as_it_describes_itself():
    text = DOCS.read_text()
    listed = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| .+ \|$", text, re.MULTILINE)
    assert listed == [(name, kind.READS, kind.WRITES) for name, kind in constructions().items()]
