"""GGUF files without llama.cpp: round trips, every way a file can be wrong, and what the format cannot say."""

import dataclasses
import errno
import json
import re
import struct
import sys

import jax
import numpy as np
import pytest
import tokenizers
from convert.gguf_models import DENSE, MOE, random, tokenizer
from models.tiny import LFM3

gguf = pytest.importorskip("gguf", reason="GGUF files need the gguf package (the extra gguf)")

from jaxpo.cli.main import main  # noqa: E402
from jaxpo.convert.gguf import k_quants, library, llama  # noqa: E402
from jaxpo.convert.gguf import write as writer  # noqa: E402
from jaxpo.convert.gguf.header import read_header  # noqa: E402
from jaxpo.convert.gguf.hyperparameters import read_config  # noqa: E402
from jaxpo.convert.gguf.kinds import KINDS  # noqa: E402
from jaxpo.convert.gguf.names import LAYER, MODEL, gguf_name, hf_names  # noqa: E402
from jaxpo.convert.gguf.read import import_gguf, open_gguf  # noqa: E402
from jaxpo.convert.gguf.verify import compare_outputs, verify_gguf  # noqa: E402
from jaxpo.convert.gguf.write import check_expressible, write_gguf  # noqa: E402
from jaxpo.convert.hf import export_hf, tensors_of  # noqa: E402
from jaxpo.convert.model_io import load_model  # noqa: E402
from jaxpo.data.tokenizer.tokenizer import Tokenizer  # noqa: E402
from jaxpo.errors import CheckpointError, ConfigError  # noqa: E402
from jaxpo.models.lfm2.table import param_table  # noqa: E402

GENERATION = {"temperature": 0.3, "min_p": 0.15, "repetition_penalty": 1.05, "eos_token_id": [7, 2]}


def write(file, config, kind="f32", own=None, **options):
    sources = tensors_of(random(config), param_table(config))
    write_gguf(file, sources, config, own or tokenizer(), kind, name="tiny", **options)
    return sources


@pytest.fixture(scope="module", params=[DENSE, MOE], ids=["dense", "mixture"])
def written(request, tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    return request.param, file, write(file, request.param, generation=GENERATION)


@pytest.fixture
def whole(tmp_path):
    file = tmp_path / "model.gguf"
    write(file, DENSE)
    return file


def test_round_trip_is_bit_exact(written):
    config, file, sources = written
    params, found = import_gguf(file)
    assert found.config == config
    assert found.generation == GENERATION
    jax.tree.map(np.testing.assert_array_equal, params, random(config))
    text = "Grüße, fox's 84721 <|im_end|>"
    assert found.tokenizer.encode(text) == tokenizer().encode(text)
    assert found.tokenizer.special_ids == tokenizer().special_ids
    assert found.tokenizer.template == tokenizer().template
    report = verify_gguf(file, sources, random(config), config, "f32", run=False)
    assert (report["weights"], report["by"]) == (0.0, "float64 numpy")
    assert report["max_logprob_error"] < 1e-4


def test_another_reader_finds_the_same(written):
    """The gguf package's own reader, and its own table of names."""
    config, file, _ = written
    reader = gguf.GGUFReader(file)
    assert len(reader.tensors) == len(read_header(file).tensors)
    name = reader.get_field("general.architecture").contents()
    assert name == ("lfm2moe" if config.num_experts else "lfm2")
    theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LFM2MOE, 2)
    for ours in ("model.embed_tokens.weight", "model.embedding_norm.weight"):
        assert f"{theirs.get_name(ours.removesuffix('.weight'))}.weight" == MODEL[ours]
    for part, wanted in LAYER.items():
        stem = part.removesuffix(".weight")
        assert (
            theirs.get_name(f"model.layers.1.{stem}") == f"blk.1.{wanted.removesuffix('.weight').removesuffix('.bias')}"
        )
        assert gguf_name(f"model.layers.1.{part}") == f"blk.1.{wanted}"
        assert hf_names(f"blk.1.{wanted}", 3) == [f"model.layers.1.{part}"]
    heads = reader.get_field(f"{name}.attention.head_count_kv").contents()
    assert list(heads) == [2 if kind == "full_attention" else 0 for kind in config.layer_types]
    for tensor in reader.tensors:
        if tensor.name.endswith(("norm.weight", "shortconv.conv.weight", "ffn_gate_inp.weight", ".bias")):
            assert tensor.tensor_type.name == "F32"


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0"])
def test_types_are_rounded_once_and_read_back(kind, tmp_path):
    file = tmp_path / "model.gguf"
    sources = write(file, MOE, kind)
    report = verify_gguf(file, sources, None, MOE, kind)
    assert 0 < report["weights"] < {"f16": 4e-4, "bf16": 3e-3, "q8_0": 7e-3, "q4_0": 0.12}[kind]
    kinds = read_header(file).tensors
    assert kinds["blk.1.ffn_up_exps.weight"].kind == kind.upper()
    assert kinds["token_embd.weight"].kind == ("Q8_0" if kind == "q4_0" else kind.upper())
    assert kinds["blk.1.ffn_gate_inp.weight"].kind == "F32"


