"""`jaxpo dry-run`: nothing is trained or read, what cannot be is refused, numbers are those of the parameter table."""

import json

import pytest
from jax.sharding import AbstractMesh

from jaxpo.cli import dry_run
from jaxpo.cli.dry_run import FLAG, device_count, environment, simulated
from jaxpo.cli.main import main
from jaxpo.config import Mesh, Run
from jaxpo.config.axes import AXES
from jaxpo.errors import ConfigError
from jaxpo.models.family import family, preset
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import leaves
from jaxpo.stages.dry_run import on_accelerator
from jaxpo.train.chips import SHORT, find_chip, named_chip
from jaxpo.train.memory import Load

TINY = """
from jaxpo.config import Data, Merge, Preference, Pretrain, Run, Tokenizer
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.objectives.methods import METHODS

def config():
    model = LFM2Config(vocab_size=64, hidden_size=16, intermediate_size=24, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, layer_types=("full_attention",))
    data = Data(train=("nowhere.jsonl",), max_length=16, row_length=32)
    return Run(model=model, tokenizer=Tokenizer(vocab_size=64), stages=(
        Pretrain(data=data, rows_per_step=8, max_steps=3),
        Preference(data=data, rows_per_step=8, max_steps=3, loss=METHODS["dpo"](), precompute_ref_log_probs=False),
        Merge(models=("pretrain", "preference")),
    ))
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(TINY)
    return "tiny.py"


def test_numbers_are_those_of_the_parameter_table(config, tmp_path, capsys):
    assert main(["dry-run", config, "--mesh.fsdp", "4", "--mesh.tensor", "2", "--lower", "--chip", "h100",
                 "--json", "plan.json"]) == 0  # fmt: skip
    pretrain, preference = json.loads((tmp_path / "plan.json").read_text())
    spread = {"embed": 4, "vocab": 2, "mlp": 2, "heads": 2, "kv_heads": 2, "conv": 2}
    namespace: dict = {}
    exec(TINY, namespace)
    table = param_table(namespace["config"]().model)
    values = 0
    for _, param in leaves(table):
        share = param.size
        for axis in param.axes:
            share //= spread.get(axis, 1)
        values += share
    for plan in (pretrain, preference):
        assert plan["per_device"]["parameters"] == 4 * values
        assert plan["per_device"]["optimizer"] == 2 * 4 * values + 2 * 4  # two moments, two counters
        assert plan["chip"]["formula"]["fits"]
        assert plan["chip"]["smallest_mesh"]["devices"] == 1
        assert plan["temporary"]["compiler"] is None
        assert plan["flops"]["step"] == 8 * plan["flops"]["per_device"] > 0
    assert pretrain["per_device"]["beside"] == 0
    assert preference["per_device"]["beside"] == 4 * values
    said = capsys.readouterr()
    assert "stage preference (Preference) on 8 devices: fsdp 4 x tensor 2" in said.out
    assert "merge: Merge has no training step" in said.err
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["plan.json", "tiny.py"]


@pytest.mark.parametrize(("words", "said"), [
    (["--mesh.fsdp", "16", "--pretrain.rows-per-step", "8", "--devices", "8"], "the axes of the mesh make 16 devices"),
    (["--devices", "1024"], "more than the 512"),
    (["--devices", "x"], "expected a number of devices"),
    (["--chip", "h1000"], "there is no chip 'h1000'. Did you mean"),
    (["--stage", "sft"], "there is no stage 'sft'; there are: pretrain, preference, merge"),
    (["--mesh.fsdp", "3"], "rows_per_step: 8 is not a multiple of 3"),
    (["--compute.remat", "auto"], "give --chip NAME"),
    (["--pretrain.data.max-length", "64"], "longer than row_length"),
])  # fmt: skip
def test_what_does_not_go_together_is_named(config, words, said, capsys):
    assert main(["dry-run", config, "--lower", *words]) == 2
    assert said in capsys.readouterr().err


def test_an_open_axis_takes_what_devices_leave():
    assert device_count(Run(), None) == 1
    assert device_count(Run(mesh=Mesh(tensor=2)), None) == 2
    assert device_count(Run(mesh=Mesh(tensor=2)), "64") == 64
    assert device_count(Run(mesh=Mesh(fsdp=64)), None) == 64


def test_a_process_of_its_own_keeps_other_flags_and_has_the_devices(config, monkeypatch):
    before = {"XLA_FLAGS": f"--xla_dump_to=x {FLAG}=4", "JAX_PLATFORMS": "cpu"}
    assert (simulated(before), simulated({}), simulated({"XLA_FLAGS": f"{FLAG}=4"})) == (4, 0, 0)
    after = environment(before, 512)
    assert simulated(after) == 512
    assert after["XLA_FLAGS"].split()[0] == "--xla_dump_to=x"
    assert after["XLA_FLAGS"].count(FLAG) == 1
    started = []

    def run(command, env, check):
        started.append((command, simulated(env)))
        return type("Ended", (), {"returncode": 7})

    monkeypatch.setattr(dry_run.subprocess, "run", run)
    assert main(["dry-run", config, "--mesh.fsdp", "64", "--pretrain.rows-per-step", "64"]) == 7
    assert [(command[2:5], devices) for command, devices in started] == [(["jaxpo", "dry-run", config], 64)]


def test_chips_by_short_name():
    assert all(find_chip(kind) is not None for kind in SHORT.values())
    assert named_chip("H100")[0] == "NVIDIA H100 80GB HBM3"
    assert named_chip("NVIDIA H200 NVL")[1].memory == 141e9
    with pytest.raises(ConfigError, match="Known: v100"):
        named_chip("abacus")


def test_where_a_row_lies_on_several_devices_each_has_the_keys_of_all_of_it():
    config, load = preset("nano"), Load(state=0, frozen=0, trained=0, weights=0, tokens=64)
    found = []
    for devices in (1, 4):
        mesh = AbstractMesh(tuple({"sequence": devices}.get(axis, 1) for axis in AXES), AXES)
        found.append(on_accelerator(Run(stages=()), config, load, "full", mesh).activations)
    # Keys, values, and the gradients of both, of 4 x 64 positions in bfloat16.
    assert found[1] - found[0] == 2 * 4 * (4 * 64) * family(config).kept(config, "full", 1).keys


@pytest.mark.parametrize("path", ["nowhere/plan.json", "."])
def test_a_file_that_cannot_be_written_is_named_before_anything_is_compiled(path, config, capsys, monkeypatch):
    monkeypatch.setattr(dry_run.subprocess, "run", lambda *_, **__: pytest.fail("something was started"))
    assert main(["dry-run", config, "--devices", "2", "--json", path]) == 2
    assert f"--json: cannot write {path}" in capsys.readouterr().err
