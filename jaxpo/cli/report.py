"""`jaxpo report RUN [RUN2 ...]`: report.html of one run, a comparison of several, or how their losses fall."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxpo.cli.args import Parser


def main(argv: Sequence[str]) -> int:
    parser = Parser("report", "Write a self-contained HTML report; several runs are compared.")
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, finished or not")
    parser.add_argument("--text", action="store_true", help="print the tables of a comparison, write no file")
    parser.add_argument("--out", type=Path, help="file of a comparison (default comparison.html)")
    parser.add_argument(
        "--scaling", metavar="METRIC", help="print power laws of a held-out loss (eval_loss) over steps"
    )
    parser.add_argument("--floor", action="store_true", help="with --scaling: fit what the loss does not go below too")
    args = parser.parse(argv)
    if args.floor and not args.scaling:
        from jaxpo.errors import ConfigError

        raise ConfigError("--floor: belongs to --scaling METRIC.")
    if args.scaling:
        from jaxpo.evaluate.report.scaling import scaling_lines

        print("\n".join(scaling_lines(args.runs, args.scaling, floor=args.floor)))
        return 0
    if args.out is not None and len(args.runs) == 1:
        from jaxpo.errors import ConfigError

        raise ConfigError("--out: belongs to comparisons; the report of one run is RUN/report.html.")

    if args.text and (args.out is not None or len(args.runs) == 1):
        from jaxpo.errors import ConfigError

        raise ConfigError("--text: prints a comparison of several runs, and writes no file.")

    from jaxpo.evaluate.report import comparison_text, write_comparison, write_report

    if args.text:
        print(comparison_text(args.runs))
    elif len(args.runs) == 1:
        print(write_report(args.runs[0]))
    else:
        print(write_comparison(args.runs, args.out or Path("comparison.html")))
    return 0
