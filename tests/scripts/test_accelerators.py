"""A GPU or TPU is asked for: what is refused before anything is installed, and what jax is then found to see.

No accelerator is needed: nvidia-smi, the device files and the new interpreter are stand-ins.
"""

import importlib.metadata
from pathlib import Path

import accelerators
import environments
import pytest
from packaging.requirements import Requirement
from scripts.interpreters import ROOT, script

GLIBC = ("glibc", "2.35")
H200, P100 = "NVIDIA H200, 580.82.07, 9.0", "Tesla P100-PCIE-16GB, 580.82.07, 6.0"


@pytest.mark.parametrize(
    ("accelerator", "system", "machine", "libc", "said"),
    [
        ("cuda13", "Linux", "x86_64", GLIBC, None),
        ("cuda12", "Linux", "aarch64", GLIBC, None),
        ("tpu", "Linux", "x86_64", ("glibc", "2.31"), None),
        ("cuda13", "Darwin", "arm64", ("", ""), "this is Darwin on arm64. Without --accelerator it runs on the CPU"),
        ("tpu", "Linux", "aarch64", GLIBC, "wheels are for Linux on x86_64"),
        ("tpu", "Linux", "x86_64", ("glibc", "2.28"), "glibc 2.31 or later, this system has 2.28"),
    ],
)
def test_where_there_are_no_wheels_that_is_said(accelerator, system, machine, libc, said):
    found = accelerators.of_platform(accelerator, system, machine, libc)
    assert found is None if said is None else said in found


@pytest.mark.parametrize(
    ("accelerator", "told", "said"),
    [
        ("cuda13", (0, H200), None),
        ("cuda13", (0, f"{P100}\n{H200}"), None),
        ("cuda12", (0, P100), None),
        ("cuda13", None, "no nvidia-smi. Install NVIDIA's driver, version 580 or later"),
        ("cuda13", (9, "couldn't communicate with the NVIDIA driver"), "couldn't communicate"),
        ("cuda13", (0, ""), "lists no GPU"),
        ("cuda13", (0, "NVIDIA L4, 550.54.14, 8.9"), "580 or later, this is 550.54.14: .*or take --accelerator cuda12"),
        ("cuda13", (0, "Tesla K80, 470.82.01, 3.7"), "this is 470.82.01: install a newer one.$"),
        ("cuda12", (0, "Tesla K80, 525.60.13, 3.7"), r"5.2 or later; found: Tesla K80 \(3.7\)"),
        ("cuda13", (0, P100), r"P100-PCIE-16GB \(6.0\). --accelerator cuda12"),
    ],
)
def test_what_the_driver_says_decides(accelerator, told, said):
    found = accelerators.of_gpus(accelerator, told)
    if said is None:
        assert found is None
    else:
        with pytest.raises(accelerators.BootstrapError, match=said):
            raise accelerators.BootstrapError(found)


@pytest.mark.parametrize(("status", "text"), [(0, f"{H200}\n{H200}"), (9, "no devices")])
def test_nvidia_smi_is_asked_for_what_is_read(tmp_path, monkeypatch, status, text):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        f'#!/bin/sh\n[ "$*" = "{accelerators.QUERY} --format=csv,noheader" ] && echo "{text}"\nexit {status}\n'
    )
    smi.chmod(0o755)
    assert accelerators.nvidia_smi() == (status, text)


def test_a_tpu_is_known_by_its_device_files(tmp_path):
    files = (str(tmp_path / "accel[0-9]*"), str(tmp_path / "vfio" / "[0-9]*"))
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()
    assert "shows no TPU" in accelerators.of_tpu(files)
    (tmp_path / "vfio" / "0").touch()
    assert accelerators.of_tpu(files) is None


