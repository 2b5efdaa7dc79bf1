"""Model cards: made of the run's own records, silent about what nobody knows; and the table of formats."""

import json

import pytest
from models.tiny import CONFIG

from jaxpo.convert.card import Facts, facts_of, lines
from jaxpo.convert.formats import FORMATS, Row, shown_size, table
from jaxpo.errors import ConfigError

STAGES = [
    {
        "__type__": "jaxpo.config.stages:Pretrain",
        "name": "pretrain",
        "max_steps": 40,
        "optimizer": {"learning_rate": 0.01},
    },
    {"__type__": "jaxpo.config.stages:SFT", "name": "sft", "rows_per_step": 4, "max_steps": None, "seed": 3},
    {"__type__": "jaxpo.config.stages:Preference", "name": "dpo", "max_steps": 9},
]
PROBES = {
    "pretrain": {"accuracy": {"value": 0.1, "n": 50, "low": 0.0, "high": 0.2}},
    "sft": {
        "accuracy": {"value": 0.5, "n": 50, "low": 0.366, "high": 0.634},
        "gzip": {"value": 2.25, "n": 3},
        "odd": None,
    },
}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "my-run"
    (folder / "stages" / "sft" / "checkpoints" / "00000004").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"stages": STAGES}))
    (folder / "summary.json").write_text(json.dumps({"probes": PROBES}))
    return folder


@pytest.mark.parametrize("inside", [".", "stages/sft", "stages/sft/checkpoints/00000004"])
def test_a_stage_of_a_run(run, inside):
    facts = facts_of(run / inside, {"stage": "sft", "trained_on": "chat.jsonl (812 examples)"})
    assert facts.name == "my-run"
    assert facts.recipe == (
        "1. pretrain (Pretrain): max_steps 40, learning_rate 0.01",
        "2. sft (SFT): rows_per_step 4, seed 3",
    )
    assert facts.figures == (("sft", "accuracy", "0.5", "0.366 to 0.634", "50"), ("sft", "gzip", "2.25", "-", "3"))
    text = "\n".join(lines(facts, CONFIG, ["Run it so."], ["a table"]))
    for part in (
        "# my-run",
        "chat.jsonl (812 examples)",
        "| sft | accuracy | 0.5 | 0.366 to 0.634 | 50 |",
        "Run it so.",
    ):
        assert part in text
    assert "# license: name the licence" in text
    assert "dpo" not in text


def test_a_model_from_elsewhere(tmp_path):
    (tmp_path / "LFM2").mkdir()
    facts = facts_of(tmp_path / "LFM2", {"stage": "import", "trained_on": "a Hugging Face checkpoint (LFM2)"})
    assert facts == Facts("LFM2", "a Hugging Face checkpoint (LFM2)")
    text = "\n".join(lines(Facts("x"), CONFIG, []))
    assert "Not recorded." in text
    assert "## Recipe" not in text
    assert "## Figures" not in text


def test_the_table_and_its_formats():
    rows = [Row("gguf", "m-F32.gguf", 1_234_567, "llama.cpp", "1.0e-05 nats"), Row("gguf", "m.gguf", 12)]
    assert table(rows) == [
        "format  file        size    verified by   largest difference",
        "gguf    m-F32.gguf  1.2 MB  llama.cpp     1.0e-05 nats",
        "gguf    m.gguf      12 B    not verified  -",
    ]
    assert [shown_size(n) for n in (999, 1000, 5_138_544_640)] == ["999 B", "1.0 kB", "5.1 GB"]
    assert FORMATS["hf"].chosen([]) == ("float32",)
    assert FORMATS["gguf"].chosen(["q8_0", "f32", "q8_0"]) == ("q8_0", "f32")
    with pytest.raises(ConfigError, match=r"--dtype q8_1 is none of --format gguf.*Did you mean q8_0"):
        FORMATS["gguf"].chosen(["q8_1"])
    with pytest.raises(ConfigError, match="--format hf holds one type"):
        FORMATS["hf"].chosen(["float32", "bfloat16"])
