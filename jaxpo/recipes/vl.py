"""A small model that sees, from scratch on a laptop: LFM2-VL's parts on scikit-learn's handwritten digits.

    jaxpo run vl
    jaxpo run vl:scenes --run runs/vl-scenes

scikit-learn's 1,797 handwritten digits, of which 297 are held out: a model that reads the same questions without the
images ("blind"), the same model with them ("digits"), and pairs whose rejected answer is a wrong digit. The report
shows pictures with answers. `scenes` first reads questions about drawn scenes without seeing them ("blind"), and from
there learns to describe the scenes, and to answer the questions, between rows of text alone.

On your own rows (`docs/vision.md` shows their forms), from a released LFM2-VL, the tower at a fifth of the rate:

    jaxpo run vl:own --model-from MODEL --answers.data.train rows.jsonl
    jaxpo run vl:own --model-from MODEL --answers.data.train rows.jsonl --answers.train 'model/connector/*'
"""

from __future__ import annotations

from dataclasses import replace

from jaxpo.config import SFT, Data, ImageSettings, Mixed, Optimizer, Preference, Pretrain, Run, Stage, Tokenizer
from jaxpo.corpora import asked_scenes as drawn
from jaxpo.corpora import digits
from jaxpo.evaluate.visual_questions import VisualQuestions
from jaxpo.models.family import preset
from jaxpo.objectives.methods.dpo import DPO

VOCABULARY, LENGTH, ROW = 270, 128, 256
"""The first 270 ids are special tokens and bytes, the next is that of an image."""
SMALL = ImageSettings(
    encoder_patch_size=4, tile_size=64, do_image_splitting=False, min_image_tokens=4, max_image_tokens=4
)
"""Every digit becomes 16 by 16 pixels: 16 patches, 4 vectors."""
LARGER = replace(SMALL, min_image_tokens=16, max_image_tokens=16)
"""Every scene has 32 by 32 pixels: 64 patches, 16 vectors."""
TEXT = replace(
    preset("nano"),
    vocab_size=VOCABULARY + 104,
    hidden_size=64,
    intermediate_size=192,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    layer_types=("conv", "full_attention", "conv", "full_attention"),
    rope_theta=10_000.0,
)
MODEL = replace(preset("nano_vl"), text=TEXT, image_token_id=VOCABULARY)


def _data(train: str, held_out: str = "", **more: object) -> Data:
    names = [(f"corpus:{name}",) if name else () for name in (train, held_out)]
    return Data(train=names[0], eval=names[1], max_length=LENGTH, row_length=ROW, **more)  # type: ignore[arg-type]


def _answers(name: str, data: Data, steps: int, init_from: str = "random") -> SFT:
    return SFT(
        name=name,
        init_from=init_from,
        data=data,
        optimizer=Optimizer(learning_rate=2e-3, lr_scheduler_type="cosine", warmup_steps=20, weight_decay=0.05),
        rows_per_step=8,
        max_steps=steps,
        logging_steps=10,
        save_steps=200,
    )


def _run(
    name: str,
    corpus: object,
    texts: str,
    sizes: ImageSettings,
    stages: tuple[Stage, ...],
    probes: tuple[VisualQuestions, ...],
) -> Run:
    return Run(
        name=name,
        model=MODEL,
        corpus=corpus,
        tokenizer=Tokenizer(train_on=(f"corpus:{texts}",), vocab_size=VOCABULARY, images=sizes),
        stages=stages,
        probes=probes,
    )


def config() -> Run:
    """Digits: without the images, with them, and pairs."""
    pairs = Preference(
        data=_data(digits.PAIRS_TRAIN, digits.PAIRS_HELD_OUT),
        loss=DPO(beta=0.1),
        optimizer=Optimizer(learning_rate=2e-4, lr_scheduler_type="linear", warmup_steps=5, weight_decay=0.0),
        rows_per_step=8,
        max_steps=60,
        logging_steps=5,
        save_steps=100,
    )
    return _run(
        "vl",
        digits.Digits(),
        digits.TRAIN,
        SMALL,
        (
            _answers("blind", _data(digits.BLIND_TRAIN, digits.BLIND_HELD_OUT), 60),
            _answers("digits", _data(digits.TRAIN, digits.HELD_OUT), 600),
            pairs,
        ),
        (
            VisualQuestions((f"corpus:{digits.HELD_OUT}",)),
            VisualQuestions((f"corpus:{digits.BLIND_HELD_OUT}",), "exact_match_blind", show=0),
        ),
    )


def scenes() -> Run:
    """Drawn scenes: questions without images; captions, then questions between rows of text alone."""
    captions = Pretrain(
        name="captions",
        data=_data(drawn.CAPTIONS),
        optimizer=Optimizer(learning_rate=2e-3, lr_scheduler_type="constant", warmup_steps=20, weight_decay=0.05),
        rows_per_step=8,
        max_steps=200,
        logging_steps=10,
        save_steps=200,
    )
    mix = (
        ("scenes", Mixed((f"corpus:{drawn.TRAIN}",), weight=0.9)),
        ("text", Mixed((f"corpus:{drawn.TEXT}",), weight=0.1)),
    )
    return _run(
        "vl-scenes",
        drawn.AskedScenes(),
        drawn.TRAIN,
        LARGER,
        (
            _answers("blind", _data(drawn.BLIND_TRAIN, drawn.BLIND_HELD_OUT), 100),
            captions,
            _answers("questions", replace(_data("", drawn.HELD_OUT), train=(), mix=mix), 800, "previous"),
        ),
        (
            VisualQuestions((f"corpus:{drawn.HELD_OUT}",), by="kind"),
            VisualQuestions((f"corpus:{drawn.BLIND_HELD_OUT}",), "exact_match_blind", by="kind", show=0),
        ),
    )


def own() -> Run:
    """Your own rows on a model of yours: backbone and connector at five times the tower's rate, as Liquid trains."""
    return Run(
        name="vl-own",
        stages=(
            SFT(
                name="answers",
                data=Data(max_length=4096, row_length=8192),
                optimizer=Optimizer(learning_rate=1e-5, warmup_ratio=0.1, lr_factors=(("model/vision/*", 0.2),)),
                rows_per_step=8,
                num_train_epochs=1,
                save_steps=200,
            ),
        ),
    )
