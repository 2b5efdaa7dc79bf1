"""Reward models in torch: every head by the reader that docs/reward_models.md gives, and a packed step of ours against
TRL's `RewardTrainer` on the same pairs, padded."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")
transformers = pytest.importorskip("transformers", reason="parity tests need transformers (scripts/test --parity)")

from contracts.batches import make_examples, packed  # noqa: E402
from contracts.harness import CONFIG as HARNESS  # noqa: E402
from contracts.harness import SCORER, initial  # noqa: E402
from judges.reward_networks import ANSWERS, CONFIG, PROMPTS, network  # noqa: E402

from jaxpo.convert.heads_hf import export_heads  # noqa: E402
from jaxpo.convert.reward_hf import export_reward  # noqa: E402
from jaxpo.data.rows.formats import Row  # noqa: E402
from jaxpo.data.rows.tagged import words_of  # noqa: E402
from jaxpo.evaluate.rewards.words import tokens_and_places  # noqa: E402
from jaxpo.objectives.methods import METHODS  # noqa: E402

DOCS = Path(__file__).parents[2] / "docs" / "reward_models.md"


def documented_reader() -> Any:
    every = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (code,) = (code for code in every if "heads.safetensors" in code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 22
    names: dict[str, Any] = {}
    exec(code, names)
    return names["RewardModel"]


@pytest.mark.parametrize("name", ["aspects", "embedding", "steps", "yes_no"])
def test_the_documented_reader_gives_our_rewards(name: str, tmp_path: Path) -> None:
    own, folder = network(name), tmp_path / "model"
    report = export_heads(own.params, CONFIG, folder, own.reader, tokenizer=own.tokenizer)
    assert report["heads"] == sum(len(tree) for group, tree in own.params.items() if group != "model")
    model = documented_reader()(folder)
    found = []
    for segment in own.answers(PROMPTS, ANSWERS, own.reader.method):
        states = model.states(segment.tokens.tolist())
        if name == "aspects":
            assert model.reading["method"]["aspects"] == ["brief", "helpful"]
            found.append(float(model.head("ratings", states[-1]) @ torch.tensor([0.25, 0.75])))
        elif name == "embedding":
            e = model.head("embedding", states[-1])
            found.append(float((e / e.norm()) @ model.heads["query.weight"][:, 0]))
        elif name == "steps":
            ends = np.flatnonzero(segment.per_token["step_end"])
            found.append(float(model.head("value", states[ends])[:, 0].sigmoid().prod()))
        else:
            found.append(float(model.log_odds(65, 66, states[-1])))
    np.testing.assert_allclose(found, own.rewards(PROMPTS, ANSWERS), rtol=1e-4, atol=1e-5)


def padded(sides: list[np.ndarray], pad: int) -> tuple[Any, Any]:
    longest = max(map(len, sides))
    ids = np.stack([np.pad(side, (0, longest - len(side)), constant_values=pad) for side in sides])
    mask = np.stack([np.arange(longest) < len(side) for side in sides])
    return torch.tensor(ids), torch.tensor(mask.astype(np.int64))


def test_a_packed_step_is_trls_padded_one(tmp_path: Path) -> None:
    """Loss with margin and centring, and the gradient in the head, of the whole network."""
    trainer = pytest.importorskip("trl").RewardTrainer
    method = METHODS["bradley_terry"](center_rewards_coefficient=0.01)
    objective, examples = method.build(SCORER), make_examples("pair", 16, 7)
    params = initial(objective, method)[0].params
    batch = packed(examples)

    def loss(params):
        features, _ = objective.encode(params, {}, batch, None)
        return objective.loss(features, batch, {}, objective.counts(batch)).loss

    with jax.default_matmul_precision("highest"):
        value, grads = jax.jit(jax.value_and_grad(loss))(params)
    export_reward(params, HARNESS, tmp_path / "m", compare_transformers=False)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "m", trust_remote_code=True, dtype=torch.float32
    )
    sides = [e.segments[k][0] for k in (0, 1) for e in examples]
    ids, mask = padded(sides, HARNESS.pad_token_id)
    margin = torch.tensor([e.columns["margin"] for e in examples])
    same = lambda x: x  # noqa: E731
    self = SimpleNamespace(
        model=model.eval(),
        accelerator=SimpleNamespace(gather_for_metrics=same, gather=same, device=torch.device("cpu")),
        args=SimpleNamespace(center_rewards_coefficient=0.01, gradient_checkpointing_kwargs=None),
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs = {"input_ids": ids, "attention_mask": mask, "margin": margin}
    theirs = trainer.compute_loss(self, model, inputs)
    theirs.backward()
    assert float(value) == pytest.approx(theirs.item(), rel=1e-5)
    np.testing.assert_allclose(
        np.asarray(grads["value"]["weight"])[:, 0], model.score.weight.grad[0].numpy(), rtol=1e-4, atol=1e-6
    )
    ours = np.asarray(grads["model"]["embed_tokens"]["weight"])
    np.testing.assert_allclose(ours, model.model.embed_tokens.weight.grad.numpy(), rtol=1e-3, atol=2e-6)


def test_a_classifier_of_words_is_loaded_by_the_auto_class(tmp_path: Path) -> None:
    """Every tensor, the names of the classes, and the logits of a right-padded batch."""
    own, folder = network("words"), tmp_path / "model"
    export_heads(own.params, CONFIG, folder, own.reader, tokenizer=own.tokenizer)
    model, info = transformers.AutoModelForTokenClassification.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    classes = own.reader.method.classes
    assert model.config.id2label == dict(enumerate(classes))
    texts = [(Row(Path("x"), i, {}), text, words_of(text)) for i, text in enumerate(PROMPTS, start=1)]
    names, found = own.word_classes(texts)
    assert names == classes
    read = tokens_and_places(texts, own.tokenizer, 96)
    ids, mask = padded([tokens for tokens, _ in read], CONFIG.pad_token_id)
    with torch.no_grad():
        shares = model.eval()(ids, attention_mask=mask, use_cache=False).logits.softmax(-1).numpy()
    for row, (_, places), each in zip(shares, read, found, strict=True):
        np.testing.assert_allclose(row[places], np.stack(each), atol=1e-5)
