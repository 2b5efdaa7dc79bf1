"""Every reader of files from elsewhere, with a valid folder for it: what is read, and how a whole file looks."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from data.written import COMPRESSED, as_arrow, as_parquet
from diffusion import vae
from diffusion.filled import filled
from diffusion.tiny import PIPELINES
from models.adapters import drawn
from models.tiny import CONFIG, params
from models.tiny_moe import CONFIG as MOE
from models.tiny_moe import params as moe_params

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import Data, LoRA, serialise
from jaxpo.config.file import load_module
from jaxpo.convert.adapter_folder import base_of
from jaxpo.convert.config_json import config_to_json, read_config_json
from jaxpo.convert.diffusers.lora import FILE as LORA_FILE
from jaxpo.convert.diffusers.lora import export_lora, read_lora
from jaxpo.convert.diffusers.read import notes
from jaxpo.convert.diffusers.write import export_diffusers
from jaxpo.convert.folder import open_folder
from jaxpo.convert.generation import end_ids, read_generation
from jaxpo.convert.gguf.read import open_gguf
from jaxpo.convert.gguf.write import write_gguf
from jaxpo.convert.hf import check_tensors, export_hf, tensors_of
from jaxpo.convert.model_io import read_config, read_heads, save_model
from jaxpo.convert.peft import export_peft
from jaxpo.convert.shards import open_shards
from jaxpo.curriculum.matrix import SuccessMatrix
from jaxpo.data.chat.template_choice import announcements
from jaxpo.data.packing.teacher_reader import TeacherRecords
from jaxpo.data.packing.teacher_records import (
    RecordsMeta,
    Taught,
    part_file,
    parts_of,
    recorded,
    start_records,
    write_part,
)
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from jaxpo.data.tokens.inspect import inspect
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import ConfigError
from jaxpo.merge.mergekit.yaml import read_document
from jaxpo.models.family import param_table
from jaxpo.models.spec import leaves
from jaxpo.recipe.checks.run import check
from jaxpo.recipe.overrides import load_run_with, resolve_run

ROWS = [{"prompt": f"p{i} ü", "chosen": f"good {i} 漢", "rejected": "b", "margin": 0.5, "id": i} for i in range(6)]
CHAT = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]},
        {"role": "tool", "content": {"r": 1}},
        {"role": "assistant", "content": "c", "reasoning_content": "t"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": {"type": "int"}}}}],
}
TABLE = pa.Table.from_pylist([row | {"tags": [1, None], "at": {"x": [{"y": "z"}]}} for row in ROWS])
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
MERGEKIT = """\
merge_method: ties
base_model: a
models:
  - model: b
    parameters: {weight: 0.5, density: [0.1, 0.9]}
  - model: c
    parameters:
      weight: [{filter: mlp, value: 0.1}, {value: 1}]
parameters: {normalize: true}
dtype: float32
"""
SLICES = """\
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 2]}]
- sources: [{model: b, layer_range: [1, 3], parameters: {scale: 0.5}}]
"""
JINJA = """\
{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}
{%- for message in messages %}{% if message['role'] != 'assistant' and not false %}
{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content | trim ~ '<|im_end|>' }}{% else %}
{%- generation %}{{ message['content'] * 2 }}{{ message | tojson(indent=2) }}{% endgeneration %}{% endif %}
{%- endfor %}{% macro f(n) %}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{%- if add_generation_prompt %}{{ '%s' % 'x' + 'y'.replace('y', 'z') }}{% endif %}
"""
RECIPE = """\
from jaxpo.config import Run

WORDS = ("a", 1)


def config():
    return Run(name="x")
"""


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
      file: what is damaged, inside the folder.
      make: a folder in which the file is whole; made once.
      read: of the damaged file's path.
      document: whether the file is a JSON object whose values can be exchanged.
    """

    name: str
    file: str
    make: Callable[[], Path]
    read: Callable[[Path], Any]
    document: bool = False

    @property
    def whole(self) -> bytes:
        """The valid file."""
        return (self.make() / self.file).read_bytes()


