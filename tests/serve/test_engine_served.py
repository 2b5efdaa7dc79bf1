"""The real engine behind the official client: what is sent is what the engine and the training forward compute."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from serve.running import wait_for

from jaxpo.sampling.engine import Engine
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.text import encode_prompt
from jaxpo.serve.tokens import text_and_offsets

ASK = [{"role": "user", "content": "the fox"}]


def test_the_answer_is_the_engines(served, speaker, tokenizer):
    params, config = speaker
    engine = Engine(params, config, tokenizer=tokenizer, slots=4, rounds=4, page=16, together=64, one_shape=True)
    request = Request(
        encode_prompt(tokenizer, "the fox"), n=2, sampler=Sampler(temperature=0.7, top_k=20), max_new_tokens=12, seed=3
    )
    want = [one.text for one in engine.generate([request])]
    options = {"temperature": 0.7, "max_tokens": 12, "n": 2, "seed": 3, "extra_body": {"top_k": 20}}
    found = served.client.completions.create(model="tiny", prompt="the fox", **options)
    assert [choice.text for choice in found.choices] == want
    ids = served.client.completions.create(model="tiny", prompt=encode_prompt(tokenizer, "the fox"), **options)
    assert [choice.text for choice in ids.choices] == want


def test_a_seed_gives_the_same_answer_and_none_another(served):
    def answer(**options):
        asked = {"model": "tiny", "messages": ASK, "max_completion_tokens": 20}
        return served.client.chat.completions.create(**asked, **options).choices[0].message.content

    with ThreadPoolExecutor(6) as pool:
        same = list(pool.map(lambda _: answer(seed=11), range(6)))
    assert len(set(same)) == 1
    assert answer(seed=12) != same[0]
    assert len({answer() for _ in range(4)}) > 1


@pytest.mark.parametrize("logprobs", [None, 3])
def test_a_stream_is_the_answer(served, logprobs):
    asked = {"model": "tiny", "prompt": ["the fox", "over"], "n": 2, "max_tokens": 30, "seed": 5, "echo": True}
    asked |= {"logprobs": logprobs, "stop": ["q", "zz"]}
    whole = served.client.completions.create(**asked)
    found = {}
    for chunk in served.client.completions.create(**asked, stream=True):
        (choice,) = chunk.choices
        text, parts, _ = found.get(choice.index, ("", [], None))
        parts += choice.logprobs.token_logprobs if choice.logprobs else []
        found[choice.index] = (text + choice.text, parts, choice.finish_reason)
    for choice in whole.choices:
        scores = choice.logprobs.token_logprobs if logprobs else []
        assert found[choice.index] == (choice.text, scores, choice.finish_reason)


@pytest.mark.parametrize("max_tokens", [0, 1, 9])
def test_echoed_log_probs_are_those_of_the_training_forward(served, tokenizer, logp, max_tokens):
    prompts = [encode_prompt(tokenizer, "the quick 你好 brown"), tokenizer.encode("no BOS here, fox")]
    options = {"max_tokens": max_tokens, "temperature": 0, "logprobs": 2, "echo": True}
    found = served.client.completions.create(model="tiny", prompt=prompts, **options)
    assert found.usage.completion_tokens <= 2 * max_tokens
    for prompt, choice in zip(prompts, found.choices, strict=True):
        given, tops = choice.logprobs.token_logprobs, choice.logprobs.top_logprobs
        text, offsets = text_and_offsets(tokenizer, prompt)
        assert choice.text.startswith(text)
        assert choice.logprobs.text_offset[: len(prompt)] == offsets
        assert given[0] is None
        assert tops[0] is None
        assert len(given) <= len(prompt) + max_tokens
        rows = logp(prompt)
        for i in range(1, len(prompt)):
            assert math.isclose(given[i], rows[i - 1, prompt[i]], abs_tol=1e-4)
            best = np.sort(rows[i - 1, : tokenizer.vocab_size])[::-1][:2]
            np.testing.assert_allclose(sorted(tops[i].values())[::-1][:2], best, atol=1e-4)
        if max_tokens:
            # Greedy: the drawn token is the top one, to the bit, which is how lm-eval finds out.
            assert given[len(prompt)] == max(tops[len(prompt)].values())


def test_what_changes_the_draw_reaches_the_engine(served, tokenizer):
    (fox,) = tokenizer.encode("x")[:1]
    asked = {"model": "tiny", "prompt": "the fox", "max_tokens": 8, "seed": 1}
    biased = served.client.completions.create(**asked, logit_bias={str(fox): 100}).choices[0]
    assert biased.text == "x" * 8
    apart = served.client.completions.create(
        **asked, logit_bias={str(fox): 30}, presence_penalty=2, frequency_penalty=2, temperature=0
    )
    assert apart.choices[0].text.startswith("x")
    long = served.client.completions.create(
        **asked, logit_bias={str(tokenizer.eos_id): 100}, extra_body={"min_tokens": 5}
    )
    assert long.usage.completion_tokens == 6
    assert long.choices[0].finish_reason == "stop"
    stopped = served.client.completions.create(
        **asked, logit_bias={str(fox): 100}, extra_body={"stop_token_ids": [fox]}
    )
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("", "stop")


@pytest.mark.parametrize(("asked", "param", "code"), [
    ({"prompt": "the fox " * 100}, "prompt", "context_length_exceeded"),
    ({"prompt": "the fox", "max_tokens": 2**31 - 1}, "max_tokens", "context_length_exceeded"),
    ({"prompt": "the fox", "max_tokens": 2**40}, "max_tokens", None),
    ({"prompt": "the fox", "max_tokens": 0}, "max_tokens", None),
    ({"prompt": [5, 100_000]}, "prompt", None),
    ({"prompt": "the fox", "logit_bias": {"100000": 1}}, "logit_bias", None),
    ({"prompt": "the fox", "extra_body": {"stop_token_ids": [100_000]}}, "stop_token_ids", None),
    ({"prompt": "the fox", "extra_body": {"min_tokens": 17}}, "min_tokens", None),
])  # fmt: skip
def test_what_does_not_fit_the_model_is_refused(served, asked, param, code):
    with pytest.raises(openai.BadRequestError) as caught:
        served.client.completions.create(model="tiny", **asked)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_chat_may_fill_the_window(served, speaker):
    found = served.client.chat.completions.create(model="tiny", messages=ASK, logit_bias={"7": -100}, temperature=0)
    assert found.choices[0].finish_reason == "length"
    assert found.usage.total_tokens == speaker[1].max_position_embeddings


def test_nothing_is_left_behind(served):
    """After all of the above every slot and every place is free."""
    wait_for(lambda: not served.engine.busy and served.desk.places.taken == 0)
    # The thread says how much it does after the step.
    wait_for(lambda: served.desk.thread.load.running == served.desk.thread.load.waiting == 0)
