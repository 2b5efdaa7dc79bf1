"""`jaxpo generate MODEL PROMPT ...`: answers to prompts, continuations of texts, or images of captions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.constraint_options import add_constraint_options, constraint_of
from jaxpo.cli.engine_options import add_engine_options, engine_of
from jaxpo.cli.generate_file import add_file_options, answer_file, only_with_out
from jaxpo.cli.generate_images import add_drawing_options, draws_images, only_of_images, write_images
from jaxpo.cli.image_options import add_image_options, image_folder, room_for, viewer_for
from jaxpo.cli.sampling_options import add_options, as_text, load_with_tokenizer, sampler_of, stop_ids
from jaxpo.errors import ConfigError

ABOUT = """Answer prompts (greedily unless a temperature is given).

  jaxpo generate MODEL PROMPT ...                       answers on the terminal
  jaxpo generate MODEL --file FILE                      the same for a file's prompts
  jaxpo generate MODEL --file FILE --out OUT.jsonl      a file of answers; stopped, the same command goes on
  jaxpo generate MODEL CAPTION ... --out FOLDER         images, of a model that draws
"""


def main(argv: Sequence[str]) -> int:
    parser = Parser("generate", ABOUT)
    add_options(parser, temperature=0.0)
    parser.add_argument("prompts", nargs="*", help="what a user says; with --raw a text to continue")
    parser.add_argument("--file", type=Path, help="more prompts, one per line; JSONL rows need a `prompt`")
    parser.add_argument("--n", type=int, help="answers per prompt (default 1)")
    parser.add_argument("--raw", action="store_true", help="continue the text itself, without the chat template")
    parser.add_argument("--system", help="system message")
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="shown before every PROMPT; may be repeated"
    )
    parser.add_argument(
        "--image-root", type=Path, help="folder of the images that rows of --file name (default its own)"
    )
    parser.add_argument("--stop", action="append", default=[], help="a string that ends an answer; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON object per answer, with tokens and log-probs")
    add_constraint_options(parser)
    add_image_options(parser)
    add_engine_options(parser)
    add_file_options(parser)
    add_drawing_options(parser)
    args = parser.parse(argv)
    if draws_images(args.model):
        return write_images(args, parser)
    only_of_images(args)
    for name in ("system", "image"):
        if args.raw and getattr(args, name):
            raise ConfigError(f"generate: --{name} needs the chat template; leave out --raw.")
    check_images(args)
    template = template_of(args)
    if args.out is not None:
        return answer_file(args, template)
    only_with_out(args)
    return answer_prompts(args, template)


def check_images(args: Any) -> None:
    """ConfigError for options about images that would change nothing."""
    if args.image and args.file:
        raise ConfigError(
            "generate: --image is shown before prompts of the command line; rows of --file name their own."
        )
    if args.image_root and not args.file:
        raise ConfigError("generate: --image-root is where images of --file's rows lie; give --file, or leave it out.")
    image_folder(args.image_root)


def template_of(args: Any) -> Any:
    """Every prompt's request but for the prompt; ConfigError for options out of range."""
    from jaxpo.sampling.request import Request

    name, n = ("n", args.n) if args.best_of is None else ("best-of", args.best_of)
    n = 1 if n is None else n
    problems = [
        f"--{name} is {value}; it must be at least 1."
        for name, value in ((name, n), ("max-new-tokens", args.max_new_tokens))
        if value < 1
    ]
    if not all(args.stop):
        problems.append("--stop is an empty string; give a text that ends an answer.")
    if problems:
        raise ConfigError(problems)
    return Request(
        prompt=(),
        n=n,
        sampler=sampler_of(args),
        max_new_tokens=args.max_new_tokens,
        stop=tuple(args.stop),
        seed=args.seed,
        constraint=constraint_of(args),
    )


def answer_prompts(args: Any, template: Any) -> int:
    """Print an answer to every prompt."""
    from jaxpo.construct.batch.prompts import prompt_in, rows_of, told_of
    from jaxpo.sampling.prompts import with_system
    from jaxpo.sampling.viewing import conversation_of, question, seen

    prompts: list[Any] = [as_text(prompt, "the prompt") for prompt in args.prompts]
    asked = [conversation_of([question(prompt, args.image)]) if args.image else prompt for prompt in prompts]
    rows = rows_of(args.file) if args.file else []
    of_rows = [prompt_in(row) for row in rows]
    prompts, asked = prompts + of_rows, asked + of_rows
    if not prompts:
        raise ConfigError("generate: give a prompt, or --file FILE.")
    model = load_with_tokenizer(args.model)
    viewer = viewer_for(model, args)
    of_file = viewer.at(args.image_root or args.file.parent) if viewer is not None and args.file else viewer
    whole = [p if args.raw and isinstance(p, str) else with_system(p, args.system) for p in asked]
    given = [seen(viewer, model.tokenizer, prompt) for prompt in whole[: len(args.prompts)]]
    for row, prompt in zip(rows, whole[len(args.prompts) :], strict=True):
        with told_of(row):
            given.append(seen(of_file, model.tokenizer, prompt))
    template = replace(template, stop_ids=stop_ids(model))
    needed = max(len(ids) for ids, _ in given) + template.max_new_tokens
    engine = engine_of(model, args, needed=needed, answers=len(given) * template.n, **room_for(viewer))
    requests = [replace(template, prompt=ids, shown=shown, number=i) for i, (ids, shown) in enumerate(given)]
    answers = engine.generate(requests)
    for i, answer in enumerate(answers):
        show(prompts[i // template.n], answer, args, alone=len(answers) == 1)
    return 0


def show(prompt: Any, answer: Any, args: Any, *, alone: bool) -> None:
    """One answer, as text or as JSON."""
    if args.json:
        shown = getattr(prompt, "messages", prompt)
        record = {"prompt": shown, "sample": answer.sample, "text": answer.text, "reason": answer.reason}
        record |= {"tokens": list(map(int, answer.tokens)), "logps": [round(float(x), 6) for x in answer.logps]}
        print(json.dumps(record, ensure_ascii=False))
    elif alone:
        print(answer.text)
    else:
        number = f" [{answer.sample + 1}]" if (args.n or 1) > 1 else ""
        print(f"> {prompt}{number}\n{answer.text}\n")
