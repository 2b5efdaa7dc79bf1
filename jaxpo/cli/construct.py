"""`jaxpo data construct NAME FILES... OUT`: the data set a method is trained on, made from the one there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from jaxpo.cli.args import Parser
from jaxpo.data.rows.json_lines import as_json, check_output, pending
from jaxpo.errors import ConfigError, DataError, did_you_mean


def main(argv: Sequence[str]) -> int:
    from jaxpo.construct.base import constructions

    known = constructions()
    if not argv or argv[0] in ("-h", "--help"):
        print(overview(known))
        return 0 if argv else 2
    if argv[0] not in known:
        raise ConfigError(f"there is no construction {argv[0]!r}.{did_you_mean(argv[0], known)}\n\n{overview(known)}")
    return construct(known[argv[0]], argv[1:])


def overview(known: dict[str, Any]) -> str:
    """All constructions, what they read and what they write."""
    lines = ["usage: jaxpo data construct NAME FILES... OUT.jsonl [options]   (NAME --help lists its options)", ""]
    for name, kind in known.items():
        lines += [
            f"  {name}: {(kind.__doc__ or '').splitlines()[0]}",
            f"      reads {kind.READS}; writes {kind.WRITES}",
        ]
    return "\n".join(lines)


def construct(kind: Any, argv: Sequence[str]) -> int:
    """Read, construct, write; the output appears only when it is complete."""
    parser = Parser(f"data construct {kind.NAME}", f"{kind.__doc__}\nreads {kind.READS}\nwrites {kind.WRITES}")
    add_files_and_networks(parser)
    leaves = options_of(kind)
    for leaf in leaves:
        add_option(parser, leaf)
    args = parser.parse(argv)
    files, out = files_and_output(args, f"data construct {kind.NAME}")
    construction = kind(**given(leaves, args))
    from jaxpo.construct.base import NETWORKS

    named = [name for name in NETWORKS if getattr(args, name) is not None]
    if problems := construction.problems() + construction.missing_networks(named):
        raise ConfigError(problems)
    from jaxpo.data.rows.formats import read_rows

    rows = list(read_rows(files))
    tools = tools_for(args, out)
    with pending(out) as file:
        written = write(file, construction.run(rows, tools))
        counts = "".join(f", {name} {n}" for name, n in sorted(tools.counts.items()))
        if not written:
            raise DataError(f"no row is left of {len(rows)}{counts}.", file=Path(files[0]))
    print(f"{out}: {written} rows from {len(rows)}{counts}")
    return 0


def add_files_and_networks(parser: Parser) -> None:
    """What every command has that makes rows of rows."""
    from jaxpo.construct.base import NETWORKS

    parser.add_argument("files", nargs="+", help="data files, then the JSONL file to write")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens of a text that a network reads")
    for name, what in NETWORKS.items():
        parser.add_argument(f"--{name}", type=Path, help=what)


def files_and_output(args: Any, command: str) -> tuple[list[str], Path]:
    """The data files and the file to write, which may be written."""
    if len(args.files) < 2:
        raise ConfigError(f"{command}: give at least one data file and the file to write.")
    *files, out = args.files
    check_output(Path(out))
    return files, Path(out)


def options_of(kind: Any) -> list[Any]:
    """The construction's own fields."""
    from jaxpo.config.fields import Leaf, default_of, hints_of

    hints = hints_of(kind)
    return [Leaf((f.name,), hints[f.name], default_of(f), default_of(f)) for f in dataclasses.fields(kind)]


def add_option(parser: Any, leaf: Any) -> None:
    """One flag per field of a parser or a group, with type and default in the help; of a bool it may stand alone."""
    from jaxpo.config.fields import describe

    (name,) = leaf.path
    several: dict[str, Any] = {"nargs": "+"} if str(leaf.hint).startswith("tuple") else {}
    several |= {"nargs": "?", "const": "True"} if leaf.hint is bool else {}
    default = "no default" if leaf.value is dataclasses.MISSING else f"default {leaf.value!r}"
    parser.add_argument(
        "--" + name.replace("_", "-"),
        dest=f"option_{name}",
        metavar=name.upper(),
        help=f"{describe(leaf.hint)}; {default}".replace("%", "%%"),
        **several,
    )


def given(leaves: list[Any], args: Any) -> dict[str, Any]:
    """The options that stand on the command line, read by their types."""
    from jaxpo.recipe.overrides import parse_value

    found = {}
    for leaf in leaves:
        words = getattr(args, f"option_{leaf.path[0]}")
        if words is not None:
            found[leaf.path[0]] = parse_value(leaf, [words] if isinstance(words, str) else words)
        elif leaf.value is dataclasses.MISSING:
            raise ConfigError(f"--{leaf.path[0].replace('_', '-')} has no default; give it.")
    return found


def tools_for(args: Any, out: Path) -> Any:
    """Seed and networks."""
    from jaxpo.construct.base import NETWORKS, Tools
    from jaxpo.models.family import limits

    named = {name: getattr(args, name) for name in NETWORKS if getattr(args, name) is not None}
    networks = {}
    if named:
        from jaxpo.cli.sampling_options import load_with_tokenizer
        from jaxpo.convert.reader import why_no_reward
        from jaxpo.judges.network import Network

        for name, path in named.items():
            model = load_with_tokenizer(path)
            if name == "reward" and (lacking := why_no_reward(model.params, model.about)):
                raise ConfigError(f"--reward {path}: {lacking}; give the model of a reward stage.")
            longest = min(args.max_length, limits(model.config).context)
            networks[name] = Network.of(model, max_length=longest)
    return Tools(args.seed, networks, folder=out.with_suffix(".parts"), max_length=args.max_length)


def write(file: IO[str], rows: Iterable[dict[str, Any]]) -> int:
    """One JSON object per line; returns their number."""
    count = 0
    for count, row in enumerate(rows, start=1):
        file.write(as_json(row, count) + "\n")
    return count
