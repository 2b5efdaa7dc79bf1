"""The whole recipe in ten minutes on two cores: pretrain, fine-tune, prefer, merge, export, talk.

    jaxpo run quickstart
    jaxpo run quickstart --text my_notes/ --pairs my_pairs.jsonl

Text, questions and preference pairs come from the documentation inside this Python, or from your own files: `--text`
(.txt files, or JSONL and Parquet with a `text` column) and `--pairs` (columns `prompt`, `chosen`, `rejected`); either
one suffices. A model of a million parameters learns the form of an answer here, not facts.
"""

from __future__ import annotations

from dataclasses import replace

from jaxpo.config import SFT, Data, Merge, Optimizer, Preference, Pretrain, Run, Stage, Tokenizer
from jaxpo.corpora.own_files import OwnFiles
from jaxpo.corpora.stdlib_docs import StdlibDocs
from jaxpo.evaluate.probes import Baselines, BitsPerByte, EndsByItself, RankingAccuracy, SFTLoss
from jaxpo.models.family import preset
from jaxpo.objectives.methods.sigmoid_norm import SigmoidNorm

VOCABULARY = 2048
LENGTH = 256
# Two cores see each token for about 7 million multiply-adds: narrower and shallower than the preset, and read more.
MODEL = replace(
    preset("nano"),
    vocab_size=VOCABULARY,
    hidden_size=128,
    intermediate_size=384,
    num_attention_heads=4,
    num_key_value_heads=2,
    layer_types=("conv", "conv", "full_attention", "conv"),
    rope_theta=10_000.0,
)


def corpus_data(name: str) -> Data:
    """Training and held-out file of one kind."""
    return Data(
        train=(f"corpus:{name}_train.jsonl",),
        eval=(f"corpus:{name}_heldout.jsonl",),
        max_length=LENGTH,
        row_length=LENGTH,
        truncation="prompt_left",
    )


def stages() -> tuple[Stage | Merge, ...]:
    """Budgets are in tokens, so that a slow machine gets the same model later."""
    return (
        Pretrain(
            data=corpus_data("pretrain"),
            optimizer=Optimizer(learning_rate=2e-2, lr_scheduler_type="wsd", warmup_steps=30, decay_ratio=0.6),
            rows_per_step=8,
            max_tokens=1_200_000,
            eval_steps=200,
            logging_steps=10,
            save_steps=200,
        ),
        SFT(
            data=corpus_data("sft"),
            optimizer=Optimizer(learning_rate=4e-3, lr_scheduler_type="linear", warmup_steps=10, weight_decay=0.0),
            rows_per_step=8,
            max_tokens=300_000,
            eval_steps=50,
            logging_steps=5,
            save_steps=50,
        ),
        Preference(
            data=corpus_data("pref"),
            loss=SigmoidNorm(beta=5.0),
            optimizer=Optimizer(learning_rate=1.5e-3, lr_scheduler_type="linear", warmup_steps=10, weight_decay=0.0),
            rows_per_step=16,
            max_tokens=300_000,
            eval_steps=25,
            logging_steps=5,
            save_steps=25,
        ),
        # Preference tuning costs fluency; a share of the pretrained weights brings most of it back at little cost in
        # ranking. The shares were picked by hand on the held-out files of one run.
        Merge(models=("pretrain", "preference"), weights=(0.3, 0.7)),
    )


def config(text: str | None = None, pairs: str | None = None) -> Run:
    """The recipe.

    Args:
      text: own text to train on instead of Python's documentation.
      pairs: own preference pairs.
    """
    own = text is not None or pairs is not None
    heldout = "corpus:{}_heldout.jsonl".format
    return Run(
        name="quickstart",
        model=MODEL,
        corpus=OwnFiles(text=text, pairs=pairs) if own else StdlibDocs(),
        tokenizer=Tokenizer(train_on=("corpus:pretrain_train.jsonl",), vocab_size=VOCABULARY),
        stages=stages(),
        prompts=() if own else ("What does json.dumps do?", "What is the module random for?", "Explain os.path.join."),
        probes=(
            BitsPerByte((heldout("pretrain"),), max_length=LENGTH),
            Baselines(train=("corpus:pretrain_train.jsonl",), heldout=(heldout("pretrain"),)),
            SFTLoss((heldout("sft"),), max_length=LENGTH),
            RankingAccuracy((heldout("pref"),), max_length=LENGTH),
            RankingAccuracy(
                ("corpus:pref_heldout_sibling.jsonl",), "sibling", max_length=LENGTH, controls=False, limit=300
            ),
            EndsByItself((heldout("sft"),), prompts=64, max_new_tokens=96),
        ),
    )
