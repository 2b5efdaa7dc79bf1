"""Masked language modelling: what is hidden, of which tokens, against a reference in numpy; packed as alone; learnt."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contracts.batches import VOCAB, make_examples, packed, unpacked
from contracts.harness import SCORER

from jaxpo.config import SFT, Data, Fim, MaskedLM, Preference, Pretrain, Retrieval, Run
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.encoded import Segment
from jaxpo.data.tokens.words import WORD, with_words
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import row_keys
from jaxpo.objectives.families.masked import Masking, hide, masked_tokens, units_of
from jaxpo.objectives.methods.dpo import DPO
from jaxpo.objectives.methods.info_nce import InfoNCE
from jaxpo.objectives.methods.options import Ids
from jaxpo.recipe.checks.masked_lm import masked_lm_problems
from jaxpo.recipe.checks.origin import check_origin
from jaxpo.recipe.kinds import ids_of
from jaxpo.recipe.overrides import load_run

IDS = Ids(2, np.arange(3, VOCAB))
BOTH_WAYS = dataclasses.replace(SCORER, config=dataclasses.replace(SCORER.config, causal=False))
KEY = jax.random.key(5)


def with_column(batch, words):
    """The first token of each text is special; of the others every `words` make a word."""
    word = np.where((batch.segment_ids > 0) & (batch.positions > 0), 1 + (batch.positions - 1) // words, 0)
    return batch.replace(per_token={**batch.per_token, WORD: jnp.asarray(word, jnp.int32)})


@functools.cache
def batches(words=1):
    examples = make_examples("text", 14, 3)
    return with_column(packed(examples), words), with_column(unpacked(examples), words)


hidden = jax.jit(lambda batch, rng, masking: hide(batch, rng, masking, IDS), static_argnames="masking")


def by_text(x, batch):
    """Example number -> the values of its text."""
    found = {}
    for n, (role, number) in enumerate(zip(np.asarray(batch.roles["text"]), np.asarray(batch.example_id), strict=True)):
        if number >= 0:
            block = n // (len(batch.example_id) // batch.blocks)
            row, slot = block * batch.block_rows + role // batch.slots, role % batch.slots + 1
            found[int(number)] = np.asarray(x)[row][np.asarray(batch.segment_ids)[row] == slot]
    return found


@pytest.mark.parametrize("words", [1, 3])
def test_what_is_hidden_is_what_the_definition_says(words):
    """Of every text the units with the smallest draws, as many as the rate says; draws by key, example and place."""
    batch, masking = batches(words)[0], Masking(0.3, 0.5, 0.25, whole_words=words > 1)
    found = hidden(batch, KEY, masking)
    texts, read = by_text(batch.tokens, batch), by_text(found.tokens, batch)
    chosen, weight, column = (by_text(x, batch) for x in (found.chosen, found.weight, batch.per_token[WORD]))
    assert len(texts) == 14
    for number, tokens in texts.items():
        key = jax.random.fold_in(KEY, number)
        draws = np.asarray([jax.random.uniform(jax.random.fold_in(key, t), (3,)) for t in range(len(tokens))])
        word = column[number] if words > 1 else np.where(column[number] > 0, np.arange(len(tokens)), 0)
        units = [np.flatnonzero(word == w) for w in np.unique(word[word > 0])]
        count = max(1, int(np.floor(0.3 * len(units) + 0.5)))
        picked = sorted(units, key=lambda unit: draws[unit[0], 0])[:count]
        expected, share = tokens.copy(), np.zeros(len(tokens))
        for unit in picked:
            share[unit] = 1 / len(unit)
            for t in unit:
                if draws[t, 1] < 0.5:
                    expected[t] = IDS.mask
                elif draws[t, 1] < 0.75:
                    expected[t] = IDS.ordinary[int(draws[t, 2] * len(IDS.ordinary))]
        np.testing.assert_array_equal(read[number], expected)
        np.testing.assert_array_equal(chosen[number], share > 0)
        np.testing.assert_allclose(weight[number], share, rtol=1e-6)
    outside = np.asarray(batch.per_token[WORD]) == 0
    assert not np.asarray(found.chosen)[outside].any()
    np.testing.assert_array_equal(np.asarray(found.tokens)[outside], np.asarray(batch.tokens)[outside])
    assert np.asarray(units_of(batch, masking).number).sum() == sum(
        np.unique(column[n][chosen[n]]).size if words > 1 else chosen[n].sum() for n in texts
    )


def test_shares_of_what_becomes_of_hidden_tokens():
    """Over many keys: 80, 10 and 10 percent, and every other token as often as any."""
    batch, masking = batches()[0], Masking()
    many = jax.jit(jax.vmap(lambda key: hide(batch, key, masking, IDS)))(jax.random.split(KEY, 800))
    chosen, tokens = np.asarray(many.chosen), np.asarray(many.tokens)
    total, own = chosen.sum(), np.broadcast_to(np.asarray(batch.tokens), tokens.shape)
    masked, same = (tokens == IDS.mask) & chosen, (tokens == own) & chosen
    np.testing.assert_allclose(masked.sum() / total, 0.8, atol=0.015)
    np.testing.assert_allclose(same.sum() / total, 0.1 + 0.1 / len(IDS.ordinary), atol=0.015)
    np.testing.assert_array_equal(chosen.sum((1, 2)), chosen[0].sum())
    swapped = tokens[chosen & ~masked & ~same]
    assert set(np.unique(swapped)) == set(IDS.ordinary)
    inside = np.asarray(batch.per_token[WORD]) > 0
    often = chosen.mean(0)[inside]
    assert often.min() > 0.05


def test_packed_as_alone_and_the_same_at_every_evaluation():
    one, other = batches(3)
    masking = Masking(0.3, whole_words=True)
    for rng in (KEY, None):
        first, second = (by_text(hidden(b, rng, masking).tokens, b) for b in (one, other))
        assert first.keys() == second.keys()
        for number, tokens in first.items():
            np.testing.assert_array_equal(tokens, second[number])
    again, elsewhere = (hidden(one, key, masking).tokens for key in (KEY, jax.random.key(6)))
    assert (np.asarray(again) != np.asarray(elsewhere)).any()


@functools.cache
def parameters():
    return {"model": init_params(param_table(BOTH_WAYS.config), jax.random.key(0))}


def loss_of(objective, batch, rng):
    counts = objective.counts(batch)

    def value(params):
        features, _ = objective.encode(params, {}, batch, rng)
        out = objective.loss(features, batch, {}, counts)
        return out.loss, {name: m.value() for name, m in out.metrics.items()}

    return jax.jit(jax.value_and_grad(value, has_aux=True))


def test_the_loss_is_that_of_the_chosen_tokens_alone():
    """Against the logits of the whole texts; packed texts give the loss and gradient of texts alone."""
    objective, params = masked_tokens(BOTH_WAYS, Masking(0.3), IDS), parameters()
    (loss, metrics), grads = loss_of(objective, batches()[0], KEY)(params)
    run = loss_of(objective, batches()[1], KEY)
    (alone, _), single = run(params)
    np.testing.assert_allclose(alone, loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    batch = batches()[1]
    found = hidden(batch, KEY, Masking(0.3))
    state, _ = jax.jit(BOTH_WAYS.run)(params["model"], batch.replace(tokens=found.tokens))
    logits = np.asarray(state @ BOTH_WAYS.unembedding(params["model"]).T, np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    chosen, tokens = np.asarray(found.chosen), np.asarray(batch.tokens)
    own = np.take_along_axis(log_p, tokens[..., None], -1)[..., 0][chosen]
    np.testing.assert_allclose(loss, -own.mean(), rtol=1e-4)
    right = (logits.argmax(-1) == tokens)[chosen]
    np.testing.assert_allclose(metrics["masked_accuracy"], right.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["masked_share"], chosen.sum() / (np.asarray(batch.per_token[WORD]) > 0).sum())
    direction = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)
    step = 1e-2 / float(optax.global_norm(direction))
    moved = (jax.tree.map(lambda p, d, s=s: p + s * step * d, params, direction) for s in (1, -1))
    ends = [run(at)[0][0] for at in moved]
    slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), slope, rtol=0.02, atol=1e-3)


def test_a_toy_is_learnt():
    """Texts in which a token tells its neighbour; what is hidden is drawn anew in every step."""
    objective, params = masked_tokens(BOTH_WAYS, Masking(0.2, 1.0, 0.0), IDS), parameters()
    tokens = np.asarray(batches()[0].tokens)
    positions = np.asarray(batches()[0].positions)
    batch = batches()[0].replace(tokens=jnp.asarray(np.where(positions > 0, 3 + positions % 7, 1)))
    assert tokens.shape == batch.tokens.shape
    optimizer = optax.adam(1e-2)
    state, counts = optimizer.init(params), objective.counts(batch)

    @jax.jit
    def step(params, state, key):
        def value(params):
            return objective.loss(objective.encode(params, {}, batch, key)[0], batch, {}, counts).loss

        grads = jax.grad(value)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    measure = loss_of(objective, batch, None)
    before = measure(params)[0][0]
    for i in range(60):
        params, state = step(params, state, jax.random.fold_in(KEY, i))
    loss, metrics = measure(params)[0]
    assert before > 3
    assert loss < 0.2 * before
    assert metrics["masked_accuracy"] > 0.75


def test_the_dropout_beside_the_masks_has_draws_of_its_own():
    """No row's key is one that a token's mask is drawn with; in evaluation there is neither."""
    batch, seen = batches()[0], []

    class Read(Exception):
        pass

    def run(params, batch, rng):
        seen.append(rng)
        raise Read

    objective = masked_tokens(SimpleNamespace(run=run), Masking(), IDS)
    for rng in (KEY, None):
        with pytest.raises(Read):
            objective.encode({"model": None}, {}, batch, rng)
    assert seen[1] is None
    numbers = jnp.unique(batch.example_id[batch.example_id >= 0])
    place = jnp.arange(batch.tokens.shape[1])
    masks = jax.vmap(lambda e: jax.vmap(lambda t: jax.random.fold_in(jax.random.fold_in(KEY, e), t))(place))(numbers)
    drawn = {tuple(key) for key in np.asarray(jax.random.key_data(masks)).reshape(-1, 2)}
    rows = {tuple(key) for key in np.asarray(jax.random.key_data(row_keys(seen[0], batch)))}
    assert len(rows) == batch.rows
    assert len(drawn) == masks.size
    assert not rows & drawn


def test_words_of_tokens():
    tokenizer = train_tokenizer(["the quick brown fox\n"] * 3, 290).with_added(("<|mask|>",))
    ids = np.asarray([tokenizer.bos_id, *tokenizer.encode("the quick, brown\n fox"), tokenizer.eos_id], np.int32)
    (segment,) = with_words([Segment(ids, np.ones(len(ids), bool))], tokenizer)
    found = {}
    for token, number in zip(ids, segment.per_token[WORD], strict=True):
        found.setdefault(int(number), []).append(tokenizer.pieces([token])[0])
    special = found.pop(0)
    assert special == ["<|startoftext|>", "<|im_end|>"]
    assert [text for text in map("".join, found.values()) if text.strip()] == ["the", " quick,", " brown", " fox"]
    stage = MaskedLM()
    found = ids_of(stage, tokenizer)
    assert found.mask == tokenizer.id_of("<|mask|>")
    assert not set(found.ordinary.tolist()) & {found.mask, *tokenizer.special_ids.values()}
    with pytest.raises(ConfigError, match=r"which is no token of the vocabulary.*--tokenizer.added '<mask>'"):
        ids_of(dataclasses.replace(stage, mask_token="<mask>"), tokenizer)


def test_settings_that_cannot_be():
    def problems(**changes):
        causal = changes.pop("causal", False)
        model = dataclasses.replace(SCORER.config, causal=causal)
        stage = MaskedLM(**changes)
        return list(masked_lm_problems(Run(model=model, stages=(stage,)), 0, stage))

    assert problems() == []
    recipe = load_run("pretrain:masked")
    assert list(masked_lm_problems(recipe, 0, recipe.stages[0])) == []
    assert recipe.stages[0].mask_token in recipe.tokenizer.added
    assert "--model.causal False" in problems(causal=True)[0]
    assert "must lie in (0, 1)" in problems(mask_rate=1.0)[0]
    assert "more than all hidden tokens" in problems(mask_share=0.8, random_share=0.3)[0]
    assert "must lie in [0, 1]" in problems(mask_share=-0.1)[0]
    assert "is empty" in problems(mask_token="")[0]
    assert "from left to right" in problems(data=Data(fim=Fim()))[0]


def test_a_model_to_start_from_must_see_both_sides(monkeypatch):
    run = Run(model_from="somewhere", stages=(MaskedLM(),))
    for own, refused in ((SCORER, True), (BOTH_WAYS, False)):
        monkeypatch.setattr("jaxpo.recipe.checks.origin.config_of_origin", lambda run, own=own: own.config)
        if refused:
            with pytest.raises(ConfigError, match=r"sees earlier tokens alone.*start from an encoder"):
                check_origin(run)
        else:
            check_origin(run)


@pytest.mark.parametrize(
    "stage", [Pretrain(name="one"), SFT(name="one"), Preference(name="one", loss=DPO())], ids=lambda s: type(s).__name__
)
def test_an_encoder_to_start_from_is_asked_for_no_next_token(monkeypatch, stage):
    run = Run(model_from="somewhere", stages=(stage,))
    for own, refused in ((SCORER, False), (BOTH_WAYS, True)):
        monkeypatch.setattr("jaxpo.recipe.checks.origin.config_of_origin", lambda run, own=own: own.config)
        if refused:
            with pytest.raises(ConfigError, match=r"one\.model: it looks both ways.*MaskedLM, Retrieval or Reward"):
                check_origin(run)
        else:
            check_origin(run)


def test_the_first_token_of_a_causal_model_to_start_from_is_not_pooled(monkeypatch):
    run = Run(model_from="somewhere", stages=(Retrieval(name="one", loss=InfoNCE(pooling="cls")),))
    monkeypatch.setattr("jaxpo.recipe.checks.origin.config_of_origin", lambda run: SCORER.config)
    with pytest.raises(ConfigError, match=r"one\.loss\.pooling: reads BOS"):
        check_origin(run)
