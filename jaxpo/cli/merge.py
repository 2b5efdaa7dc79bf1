"""`jaxpo merge MODEL MODEL ... --out FOLDER`: a weighted soup, written as a Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.export import add_options, write
from jaxpo.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    parser = Parser("merge", "Weighted average of models, theta = sum_i w_i theta_i with sum w_i = 1.")
    parser.add_argument("models", nargs="+", type=Path, help="run directories, stage directories or HF exports")
    parser.add_argument("--out", required=True, type=Path, help="folder to make")
    parser.add_argument("--weights", nargs="+", type=float, help="one per model, normalised to sum 1; default uniform")
    add_options(parser)
    args = parser.parse(argv)
    if len(args.models) < 2:
        raise ConfigError("merge: give two models or more.")
    if args.weights is not None and len(args.weights) != len(args.models):
        raise ConfigError(
            f"merge: {len(args.weights)} weights for {len(args.models)} models; give one weight per model."
        )

    from jaxpo.merge.soup import effective_weights, soup
    from jaxpo.stages.model_io import load_model

    weights = effective_weights(len(args.models), args.weights)
    models = [load_model(path) for path in args.models]
    problems = [p for m, path in zip(models[1:], args.models[1:], strict=True) for p in unlike(models[0], m, path)]
    if problems:
        raise ConfigError(problems)
    for weight, path in zip(weights, args.models, strict=True):
        print(f"{weight:8.4f} x {path}")
    write(soup([m.params["model"] for m in models], weights), models[0].config, models[0].tokenizer, args)
    return 0


def unlike(first: Any, other: Any, path: Path) -> list[str]:
    """Why two models cannot be averaged."""
    problems = []
    for name, value in vars(first.config).items():
        if getattr(other.config, name, None) != value:
            found = getattr(other.config, name, None)
            problems.append(
                f"{path}: {name} is {found}, the first model has {value}; only equal models can be averaged."
            )
    hashes = {t.hash for t in (first.tokenizer, other.tokenizer) if t is not None}
    if len(hashes) > 1:
        problems.append(f"{path}: has another tokenizer than the first model, so the same row means another token.")
    return problems
