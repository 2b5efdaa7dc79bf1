"""`jaxpo data difficulty`: graded answers to a difficulty per item, and from there to every row, by its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpo.cli.args import Parser
from jaxpo.errors import ConfigError

if TYPE_CHECKING:
    from jaxpo.curriculum.matrix import SuccessMatrix
    from jaxpo.curriculum.predictor import RankCorrelation

HELP = """\
Difficulty of items = share of the models that answer them wrongly; for rows that nobody graded it is predicted from
their prompt. GRADED is the matrix.npz of a difficulty stage, or files with `id` and `correct`: one file per model with
true or false, or one file with a list per row. Without GRADED the rows that have a number in the column are the graded
ones. The result trains from easy to hard with --STAGE.data.curriculum."""


def main(argv: Sequence[str]) -> int:
    parser = Parser("data difficulty", HELP)
    parser.add_argument("graded", nargs="*", help="matrix.npz, or files with `id` and `correct`")
    parser.add_argument("--out", required=True, type=Path, help="JSONL file to write")
    parser.add_argument(
        "--rows",
        nargs="+",
        default=[],
        help="training rows to annotate, with `id` where they are graded; default: items",
    )
    parser.add_argument("--column", default="difficulty", help="the column to write (default difficulty)")
    parser.add_argument(
        "--held-out", type=float, default=0.25, help="share of the graded rows to judge the predictor on"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse(argv)
    _check(args)
    matrix = None
    if args.graded:
        from jaxpo.curriculum.matrix import read_matrix

        matrix = read_matrix(args.graded)
        _show(matrix)
    rows = _items(matrix) if not args.rows else _annotated(args, matrix)
    from jaxpo.data.rows.json_lines import write_jsonl

    print(f"{args.out}: {write_jsonl(args.out, rows)} rows")
    return 0


def _check(args: Any) -> None:
    problems = []
    if not args.graded and not args.rows:
        problems.append("data difficulty: give graded files, or --rows some of which have a difficulty.")
    if not str(args.out).endswith(".jsonl"):
        problems.append(f"--out {args.out}: must be a .jsonl file.")
    elif args.out.exists():
        problems.append(f"--out {args.out}: exists already; remove it or name another file.")
    elif not args.out.parent.is_dir():
        problems.append(f"--out {args.out}: there is no folder {args.out.parent}.")
    if not 0 < args.held_out < 1:
        problems.append(f"--held-out {args.held_out:g}: must lie between 0 and 1.")
    if problems:
        raise ConfigError(problems)


def _show(matrix: SuccessMatrix) -> None:
    """Accuracy per model, items per level, and mean success by what the items' authors say."""
    print(f"{len(matrix.models)} models x {len(matrix.items)} items, {len(matrix.models) + 1} levels")
    for model, right in zip(matrix.models, matrix.correct, strict=True):
        print(f"  {model}: {right.mean():.3f} right")
    print(f"items per level, none right to all right: {matrix.level_counts()}")
    for column in ("difficulty", "level", "domain"):
        if all(column in matrix.about.get(item, {}) for item in matrix.items):
            means = ", ".join(f"{value} {mean:.3f}" for value, mean in matrix.mean_success(column).items())
            print(f"mean success by {column}: {means}")


def _items(matrix: SuccessMatrix | None) -> list[dict[str, Any]]:
    from jaxpo.curriculum.stage import graded_rows

    assert matrix is not None
    return graded_rows(matrix)


def _annotated(args: Any, matrix: SuccessMatrix | None) -> list[dict[str, Any]]:
    from jaxpo.curriculum.annotate import annotate, known_difficulties, measured_difficulties
    from jaxpo.data.rows.formats import read_rows

    rows = list(read_rows(args.rows))
    if matrix is None:
        known = known_difficulties(rows, args.column)
    else:
        known = measured_difficulties(rows, dict(zip(matrix.items, matrix.difficulty.tolist(), strict=True)))
    found = annotate(rows, known, column=args.column, held_out=args.held_out, seed=args.seed)
    print(f"{found.measured} rows measured, {found.predicted} predicted")
    if found.report is not None:
        print(f"rank correlation on {found.report.held_out.n} held-out rows: {shown(found.report.held_out)}")
        print(f"of the prompt's length alone: {shown(found.report.length)}")
    return found.rows


def shown(correlation: RankCorrelation) -> str:
    """`0.812 [0.790, 0.833]`."""
    if correlation.rho is None:
        return "none, because one side does not vary"
    return f"{correlation.rho:.3f} [{correlation.low:.3f}, {correlation.high:.3f}]"
