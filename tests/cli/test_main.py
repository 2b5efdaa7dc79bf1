"""Exit codes, suggestions, and that help and configuration errors come without jax."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxpo.cli import main as cli
from jaxpo.errors import JaxpoError

Command = Callable[..., tuple[int, str, str]]
CONFIG = """\
from jaxpo.config import SFT, Run


def config():
    return Run(name="broken", stages=(SFT(max_steps=3),))
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "broken.py"
    path.write_text(CONFIG)
    return path


def test_help_lists_every_command(run: Command) -> None:
    for argv in (["--help"], ["-h"], ["help"]):
        code, out, _ = run(*argv)
        assert code == 0
        assert all(f"\n  {name} " in out for name in cli.COMMANDS)
    assert run()[0] == 2
    assert run("--version")[1].startswith("jaxpo ")


def test_every_command_has_help(run: Command) -> None:
    for name in cli.COMMANDS:
        try:
            code = cli.main([name, "--help"])
        except SystemExit as stop:  # argparse ends after printing its help
            code = stop.code
        assert code == 0, name


def test_unknown_command(run: Command) -> None:
    assert run("explan") == (
        2,
        "",
        "jaxpo: there is no command 'explan'. Did you mean explain? `jaxpo --help` lists them.\n",
    )


def test_unknown_option(run: Command) -> None:
    code, _, err = run("generate", "somewhere", "hello", "--temprature", "1", "--max_new_tokens", "3")
    assert (code, err) == (2, "jaxpo: --temprature: there is no such option. Did you mean --temperature?\n")


def test_unreadable_values(run: Command) -> None:
    code, _, err = run("generate", "somewhere", "hello", "--n", "x")
    assert code == 2
    assert "argument --n: invalid int value: 'x'" in err
    code, _, err = run("export", "a", "b", "--dtype", "bfloat61")
    assert code == 2
    assert "Did you mean bfloat16 or float32?" in err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (JaxpoError("no such thing"), 2, "jaxpo: no such thing\n"),
        (KeyboardInterrupt(), 130, "\njaxpo: interrupted\n"),
    ],
)
def test_errors_become_exit_codes(
    run: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    import jaxpo.cli.env

    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(jaxpo.cli.env, "main", fail)
    assert run("env") == (code, "", text)


def test_a_programming_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    import jaxpo.cli.env

    monkeypatch.setattr(jaxpo.cli.env, "main", lambda argv: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["env"])


SCRIPT = """
import sys
from jaxpo.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
heavy = sorted({m.split('.')[0] for m in sys.modules} & {'jax', 'jaxlib', 'flax', 'orbax', 'grain', 'matplotlib'})
print('code', code, 'heavy', heavy)
"""


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["run", "--help"], 0),
        (["explain", "CONFIG"], 2),
        (["run", "CONFIG"], 2),
        (["run", "CONFIG", "--sft.max-step", "3", "--seed", "x"], 2),
        (["run", "CONFIG", "--help"], 0),
        (["losses", "--json"], 0),
        (["losses", "dpo"], 0),
        (["generate", "--help"], 0),
        (["env", "--no-devices"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_what_needs_no_jax_imports_none(config: Path, argv: list[str], code: int) -> None:
    words = [str(config) if w == "CONFIG" else w for w in argv]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"code {code} heavy []", done.stderr
    assert "Traceback" not in done.stderr


def test_python_m_jaxpo(config: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "jaxpo", "run", str(config)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("jaxpo: 2 problems:\n  - tokenizer: needs --tokenizer.path FILE")
    assert "  - sft.data.train: no training files; give --sft.data.train FILES." in done.stderr


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m jaxpo losses | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize(("error", "left"), [(KeyboardInterrupt, [130]), (JaxpoError("x"), [])])
def test_a_process_that_was_stopped_is_left_at_once(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, left: list[int]
) -> None:
    """The interpreter's own end crashes while JAX still computes, with another exit status than it says."""
    codes: list[int] = []

    def command(words: list[str]) -> int:
        raise error

    monkeypatch.setattr("jaxpo.cli.env.main", command)
    monkeypatch.setattr("os._exit", codes.append)
    monkeypatch.setattr(sys, "argv", ["jaxpo", "env"])
    assert cli.main() == (left or [2])[0]
    assert codes == left
    assert cli.main(["env"]) in (2, 130)
    assert codes == left
