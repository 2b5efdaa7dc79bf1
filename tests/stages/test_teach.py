"""Teacher records: what they hold, how large they are, that they resume after SIGKILL, and what they refuse."""

import dataclasses
import itertools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from array_record.python import array_record_module
from cli.conftest import WORDS, make_model

from jaxpo.cli.main import main
from jaxpo.config import Data, Distill
from jaxpo.convert.model_io import load_model
from jaxpo.data.packing.loader import Loader
from jaxpo.data.packing.teacher_reader import TeacherRecords
from jaxpo.data.packing.teacher_records import (
    IDS,
    LOG_ODDS,
    LOGPS,
    RecordsMeta,
    Taught,
    decode,
    encode,
    part_file,
    parts_of,
    read_meta,
)  # fmt: skip
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import ConfigError, DataError
from jaxpo.models.family import preset
from jaxpo.models.lfm2.forward import unembedding
from jaxpo.objectives.methods import METHODS
from jaxpo.sharding import make_mesh, use_mesh
from jaxpo.stages import teach as teach_module
from jaxpo.stages.beside import check_beside
from jaxpo.stages.frozen import check_vocabulary, load_frozen
from jaxpo.stages.teach import batch_rows, teach

SETTINGS = Data(max_length=24, row_length=48)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher, texts and conversations."""
    folder = tmp_path_factory.mktemp("teach")
    make_model(folder / "teacher", 0)
    rng = np.random.default_rng(0)
    words = lambda n: " ".join(rng.choice(WORDS, n))  # noqa: E731
    with (folder / "text.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": words(rng.integers(3, 40))}) + "\n" for _ in range(40))
    with (folder / "chat.jsonl").open("w") as file:
        rows = ({"prompt": words(4) + " ", "completion": words(rng.integers(1, 9))} for _ in range(30))
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def dataset_of(folder, name, tokenizer, **settings):
    data = dataclasses.replace(SETTINGS, **settings)
    needs = Needs(roles=("completion",))
    cache = folder / "data"
    return prepare(
        [folder / name], data=data, tokenizer=tokenizer, purpose="sft", needs=needs, cache_dir=cache, log=len
    )


@pytest.fixture(scope="module")
def mesh():
    mesh = make_mesh({}, jax.devices()[:1])
    with use_mesh(mesh, {}):
        yield mesh


@pytest.fixture(scope="module")
def teacher(folder, mesh):
    return load_frozen("teacher", folder / "teacher", load_model(folder / "teacher").tokenizer, mesh)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_model(folder / "teacher").tokenizer


def loader_of(dataset, records=None, seed=0, **settings):
    data = dataclasses.replace(SETTINGS, **settings)
    return Loader(dataset, data, seed=seed, rows_per_step=4, columns=[] if records is None else [records])


@pytest.mark.parametrize("name", ["text.jsonl", "chat.jsonl"])
def test_any_plan_reads_what_the_teacher_says_of_every_supervised_token(
    folder, teacher, tokenizer, mesh, tmp_path, name
):
    dataset = dataset_of(folder, name, tokenizer)
    report = teach(teacher, loader_of(dataset), tmp_path / "records", 5, mesh, len, part_tokens=200)
    assert report["parts"] == report["parts_done"] > 1
    records = TeacherRecords(tmp_path / "records", dataset, k=5, teacher=teacher.fingerprint)
    layout = {name: (dtype.name, shape) for name, (dtype, shape) in records.layout.items()}
    assert layout == {IDS: ("uint16", (5,)), LOGPS: ("bfloat16", (5,)), LOG_ODDS: ("float32", ())}
    logits_of = jax.jit(lambda p, b: jax.numpy.einsum("rsd,vd->rsv", teacher.scorer.hidden(p, b), unembedding(p)))
    seen = 0
    # Other seeds and row lengths than those of the recording: another packing of the same examples.
    for loader in (loader_of(dataset, records, seed=7), loader_of(dataset, records, row_length=64)):
        batch = loader.batch(0)
        logits = np.float64(logits_of(teacher.params, batch))
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        mask = batch.masks["completion"]
        for row, t in zip(*np.nonzero(mask), strict=True):
            expected = log_p[row, t - 1]
            ids = batch.per_token[IDS][row, t].astype(int)
            kept = np.sort(expected)[::-1][:5]
            np.testing.assert_allclose(expected[ids], kept, atol=1e-5)  # the K largest
            np.testing.assert_allclose(batch.per_token[LOGPS][row, t].astype(np.float32), kept, rtol=4e-3)
            inside = np.exp(kept).sum()
            np.testing.assert_allclose(batch.per_token[LOG_ODDS][row, t], np.log(inside / (1 - inside)), atol=1e-4)
        for values in (batch.per_token[n] for n in (IDS, LOGPS, LOG_ODDS)):
            assert not np.any(values[~mask].astype(np.float32))
        seen += mask.sum()
    assert seen > 60
    assert report["tokens"] == sum(int(b.masks["completion"].sum()) for b in loader_of(dataset).one_pass())


def test_132_bytes_per_token_and_no_more_on_disk(folder, teacher, tokenizer, mesh, tmp_path):
    dataset = dataset_of(folder, "text.jsonl", tokenizer)
    report = teach(teacher, loader_of(dataset), tmp_path / "records", 32, mesh, len)
    assert report["bytes_per_token"] == 132
    assert report["bytes"] == 132 * report["tokens"]
    reader = array_record_module.ArrayRecordReader(str(part_file(tmp_path / "records", 0)))
    assert sum(len(record) for record in reader.read_all()) == report["bytes"]
    # ArrayRecord rounds a file up to blocks of 64 KiB, with one more for its index.
    assert report["file_bytes"] < report["bytes"] + 100 * len(dataset) + (2 << 16)
    assert report["tokens_per_second"] == pytest.approx(report["tokens"] / report["seconds"])
    again = teach(teacher, loader_of(dataset), tmp_path / "records", 32, mesh, pytest.fail, done=pytest.fail)
    assert again["tokens"] == 0


def test_batches_are_as_large_as_parts_need_and_the_records_do_not_depend_on_them(
    folder, teacher, tokenizer, mesh, tmp_path, monkeypatch
):
    dataset = dataset_of(folder, "text.jsonl", tokenizer)
    blocks = {"block_rows": 1}
    large = Loader(dataset, dataclasses.replace(SETTINGS, **blocks), seed=0, rows_per_step=64)
    assert batch_rows(large, mesh, 10**9) == dataset.tokens // (8 * 48) > 1
    assert batch_rows(large, mesh, 8 * 48 * 2) == 2
    assert batch_rows(large, mesh, 1) == 1
    assert batch_rows(large, mesh, 8 * 48 * 2, most=1) == 1
    assert batch_rows(loader_of(dataset, **blocks), mesh, 10**9) == 4
    computed = []

    def counted(scorer, k, params, batch, run=teach_module.run_teacher):
        computed.append(batch.tokens.size)
        return run(scorer, k, params, batch)

    monkeypatch.setattr(teach_module, "run_teacher", counted)
    teach(teacher, large, tmp_path / "large", 4, mesh, len, part_tokens=200)
    assert sum(computed) < 1.5 * dataset.tokens
    teach(teacher, loader_of(dataset, **blocks), tmp_path / "small", 4, mesh, len, part_tokens=200, most_rows=1)
    monkeypatch.setattr(teach_module, "BATCHES_PER_PART", 1e-9)  # one padded batch of the training's 64 rows
    teach(teacher, large, tmp_path / "padded", 4, mesh, len, part_tokens=200)
    names = sorted(p.name for p in (tmp_path / "large").glob("part-*"))
    assert len(names) > 4
    for name in names:
        assert (tmp_path / "large" / name).read_bytes() == (tmp_path / "small" / name).read_bytes()
    # Products of another shape may be summed in another order: the last bit of float32.
    large, padded = (TeacherRecords(tmp_path / x, dataset).read(range(len(dataset))) for x in ("large", "padded"))
    for a, b in zip(large, padded, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_allclose(a.logps.astype(np.float32), b.logps.astype(np.float32), rtol=8e-3)
        np.testing.assert_allclose(a.log_odds, b.log_odds, atol=1e-5)


@pytest.mark.parametrize(("vocab", "dtype", "size"), [(65536, np.uint16, 132), (65537, np.uint32, 196)])
def test_ids_are_as_wide_as_the_vocabulary_needs(vocab, dtype, size):
    meta = RecordsMeta("d", "t", "f", vocab, 32, "float32", 1)
    assert meta.bytes_per_token == size
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocab, (3, 32)).astype(dtype)
    ids[0, 0] = vocab - 1
    taught = Taught(ids, rng.normal(size=(3, 32)).astype(meta.layout[1][1]), rng.normal(size=3).astype(np.float32))
    payload = encode(taught, meta)
    assert len(payload) == 3 * size
    for a, b in zip(decode(payload, meta), taught, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    with pytest.raises(ValueError, match="no whole number of tokens"):
        decode(payload[:-1], meta)


def test_parts_cover_the_examples_in_order(folder, tokenizer):
    dataset = dataset_of(folder, "text.jsonl", tokenizer)
    for size in (1, 50, 10**9):
        parts = parts_of(dataset, size)
        assert [e for part in parts for e in part] == list(range(len(dataset)))
        assert all(len(part) for part in parts)
    assert len(parts_of(dataset, 1)) == len(dataset)
    assert len(parts_of(dataset, 10**9)) == 1


def test_the_time_left_is_known_after_a_part_without_a_supervised_token(
    folder, teacher, tokenizer, mesh, tmp_path, monkeypatch
):
    dataset = dataset_of(folder, "text.jsonl", tokenizer)
    nothing = Taught(np.zeros((0, 4), np.uint16), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    clock = itertools.count()  # a second from one look at it to the next
    monkeypatch.setattr(teach_module, "_part", lambda teacher, loader, examples, *_: [nothing] * len(examples))
    monkeypatch.setattr(teach_module, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    said = []
    report = teach(teacher, loader_of(dataset), tmp_path, 4, mesh, said.append, part_tokens=400)
    sizes = [len(part) for part in parts_of(dataset, 400)]
    expected = sum(sizes[1:]) / sizes[0]
    assert said[1] == f"teacher records: part 1/{len(sizes)}, 0 tokens, 0 tokens/s, {expected:,.0f} s left"
    assert said[-1].endswith(" 0 s left")
    assert report["tokens"] == report["tokens_per_second"] == 0


def test_shards_share_the_parts_and_together_are_the_whole(folder, teacher, tokenizer, mesh, tmp_path):
    dataset = dataset_of(folder, "text.jsonl", tokenizer)
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    done = []
    report = teach(teacher, loader_of(dataset), whole, 4, mesh, len, part_tokens=200, done=done.append)
    assert len(done) == report["parts"]
    for name in ("tokens", "bytes", "file_bytes"):
        assert sum(part[name] for part in done) == report[name]
    assert sum(part["seconds"] for part in done) <= report["seconds"]
    first = teach(teacher, loader_of(dataset), shared, 4, mesh, len, part_tokens=200, shard=(0, 2))
    with pytest.raises(DataError, match=r"shared: \d+ of \d+ parts are missing \(part 1 first\)\. Run the same"):
        TeacherRecords(shared, dataset)
    second = teach(teacher, loader_of(dataset), shared, 4, mesh, len, part_tokens=200, shard=(1, 2))
    assert first["tokens"] > 0 < second["tokens"]
    names = sorted(p.name for p in whole.glob("part-*"))
    assert names == sorted(p.name for p in shared.glob("part-*"))
    for name in names:
        assert (whole / name).read_bytes() == (shared / name).read_bytes()
    with pytest.raises(ConfigError, match="no shard 2 of 2"):
        teach(teacher, loader_of(dataset), shared, 4, mesh, len, part_tokens=200, shard=(2, 2))


def command(folder, out, *more):
    return ["data", "teach", str(folder / "teacher"), str(folder / "text.jsonl"), str(out), "--max-length", "24",
            "--row-length", "48", "--rows", "8", "--top-k", "4", "--part-tokens", "100", *more]  # fmt: skip


def test_a_killed_command_goes_on_and_ends_with_the_same_bytes(folder, tmp_path, capsys):
    calm = tmp_path / "calm"
    assert main(command(folder, calm)) == 0
    out = capsys.readouterr().out
    assert "x 20 bytes" in out
    names = sorted(p.name for p in calm.glob("*.array_record"))
    assert len(names) > 4
    # The killed one: SIGKILL in the middle of a part, after two are complete.
    killed = tmp_path / "killed"
    script = (
        "import os, signal, sys; from jaxpo.stages import teach as s;"
        "write = s.write_part\n"
        "def write_part(folder, part, *a):\n"
        "    if part == 2:\n"
        "        (folder / f'.part-00002.{os.getpid()}').write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return write(folder, part, *a)\n"
        "s.write_part = write_part\n"
        "from jaxpo.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", script, *command(folder, killed)], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    before = {p.name: p.stat().st_mtime_ns for p in killed.glob("*.array_record")}
    assert sorted(before) == names[:2]
    assert main(command(folder, killed)) == 0
    assert f"{len(names) - 2} of {len(names)} parts to compute" in capsys.readouterr().out
    for name in names:
        assert (killed / name).read_bytes() == (calm / name).read_bytes()
    assert {n: (killed / n).stat().st_mtime_ns for n in before} == before, "finished parts are not done again"


def test_records_of_something_else_are_refused_with_the_reason(folder, teacher, tokenizer, mesh, tmp_path):
    dataset = dataset_of(folder, "text.jsonl", tokenizer)
    records = tmp_path / "records"
    teach(teacher, loader_of(dataset), records, 4, mesh, len)
    other = dataset_of(folder, "chat.jsonl", tokenizer)
    with pytest.raises(
        DataError, match=r"records: these records were made from other files.*\(dataset .*jaxpo data teach"
    ):
        TeacherRecords(records, other)
    shorter = dataset_of(folder, "text.jsonl", tokenizer, max_length=16)
    with pytest.raises(DataError, match="made from other files, or with another template, length or truncation"):
        TeacherRecords(records, shorter)
    foreign = dataset_of(folder, "text.jsonl", train_tokenizer(["some other text"] * 4, 300))
    with pytest.raises(DataError, match="made with another tokenizer"):
        TeacherRecords(records, foreign)
    with pytest.raises(DataError, match=r"hold another number of ids per token \(k 4, not 32\)"):
        TeacherRecords(records, dataset, k=32)
    with pytest.raises(DataError, match=r"come from a teacher with another vocabulary \(vocab_size 352, not 400\)"):
        TeacherRecords(records, dataset, vocab_size=400)
    with pytest.raises(DataError, match="come from another teacher"):
        TeacherRecords(records, dataset, teacher="0" * 64)
    imposter = dataclasses.replace(teacher, params=jax.tree.map(lambda x: x + 1, teacher.params))
    with pytest.raises(DataError, match=r"come from another teacher.*Choose another folder"):
        teach(imposter, loader_of(dataset), records, 4, mesh, pytest.fail)
    with pytest.raises(DataError, match=r"holds no teacher records\. Write them with `jaxpo data teach`"):
        TeacherRecords(tmp_path, dataset)
    assert read_meta(records).dataset == dataset.hash


def test_a_damaged_part_is_named(folder, teacher, tokenizer, mesh, tmp_path):
    dataset = dataset_of(folder, "text.jsonl", tokenizer)
    teach(teacher, loader_of(dataset), tmp_path, 4, mesh, len, part_tokens=200)
    sizes = [len(part) for part in parts_of(dataset, 200)]
    other = next(i for i, size in enumerate(sizes) if size != sizes[1])
    same = next((i for i, size in enumerate(sizes) if size == sizes[1] and i != 1), None)
    whole = part_file(tmp_path, 1).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for damaged in (bytes(flipped), whole[:100], part_file(tmp_path, other).read_bytes()):
        part_file(tmp_path, 1).write_bytes(damaged)
        with pytest.raises(DataError, match=r"part-00001\.array_record: is not as it was written.*computes the part"):
            TeacherRecords(tmp_path, dataset)
    said = []
    teach(teacher, loader_of(dataset), tmp_path, 4, mesh, said.append, part_tokens=200)
    assert "part-00001.array_record.damaged, and computed again" in said[0]
    assert part_file(tmp_path, 1).read_bytes() == whole
    # Parts of an earlier version have no checksum: what else can be known of them is compared.
    for told in tmp_path.glob("*.crc32"):
        told.unlink()
    TeacherRecords(tmp_path, dataset)
    if same is not None:  # as many examples, of other lengths
        part_file(tmp_path, 1).write_bytes(part_file(tmp_path, same).read_bytes())
        with pytest.raises(DataError, match="a part is not where it belongs"):
            list(loader_of(dataset, TeacherRecords(tmp_path, dataset)).one_pass())
    part_file(tmp_path, 1).write_bytes(part_file(tmp_path, other).read_bytes())
    with pytest.raises(DataError, match=r"part-00001\.array_record: holds \d+ of \d+ examples\. Restore it"):
        TeacherRecords(tmp_path, dataset)
    part_file(tmp_path, 1).write_bytes(whole[:100])
    with pytest.raises(DataError, match=r"part-00001\.array_record: (cannot be read|holds)"):
        TeacherRecords(tmp_path, dataset)
    (tmp_path / "meta.json").write_text((tmp_path / "meta.json").read_text().replace('"k": 4', '"k": 5'))
    with pytest.raises(DataError, match=r"meta\.json: is not as it was written"):
        TeacherRecords(tmp_path, dataset)


def test_too_many_ids_and_other_vocabularies_are_refused_before_any_work(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "a", "--top-k", "353")) == 2
    assert "--top-k: 353 exceeds the vocabulary of 352 tokens; use at most 352." in capsys.readouterr().err
    foreign = train_tokenizer(["some other text"] * 4, 300)
    foreign.save(tmp_path / "foreign")
    assert main(command(folder, tmp_path / "b", "--tokenizer", str(tmp_path / "foreign"))) == 2
    err = capsys.readouterr().err
    assert "it has another vocabulary: its tokenizer (" in err
    assert "Distributions over different tokens cannot be compared" in err
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()
    for shard, message in (("3/2", "the shards of 2 are 0/2 to 1/2"), ("one", "write i/n")):
        assert main(command(folder, tmp_path / "c", "--shard", shard)) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="its logits are over 352 tokens and the student's over 512"):
        check_vocabulary("teacher", folder / "teacher", load_model(folder / "teacher").tokenizer, 512)


def test_a_teacher_whose_tokenizer_is_unknown_is_said(folder, tokenizer, tmp_path, capsys):
    said = []
    check_vocabulary("teacher", folder / "teacher", tokenizer, 352, said.append)
    assert not said
    bare = tmp_path / "bare"
    shutil.copytree(folder / "teacher", bare, ignore=shutil.ignore_patterns("tokenizer*"))
    check_vocabulary("teacher", bare, tokenizer, 352, said.append)
    sizes = f"(352 logits, {tokenizer.vocab_size} tokens of the student)"
    expected = f"teacher {bare}: its tokenizer is unknown, there is none beside it; only the size of the vocabulary "
    assert said == [expected + f"was compared {sizes}"]
    tokenizer.save(tmp_path / "tokenizer-of-student")
    words = command(folder, tmp_path / "out", "--tokenizer", str(tmp_path / "tokenizer-of-student"))
    words[2] = str(bare)
    assert main(words) == 0
    assert capsys.readouterr().out.count("its tokenizer is unknown") == 1
    # A distillation stage says it once, before the first stage.
    run = SimpleNamespace(stages=())
    setting = SimpleNamespace(
        run=run,
        config=lambda stage: dataclasses.replace(preset("nano"), vocab_size=352),
        inputs=SimpleNamespace(stages={}, tokenizer=tokenizer),
    )
    check_beside(setting, Distill(teacher=str(bare), loss=METHODS["bucket_topk_kl"]()), said.append)
    assert said[1:] == said[:1]


def test_more_parts_than_open_files(folder, teacher, tokenizer, mesh, tmp_path, monkeypatch):
    dataset = dataset_of(folder, "text.jsonl", tokenizer)
    teach(teacher, loader_of(dataset), tmp_path, 4, mesh, len, part_tokens=100)
    records = TeacherRecords(tmp_path, dataset)
    expected = records.read(range(len(dataset)))
    monkeypatch.setattr("jaxpo.data.packing.teacher_reader.OPEN_FILES", 2)
    few = TeacherRecords(tmp_path, dataset)
    for a, b in zip(few.read(range(len(dataset))), expected, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
    assert len(parts_of(dataset, 100)) > len(few._readers) == 2
