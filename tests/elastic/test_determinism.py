"""A hundred steps with dropout, twice, on other numbers of threads, and with restarts: equal bit for bit."""

import json
import signal

import jax
import pytest
import stages.recipe as recipes

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import SFT, Data, Optimizer
from jaxpo.data.packing import ahead
from jaxpo.data.packing.loader import Loader
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.prepare import prepare
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.sharding import make_mesh, use_mesh
from jaxpo.stages.assemble import assemble
from jaxpo.train.console import Console
from jaxpo.train.init import init_state
from jaxpo.train.loop import fit
from jaxpo.train.metrics import TIMING, MetricsLog, read_metrics
from jaxpo.train.signals import Preempted, Stop

pytestmark = pytest.mark.scale
STEPS = 100
STAGE = SFT(
    data=Data(max_length=64, row_length=96),
    rows_per_step=4,
    gradient_accumulation_steps=2,
    embedding_dropout=0.1,
    optimizer=Optimizer(learning_rate=1e-3),
    max_steps=STEPS,
    logging_steps=1,
)


class Interrupted(Stop):
    """A signal that is noted after one step."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def requested(self, step):
        return signal.SIGTERM if step == self.at else None


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """`train(folder, stop_at)` -> the state's fingerprint and the log; one compiled step for all calls."""
    folder = tmp_path_factory.mktemp("data")
    recipes.write_data(folder)
    rows = folder / "sft_train.jsonl"
    texts = [turn["content"] for line in rows.open() for turn in json.loads(line)["prompt"]]
    tokenizer = train_tokenizer(texts, recipes.MODEL.vocab_size)

    def loader():
        dataset = prepare(
            [rows], data=STAGE.data, tokenizer=tokenizer, purpose="sft", cache_dir=folder, log=lambda line: None
        )
        return Loader(dataset, STAGE.data, seed=0, rows_per_step=STAGE.rows_per_step, divisor=2)

    mesh = make_mesh({"fsdp": 1}, jax.devices()[:1])
    with use_mesh(mesh):
        built = assemble(STAGE, loader(), Scorer(recipes.MODEL), mesh, {})
        params = {"model": init_params(built.tables["model"], jax.random.key(0))}

        def train(folder, stop_at=None):
            with MetricsLog(folder / "metrics.jsonl") as log:
                state = fit(
                    stage=STAGE,
                    total_steps=built.total_steps,
                    init=lambda: init_state(built.abstract, params, built.optimizer, built.objective, 0),
                    abstract=built.abstract,
                    frozen={},
                    step=built.step,
                    evaluate=None,
                    source=loader(),
                    put=built.put,
                    store=CheckpointStore(folder / "checkpoints"),
                    meta={},
                    log=log,
                    console=Console(primary=False),
                    stop=Interrupted(stop_at),
                    on_nonfinite_dir=folder,
                )
            records = [{k: v for k, v in r.items() if k not in TIMING} for r in read_metrics(folder / "metrics.jsonl")]
            return fingerprint(state), records

        yield train


@pytest.fixture(scope="module")
def whole(training, tmp_path_factory):
    found = training(tmp_path_factory.mktemp("whole"))
    assert len(found[1]) == STEPS + 1
    assert found[1][-1]["epoch"] > 3
    assert found[1][STEPS - 1]["loss"] < 0.8 * found[1][0]["loss"], "it trained"
    return found


@pytest.mark.parametrize(("threads", "buffered"), [(1, 1), (8, 16)])
def test_a_second_run_on_other_threads_is_the_same(training, whole, tmp_path, monkeypatch, threads, buffered):
    monkeypatch.setattr(ahead, "THREADS", threads)
    monkeypatch.setattr(ahead, "PREFETCH", buffered)
    assert training(tmp_path) == whole


def test_restarts_change_nothing(training, whole, tmp_path):
    """After the first step, in the midst of an epoch, and before the last step."""
    for step in (1, 37, 38, 99):
        with pytest.raises(Preempted):
            training(tmp_path, step)
    assert training(tmp_path) == whole
