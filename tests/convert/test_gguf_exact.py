"""Weights that lie on a grid are stored in a GGUF file without loss, whatever scale they were rounded with."""

import jax
import numpy as np
import pytest
from convert.gguf_models import DENSE, random, tokenizer

gguf = pytest.importorskip("gguf", reason="GGUF files need the gguf package (the extra gguf)")

from jaxpo.convert.gguf.exact import keep_exact  # noqa: E402
from jaxpo.convert.gguf.read import import_gguf, open_gguf  # noqa: E402
from jaxpo.convert.gguf.verify import verify_gguf  # noqa: E402
from jaxpo.convert.gguf.write import write_gguf  # noqa: E402
from jaxpo.convert.hf import tensors_of  # noqa: E402
from jaxpo.convert.rounding.gptq import gptq  # noqa: E402
from jaxpo.convert.rounding.methods import quantize_model  # noqa: E402
from jaxpo.errors import CheckpointError  # noqa: E402
from jaxpo.models.lfm2.table import param_table  # noqa: E402
from jaxpo.ops.grids import absmax_scales, best_scales, grid, rounded  # noqa: E402

RNG = np.random.default_rng(4)
W = (0.05 * RNG.standard_normal((40, 128))).astype(np.float32)
W[0, :32] = 0
W[3, 64] = 2.0


def packed_and_back(w, kind):
    number = gguf.GGMLQuantizationType[kind]
    packed = keep_exact(w, gguf.quants.quantize(w, number), kind, gguf)
    assert packed.shape == gguf.quants.quantize(w, number).shape
    return gguf.quants.dequantize(packed, number)


@pytest.mark.parametrize(
    ("name", "group", "kind"),
    [("q4_0", 32, "Q4_0"), ("int4", 32, "Q4_0"), ("int4", 0, "Q4_0"), ("int8", 32, "Q8_0"), ("int8", 64, "Q8_0")],
)
def test_every_way_of_rounding(name, group, kind):
    to = grid(name, group)
    x = RNG.standard_normal((300, 128)) @ (np.eye(128) + 0.2 * RNG.standard_normal((128, 128)))
    for q in (rounded(W, to, absmax_scales(W, to)), rounded(W, to, best_scales(W, to)), gptq(W, x.T @ x, to)):
        assert np.array_equal(packed_and_back(q, kind), q)


def test_what_lies_on_no_grid_is_rounded_as_before():
    for kind in ("Q4_0", "Q8_0"):
        number = gguf.GGMLQuantizationType[kind]
        assert np.array_equal(packed_and_back(W, kind), gguf.quants.dequantize(gguf.quants.quantize(W, number), number))


def test_a_quantised_model_in_a_file(tmp_path):
    """Every leaf comes back bit for bit, and no llama.cpp is needed to bound what the file computes."""
    params = quantize_model(random(DENSE), DENSE, grid("int4"), "mse")
    sources = tensors_of(params, param_table(DENSE))
    file = tmp_path / "model.gguf"
    write_gguf(file, sources, DENSE, tokenizer(), "q4_0", name="tiny")
    found, _ = import_gguf(file)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    report = verify_gguf(file, sources, params, DENSE, "q4_0", run=False)
    assert report["weights"] == 0
    assert report["max_logprob_error"] < 1e-3
    assert report["runtime"]["max_logprob_error"] < 1e-3


def test_without_llama_cpp_a_forward_that_differs_is_found(tmp_path, monkeypatch):
    """Of a quantised file the model itself gives no bound; a second forward of what the file holds does."""
    sources = tensors_of(random(DENSE), param_table(DENSE))
    file = tmp_path / "model.gguf"
    write_gguf(file, sources, DENSE, tokenizer(), "q4_0", name="tiny")
    assert verify_gguf(file, sources, random(DENSE), DENSE, "q4_0", run=False)["kl"] > 1e-3
    from jaxpo.convert.gguf import verify

    real = verify.export_of

    class Wrong:
        def __init__(self, config):
            self._real = real(config)

        def logits(self, read, config, tokens):
            return 1.05 * self._real.logits(read, config, tokens)

    monkeypatch.setattr(verify, "export_of", Wrong)
    with pytest.raises(CheckpointError, match="does not compute what the model computes"):
        verify_gguf(file, sources, random(DENSE), DENSE, "q4_0", run=False)
    assert open_gguf(file).config == DENSE
