"""Work stages: what they promise, read and use is checked before anything runs; what they report is kept."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from jaxpo.config import SFT, Data, Pretrain, Reward, Run, Tokenizer, Work
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.errors import DataError, RunError
from jaxpo.objectives.methods.bradley_terry import BradleyTerry
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages.run import run_work
from jaxpo.stages.run_inputs import make_inputs, resolve_files, waits
from jaxpo.stages.working import REPORT, report_of, work
from jaxpo.train.files import read_json
from jaxpo.train.signals import Preempted
from jaxpo.train.watching import Watching


@dataclass(frozen=True)
class Copy(Work):
    """Writes one file; `fails` leaves it out."""

    name: str = "copy"
    source: str = "corpus:a.jsonl"
    model: str = "previous"
    fails: bool = False

    def outputs(self):
        return ("rows.jsonl",)

    def inputs(self):
        return (self.source,)

    def needed_models(self):
        return (self.model,)

    def run(self, context):
        context.check()
        if not self.fails:
            (context.folder / "rows.jsonl").write_text("".join(p.read_text() for p in context.files(self.inputs())))
        return {"models": list(context.stages)}


class Corpus:
    def build(self, directory):
        return {}


def recipe(*stages):
    return Run(corpus=Corpus(), tokenizer=Tokenizer(train_on=("corpus:a.jsonl",)), stages=stages)


PRETRAIN = Pretrain(data=Data(train=("corpus:a.jsonl",)), max_steps=1)
LATER = SFT(data=Data(train=("stage:copy/rows.jsonl",)), max_steps=1)


def test_a_stage_may_read_what_an_earlier_work_stage_writes():
    assert not list(find_problems(recipe(PRETRAIN, Copy(), LATER)))
    assert waits(LATER)
    assert not waits(PRETRAIN)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((PRETRAIN, LATER, Copy()), "sft.data.train: no work stage before this one writes 'stage:copy/rows.jsonl' ("),
        (
            (PRETRAIN, Copy(), replace(LATER, data=Data(train=("stage:copy/row.jsonl",)))),
            "sft.data.train: no work stage before this one writes 'stage:copy/row.jsonl' (they write "
            "stage:copy/rows.jsonl). Did you mean stage:copy/rows.jsonl?",
        ),
        ((PRETRAIN, Copy(model="pretrian")), "copy: the model 'pretrian' is not that of an earlier stage (pretrain). "),
        ((Copy(), PRETRAIN), "copy: the model 'previous' is not that of an earlier stage (there is none)."),
        ((PRETRAIN, Copy(source="no/such.jsonl")), "copy: reads: there is no file or folder no/such.jsonl."),
        (
            (PRETRAIN, Copy(), replace(LATER, init_from="copy")),
            "sft.init_from: 'copy' is neither 'previous' nor 'random', nor an earlier stage (pretrain), nor a folder.",
        ),
    ],
)
def test_mistakes_are_named(stages, message):
    problems = list(find_problems(recipe(*stages)))
    assert len(problems) == 1
    assert problems[0].startswith(message)


@pytest.fixture
def setting(tmp_path):
    """A run of one pretraining stage and a work stage, as far as work stages see it."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text('{"text": "a"}\n')

    def stage(name):
        (tmp_path / "stages" / name).mkdir(parents=True, exist_ok=True)
        return tmp_path / "stages" / name

    return SimpleNamespace(
        run=SimpleNamespace(seed=0),
        home=SimpleNamespace(path=tmp_path, stage=stage, primary=True),
        inputs=SimpleNamespace(tokenizer=None, config=None, resolve=lambda f: resolve_files(f, tmp_path)),
        console=SimpleNamespace(say=print),
        stop=SimpleNamespace(requested=lambda step: None, during=nullcontext, later=nullcontext),
        scorer=None,
        mesh=None,
        rules={},
        with_models=lambda before: ["pretrain"],
        watching=Watching(),
    )


def test_a_work_stage_leaves_its_file_and_its_report(setting, tmp_path):
    folder = tmp_path / "stages" / "copy"
    assert report_of(folder) is None
    work(setting, Copy())
    assert report_of(folder) == read_json(folder / REPORT) == {"models": ["pretrain"]}
    assert (folder / "rows.jsonl").read_text() == '{"text": "a"}\n'


def test_a_promised_file_that_is_missing_is_an_error(setting, tmp_path):
    with pytest.raises(RunError, match=r"stage copy: Copy ended without writing rows\.jsonl"):
        work(setting, Copy(fails=True))
    assert report_of(tmp_path / "stages" / "copy") is None


def test_a_signal_ends_it_between_pieces(setting, tmp_path):
    setting.stop.requested = lambda step: 15
    with pytest.raises(Preempted, match="the same command goes on"):
        work(setting, Copy())
    assert report_of(tmp_path / "stages" / "copy") is None


def test_a_kill_before_the_summary_loses_no_report(setting, tmp_path):
    """The stage ends and writes its report; the run dies before its own summary has it."""
    work(setting, Copy())
    stored = {}
    setting.results = SimpleNamespace(worked=stored.__setitem__)
    run_work(setting, Copy())
    assert stored == {"copy": {"models": ["pretrain"]}}


def test_a_signal_that_comes_in_its_last_piece_ends_the_run_after_it(setting):
    work(setting, Copy())
    setting.results = SimpleNamespace(worked=lambda name, report: None)
    setting.stop.requested = lambda step: 15
    with pytest.raises(Preempted, match="the same command goes on"):
        run_work(setting, Copy())


def test_rows_that_a_work_stage_cannot_use_are_refused_before_the_first_stage(tmp_path):
    """The stage itself would find out after everything before it was trained."""
    source = tmp_path / "questions.jsonl"
    source.write_text('{"prompt": "2 + 2?", "completion": "Four."}\n')
    pairs = OnPolicyPairs(prompts=(str(source),))
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "Once upon a time there was a cat."}\n' * 20)
    pretrain = Pretrain(data=Data(train=(str(text),), max_length=16, row_length=16), max_steps=1)
    run = Run(tokenizer=Tokenizer(train_on=(str(text),), vocab_size=300), stages=(pretrain, pairs))
    with pytest.raises(DataError, match=r"questions\.jsonl, row 1, field 'answer'"):
        make_inputs(run, tmp_path / "run", print)


def test_held_out_rows_of_a_stage_that_waits_are_looked_at_before_anything_runs(tmp_path):
    text, held = tmp_path / "text.jsonl", tmp_path / "held.jsonl"
    text.write_text('{"text": "some words of a corpus"}\n' * 8)
    held.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    pretrain = Pretrain(data=Data(train=(str(text),), max_length=16, row_length=16), max_steps=1)
    later = Reward(
        data=Data(train=("stage:copy/rows.jsonl",), eval=(str(held),), max_length=16, row_length=16),
        loss=BradleyTerry(soft_labels=True),
        max_steps=1,
    )
    run = Run(
        tokenizer=Tokenizer(train_on=(str(text),), vocab_size=300), stages=(pretrain, Copy(source=str(text)), later)
    )
    with pytest.raises(DataError, match=r"held\.jsonl, row 1, field 'votes'"):
        make_inputs(run, tmp_path / "run", print)
    plain = replace(run, stages=(pretrain, Copy(source=str(text)), replace(later, loss=BradleyTerry())))
    assert set(make_inputs(plain, tmp_path / "run", print).stages) == {"pretrain"}
