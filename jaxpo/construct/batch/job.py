"""Answers to a file of prompts, from the file to the output; killed at any moment, the same command goes on."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpo.construct.batch.best import choose
from jaxpo.construct.batch.draw import Answer, draw, read_answers
from jaxpo.construct.batch.meter import Meter
from jaxpo.construct.batch.output import check_rows, many_rows, new_columns, one_row
from jaxpo.construct.batch.prompts import Asked, Asking, asked_of, rows_of
from jaxpo.construct.batch.settings import SETTINGS, check_settings, settings_of_request
from jaxpo.data.rows.formats import content_hash
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import ConfigError, DataError, RunError
from jaxpo.judges.base import Judge, Networks
from jaxpo.judges.ledger import Ledger
from jaxpo.sampling.request import Request
from jaxpo.sampling.viewing import Viewer


@dataclass(frozen=True)
class Job:
    """What is asked for.

    Attributes:
      file: of prompts: lines of a text file, or rows with a column `prompt`.
      out: the JSONL file that appears when all is done; what is found until then lies in `OUT.parts/`.
      template: every prompt's request, but for the prompt and its number.
      system, raw: see `Asking`.
      skip_bad: rows that cannot be answered are left out and counted; otherwise the first stops the job.
      logps: tokens and log-probs are written, too.
      prefix: of the new columns' names.
      judge: chooses the best of the answers; None = all are written.
    """

    file: Path
    out: Path
    template: Request
    system: str | None = None
    raw: bool = False
    skip_bad: bool = False
    logps: bool = False
    prefix: str = ""
    judge: Judge | None = None

    @property
    def folder(self) -> Path:
        """Where finished answers and scores are kept."""
        return self.out.with_suffix(".parts")

    def check(self) -> None:
        """ConfigError for files that are not there or in the way, before a model is read."""
        if self.out.suffix != ".jsonl":
            raise ConfigError(f"--out: the output {str(self.out)!r} must be a .jsonl file.")
        if not self.out.parent.is_dir():
            raise ConfigError(f"--out: there is no folder {self.out.parent} to write {self.out.name} to.")
        if not self.file.is_file():
            raise ConfigError(f"--file: there is no file {self.file}.")
        if self.out.exists() and not (self.folder / SETTINGS).exists():
            raise ConfigError(f"--out: {self.out} exists already; remove it or name another file.")


@dataclass(frozen=True)
class Answering:
    """The model that answers.

    Attributes:
      engine: tokens of the longest prompt and answer together -> an engine; called when something is to be drawn.
      context: so many of them at most.
      identity: what answers depend on besides the request: parameters, precision.
      networks: the judge's.
      viewer: how it sees; None of one that reads text alone.
    """

    tokenizer: Tokenizer
    engine: Callable[[int], Any]
    context: int
    identity: Mapping[str, Any]
    networks: Networks
    viewer: Viewer | None = None


@dataclass
class Outcome:
    """What came of a job.

    Attributes:
      rows: written; None where the output was there already.
      reasons: what ended the answers, with their numbers.
      skipped: errors of the rows that were left out.
      failures: why answers have no score, with their numbers.
    """

    rows: int | None = None
    drawn: int = 0
    tokens_per_second: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    skipped: list[DataError] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    unscored: int = 0


def run_job(job: Job, answering: Answering, *, restart: bool = False, say: Callable[[str], None] = print) -> Outcome:
    """Answer every row that has no answer yet, and write the output when all have one.

    Args:
      restart: what an earlier run of the job left is removed first.

    Raises:
      ConfigError: see `Job.check`.
      DataError: a row that cannot be answered, unless they are left out; names file, row and field.
      RunError: earlier answers were made under other settings, another process is at it, a judge fails all the time.
    """
    job.check()
    outcome = Outcome()
    rows = rows_of(job.file, outcome.skipped.append if job.skip_bad else _refused)
    check_rows(rows, new_columns(n=job.template.n, best=job.judge is not None, logps=job.logps), job.prefix)
    asked = _answerable(job, answering, rows, outcome.skipped)
    if job.judge is not None:
        job.judge.check([one.row for one in asked])
        for member in job.judge.members():
            member.open(answering.networks)  # refuses a network that is missing, before anything is drawn
    settings = _settings(job, answering)
    with _held(job.folder):
        if restart:
            _remove(job)
        check_settings(job.folder, settings)
        if job.out.exists():
            return outcome
        ledger = Ledger(job.folder, "answers", settings)
        answers = _answers(job, answering, asked, ledger, outcome, say)
        outcome.rows = write_jsonl(job.out, _written(job, answering, asked, answers, outcome, say))
    return outcome


def _answerable(job: Job, answering: Answering, rows: Sequence[Any], skipped: list[DataError]) -> list[Asked]:
    new = job.template.max_new_tokens
    limits = f"a window of {answering.context}, less --max-new-tokens {new}"
    how = Asking(job.system, job.raw, answering.context - new, limits, answering.viewer, judged=job.judge is not None)
    bad: list[DataError] = []
    asked = asked_of(rows, how, answering.tokenizer, bad.append)
    skipped += bad
    if bad and not job.skip_bad:
        raise _with_number(bad)
    if not asked:
        raise DataError("no row is left to answer.", file=job.file) from (skipped[0] if skipped else None)
    return asked


def _refused(error: DataError) -> None:
    raise error


def _with_number(bad: Sequence[DataError]) -> DataError:
    """The first error, with the number of the others."""
    first = bad[0]
    if len(bad) == 1:
        return first
    more = f"{len(bad) - 1} more of the rows cannot be answered either."
    remedy = f"{first.remedy} ({more})" if first.remedy else more
    return DataError(first.message, file=first.file, row=first.row, field=first.field, remedy=remedy)


def _settings(job: Job, answering: Answering) -> dict[str, Any]:
    """Everything that the output depends on, by names that a user knows."""
    judge = job.judge
    members = [] if judge is None else [member.identity(answering.networks) for member in judge.members()]
    return {
        "prompts": {"content": content_hash([job.file])[:16], "system": job.system, "raw": job.raw},
        "skip_bad": job.skip_bad,
        "logps": job.logps,
        "prefix": job.prefix,
        "judge": members,
        "weights": [] if judge is None else list(judge.weights()),
        **settings_of_request(job.template),
        **answering.identity,
    }


def _answers(
    job: Job,
    answering: Answering,
    asked: Sequence[Asked],
    ledger: Ledger,
    outcome: Outcome,
    say: Callable[[str], None],
) -> dict[int, list[Answer]]:
    found = read_answers(ledger)
    missing = [one for one in asked if one.number not in found]
    if found:
        say(f"{len(asked) - len(missing)} of {len(asked)} rows have their answers in {ledger.path}")
    if missing:
        engine = answering.engine(max(len(one.ids) for one in asked) + job.template.max_new_tokens)
        with Meter(len(asked) - len(missing), len(asked)) as meter:
            found |= draw(missing, engine, job.template, ledger, meter, logps=job.logps)
            outcome.drawn, outcome.tokens_per_second = job.template.n * len(missing), meter.tokens_per_second
    return found


def _written(
    job: Job,
    answering: Answering,
    asked: Sequence[Asked],
    answers: Mapping[int, list[Answer]],
    outcome: Outcome,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    outcome.reasons.update(a.reason for one in asked for a in answers[one.number])
    form: dict[str, Any] = {"logps": job.logps, "prefix": job.prefix}
    if job.judge is None:
        for one in asked:
            mine = answers[one.number]
            yield one_row(one.row, mine[0], **form) if job.template.n == 1 else many_rows(one.row, mine, **form)
        return
    best = choose(asked, answers, job.judge, answering.networks, job.folder, failures=outcome.failures, say=say)
    for one in asked:
        chosen = best[one.number]
        outcome.unscored += chosen.answer is None
        yield one_row(one.row, chosen.answer, best=chosen, **form)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder, made where it is missing, for this process alone."""
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with contextlib.closing(os.fdopen(descriptor)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use by another process. Wait for it, or name another output.") from None
        yield


def _remove(job: Job) -> None:
    """What an earlier run left; the settings last, for by them the rest is known as a job's own."""
    job.out.unlink(missing_ok=True)
    for path in sorted(job.folder.glob("*.jsonl")):
        path.unlink()
    (job.folder / SETTINGS).unlink(missing_ok=True)
