"""The regularised relevance reward: every factor by hand, its branches, what may be switched off, what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError, RunError
from jaxpo.evaluate.rewards.proxy_gold import agreement, of_run, spearman
from jaxpo.judges.asking import Item
from jaxpo.judges.encoders import FunctionEncoder, NetworkEncoder, WordEncoder, words
from jaxpo.objectives.methods.ppo import PPO
from jaxpo.online.penalty import next_coef
from jaxpo.online.rewards.r3 import R3Reward, length_incentive, repetition_penalty

HERE = Path(__file__)
DISTINCT = [f"w{i}" for i in range(40)]


def vectors(texts):
    """Two numbers of a text, not normalised."""
    return [[len(words(text)) / 10, float("cat" in text)] for text in texts]


def shapeless(texts):
    return [1.0 for _ in texts]


def row(kind="open", **data):
    return Row(HERE, 3, {"prompt": "what is a cat", "query_type": kind, **data})


def score(reward, *answers, kind="open", prompt="what is a cat", **data):
    items = [Item(prompt, answer, row(kind, **data)) for answer in answers]
    return [reply.value for reply in reward.open(lambda name: None)(items)]


def rel(a, b):
    """Shared words as shares of both texts."""
    one, two = words(a.lower()), words(b.lower())
    return sum(one.count(w) / len(one) * two.count(w) / len(two) for w in set(one))


def test_words_are_runs_of_word_characters_or_of_punctuation():
    assert words("It's 3.5, isn't it?!") == ["It", "'", "s", "3", ".", "5", ",", "isn", "'", "t", "it", "?!"]
    assert length_incentive("a b, c") == 0.04
    assert length_incentive("") == 0


def test_repetition_is_the_share_of_distinct_trigrams():
    for n in (3, 4, 10):
        assert repetition_penalty(" ".join(["a"] * n)) == pytest.approx(1 / (n - 2))
        assert repetition_penalty(" ".join(DISTINCT[:n])) == 1
    assert repetition_penalty("") == repetition_penalty("a") == repetition_penalty("a b") == 1


def test_copying_oneself_buys_nothing():
    n = 30
    text = " ".join(DISTINCT[:n])
    once, twice = (length_incentive(t) * repetition_penalty(t) for t in (text, f"{text} {text}"))
    assert once == pytest.approx(n / 100)
    assert repetition_penalty(f"{text} {text}") == pytest.approx(n / (2 * n - 2))
    assert twice == pytest.approx(2 * n / 100 * n / (2 * n - 2))
    assert twice == pytest.approx((n + 1) / 100, rel=2e-3)


def test_open_questions_are_paid_by_the_product():
    answers = ["a cat is an animal", "a cat is a cat is a cat", "", "no idea at all"]
    expected = [rel("what is a cat", a) * len(words(a)) / 100 * repetition_penalty(a) if a else 0 for a in answers]
    np.testing.assert_allclose(score(R3Reward(), *answers), expected, rtol=1e-9)
    assert score(R3Reward(), "")[0] == 0
    twice = score(R3Reward(encoder=WordEncoder(scale=2.0)), answers[0])[0]
    assert twice == pytest.approx(4 * expected[0])  # linear in the relevance, which is no cosine


def test_constrained_questions_are_compared_with_their_reference_at_any_length():
    reward, reference = R3Reward(), "a small animal"
    short, long = "a small animal", "a small animal " + " ".join(DISTINCT[:20])
    got = score(reward, short, long, kind="constrained", reference=reference)
    expected = [rel(reference, a) / 3.5 * 5.12 * repetition_penalty(a) for a in (short, long)]
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert got[0] > got[1]
    same = R3Reward(encoder=FunctionEncoder(f"{HERE}:one"))
    got = score(same, " ".join(DISTINCT[:5]), " ".join(DISTINCT), kind="constrained", reference=reference)
    np.testing.assert_allclose(got, 5.12)  # of equal relevance and repetition; F(3.5) = 512 / 100
    opened = score(same, " ".join(DISTINCT[:5]), " ".join(DISTINCT))
    np.testing.assert_allclose(opened, [3.5 * 0.05, 3.5 * 0.4])


def one(texts):
    """Any two texts have a relevance of 3.5."""
    return np.full((len(texts), 1), np.sqrt(3.5))


def test_factors_may_be_switched_off():
    answer = "a cat a cat a cat a cat"
    assert score(R3Reward(relevance=False, repetition=False), answer)[0] == 0.08
    assert score(R3Reward(relevance=False), answer)[0] == pytest.approx(0.08 * 2 / 6)
    assert score(R3Reward(length=False, repetition=False), answer)[0] == pytest.approx(rel("what is a cat", answer))
    narrow = score(R3Reward(branches=False), answer, kind="constrained")
    np.testing.assert_allclose(narrow, score(R3Reward(), answer))


def test_off_topic_and_long_loses_against_short_and_on_topic_where_length_alone_would_win():
    off, on = " ".join(DISTINCT), "a cat is small"
    assert np.argmax(score(R3Reward(), off, on)) == 1
    assert np.argmax(score(R3Reward(relevance=False, repetition=False), off, on)) == 0


def test_answers_are_cut_where_somebody_else_speaks():
    answer = "a cat is small"
    for more in ("\nHuman: and a dog?", "\n### Response: a cat", "\n----------------\na cat"):
        assert score(R3Reward(), answer + more) == score(R3Reward(), answer)
    assert score(R3Reward(cut_at=""), answer + "\nHuman: and") != score(R3Reward(), answer)


def test_a_conversation_is_asked_by_its_last_turn():
    turns = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "what is a cat"}]
    assert score(R3Reward(), "a cat", prompt=turns) == score(R3Reward(), "a cat")


class _Network:
    def embed(self, texts):
        return np.asarray(vectors(texts), np.float32)

    def fingerprint(self):
        return "f"


def test_encoders_can_be_plugged_in():
    answer = "the cat sat here"
    product = 0.4 * 0.4 + 1
    by_function = R3Reward(encoder=FunctionEncoder(f"{HERE}:vectors"), length=False)
    assert score(by_function, answer)[0] == pytest.approx(product)
    by_network = R3Reward(encoder=NetworkEncoder("sft"), length=False)
    reply = by_network.open({"sft": _Network()}.__getitem__)([Item("what is a cat", answer, row())])[0]
    assert reply.value == pytest.approx(product, rel=1e-6)
    assert by_network.models() == ("sft",)
    assert by_network.identity({"sft": _Network()}.__getitem__)["encoder"] == {"encoder": "network", "model": "f"}
    with pytest.raises(RunError, match=r"gave an array of shape \(1,\) for 1 texts"):
        score(R3Reward(encoder=FunctionEncoder(f"{HERE}:shapeless")), answer)


@pytest.mark.parametrize(("reward", "rows", "error", "message"), [
    (R3Reward(encoder="words"), [], ConfigError, "encoder is 'words'"),
    (R3Reward(best=0.0), [], ConfigError, "best is 0.0"),
    (R3Reward(cut_at="("), [], ConfigError, "no regular expression"),
    (R3Reward(relevance=False, length=False, repetition=False), [], ConfigError, "are all off"),
    (R3Reward(encoder=WordEncoder(dimensions=0)), [], ConfigError, "dimensions is 0"),
    (R3Reward(), [row("narrow")], DataError, "the question's type is 'narrow'"),
    (R3Reward(), [Row(HERE, 1, {"prompt": "x"})], DataError, "the question's type is None"),
    (R3Reward(), [row("constrained")], DataError, "comparison with a reference"),
])  # fmt: skip
def test_bad_input_is_refused(reward, rows, error, message):
    with pytest.raises(error, match=message):
        reward.check(rows)


def test_rows_that_need_no_label_are_taken():
    R3Reward(branches=False).check([Row(HERE, 1, {"prompt": "x"})])
    R3Reward(relevance=False).check([row("constrained")])


def test_the_weight_of_the_kl_is_led_to_its_target():
    """The paper's run: 0.2 to begin with, a target of 6 nats, a horizon of 10,000 answers."""
    penalty = PPO(kl_coef=0.2, target_kl=6.0, horizon=10_000.0).penalty
    assert next_coef(penalty, None, 16) == 0.2
    for kl, error in ((12.0, 0.2), (6.6, 0.1), (6.0, 0.0), (0.0, -0.2)):
        expected = 0.2 * (1 + error * 16 / 10_000)
        assert next_coef(penalty, {"kl_coef": 0.2, "kl": kl}, 16) == pytest.approx(expected, rel=1e-6)


