"""Finding a Python: which are asked, which one is taken, and the messages on a machine that has none."""

import sys

import pytest
import pythons
from scripts.interpreters import fake_python, report


def test_native_windows_and_intel_macos_get_one_sentence():
    windows = pythons.unsupported_platform("Windows", "AMD64")
    assert "WSL2" in windows
    assert windows.count(".") == 1
    intel = pythons.unsupported_platform("Darwin", "x86_64")
    assert "Intel macOS" in intel
    assert intel.count(".") == 1
    assert pythons.unsupported_platform("Darwin", "arm64") is None
    assert pythons.unsupported_platform("Linux", "x86_64") is None


@pytest.mark.parametrize(
    ("version", "expected"),
    [((3, 10, 13), False), ((3, 11, 0), True), ((3, 14, 2), True), ((3, 15, 0), False), ((2, 7, 18), False)],
)
def test_supported_versions(version, expected):
    assert pythons.is_supported(version) is expected


def test_candidates_come_this_one_first_then_newest(tmp_path):
    path, pyenv = tmp_path / "bin", tmp_path / "pyenv"
    path.mkdir()
    for name in ("python3.11", "python3.13", "python3", "python3.9"):
        fake_python(path, name)
    for version in ("3.12.1", "3.9.18"):
        (pyenv / "versions" / version / "bin").mkdir(parents=True)
        fake_python(pyenv / "versions" / version / "bin", "python")
    found = pythons.candidates("/this/python", str(path), str(pyenv))
    assert found == [
        "/this/python",
        str(path / "python3.13"),
        str(path / "python3.11"),
        str(pyenv / "versions" / "3.12.1" / "bin" / "python"),
        str(path / "python3"),
    ]


def test_probe_reads_this_interpreter_and_refuses_what_does_not_start(tmp_path):
    assert pythons.probe(sys.executable)["version"] == list(sys.version_info[:3])
    assert pythons.probe(str(tmp_path / "absent")) is None
    assert pythons.probe(fake_python(tmp_path, "shim", status=127)) is None
    broken = tmp_path / "talkative"
    broken.write_text("#!/bin/sh\necho hello\n")
    broken.chmod(0o755)
    assert pythons.probe(str(broken)) is None


def test_choose_passes_over_a_python_that_cannot_make_environments():
    crippled, whole = report((3, 13, 0), ["ensurepip"]), report((3, 11, 2))
    assert pythons.choose([report((3, 9, 1)), crippled, whole]) is whole


def test_missing_ensurepip_names_the_system_package(monkeypatch):
    monkeypatch.setattr(pythons, "os_release", lambda: {"ID": "linuxmint", "ID_LIKE": "ubuntu debian"})
    with pytest.raises(pythons.BootstrapError, match=r"sudo apt install python3\.12-venv"):
        pythons.choose([report((3, 12, 3), ["ensurepip"])])
    message = pythons.missing_message(report((3, 11, 2), ["venv", "ensurepip"]), {"ID": "void"})
    assert "lacks the module venv and ensurepip" in message
    assert "python3.11-venv" in message


def test_no_usable_python_lists_what_was_found():
    with pytest.raises(pythons.BootstrapError, match=r"Python 3\.11 to 3\.14; found: 3\.10\.13, 3\.9\.1\. .*--python"):
        pythons.choose([report((3, 9, 1)), report((3, 10, 13))])
    with pytest.raises(pythons.BootstrapError, match="found: none"):
        pythons.choose([])


def test_a_named_python_is_taken_or_refused(tmp_path, monkeypatch):
    named = fake_python(tmp_path, "mine", "3.13.0")
    assert pythons.find_python(named)["version"] == [3, 13, 0]
    monkeypatch.setattr(pythons, "here", lambda: [named])
    with pytest.raises(pythons.BootstrapError, match="--python /no/such: no such interpreter"):
        pythons.find_python("/no/such")
    with pytest.raises(pythons.BootstrapError, match=r"found: 3\.8\.0"):
        pythons.find_python(fake_python(tmp_path, "old", "3.8.0"))


@pytest.mark.parametrize("name", ["3.12", "python3.12"])
def test_a_version_is_found_wherever_that_python_lies(tmp_path, monkeypatch, name):
    interpreters = [fake_python(tmp_path, f"p{v}", f"{v}.1") for v in ("3.11", "3.12")]
    monkeypatch.setattr(pythons, "here", lambda: interpreters)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pythons.find_python(name)["path"] == interpreters[1]


def test_os_release_is_unquoted(tmp_path):
    (tmp_path / "os-release").write_text('ID=ubuntu\nID_LIKE="debian"\n\n# comment\n')
    assert pythons.os_release(str(tmp_path / "os-release")) == {"ID": "ubuntu", "ID_LIKE": "debian"}
    assert pythons.os_release(str(tmp_path / "absent")) == {}


def test_second_python_prefers_the_other_side_of_the_jax_border(tmp_path, monkeypatch):
    interpreters = [fake_python(tmp_path, f"p{v}", f"{v}.0") for v in ("3.13", "3.12", "3.11", "3.9")]
    monkeypatch.setattr(pythons, "here", lambda: interpreters)
    assert pythons.second_python((3, 11, 7)).endswith("p3.12")
    assert pythons.second_python((3, 13, 1)).endswith("p3.11")
    monkeypatch.setattr(pythons, "here", lambda: interpreters[2:])
    assert pythons.second_python((3, 11, 7)) is None
