"""The sections of a report about one run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from jaxpo.evaluate.picture import PICTURES, TABLES, Marks, Picture
from jaxpo.evaluate.report.curves import stage_charts
from jaxpo.evaluate.report.data import data_counts
from jaxpo.evaluate.report.evaluation import evaluations
from jaxpo.evaluate.report.merges import merges
from jaxpo.evaluate.report.page import duration, figure, measured, number, section, table, tile
from jaxpo.evaluate.report.pictures import picture_svg
from jaxpo.evaluate.report.read import Record, RunData, seconds, series
from jaxpo.evaluate.report.rollouts import rollouts
from jaxpo.evaluate.report.shown import shown
from jaxpo.evaluate.report.watching import alerts, processes, starts, times


def render(run: RunData) -> str:
    """The body of the page."""
    parts = [
        header(run),
        alerts(run),
        results(run),
        *stage_sections(run),
        *rollouts(run),
        times(run),
        starts(run),
        *processes(run),
        *profiles(run),
        *work(run),
        teacher_records(run),
        *merges(run),
        *evaluations(run),
        *shown(run),
        samples(run),
        data_counts(run),
        configuration(run),
    ]
    return "\n".join([*parts, environment(run)])


def header(run: RunData) -> str:
    """Name, status, duration and the figures that one looks for first."""
    badge = '<span class="badge done">finished</span>' if run.finished else '<span class="badge open">unfinished</span>'
    note = "" if run.finished else f'<p class="note">{escape(progress(run))}</p>'
    tiles = "\n".join(tile(*t) for t in key_figures(run))
    return (
        f'<header>\n<div class="title"><h1>{escape(run.name)}</h1>{badge}</div>\n{note}'
        f'<p class="muted">{escape(subtitle(run))}</p>\n<div class="tiles">\n{tiles}\n</div>\n</header>'
    )


def subtitle(run: RunData) -> str:
    """Model, recipe and seed in one line; a model that the run began from is named by the end of its path."""
    model, start = run.config.get("model"), run.config.get("model_from")
    shape = model if isinstance(model, str) else "own model configuration" if model else ""
    shape = shape if start is None else f"from {'/'.join(Path(start).parts[-2:])}"
    stages = " → ".join(str(s.get("name")) for s in run.stages) or " → ".join(run.metrics)
    seed = f"seed {run.config['seed']}" if "seed" in run.config else ""
    return " · ".join(p for p in (shape, stages, seed) if p)


def progress(run: RunData) -> str:
    """How far an unfinished run has come."""
    if not run.metrics:
        return "No step has been logged yet. Run the same command again to resume."
    stage, records = list(run.metrics.items())[-1]
    return f"The last logged step is {records[-1]['step']:,} of stage {stage}. Run the same command again to resume."


def key_figures(run: RunData) -> Iterator[tuple[str, str, str]]:
    """Label, value and note of each tile."""
    if not run.metrics:
        return
    took = run.summary.get("seconds") or {stage: seconds(records) for stage, records in run.metrics.items()}
    yield "Time in stages", duration(sum(took.values())), f"{len(took)} stage{'s' if len(took) != 1 else ''}"
    tokens = sum(series(r, "num_tokens")[1][-1] for r in run.metrics.values() if series(r, "num_tokens")[1])
    if tokens:
        yield "Tokens trained", number(tokens), "all stages"
    if run.times:
        yield "Goodput", f"{run.times['goodput']:.1%}", "wall time in steps that count"
    for stage, records in run.metrics.items():
        for name, label in HEADLINES:
            _, values = series(records, name)
            if values:
                before = f", from {number(values[0])}" if len(values) > 1 else ""
                yield stage, number(values[-1]), label + before
                break
    if isinstance(run.summary.get("export"), dict) and "max_logprob_error" in run.summary["export"]:
        error = run.summary["export"]["max_logprob_error"]
        yield "Export verified", f"{error:.1e}", "largest log-prob error, nats"


HEADLINES = (
    ("eval_rewards/accuracies", "held-out accuracy"),
    ("eval_accuracy", "held-out accuracy"),
    ("eval_reward", "held-out reward"),
    ("eval_loss", "held-out loss"),
    ("loss", "loss"),
)


def stage_sections(run: RunData) -> Iterator[str]:
    """Curves of each stage that has begun; a note for those that have not."""
    if not run.metrics:
        yield section("Curves", '<p class="muted">metrics.jsonl holds no steps yet.</p>')
    for i, (stage, records) in enumerate(run.metrics.items()):
        yield section(title(run, stage), stage_charts(records, f"stage{i}"), stage_note(records))
    waiting = [str(s["name"]) for s in run.stages if trained(s) and s.get("name") not in run.metrics]
    if waiting and run.metrics:
        yield f'<p class="note">Not begun: {escape(", ".join(waiting))}.</p>'


def trained(stage: dict[str, Any]) -> bool:
    """Merges and work stages start from no model."""
    return "init_from" in stage


def title(run: RunData, stage: str) -> str:
    """`preference (dpo)`: the stage's name and its method."""
    for configured in run.stages:
        loss = configured.get("loss")
        if configured.get("name") == stage and isinstance(loss, dict):
            return f"{stage} ({str(loss.get('__type__', '')).rpartition(':')[2]})"
    return stage


