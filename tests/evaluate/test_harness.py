"""lm-eval on our model: its multiple choice is ours, its numbers are kept, its absent data is named."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from jaxpo.cli.main import main
from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.harness.results import task_results
from jaxpo.evaluate.harness.task import Harness, absent
from jaxpo.evaluate.runner import TaskJob
from jaxpo.evaluate.tasks.base import Reply
from jaxpo.evaluate.tasks.multiple_choice import MultipleChoice
from jaxpo.sampling.sampler import Sampler


@pytest.fixture(scope="module")
def include(files, tmp_path_factory):
    """Task files of lm-eval on the same rows."""
    folder = tmp_path_factory.mktemp("include")
    common = {"dataset_path": "json", "test_split": "test"}
    choices = {
        "task": "local_choices",
        "dataset_kwargs": {"data_files": {"test": str(files / "choices.jsonl")}},
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_bytes")],
    }
    answers = {
        "task": "local_answers",
        "dataset_kwargs": {"data_files": {"test": str(files / "maths.jsonl")}},
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    texts = {
        "task": "local_texts",
        "dataset_kwargs": {"data_files": {"test": str(files / "texts.jsonl")}},
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
        ],
    }
    away = {**choices, "task": "local_away", "dataset_kwargs": {"data_files": {"test": str(files / "away.jsonl")}}}
    for task in (choices, answers, texts, away):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump({**common, **task}))
    return str(folder)


def asked(*pairs):
    return [SimpleNamespace(args=pair) for pair in pairs]


def quiet(what, done, total):
    """No progress."""


@pytest.fixture(scope="module")
def lm(subject):
    from jaxpo.evaluate.harness.adapter import JaxpoLM

    return JaxpoLM(subject)


def test_it_is_registered_and_is_made_from_model_args(model_folders):
    from lm_eval.api.registry import get_model

    from jaxpo.evaluate.harness.adapter import JaxpoLM

    assert get_model("jaxpo") is JaxpoLM
    made = JaxpoLM.create_from_arg_string(f"model={model_folders[0]},dtype=float32")
    assert made.subject.scorer.dtype == "float32"
    with pytest.raises(ConfigError, match=r"model=FOLDER.*Did you mean model"):
        JaxpoLM.create_from_arg_string("modell=x")


def test_log_likelihoods_are_those_of_our_multiple_choice(lm, subject, files):
    task = MultipleChoice(source=str(files / "choices.jsonl"))
    examples = task.examples()
    asks = [task.ask(example, subject.reader) for example in examples]
    segments = [segment for ask in asks for segment in ask.segments]
    logps = iter(subject.logps([segment.tokens for segment in segments]))
    ours = [Reply(ask, tuple(next(logps) for _ in ask.segments)).likelihoods for ask in asks]
    pairs = [(f"Question: {x.question}\nAnswer:", f" {choice}") for x in examples for choice in x.choices]
    theirs = [value for value, _ in lm.loglikelihood(asked(*pairs))]
    assert theirs == pytest.approx([value for values in ours for value in values], abs=1e-5)


def test_a_local_task_gives_the_accuracy_of_ours(subject, include, files):
    task = Harness(source="local_choices", include=include)
    (found,) = task.read().ask(subject.reader).run(subject, quiet)
    (ours,) = (
        TaskJob("ours", MultipleChoice(source=str(files / "choices.jsonl")))
        .read()
        .ask(subject.reader)
        .run(subject, quiet)
    )
    for name in ("acc", "acc_bytes"):
        assert [x.values[name] for x in found.scored] == [x.values[name] for x in ours.scored]
        assert found.results[name] == ours.results[name]
    assert not found.further


def test_rolling_perplexity_is_a_sum_over_documents(lm, subject, include, files):
    (found,) = Harness(source="local_texts", include=include).read().run(subject, quiet)
    texts = [json.loads(line)["text"] for line in (files / "texts.jsonl").read_text().splitlines()]
    sums = lm.loglikelihood_rolling(asked(*((text,) for text in texts)))
    size = sum(len(text.encode()) for text in texts)
    assert found.results["byte_perplexity"].value == pytest.approx(math.exp(-sum(sums) / size))
    assert found.results["bits_per_byte"].value == pytest.approx(-sum(sums) / size / math.log(2))
    assert found.results["bits_per_byte"].low < found.results["bits_per_byte"].value
    # A text is its first token after the start token, and each further one after those before it.
    tokenizer = subject.reader.tokenizer
    (alone,) = subject.logps([np.asarray([tokenizer.bos_id, *tokenizer.encode(texts[0])], np.int32)])
    assert sums[0] == pytest.approx(float(alone.sum()), abs=1e-4)


def test_generated_answers_are_greedy_and_end_at_stop_strings(lm, subject):
    prompts = ["Question: How many?\nAnswer:", "Ann has 3"]
    settings = {"until": [], "max_gen_toks": 6, "do_sample": False}
    plain = lm.generate_until(asked(*((prompt, settings) for prompt in prompts)))
    assert plain == [answer.text for answer in subject.greedy(prompts, 6)]
    stop = next(text for text in plain if text)[1:2] or "\n"
    cut = lm.generate_until(asked(*((prompt, {**settings, "until": stop}) for prompt in prompts)))
    assert cut == [text.split(stop)[0] for text in plain]


def test_settings_of_generation_are_read_or_refused():
    from jaxpo.evaluate.harness.adapter import Settings

    assert Settings.of({"until": "x", "max_gen_toks": 5}) == Settings(Sampler(temperature=0.0), 5, ("x",))
    assert Settings.of({"temperature": 0.7, "top_p": 0.9}).sampler == Sampler(temperature=0.7, top_p=0.9)
    assert Settings.of({"do_sample": True}).sampler == Sampler()
    assert Settings.of({"do_sample": False, "temperature": 0.7}).sampler.greedy
    with pytest.raises(ConfigError, match="num_beams: not known"):
        Settings.of({"num_beams": 4})


def test_a_rendered_context_goes_on_as_the_conversation(lm, subject):
    from jaxpo.evaluate.tasks.asking import pair

    history = [{"role": "user", "content": "How many?"}]
    rendered = lm.apply_chat_template(history)
    assert rendered.endswith("<|im_start|>assistant\n")
    tokenizer = subject.reader.tokenizer
    assert pair(tokenizer, rendered, "Seven").tokens.tolist() == pair(tokenizer, history, "Seven").tokens.tolist()
    begun = lm.apply_chat_template([*history, {"role": "assistant", "content": "It is"}], add_generation_prompt=False)
    assert begun.endswith("<|im_start|>assistant\nIt is")
    assert lm.tokenizer_name == tokenizer.hash


def test_a_context_that_is_too_long_is_refused(lm):
    with pytest.raises(DataError, match=r"request 2 of lm-eval: \d+ tokens, but the model has 256"):
        lm.loglikelihood(asked(("a", " b"), ("word " * 300, "b")))


def test_the_command_keeps_lm_evals_numbers(model_folders, include, tmp_path):
    words = ["--tasks", "lm_eval:local_answers", "local_choices", "--include", include, "--limit", "3"]
    assert main(["eval", str(model_folders[0]), *words, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]
    assert list(found) == ["lm_eval:local_answers", "lm_eval:local_choices"]
    assert found["lm_eval:local_answers"]["results"]["exact_match"]["n"] == 3


def test_a_local_file_that_is_not_there_is_named(include):
    with pytest.raises(DataError, match=r"lm_eval:local_away: its data is not there: .*away\.jsonl"):
        Harness(source="local_away", include=include).read()


def test_absent_data_says_what_would_be_fetched_and_where_to_put_it():
    config = {"dataset_path": "openai/gsm8k", "dataset_name": "main"}
    said = str(absent("gsm8k", config, ConnectionError("offline")))
    assert "would fetch the dataset openai/gsm8k (main)" in said
    assert "hf download --repo-type dataset openai/gsm8k" in said
    assert "--include" in said


def test_a_number_that_no_single_example_gives_is_kept_without_an_interval():
    sample = {"filter": "none", "arguments": [["p"]], "target": "t", "filtered_resps": ["a"]}
    samples = [{**sample, "doc_id": i, "f1": (i, 1)} for i in range(3)]
    found = {
        "results": {"task": {"f1,none": 0.123, "f1_stderr,none": "N/A", "alias": "task", "sample_len": 3}},
        "samples": {"task": samples},
        "configs": {"task": {}},
        "higher_is_better": {"task": {"f1": True}},
    }
    (result,) = task_results(found, {"source": "task"}, "", 0.0)
    assert result.label == "lm_eval:task"
    assert task_results(found, {"source": "group"}, "", 0.0)[0].label == "lm_eval:group/task"
    assert (result.results["f1"].value, result.results["f1"].n, result.results["f1"].low) == (0.123, 3, None)
