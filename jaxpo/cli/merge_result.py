"""What every form of `jaxpo merge` shares: which models are merged, and how the result is written and shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxpo.config import Merge
from jaxpo.errors import ConfigError


def base_name(args: Any) -> str | None:
    return None if args.base is None else str(args.base)


def merged_names(paths: dict[str, Path], args: Any) -> list[str]:
    """Models that are merged; the base is not among them."""
    return [name for name in paths if name != base_name(args)]


def merge_of(args: Any, names: Sequence[str], **fields: Any) -> Merge:
    """What the command asks for, as the stage of a recipe that it would be."""
    weights = None if args.weights is None else tuple(args.weights)
    return Merge(models=tuple(names), weights=weights, base=base_name(args), seed=args.seed, **fields)


def check(merge: Merge, names: Sequence[str], files: Iterable[str] = ()) -> None:
    """The checks of a merge stage; ConfigError shows all problems, with the command's names of the fields."""
    from jaxpo.recipe.checks.merge import own_problems

    problems = [f"merge: {spelt(problem)}" for problem in own_problems(merge, names, files)]
    if problems:
        raise ConfigError(problems)


def spelt(problem: str) -> str:
    """`method.density: ...` -> `density: ...`, `search.select: ...` -> `--select: ...`."""
    for field, flag in (("method.", ""), ("search.metrics", "--metric"), ("search.", "--")):
        if problem.startswith(field):
            return flag + problem.removeprefix(field)
    return problem


def finish(plan: Any, opened: Any, args: Any) -> None:
    """Show the effective weights, then write and verify."""
    from jaxpo.cli.export import options_of, reached
    from jaxpo.stages.merging.files import generation_lines, merge_to_export, merge_to_stage, template_lines

    for line in [*plan.lines, *generation_lines(opened), *template_lines(opened)]:
        print(line)
    tokenizer = next((m.tokenizer for m in opened.values() if m.tokenizer is not None), None)
    if args.format == "jaxpo":
        about = "merge of " + ", ".join(Path(name).name for name in opened)
        merge_to_stage(plan, opened, args.out, tokenizer=tokenizer, trained_on=about)
        print(f"{args.out}: written as a jaxpo model")
        return
    report = merge_to_export(plan, opened, args.out, tokenizer=tokenizer, **options_of(args))
    without = "" if tokenizer is not None else " (without a tokenizer: no model's directory has one)"
    print(f"{args.out}: exported{without}{reached(report)}")
