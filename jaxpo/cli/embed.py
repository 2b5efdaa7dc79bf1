"""`jaxpo data embed FILES... INDEX --model MODEL`: the vectors of documents, as an index that can be searched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxpo.cli.args import Parser
from jaxpo.errors import ConfigError, DataError

DESCRIPTION = """\
Make the vectors of documents with a retriever, and write them as a folder: vectors.safetensors (`vectors` [n, E],
`offsets` [N + 1]), documents.jsonl and index.json. Rows have `text`, perhaps `title` and `_id` (BEIR's corpus.jsonl);
without an id a document has its number. `jaxpo retrieve` searches the folder; other engines can load the vectors.
After an interruption the same command goes on."""


def main(argv: Sequence[str]) -> int:
    parser = Parser("data embed", DESCRIPTION)
    parser.add_argument("files", nargs="+", help="data files, then the folder to make")
    parser.add_argument("--model", type=Path, required=True, help="a retriever: run, stage, or pylate's folder")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "int8"), default="float32", help="of the vectors on disk"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing index")
    args = parser.parse(argv)
    if len(args.files) < 2:
        raise ConfigError("data embed: give at least one data file and the folder to make.")
    *files, out = args.files
    folder = Path(out)
    from jaxpo.evaluate.retrieval.index import (
        ABOUT,
        DOCUMENTS,
        VECTORS,
        check_ids,
        make_index,
        remove_index,
        save_index,
    )
    from jaxpo.evaluate.retrieval.parts import PARTS, discard, in_parts

    if folder.is_file():
        raise ConfigError(f"{folder} is a file, not the folder of an index; name another place.")
    there = {each.name for each in folder.iterdir()} if folder.is_dir() else set()
    begun = PARTS in there and there <= {PARTS, VECTORS, DOCUMENTS}
    if there and not begun and not args.overwrite:
        raise ConfigError(f"{folder} exists already; choose another folder, or --overwrite.")

    from jaxpo.convert.model_io import load_model
    from jaxpo.evaluate.retrieval.embedder import embedder_of

    rows = list(documents(files))
    if not rows:
        raise DataError("there is no document.", file=files[0])
    check_ids([name for name, _ in rows])
    model = load_model(args.model)
    embedder = embedder_of(model, say=print)
    if ABOUT in there:
        # Whole, so that it is to be replaced; without it the same command goes on after an interruption.
        discard(folder)
        remove_index(folder)
    texts = [text for _, text in rows]
    found = in_parts(embedder, texts, folder, args.dtype, anew=args.overwrite, say=print, progress=progress)
    about = {"model": embedder.hash, "source": str(args.model), "retriever": (model.about or {}).get("retriever")}
    index = make_index(found, [name for name, _ in rows], texts, about, args.dtype)
    save_index(index, folder)
    discard(folder)
    empty = sum(not text for _, text in rows)
    bare = sum(not len(vectors) for vectors in found)
    notes = f"; {empty} documents are empty" if empty else ""
    notes += f"; {bare} have no vector and are never found" if bare else ""
    print(f"{folder}: {len(index):,} documents, {len(index.vectors):,} vectors of {index.vectors.shape[1]}{notes}")
    return 0


def documents(files: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Id and text of every row; DataError for a row without a text, named by file and row."""
    from jaxpo.data.rows.formats import read_rows
    from jaxpo.data.rows.retrieval import document_of, id_of_row

    for number, row in enumerate(read_rows(files), start=1):
        yield id_of_row(row) if {"_id", "id"} & row.data.keys() else str(number), document_of(row)


def progress(done: int, total: int) -> None:
    """A line every so often, on standard error."""
    import sys

    step = max(1, total // 10)
    if total >= 1000 and done % step == 0:
        print(f"{done:,} of {total:,} documents", file=sys.stderr)
