"""Pretraining on your own text: a tokenizer is trained first, documents are packed; warm-up, stable, decay.

    jaxpo run pretrain --run runs/my-model --tokenizer.train-on my.txt --pretrain.data.train my.txt

With another size, a longer run and held-out text:

    jaxpo run pretrain --preset lfm2_350m --tokenizer.path LFM2-350M --compute.dtype bfloat16 \
        --pretrain.data.train texts/ --pretrain.data.eval held_out.jsonl --pretrain.max-tokens 1e9

Files are .txt (one document each), JSONL or Parquet with a `text` column, or folders of them.

An encoder, which looks both ways and tells tokens that are hidden from it:

    jaxpo run pretrain:masked --run runs/my-encoder --tokenizer.train-on my.txt --masked_lm.data.train my.txt

It begins from a released one with `--model-from ENCODER`. The recipe `reward` trains classes of texts and
words, `colbert:own` vectors.
"""

from dataclasses import replace

from jaxpo.config import Data, MaskedLM, Optimizer, Pretrain, Run, Tokenizer
from jaxpo.models.family import preset


def config() -> Run:
    return Run(
        name="pretrain",
        tokenizer=Tokenizer(vocab_size=4096),
        stages=(
            Pretrain(
                data=Data(max_length=512, row_length=512),
                optimizer=Optimizer(learning_rate=3e-3, lr_scheduler_type="wsd", warmup_ratio=0.05),
                rows_per_step=16,
                max_tokens=5_000_000,
                save_steps=200,
            ),
        ),
    )


def masked() -> Run:
    """A model that looks both ways, on tokens that are hidden from it."""
    return Run(
        name="masked",
        model=replace(preset("nano"), causal=False),
        tokenizer=Tokenizer(vocab_size=4096, added=("<|mask|>",)),
        stages=(
            MaskedLM(
                data=Data(max_length=512, row_length=512),
                optimizer=Optimizer(learning_rate=3e-3, lr_scheduler_type="wsd", warmup_ratio=0.05),
                rows_per_step=16,
                max_tokens=5_000_000,
                save_steps=200,
            ),
        ),
    )