def test_rows_of_no_whole_blocks_stay_float16(tmp_path):
    config = dataclasses.replace(DENSE, intermediate_size=40)
    file = tmp_path / "model.gguf"
    write(file, config, "q8_0")
    kinds = read_header(file).tensors
    assert (kinds["blk.0.ffn_down.weight"].kind, kinds["blk.0.ffn_up.weight"].kind) == ("F16", "Q8_0")


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


def test_all_ends_of_an_answer_are_kept(tmp_path):
    file, turn, text = tmp_path / "model.gguf", tokenizer().eos_id, DENSE.eos_token_id
    for ends, found in ((9, [text, 9]), ([text, 9, 11], [text, 9, 11]), ([9], [text, 9])):
        write(file, DENSE, generation={"eos_token_id": ends})
        wanted = list(dict.fromkeys([*found, turn]))
        assert open_gguf(file).generation["eos_token_id"] == wanted
    with pytest.raises(
        ConfigError, match=r"names the ends \[9, 11, 13.*\] besides 7, and a GGUF file has keys for two"
    ):
        check_expressible(DENSE, tokenizer(), {"eos_token_id": [9, 11, 13]})


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


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["model"].update(byte_fallback=True), "byte_fallback = True"),
        (lambda d: d.update(normalizer={"type": "NFC"}), "normalises texts"),
        (
            lambda d: d["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\s+"),
            "another pattern than LFM2's",
        ),
        (lambda d: d["added_tokens"][2].update(lstrip=True), "'<\\|endoftext\\|>' has lstrip"),
        (
            lambda d: d["post_processor"]["single"].append({"SpecialToken": {"id": "<|startoftext|>", "type_id": 0}}),
            "adds more around a text",
        ),
    ],
)
def test_tokenizers_that_the_format_cannot_express(edit, message):
    document = json.loads(json.dumps(tokenizer().document))
    edit(document)
    other = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(document)))
    with pytest.raises(ConfigError, match=message):
        check_expressible(DENSE, other)


