"""`jaxpo export MODEL OUT`: a checkpoint that transformers, vLLM and llama.cpp's converter load, verified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser


def add_options(parser: Parser) -> None:
    """Options of every command that writes a Hugging Face checkpoint."""
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the tensors on disk")
    parser.add_argument("--max-shard-size", default="5GB", help="larger models are split and indexed (default 5GB)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    parser.add_argument("--no-verify", action="store_true", help="do not compare the files with the model")


def main(argv: Sequence[str]) -> int:
    parser = Parser("export", "Write a Hugging Face checkpoint and compare it numerically with the model it came from.")
    parser.add_argument("model", type=Path, help="run directory, stage directory, or HF export")
    parser.add_argument("out", type=Path, help="folder to make")
    add_options(parser)
    args = parser.parse(argv)

    from jaxpo.stages.model_io import load_model

    model = load_model(args.model)
    write(model.params["model"], model.config, model.tokenizer, args)
    return 0


def write(params: Any, config: Any, tokenizer: Any, args: Any) -> None:
    """Export, verify, and say what was reached."""
    from jaxpo.convert.hf import export_hf

    report = export_hf(
        params,
        config,
        args.out,
        tokenizer=tokenizer,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        overwrite=args.overwrite,
        verify=not args.no_verify,
    )
    without = "" if tokenizer is not None else " (without a tokenizer: the model's directory has none)"
    if report:
        error, kl = report["max_logprob_error"], report["kl"]
        print(f"{args.out}: exported{without}; max log-prob error {error:.2e} nats, KL {kl:.2e}")
    else:
        print(f"{args.out}: exported{without}, not verified")
