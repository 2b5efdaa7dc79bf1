"""losses, data, report and env."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxpo.cli import env, losses
from jaxpo.objectives.methods import METHODS

Command = Callable[..., tuple[int, str, str]]


def test_losses_json_has_every_method(run: Command) -> None:
    rows = {r["name"]: r for r in json.loads(run("losses", "--json")[1])}
    assert set(rows) == set(METHODS)
    fields = {"name", "function", "family", "paper", "arxiv", "needs", "defaults", "certainty", "aliases"}
    assert all(set(row) == fields for row in rows.values())
    assert rows["dpo"]["defaults"] == {"beta": 0.1, "label_smoothing": 0.0}
    assert rows["tdpo2"]["needs"]["networks"] == {"reference": "vocab"}


def test_every_method_has_the_docstring_of_its_function() -> None:
    for name, method in METHODS.items():
        module, _, function = method.INFO.function.rpartition(".")
        doc = inspect.getdoc(getattr(importlib.import_module(module), function))
        assert doc
        assert losses.function_doc(method.INFO.function) == doc, name


def test_losses_of_one_name(run: Command) -> None:
    code, out, _ = run("losses", "sigmoid")
    assert code == 0
    assert out.startswith("dpo: Direct Preference Optimization")
    assert "--stage.loss dpo  --stage.loss.beta 0.1" in out
    assert "h = beta ((P_w - R_w) - (P_l - R_l))" in out


def test_losses_by_family(run: Command) -> None:
    rows = json.loads(run("losses", "--family", "lists", "--json")[1])
    assert [r["name"] for r in rows] == [m.INFO.name for m in METHODS.values() if m.INFO.family == "lists"]
    code, _, err = run("losses", "--family", "list")
    assert code == 2
    assert "there is no 'list', only distillation, images, lists, pairs" in err
    assert "Did you mean lists?" in err


def test_losses_table_names_all(run: Command) -> None:
    out = run("losses")[1]
    assert all(any(line.startswith(name) for line in out.splitlines()) for name in METHODS)


def test_the_page_of_the_losses_is_up_to_date(run: Command) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "losses.md"
    printed = run("losses", "--markdown")[1]
    assert all(f"### {name}\n" in printed for name in METHODS)
    families = [m.INFO.family for m in METHODS.values()]
    (counted,) = (line for line in printed.splitlines() if line.startswith(f"{len(METHODS)} methods, by family: "))
    assert all(f" {families.count(family)} {family}" in counted for family in set(families))
    assert page.read_text(encoding="utf-8") == printed, "run `jaxpo losses --markdown > docs/losses.md`"


def test_a_name_that_is_a_setting_is_answered_with_it(run: Command) -> None:
    code, out, err = run("losses", "wpo")
    assert (code, out) == (2, "")
    assert "--stage.use-weighting True" in err


def test_data_inspect(run: Command, pairs: Path, model: Path) -> None:
    code, out, err = run("data", "inspect", pairs, "--samples", "1", "--tokenizer", model / "tokenizer")
    assert (code, err) == (0, "")
    assert f"{pairs}: type preference, 14 rows" in out
    assert "method dpo: yes" in out
    assert "method lipo: no column 'responses'" in out
    assert "⟦path file<|im_end|>⟧" in out
    assert "tokens of chosen" in out


def test_data_tokenise(run: Command, pairs: Path, model: Path, tmp_path: Path) -> None:
    words = ("data", "tokenise", pairs, "--tokenizer", model / "tokenizer", "--out", tmp_path, "--max-length", "64")
    code, out, _ = run(*words)
    assert code == 0
    assert "14 examples of type 'preference'" in out
    assert any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["inspct"], "data: there is no task 'inspct'. Did you mean inspect?"),
        (["inspect", "gone.jsonl"], "gone.jsonl: no such file or folder."),
        (["tokenise", "x.jsonl"], "the following arguments are required: --tokenizer, --out."),
    ],
)
def test_data_mistakes(run: Command, argv: list[str], message: str) -> None:
    code, _, err = run("data", *argv)
    assert code == 2
    assert message in err


def test_a_broken_line_is_named(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n{"text": \n')
    code, _, err = run("data", "inspect", path)
    assert code == 2
    assert err.startswith(f"jaxpo: {path}, row 2: ")


def test_report_of_one_and_of_two(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"stage": "sft", "step": 1, "loss": 2.5}\n')
    monkeypatch.chdir(tmp_path)
    assert run("report", "a") == (0, "a/report.html\n", "")
    assert run("report", "a", "b") == (0, "comparison.html\n", "")
    assert "a vs b" in (tmp_path / "comparison.html").read_text()
    assert run("report", "a", "b", "--out", "x/y.html")[1] == "x/y.html\n"
    assert run("report", "gone")[2] == "jaxpo: gone: there is no such run directory.\n"
    assert run("report", "a", "--out", "x")[0] == 2


def test_env_names_versions_devices_and_extras(run: Command) -> None:
    import jax

    facts = json.loads(run("env", "--json")[1])
    assert facts["jax"] == jax.__version__
    assert facts["devices"] == f"{jax.device_count()} x cpu cpu"
    assert facts["cores"] >= 1
    assert facts["memory"].endswith(" GiB")
    assert facts["memory of each"] == "the machine's"
    assert facts["peak of each"].startswith("unknown")
    assert "--compute.peak-tflops" in facts["peak of each"]
    assert facts["compute.dtype"] == "float32 (cpu)"
    assert facts["attention"].startswith("xla: ")
    assert facts["cached attention"].startswith("blocks: ")
    assert facts["convolution"].startswith("xla: ")
    assert facts["experts"].startswith("blocks: ")
    assert facts["experts"].endswith("; also: ragged_dot")
    assert "compile cache" in facts
    assert "devices" not in run("env", "--no-devices")[1]
    assert env.installed("no-such-distribution") == "missing"


def test_env_of_a_known_chip_and_of_a_measured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from jaxpo.cli import env_devices
    from jaxpo.train import measured_peak

    def stats() -> dict[str, int]:
        return {"bytes_limit": 105 << 30}

    h200 = SimpleNamespace(platform="gpu", device_kind="NVIDIA H200", memory_stats=stats)
    other = SimpleNamespace(platform="gpu", device_kind="Another", memory_stats=lambda: None)
    assert env_devices.listed([h200, h200, other]) == "2 x gpu NVIDIA H200, 1 x gpu Another"
    assert env_devices.memory(h200) == "105.0 GiB for jax, 141 GB by its data sheet, 4.80 TB/s"
    assert env_devices.memory(other) == "unknown"
    assert env_devices.peak(h200) == "989.4 TFLOP/s in bfloat16, 494.7 TFLOP/s in float32"
    monkeypatch.setattr(measured_peak, "SIZES", (8, 16))
    monkeypatch.setattr(measured_peak, "_seconds", lambda run: 1e-3 if run().shape == (16, 16) else 1e-2)
    assert env_devices.measured_peak("float32") == 2 * 16**3 / 1e-3
    assert env_devices.measured().endswith(f"for mfu: --compute.peak-tflops {2 * 16**3 / 1e-3 / 1e12:.3g}")