def stage_note(records: list[Record]) -> str:
    """Steps, time and tokens of a stage in one line."""
    parts = [f"{records[-1]['step']:,} steps", duration(seconds(records))]
    _, tokens = series(records, "num_tokens")
    if tokens:
        parts.append(f"{number(tokens[-1])} tokens")
    _, speed = series(records, "tokens_per_second")
    if speed:
        parts.append(f"median {number(sorted(speed)[len(speed) // 2])} tokens/s")
    _, utilisation = series(records, "mfu")
    if utilisation:
        parts.append(f"median MFU {sorted(utilisation)[len(utilisation) // 2]:.1%}")
    for name, where in (("memory_peak_gib", "device"), ("host_memory_peak_gib", "host")):
        if peaks := series(records, name)[1]:
            parts.append(f"{where} memory peak {number(max(peaks))} GiB")
    skipped = sum(series(records, "skipped")[1])
    if skipped:
        parts.append(f"{number(skipped)} updates skipped (non-finite)")
    return " · ".join(parts)


def profiles(run: RunData) -> Iterator[str]:
    """The operations that took longest, of each stage of which some steps were recorded."""
    head = ["operation", "from", "share", "executions", "ms each"]
    for stage, profile in run.profiles.items():
        first, last = profile["steps"]
        rows = [
            [
                escape(f"{o['name'] or o['operation']} ({o['opcode'] or o['operation']})"),
                escape("/".join(Path(o["place"]).parts[-3:])),
                f"{o['share']:.1%}",
                number(o["calls"]),
                number(1000 * o["seconds"] / o["calls"]),
            ]
            for o in profile["operations"]
        ]
        note = f"Steps {first} to {last}; share of the time of all operations. The trace is in stages/{stage}/profile."
        body = f'<div class="card">{table(head, rows, numeric_from=2)}</div>'
        yield section(f"Costliest operations: {stage}", body, note)


def results(run: RunData) -> str:
    """Probes by stage, each with its 95% interval and n."""
    stages = list(run.probes)
    names = list(dict.fromkeys(n for probes in run.probes.values() for n in probes))
    if not names:
        return ""
    rows = [[escape(name), *(measured(run.probes[s].get(name)) for s in stages)] for name in names]
    note = "Value after each stage; below it the 95% interval and the number of cases."
    return section("Results", f'<div class="card">{table(["", *stages], rows)}</div>', note)


def work(run: RunData) -> Iterator[str]:
    """What the stages that train nothing reported: one row per count or figure."""
    for stage, report in (run.summary.get("work") or {}).items():
        told = {name: value for name, value in report.items() if name not in (PICTURES, TABLES)}
        rows = [[escape(name.replace("_", " ")), escape(value)] for name, value in flat(told)]
        drawn = "".join(_picture(found, f"{stage}-{i}") for i, found in enumerate(report.get(PICTURES, ())))
        charts = f'<div class="charts">{drawn}</div>' if drawn else ""
        tables = "".join(_table(found) for found in report.get(TABLES, ()))
        yield section(
            stage, f'<div class="card">{table(["", ""], rows)}</div>{tables}{charts}', "Reported by the stage."
        )


