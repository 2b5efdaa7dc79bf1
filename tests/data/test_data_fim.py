"""Fill-in-the-middle: round trip, layout of the tokens, which documents, and every refusal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.config import Data, Fim, Pretrain, Run
from jaxpo.config import Tokenizer as TokenizerConfig
from jaxpo.data.chat.chat import encode_spans
from jaxpo.data.tokenizer.tokenizer import IM_END, Tokenizer
from jaxpo.data.tokens.fim import MIDDLE, PREFIX, SUFFIX, is_chosen, spans_of, split
from jaxpo.errors import ConfigError, DataError
from jaxpo.recipe.checks.run import find_problems
from jaxpo.recipe.overrides import resolve_run

ALWAYS = {order: Fim(rate=1.0, order=order) for order in ("psm", "spm")}
CODE = [f"def f{i}(x):\n    return x * {i} + {i * i}\n" for i in range(300)]


def restored(ids, tokenizer: Tokenizer, order: str) -> str:
    """The document of rearranged tokens: the inverse of `spans_of`."""
    ids = [int(i) for i in ids]
    suf, mid, end = (tokenizer.special_ids[name] for name in (SUFFIX, MIDDLE, IM_END))
    at_suffix, at_middle = ids.index(suf), ids.index(mid)
    stop = ids.index(end, at_middle)
    before, suffix, after = ids[2:at_suffix], ids[at_suffix + 1 : at_middle], ids[at_middle + 1 : stop]
    assert order == "psm" or not before
    return "".join(tokenizer.decode(part) for part in (before, after, suffix))


@given(st.text(max_size=200), st.sampled_from(["psm", "spm"]))
def test_round_trip_of_any_text(tokenizer, text, order):
    prefix, middle, suffix = split(text, ALWAYS[order])
    assert prefix + middle + suffix == text
    ids, supervised = encode_spans(tokenizer, spans_of(text, ALWAYS[order]))
    assert restored(ids, tokenizer, order) == text
    assert supervised[1:].all()


def test_layout_of_the_tokens(tokenizer):
    text = CODE[7]
    prefix, middle, suffix = (tokenizer.encode(part) for part in split(text, ALWAYS["psm"]))
    pre, mid, suf = (tokenizer.special_ids[name] for name in (PREFIX, MIDDLE, SUFFIX))
    assert prefix
    assert middle
    assert suffix
    bos, end = tokenizer.bos_id, tokenizer.eos_id
    ids, _ = encode_spans(tokenizer, spans_of(text, ALWAYS["psm"]))
    assert ids.tolist() == [bos, pre, *prefix, suf, *suffix, mid, *middle, end]
    # The parts are encoded one by one also where no special token stands between them.
    ids, _ = encode_spans(tokenizer, spans_of(text, ALWAYS["spm"]))
    assert ids.tolist() == [bos, pre, suf, *suffix, mid, *prefix, *middle, end]


def test_borders_are_uniform_over_characters():
    text = "abcdefghi"
    borders = [split(text, Fim(seed=seed)) for seed in range(3000)]
    firsts = np.bincount([len(p) for p, _, _ in borders], minlength=10)
    # The smaller of two uniform draws from 0..9: P(k) = (19 - 2k) / 100; four standard deviations.
    expected = 3000 * (19 - 2 * np.arange(10)) / 100
    assert np.all(np.abs(firsts - expected) < 4 * np.sqrt(expected))


def documents(dataset):
    return [example.segments[0].tokens for example in dataset.store.read(range(len(dataset)))]


def rearranged(dataset, tokenizer):
    return [tokenizer.special_ids[PREFIX] in tokens for tokens in documents(dataset)]


def test_a_share_of_the_documents_is_rearranged_wherever_they_stand(prepared, write, tokenizer):
    rows = [{"text": text} for text in CODE]
    path = write(*rows, name="a.jsonl")
    settings = {"max_length": 128, "roles": ("text",)}
    half = prepared(path, "language", fim=Fim(), **settings)
    moved = rearranged(half, tokenizer)
    assert half.counts["fim_documents"] == sum(moved)
    assert 0.5 - 0.12 < np.mean(moved) < 0.5 + 0.12
    for text, tokens, is_moved in zip(CODE, documents(half), moved, strict=True):
        assert is_moved == is_chosen(text, path, Fim())
        assert restored(tokens, tokenizer, "psm") == text if is_moved else tokenizer.decode(tokens) == text
    backwards = prepared(write(*reversed(rows), name="b.jsonl"), "language", fim=Fim(), **settings)
    assert rearranged(backwards, tokenizer) == moved[::-1]
    other = prepared(path, "language", fim=Fim(seed=1), **settings)
    assert rearranged(other, tokenizer) != moved
    plain = prepared(path, "language", **settings)
    assert not any(rearranged(plain, tokenizer))
    assert len({plain.hash, half.hash, other.hash}) == 3
    assert all(e.segments[0].supervised[1:].all() for e in half.store.read(range(len(half))))


def test_only_the_named_files_and_only_what_fits(prepared, write, tokenizer, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("code.jsonl", "prose.jsonl"):
        write(*[{"text": f"{name} {text}"} for text in CODE[:20]]).rename(folder / name)
    dataset = prepared(folder, "language", max_length=128, roles=("text",), fim=Fim(rate=1.0, files=("code*",)))
    assert rearranged(dataset, tokenizer) == [True] * 20 + [False] * 20
    long = "\n".join(CODE[:60])
    dataset = prepared(
        write({"text": long}, {"text": "x = 1"}), "language", max_length=64, roles=("text",), fim=ALWAYS["psm"]
    )
    assert (dataset.counts["fim_documents"], dataset.counts["fim_too_long"]) == (1, 1)
    assert rearranged(dataset, tokenizer) == [False] * (len(dataset) - 1) + [True]


def test_refusals(prepared, files, write, tokenizer, tmp_path):
    with pytest.raises(
        ConfigError, match=r"data\.fim rearranges plain text, but .*messages\.jsonl holds 'messages' rows"
    ):
        prepared(files / "messages.jsonl", fim=Fim(), roles=("completion",))
    with pytest.raises(
        ConfigError, match=r"data\.fim\.files: \*\.py matches none of the training files \(rows\.jsonl\)"
    ):
        prepared(write({"text": "a b"}), "language", fim=Fim(files=("*.py",)), roles=("text",))
    # A tokenizer without the tokens is refused when it is read; every one that jaxpo trains has them.
    document = json.loads(tokenizer._inner.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] != SUFFIX]
    document["model"]["vocab"] = {k: v for k, v in document["model"]["vocab"].items() if k != SUFFIX}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id(SUFFIX) is None
    with pytest.raises(DataError, match=r"the vocabulary has no <\|fim_suf\|>.*Use an LFM2 tokenizer, or train one"):
        Tokenizer.load(tmp_path)


def test_flags_switch_it_on_and_its_rate_is_checked(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "one"}\n')
    data = Data(train=(str(rows),))
    run = Run(tokenizer=TokenizerConfig(train_on=(str(rows),)), stages=(Pretrain(data=data, max_steps=1),))
    on = resolve_run(run, ["--pretrain.data.fim.order", "spm", "--stage.data.fim.rate", "0.3"])
    assert on.run.stages[0].data.fim == Fim(rate=0.3, order="spm")
    assert resolve_run(run, ["--stage.data.fim"]).run.stages[0].data.fim == Fim()
    assert resolve_run(on.run, ["--stage.data.fim", "None"]).run.stages[0].data.fim is None
    wrong = dataclasses.replace(run.stages[0], data=dataclasses.replace(data, fim=Fim(rate=0.0, order="mps")))
    [found] = find_problems(dataclasses.replace(run, stages=(wrong,)))
    assert found == "pretrain.data.fim.order: expected one of psm, spm, got 'mps'."
    wrong = dataclasses.replace(run.stages[0], data=dataclasses.replace(data, fim=Fim(rate=0.0)))
    [found] = find_problems(dataclasses.replace(run, stages=(wrong,)))
    assert found == "pretrain.data.fim.rate: 0 must lie in (0, 1]; None rearranges nothing."
