"""The catalogue as a Markdown page: `docs/losses.md` is what `jaxpo losses --markdown` prints."""

from __future__ import annotations

import textwrap
from typing import Any

from jaxpo.objectives.methods import BY_RECIPE, BY_SETTING

HEAD = """\
# Losses

Written by `jaxpo losses --markdown`. Every method is a pure function (`from jaxpo.losses import ...`) and a dataclass
of hyper-parameters for `jaxpo run preference --stage.loss NAME --stage.loss.FIELD VALUE` (family sft:
`jaxpo run sft`; family reward model: `jaxpo run reward`; family distillation: [distillation.md](distillation.md);
family rollouts: `jaxpo run grpo`, `jaxpo run online_preference`, [online.md](online.md); families images and pairs of
images: `jaxpo run diffusion`, [diffusion.md](diffusion.md)).
The columns that a file needs are shown in [data.md](data.md); `jaxpo data inspect FILE` says which methods it can
train, and `jaxpo data construct METHOD` makes the data sets that a method builds itself.

Two more methods change what surrounds a loss and combine with most of these; they have no name of their own for
`--stage.loss`. **WPO** (arXiv 2406.11827, `--stage.use-weighting True`) weighs each pair by how likely the policy is to
write it. **TR-DPO** (arXiv 2404.09656, `--stage.sync-ref-model True`) lets the reference follow the policy. Other names
of papers that are settings of a method stand below the tables. `--stage.diagnostics ranking_accuracy likelihood`
measures what training does to the policy's own rankings (arXiv 2405.19534) and likelihoods (arXiv 2406.07327).
"""
NETWORKS = {
    ("reference", "logps"): "reference log-probs (precomputed, or in every step)",
    ("reference", "vocab"): "the reference model in every step",
}
READ = {
    "logps": "the {}'s log-probs, recorded or in every step",
    "top_k": "the {}'s top K, recorded or in every step",
    "values": "the {}'s values, recorded or in every step",
    "vocab": "the {} in every step",
    "network": "the {} in every step",
    "denoiser": "the {} in every step",
}
"""What is read of a network, in words."""
TITLES = {
    "pairs": "Pairs",
    "pairs, coupled": "Pairs, coupled over the batch",
    "lists": "Lists of scored responses",
    "unpaired": "Single responses with a label",
    "sft": "Demonstrations",
    "reward model": "Reward models",
    "retrieval": "Retrieval",
    "distillation": "Distillation",
    "rollouts": "Answers of the model itself",
    "images": "Images",
    "pairs of images": "Pairs of images",
}


def needs_in_words(needs: dict[str, Any]) -> str:
    """What a method asks of data and run, in one line."""
    asked = [", ".join(needs["roles"])]
    if needs["written"]:
        asked, needs = [needs["written"]], {**needs, "per_token": (), "columns": ()}
    named = (("optional_roles", "if there: "), ("columns", "columns "), ("per_token", "marks of tokens: "))
    asked += [word + ", ".join(needs[key]) for key, word in named if needs[key]]
    networks = needs["networks"].items()
    asked += [NETWORKS.get((name, kind), READ[kind].format(name)) for name, kind in networks] or ["no reference model"]
    asked += [f"trains {', '.join(needs['extra'])} beside the model"] if needs["extra"] else []
    return "; ".join(asked)


def document(rows: list[dict[str, Any]], doc: Any) -> str:
    """The whole page: a table per family, then every method with its equation.

    Args:
      rows: as of `jaxpo losses --json`.
      doc: import path -> docstring.
    """
    families = [row["family"] for row in rows]
    counted = (f"{families.count(family)} {family}" for family in TITLES if family in families)
    lines = [HEAD, f"{len(rows)} methods, by family: {'; '.join(counted)}.\n"]
    for family, title in TITLES.items():
        members = [row for row in rows if row["family"] == family]
        if members:
            lines += [f"## {title}\n", *table(members), ""]
    named = (f"- `{name}`: {what}: `{flags}`" for name, (what, flags) in (BY_SETTING | BY_RECIPE).items())
    lines += ["## Names that are settings or recipes\n", *named, ""]
    for row in rows:
        lines += section(row, doc(row["function"]))
    return "\n".join(lines).rstrip("\n") + "\n"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """One line per method."""
    head = ["| name | paper | needs | defaults | certainty |", "|---|---|---|---|---|"]
    for r in rows:
        cells = (f"[{r['name']}](#{r['name']})", paper(r), needs_in_words(r["needs"]), defaults(r), r["certainty"])
        head.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return head


def section(row: dict[str, Any], doc: str) -> list[str]:
    """One method: paper, names, and the docstring up to its arguments."""
    aliases = f" Also: {', '.join(f'`{a}`' for a in row['aliases'])}." if row["aliases"] else ""
    summary = textwrap.dedent(doc).split("\nArgs:")[0].rstrip()
    return [f"### {row['name']}\n", f"{paper(row)}. `{row['function']}`.{aliases}\n", "```", summary, "```\n"]


def paper(row: dict[str, Any]) -> str:
    """Title, with the identifier when there is one."""
    return f"{row['paper']} (arXiv {row['arxiv']})" if row["arxiv"] else row["paper"]


def defaults(row: dict[str, Any]) -> str:
    """`beta=0.1 label_smoothing=0.0`."""
    return " ".join(f"`{k}={v}`" for k, v in row["defaults"].items())
