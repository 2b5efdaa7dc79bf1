"""generate, chat, export, import and merge on a one-layer model."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpo.cli import chat
from jaxpo.convert.model_io import load_model
from jaxpo.sampling.fitted import fitted
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import GREEDY, Sampler
from jaxpo.sampling.text import encode_prompt

Command = Callable[..., tuple[int, str, str]]


def leaves(path: Path) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(load_model(path).params["model"])]


def greedy(path: Path, prompt: object, length: int, sampler: Sampler = GREEDY) -> str:
    loaded = load_model(path)
    assert loaded.tokenizer is not None
    request = Request(encode_prompt(loaded.tokenizer, prompt), max_new_tokens=length, sampler=sampler)  # type: ignore
    (found,) = fitted(loaded.params["model"], loaded.config, [request], tokenizer=loaded.tokenizer).generate([request])
    return str(found.text)


def test_generate_answers_with_the_chat_template(run: Command, model: Path) -> None:
    code, out, err = run("generate", model, "read the file", "--max_new_tokens", "6")
    assert (code, err) == (0, "")
    assert out == greedy(model, [{"role": "user", "content": "read the file"}], 6) + "\n"
    raw = run("generate", model, "read the file", "--max-new-tokens", "6", "--raw")[1]
    assert raw == greedy(model, "read the file", 6) + "\n"


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
def test_penalties_reach_the_answer(run: Command, model: Path, name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    code, out, _ = run("generate", model, "read the file", "--raw", "--max-new-tokens", "24", flag, "2")
    assert code == 0
    assert out == greedy(model, "read the file", 24, Sampler(temperature=0.0, **{name: 2.0})) + "\n"
    assert out != greedy(model, "read the file", 24) + "\n"


def test_generate_json_and_files(run: Command, model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "open"}\n{"prompt": [{"role": "user", "content": "close"}]}\n')
    common = ("--n", "2", "--temperature", "1", "--max-new-tokens", "5", "--json")
    code, out, _ = run("generate", model, "--file", prompts, *common)
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(r["prompt"], r["sample"]) for r in rows[:2]] == [("open", 0), ("open", 1)]
    assert len(rows) == 4
    assert all(len(r["tokens"]) == len(r["logps"]) <= 5 and max(r["logps"]) <= 0 for r in rows)
    assert run("generate", model, "--file", prompts, *common)[1] == out
    assert run("generate", model, "--file", prompts, *common, "--seed", "1")[1] != out


def test_a_rows_tools_and_system_message_are_asked_with(run: Command, model: Path, tmp_path: Path) -> None:
    question = {"prompt": [{"role": "user", "content": "open"}]}
    rows = (question, question | {"tools": [{"name": "f"}]}, question | {"system": "close"})
    common = ("--max-new-tokens", "4", "--json")
    answers = []
    for row in rows:
        (tmp_path / "prompts.jsonl").write_text(json.dumps(row) + "\n")
        code, out, _ = run("generate", model, "--file", tmp_path / "prompts.jsonl", *common)
        assert code == 0
        answers.append(json.loads(out)["logps"])
    assert answers[0] not in answers[1:]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["MODEL"], "generate: give a prompt, or --file FILE."),
        (["MODEL", "x", "--raw", "--system", "s"], "generate: --system needs the chat template; leave out --raw."),
        (["MODEL", "x", "--top-p", "2"], "sampler.top_p is 2.0; it must be in (0, 1] (1 = off)"),
        (
            ["MODEL", "x", "--frequency-penalty", "3"],
            "sampler.frequency_penalty is 3.0; it must be in [-2, 2] (0 = off)",
        ),
        (["MODEL", "--file", "gone.txt"], "--file: there is no file gone.txt."),
        (["gone", "x"], "there is no folder gone; give a run directory, a stage directory or an HF export"),
    ],
)
def test_generate_mistakes(run: Command, model: Path, argv: list[str], message: str) -> None:
    code, out, err = run("generate", *(model if a == "MODEL" else a for a in argv))
    assert (code, out, err) == (2, "", f"jaxpo: {message}\n")


def test_a_model_without_a_tokenizer(run: Command, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "model").symlink_to(model / "model")
    code, _, err = run("generate", tmp_path / "bare", "x")
    assert code == 2
    assert "holds no tokenizer, so text cannot be generated" in err


def test_chat_introduces_streams_and_remembers(run: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["read", "", "write", "/reset", "read", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    code, out, _ = run("chat", model, "--temperature", "0", "--repetition-penalty", "1", "--max-new-tokens", "6")
    assert code == 0
    count = sum(x.size for x in leaves(model))
    assert out.splitlines()[0] == (
        f"{count:,} parameters, trained on docs.jsonl (9 examples): it imitates the wording of those texts, and cannot "
        "reason, calculate or know anything else."
    )
    first = greedy(model, [{"role": "user", "content": "read"}], 6)
    turns = [("user", "read"), ("assistant", first), ("user", "write")]
    second = greedy(model, [{"role": r, "content": c} for r, c in turns], 6)
    assert out == "\n".join([*out.splitlines()[:2], first, second, first]) + "\n"


def test_chat_ends_with_its_input(run: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    assert run("chat", model)[0] == 0


def test_chat_drops_the_oldest_turns_when_the_context_is_full(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_model(model)
    turns = [{"role": r, "content": "read write " * 4} for r in ("user", "assistant", "user", "assistant", "user")]
    speaker = chat.Speaker(loaded, argparse.Namespace(context=128, slots=1))
    kept = chat.fitting(speaker, turns, reply=60)
    assert 0 < len(kept) < 5
    assert kept == turns[-len(kept) :]
    assert kept[0]["role"] == "user"
    assert capsys.readouterr().out == "(the context of 128 tokens is full: the oldest turns were dropped)\n"
    assert chat.fitting(speaker, turns[:1], reply=60) == turns[:1]


def test_export_and_import_return_the_same_bits(run: Command, model: Path, tmp_path: Path) -> None:
    code, out, err = run("export", model, tmp_path / "hf")
    assert (code, err) == (0, "")
    first, head, row = out.splitlines()
    assert first == f"{tmp_path / 'hf'}: exported"
    assert head.split() == ["format", "file", "size", "verified", "by", "largest", "difference"]
    assert row.startswith("hf      model.safetensors ")
    assert " nats, KL " in row
    before = sorted(p.name for p in (tmp_path / "hf").iterdir())
    code, out, err = run("import", tmp_path / "hf", tmp_path / "back")
    assert (code, err) == (0, "")
    count = sum(x.size for x in leaves(model))
    assert out.splitlines()[1] == f"{tmp_path / 'back'}: {count:,} parameters, read back bit for bit"
    assert sorted(p.name for p in (tmp_path / "hf").iterdir()) == before
    for a, b in zip(leaves(model), leaves(tmp_path / "back"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert load_model(tmp_path / "back").tokenizer is not None


def test_an_import_that_was_interrupted_leaves_nothing_that_looks_like_a_model(
    run: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights were there, without the tokenizer; and the same command said that the folder exists."""
    assert run("export", model, tmp_path / "hf", "--no-verify")[0] == 0

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxpo.data.tokenizer.tokenizer.Tokenizer.save", interrupted)
        assert run("import", tmp_path / "hf", tmp_path / "back", "--no-verify")[0] == 130
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]
    assert run("import", tmp_path / "hf", tmp_path / "back", "--no-verify")[0] == 0


