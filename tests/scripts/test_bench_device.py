"""scripts/bench --device needs no more than jax, flax, optax, numpy and this tree; its parts run at tiny shapes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchmarks.device import document, main  # noqa: E402

# What jaxpo depends on beyond jax, flax, optax and numpy (flax itself brings msgpack, rich, yaml, orbax, tensorstore).
ABSENT = (
    "jaxtyping", "orbax", "grain", "array_record", "tokenizers", "safetensors", "pyarrow", "tyro", "matplotlib",
    "sklearn", "datasketch", "jinja2", "torch", "transformers",
)  # fmt: skip
BLOCKED = f"""
import importlib.util, sys
from importlib.machinery import PathFinder

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.partition(".")[0] in {ABSENT!r} else found(name, *a)
sys.path.insert(0, {str(SCRIPTS)!r})
from benchmarks.device import main
"""


def in_bare_environment(code):
    """Run code where nothing but jax, flax, optax and numpy can be imported; its lines."""
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS.parent), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


PARTS = """
import json
for part in {parts!r}:
    for line in main.lines_of(part, True):
        print(json.dumps(dict(line, part=part)))
"""


def test_no_part_needs_more_than_jax_flax_optax_and_numpy():
    """Orbax comes with flax on most machines, so a part that read it would run here and fail elsewhere."""
    lines = in_bare_environment(PARTS.format(parts=["train_350m", "peer_train_1_2b", "peer_decode"]))
    trained, *peers = lines
    assert trained["rows"] == 2
    assert 4.0 < trained["loss"] < 6.0  # log 128 = 4.85, a few steps later
    assert trained["tokens_per_second"] * median(trained["seconds"]) == pytest.approx(64)
    assert [peer["missing"] for peer in peers] == ["torch is not installed"] * 2


@pytest.mark.slow  # every part in a process of its own
def test_all_parts_run_at_tiny_shapes(tmp_path, capsys):
    assert main.main(["--tiny", "--out", str(tmp_path), "--budget", "600"]) == 0
    machine, *lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert machine["platform"] == "cpu"
    assert {line["part"] for line in lines} == set(main.PARTS)
    assert not [line for line in lines if "error" in line and line.get("passed") is not True]
    table = (tmp_path / "gpu.md").read_text()
    assert "| train_1_2b | jaxpo, 1.2B, scanned, 2 rows |" in table
    assert "MFU = tokens/s x 3 (2 N + M) / peak" in table


@pytest.mark.parametrize(
    ("end", "limit", "said"),
    [("time.sleep(60)", 3.0, "not done after 3 s"), ("sys.exit('no device')", 60.0, "exit status 1: no device")],
)
def test_a_part_that_fails_or_hangs_keeps_what_it_found(monkeypatch, end, limit, said):
    code = 'import sys, time; print(\'{"name": "a"}\', flush=True); ' + end
    monkeypatch.setattr(main, "command_of", lambda part, tiny: [sys.executable, "-c", code])
    lines = main.run_part("head", True, limit, dict(os.environ))
    assert lines[0]["name"] == "a"
    assert lines[1]["error"] == said


MACHINE = {
    "count": 1,
    "device": "a chip",
    "python": "3.12",
    **dict.fromkeys(("jax", "jaxlib", "flax", "optax", "numpy"), "1"),
}


def test_the_document_keeps_its_text_and_shows_every_line(tmp_path):
    (tmp_path / "gpu.md").write_text(f"above\n{document.BEGIN}\nmissing\n{document.END}\nbelow\n")
    trained = {"part": "train", "name": "jaxpo", "rows": 4, "seconds": [0.2, 0.1, 0.4], "tokens_per_second": 1e5}
    trained |= {"tflops": 450.0, "mfu": {"datasheet": 0.455}, "peak_bytes": 3 << 30, "did_not_fit": [8]}
    lines = [
        trained,
        {"part": "backends", "name": "pallas", "error": {"value": 0.5, "dq": 0.1}, "passed": False},
        {"part": "peer", "name": "transformers", "missing": "torch is not installed"},
    ]
    document.write(tmp_path, MACHINE, lines)
    text = (tmp_path / "gpu.md").read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "missing\n" not in text
    row = (
        "| train | jaxpo, 4 rows | 100,000 | 200.0 (100.0..400.0) | 450 | 45.5% |  | 3.00 GiB | no memory for 8 rows |"
    )
    assert row in text
    assert "DIFFERENT: 5.0e-01 from xla at most" in text
    assert "not measured: torch is not installed" in text


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(SystemExit):
        main.main(["--parts", "train_350m,nothing"])
    assert "no part nothing; there are backends, " in capsys.readouterr().err
