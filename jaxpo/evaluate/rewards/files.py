"""Files with answers of known quality: pairs, ranked lists, and both RewardBenches. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.rows import detect, read_record
from jaxpo.data.rows.texts import Text
from jaxpo.errors import did_you_mean
from jaxpo.evaluate.rewards.bench import SUBSETS, SUBSETS_2, TIES

Kind = Literal["pairs", "lists", "reward_bench", "reward_bench_2"]


@dataclass(frozen=True)
class Answers:
    """A prompt's answers.

    Attributes:
      quality: of each; larger is better.
      empty: answers of the row that hold nothing, which nobody can score.
      tied: as `Judged.tied`.
    """

    row: Row
    kind: Kind
    prompt: Text
    texts: tuple[Text, ...]
    quality: tuple[float, ...]
    subset: str = ""
    empty: int = 0
    tied: tuple[str, int] | None = None


def read_answers(path: Path, kind: Kind | None) -> list[Answers]:
    """All rows of a file.

    Args:
      kind: of its rows; None = what the first row shows.

    Raises:
      DataError: names file, row, field and remedy.
    """
    rows = list(read_rows([path], part="eval"))
    kind = kind or kind_of(rows[0])
    found = [_READERS[kind](row) for row in rows]
    _check_ties(found)
    return found


def kind_of(row: Row) -> Kind:
    """What a row shows: lists of chosen and of rejected texts, RewardBench's subsets, responses, or a pair."""
    data = row.data
    texts = [x for name in ("chosen", "rejected") for x in (data[name] if isinstance(data.get(name), list) else ())]
    if texts and all(isinstance(text, str) for text in texts):
        return "reward_bench_2"
    if data.get("subset") in SUBSETS:
        return "reward_bench"
    return "lists" if "responses" in data else "pairs"


def _pair(row: Row, kind: Kind = "pairs", subset: str | None = None) -> Answers:
    if (found := detect(row)) != "preference":
        raise row.error(
            f"is of type {found!r}.", remedy="Give [prompt,] chosen and rejected; or prompt, responses and scores."
        )
    chosen, rejected = read_record(row, "preference").sides
    named = _text(row, "subset" if "subset" in row.data else "group") if subset is None else subset
    prompt = chosen.prompt if chosen.prompt is not None else ""
    return Answers(row, kind, prompt, (chosen.completion, rejected.completion), (1.0, 0.0), named)


def _bench(row: Row) -> Answers:
    return _pair(row, "reward_bench", _subset(row, SUBSETS))


def _list(row: Row) -> Answers:
    if (found := detect(row)) != "list":
        raise row.error(f"is of type {found!r}.", remedy="Give prompt, responses and scores in every row.")
    record = read_record(row, "list", extras=("scores",))
    both = zip(record.sides, record.columns["scores"], strict=True)
    kept = [(side, score) for side, score in both if side.completion]
    if not kept:
        raise row.error("every response is empty.", field="responses", remedy="Remove the row.")
    texts, scores = tuple(side.completion for side, _ in kept), tuple(float(score) for _, score in kept)
    prompt = kept[0][0].prompt
    subset = _text(row, "subset" if "subset" in row.data else "group")
    return Answers(row, "lists", "" if prompt is None else prompt, texts, scores, subset, len(record.sides) - len(kept))


def _bench_2(row: Row) -> Answers:
    subset = _subset(row, SUBSETS_2)
    right, wrong = _texts(row, "chosen"), _texts(row, "rejected")
    if subset != TIES and (len(right), len(wrong)) != (1, 3):
        raise row.error(
            f"{len(right)} chosen and {len(wrong)} rejected answers.",
            field="rejected",
            remedy=f"Rows of every subset but {TIES} have one and three.",
        )
    if not isinstance(prompt := row.data.get("prompt"), str):
        raise row.error("must be a text.", field="prompt")
    tied = _number(row) if subset == TIES else None
    quality = (1.0,) * len(right) + (0.0,) * len(wrong)
    return Answers(row, "reward_bench_2", prompt, (*right, *wrong), quality, subset, tied=tied)


_READERS: dict[Kind, Callable[[Row], Answers]] = {
    "pairs": _pair,
    "lists": _list,
    "reward_bench": _bench,
    "reward_bench_2": _bench_2,
}


def _text(row: Row, name: str) -> str:
    """An optional column of names; "" where there is none."""
    value = row.data.get(name)
    return "" if value is None else str(value)


def _subset(row: Row, known: Sequence[str]) -> str:
    value = row.data.get("subset")
    if value not in known:
        hint = did_you_mean(str(value), known)
        what = "column 'subset' is missing." if value is None else f"there is no subset {value!r}.{hint}"
        raise row.error(what, field="subset", remedy=f"RewardBench has {', '.join(known)}.")
    return str(value)


def _texts(row: Row, name: str) -> tuple[str, ...]:
    value = row.data.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise row.error("must be a list of texts that are not empty.", field=name)
    return tuple(value)


def _number(row: Row) -> tuple[str, int]:
    """Of `ref:7` and `tied:7`."""
    kind, colon, number = str(row.data.get("id")).partition(":")
    if kind not in ("ref", "tied") or not colon or not number.isdigit():
        remedy = f"A row of {TIES} has ref:NUMBER or tied:NUMBER."
        raise row.error(f"is {row.data.get('id')!r}.", field="id", remedy=remedy)
    return kind, int(number)


def _check_ties(found: Sequence[Answers]) -> None:
    """Each number has its two rows."""
    seen: dict[tuple[str, int], Answers] = {}
    for one in found:
        if one.tied is not None and one.tied in seen:
            raise one.row.error(f"{one.tied[0]}:{one.tied[1]} is there twice.", field="id", remedy="Remove one.")
        if one.tied is not None:
            seen[one.tied] = one
    for (kind, number), one in seen.items():
        other = ("tied" if kind == "ref" else "ref", number)
        if other not in seen:
            missing = f"{other[0]}:{number} is missing."
            raise one.row.error(missing, field="id", remedy=f"The score of {TIES} compares the two.")
