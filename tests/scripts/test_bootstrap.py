"""The start-up scripts: their pure parts, and the messages on a machine that is not ready. Nothing is installed."""

import ast
import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location, spec_from_loader
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = spec_from_file_location("bootstrap", ROOT / "scripts" / "bootstrap.py")
bootstrap = module_from_spec(spec)
spec.loader.exec_module(bootstrap)


def script(name, monkeypatch):
    """Import a script that has no .py suffix, with this module's `bootstrap`."""
    monkeypatch.setitem(sys.modules, "bootstrap", bootstrap)
    module = module_from_spec(spec_from_loader(name, SourceFileLoader(name, str(ROOT / "scripts" / name))))
    module.__loader__.exec_module(module)
    return module


def report(version, missing=(), path="/somewhere/python"):
    return {"path": path, "version": list(version), "missing": list(missing)}


def fake_python(folder, name, version="3.12.1", missing=(), status=0):
    """An executable that answers the probe as a Python of the given version would."""
    path = folder / name
    answer = json.dumps(report([int(v) for v in version.split(".")], missing, str(path)))
    path.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("name", ["bootstrap.py", "test", "quickstart"])
def test_an_old_python_can_still_read_the_scripts(name):
    """The python3 of the system may be old; its only task is to find a newer one."""
    ast.parse((ROOT / "scripts" / name).read_text(), feature_version=(3, 7))


@pytest.mark.parametrize("name", ["bootstrap.py", "test", "quickstart"])
def test_scripts_need_the_standard_library_only(name):
    tree = ast.parse((ROOT / "scripts" / name).read_text())
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {m.split(".")[0] for m in imported} <= set(sys.stdlib_module_names) | {"bootstrap", "__future__"}


@pytest.mark.parametrize("name", ["test", "quickstart"])
def test_scripts_are_executable(name):
    assert os.access(ROOT / "scripts" / name, os.X_OK)


def test_native_windows_and_intel_macos_get_one_sentence():
    windows = bootstrap.unsupported_platform("Windows", "AMD64")
    assert "WSL2" in windows
    assert windows.count(".") == 1
    intel = bootstrap.unsupported_platform("Darwin", "x86_64")
    assert "Intel macOS" in intel
    assert intel.count(".") == 1
    assert bootstrap.unsupported_platform("Darwin", "arm64") is None
    assert bootstrap.unsupported_platform("Linux", "x86_64") is None


def test_unsupported_platform_stops_before_anything_is_made(monkeypatch, capsys):
    monkeypatch.setattr(bootstrap.platform, "system", lambda: "Windows")
    monkeypatch.setattr(bootstrap, "make_env", lambda asked: pytest.fail("made an environment"))
    assert bootstrap.guarded(lambda argv: bootstrap.ensure(), []) == 2
    assert "WSL2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "expected"),
    [((3, 10, 13), False), ((3, 11, 0), True), ((3, 14, 2), True), ((3, 15, 0), False), ((2, 7, 18), False)],
)
def test_supported_versions(version, expected):
    assert bootstrap.is_supported(version) is expected


def test_candidates_come_this_one_first_then_newest(tmp_path):
    path, pyenv = tmp_path / "bin", tmp_path / "pyenv"
    path.mkdir()
    for name in ("python3.11", "python3.13", "python3", "python3.9"):
        fake_python(path, name)
    for version in ("3.12.1", "3.9.18"):
        (pyenv / "versions" / version / "bin").mkdir(parents=True)
        fake_python(pyenv / "versions" / version / "bin", "python")
    found = bootstrap.candidates("/this/python", str(path), str(pyenv))
    assert found == [
        "/this/python",
        str(path / "python3.13"),
        str(path / "python3.11"),
        str(pyenv / "versions" / "3.12.1" / "bin" / "python"),
        str(path / "python3"),
    ]


def test_probe_reads_this_interpreter_and_refuses_what_does_not_start(tmp_path):
    assert bootstrap.probe(sys.executable)["version"] == list(sys.version_info[:3])
    assert bootstrap.probe(str(tmp_path / "absent")) is None
    assert bootstrap.probe(fake_python(tmp_path, "shim", status=127)) is None
    broken = tmp_path / "talkative"
    broken.write_text("#!/bin/sh\necho hello\n")
    broken.chmod(0o755)
    assert bootstrap.probe(str(broken)) is None


