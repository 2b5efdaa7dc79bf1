"""Probes on a one-layer model, against float64 references and models whose answers are known."""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import DataError
from jaxpo.evaluate.context import ProbeContext
from jaxpo.evaluate.perplexity import bits_per_byte, encode_records, read_records, shuffle_prompts
from jaxpo.evaluate.probes import Baselines, BitsPerByte, EndsByItself, RankingAccuracy, SFTLoss
from jaxpo.evaluate.ranking import PairScores, accuracy, ranking_accuracy, score_pairs, shorter_wins, without_prompts
from jaxpo.evaluate.score import fill_rows, token_logps
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer

LENGTH = 64
TEXTS = ["Short.", "A longer document, héhé, " * 12, "Another one of middle size, with words."]
DIALOGUE = [("What is a?", "The first letter."), ("And b?", "The one after it."), ("And c?", "Ask b.")]


def user(text):
    return [{"role": "user", "content": text}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write(folder / "text.jsonl", [{"text": t} for t in TEXTS])
    write(folder / "train.jsonl", [{"text": " ".join(TEXTS)}])
    write(folder / "sft.jsonl", [{"prompt": user(q), "completion": assistant(a)} for q, a in DIALOGUE])
    pairs = [{"prompt": user(q), "chosen": assistant(a), "rejected": assistant(a + " Or not.")} for q, a in DIALOGUE]
    write(folder / "pairs.jsonl", pairs)
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def scorer(tokenizer) -> Scorer:
    return Scorer(
        LFM2Config(
            vocab_size=tokenizer.vocab_size,
            hidden_size=16,
            intermediate_size=32,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            layer_types=("full_attention",),
            initializer_range=0.3,
            max_position_embeddings=256,
        )
    )


@pytest.fixture(scope="module")
def params(scorer):
    return init_params(param_table(scorer.config), jax.random.key(0))


@pytest.fixture(scope="module")
def context(params, scorer, tokenizer, corpus):
    return ProbeContext(
        params=params,
        scorer=scorer,
        tokenizer=tokenizer,
        stage="initial",
        run_dir=corpus,
        corpus_dir=corpus,
        rows=4,
        row_length=LENGTH,
    )


def uniform(context: ProbeContext) -> ProbeContext:
    """The same model with all parameters zero: every token has probability 1 / V."""
    import dataclasses

    return dataclasses.replace(context, params=jax.tree.map(jnp.zeros_like, context.params))


@functools.cache
def compiled_forward(config: LFM2Config):
    from jaxpo.models.lfm2.forward import forward

    return jax.jit(functools.partial(forward, config=config))


def alone(context: ProbeContext, tokens: np.ndarray) -> np.ndarray:
    """One sequence, unpacked and unpadded, with a float64 log-softmax over dense logits."""
    from jaxpo.models.lfm2.forward import unembedding

    row = np.asarray(tokens)[None]
    hidden, _ = compiled_forward(context.scorer.config)(
        context.params, row, np.ones_like(row), np.arange(len(tokens), dtype=np.int32)[None]
    )
    logits = np.asarray(hidden[0], np.float64) @ np.asarray(unembedding(context.params), np.float64).T
    logits -= logits.max(-1, keepdims=True)
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.concatenate([[0.0], logps[np.arange(len(tokens) - 1), tokens[1:]]])


def test_packed_scores_equal_one_sequence_at_a_time(context):
    generator = np.random.default_rng(0)
    segments = [generator.integers(0, 300, n).astype(np.int32) for n in (1, 2, 64, 33, 9)]
    scores = context.logps(segments)
    assert [len(s) for s in scores] == [len(s) for s in segments]
    for score, segment in zip(scores, segments, strict=True):
        np.testing.assert_allclose(score, alone(context, segment), atol=2e-5)


def test_rows_are_filled_without_overflow():
    lengths = np.random.default_rng(1).integers(1, 65, 300).tolist()
    rows = fill_rows(lengths, 64, 8)
    assert sorted(i for row in rows for i in row) == list(range(300))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 64
    assert max(len(row) for row in rows) <= 8
    assert sum(lengths) / (64 * len(rows)) > 0.95


def test_a_sequence_longer_than_a_row_is_refused(context):
    with pytest.raises(DataError, match="65 tokens does not fit rows of 64"):
        token_logps(context.scorer, context.params, [np.zeros(65, np.int32)], rows=4, row_length=LENGTH)


def test_bits_per_byte_counts_every_token_and_byte_once(context, tokenizer):
    measured = BitsPerByte(("corpus:text.jsonl",), LENGTH).measure(uniform(context))["bits_per_byte"]
    # Every token of the text and one end token per document, however long the documents are.
    tokens = sum(len(tokenizer.encode(t)) + 1 for t in TEXTS)
    assert len(tokenizer.encode(TEXTS[1])) > LENGTH, "one document must be longer than the window"
    expected = tokens * math.log2(tokenizer.vocab_size) / sum(len(t.encode()) for t in TEXTS)
    assert measured.value == pytest.approx(expected, rel=1e-5)
    assert measured.n == len(TEXTS)
    assert measured.low <= measured.value <= measured.high


def test_bits_per_byte_of_a_short_document_by_hand(context, tokenizer):
    ids = np.asarray([tokenizer.bos_id, *tokenizer.encode(TEXTS[2]), tokenizer.eos_id], np.int32)
    expected = -alone(context, ids).sum() / math.log(2) / len(TEXTS[2].encode())
    assert bits_per_byte(context.logps, tokenizer, [TEXTS[2]], LENGTH).value == pytest.approx(expected, rel=1e-5)


def test_sft_loss_counts_answers_only(context, tokenizer, corpus):
    measured = SFTLoss(("corpus:sft.jsonl",), LENGTH).measure(context)
    total = tokens = 0
    for question, answer in DIALOGUE:
        given = [tokenizer.bos_id, tokenizer.special_ids["<|im_start|>"], *tokenizer.encode(f"user\n{question}")]
        given += [tokenizer.eos_id, *tokenizer.encode("\n")]
        given += [tokenizer.special_ids["<|im_start|>"], *tokenizer.encode("assistant\n")]
        learnt = [*tokenizer.encode(answer), tokenizer.eos_id, *tokenizer.encode("\n")]
        total -= alone(context, np.asarray(given + learnt, np.int32))[len(given) :].sum()
        tokens += len(learnt)
    assert measured["sft_loss"].value == pytest.approx(total / tokens, rel=1e-5)
    assert measured["sft_loss"].n == 3
    assert measured["sft_loss_shuffled_questions"].value != measured["sft_loss"].value


def test_shuffling_moves_every_question_and_no_answer(corpus, tmp_path):
    records = read_records([corpus / "sft.jsonl"], "prompt_completion")
    shuffled = shuffle_prompts(records)
    assert all(a.sides[0].prompt != b.sides[0].prompt for a, b in zip(records, shuffled, strict=True))
    assert [r.sides[0].completion for r in records] == [r.sides[0].completion for r in shuffled]
    same = [{"prompt": "q", "completion": c} for c in ("a", "b")]
    write(tmp_path / "same.jsonl", same)
    with pytest.raises(DataError, match=r"same\.jsonl: all questions are the same"):
        shuffle_prompts(read_records([tmp_path / "same.jsonl"], "prompt_completion"))


def test_files_of_another_type_are_refused(corpus):
    with pytest.raises(DataError, match=r"sft\.jsonl, row 1: is of type 'prompt_completion'.*'preference'"):
        read_records([corpus / "sft.jsonl"], "preference")
    with pytest.raises(DataError, match=r"row 1, field 'text'.*plain text"):
        BitsPerByte((str(corpus / "sft.jsonl"),)).measure(ProbeContext(None, None, None, "initial", corpus))  # type: ignore[arg-type]


def test_pair_scores_are_sums_over_answer_tokens(context, tokenizer, corpus):
    records = read_records([corpus / "pairs.jsonl"], "preference")
    examples = encode_records(records, tokenizer, LENGTH)
    scores = score_pairs(context.logps, examples)
    for i, example in enumerate(examples):
        for side, sums, counts in (
            ("chosen", scores.chosen, scores.chosen_tokens),
            ("rejected", scores.rejected, scores.rejected_tokens),
        ):
            segment = example.segments[example.roles[side]]
            reference = alone(context, segment.tokens)
            assert sums[i] == pytest.approx(reference[segment.supervised].sum(), rel=1e-4)
            assert counts[i] == segment.supervised.sum()


def test_a_prompt_longer_than_the_window_loses_its_start(tokenizer, tmp_path):
    write(tmp_path / "long.jsonl", [{"prompt": user("word " * 200 + "end?"), "completion": assistant("Yes.")}])
    segment = encode_records(read_records([tmp_path / "long.jsonl"], "prompt_completion"), tokenizer, LENGTH)[
        0
    ].segments[0]
    assert len(segment.tokens) == LENGTH
    assert tokenizer.decode(segment.tokens[segment.supervised]).strip() == "Yes."
    assert "end?" in tokenizer.decode(segment.tokens)


def test_ranking_rules_by_hand():
    scores = PairScores(*map(np.asarray, ([-4.0, -6.0, -1.0], [-9.0, -6.0, -2.0], [2, 2, 1], [3, 2, 4])))
    assert ranking_accuracy(scores).value == pytest.approx((1 + 0.5 + 0) / 3)
    assert shorter_wins(scores).value == pytest.approx((1 + 0.5 + 1) / 3)
    assert accuracy(np.zeros(4), np.ones(4)).value == 0.0


def test_without_prompts_nothing_of_the_question_is_left(tokenizer, corpus):
    records = without_prompts(read_records([corpus / "pairs.jsonl"], "preference"))
    text = tokenizer.decode(encode_records(records, tokenizer, LENGTH)[0].segments[0].tokens)
    assert "What is" not in text
    assert "The first letter." in text


def test_changes_are_reported_against_the_model_before(context):
    import dataclasses

    probe = RankingAccuracy(("corpus:pairs.jsonl",), max_length=LENGTH)
    first = probe.measure(context)
    assert set(first) == {"ranking_accuracy", "ranking_accuracy_no_prompt", "ranking_accuracy_shorter_wins"}
    assert first["ranking_accuracy_shorter_wins"].value == 1.0
    unchanged = probe.measure(dataclasses.replace(context, before=context.params))
    assert unchanged["ranking_change_chosen_logp"].value == 0.0
    before = jax.tree.map(jnp.zeros_like, context.params)
    changed = probe.measure(dataclasses.replace(context, before=before))
    records = encode_records(
        read_records(context.files(("corpus:pairs.jsonl",)), "preference"), context.tokenizer, LENGTH
    )
    mean_now = score_pairs(context.logps, records).mean_chosen.mean()
    expected = mean_now + math.log(context.scorer.config.vocab_size)
    assert changed["ranking_change_chosen_logp"].value == pytest.approx(expected, rel=1e-5)


def test_answers_end_when_the_model_says_so(context, tokenizer):
    import dataclasses

    probe = EndsByItself(("corpus:sft.jsonl",), prompts=3, max_new_tokens=8)
    shape = context.params["embed_tokens"]["weight"].shape
    direction = jnp.ones(shape[1])
    # Every token embeds along one direction, so the row that is longest along it is always the answer.
    for winner, expected in ((tokenizer.eos_id, 1.0), (20, 0.0)):
        weight = jnp.ones(shape) * direction
        params = jax.tree.map(jnp.zeros_like, context.params)
        params["embedding_norm"]["weight"] = jnp.ones(shape[1])
        params["embed_tokens"]["weight"] = weight.at[winner].multiply(4.0)
        measured = probe.measure(dataclasses.replace(context, params=params))
        assert measured["ends_by_itself"].value == expected
        assert measured["ends_by_itself"].n == 3
        assert measured["answer_tokens"].value == (1.0 if expected else 8.0)


def test_baselines_are_measured_once(context):
    import dataclasses

    probe = Baselines(("corpus:train.jsonl",), ("corpus:text.jsonl",))
    measured = probe.measure(context)
    assert measured["xz_primed_bits_per_byte"].value < measured["xz_bits_per_byte"].value
    assert 0 < measured["byte_4gram_bits_per_byte"].value < 8
    assert measured["xz_bits_per_byte"].low is None
    assert probe.measure(dataclasses.replace(context, stage="pretrain")) == {}


def test_one_shape_is_compiled_once_for_all_probes(context):
    from jaxpo.evaluate import score

    probes = [
        BitsPerByte(("corpus:text.jsonl",), LENGTH),
        SFTLoss(("corpus:sft.jsonl",), LENGTH),
        RankingAccuracy(("corpus:pairs.jsonl",), max_length=LENGTH),
    ]
    names = Counter(name for probe in probes for name in probe.measure(context))
    assert max(names.values()) == 1
    compiled = score._logps._cache_size()
    for probe in probes:
        probe.measure(context)
    assert score._logps._cache_size() == compiled
