"""The formats that a model is exported to: one table, of which `jaxpo export` and its help are made."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpo.convert.gguf.kinds import K_QUANTS, KINDS
from jaxpo.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Row:
    """One file of an export, as the table at the end shows it.

    Attributes:
      size: in bytes.
      by: what verified it; "" = nothing did.
      difference: the largest one that was found, in words.
      note: what a user should know of the file besides; "" for nothing.
    """

    format: str
    file: str
    size: int
    by: str = ""
    difference: str = ""
    note: str = ""


@dataclass(frozen=True)
class Options:
    """What every format is asked with.

    Attributes:
      dtypes: of the format's own; several make several files where the format allows it.
      max_shard_size: bytes or "5GB", where a model is split.
      overwrite: replace an existing folder.
      verify: run what was written by another implementation and compare.
      python: the interpreter that has the packages of another runtime; None = this one.
    """

    dtypes: tuple[str, ...]
    max_shard_size: int | str = "5GB"
    overwrite: bool = False
    verify: bool = True
    python: str | None = None


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
      about: for the help.
      dtypes: what `--dtype` may be; the first is the default.
      several: whether one export may hold files of several types.
      writer: `module:function`, `(model, out, options) -> rows`; imported when it is asked for.
    """

    name: str
    about: str
    dtypes: tuple[str, ...]
    several: bool
    writer: str

    def write(self, model: Path, out: Path, options: Options) -> list[Row]:
        """Export a model's folder; see `writer`."""
        module, _, name = self.writer.partition(":")
        function: Callable[..., list[Row]] = getattr(importlib.import_module(module), name)
        return function(model, out, options)

    def chosen(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The types that were asked for; ConfigError for one that the format has not."""
        dtypes = tuple(dict.fromkeys(wanted or self.dtypes[:1]))
        for dtype in dtypes:
            if dtype not in self.dtypes:
                raise ConfigError(
                    f"export: --dtype {dtype} is none of --format {self.name}, which has {', '.join(self.dtypes)}."
                    f"{did_you_mean(dtype, self.dtypes)}"
                )
        if len(dtypes) > 1 and not self.several:
            raise ConfigError(f"export: --format {self.name} holds one type; give one --dtype.")
        return dtypes


HF, GGUF, DIFFUSERS = "hf", "gguf", "diffusers"
FORMATS = {
    each.name: each
    for each in (
        Format(
            HF,
            "safetensors for transformers, vLLM, MLX",
            ("float32", "bfloat16"),
            False,
            "jaxpo.convert.hf_folder:write",
        ),
        Format(
            GGUF,
            "for llama.cpp and what is built on it",
            (*KINDS, *K_QUANTS),
            True,
            "jaxpo.convert.gguf.folder:write",
        ),
        Format(
            DIFFUSERS,
            "a model of images, for diffusers",
            ("float32", "bfloat16"),
            False,
            "jaxpo.convert.diffusers.write:write",
        ),
        Format(
            "mlx",
            "for MLX, by mlx-lm's converter",
            ("float32", "bfloat16", "int8", "int4"),
            False,
            "jaxpo.convert.runtimes.folder:write_mlx",
        ),
        Format(
            "onnx",
            "for ONNX Runtime and GenAI, by GenAI's builder",
            ("float32", "int4"),
            False,
            "jaxpo.convert.runtimes.folder:write_onnx",
        ),
        Format(
            "executorch",
            "for ExecuTorch with XNNPACK, by its LFM2 export",
            ("float32", "8da4w"),
            False,
            "jaxpo.convert.runtimes.folder:write_executorch",
        ),
    )
}


def table(rows: Sequence[Row]) -> list[str]:
    """Lines: format, file, size, verified by, largest difference; and the notes below."""
    cells = [["format", "file", "size", "verified by", "largest difference"]]
    cells += [[r.format, r.file, shown_size(r.size), r.by or "not verified", r.difference or "-"] for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return shown + [f"{row.file}: {row.note}" for row in rows if row.note]


def shown_size(size: int) -> str:
    """Bytes in powers of 1000."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def nats(report: dict[str, Any]) -> str:
    """What a comparison of log-probs found."""
    return f"{report['max_logprob_error']:.1e} nats, KL {report['kl']:.1e}"
