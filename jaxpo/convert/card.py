"""The model card of an export: `README.md`, made of the run's own records. What nobody knows is left to the user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpo.models.family import Config, family, param_table
from jaxpo.models.spec import param_count
from jaxpo.train.files import read_json

CARD = "README.md"
_SETTINGS = ("rows_per_step", "max_steps", "max_tokens", "num_train_epochs", "seed")
"""Of a stage, where it sets them."""


@dataclass(frozen=True)
class Facts:
    """What is known of a model.

    Attributes:
      trained_on: files and numbers of examples behind the last stage.
      recipe: one line per stage.
      figures: stage, name, value, interval and cases of every measurement.
    """

    name: str
    trained_on: str = ""
    recipe: tuple[str, ...] = ()
    figures: tuple[tuple[str, str, str, str, str], ...] = ()


def facts_of(path: Path | None, about: Mapping[str, Any]) -> Facts:
    """The records of the run that a model's folder lies in; of a model from elsewhere, what its checkpoint says.

    Args:
      path: a run, one of its stages, or any other model's folder.
      about: `Model.about`.
    """
    trained_on, here = str(about.get("trained_on", "")), Path(path or "model").resolve()
    run = next((folder for folder in (here, *list(here.parents)[:4]) if (folder / "summary.json").is_file()), None)
    if run is None:
        return Facts(here.name, trained_on)
    stage = str(about.get("stage", ""))
    stages = _object(run / "config.json").get("stages")
    recipe = list(_recipe(stages if isinstance(stages, list) else [], stage))
    probes = _object(run / "summary.json").get("probes")
    figures = [row for name in (stage, stage.partition(",")[0]) for row in _figures(probes, name)]
    return Facts(run.name, trained_on, tuple(recipe), tuple(dict.fromkeys(figures)))


def write_card(
    folder: Path,
    facts: Facts,
    config: Config,
    use: Sequence[str],
    files: Sequence[str] = (),
    library: str = "transformers",
) -> None:
    """Write the card.

    Args:
      library: what loads the folder, by the Hub's name.
      use: how the model is run, lines of Markdown.
      files: a table of the files, lines.
    """
    (folder / CARD).write_text("\n".join(lines(facts, config, use, files, library)) + "\n", encoding="utf-8")


def lines(
    facts: Facts, config: Config, use: Sequence[str], files: Sequence[str] = (), library: str = "transformers"
) -> Iterator[str]:
    """The card's text."""
    yield from ("---", "# license: name the licence of the model here", f"library_name: {library}", "---", "")
    yield from (f"# {facts.name}", "")
    yield f"{param_count(param_table(config)):,} parameters, {_shape(config)}. Trained with jaxpo."
    yield from ("", "## Trained on", "", facts.trained_on or "Not recorded.", "")
    if facts.recipe:
        yield from ("## Recipe", "", *facts.recipe, "")
    if facts.figures:
        yield from ("## Figures", "", "| stage | measurement | value | 95% interval | n |", "|---|---|---|---|---|")
        yield from ("| " + " | ".join(row) + " |" for row in facts.figures)
        yield ""
    if files:
        yield from ("## Files", "", "```", *files, "```", "")
    yield from ("## How to run it", "", *use, "", "## Licence", "", "Not stated: it is the model's owner who names it.")


def _shape(config: Any) -> str:
    found = family(config)
    if found.denoise is None:
        kind = getattr(config, "model_type", "a")
        return f"{config.num_hidden_layers} layers, {config.vocab_size:,} rows of vocabulary ({kind})"
    side, schedule = config.sample_size, config.schedule
    images = f"images of {side} x {side} x {config.in_channels} ({found.name})"
    return f"{images}, {schedule.steps:,} times of {schedule.betas} noise, predicts {schedule.parameterisation}"


def _recipe(stages: Sequence[Any], last: str) -> Iterator[str]:
    for number, stage in enumerate(stages, 1):
        if not isinstance(stage, Mapping):
            return
        name, kind = str(stage.get("name", "")), str(stage.get("__type__", "")).rpartition(":")[2]
        optimizer = stage.get("optimizer")
        settings = {key: stage.get(key) for key in _SETTINGS}
        settings |= {"learning_rate": optimizer.get("learning_rate")} if isinstance(optimizer, Mapping) else {}
        told = ", ".join(f"{key} {value}" for key, value in settings.items() if isinstance(value, int | float))
        yield f"{number}. {name}{f' ({kind})' if kind else ''}{f': {told}' if told else ''}"
        if name == last.partition(",")[0]:
            return


def _figures(probes: Any, stage: str) -> Iterator[tuple[str, str, str, str, str]]:
    measured = probes.get(stage) if isinstance(probes, Mapping) else None
    if not isinstance(measured, Mapping):
        return
    for name, found in measured.items():
        record = found if isinstance(found, Mapping) else {"value": found}
        value, low, high, n = (record.get(key) for key in ("value", "low", "high", "n"))
        if isinstance(value, int | float):
            known = isinstance(low, int | float) and isinstance(high, int | float)
            interval = f"{low:.4g} to {high:.4g}" if known else "-"
            yield stage, name, f"{value:.4g}", interval, "-" if n is None else str(n)


def _object(file: Path) -> Mapping[str, Any]:
    found = read_json(file)
    return found if isinstance(found, Mapping) else {}
