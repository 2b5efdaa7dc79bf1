"""The LFM2 report's recipe whole: pretrain, distil, fine-tune along a curriculum, prefer, merge.

The training of the LFM2 Technical Report (arXiv 2511.23404); preference tuning is on the model's own answers. On two
cores in under 25 minutes, with a corpus from this Python's documentation and arithmetic problems that it makes:

    jaxpo run lfm2_recipe

On a pod, the same stages at the report's sizes, on your files (see `REPORT` for what is published and what is not):

    jaxpo run lfm2_recipe --preset lfm2_1_2b --data DATA --teacher TEACHER --tokenizer TOKENIZER \\
        --records RECORDS --endpoint http://HOST/v1 --judge MODEL

DATA holds `pretrain`, `sft`, `items`, `pref` (training) and `select_*`, `report_*` of the same (held out), each a
`.jsonl` file: texts; prompt-completion rows; questions whose completion ends in `#### NUMBER`; prompts with a chosen
and a rejected answer. TEACHER is a run, a stage or an export with the same tokenizer; TOKENIZER a `tokenizer.json` or
its folder. RECORDS is what `jaxpo data teach --shard i/n` wrote of DATA/pretrain.jsonl; without it the teacher runs in
every step. With an endpoint, its MODEL judges the given and five sampled answers of the `pref` prompts too, as the
report does; without one their given pairs are trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jaxpo.config import (
    SFT,
    Compute,
    Curriculum,
    Data,
    Distill,
    Merge,
    Optimizer,
    Preference,
    Pretrain,
    Run,
    Search,
    Tokenizer,
)
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.corpora.recipe import RecipeCorpus
from jaxpo.curriculum.stage import MeasureDifficulty
from jaxpo.errors import ConfigError
from jaxpo.evaluate.exact_match import ExactMatch
from jaxpo.evaluate.probes import BitsPerByte, RankingAccuracy, SFTLoss
from jaxpo.judges import ChatJudge, Endpoint, Judge, VerifierJudge
from jaxpo.merge.methods import SCE, DareTies, ModelStock, Soup, TaskArithmetic, Ties
from jaxpo.models.family import preset as preset_named
from jaxpo.objectives.methods.length_normalized import LengthNormalized
from jaxpo.objectives.methods.topk_kd import DecoupledTopK

NANO = "nano"


@dataclass(frozen=True)
class Files:
    """Where each stage reads; `select` chooses the merge, `report` is what every stage is measured on."""

    pretrain: str
    sft: str
    items: str
    pref: str
    select: dict[str, str]
    report: dict[str, str]


@dataclass(frozen=True)
class Given:
    """What a run on a pod is told; see `config`."""

    teacher: str | None = None
    records: str | None = None
    endpoint: str | None = None
    judge: str | None = None


@dataclass(frozen=True)
class Scale:
    """The numbers in which a laptop and a pod differ.

    Attributes:
      length, long: context of pretraining, and of the stages after it.
      rows: packed rows per step of pretraining, fine-tuning and preference.
      tokens: budgets of pretraining and distillation.
      probe_steps: of the run whose eight snapshots grade the items.
      epochs: of fine-tuning and preference.
      prompts: of the on-policy pairs.
      record_teacher: store 132 bytes for every token of the text, rather than run the teacher in every step.
      answer_tokens: room for an answer, wherever one is sampled or graded.
    """

    length: int
    long: int
    rows: tuple[int, int, int]
    tokens: tuple[int, int]
    probe_steps: int
    epochs: tuple[float, float]
    prompts: int
    record_teacher: bool
    answer_tokens: int
    pretrain: Optimizer
    distil: Optimizer
    probe: Optimizer
    sft: Optimizer
    preference: Optimizer


LAPTOP = Scale(
    length=256,
    long=256,
    rows=(8, 8, 16),
    tokens=(700_000, 500_000),
    probe_steps=240,
    epochs=(1.0, 1.0),
    prompts=600,
    record_teacher=True,
    answer_tokens=48,
    pretrain=Optimizer(learning_rate=2e-2, lr_scheduler_type="wsd", warmup_steps=30, decay_ratio=0.6),
    distil=Optimizer(learning_rate=1e-2, lr_scheduler_type="linear", warmup_steps=10),
    probe=Optimizer(learning_rate=4e-3, lr_scheduler_type="linear", warmup_steps=10, weight_decay=0.0),
    sft=Optimizer(learning_rate=4e-3, lr_scheduler_type="cosine", warmup_steps=10, weight_decay=0.0),
    preference=Optimizer(learning_rate=3e-4, lr_scheduler_type="cosine", warmup_steps=10, weight_decay=0.0),
)
"""Chosen by hand for a million parameters; the report's rates are for models a thousand times as large."""

