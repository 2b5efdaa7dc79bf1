"""`jaxpo data encode-images FILES... OUT.parquet --encoder FOLDER`: images as latents, captions as states of a text."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.errors import ConfigError, DataError

DESCRIPTION = """\
Encode images, or pairs of them, once: the rows of a Denoise stage with `latent`, or `latent_w` and `latent_l`, and
their `scale`. FILES are as those of the stage; the encoder is a folder of a diffusers pipeline on disk, run by
diffusers, which is installed beside jaxpo."""


def main(argv: Sequence[str]) -> int:
    parser = Parser("data encode-images", DESCRIPTION)
    parser.add_argument("files", nargs="+", help="data files or folders of images, then the Parquet file to write")
    parser.add_argument(
        "--encoder", type=Path, required=True, help="folder with vae/, and text_encoder/ and tokenizer/"
    )
    parser.add_argument("--states", action="store_true", help="write what the text encoder makes of captions, too")
    parser.add_argument(
        "--length", type=int, help="positions of the states of captions encoded sentence by sentence, 240 in LongAlign"
    )
    parser.add_argument(
        "--second-encoder",
        type=Path,
        help="folder with text_encoder/ and tokenizer/ of T5's form: its states are written for a model's text adapter",
    )
    parser.add_argument("--size", type=int, default=512, help="pixels along both sides (default 512)")
    parser.add_argument(
        "--lists", choices=("extremes", "all"), default="extremes", help="pairs of a scored list (default extremes)"
    )
    parser.add_argument("--batch", type=int, default=8, help="examples at once (default 8)")
    args = parser.parse(argv)
    *files, out = args.files
    asked = ((name, getattr(args, name)) for name in ("size", "batch", "length"))
    problems = [f"--{name} must be at least 1." for name, value in asked if value is not None and value < 1]
    if args.length and not args.states:
        problems.append("--length is that of states, which --states asks for.")
    if not files or not out.endswith(".parquet"):
        problems.append("data encode-images: give files, and then the .parquet file to write.")
    elif Path(out).exists():
        problems.append(f"{out} exists already; choose another name.")
    if problems:
        raise ConfigError(problems)

    from jaxpo.convert.image_encoder import DiffusersEncoder

    encoder = DiffusersEncoder(args.encoder, text=args.states, length=args.length, second=args.second_encoder)
    print(f"{written(files, Path(out), encoder, args)} rows in {out}")
    if encoder.cut:
        print(f"{encoder.cut} captions are longer than their states and have lost their ends")
    return 0


def written(files: Sequence[str], out: Path, encoder: Any, args: argparse.Namespace) -> int:
    """Write the file beside its place, and name it when it is whole; returns how many rows it has."""
    import itertools

    import pyarrow as pa
    import pyarrow.parquet

    from jaxpo.data.durable import publish
    from jaxpo.data.images.encode import encoded_rows

    temporary, count = out.with_name(f".{out.name}.tmp"), 0
    rows = encoded_rows(files, encoder, size=args.size, batch=args.batch, lists=args.lists)
    writer = None
    try:
        while part := list(itertools.islice(rows, 256)):
            try:
                table = pa.Table.from_pylist(part, None if writer is None else writer.schema)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise DataError(f"a column has values of several types: {error}.", remedy="Give it one.") from error
            writer = writer or pa.parquet.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
            count += len(part)
        if not count:
            raise ConfigError("data encode-images: no example is left.")
        assert writer is not None
        writer.close()
        publish(temporary, out)
    finally:
        if writer is not None:
            writer.close()
        temporary.unlink(missing_ok=True)
    return count