@functools.cache
def _home() -> Path:
    return Path(tempfile.mkdtemp(prefix="jaxpo-fuzz-"))


def forget() -> None:
    """Remove what was made."""
    shutil.rmtree(_home(), ignore_errors=True)
    for make in (_home, tokenizer, model, gguf_file, pipeline, run, _dataset, records, checkpoint, _matrix):
        make.cache_clear()


def _alone(name: str, content: bytes) -> Callable[[], Path]:
    """A folder with one file."""

    def make() -> Path:
        folder = _home() / f"of-{name}"
        if not folder.is_dir():
            folder.mkdir()
            (folder / name).write_bytes(content)
        return folder

    return make


@functools.cache
def tokenizer() -> Tokenizer:
    return train_tokenizer(["some text with a few words and numbers 123"] * 3, 300)


@functools.cache
def model() -> Path:
    """A checkpoint in two files with its tokenizer, `adapter` that names it, and `moe` with a config.json alone."""
    folder = _home() / "model"
    export_hf(params(), CONFIG, folder, verify=False, max_shard_size="8KB", tokenizer=tokenizer())
    (folder / "chat_template.jinja").write_text(JINJA)
    lora = LoRA(rank=2)
    vae.folder_of(folder / "vae")
    from jaxpo.models.lowrank import adapter_table

    own = drawn(adapter_table(param_table(CONFIG), lora))
    export_peft(own, lora, params(), CONFIG, folder / "adapter", base_name=str(folder), verify=False)
    document = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    patterns = {"rank_pattern": {"q_proj": 2, r"layers\.1\..*": 2}, "alpha_pattern": {"k_proj": 16}}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(document | patterns))
    (folder / "moe").mkdir()
    (folder / "moe" / "config.json").write_text(json.dumps(config_to_json(MOE, "float32")))
    return folder


@functools.cache
def gguf_file() -> Path:
    """A folder with a GGUF file, a mixture, in eight bits where its rows allow it."""
    folder = _home() / "gguf"
    folder.mkdir()
    config = dataclasses.replace(MOE, vocab_size=300, hidden_size=32, routed_scaling_factor=1.0)
    sources = tensors_of(moe_params(config), param_table(config))
    write_gguf(folder / "model.gguf", sources, config, tokenizer(), "q8_0", name="tiny")
    return folder


@functools.cache
def pipeline() -> Path:
    """Folders of diffusers, `unet` and `dit` (with all there is), an adapter of the second, `lora`, and `vae`."""
    folder = _home() / "pipelines"
    folder.mkdir()
    for name, config in PIPELINES.items():
        export_diffusers(filled(param_table(config)), config, folder / name, verify=False)
    from jaxpo.models.lowrank import adapter_table

    lora = LoRA(rank=2, target_modules=("*/attn1/to_q/weight",))
    own = drawn(adapter_table(param_table(PIPELINES["dit"]), lora))
    export_lora(own, lora, PIPELINES["dit"], folder / "lora", verify=False)
    vae.folder_of(folder / "vae")
    return folder


def _read_above(levels: int) -> Callable[[Path], None]:
    def read(file: Path) -> None:
        folder = file.parents[levels]
        list(notes(folder))
        _read_folder(folder)

    return read


def _read_gguf(file: Path) -> None:
    for tensor in open_gguf(file).tensors.values():
        tensor.read()


def _read_folder(folder: Path) -> None:
    with open_folder(folder) as found:
        check_tensors(found.tensors, param_table(found.config), folder)
        for tensor in found.tensors.values():
            tensor.read()


def _read_shards(file: Path) -> None:
    with open_shards(file.parent) as found:
        for tensor in found.values():
            tensor.read()


def _read_config(file: Path) -> None:
    list(leaves(param_table(read_config_json(file.parent))))


