"""`jaxpo report RUN [RUN2 ...]`: report.html of one run, or a comparison of several as a page or as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxpo.cli.args import Parser


def main(argv: Sequence[str]) -> int:
    parser = Parser("report", "Write a self-contained HTML report; several runs are compared.")
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, finished or not")
    parser.add_argument("--text", action="store_true", help="print the tables of a comparison, write no file")
    parser.add_argument("--out", type=Path, help="file of a comparison (default comparison.html)")
    args = parser.parse(argv)
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