def _table(found: Mapping[str, Any]) -> str:
    """A table that a stage reported: title, head and rows of texts and numbers."""
    rows = [[escape(x if isinstance(x, str) else number(x)) for x in row] for row in found["rows"]]
    return f'<div class="card"><h3>{escape(found["title"])}</h3>{table(found["head"], rows)}</div>'


def _picture(found: Mapping[str, Any], name: str) -> str:
    """A picture that a stage reported: `dataclasses.asdict` of one."""
    marks = tuple(Marks(**series) for series in found["marks"])
    picture = Picture(**{**found, "marks": marks})
    return figure(picture.title, picture_svg(picture, re.sub(r"\W+", "-", name)), wide=True)


def teacher_records(run: RunData) -> str:
    """Size and speed of the teacher records that distillation stages computed."""
    stages = run.summary.get("teacher_records") or {}
    found = [(f"{stage} ({kind} files)", of) for stage, kinds in stages.items() for kind, of in kinds.items()]
    if not found:
        return ""
    rows = [[escape(name), *(number(of[figure]) for figure in RECORD_FIGURES)] for name, of in found]
    head = ["", *(figure.replace("_", " ") for figure in RECORD_FIGURES)]
    note = "The teacher's likeliest tokens, computed once for the stage's files; all starts of the run together."
    return section("Teacher records", f'<div class="card">{table(head, rows)}</div>', note)


RECORD_FIGURES = ("tokens", "bytes", "bytes_per_token", "file_bytes", "seconds", "tokens_per_second", "parts")


def samples(run: RunData) -> str:
    """Each prompt once, with the answer of every stage."""
    prompts: dict[str, list[tuple[str, str]]] = {}
    for stage, answers in run.samples.items():
        for answer in answers:
            prompts.setdefault(str(answer.get("prompt", "")), []).append((stage, str(answer.get("response", ""))))
    cards = []
    for prompt, given in prompts.items():
        pairs = "\n".join(f"<dt>{escape(s)}</dt><dd>{escape(r) or NOTHING}</dd>" for s, r in given)
        cards.append(
            f'<div class="card"><div class="prompt">{escape(prompt)}</div>\n<dl class="answer">{pairs}</dl></div>'
        )
    return section("Samples", "\n".join(cards), "The same prompts, answered after each stage.")


NOTHING = '<span class="muted">(ended at once)</span>'


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted paths and values of a JSON document, stages under their names; a chosen type is the value of its path."""
    if isinstance(value, dict):
        kind = str(value.get("__type__", ""))
        if prefix and kind and chosen(kind, value, prefix):
            yield prefix, kind.rpartition(":")[2]
        for key, item in value.items():
            if key != "__type__":
                yield from flat(item, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        for i, item in enumerate(value):
            name = item.get("name") if isinstance(item, dict) and prefix == "stages" else None
            yield from flat(item, str(name) if name else f"{prefix}.{i}")
    else:
        items = value if isinstance(value, list) else [value]
        yield prefix, " ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in items)


def chosen(kind: str, value: dict[str, Any], prefix: str) -> bool:
    """Whether another type could stand at a path; of most of `jaxpo.config` only one can."""
    several = "init_from" in value or "models" in value or prefix.startswith("alerts.")
    return several or not kind.startswith("jaxpo.config:")


ELSEWHERE = ("probes", "seconds", "work", "merges", "teacher_records", "goodput")
"""Parts of the summary that have sections of their own."""


def configuration(run: RunData) -> str:
    """The resolved configuration, folded."""
    if not run.config:
        return ""
    rows = [[escape(k), f'<span class="value">{escape(v)}</span>'] for k, v in flat(run.config)]
    inner = table(["field", "value"], rows, numeric_from=2)
    note = "Also in config.json beside this report, which can be run again."
    return section("Configuration", f"<details><summary>{len(rows)} resolved values</summary>\n{inner}</details>", note)


def environment(run: RunData) -> str:
    """Platform, corpus and whatever else the summary says besides the probes."""
    rest = {k: v for k, v in run.summary.items() if k not in ELSEWHERE}
    rows = [[escape(k), escape(v)] for k, v in flat(rest)]
    return section("Environment", f'<div class="card">{table(["", ""], rows, numeric_from=2)}</div>') if rows else ""
