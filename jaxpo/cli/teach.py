"""`jaxpo data teach TEACHER FILES... OUT`: a teacher's K likeliest tokens at every supervised token of a data set."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.data_options import add_options, data_of
from jaxpo.config import Compute
from jaxpo.errors import ConfigError

DESCRIPTION = """\
Run a teacher over a data set once and keep its K likeliest tokens, for a distillation stage that reads the same files
with the same --max-length, --truncation and --train-on (`--distill.records OUT`). The same command goes on where it was
interrupted. Several machines share the work: give each --shard 0/n .. n-1/n, and put their OUT folders together;
or they compute it as one, as the processes of `jaxpo run` do."""


def main(argv: Sequence[str]) -> int:
    args = parser().parse(argv)
    if len(args.files) < 2:
        raise ConfigError("data teach: give the teacher, at least one data file, and the folder to write.")
    *files, out = args.files
    shard = parse_shard(args.shard)
    from jaxpo.sharding.liveness import together
    from jaxpo.sharding.multihost import start_processes

    line = start_processes()
    return together(line, lambda: record(args, files, Path(out), shard))


def record(args: argparse.Namespace, files: Sequence[str], out: Path, shard: tuple[int, int]) -> int:
    """Write the records; several processes compute them together, and the first writes and speaks."""
    import jax

    from jaxpo.data.packing.loader import Loader
    from jaxpo.data.rows.needs import Needs
    from jaxpo.data.tokenizer.tokenizer import Tokenizer
    from jaxpo.data.tokens.prepare import prepare
    from jaxpo.data.tokens.seeing import seeing
    from jaxpo.recipe.platform import dtype_of
    from jaxpo.sharding import make_mesh, row_share, use_mesh
    from jaxpo.sharding.turns import first_process_first
    from jaxpo.stages.frozen import load_frozen, tokenizer_of
    from jaxpo.stages.teach import check_k, teach

    say = print if jax.process_index() == 0 else lambda *_: None
    settings = data_of(args, files, args.row_length)
    dtype = dtype_of(Compute(dtype=args.dtype), jax.default_backend())
    devices = len(jax.devices())
    mesh = make_mesh({"fsdp": devices})
    with use_mesh(mesh, {}):
        given = Tokenizer.load(args.tokenizer) if args.tokenizer else None
        tokenizer = tokenizer_of(args.teacher, given)
        teacher = load_frozen("teacher", args.teacher, tokenizer, mesh, dtype=dtype, say=say)
        check_k(args.top_k, teacher.scorer.config.vocab_size, "--top-k")
        settings = seeing(settings, tokenizer, teacher.scorer.config)
        how: Any = {"data": settings, "tokenizer": tokenizer, "purpose": "sft", "needs": Needs(roles=("completion",))}
        dataset = first_process_first(lambda: prepare(files, **how, cache_dir=out / "data", log=say))
        rows, (index, count) = args.rows or -(-8 // devices) * devices, row_share(mesh)
        shape: Any = {"rows_per_step": rows, "divisor": devices, "process_index": index, "process_count": count}
        loader = Loader(dataset, settings, seed=0, shuffle=False, **shape)
        report = teach(teacher, loader, out, args.top_k, mesh, say, shard=shard, part_tokens=args.part_tokens)
    say(
        f"{out}: {report['tokens']:,} tokens x {report['bytes_per_token']} bytes = {report['bytes']:,} bytes "
        f"({report['file_bytes']:,} in files) in {report['seconds']:.1f} s, "
        f"{report['tokens_per_second']:,.0f} tokens/s; all {report['parts_done']} parts of this shard are complete, "
        f"of {report['parts']} in total"
    )
    return 0


def parser() -> Parser:
    """Teacher, files, and the settings that must be the stage's."""
    found = Parser("data teach", DESCRIPTION)
    found.add_argument("teacher", type=Path, help="run directory, stage directory, or HF export")
    found.add_argument("files", nargs="+", help="data files, then the folder to write")
    found.add_argument("--top-k", type=int, default=32, help="tokens kept at each position (default 32)")
    found.add_argument("--tokenizer", help="of the student; default: the teacher's, and it must be the same")
    add_options(found)
    found.add_argument("--row-length", type=int, help="tokens per packed row (default: max-length)")
    found.add_argument("--rows", type=int, help="most packed rows per batch (default 8, or one per device)")
    found.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of the network's products (default: as a run's)"
    )
    found.add_argument("--shard", default="0/1", help="i/n: do every n-th part, from part i on (default 0/1: all)")
    found.add_argument("--part-tokens", type=int, default=1 << 18, help="tokens per file, about (default 262144)")
    return found


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/8" -> (2, 8)."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise ConfigError(f"--shard {text!r}: write i/n, such as 0/4 for the first of four.")
    index, count = int(found[1]), int(found[2])
    if index >= count:
        raise ConfigError(f"--shard {text!r}: the shards of {count} are 0/{count} to {count - 1}/{count}.")
    return index, count
