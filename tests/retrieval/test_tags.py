"""Classes of words: rows to tokens, what is learnt of a word's pieces, F1 of classes and entities, and what a model
tells."""

import dataclasses
import json
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judges.reward_networks import network
from losses.loss_checks import check_against

from jaxpo import losses
from jaxpo.cli.main import main
from jaxpo.config import Data, Reward, Run
from jaxpo.construct.tags import entities
from jaxpo.convert.heads_hf import export_heads
from jaxpo.convert.model_io import check_files, load_model
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.marks import Mark
from jaxpo.data.rows.needs import Needs
from jaxpo.data.rows.requirements import check_needs
from jaxpo.data.rows.rows import Side, canonical, detect, read_record
from jaxpo.data.rows.tagged import Word, in_order, words_of
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.building import Builder
from jaxpo.data.tokens.prepare import prepare
from jaxpo.data.tokens.rendering import Cut
from jaxpo.data.tokens.tagged import tagged_segments
from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.rewards.words import tokens_and_places
from jaxpo.judges.network import Network
from jaxpo.objectives.families.classes import class_metrics, entity_f1, going_on
from jaxpo.objectives.families.rewards import Reading, Rewards
from jaxpo.objectives.methods.token_classification import TokenClassification
from jaxpo.recipe.checks.reward import reward_problems

CLASSES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXTS = ["Ada Lovelace lived in London", "Bob met Ada in Paris", "the rain in Paris"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([text for text in TEXTS for _ in range(3)], 290)


def row(**data):
    return Row("rows.jsonl", 1, data)


def segments(tokenizer, *rows, classes=CLASSES, **settings):
    records = [read_record(one, detect(one), marks=("tag",)) for one in rows]
    counts, bad = Counter(), []
    found = list(tagged_segments(records, tokenizer, Cut(64, classes=classes, **settings), counts, bad.append))
    return [segment for _, segment in found], counts, bad


def first_tokens(segment, tokenizer):
    """What is spelt by each word of a class, piece by piece, with the class."""
    return [
        (tokenizer.decode([token]).strip(), CLASSES[abs(tag) - 1], bool(tag > 0))
        for token, tag in zip(segment.tokens, segment.per_token["tag"], strict=True)
        if tag
    ]


def test_words_with_tags_in_every_form(tokenizer):
    names = ["B-PER", "I-PER", "O", "O", "B-LOC"]
    words = TEXTS[0].split()
    listed = row(tokens=words, ner_tags=names)
    forms = [
        listed,
        row(words=words, tags=[1, 2, 0, 0, 3]),
        row(tokens=words, labels=names),
        row(text=TEXTS[0], spans=[[22, 28, "LOC"], {"start": 0, "end": 12, "label": "PER"}]),
    ]
    assert [detect(one) for one in forms] == ["tagged"] * 3 + ["tagged_text"]
    found, counts, bad = segments(tokenizer, *forms)
    assert not bad
    assert counts["words_of_class B-LOC"] == 4
    for other in found[1:]:
        np.testing.assert_array_equal(other.tokens, found[0].tokens)
        np.testing.assert_array_equal(other.per_token["tag"], found[0].per_token["tag"])
    spelt = first_tokens(found[0], tokenizer)
    assert [name for _, name, first in spelt if first] == names
    assert "".join(piece for piece, _, _ in spelt) == "".join(words)
    assert found[0].tokens[0] == tokenizer.bos_id
    assert not found[0].supervised[0]
    ignored, _, _ = segments(tokenizer, row(tokens=words, ner_tags=["B-PER", None, -100, "O", "B-LOC"]))
    assert [name for _, name, first in first_tokens(ignored[0], tokenizer) if first] == ["B-PER", "O", "B-LOC"]


def test_rows_of_other_types_keep_their_columns():
    tokenised = row(input_ids=[1, 2], labels=[-100, 2], tokens=["a", "b"])
    assert detect(tokenised) == "tokens"
    stepwise = row(prompt="p", completions=["a", "b"], labels=[True, False], tokens=["a", "b"])
    assert detect(stepwise) == "steps"
    asked = row(prompt="p", tokens=["a"], ner_tags=["x"])
    assert detect(asked) == "prompt"
    assert canonical(asked).data == asked.data
    both = row(text="a b", tokens=["a", "b"], ner_tags=["O", "O"])
    assert check_needs(both, "language", Needs(roles=("text",))).kind == "text"


def test_a_span_whose_classes_have_no_beginnings(tokenizer):
    (one,), _, _ = segments(tokenizer, row(text=TEXTS[1], spans=[[8, 11, "PER"]]), classes=("O", "PER"))
    tags = one.per_token["tag"]
    assert Counter(tags[tags > 0].tolist()) == {1: 4, 2: 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 words but 1 tags"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "word 1 is ' ', which says nothing"),
        ({"tokens": ["a"], "tags": [True]}, "the tag True is no class"),
        ({"tokens": ["a"], "tags": "O"}, "expected a list, found str"),
        ({"tokens": [], "tags": []}, "there is no word"),
        ({"tokens": ["a"], "tags": [None]}, "no word has a class"),
        ({"text": "a b", "spans": [[0, 9, "PER"]]}, "is empty or reaches beyond the text"),
        ({"text": "a b", "spans": [[0, 1, "PER"], [0, 3, "LOC"]]}, "spans 0 and 1 overlap"),
        ({"text": "a b", "spans": [[0, 1]]}, r"not \[start, end, label\]"),
        ({"text": "a b", "spans": [[1, 2, "PER"]]}, "span 0 holds no word of its own"),
        ({"text": "", "spans": []}, "there is no word"),
    ],
)
def test_rows_that_cannot_be_used(data, message):
    with pytest.raises(DataError, match=message):
        read_record(row(**data), detect(row(**data)), marks=("tag",))


