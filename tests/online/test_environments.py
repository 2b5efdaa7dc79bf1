"""Conversations with environments: turns, calls, masks, limits, and what goes wrong; the model's turns are scripted."""

import json
import re
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from online.tiny import online, recipe

from jaxpo.config import Data
from jaxpo.data.chat.calls import CALL_END, CALL_START
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import DataError
from jaxpo.objectives.methods.rollouts import Advantage
from jaxpo.online.advantages import shaped
from jaxpo.online.answers import Answer, Prompt
from jaxpo.online.batches import batch_of
from jaxpo.online.environments import Calculator, GuessNumber, OwnEnvironment, TableLookUp
from jaxpo.online.environments.calculator import calculate
from jaxpo.online.environments.prompts import Openings
from jaxpo.online.environments.turns import after_turn, message_of
from jaxpo.online.environments.writing import EnvironmentWriter
from jaxpo.online.generation import Generation as Made
from jaxpo.online.layout import Layout
from jaxpo.online.rewards import EnvironmentReward, FunctionReward
from jaxpo.online.scoring import by_content, response
from jaxpo.online.talk import Talk, runs, talk_figures
from jaxpo.online.training import trained
from jaxpo.online.writer import Asked
from jaxpo.recipe.checks.run import find_problems
from jaxpo.sampling.request import Generation
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.text import encode_prompt
from jaxpo.stages import run as running
from jaxpo.train.metrics import read_metrics


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["higher lower say a number calculate look_up error the answer is 12 345 67 89"] * 4, 400)


def encoded(tokenizer, text):
    """As a model writes it: marks of calls as the tokens that they are."""
    found = []
    for part in re.split(f"({re.escape(CALL_START)}|{re.escape(CALL_END)})", text):
        found += [tokenizer.special_ids[part]] if part in (CALL_START, CALL_END) else tokenizer.encode(part)
    return found


class Script:
    """An engine that says what it is told: per sample its turns; "..." at the end = it was cut off."""

    def __init__(self, tokenizer, turns):
        self.tokenizer, self.turns, self.queue, self.asked = tokenizer, turns, deque(), []

    @property
    def busy(self):
        return bool(self.queue)

    def submit(self, request):
        number = len(self.asked)
        self.asked.append(request)
        self.queue += [(number, k) for k in range(request.n)]
        return number

    def step(self):
        number, sample = self.queue.popleft()
        request = self.asked[number]
        text = self.turns(request, sample)
        cut = text.endswith("...")
        tokens = encoded(self.tokenizer, text.removesuffix("...")) + ([] if cut else [self.tokenizer.eos_id])
        logps = np.arange(len(tokens), dtype=np.float32) - 50
        return [Generation(number, sample, tokens, logps, logps - 1, logps, "length" if cut else "stop_id", text)]


def played(tokenizer, environment, row, script, *, n=1, limit=2000):
    """The group of n conversations; `script`: a list of turns per sample."""
    turns = [deque(own) for own in script]
    taken = {}

    def say(request, sample):
        if request.n == 1 and n > 1:
            sample = next(k for k, prompt in taken.items() if request.prompt[: len(prompt)] == prompt and k not in done)
        text = turns[sample].popleft()
        written = [*request.prompt, *encoded(tokenizer, text.removesuffix("...")), tokenizer.eos_id]
        taken[sample] = written
        if not turns[sample]:
            done.add(sample)
        return text

    done = set()
    engine = Script(tokenizer, say)
    writer = EnvironmentWriter(SimpleNamespace(engine=engine, tokenizer=tokenizer, seed=5), environment)
    messages = environment.open().reset(row)
    prompt = Prompt(0, np.asarray(encode_prompt(tokenizer, messages), np.int32), messages, row)
    (group,) = writer.write([Asked(0, 0, prompt)], n, Sampler(), limit, "test")
    return group, engine


def call(text):
    return f"{CALL_START}{text}{CALL_END}"


SUM = {"prompt": "What is 12 * 12 + 1?", "answer": "145"}
TABLE = {"prompt": "Where is the cat?", "table": {"cat": "in the garden", "dog": 3}, "answer": "Garden"}
NUMBER = {"prompt": "Guess.", "number": 7}