def test_added_tokens_that_are_not_special_and_templates_come_back(tmp_path):
    document = json.loads(json.dumps(tokenizer().document))
    plain = {"id": 512, "content": "<think>", "single_word": False, "lstrip": False, "rstrip": False}
    document["added_tokens"].append(plain | {"normalized": False, "special": False})
    folder = tmp_path / "tokenizer"
    Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(document))).save(folder)
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    own = Tokenizer.load(folder)
    file = tmp_path / "model.gguf"
    write(file, DENSE, own=own)
    found = open_gguf(file).tokenizer
    assert found.encode("a<think>b") == own.encode("a<think>b")
    assert 512 in found.encode("a<think>b")
    assert found.template == own.template
    assert found.files.templates == own.files.templates
    assert set(own.files.templates) == {"default", "tool_use"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder of the dense model."""
    out = tmp_path_factory.mktemp("hf") / "tiny"
    export_hf(random(DENSE), DENSE, out, tokenizer=tokenizer(), generation=GENERATION, compare_transformers=False)
    return out


def test_export_and_import_by_the_command(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(llama, "version", lambda: None)
    out = tmp_path / "out"
    assert main(["export", str(folder), str(out), "--format", "gguf", "--dtype", "f32,q8_0"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{out}: exported"
    assert said[1].split() == ["format", "file", "size", "verified", "by", "largest", "difference"]
    assert said[2].startswith("gguf    out-F32.gguf ")
    assert "float64 numpy" in said[2]
    assert "nats, KL" in said[3]
    assert {f.name for f in out.iterdir()} == {"out-F32.gguf", "out-Q8_0.gguf", "README.md", "verification.json"}
    card = (out / "README.md").read_text()
    assert "a Hugging Face checkpoint (tiny)" in card
    assert "llama-server -m out-F32.gguf" in card
    assert said[2] in card
    assert main(["import", str(out / "out-F32.gguf"), str(tmp_path / "back")]) == 0
    assert "verified by float64 numpy: max log-prob error" in capsys.readouterr().out
    back = load_model(tmp_path / "back")
    jax.tree.map(np.testing.assert_array_equal, back.params["model"], random(DENSE))
    assert back.generation == GENERATION
    assert main(["import", str(out / "out-Q8_0.gguf"), str(tmp_path / "rounded")]) == 0
    assert "its weights are quantised" in capsys.readouterr().out


def test_what_is_in_the_way(folder, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("x")
    for out, message in (
        (tmp_path / "there", "exists already"),
        (tmp_path / "model.gguf", "name a folder"),
    ):
        assert main(["export", str(folder), str(out), "--format", "gguf", "--no-verify"]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", str(folder), str(tmp_path / "o"), "--dtype", "q8_0"]) == 2
    assert "--dtype q8_0 is none of --format hf" in capsys.readouterr().err
    for options, message in (
        (["--adapter", "--dtype", "f32,f16"], "--adapter writes one file; give one --dtype"),
        (["--max-shard-size", "1GB"], "--max-shard-size: --format gguf writes no shards"),
    ):
        assert main(["export", str(folder), str(tmp_path / "o"), "--format", "gguf", *options]) == 2
        assert message in capsys.readouterr().err
    assert sorted(f.name for f in tmp_path.iterdir()) == ["there"]


def test_a_disk_that_fills_half_way_leaves_nothing(folder, tmp_path, capsys, monkeypatch):
    calls = []

    def full(out, source, one, library):
        calls.append(source.name)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(out, source, one, library)

    original = writer._write
    monkeypatch.setattr(writer, "_write", full)
    assert main(["export", str(folder), str(tmp_path / "out"), "--format", "gguf", "--no-verify"]) == 2
    assert "out" in (said := capsys.readouterr().err)
    assert "space" in said or "full" in said
    assert list(tmp_path.iterdir()) == []


def test_k_quants_are_llama_cpps_own(folder, tmp_path, capsys, monkeypatch):
    """Its quantiser gets a float32 file; what it makes is compared like any other file."""
    monkeypatch.setattr(llama, "version", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = ["export", str(folder), str(tmp_path / "out"), "--format", "gguf", "--dtype", "q4_k_m"]
    assert main(asked) == 2
    assert "made by llama.cpp's own llama-quantize, which is not on the PATH" in capsys.readouterr().err
    program = tmp_path / "llama-quantize"
    program.write_text('#!/bin/sh\n[ "$3" = Q4_K_M ] || exit 3\nexec /bin/cp "$1" "$2"\n')
    program.chmod(0o755)
    assert main(asked) == 0
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"out-Q4_K_M.gguf", "README.md", "verification.json"}
    program.write_text("#!/bin/sh\necho unknown model >&2; exit 1\n")
    with pytest.raises(CheckpointError, match=r"llama-quantize failed \(status 1\): unknown model"):
        k_quants.quantize(tmp_path / "a", tmp_path / "b", "q4_k_m")


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
