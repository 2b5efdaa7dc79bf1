"""The start-up scripts: what they select and pass on. Nothing is installed."""

import ast
import os
import subprocess
import sys

import bootstrap
import environments
import pytest
from scripts.interpreters import ROOT, script

STARTERS = ("accelerators.py", "bootstrap.py", "environments.py", "pythons.py", "test", "quickstart")


@pytest.mark.parametrize("name", STARTERS)
def test_an_old_python_can_still_read_the_scripts(name):
    """The python3 of the system may be old; its only task is to find a newer one."""
    ast.parse((ROOT / "scripts" / name).read_text(), feature_version=(3, 7))


@pytest.mark.parametrize("name", STARTERS)
def test_scripts_need_the_standard_library_only(name):
    tree = ast.parse((ROOT / "scripts" / name).read_text())
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {m.split(".")[0] for m in imported} <= set(sys.stdlib_module_names) | {
        "accelerators",
        "bootstrap",
        "environments",
        "pythons",
        "__future__",
    }


@pytest.mark.parametrize("name", ["test", "quickstart"])
def test_scripts_are_executable(name):
    assert os.access(ROOT / "scripts" / name, os.X_OK)


def test_options_of_quickstart():
    assert bootstrap.take_option(["--a", "--python", "p", "b"], "--python") == ("p", ["--a", "b"])
    assert bootstrap.take_option(["--python=p"], "--python") == ("p", [])
    assert bootstrap.take_option(["--seed", "1"], "--python") == (None, ["--seed", "1"])
    with pytest.raises(bootstrap.BootstrapError, match="--python needs a value"):
        bootstrap.take_option(["--python"], "--python")
    argv = ["--text", "a.txt", "/b.txt", "--seed", "1", "--pairs=c.jsonl"]
    expected = ["--text", "/here/a.txt", "/b.txt", "--seed", "1", "--pairs=/here/c.jsonl"]
    assert bootstrap.absolute_paths(argv, ("--text", "--pairs"), "/here") == expected


def run_test_script(monkeypatch, argv, code=0):
    calls = {}
    made = lambda extras, python: calls.update(extras=extras, python=python) or "py"  # noqa: E731
    monkeypatch.setattr(environments, "ensure_shared", made)
    module = script("test")
    monkeypatch.setattr(module.subprocess, "call", lambda command, **how: calls.update(command=command, **how) or code)
    return module.main(argv), calls


@pytest.mark.parametrize(
    ("argv", "extras", "marker", "rest"),
    [
        ([], ("dev",), "not parity and not slow and not scale", []),
        (["--full"], ("dev",), "not parity", []),
        (["--scale"], ("dev",), "scale and not slow", []),
        (["--parity", "-x"], ("dev", "parity"), "parity", ["-x"]),
        (
            ["tests/ops", "-k", "conv", "--python", "p3"],
            ("dev",),
            "not parity and not slow and not scale",
            ["tests/ops", "-k", "conv"],
        ),
    ],
)
def test_test_script_selects_suite_and_environment(monkeypatch, argv, extras, marker, rest):
    code, calls = run_test_script(monkeypatch, argv)
    assert code == 0
    assert calls["extras"] == extras
    assert calls["python"] == ("p3" if "--python" in argv else None)
    command = calls["command"]
    assert command[:5] == ["py", "-m", "pytest", "-m", marker]
    assert command[5:9] == ["-n", "auto", "--maxprocesses", "4"]
    assert "--durations=20" in command
    assert calls["cwd"] == str(ROOT)
    assert calls["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    assert command[len(command) - len(rest) :] == rest


@pytest.mark.parametrize("argv", [[], ["--no-peers"]])
def test_what_the_benchmarks_want_installed_is_announced(monkeypatch, capsys, argv):
    bench = script("bench")
    monkeypatch.setattr(
        bootstrap, "run_main", lambda folder, module, argv, extras: environments.announce("env", extras)
    )
    bench.main(argv)
    assert "Installing into env" in capsys.readouterr().err


def test_the_representative_part_is_a_list_of_files_and_tests_that_exist(monkeypatch):
    _, calls = run_test_script(monkeypatch, ["--representative", "-x"])
    selected = calls["command"][calls["command"].index("-x") + 1 :]
    assert len(selected) == len(set(selected)) > 10
    for name in selected:
        path, _, function = name.partition("::")
        text = (ROOT / path).read_text() if function else ""
        assert (ROOT / path).exists(), name
        assert not function or f"def {function.partition('[')[0]}(" in text, name


@pytest.mark.parametrize("code", [1, 5])
def test_exit_status_is_pytests_and_an_empty_selection_fails(monkeypatch, capsys, code):
    assert run_test_script(monkeypatch, [], code)[0] == code
    assert ("nothing was tested" in capsys.readouterr().err) is (code == 5)


def test_pins_are_versions_only_and_cover_the_torch_that_is_installed_alone():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    names = [line.split("==")[0] for line in lines]
    assert all("==" in line and "/" not in line and "@" not in line for line in lines)
    by_python = {name for name in names if names.count(name) > 1}
    assert by_python == {"jax", "jaxlib", "libtpu"} | {name for name in names if name.startswith("jax-cuda")}
    assert environments.TORCH in lines


def test_ci_script_parses_and_names_every_step():
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    text = path.read_text()
    for part in ("ruff check", "ruff format", "-m mypy", "scripts/test\n", "scripts/test --parity", "--python"):
        assert part in text
