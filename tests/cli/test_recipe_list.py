"""`jaxpo recipes`: the list, and a copy that is a configuration of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jaxpo.recipe.library import names, source, summary
from jaxpo.recipe.overrides import load_run

Command = Callable[..., tuple[int, str, str]]


def test_the_list_has_a_line_for_each(run: Command) -> None:
    code, out, err = run("recipes")
    assert (code, err) == (0, "")
    lines = [line.split("  ", 1) for line in out.partition("\n\n")[0].splitlines()]
    assert [(name, text.strip()) for name, text in lines] == [(name, summary(name)) for name in names()]


@pytest.mark.parametrize("name", names())
def test_a_copy_is_the_same_run_and_its_commands_run_the_copy(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("recipes", "copy", name)
    assert code == 0
    assert f"jaxpo run {name}.py" in out
    text = (tmp_path / f"{name}.py").read_text()
    assert text.replace(f"jaxpo run {name}.py", f"jaxpo run {name}") == source(name).read_text()
    assert text.count(f"jaxpo run {name}.py") == text.count("jaxpo run ") > 0
    assert load_run(f"{name}.py") == load_run(name)


def test_a_copy_goes_where_it_is_told_and_never_over_something(run: Command, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    assert run("recipes", "copy", "sft", mine)[0] == 0
    mine.write_text("edited")
    code, _, err = run("recipes", "copy", "sft", mine)
    assert (code, mine.read_text()) == (2, "edited")
    assert err == f"jaxpo: {mine}: is there already; name another file, or remove this one.\n"
    assert run("recipes", "copy", "sft", tmp_path)[0] == 0
    assert (tmp_path / "sft.py").is_file()
    code, _, err = run("recipes", "copy", "sft", tmp_path / "none" / "mine.py")
    assert (code, err) == (2, f"jaxpo: {tmp_path}/none/mine.py: cannot be written (No such file or directory).\n")


def test_mistakes(run: Command) -> None:
    assert run("recipes", "copy", "sfft")[2].startswith("jaxpo: there is no recipe 'sfft'. Did you mean sft?")
    assert run("recipes", "cpy", "sft")[2].startswith("jaxpo: recipes: there is no task 'cpy'. Did you mean copy?")
