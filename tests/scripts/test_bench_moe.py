"""The benchmark of the mixture-of-experts layer: its contestants agree, and the tables find their place."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from moe_layer import main
from moe_layer.contestants import Shape


def test_contestants_agree_and_every_size_is_timed(monkeypatch):
    """`contestants` ends the command when one of them computes something else. Torch's part needs torch: not here."""
    monkeypatch.setattr(main, "has_transformers", lambda: False)
    tables = main.document(Shape(tokens=16, width=8, inner=8, experts=4, k=2), (4, 8), repeats=1, threads=1)
    assert "| jaxpo, grouped |" in tables
    assert "| every expert on every token |" in tables
    for tokens in (16, 128):
        grown = tables.split(f"top-k, {tokens} tokens:")[1].split("More experts")[0]
        assert re.findall(r"^\| (\d+) \|", grown, re.MULTILINE) == ["4", "8"]


def test_a_document_keeps_what_stands_around_the_tables():
    before = f"above\n{main.BEGIN}\nold\n{main.END}\nbelow\n"
    assert main.written(before, "new") == f"above\n{main.BEGIN}\n\nnew\n\n{main.END}\nbelow\n"
