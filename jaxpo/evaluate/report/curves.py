"""Which metrics become which chart."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxpo.evaluate.report.charts import Line, Scale, draw
from jaxpo.evaluate.report.page import figure
from jaxpo.evaluate.report.read import Record, series


@dataclass(frozen=True)
class Chart:
    """One chart: a title, its axis, and the metrics drawn in it (each with its held-out twin).

    Attributes:
      compared: whether it is drawn where runs are compared.
    """

    title: str
    scale: Scale
    metrics: tuple[tuple[str, str], ...]
    columns: int = 1
    compared: bool = True


CHARTS = (
    Chart("Loss", Scale("loss (nats)"), (("loss", "training"),), columns=2),
    Chart("Reward margin", Scale("chosen − rejected"), (("rewards/margins", "training"), ("margin", "training"))),
    Chart(
        "Reward accuracy",
        Scale("share of pairs", from_zero=True, top=1.02),
        (("rewards/accuracies", "training"), ("accuracy", "training")),
    ),
    Chart("Response log-probability", Scale("nats"), (("logps/chosen", "chosen"), ("logps/rejected", "rejected"))),
    Chart("Reward", Scale("mean reward of the answers"), (("reward", "training"),)),
    Chart(
        "Groups without spread",
        Scale("share", from_zero=True, top=1.02),
        (("frac_reward_zero_std", "all rewards alike"), ("rewards/unrewarded", "answers without a reward")),
    ),
    Chart(
        "Length of answers",
        Scale("tokens", from_zero=True),
        (("completions/mean_length", "all"), ("completions/mean_terminated_length", "those that ended")),
    ),
    Chart(
        "Answers cut off, ratios clipped",
        Scale("share", from_zero=True),
        (
            ("completions/clipped_ratio", "cut off"),
            ("clip_ratio/region_mean", "clipped"),
            ("policy/clipfrac_avg", "clipped"),
            ("val/clipfrac_avg", "values clipped"),
        ),
    ),
    Chart("Entropy", Scale("nats per token", from_zero=True), (("entropy", "training"),)),
    Chart("KL to the reference", Scale("nats per token", from_zero=True), (("kl", "training"),)),
    Chart("KL of an answer", Scale("nats, summed", from_zero=True), (("objective/kl", "training"),)),
    Chart("Weight of the KL in rewards", Scale("coefficient", from_zero=True), (("objective/kl_coef", "training"),)),
    Chart(
        "Critic",
        Scale("explained variance of the returns", top=1.02),
        (("critic/vf_explained_var", "training"),),
    ),
    Chart("Critic's loss", Scale("half the squared error", from_zero=True), (("loss/value_avg", "training"),)),
    Chart(
        "Trainer against sampler",
        Scale("|difference of log-probs|, nats", from_zero=True),
        (
            ("sampling/sampling_logp_difference/mean", "mean"),
            ("sampling/sampling_logp_difference/max", "largest"),
        ),
    ),
    Chart(
        "Time of a generation",
        Scale("seconds", from_zero=True),
        (
            ("rollouts/writing_seconds", "writing"),
            ("rollouts/rewards_seconds", "rewards"),
            ("rollouts/reading_seconds", "the trainer's networks"),
        ),
        compared=False,
    ),
    Chart("Token accuracy", Scale("share of tokens", from_zero=True), (("mean_token_accuracy", "training"),)),
    Chart("Hidden tokens", Scale("share that is told", from_zero=True), (("masked_accuracy", "training"),)),
    Chart(
        "Classes of words",
        Scale("F1", from_zero=True, top=1.02),
        (("macro_f1", "mean of the classes"), ("entity_f1", "entities")),
    ),
    Chart(
        "Load of the experts",
        Scale("relative to the mean load", from_zero=True),
        (("moe/max_load_violation", "busiest, above the mean"), ("moe/mean_load_violation", "mean deviation")),
    ),
    Chart(
        "Use of the experts",
        Scale("share", from_zero=True, top=1.02),
        (("moe/load_entropy", "entropy of the load / log E"), ("moe/dead_experts", "experts without a token")),
    ),
    Chart("Balance loss", Scale("1 = even load"), (("aux_loss", "training"),)),
    Chart("Router z loss", Scale("mean of squared logsumexp", from_zero=True), (("router_z_loss", "training"),)),
    Chart("Throughput", Scale("tokens per second", from_zero=True), (("tokens_per_second", "training"),)),
    Chart("Utilisation", Scale("share of the devices' peak (MFU)", from_zero=True), (("mfu", "training"),)),
    Chart(
        "Wall time besides the step",
        Scale("share", from_zero=True),
        (("time/data", "data"), ("time/eval", "evaluation"), ("time/save", "saving"), ("time/other", "other")),
        compared=False,
    ),
    Chart(
        "Memory, highest so far",
        Scale("GiB", from_zero=True),
        (("memory_peak_gib", "device"), ("host_memory_peak_gib", "host")),
        compared=False,
    ),
    Chart("Slowest process", Scale("seconds per step behind", from_zero=True), (("slowest_process_lag", "training"),)),
    Chart("Goodput so far", Scale("share of wall time", from_zero=True, top=1.02), (("goodput", "training"),)),
    Chart("Learning rate", Scale("learning rate", from_zero=True), (("learning_rate", "training"),)),
    Chart("Gradient norm", Scale("L2 norm before clipping", log=True), (("grad_norm", "training"),)),
)


def stage_charts(records: list[Record], name: str) -> str:
    """All charts of one stage for which there are values."""
    drawn = []
    for i, chart in enumerate(CHARTS):
        lines = [line for pair in chart.metrics for line in metric_lines(records, *pair)]
        lines = [Line(x.label, x.steps, x.values, j, x.raw, x.markers) for j, x in enumerate(lines)]
        if lines:
            drawn.append(picture(chart.title, lines, chart, f"{name}-{i}"))
    return f'<div class="charts">\n{"".join(drawn)}\n</div>' if drawn else ""


def metric_lines(records: list[Record], metric: str, label: str) -> list[Line]:
    """The training curve of a metric and its held-out points."""
    out = []
    steps, values = series(records, metric)
    if steps:
        out.append(Line(label, steps, values, raw=metric != "learning_rate"))
    steps, values = series(records, f"eval_{metric}")
    if steps:
        out.append(Line("held-out" if label == "training" else f"{label}, held-out", steps, values, markers=True))
    return out


def overlaid_charts(runs: list[tuple[str, list[Record]]], name: str) -> str:
    """The charts of one stage with one colour per run; held-out values where there are any, else training values."""
    drawn = []
    for i, chart in enumerate(replace(c, columns=1) for c in CHARTS if c.compared):
        for metric, label in chart.metrics:
            lines = []
            for colour, (run, records) in enumerate(runs):
                steps, values = series(records, metric)
                if steps:
                    lines.append(Line(run, steps, values, colour, raw=metric != "learning_rate"))
            held_out = []
            for colour, (run, records) in enumerate(runs):
                steps, values = series(records, f"eval_{metric}")
                if steps:
                    held_out.append(Line(run, steps, values, colour, markers=True))
            title = chart.title if label == "training" else f"{chart.title}: {label}"
            for kind, group in (("", lines), (", held-out", held_out)):
                if group:
                    unique = f"{name}-{i}-{label}{'-eval' if kind else ''}"
                    drawn.append(picture(title + kind, group, chart, unique, legend=True))
    return f'<div class="charts">\n{"".join(drawn)}\n</div>' if drawn else ""


def picture(title: str, lines: list[Line], chart: Chart, name: str, *, legend: bool = False) -> str:
    """A titled figure of one chart's lines."""
    svg = draw(lines, usable(chart.scale, lines), name, columns=chart.columns, legend=legend)
    return figure(title, svg, wide=chart.columns > 1)


def usable(scale: Scale, lines: list[Line]) -> Scale:
    """A logarithmic axis only where every value is positive."""
    if scale.log and any(v <= 0 for line in lines for v in line.values):
        return Scale(scale.label, scale.from_zero, False, scale.top)
    return scale
