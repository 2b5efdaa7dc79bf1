"""Options that `generate` and `chat` share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.errors import CheckpointError, DataError
from jaxpo.sampling.sampler import Sampler


def add_options(parser: Parser, *, temperature: float, min_p: float, repetition_penalty: float) -> None:
    """Model, sampler, length and seed."""
    parser.add_argument("model", type=Path, help="run directory, stage directory, or HF export")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="per answer (default 256)")
    parser.add_argument("--temperature", type=float, default=temperature, help=f"0 = greedy (default {temperature:g})")
    parser.add_argument("--top-k", type=int, default=0, help="keep the k most probable tokens; 0 = off")
    parser.add_argument("--top-p", type=float, default=1.0, help="keep the smallest set of this probability; 1 = off")
    parser.add_argument("--min-p", type=float, default=min_p, help=f"relative to the most probable (default {min_p:g})")
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        default=repetition_penalty,
        help=f"1 = off (default {repetition_penalty:g})",
    )
    parser.add_argument("--seed", type=int, default=0)


def sampler_of(args: argparse.Namespace) -> Sampler:
    """The sampler that the options describe; ConfigError lists every value out of range."""
    return Sampler(
        repetition_penalty=args.repetition_penalty,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
    )


def no_text(where: str) -> DataError:
    """The error for bytes that are no characters."""
    return DataError("not UTF-8.", file=where, remedy="Convert it: `iconv -f WINDOWS-1252 -t UTF-8`.")


def as_text(text: str, where: str) -> str:
    """What was typed or given; DataError when some of it was no characters in this terminal's encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise no_text(where) from None
    return text


def load_with_tokenizer(path: Path) -> Any:
    """A model that can read and write text."""
    from jaxpo.convert.model_io import load_model
    from jaxpo.data.tokens.chat_templates import template_of

    model = load_model(path)
    if model.tokenizer is None:
        raise CheckpointError(f"{path}: holds no tokenizer, so text cannot be generated; put tokenizer.json beside it.")
    # Beside the answers, which may be read by programs.
    for line in (*model.tokenizer.notes, *template_of(model.tokenizer).words[:1]):
        print(line, file=sys.stderr)
    return model
