"""A retriever with a tokenizer of its own, small enough to be made in a second."""

import dataclasses
import functools

import jax

from jaxpo.config import Texts
from jaxpo.convert.model_io import Model
from jaxpo.convert.retriever import RETRIEVER, Retriever
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.retrieval import VectorHead, projection_table
from jaxpo.models.spec import init_params

TEXTS = Texts(query_length=12, document_length=20)
SINGLE = Texts("", "", "query: ", "document: ", query_length=20, document_length=20, expansion=False, skip=())
WORDS = (
    "read a line from a file",
    "write bytes, and close the file!",
    "join two paths",
    "the time of day (in seconds)",
)


@functools.cache
def tokenizer():
    return train_tokenizer([*WORDS, "query: document: "] * 3, 300).with_added(("[Q] ", "[D] "))


def config(causal=True):
    return LFM2Config(
        vocab_size=tokenizer().vocab_size + 5,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=("conv", "full_attention"),
        initializer_range=0.3,
        causal=causal,
    )


@functools.cache
def retriever(pooling="tokens", causal=True):
    """`Model` of one pooling; a projection to 8 where every token has a vector."""
    own = config(causal)
    params = {"model": init_params(param_table(own), jax.random.key(0))}
    late = pooling == "tokens"
    if late:
        params["projection"] = init_params(projection_table(own, 8), jax.random.key(1))
    about = Retriever(TEXTS if late else SINGLE, VectorHead(pooling, ("identity",) if late else ())).as_json()
    return Model(params, own, tokenizer(), {"stage": "toy", RETRIEVER: about})


def with_layers(model, layers, activations):
    """The same model with other dense layers."""
    head = dataclasses.replace(model.retriever.head, activations=activations)
    about = {**model.about, RETRIEVER: dataclasses.replace(model.retriever, head=head).as_json()}
    return dataclasses.replace(model, params={"model": model.params["model"], "projection": layers}, about=about)
