"""`jaxpo data route FILES... OUT.jsonl --runs RUNS`: which pairs people label, and which a judge does."""

from __future__ import annotations

from collections.abc import Sequence

from jaxpo.cli.args import Parser
from jaxpo.cli.construct import add_files_and_networks, add_option, files_and_output, given, options_of, tools_for
from jaxpo.errors import ConfigError

DESCRIPTION = """\
Route preference instances (prompt, responses: [a, b]) to people or to a judge (HyPER, arXiv:2410.19133): a model
fitted to proxy runs predicts, from counts of features among the human labels, how good a reward model becomes. Writes
the rows with `route` ("human" or "ai") and `gain`; `jaxpo data construct hybrid_prefs` makes pairs of them once the
labels are there. The stage ProxyRuns of the recipe hybrid_prefs writes runs; those of another set may be used too."""


def main(argv: Sequence[str]) -> int:
    from jaxpo.construct.hybrid.instances import read_instances
    from jaxpo.construct.hybrid.route import Routing
    from jaxpo.construct.hybrid.runs import read_runs
    from jaxpo.data.rows.formats import read_rows
    from jaxpo.data.rows.json_lines import write_jsonl

    parser = Parser("data route", f"{DESCRIPTION}\n\n{Routing.__doc__}")
    add_files_and_networks(parser)
    parser.add_argument("--runs", nargs="+", required=True, help="files of proxy runs")
    leaves = options_of(Routing)
    for leaf in leaves:
        add_option(parser, leaf)
    args = parser.parse(argv)
    routing = Routing(**given(leaves, args))
    if problems := routing.problems():
        raise ConfigError(problems)
    files, out = files_and_output(args, "data route")
    runs, instances = read_runs(args.runs), read_instances(list(read_rows(files)))
    rows, report = routing.routed(instances, runs, tools_for(args, out))
    write_jsonl(out, rows)
    told = report.pop("coefficients", {})
    for name, value in report.pop("curve").items():
        print(f"budget {name}: predicted {value:.4f}")
    for name, value in list(told.items())[:5]:
        print(f"worth a human label: {name} ({value:+.2e} each)")
    print(f"{out}: " + ", ".join(f"{name} {value:g}" for name, value in report.items() if value is not None))
    return 0
