"""Mixtures of experts and transformers: greedy decoding, our exports, adapters in peft. (Logits: test_lfm2_...)."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")
transformers = pytest.importorskip("transformers", reason="parity tests need transformers (scripts/test --parity)")
peft = pytest.importorskip("peft", reason="parity tests need peft (scripts/test --parity)")

from models.adapters import drawn  # noqa: E402
from models.tiny_moe import CONFIG, params  # noqa: E402
from parity.lfm2_pair import make_pair  # noqa: E402

from jaxpo.config import LoRA  # noqa: E402
from jaxpo.convert.hf import export_hf  # noqa: E402
from jaxpo.convert.peft import export_peft  # noqa: E402
from jaxpo.models.lfm2.forward import forward, init_cache, step, unembedding  # noqa: E402
from jaxpo.models.lfm2.table import param_table  # noqa: E402
from jaxpo.models.lowrank import adapter_table, attach, scale_of  # noqa: E402

NEW = 12


@pytest.mark.parametrize("name", ["experts", "bare_experts"])
def test_greedy_decoding(name, tmp_path):
    pair = make_pair(name, tmp_path)
    prompt = np.random.default_rng(4).integers(8, pair.config.vocab_size, (2, 5))
    with torch.no_grad():
        theirs = pair.torch_model.generate(
            torch.from_numpy(prompt), max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    run = jax.jit(functools.partial(step, config=pair.config))
    cache, tokens, ours = init_cache(pair.config, 2, 5 + NEW), prompt, [prompt]
    for _ in range(NEW):
        hidden, cache = run(pair.params, tokens, cache)
        tokens = np.argmax(np.asarray(hidden[:, -1] @ unembedding(pair.params).T), -1)[:, None]
        ours.append(tokens)
    np.testing.assert_array_equal(np.concatenate(ours, 1), theirs.numpy())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moe") / "model"
    return folder, export_hf(params(), CONFIG, folder, compare_transformers=True)


def test_an_export_is_what_transformers_computes(exported):
    assert exported[1]["transformers"]["max_logprob_error"] < 1e-4


def test_adapters_beside_experts_in_peft(exported, tmp_path):
    lora = LoRA(rank=3, alpha=6.0)
    adapter = drawn(adapter_table(param_table(CONFIG), lora))
    export_peft(adapter, lora, params(), CONFIG, tmp_path / "adapter", base_name=str(exported[0]))
    plain = transformers.AutoModelForCausalLM.from_pretrained(exported[0], dtype=torch.float32)
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 11))
    model = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(tokens), use_cache=False).logits.numpy()
    whole = attach(params(), adapter, scale_of(lora))
    positions = np.broadcast_to(np.arange(11), tokens.shape)
    hidden, _ = jax.jit(functools.partial(forward, config=CONFIG))(whole, tokens, np.ones_like(tokens), positions)
    np.testing.assert_allclose(hidden @ unembedding(whole).T, theirs, atol=1e-4 * np.abs(theirs).max())
