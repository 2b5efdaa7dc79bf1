"""`jaxpo data TASK`: inspect, tokenise, construct, score, route, record a teacher, encode, clean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.data_options import add_files, add_options, add_reading, data_of, reading_of
from jaxpo.config import Data, Images
from jaxpo.data.tokens.preview import Preview
from jaxpo.errors import ConfigError, did_you_mean

USAGE = """\
usage: jaxpo data inspect FILES... [options]    what they can train and how; type, columns, lengths, rendered rows
       jaxpo data tokenise FILES... --tokenizer PATH --out FOLDER [options]
       jaxpo data construct METHOD FILES... OUT.jsonl [options]    the data set that a method is trained on
       jaxpo data score FILES... OUT.jsonl [options]    the rows with a column of a reward model's or judge's scores
       jaxpo data route FILES... OUT.jsonl --runs RUNS [options]    which pairs people label, and which a judge does
       jaxpo data teach TEACHER FILES... OUT [options]    a teacher's likeliest tokens, recorded for distillation
       jaxpo data embed FILES... INDEX --model MODEL [options]    a retriever's vectors of documents, to be searched
       jaxpo data encode-images FILES... OUT.parquet --encoder FOLDER [options]    images as latents, once
       jaxpo data difficulty [GRADED...] --out OUT.jsonl [options]    how hard each row is, for a curriculum
       jaxpo data dedup FILES... OUT.jsonl [options]           without rows that nearly repeat earlier ones
       jaxpo data decontaminate FILES... OUT.jsonl --against FILES... [options]    without a benchmark's

Each of them lists its options with `--help`."""


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    from jaxpo.cli import clean, construct, difficulty, embed, encode_images, route, score, teach

    tasks = {
        "inspect": inspect_files,
        "tokenise": tokenise,
        "tokenize": tokenise,
        "construct": construct.main,
        "score": score.main,
        "route": route.main,
        "teach": teach.main,
        "embed": embed.main,
        "encode-images": encode_images.main,
        "difficulty": difficulty.main,
        "dedup": clean.dedup,
        "decontaminate": clean.decontaminate,
    }
    if argv[0] not in tasks:
        raise ConfigError(f"data: there is no task {argv[0]!r}.{did_you_mean(argv[0], tasks)}\n\n{USAGE}")
    return tasks[argv[0]](argv[1:])


def inspect_files(argv: Sequence[str]) -> int:
    """Every row is read and checked; the first bad one is an error with file and line."""
    parser = Parser("data inspect", "Read and check every row of data files, and show what they can train.")
    add_files(parser)
    parser.add_argument("--tokenizer", help="tokenizer.json or its folder: lengths in tokens instead of characters")
    parser.add_argument("--samples", type=int, default=2, help="rows to render (default 2)")
    add_reading(parser)
    args = parser.parse(argv)

    from jaxpo.data.tokens.inspect import inspect
    from jaxpo.recipe.uses import uses

    tokenizer = load_and_announce(args.tokenizer) if args.tokenizer else None
    data = Data(**reading_of(args))
    for file in args.files:
        show(inspect(file, tokenizer=tokenizer, samples=args.samples, uses=uses(), data=data))
    return 0


def tokenise(argv: Sequence[str]) -> int:
    """Write the tokenised dataset that a stage with the same settings would use."""
    parser = Parser("data tokenise", "Tokenise files once and show which tokens are trained on.")
    add_files(parser)
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json or its folder")
    parser.add_argument("--out", required=True, help="folder; a dataset with the same contents and settings is re-used")
    parser.add_argument(
        "--purpose", choices=("language", "sft", "preference"), help="default: what the columns suggest"
    )
    add_options(parser)
    parser.add_argument("--samples", type=int, default=2, help="examples to show (default 2)")
    args = parser.parse(argv)

    from jaxpo.data.rows.files.listing import unsaid
    from jaxpo.data.rows.formats import list_files
    from jaxpo.data.rows.records import first_row
    from jaxpo.data.rows.rows import canonical, detect
    from jaxpo.data.tokens.prepare import prepare

    settings = data_of(args, args.files)
    tokenizer = load_and_announce(args.tokenizer)
    if tokenizer.image_settings is not None:
        settings = replace(settings, images=Images(sizes=tokenizer.image_settings))
    purposes = {"text": "language", "messages": "sft", "prompt_completion": "sft"}
    kind = detect(canonical(first_row(list_files(args.files, say=unsaid))))
    purpose: Any = args.purpose or purposes.get(kind, "preference")
    dataset = prepare(args.files, data=settings, tokenizer=tokenizer, purpose=purpose, cache_dir=args.out, log=print)
    show(Preview(dataset, args.samples))
    return 0


def load_and_announce(path: str) -> Any:
    """A tokenizer; what is to be known of it and its chat template is printed."""
    from jaxpo.data.chat.template_choice import announcements
    from jaxpo.data.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(path)
    for line in announcements(tokenizer):
        print(line)
    return tokenizer


def show(renderable: object) -> None:
    """Colours on a terminal, plain text elsewhere."""
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        console.print(renderable)
    else:
        print(renderable)
