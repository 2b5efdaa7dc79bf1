"""A second start compiles nothing: what it runs is found in the cache that the command keeps by itself."""

import dataclasses
import json

import pytest
import stages.recipe as recipes
from stages import process

from jaxpo.cli.compile_cache import WHERE, host
from jaxpo.config.serialise import to_jsonable
from jaxpo.train.metrics import TIMING, read_metrics

MISS = "PERSISTENT COMPILATION CACHE MISS"


@pytest.mark.slow  # everything is compiled from nothing: the suite's own cache would hide what this looks for
def test_a_second_start_compiles_nothing_anew(tmp_path):
    """Counted by what JAX says of each program that it does not find; and the step's results are the same."""
    recipes.write_data(tmp_path)
    run = recipes.recipe(tmp_path)
    stage = dataclasses.replace(run.stages[0], max_steps=2, eval_steps=0, logging_steps=1)
    stage = dataclasses.replace(stage, data=dataclasses.replace(stage.data, eval=()))
    run = dataclasses.replace(run, stages=(stage,), probes=(), prompts=(), export=False)
    (tmp_path / "run.json").write_text(json.dumps(to_jsonable(run)))
    cache = {WHERE: str(tmp_path / "cache"), "JAX_COMPILATION_CACHE_DIR": "", "JAX_EXPLAIN_CACHE_MISSES": "1"}

    def start(name):
        code, out = process.finish(process.start(tmp_path / "run.json", "--run", name, environ=cache))
        assert code == 0, out
        records = read_metrics(tmp_path / "runs" / name / "metrics.jsonl")
        return out, records

    out, first = start("first")
    assert f"{MISS} for 'jit_step'" in out
    kept = {p.name for p in (tmp_path / "cache" / host()).iterdir()}
    assert any(name.startswith("jit_step-") for name in kept)

    out, second = start("second")
    assert MISS not in out
    assert {p.name for p in (tmp_path / "cache" / host()).iterdir()} == kept
    assert second[0]["compile_time"] > 0
    untimed = [[{k: v for k, v in r.items() if k not in TIMING} for r in records] for records in (first, second)]
    assert untimed[0] == untimed[1]
