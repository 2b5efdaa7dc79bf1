"""What the parts found as JSON lines, and as the table of docs/bench/gpu.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- scripts/bench --device: begin -->", "<!-- scripts/bench --device: end -->"
HEAD = ("part", "what", "tokens/s", "ms", "TFLOP/s", "MFU (data sheet)", "of plain products", "memory", "remark")
Line = dict[str, Any]


def write(folder: Path, machine: Line, lines: list[Line]) -> None:
    """Both files, complete or as they were."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "gpu.jsonl", "".join(json.dumps(line) + "\n" for line in [machine, *lines]))
    document = folder / "gpu.md"
    text = document.read_text(encoding="utf-8") if document.is_file() else f"# On a GPU\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    _replace(document, f"{before}{BEGIN}\n\n{table(machine, lines)}\n\n{END}{after}")


def table(machine: Line, lines: list[Line]) -> str:
    """For the reader."""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("jax", "jaxlib", "flax", "optax", "numpy"))
    about = f"{machine['count']} x {machine['device']}, Python {machine['python']}, {versions}."
    formulas = sorted({line["formula"] for line in lines if "formula" in line})
    rows = [HEAD, ["---"] * len(HEAD), *(_cells(line) for line in lines)]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return "\n\n".join([about, *(f"{formula}." for formula in formulas), body])


def _cells(line: Line) -> list[str]:
    took = sorted(line.get("seconds", ()))
    mfu, memory = line.get("mfu", {}), line.get("peak_bytes")
    return [
        line["part"],
        ", ".join(
            filter(None, [line.get("name"), line.get("case"), f"{line['rows']} rows" if "rows" in line else None])
        ),
        f"{line['tokens_per_second']:,.0f}" if "tokens_per_second" in line else "",
        f"{1e3 * took[len(took) // 2]:.1f} ({1e3 * took[0]:.1f}..{1e3 * took[-1]:.1f})" if took else "",
        f"{line['tflops']:.4g}" if "tflops" in line else "",
        f"{mfu['datasheet']:.1%}" if "datasheet" in mfu else "",
        f"{mfu['measured']:.1%}" if "measured" in mfu else "",
        f"{memory / 2**30:.2f} GiB" if memory else "",
        _remark(line).replace("|", "\\|"),
    ]


def _remark(line: Line) -> str:
    parts = []
    if "error" in line:
        if isinstance(line["error"], dict):
            worst = max(line["error"].values())
            parts.append(f"{'equal' if line['passed'] else 'DIFFERENT'}: {worst:.1e} from xla at most")
        else:
            parts.append(f"failed: {line['error']}")
    parts += [
        f"{word}: {line[key]}" for key, word in (("missing", "not measured"), ("refused", "refused")) if key in line
    ]
    if line.get("did_not_fit"):
        parts.append(f"no memory for {', '.join(map(str, line['did_not_fit']))} rows")
    return "; ".join([*parts, *filter(None, [line.get("note")])])


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
