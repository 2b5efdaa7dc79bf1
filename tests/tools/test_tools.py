"""Tools: what they answer, what they refuse, and that whatever goes wrong becomes an observation."""

import json

import pytest

from jaxpo.errors import ConfigError
from jaxpo.sandbox import why_no_fence
from jaxpo.tools.base import LONGEST, Toolbox, ToolError, shown
from jaxpo.tools.calculator import Calculator
from jaxpo.tools.calendar import Calendar
from jaxpo.tools.named import tool, toolbox


@pytest.mark.parametrize(
    ("text", "result"),
    [("3 + 4 * 5", "23"), ("(3+4)*5 =", "35"), ("7 / 2", "3.5"), ("2^10", "1024"), ("-3 % 5", "2"),
     ("1/3", "0.3333333333"), ("10 // 4", "2"), ("0.5 * 4", "2"), ("2 ** 64", "18446744073709551616")],
)  # fmt: skip
def test_the_calculator_computes(text, result):
    assert Calculator().call(text) == result


@pytest.mark.parametrize(
    ("text", "why"),
    [("__import__('os')", "digits"), ("9 ** 9 ** 9", "exponent"), ("1 / 0", "division by zero"),
     ("2 +", "no expression"),
     ("(-1) ** 0.5", "no real number"), ("10 ** 60 * 10 ** 60", "too large"), ("1" * 300, "longer than"),
     ("", "no expression"), ("(" * 190, "no expression"), ("3 4", "no expression"),
     ("0.1 ** -64 ** 1 * 10 ** 60", "too large")],
)  # fmt: skip
def test_the_calculator_refuses(text, why):
    with pytest.raises(ToolError, match=why):
        Calculator().call(text)


@pytest.mark.parametrize(
    ("text", "result"),
    [("weekday 2024-02-29", "Thursday"), ("days 2024-01-01 2024-03-01", "60"), ("add 2023-12-31 1", "2024-01-01"),
     ("Add 2024-03-01 -1", "2024-02-29")],
)  # fmt: skip
def test_the_calendar_knows_dates(text, result):
    assert Calendar().call(text) == result


@pytest.mark.parametrize("text", ["weekday 2023-02-29", "days 2024-01-01", "add 9999-12-31 5", "tomorrow"])
def test_the_calendar_refuses(text):
    with pytest.raises(ToolError):
        Calendar().call(text)


def test_a_table_is_looked_up_by_its_first_column(tmp_path):
    file = tmp_path / "capitals.jsonl"
    file.write_text(
        "".join(json.dumps(row) + "\n" for row in ({"of": "France", "is": "Paris"}, {"of": "Peru", "is": "Lima"}))
    )
    box = toolbox((f"table:{file}",))
    box.check()
    assert box.use("table", " france ").text == "is: Paris"
    assert box.use("table", "Chile").failed
    with pytest.raises(ConfigError, match="there is no file"):
        toolbox(("table:none.csv",)).check()


def test_functions_of_yours_are_tools_and_what_they_raise_is_seen(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def shout(text):\n    return text.upper()\n\ndef fail(text):\n    raise KeyError(text)\n")
    box = toolbox((f"{file}:shout", f"{file}:fail"))
    assert box.use("shout", "a").text == "A"
    seen = box.use("fail", "a")
    assert seen.failed
    assert seen.text == "KeyError: 'a'"


@pytest.mark.skipif(bool(why_no_fence()), reason="no fence here")
def test_programs_run_in_the_sandbox():
    assert tool("python").call("print(6 * 7)").strip() == "42"
    with pytest.raises(ToolError, match="ended with 1: ZeroDivisionError"):
        tool("python").call("1 / 0")


def test_an_unknown_tool_is_an_observation_for_a_model_and_an_error_for_a_user():
    seen = toolbox(("calculator", "calendar")).use("calculater", "1")
    assert seen.failed
    assert seen.text == "there is no tool 'calculater'; there are: calculator, calendar."
    with pytest.raises(ConfigError, match=r"no tool 'calculater'; there are .*Did you mean calculator\?"):
        toolbox(("calculater",))
    with pytest.raises(ConfigError, match="there is no tool; give some"):
        toolbox(())
    with pytest.raises(ConfigError, match="two tools of the name 'calendar'"):
        Toolbox((Calendar(), Calendar()))
    assert shown("a\n b") == "a b"
    assert len(shown("x" * 1000)) == LONGEST
    assert "calculator: " in toolbox(("calculator",)).describe()
