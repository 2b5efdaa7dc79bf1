"""Environments: what makes them anew, that none is ever half made, and that checkouts do not disturb each other.

Nothing is installed: the commands are recorded, and what answers the probe stands in for a new interpreter.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

import bootstrap
import environments
import pytest
from scripts.interpreters import ROOT, fake_python, report

PROJECT = '[project]\ndependencies = ["jax"]\n\n[tool.ruff]\nline-length = 120\n'
BASE = report((3, 11, 7))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "constraints.txt").write_text("jax==0.10.2\n")
    monkeypatch.setattr(environments, "ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def installed(checkout, monkeypatch):
    """The commands that were run so far; `venv` makes a folder with an interpreter."""
    commands = []

    def call(command):
        commands.append(command[1:])
        if command[2] == "venv":
            folder = Path(command[-1], "bin")
            folder.mkdir(parents=True, exist_ok=True)
            (folder.parent / "pyvenv.cfg").touch()
            fake_python(folder, "python", "3.11.7")

    monkeypatch.setattr(environments, "call", call)
    monkeypatch.setattr(environments, "find_python", lambda asked=None: BASE)
    monkeypatch.setattr(environments.subprocess, "check_output", lambda *_, **__: b"jax>=0.10\npytest>=9\n")
    monkeypatch.setattr(environments.subprocess, "call", lambda *_, **__: 0)
    monkeypatch.setenv("JAXPO_ENVS", str(checkout / "envs"))
    return commands


def test_unsupported_platform_stops_before_anything_is_made(monkeypatch, capsys):
    monkeypatch.setattr(environments.platform, "system", lambda: "Windows")
    monkeypatch.setattr(environments, "find_python", lambda asked: pytest.fail("looked for a Python"))
    for ensure in (environments.ensure_own, lambda: environments.ensure_shared(("dev",))):
        assert bootstrap.guarded(lambda argv, ensure=ensure: ensure(), []) == 2
        assert "WSL2" in capsys.readouterr().err


# A checkout's own environment.


def test_the_second_start_installs_nothing(checkout, installed):
    python = environments.ensure_own()
    assert python == str(checkout / ".venv" / "bin" / "python")
    assert installed[-1][-2:] == ["-e", "."]
    count = len(installed)
    assert environments.ensure_own() == python
    assert len(installed) == count


@pytest.mark.parametrize(
    ("name", "text"), [("pyproject.toml", PROJECT.replace("jax", "flax")), ("constraints.txt", "jax==0.11.2\n")]
)
def test_changed_dependencies_are_installed_again(checkout, installed, name, text):
    environments.ensure_own()
    (checkout / name).write_text(text)
    count = len(installed)
    environments.ensure_own()
    assert installed[count:] == [installed[count - 1]]


def test_a_moved_checkout_is_installed_again(checkout, installed, monkeypatch):
    environments.ensure_own()
    moved = checkout.parent / (checkout.name + "-moved")
    checkout.rename(moved)
    monkeypatch.setattr(environments, "ROOT", str(moved))
    count = len(installed)
    environments.ensure_own()
    assert len(installed) == count + 1


def test_a_folder_that_is_no_environment_is_left_alone(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "precious").write_text("data")
    with pytest.raises(environments.BootstrapError, match="in the way"):
        environments.make_own()
    assert (checkout / ".venv" / "precious").read_text() == "data"


def test_a_named_python_gets_an_environment_of_its_own(checkout):
    named = fake_python(checkout, "named", "3.12.1")
    (checkout / ".venv-3.12" / "bin").mkdir(parents=True)
    fake_python(checkout / ".venv-3.12" / "bin", "python", "3.12.1")
    assert environments.make_own(named) == (str(checkout / ".venv-3.12"), (3, 12, 1))


def test_an_accelerator_gets_an_environment_of_its_own(checkout, installed, monkeypatch):
    asked = []
    monkeypatch.setattr(environments.accelerators, "refuse", asked.append)
    plain, python = environments.ensure_own(), environments.ensure_own(accelerator="cuda13")
    assert python == str(checkout / ".venv-cuda13" / "bin" / "python")
    assert installed[-1][-2:] == ["-e", ".[cuda13]"]
    assert asked == ["cuda13"]
    count = len(installed)
    assert environments.ensure_own(accelerator="cuda13") == python
    assert environments.ensure_own() == plain
    assert len(installed) == count
    assert asked == ["cuda13", "cuda13"]


def test_what_is_refused_is_refused_before_anything_is_made(checkout, installed, monkeypatch):
    def refuse(accelerator):
        raise environments.BootstrapError(f"no {accelerator}")

    monkeypatch.setattr(environments.accelerators, "refuse", refuse)
    with pytest.raises(environments.BootstrapError, match="no tpu"):
        environments.ensure_own(accelerator="tpu")
    assert installed == []
    assert not list(checkout.glob(".venv*"))


# The environments of the tests.


def test_two_checkouts_share_one_environment(checkout, installed, monkeypatch, tmp_path_factory):
    python = environments.ensure_shared(("dev",))
    assert Path(python).is_relative_to(checkout / "envs")
    count = len(installed)
    other = tmp_path_factory.mktemp("other")
    for name in ("pyproject.toml", "constraints.txt"):
        (other / name).write_text((checkout / name).read_text().replace("line-length = 120", "line-length = 100"))
    monkeypatch.setattr(environments, "ROOT", str(other))
    assert environments.ensure_shared(("dev",)) == python
    assert len(installed) == count
    assert not any("-e" in command for command in installed)


def test_what_decides_the_contents_decides_the_folder(checkout, monkeypatch):
    def name(base=BASE, extras=("dev",)):
        return environments.shared_name(base, extras)

    names = [name(), name(extras=("dev", "parity")), name(report((3, 12, 1))), name({**BASE, "base": "/elsewhere"})]
    (checkout / "constraints.txt").write_text("jax==0.11.2\n")
    names.append(name())
    (checkout / "pyproject.toml").write_text(PROJECT.replace("jax", "flax"))
    names.append(name())
    monkeypatch.setenv("JAXPO_TORCH_INDEX", "https://example.org/cpu")
    names.append(name())
    assert len(set(names)) == len(names)
    assert names[0].startswith("dev-3.11-")


def test_what_a_failed_or_killed_maker_left_is_made_anew(checkout, installed, monkeypatch):
    call = environments.call

    def failing(command):
        call(command)
        if "install" in command:
            raise environments.BootstrapError("no network")

    monkeypatch.setattr(environments, "call", failing)
    with pytest.raises(environments.BootstrapError, match="no network"):
        environments.ensure_shared(("dev",))
    monkeypatch.setattr(environments, "call", call)
    del installed[:]
    environments.ensure_shared(("dev",))
    assert installed[0][:3] == ["-m", "venv", "--clear"]
    assert installed[1][-2:] == ["jax>=0.10", "pytest>=9"]


def test_an_environment_whose_interpreter_went_is_made_anew(installed):
    python = Path(environments.ensure_shared(("dev",)))
    python.unlink()
    python.symlink_to(python.parent / "gone")
    count = len(installed)
    environments.ensure_shared(("dev",))
    assert installed[count][1] == "venv"


def test_who_waits_for_another_maker_does_not_make_it_again(checkout, installed):
    other = threading.Thread(target=environments.ensure_shared, args=(("dev",),))
    with environments.lock(str(checkout / "envs")):
        other.start()
        env = checkout / "envs" / environments.shared_name(BASE, ("dev",))
        other.join(0.2)
        assert other.is_alive()
        environments.make_shared(str(env), BASE, ("dev",))
        count = len(installed)
    other.join(10)
    assert not other.is_alive()
    assert len(installed) == count


def test_unused_environments_go_when_another_is_made(checkout, installed):
    now = (checkout / "constraints.txt").stat().st_mtime
    for name, days, whole in (("old", 15, True), ("broken", 15, False), ("recent", 13, True), ("making", 0, False)):
        env = checkout / "envs" / name
        env.mkdir(parents=True)
        if whole:
            (env / "jaxpo-complete").touch()
            os.utime(env / "jaxpo-complete", (now - 86400 * days,) * 2)
        os.utime(env, (now - 86400 * (0 if whole else days),) * 2)
    python = Path(environments.ensure_shared(("dev",)))
    left = {p.name for p in (checkout / "envs").iterdir() if p.is_dir()}
    assert left == {"recent", "making", python.parents[1].name}


def test_use_keeps_an_environment(installed):
    mark = Path(environments.ensure_shared(("dev",))).parents[1] / "jaxpo-complete"
    os.utime(mark, (0, 0))
    environments.ensure_shared(("dev",))
    assert mark.stat().st_mtime > 86400


def test_the_folder_is_in_the_users_cache_or_where_it_is_named(monkeypatch):
    for name in ("JAXPO_ENVS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert environments.shared_folder() == "/home/me/.cache/jaxpo/envs"
    monkeypatch.setenv("XDG_CACHE_HOME", "/big/cache")
    assert environments.shared_folder() == "/big/cache/jaxpo/envs"
    monkeypatch.setenv("JAXPO_ENVS", "~/envs")
    assert environments.shared_folder() == "/home/me/envs"


def test_the_checkout_that_asks_is_the_one_that_is_imported(tmp_path):
    given = environments.with_checkout({**os.environ, "PYTHONPATH": str(tmp_path)})
    assert given["PYTHONPATH"] == f"{ROOT}{os.pathsep}{tmp_path}"
    code = "import jaxpo; print(jaxpo.__file__)"
    found = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=given, text=True)
    assert Path(found.strip()) == ROOT / "jaxpo" / "__init__.py"
    assert environments.with_checkout({})["PYTHONPATH"] == str(ROOT)


def test_torch_is_installed_first_and_alone():
    index = "https://example.org/cpu"
    torch, rest, bare = environments.shared_commands("py", ["jax", "trl"], ("dev", "parity"), index)
    assert torch[-3:] == [environments.TORCH, "--extra-index-url", index]
    assert rest[-2:] == ["jax", "trl"]
    assert bare[-3:] == ["--no-deps", *environments.WITHOUT_DEPENDENCIES]
    assert all(c[:6] == ["py", "-m", "pip", "install", "-c", "constraints.txt"] for c in (torch, rest, bare))
    (only,) = environments.shared_commands("py", ["jax"], ("dev",), None)
    assert only[-1] == "jax"


def test_the_requirements_are_those_of_the_project_and_its_extras():
    found = subprocess.check_output([sys.executable, "-c", environments.REQUIREMENTS, "dev"], cwd=ROOT, text=True)
    names = [line.partition(">")[0] for line in found.split()]
    assert {"jax", "pytest"} <= set(names)
    assert "trl" not in names


def test_download_size_is_stated(capsys):
    environments.announce("/x/envs/dev", ("parity",))
    text = capsys.readouterr().err
    assert "/x/envs/dev" in text
    assert "270 MB" in text
    assert "torch: about 200 MB as a CPU build" in text
    assert "JAXPO_TORCH_INDEX" in text
    environments.announce("/x/.venv", ())
    assert "torch" not in capsys.readouterr().err
