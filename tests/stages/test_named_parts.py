"""Users and aspects are taken over from another model by their names: a head of the same shape is not enough."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxpo.config import Data, Reward, Run
from jaxpo.convert.model_io import save_model
from jaxpo.convert.reader import REWARD, Reader
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.spec import init_params
from jaxpo.objectives.methods import METHODS
from jaxpo.stages.assemble import own_tables
from jaxpo.stages.named_parts import check_parts, heads_of_others
from jaxpo.stages.trained import check_heads, heads_before
from jaxpo.stages.training import first_of

MODEL = LFM2Config(
    vocab_size=64, hidden_size=8, intermediate_size=16, num_attention_heads=1, num_key_value_heads=1, head_dim=8,
    layer_types=("conv",),
)  # fmt: skip
PAL = METHODS["pal"](users=("ann", "ben"), size=4)
RATING = METHODS["rating"](aspects=("brief", "helpful"))
FIRST = Reward(name="first", loss=PAL, data=Data(train=("rows.jsonl",)), max_steps=1)


def after(first: Any, changes: dict[str, Any], **stage: Any) -> tuple[Run, Reward]:
    second = Reward(
        name="second",
        init_from="first",
        loss=dataclasses.replace(first, **changes),
        data=FIRST.data,
        max_steps=1,
        **stage,
    )
    return Run(name="r", model=MODEL, stages=(dataclasses.replace(FIRST, loss=first), second)), second


@pytest.mark.parametrize(
    ("first", "changes", "others"),
    [
        (PAL, {}, set()),
        (PAL, {"users": ("cat", "dan")}, {"users"}),
        (PAL, {"users": ("cat",)}, {"users"}),
        (RATING, {"low": 0.0, "high": 5.0}, set()),
        (RATING, {"aspects": ("kind", "long")}, {"ratings"}),
    ],
)
def test_others_are_learnt_anew(first: Any, changes: dict[str, Any], others: set[str]) -> None:
    run, second = after(first, changes)
    check_parts(run)
    assert heads_of_others(run, second) == others
    tables = own_tables(second, MODEL)
    assert not others & set(heads_before(run, second, tables, MODEL))
    base = {n: init_params(t, jax.random.key(7)) for n, t in own_tables(run.stages[0], MODEL).items()}
    base = jax.tree.map(lambda x: x + 1, base)
    found = first_of(base, tables, 0, others)
    for head in tables:
        same = jax.tree.map(lambda a, b: a.shape == b.shape and bool(np.all(a == b)), found[head], base[head])
        assert all(jax.tree.leaves(same)) == (head not in others), head


def test_a_head_of_others_cannot_stay_as_it_is() -> None:
    run, second = after(PAL, {"users": ("cat", "dan")}, train=("projector/*",))
    tables = own_tables(second, MODEL)
    base = {n: init_params(t, jax.random.key(7)) for n, t in tables.items()}
    with pytest.raises(ConfigError, match="nothing of the head 'users'"):
        check_heads(second, tables, base, heads_of_others(run, second))


@pytest.mark.parametrize(
    ("first", "changes", "said"),
    [
        (PAL, {"users": ("ben", "ann")}, r"second.loss.users: ben, ann, but the head 'users' .* is of ann, ben; name"),
        (PAL, {"users": ("ann", "zoe")}, r"leave out ann to learn the others anew"),
        (RATING, {"aspects": ("helpful", "kind")}, r"second.loss.aspects: helpful, kind, .* is of brief, helpful"),
    ],
)
def test_some_of_them_or_another_order_is_refused(
    first: Any, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Of an earlier stage, and of a folder, whose weights are not read."""
    run, second = after(first, changes)
    with pytest.raises(ConfigError, match=said):
        check_parts(run)
    about = {"stage": "first", "trained_on": "nothing", REWARD: Reader(first).as_json()}
    tables = own_tables(run.stages[0], MODEL)
    save_model(tmp_path / "run", {n: init_params(t, jax.random.key(0)) for n, t in tables.items()}, MODEL, about)
    alone = dataclasses.replace(second, init_from=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=said):
        check_parts(dataclasses.replace(run, stages=(alone,)))
    check_parts(dataclasses.replace(run, stages=(dataclasses.replace(second, init_from="random"),)))
