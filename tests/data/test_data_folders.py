"""Folders: what is read of them, what is skipped and said, and what leaves open what is meant."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from jaxpo.data.rows.files.splits import choose, split_of
from jaxpo.data.rows.formats import list_files, read_rows
from jaxpo.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """`folder("a.jsonl", "test/b.txt")` -> a folder with these files, each of one row."""

    def make(*names):
        root = tmp_path / "ds"
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"text": name}) + "\n")
        return root

    return make


def names(root, part="train"):
    said = []
    found = list_files([root], part=part, say=said.append)
    return [str(path.relative_to(root)) for path in found], " ".join(said)


def test_every_format_is_read_and_the_rest_is_said(folder):
    kept = ["a.jsonl", "b.json.gz", "c.csv", "d.jsonl.zst", "e.ndjson", "sub/f.parquet", "sub/g.txt"]
    root = folder(*kept, "README.md", "notes.pdf", "weights.bin", ".gitattributes", ".cache/part.jsonl")
    found, said = names(root)
    assert found == kept
    assert "4 file(s) are skipped: .cache/part.jsonl, README.md, notes.pdf, weights.bin" in said


def test_many_skipped_files_are_counted(folder):
    _, said = names(folder("a.jsonl", *(f"note{i}.md" for i in range(9))))
    assert "9 file(s)" in said
    assert "note4.md and 4 more" in said


def test_a_folder_that_is_read_whole_says_nothing(folder):
    assert names(folder("a.jsonl", "b/c.jsonl")) == (["a.jsonl", "b/c.jsonl"], "")


def test_read_rows_says_it_on_stderr(folder, capsys):
    root = folder("train.jsonl", "test.jsonl", "README.md")
    assert [row.data["text"] for row in read_rows([root])] == ["train.jsonl"]
    captured = capsys.readouterr()
    assert "README.md" in captured.err
    assert "left out: test.jsonl" in captured.err
    assert captured.out == ""


TOGETHER = ("testset", "tests", "valset", "devdata", "evals", "held_out", "held-out", "hold_out", "TestSplit")


@pytest.mark.parametrize("other", TOGETHER)
def test_nor_where_nothing_is_called_training(folder, other):
    found, said = names(folder("rows.jsonl", f"{other}.jsonl"))
    assert found == ["rows.jsonl"]
    assert f"left out: {other}.jsonl" in said


@pytest.mark.parametrize("form", [
    *("{}.jsonl", "{}-00000-of-00001.jsonl", "{}/part-0.jsonl", "my_{}.jsonl", "{}_0.json", "{}.jsonl.gz", "{}.txt"),
    *("data/{}_sft-00000-of-00003.csv", "V2-{}.tsv", "{}.JSONL"),
])  # fmt: skip
def test_training_never_reads_a_held_out_split(form):
    for other in ("test", "validation", "valid", "val", "dev", "eval", "evaluation", "testing", *TOGETHER):
        train, held = (Path("ds") / form.format(word) for word in ("train", other))
        found, said = choose(Path("ds"), [train, held], "train")
        assert found == [train]
        assert f"the train split is read ({form.format('train')}); left out: {form.format(other)}" in said
        found, said = choose(Path("ds"), [train, held], "eval")
        assert found == [held]
        assert f"left out: {form.format('train')}" in said


def test_files_that_are_named_are_read_whatever_they_are_called(folder):
    root = folder("train.jsonl", "test.jsonl")
    said = []
    files = [root / "test.jsonl", root / "train.jsonl"]
    assert list_files(files, say=said.append) == files
    assert not said


def test_files_of_no_split_are_for_training(folder):
    root = folder("rows.jsonl", "more.jsonl", "test.jsonl")
    found, said = names(root)
    assert found == ["more.jsonl", "rows.jsonl"]
    assert "the files of no split are read (more.jsonl, rows.jsonl); left out: test.jsonl" in said
    assert names(root, "eval")[0] == ["test.jsonl"]


def test_measurement_prefers_validation_to_test(folder):
    root = folder("train.jsonl", "validation.jsonl", "test.jsonl")
    assert names(root, "eval")[0] == ["validation.jsonl"]
    assert names(folder("plain.jsonl"), "all")[0] == ["plain.jsonl", "test.jsonl", "train.jsonl", "validation.jsonl"]


def test_measurement_of_a_folder_without_splits_reads_all(folder):
    assert names(folder("a.jsonl", "b.jsonl"), "eval") == (["a.jsonl", "b.jsonl"], "")


AMBIGUOUS = {
    "train beside no split": (["train.jsonl", "extra.jsonl"], "train", r"beside the training split .*extra.jsonl"),
    "no training split": (["test.jsonl", "val.jsonl"], "train", r"a test split and a validation split and no training"),
    "two held-out splits": (["dev.jsonl", "val.jsonl"], "eval", r"several held-out splits \(dev, val\)"),
    "no held-out split": (["train.jsonl", "train2.jsonl"], "eval", r"a training split and no held-out one"),
    "two names in a path": (["train/test.jsonl"], "train", r"names both the test and the train split"),
    "two names in a name": (["train_test.jsonl"], "train", r"names both the test and the train split"),
    "a word in a name": (["my_test_set.jsonl", "rows.jsonl"], "train", r"my_test_set.jsonl: has 'test' in its name"),
    "a word in a folder": (["the-dev-part/rows.csv"], "eval", r"has 'dev' in its name: whether it is held out"),
    "two forms": (["a.jsonl", "a.parquet"], "train", r"a.jsonl and a.parquet seem to be the same rows in two forms"),
    "compressed beside it": (["x/a.jsonl", "x/a.jsonl.gz"], "train", r"the same rows in two forms"),
    "two forms of a split": (["train.csv", "train.jsonl", "test.csv"], "train", r"train.csv and train.jsonl seem"),
    "nothing readable": (["README.md"], "train", r"the folder holds no data file: README.md cannot be read. Accepted"),
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_leaves_open_what_is_meant_is_refused(folder, name):
    files, part, match = AMBIGUOUS[name]
    root = folder(*files)
    with pytest.raises(DataError, match=match) as error:
        list_files([root], part=part)
    assert error.value.file is not None
    assert error.value.remedy


def test_equal_names_in_two_folders_are_two_files(folder):
    found, said = names(folder("a/rows.jsonl", "b/rows.csv", "c/rows.csv"))
    assert found == ["a/rows.jsonl", "b/rows.csv", "c/rows.csv"]
    assert "a/rows.jsonl and b/rows.csv are both read; if they are the same rows in two forms" in said


def test_links(folder, tmp_path):
    root = folder("a.jsonl")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.jsonl").write_text('{"text": "b"}')
    (root / "b.jsonl").symlink_to(tmp_path / "elsewhere" / "b.jsonl")
    (root / "more").symlink_to(tmp_path / "elsewhere")
    assert names(root) == (["a.jsonl", "b.jsonl"], f"{root}: 1 file(s) are skipped: more")
    (root / "c.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"c.jsonl: a link to a file that is not there"):
        list_files([root])


def test_titles_of_documents_may_have_any_words(folder):
    assert names(folder("how to train a dog.txt", "what a test shows.txt"))[1] == ""
    root = folder("the final test results.jsonl")
    assert len(names(root, "all")[0]) == 3


@pytest.mark.parametrize("name", ["pretest.jsonl", "trained.jsonl", "latest.jsonl", "contest-3.csv", "evaluated.txt"])
def test_words_that_contain_a_split_are_none(tmp_path, name):
    assert split_of((tmp_path / name).relative_to(tmp_path), tmp_path) is None


def saved(folder, *texts, files=None, **state):
    """A folder as `Dataset.save_to_disk` writes it: one Arrow stream per text."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": ["x"]})
    for i, text in enumerate(texts):
        with pa.ipc.new_stream(folder / f"data-{i}.arrow", table.schema) as stream:
            stream.write_table(pa.table({"text": [text]}))
    named = [f"data-{i}.arrow" for i in range(len(texts))] if files is None else files
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in named], **state}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_saved_data_set_is_read_as_it_says(tmp_path):
    root = saved(tmp_path / "ds", "one", "two", "three", files=["data-2.arrow", "data-0.arrow"])
    said = []
    assert [row.data["text"] for row in read_rows([root], say=said.append)] == ["three", "one"]
    assert said == [f"{root}: 1 file(s) are skipped: data-1.arrow"]