def test_unknown_classes_are_refused_and_words_that_are_cut_off_counted(tokenizer):
    _, _, bad = segments(tokenizer, row(tokens=["Ada"], tags=["B-ORG"]), row(tokens=["Ada"], tags=[5]))
    assert "the class 'B-ORG' is none of the 5 known: O, B-PER, I-PER, B-LOC, I-LOC" in str(bad[0])
    assert "the class 5 is none" in str(bad[1])
    words = TEXTS[1].split()
    whole, _, _ = segments(tokenizer, row(tokens=words, tags=["O"] * 5))
    tags = whole[0].per_token["tag"]
    for length in range(2, len(tags)):
        records = [read_record(row(tokens=words, tags=["O"] * 5), "tagged", marks=("tag",))]
        counts = Counter()
        (short,) = tagged_segments(records, tokenizer, Cut(length, classes=CLASSES), counts, lambda error: None)
        np.testing.assert_array_equal(short[1].per_token["tag"], tags[:length])
        assert counts["truncated_words"] == (tags[length:] > 0).sum()
    late = [None] * 4 + ["O"]
    records = [read_record(row(tokens=words, tags=late), "tagged", marks=("tag",))]
    assert not list(tagged_segments(records, tokenizer, Cut(3, classes=CLASSES), counts, lambda error: None))
    assert counts["dropped_no_word_left"] == 1
    dropped = Counter()
    assert not list(tagged_segments(records, tokenizer, Cut(3, "drop", classes=CLASSES), dropped, print))
    assert dropped["dropped_longer_than_max_length"] == 1
    bad = []
    assert not list(tagged_segments(records, tokenizer, Cut(3, "error", classes=CLASSES), Counter(), bad.append))
    assert re.match(r"rows.jsonl, row 1: \d+ tokens, but max_length is 3", str(bad[0]))
    assert str(bad[0]).endswith("set data.truncation to response_right or drop.")


def test_tokens_that_do_not_spell_their_text_are_told_with_file_and_row(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "token_bytes", lambda self, ids: [b"?" for _ in ids])
    one = row(tokens=["Ada"], tags=["O"])
    _, _, bad = segments(tokenizer, one)
    assert re.match(r"rows.jsonl, row 1: the text 'Ada' is not what its tokens spell", str(bad[0]))
    with pytest.raises(DataError, match=r"rows.jsonl, row 1: the text 'Ada' is not what its tokens spell"):
        tokens_and_places([(one, "Ada", words_of("Ada"))], tokenizer, 8)
    marked = row(prompt="x", completion="Ada", tags=[[0, 3, 1]])
    record = dataclasses.replace(
        read_record(marked, "prompt_completion"),
        sides=(Side("completion", "x", "Ada", marks=(Mark("tag", 1, 0, 3),)),),
    )
    with pytest.raises(DataError, match=r"rows.jsonl, row 1, field 'completion': the text 'Ada' is not what"):
        list(Builder(tokenizer, Cut(64), Counter()).examples_of([record]))


