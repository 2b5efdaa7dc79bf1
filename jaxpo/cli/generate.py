"""`jaxpo generate MODEL PROMPT ...`: answers to prompts, or continuations of texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.sampling_options import add_options, as_text, load_with_tokenizer, sampler_of, stop_ids
from jaxpo.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    parser = Parser("generate", "Answer prompts (greedily unless a temperature is given).")
    add_options(parser, temperature=0.0)
    parser.add_argument("prompts", nargs="*", help="what a user says; with --raw a text to continue")
    parser.add_argument("--file", type=Path, help="more prompts, one per line; JSONL rows need a `prompt`")
    parser.add_argument("--n", type=int, default=1, help="answers per prompt")
    parser.add_argument("--raw", action="store_true", help="continue the text itself, without the chat template")
    parser.add_argument("--system", help="system message")
    parser.add_argument("--stop", action="append", default=[], help="a string that ends an answer; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON object per answer, with tokens and log-probs")
    args = parser.parse(argv)
    prompts: list[Any] = [as_text(prompt, "the prompt") for prompt in args.prompts]
    prompts += read_prompts(args.file) if args.file else []
    if not prompts:
        raise ConfigError("generate: give a prompt, or --file FILE.")
    if args.raw and args.system:
        raise ConfigError("generate: --system needs the chat template; leave out --raw.")
    sampler = sampler_of(args)

    from jaxpo.sampling.text import generate_text

    model = load_with_tokenizer(args.model)
    answers = generate_text(
        model.params["model"],
        model.config,
        model.tokenizer,
        [p if args.raw else conversation(p, args.system) for p in prompts],
        max_new_tokens=args.max_new_tokens,
        sampler=sampler,
        n=args.n,
        stop=args.stop,
        stop_ids=stop_ids(model),
        seed=args.seed,
    )
    for answer in answers:
        show(prompts[answer.prompt], answer, args, alone=len(answers) == 1)
    return 0


def conversation(prompt: Any, system: str | None) -> Any:
    """A user turn, or a row's conversation as it is, after an optional system message."""
    from jaxpo.sampling.prompts import as_conversation

    given = as_conversation(prompt)
    first = [{"role": "system", "content": system}] if system else []
    return replace(given, messages=[*first, *given.messages])


def read_prompts(path: Path) -> list[Any]:
    """Lines of a text file, or the `prompt` of every JSONL or Parquet row with its `tools` and `system`."""
    if not path.is_file():
        raise ConfigError(f"--file: there is no file {path}.")
    if path.suffix in (".txt", ""):
        from jaxpo.data.rows.files.text import text_of

        return [line for line in text_of(path).splitlines() if line.strip()]
    from jaxpo.data.rows.formats import read_rows
    from jaxpo.data.rows.rows import read_record
    from jaxpo.sampling.prompts import prompt_of

    return [prompt_of(read_record(row, "prompt")) for row in read_rows([path])]


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
        number = f" [{answer.sample + 1}]" if args.n > 1 else ""
        print(f"> {prompt}{number}\n{answer.text}\n")
