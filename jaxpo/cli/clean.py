"""`jaxpo data dedup` and `jaxpo data decontaminate`: files without repeated rows, and without benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.errors import ConfigError, DataError


def dedup(argv: Sequence[str]) -> int:
    """Keep the first of every group of equal or similar rows."""
    from jaxpo.data.cleaning.dedup import Dedup, find_duplicates

    default = Dedup()
    parser = Parser(
        "data dedup",
        "Leave out rows whose text stood before: exactly (but for white space), or nearly, by the Jaccard similarity "
        "of their sets of word n-grams. The first is kept; OUT.removed.jsonl says which row repeated which.",
    )
    _common(parser)
    parser.add_argument("--exact", action="store_true", help="exact duplicates alone")
    parser.add_argument("--threshold", type=float, default=default.threshold, help="Jaccard similarity (default 0.8)")
    parser.add_argument("--ngram", type=int, default=default.ngram, help="words per n-gram (default 5)")
    parser.add_argument("--num-perm", type=int, default=default.num_perm, help="MinHash functions (default 128)")
    args = parser.parse(argv)
    settings = Dedup(not args.exact, args.threshold, args.ngram, args.num_perm, tuple(args.columns))
    settings.check()
    return _write(args, lambda rows: find_duplicates(rows, settings))


def decontaminate(argv: Sequence[str]) -> int:
    """Keep the rows that share no run of words with a benchmark."""
    from jaxpo.data.cleaning.decontaminate import Benchmarks, Decontaminate, find_contaminated
    from jaxpo.data.cleaning.filtered import report_path
    from jaxpo.data.rows.formats import read_rows
    from jaxpo.data.rows.json_lines import check_output

    default = Decontaminate()
    parser = Parser(
        "data decontaminate",
        "Leave out rows that share a run of words with a benchmark. Words are compared after NFKC and case folding, "
        "without punctuation; OUT.removed.jsonl says which row of which benchmark, and the words.",
    )
    _common(parser)
    parser.add_argument("--against", nargs="+", required=True, metavar="BENCHMARK", help="files or folders")
    parser.add_argument("--against-columns", nargs="+", default=(), help="their texts; default as for --columns")
    parser.add_argument("--ngram", type=int, default=default.ngram, help="words in a row (default 13)")
    parser.add_argument(
        "--min-words", type=int, default=default.min_words, help="shorter benchmark rows are ignored (8)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.0, help="share of a row's n-grams that may stay (default 0)"
    )
    args = parser.parse(argv)
    columns, against = tuple(args.columns), tuple(args.against_columns)
    settings = Decontaminate(args.ngram, args.min_words, args.threshold, columns, against)
    settings.check()
    out = _out(args)
    check_output(out, report_path(out))
    benchmarks = Benchmarks(read_rows(args.against, part="all"), settings)
    short = benchmarks.counts["rows_too_short"]
    ignored = f", {short} with fewer than {settings.min_words} words ignored" if short else ""
    print(f"benchmarks: {benchmarks.counts['rows']} rows{ignored}")
    return _write(args, lambda rows: find_contaminated(rows, benchmarks))


def _common(parser: Parser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILES... OUT.jsonl", help="data files, then the file to write")
    parser.add_argument("--columns", nargs="+", default=(), help="texts to compare; default: those that training reads")


def _out(args: Any) -> Path:
    if len(args.files) < 2:
        raise ConfigError("give at least one data file and the file to write.")
    return Path(args.files[-1])


def _write(args: Any, judge: Any) -> int:
    from jaxpo.data.cleaning.filtered import report_path, write_filtered
    from jaxpo.data.rows.formats import list_files, read_rows

    out = _out(args)
    files = list_files(args.files[:-1])
    counts = write_filtered(judge(read_rows(files)), out)
    print(f"{out}: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    print(f"{report_path(out)}: why each of the {counts['removed']} was removed")
    if not counts["kept"]:
        raise DataError("no row is left.", file=files[0])
    return 0
