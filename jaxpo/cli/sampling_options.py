"""Options that `generate` and `chat` share."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.errors import CheckpointError, DataError
from jaxpo.sampling.sampler import Sampler


def add_options(parser: Parser, *, own: bool = False, **defaults: float) -> None:
    """Model, sampler, length and seed.

    Args:
      own: whether the settings in the model's generation_config.json go before `defaults`.
      defaults: fields of `Sampler`; the others have the sampler's.
    """
    fallback = Sampler(**defaults)  # type: ignore[arg-type]
    before = "that of the model, else " if own else ""
    add_model(parser)
    parser.add_argument("--max-new-tokens", type=int, default=256, help="per answer (default 256)")
    add_sampler(parser, fallback, before)
    parser.add_argument("--seed", type=int, default=0)


def add_model(parser: Parser) -> None:
    """The model that is used."""
    parser.add_argument("model", type=Path, help="run directory, stage directory, HF export, or PEFT adapter")


def add_sampler(parser: Parser, fallback: Sampler, before: str = "") -> None:
    """The sampler's settings.

    Args:
      before: what else goes before `fallback`, for the help.
    """
    for name, kind, meaning in _SETTINGS:
        default = getattr(fallback, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, help=f"{meaning} (default {before}{default:g})")
    parser.set_defaults(fallback=fallback)


_SETTINGS = (
    ("temperature", float, "0 = greedy"),
    ("top_k", int, "keep the k most probable tokens; 0 = off"),
    ("top_p", float, "keep the smallest set of this probability; 1 = off"),
    ("min_p", float, "relative to the most probable; 0 = off"),
    ("repetition_penalty", float, "of tokens of prompt and answer; 1 = off"),
    ("frequency_penalty", float, "per time that the answer holds a token; 0 = off"),
    ("presence_penalty", float, "of every token that the answer holds; 0 = off"),
)


def sampler_of(args: argparse.Namespace, own: Mapping[str, Any] | None = None) -> Sampler:
    """The sampler that the options describe; ConfigError lists every value out of range.

    Args:
      own: the model's generation_config.json, whose settings stand where no option is given.
    """
    given = {name: getattr(args, name) for name, _, _ in _SETTINGS}
    theirs = dict(own or {})
    if theirs.get("do_sample") is False:
        theirs["temperature"] = 0.0
    chosen = {name: theirs.get(name) if value is None else value for name, value in given.items()}
    return dataclasses.replace(args.fallback, **{name: value for name, value in chosen.items() if value is not None})


def stop_ids(model: Any) -> tuple[int, ...]:
    """What ends an answer: the turn's end, and every end that the model's generation_config.json names."""
    from jaxpo.convert.generation import end_ids

    return end_ids(model.generation, model.tokenizer.eos_id)


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
    from jaxpo.data.chat.template_choice import announcements
    from jaxpo.models.family import family

    model = load_model(path)
    if model.tokenizer is None:
        raise CheckpointError(f"{path}: holds no tokenizer, so text cannot be generated; put tokenizer.json beside it.")
    # Beside the answers, which may be read by programs.
    for line in announcements(model.tokenizer, chats=family(model.config).denoise is None)[
        : len(model.tokenizer.notes) + 1
    ]:
        print(line, file=sys.stderr)
    return model
