"""Every way in which a GGUF file can be wrong, and what the format cannot say."""

import dataclasses
import re
import struct
import sys

import numpy as np
import pytest
from convert.gguf_models import DENSE, MOE, random, tokenizer, write
from models.tiny import LFM3

gguf = pytest.importorskip("gguf", reason="GGUF files need the gguf package (the extra gguf)")

from jaxpo.cli.main import main  # noqa: E402
from jaxpo.convert.gguf import library  # noqa: E402
from jaxpo.convert.gguf.header import read_header  # noqa: E402
from jaxpo.convert.gguf.hyperparameters import read_config  # noqa: E402
from jaxpo.convert.gguf.kinds import KINDS  # noqa: E402
from jaxpo.convert.gguf.read import import_gguf, open_gguf  # noqa: E402
from jaxpo.convert.gguf.verify import compare_outputs, verify_gguf  # noqa: E402
from jaxpo.convert.gguf.write import check_expressible  # noqa: E402
from jaxpo.convert.hf import tensors_of  # noqa: E402
from jaxpo.errors import CheckpointError, ConfigError  # noqa: E402
from jaxpo.models.lfm2.table import param_table  # noqa: E402


@pytest.fixture
def whole(tmp_path):
    file = tmp_path / "model.gguf"
    write(file, DENSE)
    return file


def change(file, name, dtype, value, field=0):
    """Overwrite a number after a tensor's name: its rank, a dimension, its type, its offset."""
    data = bytearray(file.read_bytes())
    at = data.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name) + field
    data[at : at + struct.calcsize(dtype)] = struct.pack(dtype, value)
    file.write_bytes(data)


RANK, FIRST, SECOND, TYPE, OFFSET = 0, 4, 12, 20, 24
UP = "blk.0.ffn_up.weight"


def swap(old, new):
    """Replace bytes of the file by as many others."""
    assert len(old) == len(new)
    return lambda file: file.write_bytes(file.read_bytes().replace(old, new))


def cut(keep):
    return lambda file: file.write_bytes(file.read_bytes()[:keep])


def at(place, content):
    def overwrite(file):
        data = file.read_bytes()
        file.write_bytes(data[:place] + content + data[place + len(content) :])

    return overwrite


def field(name, dtype, value, place=0):
    return lambda file: change(file, name, dtype, value, place)


ARCH = struct.pack("<Q", 4)
DAMAGE = (
    (field(UP, "<Q", 48, SECOND), r"feed_forward.w3.weight \(48, 64\), expected \(96, 64\)"),
    (field(UP, "<I", 999, TYPE), "quantised in a way that is not known here: type 999"),
    (field(UP, "<I", 4, TYPE), "quantised in a way that is not known here: type 4"),
    (field(UP, "<I", 24, TYPE), "quantised to I8, which is not read"),
    (field(UP, "<I", 12, TYPE), r"rows of no whole blocks of Q4_K \(256\)"),
    (field(UP, "<Q", 0, OFFSET), f"tensors .*'{UP}'.* overlap"),
    (field(UP, "<Q", 7, OFFSET), "which is not aligned to 32"),
    (field(UP, "<Q", 1 << 60, OFFSET), "ends within tensor"),
    (field(UP, "<Q", 1 << 60, FIRST), "claims the shape .*, which no file holds"),
    (field(UP, "<Q", 0, FIRST), "claims the shape .*, which no file holds"),
    (field(UP, "<I", 9, RANK), "has 9 dimensions"),
    (cut(-100), "ends within tensor"),
    (cut(3000), "ends within its header|for which it is too short"),
    (at(0, b"PK"), "is no GGUF file"),
    (at(4, struct.pack(">I", 3)), "for big-endian machines"),
    (at(4, struct.pack("<I", 77)), "is of version 77"),
    (at(8, struct.pack("<Q", 1 << 60)), "claims .* tensors, for which it is too short"),
    (field("lfm2.block_count", "<I", 3, 4), "gives one number for each of its 3 layers"),
    (field("lfm2.embedding_length", "<I", 0, 4), "hidden_size is 0"),
    (swap(ARCH + b"lfm2", ARCH + b"qwen"), "general.architecture is 'qwen'"),
    (swap(b"lfm2.rope.freq_base", b"lfm2.rope.freq_bose"), "has no lfm2.rope.freq_base"),
    (swap(UP.encode(), b"blk.0.ffn_op.weight"), "which LFM2 has not"),
    (swap(UP.encode(), b"blk.1.ffn_up.weight"), "holds tensor .* twice"),
    (swap(b"blk.0.ffn_gate.weight", b"blk.000.ffn_up.weight"), "which LFM2 has not"),
    (swap(b"tokenizer.ggml.pre\x08", b"tokenizer.ggml.prx\x08"), "tokenizer.ggml.pre is None"),
)


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[message[:40] for _, message in DAMAGE])
def test_broken_files_are_refused_by_name(whole, damage, message, capsys):
    damage(whole)
    out = whole.parent / "out"
    assert main(["import", str(whole), str(out)]) == 2
    said = capsys.readouterr().err
    assert str(whole) in said
    assert re.search(message, said), said
    assert [f.name for f in whole.parent.iterdir()] == ["model.gguf"]


