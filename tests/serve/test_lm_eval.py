"""lm-eval's stock `local-completions` against a running server, its tokenizer the server's: equal to the forward's."""

import json
import logging
import math

import numpy as np
import pytest

# Importing lm-eval takes longer than all of the tests.
pytestmark = pytest.mark.slow

TASK = """
task: capitals
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
WRITTEN = """
task: written
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["q"], max_gen_toks: 12, temperature: 0}}
metric_list:
  - metric: exact_match
"""
ROLLING = """
task: rolling
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list:
  - metric: bits_per_byte
"""
ROWS = [
    {"question": "the quick brown fox", "choices": ["jumps", "naïve 你好", "over the lazy dog"], "answer": 0},
    {"question": "over the", "choices": ["lazy dog", "café"], "answer": 1},
    {"question": "你好 and", "choices": ["so on", "dog", "fox"], "answer": 2},
]


@pytest.fixture(scope="module")
def results(served, tmp_path_factory):
    """What lm-eval reports of three tasks, and each of its samples."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, text in (("capitals", TASK), ("written", WRITTEN), ("rolling", ROLLING)):
        (folder / f"{name}.yaml").write_text(text.format(data=data))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("HF_HUB_OFFLINE", "1"),
            ("HF_DATASETS_CACHE", str(folder / "cache")),
            ("no_proxy", "127.0.0.1"),
        ):
            patch.setenv(name, value)
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        yield simple_evaluate(
            model="local-completions",
            # The server's context, and its tokenizer, which lm-eval finds by itself.
            model_args={
                "model": "tiny",
                "base_url": f"{served.url}/v1/completions",
                "max_length": 128,
                "num_concurrent": 3,
            },
            tasks=["capitals", "written", "rolling"],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
        )
    logging.getLogger("lm_eval").setLevel(logging.WARNING)


def test_multiple_choice_is_the_forwards(results, served, tokenizer, logp):
    right = normed = 0
    for sample, row in zip(sorted(results["samples"]["capitals"], key=lambda s: s["doc_id"]), ROWS, strict=True):
        want = []
        for choice, (found, greedy) in zip(row["choices"], sample["filtered_resps"], strict=True):
            context, whole = tokenizer.encode(row["question"]), tokenizer.encode(f"{row['question']} {choice}")
            rows = logp(whole)
            assert whole[: len(context)] == context
            at = range(len(context), len(whole))
            want.append(sum(rows[i - 1, whole[i]] for i in at))
            assert math.isclose(float(found), want[-1], abs_tol=1e-3)
            assert greedy in (False, "False")
            assert not all(rows[i - 1, : tokenizer.vocab_size].argmax() == whole[i] for i in at)
        right += int(np.argmax(want)) == row["answer"]
        normed += int(np.argmax([w / len(c) for w, c in zip(want, row["choices"], strict=True)])) == row["answer"]
    assert results["results"]["capitals"]["acc,none"] == pytest.approx(right / 3)
    assert results["results"]["capitals"]["acc_norm,none"] == pytest.approx(normed / 3)


def test_written_answers_are_the_servers(results, served, tokenizer):
    for sample in results["samples"]["written"]:
        ids = tokenizer.encode(ROWS[sample["doc_id"]]["question"])
        found = served.client.completions.create(model="tiny", prompt=ids, max_tokens=12, temperature=0, stop="q")
        assert sample["resps"] == [[found.choices[0].text]]


def test_a_whole_texts_likelihood_is_the_forwards(results, tokenizer, logp):
    bits = size = 0.0
    for row in ROWS:
        ids = tokenizer.encode(row["question"])
        rows = logp([tokenizer.bos_id, *ids])
        bits -= sum(rows[i, token] for i, token in enumerate(ids)) / math.log(2)
        size += len(row["question"].encode())
    assert results["results"]["rolling"]["bits_per_byte,none"] == pytest.approx(bits / size, rel=1e-4)