def _read_adapter(file: Path) -> None:
    base_of(file.parent)
    _read_folder(file.parent)


def _read_tokenizer(file: Path) -> None:
    found = Tokenizer.load(file)
    ids = found.encode("some text <|im_end|> ü 123 \n\n")
    found.decode(ids), found.pieces(ids), found.encode_batch(["a b", "", "x" * 3000])
    found.save(file.parent / "again")


def _read_template(file: Path) -> None:
    found = Tokenizer.load(file.parent)
    announcements(found)
    rows = file.parent / "rows.json"
    rows.write_text(json.dumps(CHAT))
    inspect(rows, tokenizer=found)


@functools.cache
def run() -> Path:
    """A saved configuration."""
    folder = _home() / "run"
    folder.mkdir()
    rows = _alone("rows.jsonl", LINES)() / "rows.jsonl"
    words = ["--preference.data.train", str(rows), "--tokenizer.train-on", str(rows)]
    (folder / "config.json").write_text(serialise.dump(resolve_run(*load_run_with("preference", words)).run))
    return folder


@functools.cache
def _dataset() -> Any:
    file = _alone("taught.jsonl", b'{"text": "some text"}\n{"text": "a few words"}\n')() / "taught.jsonl"
    needs = Needs(roles=("completion",))
    data = Data(max_length=16, row_length=16)
    cache = _home() / "cache"
    return prepare([file], data=data, tokenizer=tokenizer(), purpose="sft", needs=needs, cache_dir=cache, log=len)


@functools.cache
def records() -> Path:
    """Teacher records of two texts."""
    folder, dataset, k = _home() / "records", _dataset(), 3
    meta = RecordsMeta(dataset.hash, dataset.tokenizer.hash, "t", 300, k, "float32", len(dataset))
    start_records(folder, meta)
    for part, numbers in enumerate(parts_of(dataset, meta.part_tokens)):
        entries = []
        for example in dataset.store.read(numbers):
            n = sum(map(len, recorded(example)))
            half = np.zeros((n, k), jnp.bfloat16)
            entries.append(Taught(np.zeros((n, k), np.uint16), half, np.zeros(n, np.float32)))
        write_part(folder, part, meta, entries)
    assert part_file(folder, 0).is_file()
    return folder


def _read_records(file: Path) -> None:
    dataset = _dataset()
    found = TeacherRecords(file.parent, dataset)
    numbers = range(len(dataset))
    list(found.of_examples(numbers, dataset.store.read(numbers)))


@functools.cache
def checkpoint() -> Path:
    """A finished stage's model: `model/00000000/meta/meta.json` among its files."""
    folder = _home() / "stage"
    save_model(folder, {"model": {"w": jnp.zeros(2)}, "value": {"weight": jnp.zeros((2, 1))}}, CONFIG, {"stage": "x"})
    return folder


def _read_checkpoint(file: Path) -> None:
    stage = file.parents[3]
    store = CheckpointStore(stage / "model", keep=None)
    store.meta(), store.environment(), read_config(stage), read_heads(stage)


@functools.cache
def _matrix() -> Path:
    folder = _home() / "matrix"
    folder.mkdir()
    SuccessMatrix(("m",), ("a", "b"), np.ones((1, 2), bool), {"a": {"x": 1}}).save(folder / "matrix.npz")
    return folder


def _read_rows(file: Path) -> None:
    for row in read_rows([file]):
        json.dumps(row.data, ensure_ascii=False, default=bytes.hex).encode()


def _read_run(file: Path) -> None:
    run = serialise.load(file)
    with contextlib.suppress(ConfigError):  # names fields; of which file they are is known
        check(run)