def test_choose_passes_over_a_python_that_cannot_make_environments():
    crippled, whole = report((3, 13, 0), ["ensurepip"]), report((3, 11, 2))
    assert bootstrap.choose([report((3, 9, 1)), crippled, whole]) is whole


def test_missing_ensurepip_names_the_system_package(monkeypatch):
    monkeypatch.setattr(bootstrap, "os_release", lambda: {"ID": "linuxmint", "ID_LIKE": "ubuntu debian"})
    with pytest.raises(bootstrap.BootstrapError, match=r"sudo apt install python3\.12-venv"):
        bootstrap.choose([report((3, 12, 3), ["ensurepip"])])
    message = bootstrap.missing_message(report((3, 11, 2), ["venv", "ensurepip"]), {"ID": "void"})
    assert "lacks the module venv and ensurepip" in message
    assert "python3.11-venv" in message


def test_no_usable_python_lists_what_was_found():
    with pytest.raises(
        bootstrap.BootstrapError, match=r"Python 3\.11 to 3\.14; found: 3\.10\.13, 3\.9\.1\. .*--python"
    ):
        bootstrap.choose([report((3, 9, 1)), report((3, 10, 13))])
    with pytest.raises(bootstrap.BootstrapError, match="found: none"):
        bootstrap.choose([])


def test_a_named_python_is_taken_or_refused(tmp_path, monkeypatch):
    named = fake_python(tmp_path, "mine", "3.13.0")
    assert bootstrap.find_python(named)["version"] == [3, 13, 0]
    monkeypatch.setattr(bootstrap, "here", lambda: [named])
    with pytest.raises(bootstrap.BootstrapError, match="--python /no/such: no such interpreter"):
        bootstrap.find_python("/no/such")
    with pytest.raises(bootstrap.BootstrapError, match=r"found: 3\.8\.0"):
        bootstrap.find_python(fake_python(tmp_path, "old", "3.8.0"))


@pytest.mark.parametrize("name", ["3.12", "python3.12"])
def test_a_version_is_found_wherever_that_python_lies(tmp_path, monkeypatch, name):
    pythons = [fake_python(tmp_path, f"p{v}", f"{v}.1") for v in ("3.11", "3.12")]
    monkeypatch.setattr(bootstrap, "here", lambda: pythons)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap.find_python(name)["path"] == pythons[1]


def test_os_release_is_unquoted(tmp_path):
    (tmp_path / "os-release").write_text('ID=ubuntu\nID_LIKE="debian"\n\n# comment\n')
    assert bootstrap.os_release(str(tmp_path / "os-release")) == {"ID": "ubuntu", "ID_LIKE": "debian"}
    assert bootstrap.os_release(str(tmp_path / "absent")) == {}


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("jax==0.10.2\n")
    (tmp_path / ".venv").mkdir()
    return tmp_path


def test_stamp_makes_the_second_start_install_nothing(checkout):
    root, env, version = str(checkout), str(checkout / ".venv"), (3, 11, 7)
    assert bootstrap.stale(root, version, ("dev",), bootstrap.read_stamp(env)) == ["", "dev"]
    bootstrap.write_stamp(env, {extra: bootstrap.digest(root, version, extra) for extra in ("", "dev")})
    stamp = bootstrap.read_stamp(env)
    assert bootstrap.stale(root, version, ("dev",), stamp) == []
    assert bootstrap.stale(root, version, ("dev", "parity"), stamp) == ["parity"]
    assert bootstrap.stale(root, (3, 12, 1), ("dev",), stamp) == ["", "dev"]
    moved = checkout.parent / (checkout.name + "-moved")
    checkout.rename(moved)
    assert bootstrap.stale(str(moved), version, (), stamp) == [""]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_dependencies_are_installed_again(checkout, name):
    before = bootstrap.digest(str(checkout), (3, 11, 7), "dev")
    (checkout / name).write_text("changed\n")
    assert bootstrap.digest(str(checkout), (3, 11, 7), "dev") != before


def test_a_damaged_stamp_counts_as_none(checkout):
    for text in ("{", "[]"):
        (checkout / ".venv" / "jaxpo-installed.json").write_text(text)
        assert bootstrap.read_stamp(str(checkout / ".venv")) == {}


