"""The token cache is reused, rebuilt when damaged, never half there, and keeps all that it is given."""

from __future__ import annotations

import json
import shutil

import ml_dtypes
import msgpack
import numpy as np
import pytest

from jaxpo.data.packing.ragged import RaggedColumn
from jaxpo.data.tokens import store as module
from jaxpo.data.tokens.examples import Example, Segment
from jaxpo.data.tokens.media import MEDIA, Patches
from jaxpo.data.tokens.shards import Shard, open_or_write
from jaxpo.data.tokens.store import Lengths
from jaxpo.errors import DataError


def cache(tmp_path):
    (folder,) = [p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")]
    return folder


def test_second_call_reads_the_cache(prepared, files, tmp_path):
    lines: list[str] = []
    first = prepared(files / "text.jsonl", "language", log=lines.append)
    assert lines[0] == "tokenising 1 file(s) of type 'text'"
    stamp = (cache(tmp_path) / "meta.json").stat().st_mtime_ns
    lines.clear()
    second = prepared(files / "text.jsonl", "language", log=lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("4 examples of type 'text'")
    assert (cache(tmp_path) / "meta.json").stat().st_mtime_ns == stamp
    assert first.hash == second.hash
    assert first.counts == second.counts


@pytest.mark.parametrize("content", ['{"text": "one"}\n', "text\none\n"])
def test_the_same_bytes_read_as_something_else_have_another_key(prepared, tmp_path, content):
    """Tokenised as a document first and renamed then: those tokens must not be used again."""
    names = ["a.txt", "a.jsonl"] if content.startswith("{") else ["a.txt", "a.csv", "a.tsv"]
    found = []
    for name in names:
        (tmp_path / name).write_text(content)
        found.append(prepared(tmp_path / name))
    assert len({dataset.hash for dataset in found}) == len(names)
    assert found[0].tokens > found[1].tokens


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_files_of_earlier_versions_keep_their_key(prepared, tmp_path, name):
    (tmp_path / name).write_text("plain words" if name == "a.txt" else '{"text": "one"}\n')
    assert "forms" not in prepared(tmp_path / name).store.meta["settings"]


def test_settings_and_contents_change_the_key(prepared, files, write):
    base = prepared(files / "prompt_completion.jsonl")
    hashes = {
        base.hash,
        prepared(files / "prompt_completion.jsonl", max_length=32).hash,
        prepared(files / "prompt_completion.jsonl", truncation="drop").hash,
        prepared(files / "prompt_completion.jsonl", train_on="all").hash,
        prepared(write({"prompt": "a", "completion": "b"})).hash,
    }
    assert len(hashes) == 5
    assert prepared(files / "prompt_completion.jsonl", shuffle=False, block_rows=2).hash == base.hash


def test_examples_are_the_same_in_an_earlier_format_too(prepared, files, tmp_path):
    """Format 1 had three parts per segment; whatever cannot be read is not the same."""
    store = prepared(files / "prompt_completion.jsonl").store
    old = tmp_path / "old"
    shutil.copytree(store.directory, old)
    assert module.same_examples(old, store)
    other = prepared(files / "prompt_completion.jsonl", train_on="all").store
    assert not module.same_examples(other.directory, store)

    def rewrite(cut):
        records = [msgpack.unpackb(module._pack(example)) for example in store.read(range(len(store)))]
        writer = module.array_record_module.ArrayRecordWriter(str(old / module.RECORDS), "group_size:1")
        for segments, *rest in records:
            writer.write(msgpack.packb([[segment[:cut] for segment in segments], *rest]))
        writer.close()

    rewrite(3)
    assert module.same_examples(old, store)
    rewrite(1)
    assert not module.same_examples(old, store)
    (old / module.INDEX).write_bytes(b"damaged")
    assert not module.same_examples(old, store)


@pytest.mark.parametrize("damage", ["truncate", "foreign", "no meta", "broken meta", "other key", "no index"])
def test_damaged_cache_is_rebuilt_and_says_so(prepared, files, tmp_path, damage):
    before = prepared(files / "text.jsonl", "language").store.read(range(4))
    folder = cache(tmp_path)
    records, meta = folder / "examples.array_record", folder / "meta.json"
    if damage == "truncate":
        records.write_bytes(records.read_bytes()[:-100])
    elif damage == "foreign":
        records.write_bytes(b"x" * records.stat().st_size)
    elif damage == "no meta":
        meta.unlink()
    elif damage == "broken meta":
        meta.write_text("{")
    elif damage == "other key":
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "key": "other"}))
    else:
        (folder / "lengths.npz").unlink()
    lines: list[str] = []
    again = prepared(files / "text.jsonl", "language", log=lines.append)
    assert f"data cache {folder.name} is damaged (" in lines[0]
    assert "building it again" in lines[0]
    for a, b in zip(before, again.store.read(range(4)), strict=True):
        assert np.array_equal(a.segments[0].tokens, b.segments[0].tokens)