def _rows() -> Iterator[Target]:
    contents = {
        "rows.jsonl": LINES,
        "list.json": json.dumps(ROWS, indent=1).encode(),
        "table.csv": b"prompt,chosen,rejected,margin,scores\n" + b'a,"some ""text"", \xc3\xbc",b,0.5,"[1, 2]"\n' * 9,
        "document.txt": "Some text ü 漢\n".encode() * 20,
        "table.parquet": as_parquet(TABLE),
        "stream.arrow": as_arrow(TABLE, pa.ipc.new_stream),
        "file.arrow": as_arrow(TABLE, pa.ipc.new_file),
        **{f"rows.jsonl{name}": compress(LINES) for name, compress in COMPRESSED.items() if name},
        "table.parquet.gz": COMPRESSED[".gz"](as_parquet(TABLE)),
    }
    for name, content in contents.items():
        yield Target(name, name, _alone(name, content), _read_rows)
    yield Target("pairs", "pair.json", _alone("pair.json", json.dumps(ROWS[0]).encode()), inspect, document=True)
    yield Target("chats", "chat.json", _alone("chat.json", json.dumps(CHAT).encode()), inspect, document=True)


def _models() -> Iterator[Target]:
    first = "model-00001-of-00005.safetensors"
    yield Target("safetensors", first, model, _read_shards)
    yield Target("gguf", "model.gguf", gguf_file, _read_gguf)
    yield Target("index", "model.safetensors.index.json", model, _read_shards, document=True)
    yield Target("config", "config.json", model, _read_config, document=True)
    yield Target("config_moe", "config.json", lambda: model() / "moe", _read_config, document=True)
    yield Target("generation", "generation_config.json", model, lambda f: end_ids(read_generation(f.parent), 0), True)
    yield Target("adapter", "adapter_config.json", lambda: model() / "adapter", _read_adapter, document=True)
    yield Target("tokenizer", "tokenizer.json", model, _read_tokenizer, document=True)
    yield Target("tokenizer_config", "tokenizer_config.json", model, _read_template, document=True)
    yield Target("template", "chat_template.jinja", model, _read_template)


def _pipelines() -> Iterator[Target]:
    weights = "unet/diffusion_pytorch_model.safetensors"
    yield Target("pipeline", "model_index.json", lambda: pipeline() / "unet", _read_above(0), document=True)
    yield Target("unet", "unet/config.json", lambda: pipeline() / "unet", _read_above(1), document=True)
    yield Target("unet_weights", weights, lambda: pipeline() / "unet", _read_above(1))
    yield Target("dit", "transformer/config.json", lambda: pipeline() / "dit", _read_above(1), document=True)
    yield Target("tower", "jaxpo.json", lambda: pipeline() / "dit", _read_above(0), document=True)
    yield Target(
        "vae", "config.json", lambda: pipeline() / "vae", lambda file: _read_folder(file.parent), document=True
    )
    scheduler = "scheduler/scheduler_config.json"
    yield Target("scheduler", scheduler, lambda: pipeline() / "dit", _read_above(1), document=True)
    yield Target("lora", LORA_FILE, lambda: pipeline() / "lora", lambda file: read_lora(file, PIPELINES["dit"]))


def _ours() -> Iterator[Target]:
    yield Target("run", "config.json", run, _read_run, document=True)
    yield Target("recipe", "recipe.py", _alone("recipe.py", RECIPE.encode()), load_module)
    yield Target("records_meta", "meta.json", records, _read_records, document=True)
    yield Target("records", "part-00000.array_record", records, _read_records)
    yield Target("checkpoint", "model/00000000/meta/meta.json", checkpoint, _read_checkpoint, document=True)
    yield Target("matrix", "matrix.npz", _matrix, SuccessMatrix.load)
    yield Target("mergekit", "merge.yaml", _alone("merge.yaml", MERGEKIT.encode()), read_document)
    yield Target("slices", "slices.yaml", _alone("slices.yaml", SLICES.encode()), read_document)


TARGETS = {target.name: target for target in (*_rows(), *_models(), *_pipelines(), *_ours())}