REPORT = Scale(
    length=4096,
    long=32_768,
    rows=(1024, 64, 64),
    tokens=(10_000_000_000_000, 1_000_000_000_000),
    probe_steps=2000,
    epochs=(3.0, 2.0),
    prompts=1_000_000,
    record_teacher=False,
    answer_tokens=1024,
    # Peak, batch and shape of the pretraining schedule are not published: these are ours.
    pretrain=Optimizer(learning_rate=3e-4, final_learning_rate=3e-5, lr_scheduler_type="wsd", warmup_steps=2000),
    distil=Optimizer(learning_rate=3e-4, final_learning_rate=1e-6, lr_scheduler_type="linear", warmup_steps=500),
    probe=Optimizer(learning_rate=3e-5, warmup_steps=100),
    # Published: 3 epochs at 32,768, (0.9, 0.95), decay 0.1, cosine 3e-5 -> 1e-7, 500 warm-up steps.
    sft=Optimizer(learning_rate=3e-5, final_learning_rate=1e-7, lr_scheduler_type="cosine", warmup_steps=500),
    # Published: beta 5, 8e-7 -> 8e-8, 2 epochs.
    preference=Optimizer(learning_rate=8e-7, final_learning_rate=8e-8, lr_scheduler_type="cosine"),
)

# Two cores see each token for about 7 million multiply-adds: narrower and shallower than the preset, and read more.
STUDENT = replace(
    preset_named(NANO),
    vocab_size=2048,
    hidden_size=128,
    intermediate_size=384,
    num_attention_heads=4,
    num_key_value_heads=2,
    layer_types=("conv", "conv", "full_attention", "conv"),
    rope_theta=10_000.0,
)
TEACHER = replace(
    STUDENT,
    hidden_size=192,
    intermediate_size=512,
    num_attention_heads=6,
    layer_types=("conv", "conv", "full_attention", "conv", "full_attention", "conv"),
)
# What the merge is chosen by: fluency, preference, and being right.
MEASURED = ("pretrain", "pref", "items")
KINDS = {"pretrain": "pretrain", "sft": "sft", "items": "arithmetic", "pref": "pref"}


def stages(files: Files, scale: Scale, given: Given) -> tuple[Any, ...]:
    """pretrain -> distil -> sft (along a measured curriculum) -> preference (on on-policy pairs) -> merge."""
    teacher = given.teacher
    rows = dict(zip(("pretrain", "sft", "preference"), scale.rows, strict=True))
    text = Data(train=(files.pretrain,), max_length=scale.length, row_length=scale.length)
    chat = Data(max_length=scale.long, row_length=scale.long, truncation="prompt_left")
    pretrain = Pretrain(
        data=text,
        optimizer=scale.pretrain,
        rows_per_step=rows["pretrain"],
        max_tokens=scale.tokens[0],
        logging_steps=10,
        save_steps=200,
    )
    own_teacher = (replace(pretrain, name="teacher", model=TEACHER, init_from="random"),) if teacher is None else ()
    on_policy = [pairs_of("on_policy", files.items, VerifierJudge(), scale)]
    if given.endpoint is not None:
        judge = ChatJudge(Endpoint(given.endpoint, given.judge or ""))
        on_policy.append(pairs_of("judged", files.pref, judge, scale))
    preferred = tuple(f"stage:{stage.name}/pairs.jsonl" for stage in on_policy)
    if given.endpoint is None:
        preferred = (files.pref, *preferred)
    return (
        pretrain,
        *own_teacher,
        Distill(
            name="distil",
            init_from="pretrain",
            teacher=teacher or "teacher",
            precompute_teacher=scale.record_teacher or given.records is not None,
            records=given.records,
            loss=DecoupledTopK(top_k=32),
            data=text,
            optimizer=scale.distil,
            rows_per_step=rows["pretrain"],
            max_tokens=scale.tokens[1],
            logging_steps=10,
            save_steps=200,
        ),
        # Eight moments of a model that learns the items: how many of them can answer one is how easy it is.
        SFT(
            name="probe",
            init_from="distil",
            data=replace(chat, train=(files.items,)),
            optimizer=scale.probe,
            rows_per_step=rows["sft"],
            max_steps=scale.probe_steps,
            snapshot_steps=scale.probe_steps // 8,
            logging_steps=10,
            save_steps=200,
        ),
        MeasureDifficulty(items=(files.items,), stages=("probe",), limit=2000, max_new_tokens=scale.answer_tokens),
        SFT(
            name="sft",
            init_from="distil",
            data=replace(
                chat,
                train=(files.sft, "stage:difficulty/train.jsonl"),
                # Half of the graded rows stay mixed: without that, small models unlearn what they had first
                # (docs/evidence.md, curriculum).
                curriculum=Curriculum(phases=4, mix=0.5, ungraded="spread"),
            ),
            optimizer=scale.sft,
            embedding_dropout=0.1,
            rows_per_step=rows["sft"],
            num_train_epochs=scale.epochs[0],
            logging_steps=10,
            save_steps=200,
        ),
        *on_policy,
        Preference(
            data=replace(chat, train=preferred),
            loss=LengthNormalized(beta=5.0),
            optimizer=scale.preference,
            rows_per_step=rows["preference"],
            num_train_epochs=scale.epochs[1],
            logging_steps=5,
            save_steps=100,
        ),
        Merge(
            models=("sft", "preference"),
            base="distil",
            search=Search(
                select=tuple(files.select[kind] for kind in MEASURED),
                report=tuple(files.report[kind] for kind in MEASURED),
                metrics=(("bits_per_byte", 1.0), ("ranking_accuracy", 1.0), ("exact_match", 1.0)),
                methods=(Soup(), TaskArithmetic(), Ties(), DareTies(), ModelStock(), SCE()),
                max_length=scale.length,
                max_new_tokens=scale.answer_tokens,
            ),
        ),
    )


