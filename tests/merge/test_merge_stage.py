"""The merge stage and its search on tiny saved stages: choice, resume, report; and the checks of its configuration."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from stages.recipe import MODEL, recipe, write_data

from jaxpo.config import Merge, Search
from jaxpo.convert.model_io import load_model, save_model
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import ConfigError, RunError
from jaxpo.merge.methods import METHODS, Karcher, ModelStock, Slerp, Soup, Ties
from jaxpo.merge.trees import merge_trees
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.recipe.checks.run import find_problems
from jaxpo.recipe.overrides import resolve_run
from jaxpo.sharding import make_mesh
from jaxpo.stages.merging.stage import merge
from jaxpo.train.signals import Preempted

STAGES = ("pretrain", "sft", "preference")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run directory with the models of three stages, and data files."""
    root = tmp_path_factory.mktemp("run")
    write_data(root)
    tokenizer = train_tokenizer(["the cat sees a dog near the river and sleeps"] * 8, 320)
    for i, name in enumerate(STAGES):
        params = init_params(param_table(MODEL), jax.random.key(i))
        save_model(root / "stages" / name, {"model": params}, MODEL, {"stage": name})
    return root, tokenizer


class Said(list):
    def say(self, text):
        self.append(text)


class Results:
    def merged(self, stage, found):
        self.found = found


def setting(home, stage, **changes):
    root, tokenizer = home
    run = dataclasses.replace(recipe(root), stages=(*recipe(root).stages[:3], stage))
    fake = SimpleNamespace(
        run=run,
        home=SimpleNamespace(path=root, stage=lambda name: root / "stages" / name),
        inputs=SimpleNamespace(config=MODEL, tokenizer=tokenizer, resolve=tuple),
        mesh=make_mesh({}, jax.devices()[:1]),
        rules={},
        console=Said(),
        stop=SimpleNamespace(requested=lambda step: None),
        config=lambda stage: MODEL,
        scorer_of=lambda stage: Scorer(MODEL),
        results=Results(),
        merged=lambda stage: tuple(n for n in stage.models or STAGES if n != stage.base),
        model_folder=lambda name: root / "stages" / name,
    )
    for name, value in changes.items():
        setattr(fake, name, value)
    return fake


def model(home, name):
    return load_model(home[0] / "stages" / name).params["model"]


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_methods_on_a_base(home):
    stage = Merge(method=Ties(density=1.0), base="pretrain", weights=(0.25, 0.75))
    used = setting(home, stage)
    found = merge(used, stage)["model"]
    trees = [model(home, n) for n in ("sft", "preference")]
    close(found, merge_trees(stage.method, trees, stage.weights, base=model(home, "pretrain")))
    assert used.console == [
        "merge: ties",
        "merge: base   pretrain",
        "merge: 0.2500 x sft",
        "merge: 0.7500 x preference",
    ]


def test_without_a_method_it_is_the_soup(home):
    stage = Merge(models=("sft", "preference"))
    found = merge(setting(home, stage), stage)["model"]
    close(found, merge_trees(Soup(), [model(home, n) for n in stage.models]))


def searching(home, **changes):
    root, _ = home
    files = {
        "select": (str(root / "text_eval.jsonl"), str(root / "pref_eval.jsonl")),
        "report": (str(root / "text_train.jsonl"), str(root / "pref_train.jsonl")),
    }
    search = Search(
        **files,
        metrics=(("bits_per_byte", 1.0), ("ranking_accuracy", 0.5)),
        methods=(Soup(), Slerp(0.25), Ties(density=0.5)),
        weights=((0.5, 0.5), (0.9, 0.1)),
        max_length=64,
        parallel=3,
    )
    return Merge(base="pretrain", search=dataclasses.replace(search, **changes))


LABELS = [
    "soup 0.5 0.5",
    "soup 0.9 0.1",
    "slerp(t=0.25)",
    "ties(density=0.5) 0.5 0.5",
    "ties(density=0.5) 0.9 0.1",
]


