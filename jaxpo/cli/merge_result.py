"""What every form of `jaxpo merge` shares: which models are merged, and how the result is written and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def base_name(args: Any) -> str | None:
    return None if args.base is None else str(args.base)


def merged_names(paths: dict[str, Path], args: Any) -> list[str]:
    """Models that are merged; the base is not among them."""
    return [name for name in paths if name != base_name(args)]


def finish(plan: Any, opened: Any, args: Any) -> None:
    """Show the effective weights, then write and verify."""
    from jaxpo.cli.export import reached
    from jaxpo.stages.merging.files import merge_to_export, merge_to_stage

    for line in plan.lines:
        print(line)
    tokenizer = next((m.tokenizer for m in opened.values() if m.tokenizer is not None), None)
    if args.format == "jaxpo":
        about = "merge of " + ", ".join(Path(name).name for name in opened)
        merge_to_stage(plan, opened, args.out, tokenizer=tokenizer, trained_on=about)
        print(f"{args.out}: written as a jaxpo model")
        return
    report = merge_to_export(
        plan,
        opened,
        args.out,
        tokenizer=tokenizer,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        overwrite=args.overwrite,
        check=not args.no_verify,
    )
    without = "" if tokenizer is not None else " (without a tokenizer: no model's directory has one)"
    print(f"{args.out}: exported{without}{reached(report)}")
