"""`jaxpo eval MODEL --tasks NAME[:FILE] ...`: what a model can do, with n, intervals and hashes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpo.cli.args import Parser
from jaxpo.cli.engine_options import add_precision_options, dtype_of
from jaxpo.cli.eval_options import add_task_options, catalogue, jobs_of
from jaxpo.errors import ConfigError, writing

if TYPE_CHECKING:
    from jaxpo.config.precision import Dtype
    from jaxpo.evaluate.outcome import Outcome
    from jaxpo.evaluate.results import TaskResult
    from jaxpo.evaluate.runner import Read
    from jaxpo.evaluate.tasks.base import Reader

DESCRIPTION = """\
Evaluate a model, or two on the same examples, on tasks whose data is in local files.

  jaxpo eval MODEL --tasks bits_per_byte:TEXT.txt multiple_choice:QUESTIONS.jsonl
  jaxpo eval MODEL --against MODEL --tasks gsm8k:test.jsonl --chat
  jaxpo eval MODEL --tasks lm_eval:TASK --include FOLDER
  jaxpo eval --tasks alpaca:annotations.json     (answers that were judged already: no model)
  jaxpo eval --list

Writes results.json, examples.jsonl and report.html into a folder, and prints the results."""
RESULTS, EXAMPLES = "results.json", "examples.jsonl"
EVERY = 2.0
"""Seconds between two lines of progress."""


def main(argv: Sequence[str]) -> int:
    parser = Parser("eval", DESCRIPTION)
    parser.add_argument(
        "model", nargs="?", type=Path, help="run directory, stage directory, HF export, or PEFT adapter"
    )
    parser.add_argument("--tasks", nargs="+", metavar="NAME[:FILE]", help="what to measure; --list names the tasks")
    parser.add_argument("--list", action="store_true", help="list the tasks, their files and their settings")
    parser.add_argument("--against", type=Path, metavar="MODEL", help="another model, compared example by example")
    parser.add_argument("--out", type=Path, help="folder to write; default RUN/eval of a run, else eval/NAME")
    add_precision_options(parser)
    parser.add_argument("--worst", type=int, default=8, help="examples that the report shows per task (default 8)")
    add_task_options(parser)
    args = parser.parse(argv)
    if args.list:
        print("\n".join(catalogue()))
        return 0
    folder = checked(args)
    jobs = jobs_of(args)
    problems = [problem for job in jobs for problem in job.problems()]
    problems += model_problems(args, any(job.asks for job in jobs))
    if problems:
        raise ConfigError(problems)
    read = [job.read() for job in jobs]
    paths = [path for path in (args.model, args.against) if path]
    results = (
        evaluate(paths, read, dtype_of(args), args.quantize)
        if paths
        else [[one for task in read for one in task.alone()]]
    )
    finish(folder, results, args)
    return 0


def checked(args: Any) -> Path:
    """The folder to write; ConfigError lists what is wrong with the command's own options."""
    problems = []
    if not args.tasks:
        problems.append("--tasks: name at least one; `jaxpo eval --list` lists them.")
    if args.worst < 0:
        problems.append(f"--worst {args.worst}: must be at least 0.")
    if args.against is not None and args.against == args.model:
        problems.append(f"--against {args.against}: is the model itself; name another.")
    folder = args.out or default_folder(args.model, args.tasks or [""])
    if (folder / RESULTS).exists():
        problems.append(f"--out {folder}: holds {RESULTS} of an earlier evaluation; name another folder or remove it.")
    if problems:
        raise ConfigError(problems)
    return folder


def model_problems(args: Any, asks: bool) -> list[str]:
    """A model that is missing, or that no task asks."""
    if asks and args.model is None:
        return ["eval: name the model: jaxpo eval MODEL --tasks NAME:FILE."]
    if not asks and (args.model or args.against):
        tasks, models = " ".join(args.tasks), [str(path) for path in (args.model, args.against) if path]
        return [f"--tasks {tasks}: the files hold all answers, so no model is asked; leave {' and '.join(models)} out."]
    return []


def default_folder(model: Path | None, tasks: Sequence[str] = ("",)) -> Path:
    """Where a run's report looks for evaluations; of a model that is no run, and without one, a folder here."""
    if model is None:
        return Path("eval", tasks[0].partition(":")[0])
    return model / "eval" if (model / "stages").is_dir() else Path("eval", model.resolve().name)


def evaluate(
    paths: Sequence[Path], read: Sequence[Read], dtype: Dtype, quantize: str | None = None
) -> list[list[TaskResult]]:
    """The results of every model; what goes to each is checked before the first one's weights are read."""
    from jaxpo.evaluate.subject import reader_of

    readers = [reader_of(path) for path in paths]
    ready = [[task.ask(reader) for task in read] for reader in readers]
    return [
        _run(path, reader, tasks, dtype, quantize) for path, reader, tasks in zip(paths, readers, ready, strict=True)
    ]


def _run(path: Path, reader: Reader, tasks: Sequence[Any], dtype: Dtype, quantize: str | None) -> list[TaskResult]:
    from jaxpo.evaluate.subject import subject_of

    def say(line: str) -> None:
        print(f"{path}: {line}", file=sys.stderr)

    subject = subject_of(path, reader, dtype=dtype, quantize=quantize, say=say)
    return [result for task in tasks for result in task.run(subject, progress(str(path)))]


def progress(model: str) -> Callable[[str, int, int], None]:
    """Says on stderr how far a task is, every few seconds and at its end."""
    last: dict[str, float] = {}

    def say(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - last.setdefault(what, now) >= EVERY:
            last[what] = now
            print(f"{model}: {what} {done}/{total}", file=sys.stderr)

    return say


def finish(folder: Path, results: Sequence[Sequence[TaskResult]], args: Any) -> None:
    """Compare, write the three files and print the table."""
    import json

    from jaxpo.evaluate.outcome import Outcome, document, table
    from jaxpo.evaluate.report.evaluation import PAGE, evaluation_page

    ours, *others = results
    pairs = zip(ours, others[0], strict=True) if others else ((one, None) for one in ours)
    outcomes: list[Outcome] = [Outcome.of(one, other) for one, other in pairs]
    against = str(args.against) if args.against else None
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for outcome in outcomes for row in outcome.examples()]
    files = {
        RESULTS: document(outcomes, *([about(path, args) for path in (args.model, args.against) if path] or [{}])),
        EXAMPLES: "".join(lines),
        PAGE: evaluation_page(outcomes, str(args.model or "files"), against, count=args.worst),
        **{name: text for outcome in outcomes for name, text in outcome.ours.files.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with writing(folder / name):
            (folder / name).write_text(text, encoding="utf-8")
    print("\n".join(table(outcomes)))
    for outcome in outcomes:
        print("".join(f"{outcome.ours.label}: {note}\n" for note in outcome.ours.notes), end="")
    print(f"{folder}: {', '.join(files)}")


def about(path: Path, args: Any) -> dict[str, Any]:
    """What results.json says of a model."""
    from jaxpo.evaluate.subject import reader_of

    computed = {"dtype": dtype_of(args), "quantize": args.quantize}
    return {"path": str(path), **computed, "tokenizer_hash": reader_of(path).tokenizer.hash}
