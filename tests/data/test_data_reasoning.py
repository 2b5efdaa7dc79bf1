"""What assistants think aloud, taken out of every form of row that may hold it, and counted."""

from __future__ import annotations

import pytest

from jaxpo.errors import DataError
from jaxpo.sampling.text import encode_prompt

HEAD = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
THOUGHT = "<think>\nhmm\n</think>\n\n"
U = {"role": "user", "content": "q"}
A = {"role": "assistant", "content": f"{THOUGHT}yes"}
PAIR = {"roles": ("chosen", "rejected"), "purpose": "preference"}
LIST = {"roles": ("candidate",), "purpose": "preference"}
ROWS = {
    "messages": ({"messages": [U, A]}, {}),
    "completion of messages": ({"prompt": [U], "completion": f"{THOUGHT}yes"}, {}),
    "strings": ({"prompt": "q ", "completion": f"{THOUGHT}yes"}, {}),
    "begun in the prompt": ({"prompt": "q <think>\n", "completion": "hmm</think>\nyes"}, {}),
    "pair": ({"prompt": "q ", "chosen": f"{THOUGHT}yes", "rejected": f"{THOUGHT}no"}, PAIR),
    "list": ({"prompt": "q ", "responses": [f"{THOUGHT}yes", "no"], "scores": [1, 0]}, LIST),
    "rendered": ({"text": f"{HEAD}{THOUGHT}yes<|im_end|>\n"}, {}),
    "rendered document": ({"text": f"{HEAD}{THOUGHT}yes<|im_end|>\n"}, {"purpose": "language"}),
    "rendered prompt": ({"prompt": HEAD, "completion": f"{THOUGHT}yes<|im_end|>\n"}, {}),
    "rendered, begun": ({"prompt": f"{HEAD}<think>", "completion": "hmm</think>yes<|im_end|>\n"}, {}),
    "rendered pair": ({"chosen": f"{HEAD}{THOUGHT}yes<|im_end|>", "rejected": f"{HEAD}no<|im_end|>"}, PAIR),
}


def text_of(dataset):
    (example,) = dataset.store.read(range(1))
    return "".join("".join(dataset.tokenizer.pieces(segment.tokens)) for segment in example.segments)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_that_has_reasoning_is_counted_and_stripped(prepared, write, name):
    row, how = ROWS[name]
    how = how | {"max_length": 256}
    kept, stripped = (prepared(write(row), reasoning=choice, **how) for choice in ("keep", "strip"))
    assert "hmm" in text_of(kept)
    assert kept.counts["reasoning_kept"] == 1
    assert "think" not in text_of(stripped)
    assert "hmm" not in text_of(stripped)
    assert "yes<|im_end|>" in text_of(stripped)
    assert stripped.counts["reasoning_stripped"] == 1


@pytest.mark.parametrize(
    ("row", "how"),
    [
        ({"text": f"{THOUGHT}a document"}, {}),
        ({"prompt": f"say {THOUGHT}", "completion": "yes"}, {}),
        ({"prompt": "q ", "completion": f"yes {THOUGHT}"}, {}),
        ({"text": f"{HEAD}<think>cut<|im_end|>\n{HEAD}yes</think><|im_end|>"}, {}),
        ({"text": f"x {HEAD}{THOUGHT}yes"}, {}),
    ],
)
def test_what_is_no_reasoning_stays(prepared, write, row, how):
    kept, stripped = (prepared(write(row), reasoning=choice, max_length=256, **how) for choice in ("keep", "strip"))
    assert text_of(kept) == text_of(stripped)
    assert not {"reasoning_kept", "reasoning_stripped"} & {name for name, n in kept.counts.items() if n}


def test_a_string_of_nothing_else_is_refused(prepared, write):
    with pytest.raises(DataError, match="nothing is left of an answer without its reasoning"):
        prepared(write({"prompt": "q ", "completion": THOUGHT}), reasoning="strip")


def test_thoughts_in_the_content_and_beside_it_are_rendered_once(prepared, write, tokenizer):
    path = write({"messages": [U, {**A, "reasoning_content": "hmm"}]})
    assert text_of(prepared(path, max_length=256)).endswith("<think>hmm</think>yes<|im_end|>\n")
    assert text_of(prepared(path, max_length=256, reasoning="strip")).endswith("assistant\nyes<|im_end|>\n")
    doubled = [U, {**A, "reasoning_content": "hmm"}, U]
    once = [U, {"role": "assistant", "content": "yes", "reasoning_content": "hmm"}, U]
    assert encode_prompt(tokenizer, doubled) == encode_prompt(tokenizer, once)
    with pytest.raises(DataError, match=r"row 1, field 'completion': message 1 has different thoughts.*Keep one"):
        prepared(write({"messages": [U, {**A, "thinking": "other"}]}), max_length=256)
