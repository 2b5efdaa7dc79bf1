"""The corpus made of Python's own documentation: what is read, what is held out, what happens when it is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jaxpo.corpora.stdlib_docs import StdlibDocs
from jaxpo.corpora.stdlib_docs_examples import answer, is_prose
from jaxpo.corpora.stdlib_docs_read import read_entries, read_module, read_topics, source_files, stdlib_folder
from jaxpo.data.cleaning.heldout import Seen, is_held_out, long_lines, paragraphs, sequences
from jaxpo.errors import DataError

TOPICS = r"""
topics = {'assert': 'The "assert" statement\n'
           '**********************\n'
           '\n'
           'Assert statements insert debugging checks into a program.\n'
           '\n'
           'More words\n'
           '==========\n'
           '\n'
           'The second section says another thing entirely.\n',
 'bare': 'No heading stands above this line of text.\n'}
"""
MODULE = '''"""Tools for handling {name} values in programs.

The second paragraph of {name} tells the history of the module.
"""
raise RuntimeError("a module that must not be imported")

class Box(object):
    """Holds one {name} for later use.

    Parameters of {name} are given when the box is opened.
    """
    def open(self, key=None, *, wide: bool = False):
        """Open the box that belongs to {name}.

        >>> Box().open()
        """
        def inner():
            """Never read."""

try:
    from c import fast
except ImportError:
    def slow(x):
        """Compute {name} slowly when the fast version is missing.

        This is a shared sentence of more than eight words in every module.
        """

def _private():
    """Nobody asks about the private part of {name}."""
'''
HELD_OUT = [name for name in (f"mod{i}" for i in range(200)) if is_held_out(name, 10)][:3]
KEPT = [name for name in (f"mod{i}" for i in range(200)) if not is_held_out(name, 10)][:12]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("lib")
    (root / "pydoc_data").mkdir()
    (root / "pydoc_data" / "topics.py").write_text(TOPICS)
    for name in HELD_OUT + KEPT:
        (root / f"{name}.py").write_text(MODULE.format(name=name))
    for folder in ("test", "idlelib", "site-packages/other", "json/tests"):
        (root / folder).mkdir(parents=True)
        (root / folder / "unwanted.py").write_text('"""This text must not be read by anybody."""')
    (root / "json" / "__init__.py").write_text('"""The json package, encoder and decoder."""\n')
    return root


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    try:
        return folder, StdlibDocs().build(folder)
    except DataError as error:
        pytest.skip(f"this Python ships no documentation: {error}")


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_reads_modules_classes_functions_and_methods_without_importing(library):
    entries = {e.name: e for e in read_module(library / f"{KEPT[0]}.py", library)}
    name = KEPT[0]
    assert set(entries) == {name, f"{name}.Box", f"{name}.Box.open", f"{name}.slow", f"{name}._private"}
    assert [e.kind for e in entries.values()] == ["module", "class", "method", "function", "function"]
    assert entries[f"{name}.Box"].page == entries[f"{name}.Box"].group == name
    assert entries[f"{name}.slow"].doc.startswith(f"Compute {name} slowly")


def test_topics_are_cut_into_sections(library):
    entries = list(read_topics(library / "pydoc_data" / "topics.py"))
    assert [(e.group, e.name) for e in entries] == [
        ("topic assert", 'The "assert" statement'),
        ("topic assert", "More words"),
        ("topic bare", "bare"),
    ]
    assert entries[0].headings == ('The "assert" statement\n**********************',)
    assert entries[0].doc == "Assert statements insert debugging checks into a program."


def test_tests_and_installed_packages_are_left_out(library):
    names = {p.relative_to(library).as_posix() for p in source_files(library)}
    assert names == {f"{n}.py" for n in HELD_OUT + KEPT} | {"json/__init__.py"}
    assert next(iter(read_module(library / "json" / "__init__.py", library))).name == "json"


def test_built_files_and_counts(library, tmp_path):
    report = StdlibDocs(root=str(library)).build(tmp_path)
    text = "".join(row["text"] for row in rows(tmp_path, "pretrain_train.jsonl"))
    held = "".join(row["text"] for row in rows(tmp_path, "pretrain_heldout.jsonl"))
    for name in KEPT:
        assert f"Tools for handling {name} values" in text
        assert f"Tools for handling {name} values" not in held
    assert all(f"Tools for handling {name} values" in held for name in HELD_OUT)
    assert text.count("shared sentence") == 1, "a repeated paragraph is kept once"
    assert "shared sentence" not in held
    assert report["counts"]["repeated_paragraphs"] == len(KEPT) + len(HELD_OUT) - 1
    assert report["counts"]["train_bytes"] == len(text.encode())
    assert "must not be read" not in text + held
    asked = {row["prompt"][0]["content"] for row in rows(tmp_path, "sft_train.jsonl")}
    assert not any("_private" in q for q in asked)
    assert any(f"{KEPT[0]}.Box.open" in q for q in asked)
    pair = next(
        r for r in rows(tmp_path, "pref_train.jsonl") if r["prompt"][0]["content"] == f"What does {KEPT[0]} do?"
    )
    assert pair["chosen"] == [{"role": "assistant", "content": f"Tools for handling {KEPT[0]} values in programs."}]
    assert "second paragraph" in pair["rejected"][0]["content"]
    for row in rows(tmp_path, "pref_heldout_sibling.jsonl"):
        assert row["chosen"] != row["rejected"]


def test_a_held_out_paragraph_that_shares_words_or_a_line_is_dropped(library, tmp_path):
    root = tmp_path / "lib"
    shutil.copytree(library, root)
    train = (
        'It says: "alpha beta gamma delta epsilon zeta eta theta" and goes on.\n\n    x = a_rather_long_line(of, code)'
    )
    words = "Alpha, beta; gamma delta epsilon\nzeta eta THETA is what was said elsewhere too."
    line = "Another text around it:\nx  =  a_rather_long_line(of, code)"
    (root / f"{KEPT[0]}.py").write_text(f'"""{train}"""\n')
    (root / f"{HELD_OUT[0]}.py").write_text(
        f'"""A summary of its own.\n\n{words}\n\n{line}\n\nThis one stays here."""\n'
    )
    report = StdlibDocs(root=str(root)).build(tmp_path / "out")
    held = "".join(row["text"] for row in rows(tmp_path / "out", "pretrain_heldout.jsonl"))
    assert report["counts"]["heldout_paragraphs_shared_with_training"] == 2
    assert "A summary of its own." in held
    assert "This one stays here." in held
    assert "THETA" not in held
    assert "Another text around it" not in held


def test_deterministic_and_reused_until_the_sources_change(library, tmp_path):
    root, out = tmp_path / "lib", tmp_path / "out"
    shutil.copytree(library, root)
    first = StdlibDocs(root=str(root)).build(out)
    again = StdlibDocs(root=str(root)).build(out)
    assert (first["reused"], again["reused"]) == (False, True)
    assert again["hash"] == first["hash"]
    assert StdlibDocs(root=str(library)).build(tmp_path / "other")["hash"] == first["hash"], "paths do not matter"
    (out / "sft_train.jsonl").write_text("tampered\n")
    assert StdlibDocs(root=str(root)).build(out)["reused"] is False
    (root / f"{KEPT[0]}.py").write_text(MODULE.format(name="changed"))
    changed = StdlibDocs(root=str(root)).build(out)
    assert changed["reused"] is False
    assert changed["hash"] != first["hash"]


def test_an_interrupted_build_is_not_taken_for_a_finished_one(library, tmp_path, monkeypatch):
    import jaxpo.corpora.files as corpus_files

    StdlibDocs(root=str(library)).build(tmp_path)
    (tmp_path / "sft_train.jsonl").unlink()
    real_replace = corpus_files._replace

    def fails_at_sft(path, text):
        if path.name == "sft_train.jsonl":
            raise OSError(28, "No space left on device")
        real_replace(path, text)

    monkeypatch.setattr(corpus_files, "_replace", fails_at_sft)
    with pytest.raises(OSError, match="No space"):
        StdlibDocs(root=str(library)).build(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / corpus_files.MANIFEST).exists()
    assert StdlibDocs(root=str(library)).build(tmp_path)["reused"] is False


def test_missing_documentation_is_named(library, tmp_path):
    with pytest.raises(DataError, match=r"no standard-library source files.*--text PATH"):
        source_files(tmp_path)
    root = tmp_path / "lib"
    shutil.copytree(library, root)
    (root / "pydoc_data" / "topics.py").write_text("nothing = 1\n")
    with pytest.raises(DataError, match=r"topics\.py: holds no dictionary named 'topics'"):
        read_entries(root)
    shutil.rmtree(root / "pydoc_data")
    with pytest.raises(DataError, match=r"topics\.py: this Python has no pydoc_data.*libpython3-stdlib"):
        StdlibDocs(root=str(root)).build(tmp_path / "out")
    bare = tmp_path / "bare"
    (bare / "pydoc_data").mkdir(parents=True)
    (bare / "pydoc_data" / "topics.py").write_text(TOPICS)
    (bare / "a.py").write_text("def f():\n    pass\n")
    with pytest.raises(DataError, match="they were stripped"):
        read_entries(bare)


def test_answers_are_prose_of_sensible_length():
    assert answer(["Short text about it.", "And a second paragraph here."]) == (
        "Short text about it.\n\nAnd a second paragraph here."
    )
    assert answer(["Short text about it.", ">>> code()"]) == "Short text about it."
    long = "One sentence of this text. " * 30
    assert len(answer([long])) <= 320
    assert answer([long]).endswith(".")
    assert not is_prose("    x = indented(code)")
    assert not is_prose("word")


@pytest.mark.slow  # reads all of Python's documentation
def test_real_documentation_is_split_cleanly(real):
    folder, report = real
    counts = report["counts"]
    assert counts["train_bytes"] > 1_000_000
    assert counts["heldout_bytes"] > 100_000
    assert counts["sft_train"] > 2000
    assert counts["pref_heldout"] > 100
    assert counts["pref_heldout_sibling"] > 100

    def contents(row):
        return [m["content"] for key in ("completion", "chosen", "rejected") for m in row.get(key, [])]

    seen = Seen()
    for name in ("pretrain_train.jsonl", "sft_train.jsonl", "pref_train.jsonl"):
        for row in rows(folder, name):
            seen.add([row["text"]] if "text" in row else contents(row))
    train_sequences, train_lines = seen._sequences, seen._lines
    for row in rows(folder, "pretrain_heldout.jsonl"):
        for paragraph in paragraphs(row["text"]):
            assert train_sequences.isdisjoint(sequences(paragraph)), paragraph
            assert train_lines.isdisjoint(long_lines(paragraph)), paragraph
    for name in ("sft_heldout.jsonl", "pref_heldout.jsonl", "pref_heldout_sibling.jsonl"):
        for row in rows(folder, name):
            for text in contents(row):
                assert all(train_sequences.isdisjoint(sequences(p)) for p in paragraphs(text)), text


def test_real_library_has_the_expected_neighbours():
    root = stdlib_folder()
    if not (root / "json" / "decoder.py").is_file():
        pytest.skip("this Python ships no source files")
    names = {e.name for e in read_module(root / "json" / "decoder.py", root)}
    assert {"json.decoder.JSONDecoder", "json.decoder.JSONDecoder.decode"} <= names