def test_splits_of_a_saved_dictionary(tmp_path):
    root = tmp_path / "dict"
    saved(root / "train", "t")
    saved(root / "test", "held out")
    (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert [row.data["text"] for row in read_rows([root])] == ["t"]
    assert [row.data["text"] for row in read_rows([root], part="eval")] == ["held out"]
    assert [row.data["text"] for row in read_rows([root / "test"])] == ["held out"]


def test_a_saved_data_set_that_is_not_whole(tmp_path):
    with pytest.raises(DataError, match=r"data-7.arrow, which state.json names, is not there"):
        list_files([saved(tmp_path / "a", "x", files=["data-7.arrow"])])
    with pytest.raises(DataError, match=r"is not there"):
        list_files([saved(tmp_path / "b", "x", files=["../a/data-0.arrow"])])
    with pytest.raises(DataError, match=r"picked by indices.*flatten_indices"):
        list_files([saved(tmp_path / "c", "x", _indices_data_files=[{"filename": "i.arrow"}])])
    saved(tmp_path / "d" / "train", "x")
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match=r"the split 'test', which dataset_dict.json names, is not there"):
        list_files([tmp_path / "d"])
    (saved(tmp_path / "e", "x") / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state.json: not valid JSON"):
        list_files([tmp_path / "e"])


def test_the_library_itself_and_the_reader_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"text": f"row {i}"} for i in range(5)])
    data.select([3, 1]).save_to_disk(str(tmp_path / "one"))
    assert [row.data["text"] for row in read_rows([tmp_path / "one"])] == ["row 3", "row 1"]
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(tmp_path / "two"))
    assert len(list(read_rows([tmp_path / "two"]))) == 5
    assert len(list(read_rows([tmp_path / "two"], part="eval"))) == 1