def test_a_class_that_no_word_has_is_said(tokenizer, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"tokens": ["Ada", "met", "Bob"], "ner_tags": ["B-PER", "O", "B-PER"]}) + "\n")
    said = []
    method = TokenClassification(classes=CLASSES)
    data = Data(train=(str(file),), max_length=32, row_length=32)
    made = prepare([file], data=data, tokenizer=tokenizer, purpose="preference", needs=method.NEEDS,
                   cache_dir=tmp_path / "cache", log=said.append)  # fmt: skip
    assert any("no word of the training rows is of class I-PER, B-LOC, I-LOC: it will not be learnt" in x for x in said)
    assert made.type == "tagged"
    assert made.counts["words_of_class B-PER"] == 2


def test_the_loss_of_words():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (3, 4, 5)).astype(np.float32)
    label, where = rng.integers(0, 5, (3, 4)), rng.random((3, 4)) < 0.6
    where[2] = False

    def reference(z, smoothing=0.0):
        z, total = np.asarray(z, np.float64), np.zeros(3)
        for n, t in zip(*np.nonzero(where), strict=True):
            log_p = z[n, t] - np.logaddexp.reduce(z[n, t])
            target = (1 - smoothing) * np.eye(5)[label[n, t]] + smoothing / 5
            total[n] -= target @ log_p
        return total

    check_against(lambda z: losses.token_classification(z, label, where), reference, (z,), (0,))
    smooth = lambda z: losses.token_classification(z, label, where, label_smoothing=0.2)  # noqa: E731
    check_against(smooth, lambda z: reference(z, 0.2), (z,), (0,))
    spoiled = np.where(where[..., None], z, np.nan)
    np.testing.assert_array_equal(losses.token_classification(spoiled, np.where(where, label, -100), where),
                                  losses.token_classification(z, label, where))  # fmt: skip
    np.testing.assert_allclose(losses.token_classification(0 * z, label, where), where.sum(1) * np.log(5), rtol=1e-6)
    two = z[..., :2]
    logistic = np.where(where, np.logaddexp(0, (two[..., 1] - two[..., 0]) * np.where(label > 0, -1, 1)), 0).sum(1)
    np.testing.assert_allclose(losses.token_classification(two, np.minimum(label, 1), where), logistic, rtol=1e-5)


def spans_of(tags, where):
    """As the CoNLL script reads them: (begin, end, kind) over the labelled words alone."""
    found, open_ = set(), None
    places = [t for t in range(len(tags)) if where[t]]
    for i, t in enumerate(places):
        name = CLASSES[tags[t]]
        if open_ and not (name.startswith("I-") and name[2:] == open_[1]):
            found.add((open_[0], places[i - 1], open_[1]))
            open_ = None
        if name != "O" and open_ is None:
            open_ = (t, name[2:])
    return found | ({(open_[0], places[-1], open_[1])} if open_ else set())


def test_f1_of_classes_and_entities():
    rng = np.random.default_rng(1)
    gold = rng.choice(5, (40, 9), p=[0.3, 0.2, 0.2, 0.15, 0.15])
    told = np.where(rng.random(gold.shape) < 0.8, gold, rng.integers(0, 5, gold.shape))
    where = rng.random(gold.shape) < 0.8
    found = class_metrics(jnp.asarray(told), jnp.asarray(gold), jnp.asarray(where), CLASSES)
    each = []
    for c, name in enumerate(CLASSES):
        hits = ((gold == c) & (told == c) & where).sum()
        each.append(2 * hits / (((gold == c) & where).sum() + ((told == c) & where).sum()))
        assert found[f"f1/{name}"].value() == pytest.approx(each[-1], rel=1e-6)
    assert found["macro_f1"].value() == pytest.approx(np.mean(each), rel=1e-6)
    pairs = [(spans_of(g, w), spans_of(p, w)) for g, p, w in zip(gold, told, where, strict=True)]
    hits, given, predicted = (sum(n) for n in zip(*((len(a & b), len(a), len(b)) for a, b in pairs), strict=True))
    assert 0 < hits < given
    f1 = entity_f1(jnp.asarray(told), jnp.asarray(gold), jnp.asarray(where), CLASSES)
    assert f1.value() == pytest.approx(2 * hits / (given + predicted), rel=1e-6)
    parts = [entity_f1(*(jnp.asarray(x[i::2]) for x in (told, gold, where)), CLASSES) for i in (0, 1)]
    assert parts[0].merge(parts[1]).value() == pytest.approx(float(f1.value()), rel=1e-6)
    only_b = class_metrics(jnp.ones((1, 2), int), jnp.ones((1, 2), int), jnp.ones((1, 2), bool), CLASSES)
    assert only_b["macro_f1"].value() == 1
    assert only_b["f1/O"].value() == 0