def test_nothing_is_overwritten_unasked(run: Command, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    code, _, err = run("export", model, tmp_path)
    assert (code, "exists already" in err) == (2, True)
    code, _, err = run("import", model, tmp_path)
    assert (code, err) == (2, f"jaxpo: {tmp_path}: exists already; choose another directory.\n")
    code, _, err = run("import", tmp_path / "gone", tmp_path / "out")
    assert (code, err) == (2, f"jaxpo: there is no folder {tmp_path / 'gone'}.\n")
    code, _, err = run("import", "LiquidAI/LFM2-350M", tmp_path / "out")
    assert (code, "Hub: hf download LiquidAI/LFM2-350M --local-dir LFM2-350M" in err) == (2, True)
    code, _, err = run("import", tmp_path / "file", tmp_path / "out")
    assert (code, "file is a file; give the folder that holds config.json" in err) == (2, True)


def test_merge_is_the_weighted_mean(run: Command, model: Path, other_model: Path, tmp_path: Path) -> None:
    code, out, err = run("merge", model, other_model, "--weights", "3", "1", "--out", tmp_path / "soup")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == [f"  0.7500 x {model}", f"  0.2500 x {other_model}"]
    for a, b, c in zip(leaves(model), leaves(other_model), leaves(tmp_path / "soup"), strict=True):
        np.testing.assert_allclose(c, 0.75 * a.astype(np.float64) + 0.25 * b, rtol=1e-6, atol=1e-7)
    code, out, _ = run("merge", model, other_model, "--out", tmp_path / "even", "--no-verify")
    assert out.splitlines()[0] == f"  0.5000 x {model}"
    assert out.endswith("exported, not verified\n")


def test_merge_mistakes(run: Command, model: Path, other_model: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "soup")
    assert run("merge", model, *out)[2] == "jaxpo: merge: give two models or more.\n"
    code, _, err = run("merge", model, other_model, "--weights", "1", *out)
    assert code == 2
    assert (
        err == f"jaxpo: merge: weights: 1 weights for 2 models ({model}, {other_model}); give one weight per model.\n"
    )
    code, _, err = run("merge", model, other_model, "--weights", "1", "-1", *out)
    assert code == 2
    assert "sum to 0" in err


def test_merge_refuses_unlike_models() -> None:
    from jaxpo.stages.merging.files import unlike

    def fake(width: int, hash: str) -> argparse.Namespace:
        return argparse.Namespace(config=argparse.Namespace(hidden_size=width), tokenizer=argparse.Namespace(hash=hash))

    assert unlike(fake(8, "a"), fake(8, "a"), Path("b")) == []
    assert unlike(fake(8, "a"), fake(16, "c"), Path("b")) == [
        "b: hidden_size is 16, the first model has 8; only equal models can be averaged.",
        "b: has another tokenizer than the first model, so the same row means another token.",
    ]


def test_large_models_are_introduced_without_the_warning_of_small_ones() -> None:
    size = math.ceil(chat.SMALL / 2) * 2
    abstract = {"model": {"w": jax.ShapeDtypeStruct((2, size // 2), np.float32)}}
    fake = argparse.Namespace(params=abstract, about={"trained_on": "much text"})
    assert chat.introduction(fake) == "100.0 million parameters, trained on much text; its statements may be wrong."


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_quantize_measures_and_writes_an_ordinary_checkpoint(
    run: Command, model: Path, tmp_path: Path, method: str
) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"open the file {i} and read the list"}) + "\n" for i in range(30)))
    out = tmp_path / "small"
    flags = ("--group", "16", "--method", method, "--text", text, "--length", "32", "--windows", "4")
    code, shown, err = run("quantize", model, out, *flags)
    assert (code, err) == (0, "")
    assert "bits per byte before" in shown
    assert "bits per byte after" in shown
    record = json.loads((out / "quantization.json").read_text())
    assert (record["grid"], record["group"], record["method"]) == ("int4", 16, method)
    assert record["bits_per_byte"]["after"] != record["bits_per_byte"]["before"]
    w = np.asarray(load_model(out).params["model"]["layers"]["1"]["feed_forward"]["w2"]["weight"])
    assert len(np.unique(w[:16, 0])) <= 15
    assert len(leaves(out)) == len(leaves(model))


def test_quantize_says_what_is_wrong_before_it_works(run: Command, model: Path, tmp_path: Path) -> None:
    text = tmp_path / "one.txt"
    text.write_text("x")
    assert "too short to hold out" in run("quantize", model, tmp_path / "q", "--text", text)[2]
    assert "group is -1" in run("quantize", model, tmp_path / "q", "--text", text, "--group", "-1")[2]
    assert "has 4 bits" in run("quantize", model, tmp_path / "q", "--text", text, "--grid", "q4_0", "--bits", "8")[2]
    good = tmp_path / "good.jsonl"
    good.write_text('{"text": "open the file"}\n' * 20)
    assert "must lie in 2 to 128" in run("quantize", model, tmp_path / "q", "--text", good, "--length", "4096")[2]
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    assert "exists already" in run("quantize", model, tmp_path / "there", "--text", good, "--length", "32")[2]
    assert not (tmp_path / "q").exists()