def test_a_search_measures_the_grid_stops_goes_on_and_ships_the_best(home):
    stage = searching(home)
    used = setting(home, stage)
    # Stopped by a signal after two candidates: the second start measures the others only.
    signals = iter([None] * 6 + [15])  # three inputs, a pass, two candidates
    used.stop = SimpleNamespace(requested=lambda step: next(signals))
    with pytest.raises(Preempted):
        merge(used, stage)
    folder = home[0] / "stages" / "merge" / "search"
    done = (folder / "results.jsonl").read_text()
    assert done.count("\n") == 2 * 3 + 2
    (folder / "results.jsonl").write_text(done + '{"label": "cut of')
    used = setting(home, stage)
    found = merge(used, stage)["model"]
    whole = (folder / "results.jsonl").read_text()
    assert whole.startswith(done)
    assert whole.count("\n") == len(used.results.found["rows"])
    document = json.loads((folder / "search.json").read_text())
    assert document == json.loads(json.dumps(used.results.found))
    on = {s: [r for r in document["rows"] if r["on"] == s] for s in ("select", "report")}
    assert [r["label"] for r in on["select"]] == ["sft", "preference", "pretrain", *LABELS]
    merges = [r for r in on["select"] if r["kind"] == "merge"]
    best = max(merges, key=lambda r: r["score"])
    assert document["best"] == best["label"]
    for row in document["rows"]:
        values = {name: m["value"] for name, m in row["measured"].items()}
        assert row["score"] == pytest.approx(-values["bits_per_byte"] + 0.5 * values["ranking_accuracy"])
    # The report set has the chosen one, the plain average and what went in, measured on other files.
    assert {r["label"] for r in on["report"]} == {best["label"], "soup 0.5 0.5", "sft", "preference", "pretrain"}
    chosen = next(r for r in on["report"] if r["label"] == best["label"])
    assert chosen["measured"]["bits_per_byte"]["n"] == 60
    assert best["measured"]["bits_per_byte"]["n"] == 12

    method, weights = {
        label: (m, w)
        for label, m, w in zip(
            LABELS,
            (Soup(), Soup(), Slerp(0.25), Ties(density=0.5), Ties(density=0.5)),
            ((0.5, 0.5), (0.9, 0.1), None, (0.5, 0.5), (0.9, 0.1)),
            strict=True,
        )
    }[best["label"]]
    base = model(home, "pretrain") if method.BASE == "required" else None
    trees = [model(home, n) for n in ("sft", "preference")]
    close(found, merge_trees(method, trees, weights, base=base))
    table = (folder / "search.md").read_text()
    assert f"**{best['label']}**" in table
    assert "these figures can be quoted" in table
    assert (folder / "search.png").read_bytes().startswith(b"\x89PNG")
    assert any(line.startswith(f"merge: best: {best['label']}; on the report files") for line in used.console)

    # A third start measures nothing; another question is refused.
    before = (folder / "results.jsonl").read_text()
    used = setting(home, stage)
    merge(used, stage)
    assert (folder / "results.jsonl").read_text() == before
    other = searching(home, max_length=32)
    with pytest.raises(RunError, match="holds what was measured with other max_length"):
        merge(setting(home, other), other)


