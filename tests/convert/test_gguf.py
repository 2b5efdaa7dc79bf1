"""GGUF files without llama.cpp: round trips, types, what the format cannot say, and the command."""

import dataclasses
import errno
import json

import jax
import numpy as np
import pytest
import tokenizers
from convert.gguf_models import DENSE, MOE, random, tokenizer, write

gguf = pytest.importorskip("gguf", reason="GGUF files need the gguf package (the extra gguf)")

from jaxpo.cli.main import main  # noqa: E402
from jaxpo.convert.gguf import k_quants, llama  # noqa: E402
from jaxpo.convert.gguf import write as writer  # noqa: E402
from jaxpo.convert.gguf.header import read_header  # noqa: E402
from jaxpo.convert.gguf.names import LAYER, MODEL, gguf_name, hf_names  # noqa: E402
from jaxpo.convert.gguf.read import import_gguf, open_gguf  # noqa: E402
from jaxpo.convert.gguf.verify import verify_gguf  # noqa: E402
from jaxpo.convert.gguf.write import check_expressible  # noqa: E402
from jaxpo.convert.hf import export_hf  # noqa: E402
from jaxpo.convert.model_io import load_model  # noqa: E402
from jaxpo.data.tokenizer.tokenizer import Tokenizer  # noqa: E402
from jaxpo.errors import CheckpointError, ConfigError  # noqa: E402

GENERATION = {"temperature": 0.3, "min_p": 0.15, "repetition_penalty": 1.05, "eos_token_id": [7, 2]}


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