def test_rank_correlation_of_proxy_and_gold():
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman([1, 2, 3], [9, 8, 7]) == -1
    # Ties share their mean rank: ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4.
    one, two = np.asarray([1.5, 1.5, 3, 4]), np.arange(1, 5)
    assert spearman([5, 5, 6, 7], [1, 2, 3, 4]) == pytest.approx(np.corrcoef(one, two)[0, 1])
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_proxy_against_gold_over_the_checkpoints_of_a_run(tmp_path):
    names = ("eval_rewards/r3/mean", "eval_rewards/reward/mean")
    records = [
        {"stage": stage, "step": step, **dict(zip(names, values, strict=True))}
        for stage, step, values in [
            ("online", 10, (0.1, 1.0)), ("online", 20, (0.3, 1.5)), ("online", 30, (0.2, 1.7)), ("other", 9, (9, 0)),
        ]
    ]  # fmt: skip
    records.append({"stage": "online", "step": 15, "loss": 1.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = of_run(tmp_path, "r3", "reward", stage="online")
    assert found.steps == (10, 20, 30)
    assert found.proxy == (0.1, 0.3, 0.2)
    assert found.spearman == pytest.approx(0.5)
    with pytest.raises(DataError, match="0 measurements have"):
        agreement(records, "r3", "gold")