def test_torch_is_installed_first_and_alone():
    torch, rest, bare = bootstrap.pip_commands("py", ["dev", "parity"], "https://example.org/cpu")
    assert torch[-3:] == [bootstrap.TORCH, "--extra-index-url", "https://example.org/cpu"]
    assert rest[-2:] == ["-e", ".[dev,parity]"]
    assert bare[-3:] == ["--no-deps", *bootstrap.WITHOUT_DEPENDENCIES]
    assert all(c[:6] == ["py", "-m", "pip", "install", "-c", "constraints.txt"] for c in (torch, rest, bare))
    (core,) = bootstrap.pip_commands("py", [""], None)
    assert core[-2:] == ["-e", "."]


def test_download_size_is_stated_for_what_is_missing():
    text = bootstrap.announcement("/x/.venv", ["", "parity"])
    assert ".venv" in text
    assert "270 MB" in text
    assert "torch: about 200 MB as a CPU build" in text
    assert "JAXPO_TORCH_INDEX" in text
    assert "torch" not in bootstrap.announcement("/x/.venv", ["dev"])


def test_a_folder_that_is_no_environment_is_left_alone(checkout, monkeypatch):
    (checkout / ".venv" / "precious").write_text("data")
    monkeypatch.setattr(bootstrap, "ROOT", str(checkout))
    with pytest.raises(bootstrap.BootstrapError, match="in the way"):
        bootstrap.make_env()
    assert (checkout / ".venv" / "precious").read_text() == "data"


def test_a_second_python_gets_an_environment_of_its_own(checkout, monkeypatch):
    named = fake_python(checkout, "named", "3.12.1")
    (checkout / ".venv-3.12" / "bin").mkdir(parents=True)
    fake_python(checkout / ".venv-3.12" / "bin", "python", "3.12.1")
    monkeypatch.setattr(bootstrap, "ROOT", str(checkout))
    assert bootstrap.make_env(named) == (str(checkout / ".venv-3.12"), (3, 12, 1))


def test_second_python_prefers_the_other_side_of_the_jax_border(tmp_path, monkeypatch):
    pythons = [fake_python(tmp_path, f"p{v}", f"{v}.0") for v in ("3.13", "3.12", "3.11", "3.9")]
    monkeypatch.setattr(bootstrap, "here", lambda: pythons)
    assert bootstrap.second_python((3, 11, 7)).endswith("p3.12")
    assert bootstrap.second_python((3, 13, 1)).endswith("p3.11")
    monkeypatch.setattr(bootstrap, "here", lambda: pythons[2:])
    assert bootstrap.second_python((3, 11, 7)) is None


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
    monkeypatch.setattr(bootstrap, "ensure", lambda extras, python: calls.update(extras=extras, python=python) or "py")
    module = script("test", monkeypatch)
    monkeypatch.setattr(module.subprocess, "call", lambda command, cwd: calls.update(command=command) or code)
    return module.main(argv), calls


@pytest.mark.parametrize(
    ("argv", "extras", "marker", "rest"),
    [
        ([], ("dev",), "not parity and not slow", []),
        (["--full"], ("dev",), "not parity", []),
        (["--parity", "-x"], ("dev", "parity"), "parity", ["-x"]),
        (
            ["tests/ops", "-k", "conv", "--python", "p3"],
            ("dev",),
            "not parity and not slow",
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
    assert command[len(command) - len(rest) :] == rest


@pytest.mark.parametrize("code", [1, 5])
def test_exit_status_is_pytests_and_an_empty_selection_fails(monkeypatch, capsys, code):
    assert run_test_script(monkeypatch, [], code)[0] == code
    assert ("nothing was tested" in capsys.readouterr().err) is (code == 5)


def test_pins_are_versions_only_and_cover_the_torch_that_is_installed_alone():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    names = [line.split("==")[0] for line in lines]
    assert all("==" in line and "/" not in line and "@" not in line for line in lines)
    assert {name for name in names if names.count(name) > 1} == {"jax", "jaxlib"}
    assert bootstrap.TORCH in lines


def test_ci_script_parses_and_names_every_step():
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    text = path.read_text()
    for part in ("ruff check", "ruff format", "-m mypy", "scripts/test\n", "scripts/test --parity", "--python"):
        assert part in text
