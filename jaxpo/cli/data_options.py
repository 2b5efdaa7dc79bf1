"""Options of the commands that tokenise data as a stage would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.config import Data


def add_options(parser: Parser) -> None:
    """Length, truncation and what is trained on: the settings that must be the stage's."""
    parser.add_argument("--max-length", type=int, default=1024)
    truncations = ("response_right", "prompt_left", "drop", "error")
    parser.add_argument("--truncation", choices=truncations, default="response_right")
    parser.add_argument(
        "--on-empty", choices=("error", "skip"), default="error", help="rows without any text to learn (default error)"
    )
    add_reading(parser)


def add_files(parser: Parser) -> None:
    """What is read."""
    formats = "JSONL, JSON, CSV, Parquet, Arrow or text files, compressed or not, or folders"
    parser.add_argument("files", nargs="+", help=formats)


def add_reading(parser: Parser) -> None:
    """What is trained on, and how marks of the template and special tokens in texts are read."""
    parser.add_argument("--train-on", choices=("auto", "assistant", "completion", "all"), default="auto")
    parser.add_argument(
        "--reasoning", choices=("keep", "strip"), default="keep", help="what assistants think aloud (default keep)"
    )
    parser.add_argument("--rendered", choices=("auto", "text", "refuse"), default="auto", help="texts already rendered")
    parser.add_argument("--special-tokens", nargs="+", default=(), help="ids in answers: names, or all")


def data_of(args: Any, files: Sequence[str], row_length: int | None = None) -> Data:
    """The same settings as those of a stage that reads these files."""
    return Data(
        train=tuple(files),
        max_length=args.max_length,
        row_length=row_length or args.max_length,
        truncation=args.truncation,
        on_empty=args.on_empty,
        **reading_of(args),
    )


def reading_of(args: Any) -> dict[str, Any]:
    """The fields of `Data` that `add_reading` gives."""
    return {
        "train_on": args.train_on,
        "rendered": args.rendered,
        "special_tokens": tuple(args.special_tokens),
        "reasoning": args.reasoning,
    }