def test_damage_inside_a_record_is_found_when_read(prepared, files, tmp_path):
    """It was whole when it was opened."""
    damaged = prepared(files / "text.jsonl", "language")
    records = cache(tmp_path) / "examples.array_record"
    content = bytearray(records.read_bytes())
    content[150] ^= 0xFF  # in the first record
    records.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"examples.array_record: cannot be read: .*start it again"):
        damaged.store.read(range(4))


def test_failed_write_leaves_nothing(tmp_path):
    def fail(writer):
        raise DataError("row 7 is bad")

    with pytest.raises(DataError, match="row 7 is bad"):
        open_or_write(tmp_path / "store", "key", [Shard("key", fail)], print)
    assert list(tmp_path.iterdir()) == []


def test_random_access_in_any_order(prepared, files):
    data = prepared(files / "messages.jsonl", max_length=128)
    forward = data.store.read(range(len(data)))
    order = [3, 0, 3, 6]
    for i, example in zip(order, data.store.read(order), strict=True):
        assert example.row == i + 1
        assert np.array_equal(example.segments[0].tokens, forward[i].segments[0].tokens)
        assert np.array_equal(example.segments[0].supervised, forward[i].segments[0].supervised)
        assert data.lengths.of(i).tolist() == [len(s.tokens) for s in example.segments]
    assert data.store.read([]) == []


def segment(n, **per_token):
    return Segment(np.arange(n, dtype=np.int32), np.arange(n) > 1, per_token)


def patches(n, kind="image", dtype=np.uint8):
    return Patches(np.arange(3 * n).reshape(n, 3).astype(dtype), np.arange(4 * n, dtype=np.int32).reshape(n, 4), kind)


def marks(*values):
    return {MEDIA: np.asarray(values, np.int32)}


def stored(tmp_path, *examples):
    """The store of these examples, rows of one file."""

    def write(writer):
        for example in examples:
            writer.append(example)
        return {}

    return open_or_write(tmp_path / "store", "key", [Shard("key", write)], print, [tmp_path / "rows.jsonl"])


def assert_same(a, b):
    assert a.dtype == b.dtype
    assert np.array_equal(a, b)


def test_columns_of_any_type_and_media_come_back(tmp_path):
    columns = {
        "phrase": np.asarray([0, 0, 1, 1], np.int32),
        "codes": np.arange(32, dtype=np.int16).reshape(4, 8),
        "advantages": np.linspace(-1, 1, 4).astype(np.float32),
        "logps": np.linspace(-3, 0, 12).reshape(4, 3).astype(ml_dtypes.bfloat16),
    }
    both = Example(
        (segment(4, **columns, **marks(0, 1, 2, -1)), segment(2)), {"completion": 0}, {}, 0, 7, (patches(8), patches(4))
    )
    found = stored(tmp_path, both, Example((segment(3),), {"completion": 0}))
    for got, expected in zip(found.read([1, 0])[1].segments, both.segments, strict=True):
        assert got.per_token.keys() == expected.per_token.keys()
        for name, values in expected.per_token.items():
            assert_same(got.per_token[name], values)
    for got, expected in zip(found.read([0])[0].media, both.media, strict=True):
        assert got.kind == "image"
        assert_same(got.values, expected.values)
        assert_same(got.positions, expected.positions)
    assert found.read([1])[0].media == ()
    assert found.per_token == {name: (values.dtype, values.shape[1:]) for name, values in (columns | marks(0)).items()}
    assert found.media == {"image": (np.dtype(np.uint8), (3,))}
    assert found.lengths.media.offsets.tolist() == [0, 2, 2]
    assert found.lengths.media.values.tolist() == [8, 4]


def test_examples_of_earlier_versions_are_read():
    tokens, mask = np.asarray([5, 6, 7], "<i4"), np.asarray([False, True, True])
    numbers = np.asarray([0, 2, 1], "<i4")
    one = (tokens.tobytes(), np.packbits(mask).tobytes(), 3, {"phrase": numbers.tobytes()})
    record = msgpack.packb([[one], {"chosen": 0}, {"margin": 0.5}, 1, 9])
    example = module._unpack(record)
    assert_same(example.segments[0].tokens, tokens)
    assert_same(example.segments[0].supervised, mask)
    assert_same(example.segments[0].per_token["phrase"], numbers)
    assert (example.roles, example.columns, example.file, example.row) == ({"chosen": 0}, {"margin": 0.5}, 1, 9)
    again = module._unpack(module._pack(example))
    assert_same(again.segments[0].tokens, tokens)
    assert len(module._pack(example)) == len(record) - 6  # ids in two bytes each


