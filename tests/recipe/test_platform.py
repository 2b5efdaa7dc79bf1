"""What a run leaves to the platform: decided when it begins, kept when it goes on, shown before."""

import dataclasses
import json

import jax
import pytest

from jaxpo.cli import main as cli
from jaxpo.config import Compute, Run
from jaxpo.config.serialise import to_jsonable
from jaxpo.models.lfm2 import grouping
from jaxpo.ops import attention, grouped
from jaxpo.recipe import platform
from jaxpo.recipe.checks.run import compute_problems
from jaxpo.recipe.platform import begun, expected_platform, resolved


@pytest.mark.parametrize(("name", "dtype"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")])
def test_the_platform_decides_what_is_open_and_nothing_else(name, dtype):
    assert resolved(Compute(remat="full"), name) == Compute(dtype=dtype, remat="full")
    for given in ("float32", "bfloat16"):
        assert resolved(Compute(dtype=given), name).dtype == given


def test_a_run_goes_on_as_it_began_wherever_it_is_resumed():
    """Begun on a CPU and resumed on a GPU, or the other way round; a type that is named now stands first."""
    run = Run()
    for first, then in (("cpu", "gpu"), ("gpu", "cpu")):
        start = begun(run, None, first)
        stored = json.loads(json.dumps(to_jsonable(start)))
        assert begun(run, stored, then) == start
        named = dataclasses.replace(run, compute=Compute(dtype="bfloat16"))
        assert begun(named, stored, then).compute.dtype == "bfloat16"
    assert begun(run, {}, "tpu").compute.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("environ", "packages", "devices", "expected"),
    [
        ({"JAX_PLATFORMS": "cuda,cpu"}, (), (), "gpu"),
        ({"JAX_PLATFORMS": "cpu"}, ("jax_cuda13_plugin",), ("/dev/nvidiactl",), "cpu"),
        ({}, ("jax_cuda13_plugin",), ("/dev/nvidiactl",), "gpu"),
        ({}, ("jax_cuda12_plugin",), ("/dev/dxg",), "gpu"),
        ({}, ("jax_cuda13_plugin",), (), "cpu"),
        ({}, (), ("/dev/nvidiactl",), "cpu"),
        ({"JAX_PLATFORMS": ""}, ("libtpu",), ("/dev/accel*",), "tpu"),
        ({}, ("libtpu", "jax_cuda13_plugin"), ("/dev/nvidiactl",), "gpu"),
    ],
)
def test_the_platform_is_told_from_what_is_installed_and_plugged_in(monkeypatch, environ, packages, devices, expected):
    monkeypatch.setattr(platform, "find_spec", lambda name: name in packages)
    monkeypatch.setattr(platform, "glob", lambda pattern: [pattern] if pattern in devices else [])
    assert expected_platform(environ) == expected


def test_explain_shows_what_the_platform_decides(capsys):
    def compute(*words):
        cli.main(["explain", "sft", "--json", *words])
        rows = json.loads(capsys.readouterr().out)
        return {r["field"]: (r["value"], r["origin"]) for r in rows if r["field"].startswith("compute.")}

    assert compute()["compute.dtype"] == ("float32", "platform (cpu)")
    on_tpu = compute("--platform", "tpu")
    assert on_tpu["compute.dtype"] == ("bfloat16", "platform (tpu)")
    assert on_tpu["compute.attention"] == ("splash", "platform (tpu)")
    assert on_tpu["compute.head_chunk"] == (None, "default")
    assert on_tpu["compute.scan"] == (False, "platform (tpu)")
    assert compute("--platform", "gpu", "--preset", "lfm2_2_6b")["compute.scan"] == (True, "platform (gpu)")
    assert compute("--preset", "lfm2_2_6b")["compute.scan"] == (False, "platform (cpu)")
    assert compute("--platform", "gpu", "--model-from", "elsewhere")["compute.scan"] == (None, "default")
    assert compute("--platform", "gpu", "--compute.scan", "True")["compute.scan"] == (True, "command line")
    named = compute("--platform", "tpu", "--compute.dtype", "float32", "--compute.attention", "xla")
    assert named["compute.dtype"] == ("float32", "command line")
    assert named["compute.attention"] == ("xla", "command line")
    assert cli.main(["explain", "sft", "--platform", "vulkan"]) == 2
    assert "--platform: expected cpu, gpu, tpu, got 'vulkan'" in capsys.readouterr().err


@pytest.mark.parametrize("name", platform.PLATFORMS)
def test_implementations_shown_are_those_that_the_operations_choose(monkeypatch, name):
    monkeypatch.setattr(jax, "default_backend", lambda: name)
    assert attention.chosen(platform=name).name == platform.BEST["attention"][name]
    assert grouped.chosen()[0] == platform.BEST["experts"][name]
    assert platform.UNROLLED_UP_TO == grouping.UNROLLED_UP_TO


@pytest.mark.parametrize("peak", [0.0, -1.0])
def test_a_peak_is_above_zero(peak):
    found = list(compute_problems(Run(compute=Compute(peak_tflops=peak))))
    assert len(found) == 1
    assert found[0].startswith("compute.peak_tflops: ")
    assert not list(compute_problems(Run(compute=Compute(peak_tflops=0.2))))
