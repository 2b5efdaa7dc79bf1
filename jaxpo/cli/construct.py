"""`jaxpo data construct NAME FILES... OUT`: the data set a method is trained on, made from the one there is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser, suggestion
from jaxpo.errors import ConfigError, DataError


def main(argv: Sequence[str]) -> int:
    from jaxpo.construct.base import constructions

    known = constructions()
    if not argv or argv[0] in ("-h", "--help"):
        print(overview(known))
        return 0 if argv else 2
    if argv[0] not in known:
        raise ConfigError(f"there is no construction {argv[0]!r}.{suggestion(argv[0], known)}\n\n{overview(known)}")
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
    parser.add_argument("files", nargs="+", help="data files, then the JSONL file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-length", type=int, default=1024, help="tokens of a text that a network reads")
    from jaxpo.construct.base import NETWORKS

    for name, what in NETWORKS.items():
        parser.add_argument(f"--{name}", type=Path, help=what)
    leaves = options_of(kind)
    for leaf in leaves:
        add_option(parser, leaf)
    args = parser.parse(argv)
    if len(args.files) < 2:
        raise ConfigError(f"data construct {kind.NAME}: give at least one data file and the file to write.")
    *files, out = args.files
    if not out.endswith(".jsonl"):
        raise ConfigError(f"the output {out!r} must be a .jsonl file.")
    if Path(out).exists():
        raise ConfigError(f"{out} exists already; remove it or name another file.")
    if not Path(out).parent.is_dir():
        raise ConfigError(f"there is no folder {Path(out).parent} to write {Path(out).name} to.")
    construction = kind(**given(leaves, args))
    if problems := construction.problems():
        raise ConfigError(problems)
    from jaxpo.data.rows.formats import read_rows

    rows = list(read_rows(files))
    tools = tools_for(args, Path(out))
    written = write(Path(out), construction.run(rows, tools))
    counts = "".join(f", {name} {n}" for name, n in sorted(tools.counts.items()))
    if not written:
        raise DataError(f"no row is left of {len(rows)}{counts}.", file=Path(files[0]))
    print(f"{out}: {written} rows from {len(rows)}{counts}")
    return 0


def options_of(kind: Any) -> list[Any]:
    """The construction's own fields."""
    from jaxpo.config.fields import Leaf, default_of, hints_of

    hints = hints_of(kind)
    return [Leaf((f.name,), hints[f.name], default_of(f), default_of(f)) for f in dataclasses.fields(kind)]


def add_option(parser: Parser, leaf: Any) -> None:
    """One flag per field, with its type and default in the help."""
    from jaxpo.config.fields import describe

    (name,) = leaf.path
    several: dict[str, Any] = {"nargs": "+"} if str(leaf.hint).startswith("tuple") else {}
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

    named = {name: getattr(args, name) for name in NETWORKS if getattr(args, name) is not None}
    networks = {}
    if named:
        from jaxpo.cli.sampling_options import load_with_tokenizer
        from jaxpo.judges.network import Network

        for name, path in named.items():
            model = load_with_tokenizer(path)
            if name == "reward" and "value" not in model.params:
                raise ConfigError(f"--reward {path}: has no value head; give the model of a reward stage.")
            longest = min(args.max_length, model.config.max_position_embeddings)
            networks[name] = Network.of(model, max_length=longest)
    return Tools(args.seed, networks, folder=out.with_suffix(".parts"), max_length=args.max_length)


def write(out: Path, rows: Any) -> int:
    """One JSON object per line, under a temporary name until all are there; returns their number."""
    temporary = out.with_name(f".{out.name}.tmp")
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for count, row in enumerate(rows, start=1):
                file.write(as_json(row, count) + "\n")
        if count:
            temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def as_json(row: dict[str, Any], number: int) -> str:
    """One line; numbers that are not finite are an error, because JSON has none."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError:
        shown = json.dumps(row, ensure_ascii=False)[:300]
        raise DataError(
            f"new row {number} holds a number that is not finite: {shown}.", remedy="Correct the row it is made from."
        ) from None
