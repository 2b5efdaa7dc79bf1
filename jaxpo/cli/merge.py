"""`jaxpo merge`: one model from several, leaf by leaf, by any of fifteen methods, a mergekit file, or a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser, dashed
from jaxpo.cli.export import add_options
from jaxpo.cli.merge_result import base_name, check, finish, merge_of, merged_names
from jaxpo.errors import ConfigError
from jaxpo.merge.base import Method
from jaxpo.merge.methods import METHODS, Soup, resolve

DESCRIPTION = f"""\
Merge models of one shape: run directories, stage directories or HF exports. Leaves are read, merged and written one at
a time, so models of any number and size fit.

  jaxpo merge MODEL MODEL --out FOLDER                          their average
  jaxpo merge MODEL MODEL --method ties --base MODEL --density 0.5 --out FOLDER
  jaxpo merge CONFIG.yaml FOLDER                                what mergekit's file says
  jaxpo merge MODEL MODEL --search --select FILES --report FILES --out FOLDER

methods: {", ".join(METHODS)}
With --method NAME, --help shows that method's options as well."""


def main(argv: Sequence[str]) -> int:
    chosen = named_method(argv)
    args = parser_for(chosen).parse(argv)
    if args.models[0].suffix in (".yaml", ".yml"):
        return merge_yaml(args)
    if args.out is None:
        raise ConfigError("merge: name the folder to make with --out FOLDER.")
    paths = model_paths(args)
    if args.search:
        from jaxpo.cli.merge_search import run_search

        return run_search(args, paths)
    given = [f"--{name}" for name in ("select", "report", "metric", "methods") if getattr(args, name)]
    if given:
        raise ConfigError(f"merge: {given[0]} belongs to a search; add --search.")
    method = with_options(chosen or Soup, args)
    if len(paths) < 2 and args.method is None:
        raise ConfigError("merge: give two models or more.")
    names = merged_names(paths, args)
    check(merge_of(args, names, method=method), names)

    from jaxpo.merge.plan import plan_models
    from jaxpo.stages.merging.files import leaf_names, open_models

    with open_models(paths) as opened:
        leaves = leaf_names(next(iter(opened.values())).config)
        plan = plan_models(leaves, method, names, args.weights, base_name(args), args.seed)
        finish(plan, opened, args)
    return 0


def parser_for(method: type[Method] | None) -> Parser:
    """The command's options, and those of the method that was named."""
    parser = Parser("merge", DESCRIPTION)
    parser.add_argument("models", nargs="+", type=Path, help="models, or CONFIG.yaml and the folder to make")
    parser.add_argument("--out", type=Path, help="folder to make")
    parser.add_argument("--method", help="how to merge; default soup")
    parser.add_argument("--base", type=Path, help="theta_0 of the methods on task vectors")
    parser.add_argument("--weights", nargs="+", type=float, help="one per model; default 1 / n each")
    parser.add_argument("--seed", type=int, default=0, help="of random masks")
    parser.add_argument("--format", choices=("hf", "jaxpo"), default="hf", help="of the result; default hf")
    add_options(parser)
    search = parser.add_argument_group("search")
    search.add_argument("--search", action="store_true", help="try a grid of methods and weights, keep the best")
    search.add_argument("--select", nargs="+", type=Path, help="held-out files that choose")
    search.add_argument("--report", nargs="+", type=Path, help="other held-out files, whose figures can be quoted")
    search.add_argument("--metric", nargs="+", metavar="NAME=WEIGHT", help="what counts; needed when there are several")
    search.add_argument("--methods", nargs="+", metavar="NAME", help="methods to try; default all that fit")
    search.add_argument("--max-length", type=int, default=256, help="of scored sequences, in tokens")
    search.add_argument("--max-new-tokens", type=int, default=48, help="of answers that exact_match grades")
    search.add_argument("--parallel", type=int, default=4, help="candidates in memory together")
    if method is not None:
        own = parser.add_argument_group(f"options of {method.NAME}")
        for field in dataclasses.fields(method):
            flags = [f"--{field.name.replace('_', '-')}", *(["--lambda"] if field.name == "scale" else [])]
            own.add_argument(
                *flags, dest=f"method_{field.name}", nargs="+", metavar="X", help=f"default {field.default}"
            )
    return parser


def named_method(argv: Sequence[str]) -> type[Method] | None:
    """The method of `--method NAME`, which decides on further options."""
    words = [dashed(word) for word in argv]
    for i, word in enumerate(words):
        if word == "--method" and i + 1 < len(words):
            return resolve(words[i + 1])
        if word.startswith("--method="):
            return resolve(word.partition("=")[2])
    return None


def with_options(cls: type[Method], args: Any) -> Method:
    """The method with the options given on the command line."""
    from jaxpo.config.fields import Leaf, hints_of
    from jaxpo.recipe.overrides import parse_value

    kind: Any = cls
    hints = hints_of(kind)
    given = {}
    for field in dataclasses.fields(cls):
        words = getattr(args, f"method_{field.name}", None)
        if words is not None:
            given[field.name] = parse_value(Leaf((field.name,), hints[field.name], None, field.default), words)
    return cls(**given)


def model_paths(args: Any) -> dict[str, Path]:
    """Name -> folder of everything that is read, the base last.

    Raises:
      ConfigError: a model given twice.
    """
    paths = {str(path): path for path in args.models}
    if len(paths) < len(args.models):
        twice = next(str(p) for p in args.models if args.models.count(p) > 1)
        raise ConfigError(f"merge: {twice} is given twice; give it once, with a larger weight.")
    return paths if args.base is None else paths | {str(args.base): args.base}


def merge_yaml(args: Any) -> int:
    """A merge as a mergekit file describes it."""
    given = list(only_elsewhere(args))
    if given:
        raise ConfigError([f"merge: {flag} is the file's business; leave it out." for flag in given])
    if len(args.models) + (args.out is not None) != 2:
        raise ConfigError("merge: give the YAML file and the folder to make: jaxpo merge CONFIG.yaml FOLDER.")
    args.out = args.out or args.models[1]

    from jaxpo.merge.mergekit.plan import plan_document
    from jaxpo.merge.mergekit.yaml import read_document
    from jaxpo.stages.merging.files import open_models

    document = read_document(args.models[0])
    sliced = any(source.layers is not None for part in document.slices for source in part.sources)
    with open_models({name: Path(name) for name in document.models}, depth_may_differ=sliced) as opened:
        plan = plan_document(document, {name: list(model.leaves) for name, model in opened.items()}, args.seed)
        args.dtype = plan.dtype or args.dtype
        finish(plan, opened, args)
    return 0


def only_elsewhere(args: Any) -> Iterator[str]:
    """Options that contradict a file."""
    for name in ("method", "base", "weights", "search", "select", "report", "metric", "methods"):
        if getattr(args, name):
            yield f"--{name}"
