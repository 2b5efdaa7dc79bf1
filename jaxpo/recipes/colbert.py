"""A small retriever from scratch on a laptop: LFM2-ColBERT's late interaction on Python's own documentation.

    jaxpo run colbert
    jaxpo run colbert:distilled --run runs/colbert-distilled
    jaxpo run colbert:embedding --run runs/colbert-embedding

The query is the first sentence of a docstring without the object's name, the document what follows it. Whole modules
are held out; the table at the end has NDCG@10 on them with intervals, beside BM25 (`pip install bm25s`) and chance.
`distilled` ends on lists of eight documents with a teacher's scores, in as many steps in all. Then search with it:

    jaxpo data embed runs/colbert/corpus/heldout/corpus.jsonl runs/index --model runs/colbert
    jaxpo retrieve runs/index "how do I read a line"

On your own rows of query and positive, from a released LFM2 or one of its bidirectional encoders:

    jaxpo run colbert:own --model-from MODEL --contrast.data.train pairs.jsonl
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxpo.config import Data, Optimizer, Retrieval, Run, Texts, Tokenizer
from jaxpo.corpora.stdlib_docs_retrieval import COLLECTION, CONTRAST, SCORED, StdlibRetrieval
from jaxpo.evaluate.retrieval.probe import Finds
from jaxpo.models.family import preset
from jaxpo.objectives.methods.colbert_distillation import ColBERTDistillation
from jaxpo.objectives.methods.info_nce import InfoNCE

PREFIXES = ("[Q] ", "[D] ")
VOCABULARY, LENGTH, STEPS = 4096, 128, 150
DISTILLED = 50
"""Steps of distillation, after those of contrast."""
MODEL = replace(
    preset("nano"),
    vocab_size=VOCABULARY + len(PREFIXES),
    hidden_size=96,
    intermediate_size=256,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=24,
    layer_types=("conv", "full_attention", "conv", "full_attention"),
    rope_theta=10_000.0,
    causal=False,
    # At the usual 0.04 the layers drown what a token is, and the model begins without a notion of equal words.
    initializer_range=0.01,
)
TEXTS = Texts(document_length=LENGTH)


def _stage(
    name: str, train: str, loss: Any, texts: Texts = TEXTS, steps: int = STEPS, learning_rate: float = 1e-3
) -> Retrieval:
    return Retrieval(
        name=name,
        loss=loss,
        texts=texts,
        data=Data(train=(f"corpus:{train}",), max_length=LENGTH, row_length=LENGTH),
        optimizer=Optimizer(
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            weight_decay=0.01,
            # A rare token's vector would move further in its few steps than it is long.
            lr_factors=(("model/embed_tokens/*", 0.3),),
        ),
        rows_per_step=32,
        max_steps=steps,
        logging_steps=5,
        save_steps=100,
    )


def _run(name: str, *stages: Retrieval) -> Run:
    return Run(
        name=name,
        model=MODEL,
        corpus=StdlibRetrieval(),
        tokenizer=Tokenizer(train_on=("corpus:text_train.jsonl",), vocab_size=VOCABULARY, added=PREFIXES),
        stages=stages,
        probes=(Finds(f"corpus:{COLLECTION}"),),
    )


def config() -> Run:
    """Contrast of each query's document with all others of the step."""
    return _run("colbert", _stage("contrast", CONTRAST, InfoNCE()))


def distilled() -> Run:
    """Contrast, then lists of eight documents with a teacher's scores; as many steps in all, of as many tokens.

    From nothing such lists teach nothing here: the documents most alike to a query share more words with it than the
    right one does, and what a new model learns first is to find the same words.
    """
    loss = ColBERTDistillation(temperature=0.1, teacher_temperature=0.1)
    return _run(
        "colbert-distilled",
        _stage("contrast", CONTRAST, InfoNCE(), steps=STEPS - DISTILLED),
        _stage("distil", SCORED, loss, steps=DISTILLED, learning_rate=5e-4),
    )


def embedding() -> Run:
    """One vector for each text, the mean of its tokens', compared by cosine."""
    texts = Texts(
        "", "", "query: ", "document: ", query_length=LENGTH, document_length=LENGTH, expansion=False, skip=()
    )
    loss = InfoNCE(pooling="mean", dimensions=None, temperature=0.05)
    return _run("colbert-embedding", _stage("contrast", CONTRAST, loss, texts))


def own() -> Run:
    """Your own rows on a model of yours, with pylate's settings."""
    return Run(
        name="colbert-own",
        tokenizer=Tokenizer(added=PREFIXES),
        stages=(
            Retrieval(
                name="contrast",
                loss=InfoNCE(),
                data=Data(max_length=512, row_length=2048),
                optimizer=Optimizer(learning_rate=3e-6, warmup_ratio=0.1, weight_decay=0.0),
                rows_per_step=8,
                num_train_epochs=1,
                save_steps=200,
            ),
        ),
    )
