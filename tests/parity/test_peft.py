"""Our adapters in peft, on the transformers model of their base: logits, adapted modules, file format."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")
transformers = pytest.importorskip("transformers", reason="parity tests need transformers (scripts/test --parity)")
peft = pytest.importorskip("peft", reason="parity tests need peft (scripts/test --parity)")

from models.adapters import drawn  # noqa: E402
from models.tiny import CONFIG, LFM3, hidden_and_gradient, params, random_tokens  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from jaxpo.config import LoRA  # noqa: E402
from jaxpo.convert.hf import export_hf  # noqa: E402
from jaxpo.convert.peft import export_peft  # noqa: E402
from jaxpo.models.lfm2.forward import unembedding  # noqa: E402
from jaxpo.models.lfm2.table import param_table  # noqa: E402
from jaxpo.models.lowrank import adapter_table, attach, scale_of  # noqa: E402

TABLE = param_table(CONFIG)
LORAS = {
    "all": LoRA(rank=3, alpha=6.0),
    "rslora": LoRA(rank=4, alpha=2.5, use_rslora=True),
    "some": LoRA(
        rank=2, alpha=3.0, target_modules=("layers/0/conv/in_proj/weight", "*/q_proj/*", "layers/[12]/*/w2/*")
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    export_hf(params(), CONFIG, folder, verify=False)
    return folder


def logits(model, tokens):
    with torch.no_grad():
        return model(torch.from_numpy(tokens), use_cache=False).logits.numpy()


def ours(adapter, lora, tokens, config=CONFIG):
    model = attach(params(config), adapter, scale_of(lora))
    rows, length = tokens.shape
    segments, positions = np.ones((rows, length), int), np.tile(np.arange(length), (rows, 1))
    weight = np.ones((rows, length, config.hidden_size))
    hidden, _ = hidden_and_gradient(model, tokens, segments, positions, weight, config=config)
    return np.asarray(hidden @ unembedding(model).T)


@pytest.mark.parametrize("name", LORAS)
def test_peft_loads_it_and_computes_the_same(name, base, tmp_path):
    lora = LORAS[name]
    adapter = drawn(adapter_table(TABLE, lora))
    export_peft(adapter, lora, params(), CONFIG, tmp_path / "adapter", base_name=str(base))
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokens = random_tokens(2, 11)
    without = logits(plain, tokens)
    model = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    theirs, mine = logits(model, tokens), ours(adapter, lora, tokens)
    np.testing.assert_allclose(mine, theirs, atol=1e-4 * np.abs(theirs).max())
    assert np.abs(theirs - without).max() > 0.05 * np.abs(theirs).max()
    merged = model.merge_and_unload()
    np.testing.assert_allclose(mine, logits(merged, tokens), atol=1e-4 * np.abs(theirs).max())


def test_an_adapter_of_lfm3_with_its_gates(tmp_path):
    """The module is called g_proj where PEFT wraps it, and gate_proj in the checkpoint of the base."""
    lora = LORAS["all"]
    adapter = drawn(adapter_table(param_table(LFM3), lora))
    export_hf(params(LFM3), LFM3, tmp_path / "base")
    export_peft(adapter, lora, params(LFM3), LFM3, tmp_path / "adapter", base_name=str(tmp_path / "base"))
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    assert model.base_model.model.model.layers[2].self_attn.g_proj.lora_B["default"].weight.detach().abs().min() > 0
    tokens = random_tokens(2, 11)
    theirs = logits(model, tokens)
    np.testing.assert_allclose(ours(adapter, lora, tokens, LFM3), theirs, atol=1e-4 * np.abs(theirs).max())


def test_the_base_is_found_by_its_name(base, tmp_path):
    lora = LORAS["all"]
    adapter = drawn(adapter_table(TABLE, lora), seed=1)
    export_peft(adapter, lora, params(), CONFIG, tmp_path / "adapter", base_name=str(base))
    model = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32).eval()
    tokens = random_tokens(1, 7, seed=2)
    theirs = logits(model, tokens)
    np.testing.assert_allclose(ours(adapter, lora, tokens), theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("name", LORAS)
def test_peft_writes_what_we_write(name, base, tmp_path):
    """The same tensors under the same names, and no setting of ours that it does not know."""
    lora = LORAS[name]
    adapter = drawn(adapter_table(TABLE, lora))
    export_peft(adapter, lora, params(), CONFIG, tmp_path / "ours", base_name=str(base))
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft.PeftModel.from_pretrained(plain, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    mine, theirs = (load_file(tmp_path / side / "adapter_model.safetensors") for side in ("ours", "theirs"))
    assert mine.keys() == theirs.keys()
    for tensor, value in theirs.items():
        np.testing.assert_array_equal(mine[tensor], value)
    documents = [json.loads((tmp_path / side / "adapter_config.json").read_text()) for side in ("ours", "theirs")]
    assert documents[0].keys() <= documents[1].keys()
    documents[1]["target_modules"].sort()
    assert documents[0].items() <= documents[1].items()


def test_initial_values_and_scale_are_pefts(base):
    """A of the default start has PEFT's distribution, and rsLoRA its scale."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoRA(rank=16, alpha=24.0, use_rslora=True)
    settings = peft.LoraConfig(r=16, lora_alpha=24, use_rslora=True, target_modules=["w1"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(plain, settings)
    layer = model.base_model.model.model.layers[0].feed_forward.w1
    assert layer.scaling["default"] == pytest.approx(scale_of(lora))
    theirs = layer.lora_A["default"].weight.detach().numpy()
    param = adapter_table(TABLE, lora)["layers"]["0"]["feed_forward"]["w1"]["weight"]["a"]
    mine = np.asarray(param.init(jax.random.key(0), param.shape, jnp.float32))
    assert mine.T.shape == theirs.shape
    bound = CONFIG.hidden_size**-0.5
    for values in (mine, theirs):
        assert 0.9 * bound < np.abs(values).max() <= bound
        assert np.std(values) == pytest.approx(bound / 3**0.5, rel=0.15)
