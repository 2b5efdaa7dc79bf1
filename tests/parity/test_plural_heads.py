"""Models of several tastes in torch, by the reader and the formulas that docs/reward_models.md gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")
pytest.importorskip("transformers", reason="parity tests need transformers (scripts/test --parity)")

from judges.plural_networks import network  # noqa: E402
from judges.reward_networks import ANSWERS, CONFIG, PROMPTS  # noqa: E402
from parity.test_reward_heads import documented_reader  # noqa: E402

from jaxpo.convert.heads_hf import export_heads  # noqa: E402


def project(m: Any, x: Any) -> Any:
    z = m.head("projector.in", x)
    for i in ("0", "1"):
        z = z + m.head(f"projector.{i}", z).relu()
    return m.head("projector.out", z)


@pytest.mark.parametrize("name", ["gpm", "pal_a", "micro", "maxmin"])
def test_the_documented_formulas_give_our_scores(name: str, tmp_path: Path) -> None:
    own, folder = network(name), tmp_path / "model"
    export_heads(own.params, CONFIG, folder, own.reader, tokenizer=own.tokenizer)
    m, found = documented_reader()(folder), []
    prompts = PROMPTS if name != "gpm" else [PROMPTS[0]] * 4
    segments = own.answers(prompts, ANSWERS, own.reader.method)
    vectors, gate = [], None
    for segment in segments:
        h = m.states(segment.tokens.tolist())
        end = int(np.flatnonzero(segment.supervised)[0]) - 1
        if name == "gpm":
            v = m.head("embedding", h[-1])
            vectors.append(v / v.norm())
            gate = m.head("gate", h[end]).softmax(-1)
        elif name == "micro":
            r = h[-1] @ (m.heads["heads.weight"] + m.heads["heads.prior"])
            found.append(float(m.head("router", h[end]).softmax(-1) @ torch.nn.functional.logsigmoid(r)))
        elif name == "maxmin":
            z = (m.head("groups", h[-1]) - torch.tensor([1.0, 0.0])) / torch.tensor([2.0, 0.5])
            found.append(float(z.mean()))
        else:
            u = project(m, m.heads["prototypes.weight"].mean(0))
            found.append(-float((project(m, h[-1]) - u).norm()))
    if name == "gpm":
        v = torch.stack(vectors).reshape(4, -1, 2)
        table = torch.einsum("ilk,jlk,l->ij", v, torch.stack([v[..., 1], -v[..., 0]], -1), gate) / 0.1
        np.testing.assert_allclose(table, own.mean_scores(prompts, ANSWERS, [4])[1][0], rtol=1e-3, atol=1e-4)
        return
    np.testing.assert_allclose(found, own.rewards(prompts, ANSWERS), rtol=1e-4, atol=1e-5)