def test_a_calculator_is_called_and_only_the_models_tokens_are_trained_on(tokenizer):
    turns = [call('[calculate(expression="12 * 12 + 1")]'), "#### 145"]
    group, engine = played(tokenizer, Calculator(), SUM, [turns])
    (answer,) = group.answers
    assert [m["role"] for m in answer.talk.messages] == ["assistant", "tool", "assistant"]
    assert answer.talk.messages[1]["content"] == "145"
    assert (answer.talk.reward, answer.talk.turns, answer.talk.calls, answer.talk.failures) == (1.0, 2, 1, 0)
    assert answer.finished
    assert answer.text == "#### 145"
    own = [*encoded(tokenizer, turns[0]), tokenizer.eos_id, *encoded(tokenizer, turns[1]), tokenizer.eos_id]
    assert answer.tokens[answer.talk.mask].tolist() == own
    # The second turn goes on from the very tokens of the first, and what the template writes between them.
    between = after_turn(tokenizer, [answer.talk.messages[1]])
    first = len(encoded(tokenizer, turns[0])) + 1
    assert engine.asked[1].prompt == [*group.prompt.ids, *own[:first], *between]
    assert answer.tokens[~answer.talk.mask].tolist() == between
    assert "145" in tokenizer.decode(between)
    assert (answer.logps[answer.talk.mask] != 0).all()
    assert (answer.logps[~answer.talk.mask] == 0).all()
    assert EnvironmentReward().values([response(group, 0)]) == [1.0]


def test_what_follows_a_turn_is_what_the_template_writes_of_the_whole_conversation(tokenizer):
    opening = [{"role": "user", "content": "say a number"}]
    said, further = {"role": "assistant", "content": "12"}, [{"role": "user", "content": "higher"}]
    tokens = [*encode_prompt(tokenizer, opening), *tokenizer.encode("12"), tokenizer.eos_id]
    assert tokens + after_turn(tokenizer, further) == encode_prompt(tokenizer, [*opening, said, *further])


def test_calls_are_read_from_tokens(tokenizer):
    def said(text):
        return message_of(tokenizer, [*encoded(tokenizer, text), tokenizer.eos_id])

    assert said("12") == {"role": "assistant", "content": "12"}
    found = said("the " + call('[f(a=1), g(b="x")]') + "answer")
    assert found["content"] == "the answer"
    assert found["tool_calls"] == [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {"b": "x"}}]
    for broken in (call("what?"), CALL_START + "[f(a=1)]"):
        assert said(broken)["tool_calls"] == [{"name": "", "arguments": {}}]


def test_what_a_tool_raises_is_what_the_model_is_told(tokenizer):
    turns = [call('[calculate(expression="1 / 0")]'), call("[add(a=1)]"), call("no call"), "#### 145"]
    (answer,) = played(tokenizer, Calculator(turns=5), SUM, [turns])[0].answers
    told = [m["content"] for m in answer.talk.messages if m["role"] == "tool"]
    assert told[0].startswith("error:")
    assert told[1] == "error: there is no tool 'add'; there are calculate"
    assert told[2] == "error: the call cannot be read; write [name(argument=value)]"
    assert (answer.talk.calls, answer.talk.failures, answer.talk.reward) == (3, 3, 1.0)
    assert talk_figures([answer.talk])["tools/failure_frequency"] == 1.0


@pytest.mark.parametrize(
    ("text", "value"), [("2*(3+4)", "14"), ("-7/2", "-3.5"), ("1/3", "0.3333333333"), ("0.1+0.2", "0.3")]
)
def test_the_calculator_calculates(text, value):
    assert calculate(text) == value


@pytest.mark.parametrize(
    "text", ["2**9999", "__import__('os')", "(" * 300, "9" * 31 + "*9", "x", "1 if 1 else 2", "True"]
)
def test_the_calculator_refuses_what_is_no_arithmetic(text):
    with pytest.raises(ValueError, match=r"this is no expression|too large|characters"):
        calculate(text)