def test_what_is_asked_for_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(accelerators.platform, "system", lambda: "Linux")
    monkeypatch.setattr(accelerators.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(accelerators, "nvidia_smi", lambda: (0, H200))
    accelerators.refuse("cuda13", {"JAX_PLATFORMS": "cuda,cpu"})
    with pytest.raises(accelerators.BootstrapError, match=r"--accelerator cuda13: JAX_PLATFORMS is cpu.*unset it"):
        accelerators.refuse("cuda13", {"JAX_PLATFORMS": "cpu"})
    with pytest.raises(
        accelerators.BootstrapError, match=r"gpu: expected cuda13, cuda12, tpu. An NVIDIA GPU is cuda13"
    ):
        accelerators.refuse("gpu", {})
    monkeypatch.setattr(accelerators, "of_tpu", lambda: "no chip")
    with pytest.raises(accelerators.BootstrapError, match="--accelerator tpu: no chip"):
        accelerators.refuse("tpu", {})


def answering(folder, body):
    """An interpreter that answers in the place of jax."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_the_devices_are_those_that_jax_sees_of_this_platform_alone(tmp_path):
    python = answering(tmp_path, '[ "$JAX_PLATFORMS" = cuda ] && printf "gpu NVIDIA H200\\ngpu NVIDIA H200\\n"')
    assert accelerators.look(python, "cuda13", {"JAX_PLATFORMS": "cuda,cpu"}) == ["gpu NVIDIA H200"] * 2
    python = answering(tmp_path, '[ "$JAX_PLATFORMS" = tpu ] && echo "tpu TPU v5 lite"')
    assert accelerators.look(python, "tpu", {}) == ["tpu TPU v5 lite"]


@pytest.mark.parametrize(
    ("accelerator", "environ", "said"),
    [
        (
            "cuda13",
            {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"},
            r"no GPU: RuntimeError: no backend\n.*nvidia-smi \(580",
        ),
        ("cuda12", {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"}, "environment: LD_LIBRARY_PATH=/usr/local/cuda/lib64"),
        ("tpu", {"TPU_WORKER_ID": "0", "HOME": "/"}, "no TPU: .*\n.*several hosts.*environment: TPU_WORKER_ID=0[.]"),
        ("tpu", {}, "nothing that bears on it"),
    ],
)
def test_where_jax_sees_none_what_to_look_at_is_said(tmp_path, accelerator, environ, said):
    python = answering(tmp_path, "echo Traceback >&2; echo 'RuntimeError: no backend' >&2; exit 1")
    with pytest.raises(accelerators.BootstrapError, match=said):
        accelerators.look(python, accelerator, environ)


def test_a_host_that_waits_for_others_is_not_waited_for_forever(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerators, "SECONDS", 0.05)
    with pytest.raises(accelerators.BootstrapError, match=r"did not answer within 0.05 s.*each has to run"):
        accelerators.look(answering(tmp_path, "exec sleep 10"), "tpu", {})


def test_the_question_is_one_that_jax_can_answer(capsys):
    exec(accelerators.LOOK)
    assert set(capsys.readouterr().out.split("\n")[:-1]) == {"cpu cpu"}


def test_quickstart_shows_the_devices_and_goes_on_with_the_environment_of_the_accelerator(monkeypatch, capsys):
    started = []
    monkeypatch.setattr(environments, "ensure_own", lambda python, accelerator: f"/x/{python}-{accelerator}")
    monkeypatch.setattr(accelerators, "look", lambda python, accelerator: [f"{python} {accelerator}"])
    quickstart = script("quickstart")
    monkeypatch.setattr(quickstart.os, "chdir", lambda folder: None)
    monkeypatch.setattr(quickstart.os, "execv", lambda path, command: started.append(command))
    quickstart.main(["--accelerator", "cuda13", "--seed", "1"])
    assert started == [["/x/None-cuda13", "-m", "jaxpo", "run", "quickstart", "--seed", "1"]]
    assert "jax sees /x/None-cuda13 cuda13" in capsys.readouterr().err
    monkeypatch.setattr(accelerators, "look", lambda *_: pytest.fail("asked for a device without need"))
    quickstart.main([])
    assert started[1][0] == "/x/None-None"


def pinned(python_version):
    """Name -> version by constraints.txt for a Python."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and line[0] != "#"]
    where = {"python_version": python_version}
    return {r.name: str(r.specifier).removeprefix("==") for r in found if r.marker is None or r.marker.evaluate(where)}


@pytest.mark.parametrize("python_version", ["3.11", "3.12", "3.14"])
def test_a_plugin_is_of_the_version_of_jax(python_version):
    pins = pinned(python_version)
    same = ["jaxlib", *(f"jax-{cuda}-{part}" for cuda in ("cuda13", "cuda12") for part in ("plugin", "pjrt"))]
    assert {pins[name] for name in same} == {pins["jax"]}
    assert {name for name in accelerators.NAMES if name != "tpu"} == {"cuda13", "cuda12"}


def test_what_the_installed_jax_asks_of_an_accelerator_is_pinned_to_what_it_takes():
    version = importlib.metadata.version("jax")
    pins = next((pins for pins in map(pinned, ("3.11", "3.12")) if pins["jax"] == version), None)
    if pins is None:
        pytest.skip(f"jax {version} is none that constraints.txt names")
    for extra in accelerators.NAMES:
        asked = [Requirement(line) for line in importlib.metadata.requires("jax")]
        asked = [r for r in asked if r.marker and "extra" in str(r.marker) and r.marker.evaluate({"extra": extra})]
        assert {r.name for r in asked} & {f"jax-{extra}-plugin", "libtpu"}
        assert all(r.specifier.contains(pins[r.name]) for r in asked)


def test_the_sizes_of_the_downloads_are_known():
    assert set(accelerators.NAMES) <= set(environments.DOWNLOAD)
    assert Path(ROOT / "docs" / "accelerators.md").exists()
