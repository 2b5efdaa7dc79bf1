"""`jaxpo data score FILES... OUT.jsonl`: the rows of data files with a column of a judge's scores."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.construct import add_option, given, options_of
from jaxpo.data.rows.json_lines import as_json, check_output, pending
from jaxpo.errors import ConfigError, DataError

DESCRIPTION = """\
Add a column of scores to rows: `score` of an answer (prompt and completion, messages), `scores` of several, in the
order of a row's `responses`, or of `chosen` and `rejected`. Scores are appended to OUT.parts/ as they come: the same
command goes on where it was stopped. Rows that a judge failed on are left out and counted; the same command, after OUT
was removed, asks about them again."""
ONE, SEVERAL = "score", "scores"


def main(argv: Sequence[str]) -> int:
    args, judges = parsed(argv)
    if len(args.files) < 2:
        raise ConfigError("data score: give at least one data file and the file to write.")
    *files, out = args.files
    check_output(Path(out))
    from jaxpo.cli.construct import tools_for
    from jaxpo.data.rows.formats import read_rows
    from jaxpo.judges.scoring import check_judge, plainly, score_all

    judge, rows = judges.judges(), list(read_rows(files))
    asked = [answers_of(row, args.column) for row in rows]
    tools = tools_for(args, Path(out))
    items = [item for found in asked for item in found.items]
    check_judge(judge, items, tools.network)
    scores = score_all(judge, items, tools.network, tools.folder, plainly(tries=args.tries, progress=bar_or_lines))
    failures = Counter(scores.failures.values())
    with pending(Path(out)) as file:
        written = 0
        for written, row in enumerate(scored(rows, asked, scores.values), start=1):
            file.write(as_json(row, written) + "\n")
        if not written:
            why = "; ".join(failures) or "there are none"
            raise DataError(f"no row is left of {len(rows)}: {why}.", file=Path(files[0]))
    for why, n in failures.most_common(3):
        print(f"{n} answers without a score: {why}")
    print(f"{out}: {written} rows from {len(rows)}, {len(rows) - written} left out because the judge failed")
    return 0


def parsed(argv: Sequence[str]) -> tuple[Any, Any]:
    """The arguments, and the judges that they name."""
    from jaxpo.construct.base import NETWORKS
    from jaxpo.judges.named import JudgeOptions

    parser = Parser("data score", f"{DESCRIPTION}\n\n{JudgeOptions.__doc__}")
    parser.add_argument("files", nargs="+", help="data files, then the JSONL file to write")
    parser.add_argument("--column", help=f"to write; default {ONE} of one answer, {SEVERAL} of several")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens of a text that a network reads")
    parser.add_argument("--tries", type=int, default=3, help="times that a failing judge is asked about an answer")
    parser.add_argument("--seed", type=int, default=0, help="of judges that draw")
    for name, what in NETWORKS.items():
        parser.add_argument(f"--{name}", type=Path, help=what)
    leaves = options_of(JudgeOptions)
    for leaf in leaves:
        add_option(parser, leaf)
    args = parser.parse(argv)
    if args.tries < 1:
        raise ConfigError(f"--tries is {args.tries} but must be at least 1.")
    return args, JudgeOptions(**given(leaves, args))


@dataclasses.dataclass(frozen=True)
class Answers:
    """What of a row is scored, and the column of the scores.

    Attributes:
      items: one per answer.
      several: the column holds a list.
    """

    items: list[Any]
    column: str
    several: bool


def answers_of(row: Any, column: str | None) -> Answers:
    """The answers of a row of any type that has some.

    Raises:
      DataError: a row without answers, or with the column already; names file, row and field.
    """
    from jaxpo.construct.candidates import answer_text
    from jaxpo.data.rows.rows import canonical
    from jaxpo.data.rows.texts import text_of_column, text_or_messages
    from jaxpo.judges.asking import Item
    from jaxpo.judges.questions import read_question

    several = "responses" in row.data or "chosen" in row.data
    name = column or (SEVERAL if several else ONE)
    if name in row.data:
        remedy = "Name another with --column, or remove it from all rows."
        raise row.error(f"there is a column {name!r} already.", field=name, remedy=remedy)
    if "responses" not in row.data:
        question = read_question(row)
        if not question.given:
            remedy = "Give prompt and completion, responses, chosen and rejected, or messages."
            raise row.error("there is no answer to score.", field="completion", remedy=remedy)
        return Answers([Item(question.prompt, text, question.row) for text in question.given.values()], name, several)
    own = canonical(row)
    prompt, responses = text_of_column(own, "prompt"), own.data["responses"]
    if not isinstance(responses, list) or not responses:
        raise row.error("`responses` must be a list of texts.", field="responses")
    texts = [answer_text(own, text_or_messages(own, "responses", text, empty_ok=False)) for text in responses]
    return Answers([Item(prompt, text, own) for text in texts], name, several)


def scored(rows: Sequence[Any], asked: Sequence[Answers], scores: dict[str, float]) -> Iterator[dict[str, Any]]:
    """The rows all of whose answers have a score."""
    for row, answers in zip(rows, asked, strict=True):
        values = [scores.get(item.key(None)) for item in answers.items]
        if None not in values:
            yield {**row.data, answers.column: values if answers.several else values[0]}


def bar_or_lines(what: str, done: int, total: int, say: Callable[[str], None]) -> Any:
    """A bar with the time left on a terminal, lines elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from jaxpo.judges import asking

    console = Console()
    if not console.is_terminal:
        return asking.Progress(what, done, total, say)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Bar(Progress(*columns, console=console), what, done, total)


class Bar:
    """As `asking.Progress`, on a terminal."""

    def __init__(self, progress: Any, what: str, done: int, total: int):
        self._progress, self._total = progress, total
        self._task = progress.add_task(what, total=total, completed=done)
        if done < total:
            progress.start()

    def show(self, done: int) -> None:
        """Move it, and end it when all is done."""
        self._progress.update(self._task, completed=done)
        if done >= self._total:
            self._progress.stop()