def test_a_number_is_guessed_by_higher_and_lower(tokenizer):
    (answer,) = played(tokenizer, GuessNumber(turns=4), NUMBER, [["3", "what", "9 or 7"]])[0].answers
    said = [m["content"] for m in answer.talk.messages if m["role"] == "user"]
    assert said == ["higher", "Say a number."]
    assert answer.talk.reward == pytest.approx(0.5)
    assert answer.finished


def test_conversations_that_end_with_the_same_turn_are_rewarded_each_by_itself(tokenizer):
    at_once, again, later = (
        played(tokenizer, GuessNumber(), NUMBER, [turns])[0] for turns in (["7"], ["7"], ["3", "7"])
    )
    assert at_once.answers[0].text == later.answers[0].text
    assert at_once.answers[0].talk.reward != later.answers[0].talk.reward
    assert by_content(at_once, 0) == by_content(again, 0) != by_content(later, 0)


def test_a_table_is_looked_up(tokenizer):
    turns = [call('[look_up(key="cat")]'), "In the garden."]
    (answer,) = played(tokenizer, TableLookUp(), TABLE, [turns])[0].answers
    assert answer.talk.messages[1]["content"] == "in the garden"
    assert answer.talk.reward == 1.0
    (wrong,) = played(tokenizer, TableLookUp(), TABLE, [[call('[look_up(key="cow")]'), "12"]])[0].answers
    assert (wrong.talk.reward, wrong.talk.failures) == (0.0, 1)


def test_an_environment_that_never_ends_is_cut_off_and_counted(tokenizer):
    group, engine = played(tokenizer, GuessNumber(turns=3), NUMBER, [["1", "2", "3"], ["7"]], n=2)
    cut, right = group.answers
    assert (cut.talk.cut_off, cut.finished, cut.talk.turns, cut.talk.reward) == (True, False, 3, 0.0)
    assert (right.talk.cut_off, right.finished, right.talk.turns) == (False, True, 1)
    assert talk_figures([cut.talk, right.talk])["environment/cut_off"] == 0.5
    assert len({request.seed for request in engine.asked}) == 3  # every turn of a conversation has its own draws


def test_a_turn_without_an_end_or_without_room_ends_the_conversation(tokenizer):
    (answer,) = played(tokenizer, GuessNumber(), NUMBER, [["1 2 3..."]])[0].answers
    assert (answer.finished, answer.talk.cut_off, answer.talk.turns) == (False, False, 1)
    (answer,) = played(tokenizer, GuessNumber(), NUMBER, [["3"]], limit=8)[0].answers
    assert (answer.finished, answer.talk.turns, answer.talk.mask.all()) == (False, 1, True)


class Raises:
    """Opens and then breaks."""

    calls = failures = 0

    def reset(self, row):
        return [{"role": "user", "content": row["prompt"]}]

    def step(self, messages):
        raise KeyError("nothing here")


def test_what_an_environment_raises_is_kept_as_the_reason_of_a_failed_reward(tokenizer):
    environment = OwnEnvironment(factory=f"{__file__}:Raises")
    assert environment.problems() == []
    assert "is no JSON list" in OwnEnvironment(factory=f"{__file__}:Raises", tool_list="{}").problems()[0]
    group, _ = played(tokenizer, environment, SUM, [["12"]])
    assert group.answers[0].talk.trouble == "KeyError: 'nothing here'"
    (reply,) = EnvironmentReward().open(lambda name: None)([response(group, 0)])
    assert reply.failed == "RuntimeError: the environment raised KeyError: 'nothing here'"
    assert len(response(group, 0).completion) == 1


def test_a_conversation_is_read_back_from_its_record_and_masked_in_the_batch(tokenizer):
    turns = [call('[look_up(key="dog")]'), "12"]
    group, _ = played(tokenizer, TableLookUp(), TABLE, [turns])
    back = Answer.of(json.loads(json.dumps(group.answers[0].record())))
    np.testing.assert_array_equal(back.talk.mask, group.answers[0].talk.mask)
    assert back.talk.messages[1] == {"role": "tool", "content": "3"}
    assert back.written == len(encoded(tokenizer, turns[0])) + len(encoded(tokenizer, turns[1])) + 2
    rewards = np.ones((1, 1, 1))
    found = shaped(rewards, np.ones(1), Advantage("none", "none"), np.ones((1, 1)))
    whole = Made(0, "w", [group], rewards, np.zeros((1, 1)), 1)
    each = trained(whole, found, ["r"], [], {}, mask_truncated=False, places=range(1))
    batch = batch_of(each, Layout(1, 512, 512, 4, 1), (), ())
    start = len(group.prompt.ids)
    inside = batch.masks["completion"][0, start : start + len(back.tokens)]
    np.testing.assert_array_equal(inside, back.talk.mask)
    assert batch.masks["completion"].sum() == back.written