@pytest.mark.parametrize(("largest", "width"), [(2**16 - 1, 2), (2**16, 4)])
def test_ids_take_two_bytes_where_all_of_a_segment_fit(largest, width):
    tokens = np.asarray([0, largest, 7], np.int32)
    record = module._pack(module.Example((module.Segment(tokens, np.ones(3, bool)),), {"text": 0}))
    assert len(msgpack.unpackb(record)[0][0][0]) == 3 * width
    assert_same(module._unpack(record).segments[0].tokens, tokens)


BAD_MEDIA = {
    "no mark": (segment(3), (patches(8),), "2 of 2 vectors of media have no mark .vector 0 first.* raise data.max_len"),
    "cut off": (segment(3, **marks(-1, 0, -1)), (patches(8),), "1 of 2 vectors of media have no mark .vector 1 first"),
    "no media": (segment(3, **marks(0, -1, -1)), (), "mark 0 has no media: there are 0 vectors. Give one medium for"),
    "too few": (segment(3, **marks(0, 1, 2)), (patches(8),), "mark 2 has no media: there are 2 vectors"),
    "odd": (segment(3, **marks(0, -1, -1)), (patches(4), patches(6)), r"medium 1 has 6 patches and positions \(6, 4\)"),
}


@pytest.mark.parametrize("name", BAD_MEDIA)
def test_media_without_marks_and_marks_without_media_are_named(tmp_path, name):
    one, media, match = BAD_MEDIA[name]
    with pytest.raises(DataError, match=rf"rows.jsonl, row 3, field 'media': {match}"):
        stored(tmp_path, Example((one,), {"completion": 0}, {}, 0, 3, media))
    assert not (tmp_path / "store").exists()


def test_two_segments_may_read_the_same_media(tmp_path):
    shared = (segment(3, **marks(0, 1, -1)), segment(4, **marks(1, -1, 0, -1)))
    assert len(stored(tmp_path, Example(shared, {"chosen": 0, "rejected": 1}, media=(patches(8),)))) == 1


def test_examples_must_agree_on_types_shapes_and_kinds(tmp_path):
    wide, narrow = (Example((segment(2, codes=np.zeros((2, k), np.int32)),), {}, row=k) for k in (8, 4))
    match = r"row 4, field 'codes': int32 \[4\], but int32 \[8\] in earlier rows"
    with pytest.raises(DataError, match=match):
        stored(tmp_path, wide, narrow)
    seen = lambda kind, dtype: Example((segment(2, **marks(0, -1)),), {}, row=2, media=(patches(4, kind, dtype),))  # noqa: E731
    with pytest.raises(DataError, match=r"row 2, field 'image': float32 \[3\], but uint8 \[3\] in earlier rows"):
        stored(tmp_path, seen("image", np.uint8), seen("image", np.float32))
    with pytest.raises(DataError, match=r"row 2, field 'media': kinds image and sound in one data set"):
        stored(tmp_path, seen("image", np.uint8), seen("sound", np.uint8))


LENGTHS = Lengths.from_lists([[3, 2], [4], [1, 5]])


def fill(column, examples):
    for e in examples:
        for s, n in enumerate(LENGTHS.of(e)):
            column.write(e, s, np.arange(n) + 10 * e + 100 * s)


def test_ragged_column_is_filled_bit_by_bit(tmp_path):
    column = RaggedColumn.create(tmp_path / "c", LENGTHS, "key")
    assert column.missing().tolist() == [0, 1, 2]
    fill(column, [1])
    column.write(2, 1, np.zeros(5))
    column.flush()
    del column
    resumed = RaggedColumn.create(tmp_path / "c", LENGTHS, "key")
    assert resumed.missing().tolist() == [0, 2]
    assert not resumed.complete()
    assert resumed.get(1, 0).tolist() == [10, 11, 12, 13]
    with pytest.raises(DataError, match=r"example 2, segment 0 has no values yet"):
        resumed.get(2, 0)
    fill(resumed, [0, 2])
    resumed.flush()
    assert resumed.complete()
    opened = RaggedColumn.open(tmp_path / "c", LENGTHS, "key")
    assert opened.get(2, 1).tolist() == [120, 121, 122, 123, 124]
    assert opened.get(0, 1).tolist() == [100, 101]
    assert opened.get(0, 1).dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        opened.write(0, 0, np.zeros(3))


