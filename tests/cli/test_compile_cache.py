"""Where compiled programs are kept, when they are not, and what is removed when they are too many."""

import os

import pytest

from jaxpo.cli import compile_cache, env
from jaxpo.cli.compile_cache import (
    DIRECTORY,
    LEAST,
    WHERE,
    folder,
    host,
    keep_programs,
    prune,
    reason_against,
    root,
    told,
)


@pytest.fixture
def environ(tmp_path):
    return {"XDG_CACHE_HOME": str(tmp_path)}


def test_a_command_that_compiles_names_the_cache_to_jax(environ, tmp_path):
    keep_programs(["run", "sft"], environ)
    assert environ[DIRECTORY] == str(tmp_path / "jaxpo" / "compiled" / host())
    assert float(environ[LEAST]) < 1
    environ = {WHERE: str(tmp_path / "mine"), LEAST: "7"}
    keep_programs(["chat"], environ)
    assert (environ[DIRECTORY], environ[LEAST]) == (str(tmp_path / "mine" / host()), "7")


@pytest.mark.parametrize("words", [[], ["--help"], ["env"], ["explain", "run"]])
def test_others_leave_the_environment_alone(environ, words):
    before = dict(environ)
    keep_programs(words, environ)
    assert environ == before


def test_jaxs_own_setting_stands_first_and_zero_switches_off(environ, tmp_path):
    for setting, reason in (({DIRECTORY: "/elsewhere"}, f"{DIRECTORY} is set"), ({WHERE: "0"}, f"{WHERE} is 0")):
        given = environ | setting
        assert reason_against(given) == reason
        keep_programs(["run"], given)
        assert given == environ | setting
    assert env.programs({DIRECTORY: "/elsewhere"}) == f"/elsewhere ({DIRECTORY})"
    assert env.programs({WHERE: "0"}) == f"{WHERE} is 0"


def test_a_place_that_cannot_be_written_is_named_and_not_used(tmp_path):
    (tmp_path / "file").write_text("")
    given = {WHERE: str(tmp_path / "file" / "below")}
    assert reason_against(given) == f"{tmp_path / 'file'} cannot be written"
    keep_programs(["run"], given)
    assert DIRECTORY not in given


def test_a_relative_xdg_path_counts_as_none(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for environ in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "here"}):
        assert root(environ) == tmp_path / ".cache" / "jaxpo" / "compiled"


def test_hosts_are_told_apart_by_processor_features_and_cores(monkeypatch, tmp_path):
    """And not by what changes while one runs."""
    text = "processor : 0\nmodel name : A\ncpu MHz : {mhz}\nflags : fpu {flag}\n\nprocessor : 1\nmodel name : B\n"
    monkeypatch.setattr(compile_cache, "CPUINFO", tmp_path / "cpuinfo")

    def name(flag, mhz=1, cores=2):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        compile_cache.CPUINFO.write_text(text.format(flag=flag, mhz=mhz))
        return host()

    assert name("avx2") == name("avx2", mhz=2)
    assert len({name("avx2"), name("avx512f"), name("avx2", cores=4)}) == 3
    compile_cache.CPUINFO.unlink()
    assert host()


def test_what_was_used_last_stays(environ):
    place = folder(environ)
    place.mkdir(parents=True)
    for i, name in enumerate("abcd"):
        (place / f"jit_{name}-cache").write_bytes(bytes(100))
        os.utime(place / f"jit_{name}-cache", (1_000_000 + i, 1_000_000))
    os.utime(place / "jit_a-cache", (2_000_000, 1_000_000))  # read again
    prune(root(environ), 250)
    assert sorted(p.name for p in place.iterdir()) == ["jit_a-cache", "jit_d-cache"]
    assert "(2 programs, 0.0 MiB" in env.programs(environ)
    prune(root(environ), 250)
    assert len(list(place.iterdir())) == 2
    prune(root(environ) / "absent", 0)


def test_files_of_others_are_never_removed(environ, tmp_path):
    """Neither beside the hosts' folders nor in them, nor behind a link."""
    place, outside = folder(environ), tmp_path / "outside"
    (place.parent / "photos").mkdir(parents=True)
    place.mkdir()
    outside.mkdir()
    files = [
        place.parent / "thesis.txt",
        place.parent / "photos" / "old-cache",
        place / "notes",
        outside / "jit_f-cache",
    ]
    for file in files:
        file.write_bytes(bytes(100))
    (place / "jit_f-cache").symlink_to(outside / "jit_f-cache")
    prune(root(environ), 0)
    assert all(file.exists() for file in files)


def test_a_folder_that_was_named_and_cannot_be_used_is_said(tmp_path, capsys, monkeypatch):
    given = {WHERE: "off"}
    keep_programs(["run"], given)
    assert given == {WHERE: "off"}
    assert "'off' is no absolute path (0 = keep none)" in capsys.readouterr().err

    def nobody(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compile_cache.Path, "expanduser", nobody)
    assert "home directory" in reason_against({})
    monkeypatch.undo()

    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(compile_cache.Path, "exists", forbidden)
    assert "Permission denied" in reason_against({WHERE: str(tmp_path)})


def test_a_program_that_cannot_be_read_is_removed_and_said(tmp_path, capsys):
    (tmp_path / "jit_step-1a-cache").write_bytes(b"half")
    (tmp_path / "jit_other-1a-cache").write_bytes(b"whole")
    others = []
    show = told(tmp_path, lambda *warning: others.append(warning))
    text = "Error reading persistent compilation cache entry for 'jit_step': ZstdError: unknown"
    show(UserWarning(text), UserWarning, "compiler.py", 1)
    show(UserWarning("another"), UserWarning, "compiler.py", 2)
    assert [p.name for p in tmp_path.iterdir()] == ["jit_other-1a-cache"]
    assert len(others) == 1
    assert "reading jit_step failed; it is compiled anew" in capsys.readouterr().err