@pytest.mark.parametrize("mask", [[], [1], [0, 1, 1], [1, 1, 0, 0, 1]])
def test_masks_are_kept_as_runs(mask):
    talk = Talk(np.asarray(mask, bool), (), 0.0, 1)
    np.testing.assert_array_equal(Talk.of(talk.record()).mask, talk.mask)
    assert sum(runs(talk.mask)) == len(mask)


def openings(tmp_path, tokenizer, rows, environment, longest=64):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Data(max_length=128, row_length=128)
    made = prepare(
        [path],
        data=settings,
        tokenizer=tokenizer,
        purpose="prompts",
        needs=Needs(),
        cache_dir=tmp_path / "cache",
        log=print,
    )
    return Openings(made, environment, seed=0, longest=longest, shuffle=False)


def test_conversations_open_as_the_environment_says_with_its_tools_listed(tokenizer, tmp_path):
    found = openings(tmp_path, tokenizer, [SUM], Calculator(), longest=300).at(0)
    assert found.text == [{"role": "user", "content": SUM["prompt"]}]
    assert "calculate" in tokenizer.decode(found.ids.tolist())
    with pytest.raises(DataError, match=r"rows.jsonl.*row 1.*opens with \d+ tokens, and a prompt may have 9"):
        openings(tmp_path, tokenizer, [SUM], Calculator(), longest=9).at(0)


@pytest.mark.parametrize(
    ("environment", "row", "message"),
    [
        (Calculator(), {"prompt": "x"}, "'answer' holds no number"),
        (GuessNumber(), {"prompt": "x", "number": "7"}, "'number' is no whole number"),
        (TableLookUp(), {"prompt": "x", "answer": "y"}, "'table' is no object"),
    ],
)
def test_rows_that_cannot_be_played_are_named(environment, row, message, tokenizer, tmp_path):
    with pytest.raises(DataError, match=rf"rows.jsonl.*row 1.*{message}"):
        openings(tmp_path, tokenizer, [row], environment).at(0)


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_stage_talks_with_its_environment_and_its_conversations_are_in_the_ledger(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": f"guess {i}"}], "number": i} for i in range(12)]
    (tmp_path / "numbers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = (str(tmp_path / "numbers.jsonl"),)
    stage = online(
        tmp_path,
        data=Data(train=files, eval=files, max_length=120, row_length=240),
        environment=GuessNumber(turns=3),
        reward_funcs=(EnvironmentReward(), FunctionReward(function=f"{__file__}:turns")),
        max_completion_length=80,
        max_steps=3,
    )
    run = recipe(tmp_path, stage)
    assert list(find_problems(run)) == []
    assert running.execute(run) == 0
    found = [r for r in read_metrics(tmp_path / "runs/tiny/metrics.jsonl") if r["stage"] == "online" and "loss" in r]
    assert len(found) == 3
    for record in found:
        assert 1 <= record["environment/turns_mean"] <= 3
        assert record["sampling/sampling_logp_difference/max"] <= 1e-4  # over several turns, the model's tokens alone
        assert record["environment/trouble"] == 0
    (path,) = (tmp_path / "runs/tiny/stages/online/rollouts/00000000").glob("answers-*.jsonl")
    talks = [a["talk"] for line in path.read_text().splitlines()[1:-1] for a in json.loads(line)["answers"]]
    assert max(talk["turns"] for talk in talks) > 1


def turns(completions, **columns):
    """How often the model spoke, of the messages of a conversation."""
    return [float(sum(m["role"] == "assistant" for m in c)) for c in completions]
