"""`jaxpo retrieve INDEX QUERY...`: the documents of an index that answer a query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.errors import ConfigError

DESCRIPTION = """\
Find the documents of an index (`jaxpo data embed`) that answer a query, by exact scores of all of them; --candidates
compares only those that a library of nearest neighbours finds, and --recall says how many of the best those are.

  jaxpo retrieve INDEX "how do I read a line" [--top 5]

`jaxpo eval MODEL --tasks retrieval:FOLDER` measures a retriever on judged queries."""


def main(argv: Sequence[str]) -> int:
    parser = Parser("retrieve", DESCRIPTION)
    parser.add_argument("words", nargs="*", metavar="INDEX QUERY", help="the folder of an index, then queries")
    parser.add_argument("--model", type=Path, help="the retriever; default the one that made the index")
    parser.add_argument("--top", type=int, default=5, help="documents of a query (default 5)")
    parser.add_argument("--candidates", choices=("faiss", "usearch"), help="look for candidates with this library")
    parser.add_argument("--recall", action="store_true", help="with --candidates: measure them on the queries given")
    args = parser.parse(argv)
    if args.top < 1:
        raise ConfigError(f"retrieve: --top is {args.top}; it must be at least 1.")
    if len(args.words) < 2:
        raise ConfigError("retrieve: give an index and a query.")
    if args.recall and not args.candidates:
        raise ConfigError("retrieve: --recall measures --candidates; give them.")
    return find(args)


def find(args: Any) -> int:
    """Search an index with the model that made it."""
    from jaxpo.convert.model_io import load_model
    from jaxpo.evaluate.retrieval.candidates import nearest, recall, search_candidates
    from jaxpo.evaluate.retrieval.embedder import embedder_of
    from jaxpo.evaluate.retrieval.index import load_index
    from jaxpo.evaluate.retrieval.search import search

    folder, *queries = args.words
    if empty := [query for query in queries if not query.strip()]:
        raise ConfigError(f"retrieve: the query {empty[0]!r} is empty.")
    index = load_index(Path(folder))
    source = args.model or index.about.get("source")
    if source is None:
        raise ConfigError(f"retrieve: {folder} does not say where its model is; give --model.")
    embedder = embedder_of(load_model(Path(source)), say=print)
    index.check_model(embedder.hash, source)
    near = nearest(index, args.candidates) if args.candidates else None
    vectors = embedder.queries(queries)
    for query, own in zip(queries, vectors, strict=True):
        found = search(index, own, args.top) if near is None else search_candidates(index, near, own, args.top)
        print(query)
        for place, score in zip(found.places, found.scores, strict=True):
            print(f"  {score:8.4f}  {index.ids[place]}  {shortened(index.texts[place])}")
    if near is not None and args.recall:
        print(
            f"recall@{args.top} of {args.candidates} against exact search: {recall(index, near, vectors, args.top):.3f}"
        )
    return 0


def shortened(text: str, most: int = 100) -> str:
    """One line of a text."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
