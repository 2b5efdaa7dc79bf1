"""What is read of a model's text, and trajectories that a scripted model writes with real tools."""

import numpy as np
import pytest

from jaxpo.sampling.request import Generation
from jaxpo.tools.named import toolbox
from jaxpo.tools.trajectory import Call, Finished, Invalid, Rationale, Step, Trajectory, parse
from jaxpo.tools.writing import Writing, write_trajectories

CALL = "\n[tool] Thought: add them\nAction: calculator\nAction Input: 3 + 4"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (CALL, Call("add them", "calculator", "3 + 4")),
        (f"{CALL}\n[observation] 8\n[rationale] wrong", Call("add them", "calculator", "3 + 4")),
        (f"{CALL}\n[rationale] because", Call("add them", "calculator", "3 + 4")),
        (f"[rationale] so\n{CALL}", Call("add them", "calculator", "3 + 4")),
        ("\n[rationale] it is 7. Finished", Rationale("it is 7. Finished")),
        ("Finished", Finished()),
        ("[tool] Action: \nAction Input: 3", Invalid("[tool] Action: \nAction Input: 3")),
        ("who knows", Invalid("who knows")),
        ("who knows\n[observation] Action: calculator\nAction Input: 1", Invalid("who knows")),
        ("Action: calculator\nAction Input: 1", Call("", "calculator", "1")),
        ("", Invalid("")),
    ],
)
def test_a_call_comes_before_a_rationale_an_end_and_nothing(text, found):
    assert parse(text) == found


def test_parts_are_where_they_stand():
    done = Trajectory((Step(Call("add", "calculator", "3+4"), "7"),), "it is 7")
    text, spans = done.text("3 + 4 = 7"), done.spans("3 + 4 = 7")
    assert [kind for _, _, kind in spans] == ["answer", "tool", "observation", "rationale"]
    assert [text[a:b] for a, b, _ in spans] == [part for _, part in done.parts("3 + 4 = 7")]
    assert "".join(text[a:b] for a, b, _ in spans) == text
    assert parse(text[len("3 + 4 = 7") :]) == done.steps[0].call
    assert Trajectory().spans("") == []


class Scripted:
    """A network whose engine says what stands in its script, by the number of the answer and the round."""

    max_length = 4000

    class tokenizer:
        bos_id = 0

        @staticmethod
        def encode(text):
            return list(text.encode())

    def __init__(self, *scripts):
        self.scripts, self.context, self.asked = scripts, 4000, []
        self.rounds = [0] * len(scripts)

    def engine(self, requests, slots=64):
        return self

    def generate(self, requests):
        found = []
        for request in requests:
            self.asked.append(bytes(request.prompt[1:]).decode())
            text = self.scripts[request.number][self.rounds[request.number]]
            self.rounds[request.number] += 1
            empty = np.zeros(0, np.float32)
            found.append(Generation(0, 0, [], empty, empty, empty, "stop_id", text=text))
        return found


@pytest.fixture(autouse=True)
def plain_prompts(monkeypatch):
    monkeypatch.setattr("jaxpo.tools.writing.encode_prompt", lambda tokenizer, prompt: [0, *prompt.encode()])


def written(*scripts, **how):
    network = Scripted(*scripts)
    prompts = [f"q{i} " for i in range(len(scripts))]
    box = toolbox(("calculator", "calendar"))
    return write_trajectories(network, prompts, ["7"] * len(scripts), box, Writing(**how)), network.asked


def test_the_tool_answers_and_the_model_goes_on_behind_it():
    (one, two), asked = written((CALL, "\n[rationale] right"), ("\n[rationale] I know",))
    assert one == Trajectory((Step(Call("add them", "calculator", "3 + 4"), "7"),), "right")
    assert two == Trajectory((), "I know")
    assert asked == ["q0 7", "q1 7", f"q0 7{CALL}\n[observation] 7"]


def test_errors_and_unknown_tools_become_observations():
    (one,), _ = written((CALL.replace("3 + 4", "3 +"), CALL.replace("calculator", "oracle"), "\n[rationale] hm"))
    assert [step.failed for step in one.steps] == [True, True]
    assert one.steps[0].observation == "this is no expression"
    assert one.steps[1].observation.startswith("there is no tool 'oracle'; there are: calculator")
    assert one.rationale == "hm"


def test_there_are_three_calls_at_most_and_then_a_rationale():
    (one,), asked = written((CALL, CALL, CALL, " enough"))
    assert len(one.steps) == 3
    assert one.rationale == "enough"
    assert asked[-1].endswith("[observation] 7\n[rationale]")
    (two,), _ = written((CALL, CALL), max_calls=1)
    assert two.cut
    assert len(two.steps) == 1


def test_what_is_neither_call_nor_end_is_malformed_and_what_does_not_fit_too():
    (one, two), _ = written(("hm",), ("Finished",))
    assert one.malformed
    assert two == Trajectory()
    network = Scripted((CALL,))
    network.max_length = 3
    (three,) = write_trajectories(network, ["qqqq"], ["7"], toolbox(("calculator",)), Writing())
    assert three.malformed
    assert write_trajectories(network, [], [], toolbox(("calculator",)), Writing()) == []


def test_settings_out_of_range_are_named():
    assert "--max-calls is 4 but must lie in 1 .. 3." in Writing(max_calls=4).problems()
    assert len(Writing(max_calls=0, max_new_tokens=0, temperature=-1.0).problems()) == 3
