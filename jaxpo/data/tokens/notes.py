"""What the counts of a data set say in words, before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from jaxpo.data.chat.reasoning import KEPT, LOST, STRIPPED
from jaxpo.data.chat.rendered import AS_TEXT, FOREIGN, READ
from jaxpo.data.rows.context import makes_turns
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import Record
from jaxpo.data.rows.tokenised import TAKEN, UNLIKE
from jaxpo.data.rows.unread import COLUMN, KEY
from jaxpo.data.tokens.specials import NOTE

FORMS = ("conversations", "plain_strings")
MADE, SHOW = "prompts_made_turns", "rows_with_images"
_LINES = {
    TAKEN: "{n} rows were tokenised before: their ids are taken as they are, and their masks say what is trained on",
    SHOW: "{n} rows show images, whose pixels are read when batches are made",
    MADE: "{n} rows are conversations because of `system`, `history` or `tools`: their prompts are user turns",
    READ: "{n} rows are already rendered with the chat template: their marks are control tokens, given once "
    "(data.rendered='text' takes them as characters, 'refuse' stops)",
    KEPT: "{n} rows hold reasoning, which is rendered as the template does (data.reasoning='strip' leaves it out)",
    LOST: "in {n} rows the chat template leaves out reasoning, that of earlier turns: it is not trained on",
    STRIPPED: "{n} rows hold reasoning, which is left out (data.reasoning='strip')",
    AS_TEXT: "warning: {n} rows hold marks of the chat template in the midst of other text: there they are plain "
    "characters. If they were meant as turns, give messages",
    FOREIGN: "warning: {n} rows begin or end with marks of another model's chat template, which are plain characters "
    "here. Give messages instead, or take the marks out",
}
"""A count that is not 0 -> what it says."""


def watched(rows: Iterable[Row], counts: Counter[str]) -> Iterator[Row]:
    """The rows, those counted whose string prompts become turns."""
    for row in rows:
        counts[MADE] += makes_turns(row)
        yield row


def note(record: Record, counts: Counter[str]) -> None:
    """Count what is not read of a record, and its form."""
    for name in record.unread:
        counts[name] += 1
    counts[FORMS[not record.is_conversation]] += 1
    if record.pictures:
        counts[SHOW] += 1


def counted(counts: Counter[str]) -> dict[str, int]:
    """The counts without what says nothing: a single form of rows, nothing made."""
    silent = {MADE} if not counts[MADE] else set()
    silent |= set() if all(counts[form] for form in FORMS) else set(FORMS)
    return {name: n for name, n in counts.items() if name not in silent}


def notes_of(counts: Mapping[str, int]) -> Iterator[str]:
    """One line for each thing that a user should know of how the rows were read."""
    if columns := _listed(counts, COLUMN):
        yield f"columns that are not read (rows that have them): {columns}"
    if keys := _listed(counts, KEY):
        yield f"warning: keys of messages that are not read (rows that have them): {keys}"
    yield from (line.format(n=n) for name, line in _LINES.items() if (n := counts.get(name)))
    spelt = {name[len(NOTE[0]) : -len(NOTE[1])]: n for name, n in counts.items() if _is_special(name)}
    if spelt:
        yield (
            f"warning: special tokens of the tokenizer stand in texts as plain characters: {_shown(spelt)} rows. Name "
            "them in data.special_tokens ('all' for all) to have their ids in answers and documents; in what is given "
            "(prompts, users, systems, tool results) they stay characters, and lists of tools belong into `tools`"
        )
    if 2 * counts.get(UNLIKE, 0) > counts.get(TAKEN, 0):
        yield (
            f"warning: the ids of {counts[UNLIKE]} rows are not what this tokenizer makes of their text: were they "
            "made with another? Give that one, or the text"
        )
    if all(counts.get(name) for name in FORMS):
        yield (
            f"warning: {counts[FORMS[0]]} rows are conversations and {counts[FORMS[1]]} plain strings without turns. "
            "`system`, `history` or `tools` make a row a conversation: give every row one (an empty `system` will do) "
            "if all should be"
        )


def _is_special(name: str) -> bool:
    return name != AS_TEXT and name.startswith(NOTE[0]) and name.endswith(NOTE[1])


def _listed(counts: Mapping[str, int], prefix: str) -> str:
    return _shown({name.removeprefix(prefix): n for name, n in counts.items() if name.startswith(prefix)})


def _shown(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