def problems(home, stage):
    run = dataclasses.replace(recipe(home[0]), stages=(*recipe(home[0]).stages[:3], stage))
    return list(find_problems(run))


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (Merge(method=METHODS["dare_ties"](density=1.5), base="sft"), [
            "merge.method.density: 1.5 must lie in (0, 1]; it is the share of a task vector's entries that is kept."
        ]),
        (Merge(method=Ties()), [
            "merge.base: ties adds to a base what the models learned since; name that model."
        ]),
        (Merge(method=Ties(), base="sfd"), [
            "merge.base: 'sfd' is neither an earlier stage (pretrain, sft, preference), nor a folder. Did you mean sft?"
        ]),
        (Merge(base="sft"), [
            "merge.base: soup has none; leave it out, or list that model among the others."
        ]),
        (Merge(method=Slerp()), ["merge.models: slerp merges exactly 2, got 3."]),
        (Merge(method=ModelStock(), base="sft", weights=(1.0, 1.0)), [
            "merge.weights: model_stock does not use any; leave them out."
        ]),
        (Merge(method=Ties, base="sft"), [
            "merge.method: Ties is not a method; use an instance of a dataclass of jaxpo.merge.methods."
        ]),
        (Merge(method=Ties(), base="sft", weights=(1.0,)), [
            "merge.weights: 1 weights for 2 models (pretrain, preference); give one weight per model."
        ]),
        (Merge(search=Search(), weights=(1.0,)), [
            "merge.weights: a search chooses it; leave it out, or list it in merge.search.weights.",
            "merge.search.select: no held-out files; give --merge.search.select FILES.",
            "merge.search.report: no held-out files; give --merge.search.report FILES.",
        ]),
    ],
)  # fmt: skip
def test_what_a_merge_cannot_be(home, stage, expected):
    assert problems(home, stage) == expected


def test_what_a_search_cannot_be(home):
    file = str(home[0] / "text_eval.jsonl")
    search = Search(
        select=(file,),
        report=(file, "gone.jsonl"),
        metrics=(("bits", 1.0), ("bits_per_byte", -1.0)),
        methods=(Slerp(), "soup"),
        weights=((1.0, -1.0),),
        parallel=0,
    )
    stage = Merge(models=("pretrain", "sft", "preference"), search=search)
    assert problems(home, stage) == [
        "merge.search.methods[0]: models: slerp merges exactly 2, got 3.",
        "merge.search.methods[1]: 'soup' is not a method; use a dataclass of jaxpo.merge.methods.",
        "merge.search.weights[0]: 2 weights for 3 models.",
        "merge.search.report: there is no file or folder gone.jsonl.",
        f"merge.search.report: {file} also selects; the best of many looks better there than it is. "
        "Report another file.",
        "merge.search.metrics: there is no metric 'bits'. "
        "Known: bits_per_byte, sft_loss, exact_match, ranking_accuracy.",
        "merge.search.metrics: bits_per_byte has the weight -1; it must be above 0 (what is better is known).",
        "merge.search.parallel: 0 must be at least 1.",
    ]


def test_files_of_several_kinds_need_explicit_weights(home):
    stage = searching(home, metrics=())
    with pytest.raises(
        ConfigError, match=r"several metrics, bits_per_byte \(text\), ranking_accuracy \(preference\); say"
    ):
        merge(setting(home, stage), stage)
    stage = searching(home, metrics=(("bits_per_byte", 1.0), ("sft_loss", 1.0)))
    with pytest.raises(ConfigError) as caught:
        merge(setting(home, stage), stage)
    assert [p.split(":")[1].split(",")[0] for p in caught.value.problems] == [
        " sft_loss is measured on prompt_completion rows",
        " none is measured on preference rows",
    ]


def test_the_command_line_chooses_methods_by_name(home):
    run = recipe(home[0])
    words = "--merge.method ties --merge.method.density 0.25 0.5 --merge.base pretrain".split()  # noqa: SIM905
    resolved = resolve_run(run, words)
    stage = resolved.run.stages[3]
    assert (stage.method, stage.base) == (Ties(density=(0.25, 0.5)), "pretrain")
    assert resolved.origins["merge.method"] == "command line"
    words = "--merge.search.methods soup karcher --merge.search.select a b --merge.search.parallel 2".split()  # noqa: SIM905
    stage = resolve_run(run, words).run.stages[3]
    assert stage.search == Search(methods=(Soup(), Karcher()), select=("a", "b"), parallel=2)
    with pytest.raises(ConfigError, match=r"there is no merge method 'tie'\. Did you mean ties"):
        resolve_run(run, ["--merge.method", "tie"])
    with pytest.raises(ConfigError, match="needs one name"):
        resolve_run(run, ["--merge.method", "ties", "soup"])