def test_what_is_learnt_of_the_pieces_of_a_word():
    """Column: B-PER in three pieces, a word without a class, O."""
    tags = jnp.asarray([[0, 2, -2, -2, 0, 1]])
    here = jnp.ones(1, bool)
    first, every = (TokenClassification(classes=CLASSES, pieces=pieces) for pieces in ("first", "all"))
    label, where = first.labelled(tags, here)
    np.testing.assert_array_equal(where[0], [0, 1, 0, 0, 0, 1])
    assert (label[0, 1], label[0, 5]) == (1, 0)
    label, where = every.labelled(tags, here)
    np.testing.assert_array_equal(where[0], [0, 1, 1, 1, 0, 1])
    np.testing.assert_array_equal(label[0, 1:4], [1, 2, 2])
    assert going_on(("O", "B-X", "PER")) == (0, 1, 2)
    assert not every.labelled(tags, ~here)[1].any()
    logits = jax.nn.one_hot(jnp.asarray([[0, 1, 0, 0, 3, 4]]), 5) * 3
    x = Rewards({"completion": Reading({"classes": logits}, jnp.ones(1), {"tag": tags})}, here, {})
    assert first.all_metrics(x)["accuracy"].value() == 0.5
    lone = -jax.nn.log_softmax(logits)[0]
    np.testing.assert_allclose(first.loss(x)["words"], lone[1, 1] + lone[5, 0], rtol=1e-6)
    np.testing.assert_allclose(every.loss(x)["words"], lone[1, 1] + lone[2, 2] + lone[3, 2] + lone[5, 0], rtol=1e-6)
    with pytest.raises(ConfigError, match="gives texts no rewards"):
        first.reward(x.roles["completion"])


def test_settings_that_cannot_be():
    (empty,) = reward_problems(Run(), 0, Reward(loss=TokenClassification()))
    assert "--reward.loss.classes is empty" in empty
    assert not list(reward_problems(Run(), 0, Reward(loss=TokenClassification(classes=CLASSES))))
    for classes in (("O",), ("O", "O"), ("O", "")):
        assert "two different names or more" in TokenClassification(classes=classes).problems()[0]
    method = TokenClassification(classes=CLASSES)
    assert ("macro_f1", "entity_f1", *(f"f1/{name}" for name in CLASSES)) == method.METRICS
    assert "entity_f1" not in TokenClassification(classes=("a", "b")).METRICS
    assert method.check_names({"tags": ("O", "B-PER", "3")}) == []
    assert "the rows have the class 'B-ORG'" in method.check_names({"tags": ("O", "B-ORG")})[0]
    assert in_order({2, "x"}) == ("0", "1", "2", "x")
    assert in_order(CLASSES[::-1]) == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def test_entities_of_words():
    text = "Ada Lovelace, Bob met them."
    words = words_of(text)
    assert [text[w.start : w.end] for w in words] == ["Ada", "Lovelace", ",", "Bob", "met", "them", "."]
    tags = ["B-PER", "I-PER", "O", "B-PER", "B-PER", None, "O"]
    found = entities(text, words, tags)
    assert [(one["text"], one["label"]) for one in found] == [("Ada Lovelace", "PER"), ("Bob", "PER"), ("met", "PER")]
    plain = entities("a b c", [Word(0, 1), Word(2, 3), Word(4, 5)], ["X", "X", "Y"])
    assert [(one["text"], one["label"]) for one in plain] == [("a b", "X"), ("c", "Y")]


