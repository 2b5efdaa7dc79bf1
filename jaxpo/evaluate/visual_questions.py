"""The probe of questions about images, with the pictures and answers that a report shows. Imports no jax."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.config import Data
from jaxpo.config.places import OtherFile
from jaxpo.evaluate.intervals import share
from jaxpo.evaluate.probes import Measured
from jaxpo.train.files import write_json

if TYPE_CHECKING:
    from jaxpo.data.tokens.dataset import Dataset
    from jaxpo.evaluate.context import ProbeContext

SHOWN = "shown"
"""Folder of a run in which the report finds them, a file for each stage and probe."""
SIDE = 96
"""Most pixels along a side of what is shown."""


@dataclass(frozen=True)
class Shown:
    """One question of a report.

    Attributes:
      image: `data:` URL; "" where the question has none.
      said: the likeliest token at each place of the answer, given those before it.
    """

    image: str
    question: str
    answer: str
    said: str
    right: bool


@dataclass(frozen=True)
class VisualQuestions:
    """Share of held-out answers of which every token is the likeliest one given those before it.

    That is exact match of greedy answers: one that begins alike goes on so, and the turn's end is among the tokens.

    Attributes:
      files: rows with images, of type prompt_completion or messages.
      name: prefix of the results.
      by: column with the kind of each question, for `NAME_KIND` besides; "" = none.
      data: how rows are cut and packed.
      rows: packed rows of a batch.
      show: questions that the report shows, evenly spaced over the files.
    """

    files: tuple[OtherFile, ...]
    name: str = "exact_match"
    by: str = ""
    data: Data = field(default_factory=lambda: Data(max_length=128, row_length=256))
    rows: int = 16
    show: int = 12

    def measure(self, context: ProbeContext) -> Measured:
        from jaxpo.data.packing.loader import Loader
        from jaxpo.data.tokens.prepare import prepare
        from jaxpo.data.tokens.seeing import seeing

        files = context.files(self.files)
        data = seeing(self.data, context.tokenizer, context.scorer.config)
        dataset = prepare(
            files,
            data=data,
            tokenizer=context.tokenizer,
            purpose="sft",
            cache_dir=context.run_dir / "data",
            log=lambda line: None,
        )
        likeliest = _likeliest(context, Loader(dataset, data, seed=0, rows_per_step=self.rows))
        right = {number: bool((own == _answer(dataset, number)).all()) for number, own in likeliest.items()}
        self._show(context, dataset, likeliest, right)
        kinds = self._kinds(dataset)
        found = {self.name: share(sum(right.values()), len(right))}
        for kind in sorted(set(kinds.values())):
            own = [right[number] for number, of in kinds.items() if of == kind and number in right]
            found[f"{self.name}_{kind}"] = share(sum(own), len(own))
        return found

    def _kinds(self, dataset: Dataset) -> dict[int, str]:
        """The kind of each example's question."""
        if not self.by:
            return {}
        rows = _rows(dataset)
        examples = dataset.store.read(range(len(dataset)))
        return {n: str(rows[example.file, example.row].get(self.by, "")) for n, example in enumerate(examples)}

    def _show(
        self, context: ProbeContext, dataset: Dataset, likeliest: dict[int, np.ndarray], right: dict[int, bool]
    ) -> None:
        """Write down some questions with what is said to them."""
        import jax

        numbers = sorted(likeliest)
        chosen = [numbers[i] for i in np.linspace(0, len(numbers) - 1, min(self.show, len(numbers))).astype(int)]
        decode = dataset.tokenizer.decode
        rows = _rows(dataset)
        told = []
        for number, example in zip(chosen, dataset.store.read(chosen), strict=True):
            image = _data_url(dataset, example) if example.pictures else ""
            question = _question(rows[example.file, example.row])
            answer, said = decode(_answer(dataset, number)), decode(likeliest[number])
            told.append(asdict(Shown(image, question, answer.strip(), said.strip(), right[number])))
        if jax.process_index() == 0:
            folder = context.run_dir / SHOWN
            folder.mkdir(exist_ok=True)
            document = {"stage": context.stage, "name": self.name, SHOWN: told}
            write_json(folder / f"{context.stage}-{self.name}.json", document)


def _likeliest(context: ProbeContext, loader: Any) -> dict[int, np.ndarray]:
    """Example number -> the likeliest token at each supervised place."""
    from jaxpo.evaluate.score import likeliest_tokens

    found = {}
    batches = loader.one_pass()
    for i, batch in enumerate(batches):
        tokens = likeliest_tokens(context.scorer, context.params, batch)
        for place in batches.places(i):
            if batch.example_id[place.n] >= 0:
                row = place.block * loader.block_rows + int(place.row[0])
                own = (batch.segment_ids[row] == place.slot[0] + 1) & batch.masks["completion"][row]
                found[place.example] = tokens[row][own]
    return found


def _answer(dataset: Dataset, number: int) -> np.ndarray:
    (example,) = dataset.store.read([number])
    segment = example.segments[0]
    return segment.tokens[np.flatnonzero(segment.supervised[1:]) + 1]


def _rows(dataset: Dataset) -> dict[tuple[int, int], dict[str, Any]]:
    """(number of a file, number of a row) -> its columns."""
    from jaxpo.data.rows.formats import read_rows

    return {(i, row.number): row.data for i, file in enumerate(dataset.files) for row in read_rows([file])}


def _question(data: dict[str, Any]) -> str:
    turns = data.get("prompt", data.get("messages"))
    return " ".join(_said(turns))


def _said(value: Any) -> Iterator[str]:
    """The strings of user turns."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for turn in value:
            content = turn.get("content") if turn.get("role", "user") == "user" else ()
            yield from [content] if isinstance(content, str) else (p["text"] for p in content or () if p.get("text"))


def _data_url(dataset: Dataset, example: Any) -> str:
    """The first image, small."""
    from PIL import Image

    from jaxpo.data.media.decode import pixels

    assert dataset.sight is not None
    shown = Image.fromarray(pixels(example.pictures[0].payload, dataset.sight.limits(dataset.files[example.file])))
    scale = SIDE / max(shown.size)
    size = (max(round(shown.width * scale), 1), max(round(shown.height * scale), 1))
    out = io.BytesIO()
    shown.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