def test_a_metadata_list_of_2_to_the_60_entries(whole):
    data = whole.read_bytes()
    name = b"tokenizer.ggml.tokens"
    at = data.index(name) + len(name) + 8
    whole.write_bytes(data[:at] + struct.pack("<Q", 1 << 60) + data[at + 8 :])
    with pytest.raises(CheckpointError, match="claims 1,152,921,504,606,846,976 entries"):
        read_header(whole)


def test_heads_that_are_rotated_in_part_are_another_model(whole):
    metadata = read_header(whole).metadata
    assert read_config({**metadata, "lfm2.rope.dimension_count": 16}, False, whole) == DENSE
    with pytest.raises(CheckpointError, match=r"rope.dimension_count is 8; LFM2 rotates all 16 of a head"):
        read_config({**metadata, "lfm2.rope.dimension_count": 8}, False, whole)


def test_adapters_and_other_files_are_no_models(whole, tmp_path):
    swap(text_key("general.name", "tiny"), text_key("general.type", "lora"))(whole)
    with pytest.raises(CheckpointError, match="holds 'lora', not a whole model"):
        open_gguf(whole)
    with pytest.raises(CheckpointError, match=r"gone\.gguf: cannot be read"):
        read_header(tmp_path / "gone.gguf")


def text_key(name, value):
    """A key with a text, as it lies in a file."""
    packed = [struct.pack("<Q", len(part)) + part.encode() for part in (name, value)]
    return packed[0] + struct.pack("<I", 8) + packed[1]


def test_what_the_format_cannot_say_is_named():
    with pytest.raises(ConfigError, match=r"model_type is 'lfm3' \(attention_gate, sandwich_norm, sliding_attention"):
        check_expressible(LFM3, tokenizer())
    odd = dataclasses.replace(MOE, conv_kernel=1, head_dim=32, norm_topk_prob=False, routed_scaling_factor=2.0)
    with pytest.raises(ConfigError) as raised:
        check_expressible(odd, None)
    for part in ("conv_kernel is 1", "head_dim is 32", "norm_topk_prob is off", "factor is 2", "directory has none"):
        assert part in str(raised.value)


def test_a_wrong_file_is_found(whole):
    sources = tensors_of(random(DENSE), param_table(DENSE))
    info = read_header(whole).tensors["blk.2.shortconv.conv.weight"]
    data = whole.read_bytes()
    values = np.frombuffer(data[info.start : info.start + info.size], np.float32)
    at(info.start, values[::-1].tobytes())(whole)
    with pytest.raises(CheckpointError, match=r"layers\.2\.conv\.conv\.weight is not what the model has"):
        verify_gguf(whole, sources, None, DENSE, "f32")
    with pytest.raises(CheckpointError, match="does not compute what the model computes"):
        compare_outputs(open_gguf(whole), random(DENSE), DENSE, KINDS["f32"], run=False)


def test_no_rounding_explains_an_import_that_differs(tmp_path):
    """A quantised file is off from the model that it was made of; what was read from it is not."""
    file = tmp_path / "model.gguf"
    write(file, DENSE, "q8_0")
    params, found = import_gguf(file)
    assert compare_outputs(found, params, DENSE, KINDS["q8_0"], run=False, imported=True)["max_logprob_error"] < 1e-3
    with pytest.raises(CheckpointError, match="does not compute what the model computes"):
        compare_outputs(found, random(DENSE), DENSE, KINDS["q8_0"], run=False, imported=True)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"pip install 'jaxpo\[gguf\]'"):
        library.gguf()
