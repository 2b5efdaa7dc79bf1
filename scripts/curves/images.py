"""Latency against accuracy of images of several sizes, measured through the engine."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpo.cli.sampling_options import load_with_tokenizer, stop_ids
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.rows import read_record
from jaxpo.errors import JaxpoError
from jaxpo.evaluate.intervals import share
from jaxpo.sampling.fitted import sized
from jaxpo.sampling.prompts import Prompt, prompt_of
from jaxpo.sampling.request import Request
from jaxpo.sampling.viewing import Viewer, viewer_of

HEAD = ("image tokens", "vectors of an image", "prompt, tokens", "exact", "95 %", "seconds")


@dataclass(frozen=True)
class Question:
    """A row's prompt and the answer that it should have."""

    prompt: Prompt
    answer: str


def main(argv: Sequence[str]) -> int:
    """Exit status: 2 when the rows or the model cannot be used."""
    parser = argparse.ArgumentParser(prog="scripts/image_curve", description="Accuracy and seconds by size of images.")
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument(
        "--image-tokens", type=int, nargs="+", required=True, metavar="N", help="each both the most and the fewest"
    )
    parser.add_argument("--max-tiles", type=int, help="of all of them; default as the model's files say")
    parser.add_argument("--most", type=int, default=200, help="questions (default 200)")
    options = parser.parse_args(argv)
    try:
        model = load_with_tokenizer(options.model)
        questions = [question(row) for row in list(read_rows([options.rows]))[: options.most]]
        print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
        for size in options.image_tokens:
            sizes = {"min_image_tokens": size, "max_image_tokens": size, "max_tiles": options.max_tiles}
            found = viewer_of(model.config, model.tokenizer, **sizes)
            if found is None:
                print(f"error: {options.model} reads text alone", file=sys.stderr)
                return 2
            print(measured(model, found.at(options.rows.parent), questions, size), flush=True)
    except JaxpoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def question(row: Row) -> Question:
    """What a row asks and what it answers."""
    record = read_record(row, "prompt_completion", pictures=True)
    (side,) = record.sides
    said = side.completion
    return Question(prompt_of(record), said if isinstance(said, str) else said[-1]["content"])


def measured(model: Any, viewer: Viewer, questions: Sequence[Question], size: int) -> str:
    """One row of the table."""
    longest = max(len(viewer.planned(each.prompt)) for each in questions)
    new = max(len(model.tokenizer.encode(each.answer)) for each in questions) + 2
    engine = sized(
        model.params["model"],
        model.config,
        needed=longest + new,
        answers=1,
        slots=1,
        tokenizer=model.tokenizer,
        patches=viewer.longest,
    )
    engine.warm_up()
    right, seconds, vectors, tokens = 0, [], [], []
    for each in questions:
        begin = time.perf_counter()
        ids, shown = viewer.encode(each.prompt)
        (found,) = engine.generate([Request(ids, shown=shown, max_new_tokens=new, stop_ids=stop_ids(model))])
        seconds.append(time.perf_counter() - begin)
        right += (found.text or "").strip() == each.answer.strip()
        vectors.append(0 if shown is None else int((shown.places >= 0).sum()))
        tokens.append(len(ids))
    exact = share(right, len(questions))
    middle = (statistics.median(values) for values in (vectors, tokens))
    cells = (size, *(f"{value:g}" for value in middle), f"{exact.value:.3f}", f"{exact.low:.3f} to {exact.high:.3f}")
    return "| " + " | ".join(map(str, (*cells, f"{statistics.median(seconds):.4f}"))) + " |"
