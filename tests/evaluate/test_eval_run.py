"""What reaches the model and comes back: log-probs against the forward pass in numpy, answers against greedy search."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from jaxpo.errors import DataError
from jaxpo.evaluate.runner import TaskJob
from jaxpo.evaluate.tasks import asking
from jaxpo.evaluate.tasks.exact_match import ExactMatch
from jaxpo.evaluate.tasks.gsm8k import GSM8K
from jaxpo.evaluate.tasks.multiple_choice import MultipleChoice
from jaxpo.evaluate.tasks.text import Perplexity
from jaxpo.models.family import family, output_matrix
from jaxpo.models.language import Inputs

LENGTH = 512


def log_softmax(subject, tokens):
    """`[n, V]` of one sequence alone in its row, the head in float64."""
    place = np.arange(LENGTH)
    ids = np.pad(np.asarray(tokens, np.int32), (0, LENGTH - len(tokens)))[None]
    hidden = forward(subject.scorer.config, subject.params, Inputs(ids, (place < len(tokens))[None] * 1, place[None]))
    logits = (
        np.asarray(hidden[0, : len(tokens)], np.float64)
        @ np.asarray(output_matrix(subject.params, subject.scorer.config)).T
    )
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


@functools.partial(jax.jit, static_argnums=0)
def forward(config, params, inputs):
    return family(config).forward(params, inputs, config=config)[0]


def quiet(what, done, total):
    """No progress."""


def run(task, subject):
    (found,) = TaskJob("task", task).read().ask(subject.reader).run(subject, quiet)
    return found


def test_multiple_choice_is_that_of_the_forward_pass(files, subject):
    task = MultipleChoice(source=str(files / "choices.jsonl"))
    hits = []
    for example in task.examples():
        totals = []
        for segment in task.ask(example, subject.reader).segments:
            logps = log_softmax(subject, segment.tokens)
            at = np.flatnonzero(segment.supervised)
            totals.append(sum(logps[i - 1, segment.tokens[i]] for i in at))
        hits.append(int(np.argmax(totals)) == example.right)
    found = run(task, subject)
    assert found.results["acc"].value == np.mean(hits)
    assert found.results["acc"].n == 4


def test_perplexity_is_that_of_the_forward_pass(files, subject):
    found = run(Perplexity(source=str(files / "texts.jsonl")), subject)
    costs, tokens = 0.0, 0
    for row in Perplexity(source=str(files / "texts.jsonl")).examples():
        (segment,) = asking.documents(subject.reader.tokenizer, row.data["text"], 256)
        logps = log_softmax(subject, segment.tokens)
        costs -= sum(logps[i - 1, segment.tokens[i]] for i in range(1, len(segment.tokens)))
        tokens += len(segment.tokens) - 1
    assert found.results["perplexity"].value == pytest.approx(np.exp(costs / tokens), rel=1e-4)


def test_scores_say_which_tokens_are_the_most_probable(subject):
    tokens = np.asarray(subject.reader.tokenizer.encode("Ann has 3 apples and finds 4 more."), np.int32)
    (both,) = subject.scores([tokens], "greedy")
    logps = log_softmax(subject, tokens)
    assert both[1:, 0] == pytest.approx([logps[i - 1, tokens[i]] for i in range(1, len(tokens))], abs=1e-4)
    assert both[1:, 1].tolist() == [float(logps[i - 1].argmax() == tokens[i]) for i in range(1, len(tokens))]


def test_long_and_short_sequences_are_scored_alike(subject):
    """Rows of 256 and of 512; the order is that of the call."""
    generator = np.random.Generator(np.random.Philox(0))
    lengths = (3, 300, 17, 400, 1)
    segments = [generator.integers(20, 300, n).astype(np.int32) for n in lengths]
    told = []
    found = subject.scores(segments, "logps", lambda done, total: told.append((done, total)))
    assert [len(x) for x in found] == list(lengths)
    assert told[-1] == (5, 5)
    for segment, logps in zip(segments[:3], found, strict=False):
        expected = log_softmax(subject, segment)
        assert logps[1:] == pytest.approx([expected[i - 1, t] for i, t in enumerate(segment) if i], abs=2e-4)


def test_answers_are_the_greedy_ones_and_samples_are_counted(files, subject):
    task = ExactMatch(source=str(files / "numbers.jsonl"), max_new_tokens=4)
    found = run(task, subject)
    texts = [g.text for g in subject.greedy([task.prompt(example) for example in task.examples()], 4)]
    assert [one.answer for one in found.scored] == texts
    several = run(ExactMatch(source=task.source, max_new_tokens=4, samples=3, k=(1, 3), temperature=1.0), subject)
    assert several.results["exact_match_pass@3"].n == 4
    assert several.results["exact_match_pass@1"].value == pytest.approx(several.results["exact_match"].value)


def test_what_the_model_has_no_room_for_is_refused_before_it_runs(files, subject):
    task = GSM8K(source=str(files / "maths.jsonl"), shots=0, max_new_tokens=250)
    with pytest.raises(DataError, match=r"maths\.jsonl, row 1: a prompt of \d+ tokens and 250 new ones.*256 positions"):
        TaskJob("gsm8k", task).read().ask(subject.reader)


def test_prompt_hashes_follow_the_wording_and_the_template(files, subject):
    source, shots = str(files / "choices.jsonl"), str(files / "choices.jsonl")
    tasks = [
        MultipleChoice(source=source),
        MultipleChoice(source=source, wording="{question}\nAnswer:"),
        MultipleChoice(source=source, delimiter="\n"),
        MultipleChoice(source=source, shots=1, shots_file=shots),
        MultipleChoice(source=source, chat=True),
    ]
    hashes = [run(task, subject).prompt_hash for task in tasks]
    assert len(set(hashes)) == len(tasks)
    assert hashes[0] == run(MultipleChoice(source=source, limit=2), subject).prompt_hash


def test_a_continuation_after_a_conversation_is_what_training_would_see(subject):
    tokenizer = subject.reader.tokenizer
    segment = asking.pair(tokenizer, [{"role": "user", "content": "How many?"}], "Seven.")
    assert tokenizer.decode(segment.tokens[segment.supervised]) == "Seven."
    assert tokenizer.decode(segment.tokens, skip_special_tokens=False).endswith("<|im_start|>assistant\nSeven.")


def test_white_space_at_a_prompts_end_belongs_to_the_continuation(subject):
    tokenizer = subject.reader.tokenizer
    one = asking.pair(tokenizer, "How many?", " Seven")
    other = asking.pair(tokenizer, "How many? ", "Seven")
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.supervised.tolist() == other.supervised.tolist()
