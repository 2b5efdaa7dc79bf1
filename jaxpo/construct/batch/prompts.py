"""Rows of a file as prompts of a model. What cannot be answered is an error per row, found before anything is drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxpo.data.rows.bad_rows import Bad, refuse
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.rows import read_record
from jaxpo.data.rows.texts import Text
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import BadImage, ConfigError, DataError
from jaxpo.sampling.prompts import Prompt, as_conversation, prompt_of, with_system
from jaxpo.sampling.shown import Shown
from jaxpo.sampling.text import encode_prompt
from jaxpo.sampling.viewing import Viewer


@dataclass(frozen=True)
class Asked:
    """One row's prompt.

    Attributes:
      row: as read.
      prompt: a text to continue, or a conversation to answer.
      ids: the prompt's tokens.
      viewer: of what it shows; None where it shows nothing.
    """

    row: Row
    prompt: Prompt
    ids: list[int]
    viewer: Viewer | None = None

    def shown(self) -> Shown | None:
        """Its images, decoded; BadImage where one is broken, or another than when the row was read."""
        if self.viewer is None:
            return None
        ids, shown = self.viewer.encode(self.prompt)
        if ids != self.ids:
            raise BadImage("an image is another than when its row was read.")
        return shown

    @property
    def number(self) -> int:
        """The random generator's name for the row: its place in the file, whatever is left out of the others."""
        return self.row.number - 1

    @property
    def as_text(self) -> Text:
        """The prompt as judges read it."""
        return self.prompt if isinstance(self.prompt, str) else [dict(m) for m in as_conversation(self.prompt).messages]


@dataclass(frozen=True)
class Asking:
    """How rows become prompts.

    Attributes:
      system: a system message before every conversation.
      raw: a string is continued as it is, without the chat template.
      room: tokens that a prompt may have.
      limits: where `room` comes from, for messages.
      viewer: how the model sees; None of one that reads text alone.
      judged: judges read the prompts, and text alone.
    """

    system: str | None
    raw: bool
    room: int
    limits: str
    viewer: Viewer | None = None
    judged: bool = False


def rows_of(file: Path, bad: Bad = refuse) -> list[Row]:
    """The lines of a text file that are not blank, each as a row's `prompt`, or the rows of any other data file.

    Raises:
      ConfigError: there is no such file.
      DataError: a row that cannot be read, unless `bad` takes it.
    """
    if not file.is_file():
        raise ConfigError(f"--file: there is no file {file}.")
    if file.suffix not in (".txt", ""):
        return list(read_rows([file], bad=bad))
    from jaxpo.data.rows.files.text import text_of

    lines = enumerate(text_of(file).splitlines(), start=1)
    return [Row(file, number, {"prompt": line}) for number, line in lines if line.strip()]


def prompt_in(row: Row) -> Prompt:
    """What a row asks, with its `system` and `tools`; DataError for one that asks nothing."""
    prompt = prompt_of(read_record(row, "prompt", pictures=True))
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise row.error("the prompt is empty.", field="prompt", remedy="Fill it, or remove the row.")
    return prompt


@contextlib.contextmanager
def told_of(row: Row) -> Iterator[None]:
    """What is wrong with a prompt as an error of its row: DataError."""
    try:
        yield
    except DataError as error:
        raise row.error(error.message, field="images", remedy=error.remedy) from error
    except ConfigError as error:
        raise row.error(f"{error}.", field="prompt", remedy="Correct it, or remove the row.") from error


def asked_of(rows: Sequence[Row], how: Asking, tokenizer: Tokenizer, bad: Bad) -> list[Asked]:
    """Every row's prompt as tokens; the errors of rows that cannot be answered go to `bad`."""
    found = []
    for row in rows:
        try:
            found.append(_asked(row, how, tokenizer))
        except DataError as error:
            bad(error)
    return found


def _asked(row: Row, how: Asking, tokenizer: Tokenizer) -> Asked:
    given = prompt_in(row)
    prompt = given if how.raw and isinstance(given, str) else with_system(given, how.system)
    shows = not isinstance(prompt, str) and bool(as_conversation(prompt).pictures)
    if shows and (how.viewer is None or how.judged):
        who = "the model reads" if how.viewer is None else "judges read"
        raise row.error(f"the prompt shows an image, and {who} text alone.", field="images", remedy="Leave it out.")
    viewer = None if not shows or how.viewer is None else how.viewer.at(how.viewer.root or row.file.parent)
    with told_of(row):
        ids = encode_prompt(tokenizer, prompt) if viewer is None else viewer.planned(prompt)
    if len(ids) > how.room:
        raise row.error(
            f"the prompt has {len(ids)} tokens and there is room for {how.room} ({how.limits}).",
            field="prompt",
            remedy="Shorten it, lower --max-new-tokens, or leave such rows out with --skip-bad.",
        )
    return Asked(row, prompt, ids, viewer)
