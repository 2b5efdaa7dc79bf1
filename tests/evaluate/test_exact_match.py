"""The verifier on texts whose answer is known, and the probe on models whose answers are known."""

from __future__ import annotations

import json
from fractions import Fraction

import jax
import jax.numpy as jnp
import pytest

from jaxpo.corpora.arithmetic import HELD_OUT, Arithmetic
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import DataError
from jaxpo.evaluate import exact_match
from jaxpo.evaluate.context import ProbeContext
from jaxpo.evaluate.exact_match import ExactMatch, greedy_answers
from jaxpo.evaluate.final_answer import final_answer, grade
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.sampling.fitted import fitted
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.text import requests_for


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7\n#### 7", 7),
        ("#### 7 and then 8", 7),
        ("#### 3\n#### 4", 4),
        ("He has 12 apples. The answer is 1,234.", 1234),
        ("#### $1,234.50", Fraction("1234.5")),
        ("#### -3", -3),
        ("#### 7.", 7),
        ("#### 7.0", 7),
        ("3,4", 4),
        ("1,2345", 2345),
        ("it is 10, I think", 10),
        ("3 + 4 = 7\n####", None),
        ("none", None),
        ("", None),
    ],
)
def test_final_answers(text, number):
    assert final_answer(text) == number


def test_grades_compare_numbers():
    assert grade("#### 7.0", "7")
    assert grade("so 1,000", 1000)
    assert grade("#### 18", "16 - 3 = <<16-3=13>>13\n#### 18"), "a GSM8K solution serves as the answer"
    assert not grade("#### 70", "7")
    assert not grade("no idea", "0")
    with pytest.raises(ValueError, match="holds no number"):
        grade("#### 7", "seven")


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    Arithmetic(train=6, heldout=24).build(folder)
    texts = [row["prompt"][0]["content"] for row in map(json.loads, (folder / HELD_OUT).read_text().splitlines())]
    tokenizer = train_tokenizer(texts, 300)
    config = LFM2Config(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=("conv",),
        initializer_range=0.3,
        max_position_embeddings=256,
    )
    params = init_params(param_table(config), jax.random.key(0))
    return ProbeContext(params, Scorer(config), tokenizer, "initial", folder, corpus_dir=folder)


def rows_of(context):
    return [json.loads(line) for line in (context.corpus_dir / HELD_OUT).read_text().splitlines()]


def test_the_probe_counts_right_answers_in_all_and_per_level(context, monkeypatch):
    """Answers are given: right on levels 1 and 2, wrong on 3, without an answer on the rest."""

    def answered(params, config, tokenizer, prompts, *, max_new_tokens, dtype):
        by_prompt = {row["prompt"][0]["content"]: row for row in rows_of(context)}
        found = [by_prompt[p[-1]["content"]] for p in prompts]
        tails = {1: "#### {}", 2: "so {}.", 3: "#### {}1"}
        return [tails.get(row["level"], "####").format(row["answer"]) for row in found]

    monkeypatch.setattr(exact_match, "greedy_answers", answered)
    measured = ExactMatch((f"corpus:{HELD_OUT}",), prompts=24).measure(context)
    assert measured["exact_match"].value == pytest.approx(8 / 24)
    assert measured["exact_match"].low < 8 / 24 < measured["exact_match"].high
    levels = [measured[f"exact_match_level_{level}"] for level in range(1, 7)]
    assert [m.value for m in levels] == [1, 1, 0, 0, 0, 0]
    assert [m.n for m in levels] == [4] * 6


def test_the_probe_reads_what_a_model_writes(context):
    """A model whose every next token is one digit answers with a run of it; the right answer is that number."""
    digit = context.tokenizer.encode("7")[0]
    shape = context.params["embed_tokens"]["weight"].shape
    params = jax.tree.map(jnp.zeros_like, context.params)
    params["embedding_norm"]["weight"] = jnp.ones(shape[1])
    params["embed_tokens"]["weight"] = jnp.ones(shape).at[digit].multiply(4.0)
    context.run_dir.joinpath("sevens.jsonl").write_text(
        "".join(json.dumps({"prompt": "How many?", "completion": f"#### {a}", "level": 1}) + "\n" for a in (777, 7))
    )
    import dataclasses

    probe = ExactMatch(("corpus:sevens.jsonl",), max_new_tokens=3, name="sevens", by_level=False)
    measured = probe.measure(dataclasses.replace(context, params=params))
    assert set(measured) == {"sevens"}
    assert measured["sevens"].value == 0.5
    assert measured["sevens"].n == 2


def test_greedy_answers_are_the_most_likely_ones(context):
    prompts = [row["prompt"] for row in rows_of(context)[:3]]
    arguments = (context.params, context.scorer.config, context.tokenizer, prompts)
    template = Request((), max_new_tokens=4, sampler=Sampler(temperature=1e-4))
    requests = requests_for(context.tokenizer, prompts, template)
    cold = fitted(context.params, context.scorer.config, requests, tokenizer=context.tokenizer).generate(requests)
    assert greedy_answers(*arguments, max_new_tokens=4) == [answer.text for answer in cold]


def test_a_row_without_an_answer_is_named(context):
    (context.run_dir / "bare.jsonl").write_text('{"prompt": "How many?", "completion": "Seven."}\n')
    with pytest.raises(
        DataError, match=r"bare\.jsonl, row 1, field 'completion': 'Seven\.' holds no number.*column `answer`"
    ):
        ExactMatch(("corpus:bare.jsonl",)).measure(context)
