"""Diffusion: a small model of scenes is pre-trained, then aligned with a reward by preferences between images.

    jaxpo run diffusion
    jaxpo run diffusion --method inpo --reward left
    jaxpo run diffusion --base runs/diffusion/stages/pretrain --method smpo
    jaxpo run diffusion:self_npo
    jaxpo run diffusion:ppd
    jaxpo run diffusion:longalign

The captions of the scenes can be checked, and so can the rewards: `scenes/adherence` says how far samples of held-out
captions are what these say, `scenes/wins` how often the reward likes a sample better than the one that the model drew
of the same noise before the stage, and `scenes/error` how far the model has drifted as one that denoises.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from jaxpo.config import Beside, Data, Denoise, ImageData, Optimizer, Run, Tokenizer, Users
from jaxpo.config.noise import NoiseSchedule
from jaxpo.corpora.scenes.corpus import (
    HELD_OUT,
    HELD_OUT_LONG,
    HELD_OUT_PAIRS,
    LONG,
    MATCHES,
    PAIRS,
    PEOPLE,
    SEVERAL,
    STRANGERS,
    TOKENIZER,
    TRAIN,
    Scenes,
)
from jaxpo.evaluate.scenes import PeopleProbe, SceneProbe
from jaxpo.models.family import preset
from jaxpo.objectives.methods.denoising import Denoising
from jaxpo.objectives.methods.denscore import Denscore
from jaxpo.objectives.methods.diffusion_dpo import DiffusionDPO
from jaxpo.objectives.methods.diffusion_npo import DiffusionNPO
from jaxpo.objectives.methods.inpo_ddim import DDIMInPO
from jaxpo.objectives.methods.longalign import LongAlign
from jaxpo.objectives.methods.ppd import PPD
from jaxpo.objectives.methods.self_npo import SelfNPO
from jaxpo.objectives.methods.smpo_diffusion import SmPODiffusion

WORDS = 8
NANO = preset("nano_dit")
MODEL = replace(
    NANO,
    caption=replace(NANO.caption, vocab_size=32, max_length=WORDS),
    schedule=NoiseSchedule(parameterisation="velocity"),
)
JUDGE = replace(preset("nano_denscore"), vocab_size=32, max_length=WORDS)
LOSSES = {
    "dpo": DiffusionDPO(beta=2000.0),
    "inpo": DDIMInPO(inversion_steps=5),
    "smpo": SmPODiffusion(inversion_steps=5),
    "npo": DiffusionNPO(beta=1000.0),
}
START = "pretrain"
PRETRAINING = Optimizer(
    learning_rate=2e-3, final_learning_rate=4e-5, warmup_steps=200, weight_decay=1e-4, adam_beta2=0.99
)
PICTURES = 30_000
FEWER = 2048
"""Of which the base is made, and what there is where a base is given."""


def config(
    method: Literal["dpo", "inpo", "smpo", "npo"] = "dpo",
    reward: str = "brightness",
    base: str | None = None,
    pretrain_steps: int = 3000,
    steps: int = 100,
) -> Run:
    """Pre-training, then one stage on pairs that a reward judged.

    Args:
      method: the loss on pairs.
      reward: what judges the pairs: brightness, darkness, left, right, symmetry, or a colour.
      base: a model to start from instead of pre-training one.
      pretrain_steps, steps: optimiser steps of the two stages.
    """
    stage = Denoise(
        name=method,
        loss=LOSSES[method],
        data=scenes(PAIRS, HELD_OUT_PAIRS),
        rows_per_step=32,
        max_steps=steps,
        eval_rows=64,
        logging_steps=10,
        optimizer=aligning(),
    )
    return of(f"diffusion_{method}", (stage,), base, pretrain_steps, Scenes(reward=reward), SceneProbe(reward))


def self_npo(base: str | None = None, rounds: int = 1, pretrain_steps: int = 1500, steps: int = 200) -> Run:
    """Rounds of a negative model that learns from its own truncated samples; an undertrained base has most to gain.

    Args:
      base: a model to start from instead of pre-training one.
      rounds: each goes on from the negative model of the one before, which is its teacher.
      pretrain_steps, steps: optimiser steps of pre-training, and of a round.
    """
    stages = tuple(
        Denoise(
            name=f"negative_{i + 1}",
            loss=SelfNPO(truncation=3),
            data=scenes(TRAIN),
            rows_per_step=32,
            max_steps=steps,
            logging_steps=10,
            sync_ref_model=True,
            optimizer=aligning(1e-5),
        )
        for i in range(rounds)
    )
    return of("self_npo", stages, base, pretrain_steps, Scenes(pairs=8), SceneProbe(negative=True))


def ppd(base: str | None = None, people: int = 8, pretrain_steps: int = 3000, steps: int = 300) -> Run:
    """One model for people of four tastes, whom it knows by four of their choices each.

    Args:
      base: a model to start from instead of pre-training one; it gets attention to users where it has none.
      people: of each taste.
      pretrain_steps, steps: optimiser steps of the two stages.
    """
    users = Users(tokens=8, width=64)
    stage = Denoise(
        name="ppd",
        loss=PPD(beta=2000.0),
        data=scenes(PEOPLE, STRANGERS),
        images=ImageData(users=users),
        add_users=True,
        train=("*/to_k_user/*", "*/to_v_user/*"),
        rows_per_step=32,
        max_steps=steps,
        eval_rows=128,
        logging_steps=10,
        optimizer=aligning(1e-4),
    )
    run = of("ppd", (stage,), base, pretrain_steps, Scenes(people=people, pairs=8), SceneProbe())
    return replace(run, model=replace(MODEL, user_channels=users.width), probes=(*run.probes, PeopleProbe(users)))


def longalign(
    omega: float = 0.3,
    base: str | None = None,
    pretrain_steps: int = 3000,
    align_steps: int = 1500,
    denscore_steps: int = 1500,
    steps: int = 100,
) -> Run:
    """A model that learns to read long captions clause by clause, a preference model of them, and the reward stage.

    Args:
      omega: weight of what all captions share; 1 = the score itself.
      base: a model of short captions to start from instead of pre-training one.
      pretrain_steps, align_steps, denscore_steps, steps: optimiser steps of the stages.
    """
    segments = ImageData(segments=SEVERAL[1] + 1)
    align = Denoise(
        name="align",
        data=scenes(LONG, HELD_OUT_LONG),
        images=segments,
        rows_per_step=64,
        max_steps=align_steps,
        eval_steps=500,
        eval_rows=128,
        logging_steps=50,
        ema_decay=0.998,
        use_ema=True,
        optimizer=replace(PRETRAINING, learning_rate=1e-3, final_learning_rate=2e-5, warmup_steps=50),
    )
    denscore = Denoise(
        name="denscore",
        loss=Denscore(),
        model=JUDGE,
        data=scenes(MATCHES),
        images=segments,
        init_from="random",
        rows_per_step=64,
        max_steps=denscore_steps,
        logging_steps=50,
        optimizer=Optimizer(learning_rate=2e-3, weight_decay=0.0),
    )
    reward = Denoise(
        name="reward",
        loss=LongAlign(omega=omega, sampler_steps=25, guidance=3.0),
        beside=(("reward", Beside("denscore")),),
        data=scenes(LONG),
        images=segments,
        init_from="align",
        rows_per_step=16,
        max_steps=steps,
        logging_steps=10,
        optimizer=aligning(3e-5),
    )
    probe = SceneProbe(things=SEVERAL, segments=segments.segments)
    run = of("longalign", (align, denscore, reward), base, pretrain_steps, Scenes(long=8192, pairs=8), probe)
    # The preference model among them has no form outside of jaxpo.
    return replace(run, export=False)


def scenes(train: str, held_out: str | None = None) -> Data:
    """Files of the corpus, with captions of one thing and its background."""
    held = () if held_out is None else (f"corpus:{held_out}",)
    return Data(train=(f"corpus:{train}",), eval=held, max_length=WORDS, row_length=WORDS)


def aligning(rate: float = 3e-6) -> Optimizer:
    """A rate at which the denoising error hardly grows."""
    return Optimizer(learning_rate=rate, weight_decay=0.0, lr_scheduler_type="constant", warmup_steps=5)


def of(name: str, stages: tuple[Any, ...], base: str | None, steps: int, corpus: Scenes, probe: SceneProbe) -> Run:
    """Stages after the base, which is pre-trained unless it is given."""
    pretrain = Denoise(
        name=START,
        loss=Denoising(),
        data=scenes(TRAIN, HELD_OUT),
        init_from="random",
        rows_per_step=64,
        max_steps=steps,
        eval_steps=1000,
        eval_rows=128,
        logging_steps=50,
        ema_decay=0.998,
        use_ema=True,
        optimizer=PRETRAINING,
    )
    pictures = PICTURES if base is None else FEWER
    return Run(
        name=name,
        model=MODEL,
        model_from=base,
        corpus=replace(corpus, scenes=pictures),
        tokenizer=Tokenizer(path=f"corpus:{TOKENIZER}"),
        stages=(*(() if base is not None else (pretrain,)), *stages),
        probes=(probe,),
    )
