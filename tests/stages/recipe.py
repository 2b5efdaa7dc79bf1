"""A small recipe on real text files, written to a folder: what the system tests run."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

from jaxpo.config import SFT, Curriculum, Data, Merge, Optimizer, Preference, Pretrain, Run, Tokenizer
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.objectives.methods import METHODS

MODEL = LFM2Config(
    vocab_size=384,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    layer_types=("conv", "full_attention"),
    max_position_embeddings=256,
    initializer_range=0.05,
)
WORDS = tuple(
    "the a cat dog bird sees hears finds under over near house river tree slowly quickly and then it sleeps".split()  # noqa: SIM905
)


def sentence(rng: random.Random, low: int = 3, high: int = 12) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(low, high))) + "."


def write_data(folder: Path, seed: int = 0) -> None:
    """text, sft, pref and query files, each with a held-out part."""
    rng, of_queries = random.Random(seed), random.Random(seed + 1)

    def write(name: str, rows: list[dict]) -> None:
        (folder / name).write_text("".join(json.dumps(r) + "\n" for r in rows))

    def turn(role: str, text: str) -> list[dict]:
        return [{"role": role, "content": text}]

    for part, n in (("train", 60), ("eval", 12)):
        write(
            f"text_{part}.jsonl",
            [{"text": " ".join(sentence(rng) for _ in range(rng.randint(1, 6)))} for _ in range(n)],
        )
        write(
            f"sft_{part}.jsonl",
            [
                {
                    "prompt": turn("user", sentence(rng)),
                    "completion": turn("assistant", sentence(rng)),
                    "difficulty": i % 7,
                }
                for i in range(n)
            ],
        )
        write(
            f"pref_{part}.jsonl",
            [
                {"prompt": sentence(rng), "chosen": sentence(rng, 3, 6), "rejected": sentence(rng, 7, 12)}
                for _ in range(n)
            ],
        )
        answers = [sentence(of_queries, 5, 9) for _ in range(n)]
        write(f"query_{part}.jsonl", [{"query": " ".join(text.split()[:3]), "positive": text} for text in answers])


def recipe(folder: Path, **changes) -> Run:
    """pretrain -> sft -> preference -> merge, a few steps each."""

    def data(kind: str) -> Data:
        files = {part: (str(folder / f"{kind}_{part}.jsonl"),) for part in ("train", "eval")}
        return Data(train=files["train"], eval=files["eval"], max_length=64, row_length=96)

    def from_easy_to_hard(data: Data) -> Data:
        return dataclasses.replace(data, curriculum=Curriculum(phases=3))

    common = {"rows_per_step": 4, "save_steps": 3, "eval_steps": 4, "optimizer": Optimizer(learning_rate=3e-3)}
    run = Run(
        name="tiny",
        output_dir=str(folder / "runs"),
        model=MODEL,
        tokenizer=Tokenizer(train_on=(str(folder / "text_train.jsonl"),), vocab_size=MODEL.vocab_size),
        stages=(
            Pretrain(data=data("text"), max_steps=8, gradient_accumulation_steps=2, **common),
            SFT(data=from_easy_to_hard(data("sft")), max_steps=8, snapshot_steps=4, **common),
            Preference(data=data("pref"), max_steps=8, loss=METHODS["sigmoid_norm"](), **common),
            Merge(models=("sft", "preference")),
        ),
        prompts=("the cat",),
    )
    return dataclasses.replace(run, **changes)