def test_an_export_is_read_back_and_names_its_classes(tmp_path):
    own, folder = network("words"), tmp_path / "model"
    export_heads(own.params, own.config, folder, own.reader, tokenizer=own.tokenizer, compare_transformers=False)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Lfm2ForTokenClassification"]
    assert config["id2label"] == {"0": "O", "1": "B-PER", "2": "I-PER"}
    check_files(folder)
    again = load_model(folder)
    assert again.reader == own.reader
    jax.tree.map(np.testing.assert_array_equal, dict(again.params), dict(own.params))
    texts = [(row(text=text), text, words_of(text)) for text in TEXTS]
    names, found = own.word_classes(texts)
    _, other = Network.of(again, max_length=96).word_classes(texts)
    assert names == ("O", "B-PER", "I-PER")
    for text, one, two in zip(texts, found, other, strict=True):
        assert len(one) == len(text[2])
        np.testing.assert_allclose(np.stack(one), np.stack(two), rtol=1e-5)
        np.testing.assert_allclose(np.stack(one).sum(1), 1, rtol=1e-5)
    short = dataclasses.replace(own, max_length=8).word_classes(texts[:1])[1][0]
    assert short[0] is not None
    assert short[-1] is None
    with pytest.raises(ConfigError, match="trained by bradley_terry, which tells no classes of words"):
        network("value").word_classes(texts)
    with pytest.raises(ConfigError, match="gives texts no rewards"):
        own.rewards(["p"], ["a"])


RUN = """
from dataclasses import replace
from jaxpo.config import Data, Optimizer, Reward, Run, Tokenizer
from jaxpo.models.family import preset
from jaxpo.objectives.methods.token_classification import TokenClassification


def config():
    model = replace(preset("nano"), vocab_size=320, hidden_size=16, intermediate_size=24, num_attention_heads=2,
                    num_key_value_heads=1, head_dim=8, layer_types=("conv", "full_attention"), causal=False)
    return Run(
        name="tiny",
        model=model,
        tokenizer=Tokenizer(train_on=("TEXTS",), vocab_size=320),
        stages=(
            Reward(
                loss=TokenClassification(classes=CLASSES),
                data=Data(train=("ROWS",), eval=("ROWS",), max_length=48, row_length=96),
                optimizer=Optimizer(learning_rate=2e-2, lr_scheduler_type="constant"),
                rows_per_step=8,
                max_steps=40,
                eval_rows=8,
                metric_for_best_model="entity_f1",
            ),
        ),
    )
"""


@pytest.mark.slow
def test_an_encoder_learns_names_and_tells_those_of_texts(tmp_path):
    kinds = {"Ada": "B-PER", "Lovelace": "I-PER", "Bob": "B-PER", "London": "B-LOC", "Paris": "B-LOC"}
    rows = [{"tokens": text.split(), "ner_tags": [kinds.get(word, "O") for word in text.split()]} for text in TEXTS]
    for name, some in (("rows", rows), ("texts", [{"text": text} for text in TEXTS])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
    code = RUN.replace("ROWS", str(tmp_path / "rows.jsonl")).replace("TEXTS", str(tmp_path / "texts.jsonl"))
    (tmp_path / "tiny.py").write_text(code.replace("=CLASSES", f"={CLASSES!r}"))
    run, told = tmp_path / "run", tmp_path / "told.jsonl"
    assert main(["run", str(tmp_path / "tiny.py"), "--run", str(run)]) == 0
    assert load_model(run / "export").reader == load_model(run).reader
    for source, own in (("rows", [one["ner_tags"] for one in rows]), ("texts", None)):
        told.unlink(missing_ok=True)
        given = [str(tmp_path / f"{source}.jsonl"), str(told), "--reward", str(run / "export")]
        assert main(["data", "construct", "tag", *given]) == 0
        found = [json.loads(line) for line in told.read_text().splitlines()]
        if own is None:
            spans = [[(span["text"], span["label"]) for span in one["spans"]] for one in found]
            assert spans[0] == [("Ada Lovelace", "PER"), ("London", "LOC")]
        else:
            assert [one["tags"] for one in found] == own
