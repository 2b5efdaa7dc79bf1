"""GGUF files run by llama.cpp itself: the same ids, conversations, log-probs and continuations."""

import json

import numpy as np
import pytest
import tokenizers
from convert.gguf_models import DENSE, MOE, random, tokenizer, trained
from convert.many_languages import TEXTS
from models.adapters import drawn

from jaxpo.config import LoRA
from jaxpo.convert.gguf import llama
from jaxpo.convert.gguf.adapter import verify_adapter, write_adapter
from jaxpo.convert.gguf.header import read_header
from jaxpo.convert.gguf.vocabulary import MERGES_ONLY, WHOLE_FIRST
from jaxpo.convert.gguf.write import write_gguf
from jaxpo.convert.hf import tensors_of
from jaxpo.convert.verify import compare, log_probs
from jaxpo.data.chat.chat import render, text_of
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import CheckpointError
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table, merge, scale_of

pytest.importorskip("gguf", reason="GGUF files need the gguf package (the extra gguf)")
pytest.importorskip("xllamacpp", reason="llama.cpp comes as xllamacpp, on Linux alone")

CHATS = (
    [{"role": "user", "content": "What is 2 + 2?"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Grüße 🦊"},
        {"role": "assistant", "content": "Hallo."},
        {"role": "user", "content": "And now?\nTwo lines."},
    ],
)
TOKENS = np.random.default_rng(5).integers(0, DENSE.vocab_size, 40)
PREFIXES = (1, 2, 3, 4, 7, 12, 25, 40)
TEXT = np.asarray([1, *tokenizer().encode(" ".join(TEXTS[:12:2]))][:40])
PROMPT = [1, *tokenizer().encode("The quick brown")]
NEW = 12


def write(file, config, params, kind="f32", own=None):
    sources = tensors_of(params, param_table(config))
    write_gguf(file, sources, config, own or tokenizer(), kind, name="tiny")
    return sources


@pytest.fixture(scope="module", params=["dense", "mixture"])
def answered(request, tmp_path_factory):
    """A model, its float32 file, and everything that llama.cpp is asked of it, at once."""
    config, params = (DENSE, trained()) if request.param == "dense" else (MOE, random(MOE))
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write(file, config, params)
    questions = llama.Questions(
        prefixes=[TOKENS[:n].tolist() for n in PREFIXES], texts=TEXTS, chats=CHATS, greedy=[PROMPT], new=NEW
    )
    return config, params, llama.ask(file, config.vocab_size, questions)


def test_log_probs_over_the_whole_vocabulary(answered):
    config, params, answers = answered
    ours = log_probs(params, config, TOKENS, None)[[n - 1 for n in PREFIXES]]
    assert np.isfinite(answers.log_probs).all()
    found = compare(ours, answers.log_probs.astype(np.float64))
    assert found["max_logprob_error"] < 2e-5
    assert abs(found["kl"]) < 1e-6


def test_ids_of_forty_texts_in_twenty_languages(answered):
    assert len(TEXTS) == 40
    for text, ids in zip(TEXTS, answered[2].ids, strict=True):
        assert ids == tokenizer().encode(text), text


def test_the_chat_template_is_applied_alike(answered):
    for chat, prompt in zip(CHATS, answered[2].prompts, strict=True):
        wanted = text_of(render(chat, add_generation_prompt=True))
        # llama.cpp adds the first token itself where it makes ids of a prompt.
        assert prompt in (wanted, wanted.removeprefix("<|startoftext|>"))


def test_the_greedy_continuation_is_the_same(answered):
    config, params, answers = answered
    (continuation,) = answers.continuations
    # What our forward finds most probable after each of them: that is to decode greedily, in one pass.
    ids = np.asarray(PROMPT + continuation)
    ours = log_probs(params, config, ids, None)[len(PROMPT) - 1 : -1].argmax(-1)
    assert len(continuation) == NEW
    assert continuation == ours.tolist()


@pytest.mark.parametrize(("kind", "most"), [("q8_0", 1e-3), ("q4_0", 0.2)])
def test_what_quantising_a_trained_model_costs(kind, most, tmp_path):
    file = tmp_path / "model.gguf"
    write(file, DENSE, trained(), kind)
    prefixes = [TEXT[:n].tolist() for n in range(2, len(TEXT) + 1, 2)]
    theirs = llama.ask(file, DENSE.vocab_size, llama.Questions(prefixes=prefixes)).log_probs.astype(np.float64)
    found = compare(log_probs(trained(), DENSE, TEXT, None)[1::2], theirs)
    print(f"{kind}: KL {found['kl']:.2e} nats per token, largest difference {found['max_logprob_error']:.2e}")
    assert 0 < found["kl"] < most


def test_an_adapter_is_added_by_llama_cpp(tmp_path):
    """Ranks, scales and all kinds of projections; --lora adds what the merged model has."""
    lora = LoRA(rank=4, alpha=6.0, use_rslora=True)
    adapter = drawn(adapter_table(param_table(DENSE), lora))
    merged = merge(random(DENSE), adapter, scale_of(lora))
    file = tmp_path / "lora.gguf"
    write_adapter(file, adapter, lora, DENSE, name="tiny-lora")
    report = verify_adapter(file, random(DENSE), merged, DENSE, tokenizer(), "f32", tmp_path)
    assert report["by"].startswith("llama.cpp")
    assert report["max_logprob_error"] < 1e-3
    assert [f.name for f in tmp_path.iterdir()] == ["lora.gguf"]
    with pytest.raises(CheckpointError, match="does not compute"):
        verify_adapter(file, random(DENSE), random(DENSE), DENSE, tokenizer(), "f32", tmp_path)


def test_tokens_that_merges_do_not_reach(tmp_path):
    """By one name llama.cpp takes a piece that is a token as it is, by the other it merges, as `tokenizers` does."""
    document = json.loads(json.dumps(tokenizer().document))
    vocabulary = document["model"]["vocab"]
    # "qz" is in the vocabulary and no merge makes it.
    vocabulary["qz"] = max(vocabulary.values()) + 1
    unreachable = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(document)))
    assert len(unreachable.encode("qz")) == 2
    file = tmp_path / "model.gguf"
    write(file, DENSE, random(DENSE), own=unreachable)
    assert read_header(file).metadata["tokenizer.ggml.pre"] == MERGES_ONLY
    texts = ["qz", " qz qzq", *TEXTS[::4]]
    answers = llama.ask(file, DENSE.vocab_size, llama.Questions(texts=texts))
    assert answers.ids == [unreachable.encode(text) for text in texts]
    document["model"]["ignore_merges"] = True
    whole = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(document)))
    assert len(whole.encode("qz")) == 1
    write(file, DENSE, random(DENSE), own=whole)
    assert read_header(file).metadata["tokenizer.ggml.pre"] == WHOLE_FIRST
    assert llama.ask(file, DENSE.vocab_size, llama.Questions(texts=["qz"])).ids == [whole.encode("qz")]


def test_what_llama_cpp_cannot_load_is_said_and_ends_only_its_process(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(CheckpointError, match=r"model\.gguf: llama\.cpp does not run it \(status"):
        llama.ask(file, 8, llama.Questions())
