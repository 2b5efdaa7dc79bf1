"""Exported reward models in transformers: the auto class loads them, and right-padded batches give our rewards."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")
transformers = pytest.importorskip("transformers", reason="parity tests need transformers (scripts/test --parity)")

from objectives.pair_arrays import metrics_of_scores  # noqa: E402

from jaxpo.convert.reward_hf import export_reward, import_reward, rewards_of  # noqa: E402
from jaxpo.data.tokenizer.tokenizer import train_tokenizer  # noqa: E402
from jaxpo.models.lfm2.config import LFM2Config  # noqa: E402
from jaxpo.models.lfm2.table import param_table  # noqa: E402
from jaxpo.models.spec import init_params  # noqa: E402

CONFIG = LFM2Config(
    vocab_size=320,
    hidden_size=32,
    intermediate_size=40,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    layer_types=("conv", "full_attention", "conv", "full_attention"),
    initializer_range=0.35,
)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    head = 0.5 * jax.random.normal(jax.random.key(4), (CONFIG.hidden_size, 1))
    groups = {"model": init_params(param_table(CONFIG), jax.random.key(3)), "value": {"weight": head}}
    folder = tmp_path_factory.mktemp("reward") / "model"
    tokenizer = train_tokenizer(["the quick brown fox jumps over the lazy dog\n" * 20], 320)
    report = export_reward(groups, CONFIG, folder, tokenizer=tokenizer)
    return groups, folder, report, tokenizer


def load(folder):
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32
    ).eval()


def test_verification_compared_with_transformers(reward_model):
    _, _, report, _ = reward_model
    assert report["transformers"] < 1e-4
    assert report["max_reward_error"] < 1e-4


def test_the_auto_class_loads_every_tensor(reward_model):
    groups, folder, _, _ = reward_model
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True
    )
    assert type(model).__name__ == "Lfm2ForSequenceClassification"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.num_labels == 1
    np.testing.assert_array_equal(model.score.weight.detach().numpy().T, groups["value"]["weight"])


def test_right_padded_batches_give_our_rewards(reward_model):
    groups, folder, _, tokenizer = reward_model
    texts = ["the quick brown fox", "the", "fox jumps over the lazy dog, the lazy dog", "a dog"]
    ours = rewards_of(groups, CONFIG, [np.asarray([tokenizer.bos_id, *tokenizer.encode(t)]) for t in texts])
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = their_tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    assert (batch["input_ids"] == their_tokenizer.pad_token_id).any(), "padding is what this test is about"
    with torch.no_grad():
        theirs = load(folder)(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    np.testing.assert_allclose(theirs.numpy(), ours, atol=2e-5)
    assert np.ptp(ours) > 1e-2


def test_trl_counts_the_same_loss_and_metrics(reward_model, tmp_path):
    """TRL's own RewardTrainer on the exported model and its collated batch, against our loss and metrics on our scores.

    TRL logs the mean of each metric over batches; here there is one.
    """
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from jaxpo.losses import bradley_terry

    groups, folder, _, tokenizer = reward_model
    pairs = [("the fox", "a lazy dog jumps"), ("over the dog", "fox"), ("quick brown", "the lazy dog")]
    margin = np.asarray([0.5, 0.0, -0.25], np.float32)
    sides = [[np.asarray([tokenizer.bos_id, *tokenizer.encode(t)]) for t in side] for side in zip(*pairs, strict=True)]
    chosen, rejected = (rewards_of(groups, CONFIG, side).astype(np.float32) for side in sides)
    ours = bradley_terry(chosen, rejected, margin, center_rewards_coefficient=0.01)
    rows = datasets.Dataset.from_dict(
        {"chosen_ids": [s.tolist() for s in sides[0]], "rejected_ids": [s.tolist() for s in sides[1]], "margin": margin}
    )
    settings = trl.RewardConfig(
        output_dir=str(tmp_path), center_rewards_coefficient=0.01, use_cpu=True, report_to=[], bf16=False
    )
    trainer = trl.RewardTrainer(
        model=load(folder),
        args=settings,
        train_dataset=rows,
        processing_class=transformers.AutoTokenizer.from_pretrained(folder),
    )
    batch = trainer.data_collator([rows[i] for i in range(len(rows))])
    assert not batch["attention_mask"].all(), "the sides differ in length"
    loss = trainer.compute_loss(trainer.model.train(), batch)
    np.testing.assert_allclose(float(np.mean(ours)), loss.item(), rtol=1e-5)
    logged = {name: np.mean(values) for name, values in trainer._metrics["train"].items() if name != "num_tokens"}
    found = metrics_of_scores(chosen, rejected)
    assert set(found) == set(logged)
    for name, value in logged.items():
        np.testing.assert_allclose(found[name].value(), value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_reward_model_of_lfm3(tmp_path):
    """The class that travels with the checkpoint is built from transformers' LFM3; the export compares with it."""
    config = dataclasses.replace(
        CONFIG,
        model_type="lfm3",
        layer_types=("conv", "full_attention", "sliding_attention"),
        conv_kernel=7,
        sliding_window=6,
        partial_rotary_factor=0.5,
        sandwich_norm=True,
        attention_gate=True,
    )
    head = 0.5 * jax.random.normal(jax.random.key(4), (config.hidden_size, 1))
    groups = {"model": init_params(param_table(config), jax.random.key(3)), "value": {"weight": head}}
    report = export_reward(groups, config, tmp_path / "model")
    assert report["transformers"] < 1e-4
    assert type(load(tmp_path / "model")).__name__ == "Lfm3ForSequenceClassification"
    again, its = import_reward(tmp_path / "model")
    assert its == config
    jax.tree.map(np.testing.assert_array_equal, again, groups)
