"""A small mixture of experts from scratch on a laptop: how evenly its experts are used stands in the report.

    jaxpo run moe
    jaxpo run moe --run runs/moe-unbalanced --pretrain.routing.bias-update-rate 0
    jaxpo run moe --run runs/moe-aux --pretrain.routing.bias-update-rate 0 \
        --pretrain.routing.router-aux-loss-coef 0.01

Trains on the documentation inside this Python. Eight experts of which each token uses two; the first layer is dense, as
in LFM2-8B-A1B. A run of a few hundred steps needs a faster bias than the 0.001 meant for thousands.
"""

from __future__ import annotations

from dataclasses import replace

from jaxpo.config import Data, Optimizer, Pretrain, Routing, Run, Tokenizer
from jaxpo.corpora.stdlib_docs import StdlibDocs
from jaxpo.evaluate.probes import BitsPerByte
from jaxpo.models.family import preset

VOCABULARY = 2048
LENGTH = 256
HELDOUT = ("corpus:pretrain_heldout.jsonl",)
MODEL = replace(
    preset("nano_moe"),
    vocab_size=VOCABULARY,
    hidden_size=128,
    intermediate_size=384,
    moe_intermediate_size=192,
    num_dense_layers=1,
    num_attention_heads=4,
    layer_types=("conv", "conv", "full_attention", "conv"),
    rope_theta=10_000.0,
)


def config() -> Run:
    return Run(
        name="moe",
        model=MODEL,
        corpus=StdlibDocs(),
        tokenizer=Tokenizer(train_on=("corpus:pretrain_train.jsonl",), vocab_size=VOCABULARY),
        stages=(
            Pretrain(
                data=Data(train=("corpus:pretrain_train.jsonl",), eval=HELDOUT, max_length=LENGTH, row_length=LENGTH),
                optimizer=Optimizer(learning_rate=1e-2, lr_scheduler_type="wsd", warmup_steps=20, decay_ratio=0.5),
                routing=Routing(bias_update_rate=0.01),
                rows_per_step=8,
                max_steps=300,
                eval_steps=100,
                logging_steps=5,
                save_steps=100,
            ),
        ),
        probes=(BitsPerByte(HELDOUT, max_length=LENGTH),),
    )