def pairs_of(name: str, prompts: str, judge: Judge, scale: Scale) -> OnPolicyPairs:
    """Five answers of the fine-tuned model beside the given ones, judged: the best against the worst."""
    return OnPolicyPairs(
        name=name,
        prompts=(prompts,),
        model="sft",
        judge=judge,
        samples=5,
        # A verifier finds many answers equally right or wrong: of these, the ones that the model is nearest to giving.
        ties="likely",
        max_new_tokens=scale.answer_tokens,
        max_length=scale.long,
        max_prompts=scale.prompts,
    )


def probes(files: Files, scale: Scale) -> tuple[Any, ...]:
    """What every stage is measured on: text, answers, pairs, and arithmetic."""
    return (
        BitsPerByte((files.report["pretrain"],), max_length=scale.length),
        SFTLoss((files.report["sft"],), max_length=scale.length),
        RankingAccuracy((files.report["pref"],), max_length=scale.length),
        ExactMatch((files.report["items"],), prompts=300, max_new_tokens=scale.answer_tokens),
    )


def config(
    preset: str = NANO,
    data: str | None = None,
    teacher: str | None = None,
    tokenizer: str | None = None,
    records: str | None = None,
    endpoint: str | None = None,
    judge: str | None = None,
) -> Run:
    """The recipe.

    Args:
      preset: "nano" for the laptop, or a released size.
      data: folder of the files named above; needed for released sizes.
      teacher: what to distil from; None (nano only) = a larger model that the recipe trains.
      tokenizer: needed for released sizes.
      records: of the teacher, made beforehand.
      endpoint, judge: address and name of a chat model that judges open answers.
    """
    given = Given(teacher, records, endpoint, judge)
    if preset == NANO:
        corpus = {kind: f"corpus:docs/{kind}_train.jsonl" for kind in ("pretrain", "sft", "pref")}
        halves = [{k: f"corpus:{half}/{name}.jsonl" for k, name in KINDS.items()} for half in ("select", "report")]
        files = Files(**corpus, items="corpus:arithmetic/arithmetic_train.jsonl", select=halves[0], report=halves[1])
        return Run(
            name="lfm2_recipe",
            model=STUDENT,
            corpus=RecipeCorpus(),
            tokenizer=Tokenizer(train_on=(files.pretrain, files.items), vocab_size=STUDENT.vocab_size),
            stages=stages(files, LAPTOP, given),
            prompts=(
                "What does json.dumps do?",
                "Ann has 5 apples. Ann finds 3 more. How many apples does Ann have now?",
            ),
            probes=probes(files, LAPTOP),
        )
    missing = [name for name, value in {"data": data, "teacher": teacher, "tokenizer": tokenizer}.items() if not value]
    if missing:
        raise ConfigError(f"--preset {preset} needs " + ", ".join(f"--{name} PATH" for name in missing) + ".")
    halves = [{kind: f"{data}/{half}_{kind}.jsonl" for kind in KINDS} for half in ("select", "report")]
    files = Files(**{kind: f"{data}/{kind}.jsonl" for kind in KINDS}, select=halves[0], report=halves[1])
    return Run(
        name=f"{preset}_recipe",
        model=preset,
        tokenizer=Tokenizer(path=tokenizer),
        stages=stages(files, REPORT, given),
        compute=Compute(dtype="bfloat16", remat="full"),
        probes=probes(files, REPORT),
    )