def test_ragged_column_of_another_run_is_refused(tmp_path):
    column = RaggedColumn.create(tmp_path / "c", LENGTHS, "key")
    with pytest.raises(ValueError, match="example 0, segment 1 has 2 tokens, not 3"):
        column.write(0, 1, np.zeros(3))
    for lengths, key in ((LENGTHS, "other"), (Lengths.from_lists([[3, 2], [4], [1, 6]]), "key")):
        with pytest.raises(DataError, match=r"c: these per-token values belong to another model.*Delete the folder"):
            RaggedColumn.create(tmp_path / "c", lengths, key)
    with pytest.raises(DataError, match=r"absent/meta.json: is missing"):
        RaggedColumn.open(tmp_path / "absent", LENGTHS, "key")
    (tmp_path / "c" / "values.f32").write_bytes(b"1234")
    with pytest.raises(DataError, match=r"values.f32: 4 bytes instead of 60: the file is not as it was written"):
        RaggedColumn.open(tmp_path / "c", LENGTHS, "key")


@pytest.fixture
def filled(tmp_path):
    column = RaggedColumn.create(tmp_path / "c", LENGTHS, "key")
    fill(column, [0, 1, 2])
    column.flush()
    return tmp_path / "c"


@pytest.mark.parametrize("file", ["values.f32", "crc32.u4", "done.u8"])
def test_every_flipped_bit_of_a_ragged_column_is_missing_again(filled, file):
    """Values, checksums and flags: the damaged segment alone is computed again, and nothing else is touched."""
    whole = (filled / file).read_bytes()
    for bit in range(0, 8 * len(whole), 5):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << (bit % 8)
        (filled / file).write_bytes(bytes(changed))
        if file != "done.u8":
            with pytest.raises(
                DataError, match=r"values.f32: the values of 1 segments are not those that were written"
            ):
                RaggedColumn.open(filled, LENGTHS, "key")
        column = RaggedColumn.create(filled, LENGTHS, "key")
        if bit % 8 == 0 or file != "done.u8":  # another true flag is a flag
            assert len(column.missing()) == 1
        fill(column, column.missing())
        column.flush()
        assert RaggedColumn.open(filled, LENGTHS, "key").get(2, 1).tolist() == [120, 121, 122, 123, 124]
        assert len(RaggedColumn.create(filled, LENGTHS, "key").notes) == 0


@pytest.mark.parametrize("how", ["empty", "garbled", "altered", "short values", "no checksums"])
def test_a_ragged_column_that_cannot_be_trusted_is_begun_again(filled, how):
    meta = filled / "meta.json"
    changes = {
        "empty": lambda: meta.write_text(""),
        "garbled": lambda: meta.write_text("[1, 2"),
        "altered": lambda: meta.write_text(meta.read_text().replace("crc32", "crc33")),
        "short values": lambda: (filled / "values.f32").write_bytes(b"1234"),
        "no checksums": lambda: (filled / "crc32.u4").unlink(),
    }
    changes[how]()
    with pytest.raises(DataError, match="computes the values again"):
        RaggedColumn.open(filled, LENGTHS, "key")
    column = RaggedColumn.create(filled, LENGTHS, "key")
    assert "All of its values are computed again" in column.notes[0]
    assert column.missing().tolist() == [0, 1, 2]


def test_a_ragged_column_of_an_earlier_version_is_believed_and_checked_from_then_on(filled):
    meta = json.loads((filled / "meta.json").read_text())
    (filled / "meta.json").write_text(json.dumps({name: meta[name] for name in ("key", "lengths")}))
    (filled / "crc32.u4").unlink()
    assert RaggedColumn.open(filled, LENGTHS, "key").complete()
    column = RaggedColumn.create(filled, LENGTHS, "key")
    assert column.complete()
    assert "earlier version, without checksums: its values are believed" in column.notes[0]
    values = bytearray((filled / "values.f32").read_bytes())
    values[-1] ^= 1
    (filled / "values.f32").write_bytes(bytes(values))
    assert RaggedColumn.create(filled, LENGTHS, "key").missing().tolist() == [2]


@pytest.mark.parametrize("file", ["examples.array_record", "lengths.npz", "meta.json"])
@pytest.mark.parametrize("how", ["a bit", "half", "empty"])
def test_damage_to_tokenised_data_is_noticed_when_it_is_opened_and_built_again(tmp_path, file, how):
    open_or_write(tmp_path / "store", "key", [Shard("key", write_two)], pytest.fail)
    damaged, said = tmp_path / "store" / file, []
    whole = bytearray(damaged.read_bytes())
    whole[len(whole) // 3] ^= 16
    damaged.write_bytes({"a bit": bytes(whole), "half": bytes(whole[: len(whole) // 2]), "empty": b""}[how])
    store = open_or_write(tmp_path / "store", "key", [Shard("key", write_two)], said.append)
    assert [len(e.segments[0].tokens) for e in store.read([0, 1])] == [3, 5]
    assert said[0].startswith("data cache store is damaged (")
    assert said[0].endswith("): building it again")
    open_or_write(tmp_path / "store", "key", [Shard("key", write_two)], pytest.fail)


def write_two(writer):
    for n in (3, 5):
        writer.append(Example((segment(n),), {"completion": 0}, {}, 0, n))
    return {}
