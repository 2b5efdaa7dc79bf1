"""`jaxpo quantize MODEL OUT`: a model with its matrices on a grid of few bits, and what that costs on held-out text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.errors import ConfigError

DESCRIPTION = """\
Round the matrices of a model to few bits, group by group, and write it as an ordinary checkpoint of float32 weights
that lie on the grid: every program loads it, and `jaxpo export OUT GGUF --format gguf --dtype q4_0` (4 bits, groups of
32) or q8_0 (8 bits) stores the very same weights in an eighth or a quarter of the space. The output matrix gets 8 bits.
Bits per byte are measured before and after, on the last tenth of the text, which calibration does not see, or on
--heldout."""
RECORD = "quantization.json"
SHARE = 10
"""One in so many of the text's parts is held out."""


def main(argv: Sequence[str]) -> int:
    from jaxpo.convert.rounding.methods import METHODS

    about = "\n".join(f"  {name:5s} {text}" for name, text in METHODS.items())
    parser = Parser("quantize", f"{DESCRIPTION}\n\nmethods:\n{about}")
    parser.add_argument("model", type=Path, help="run directory, stage directory, HF export, or PEFT adapter")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--group", type=int, default=32, help="values that share a scale, default 32; 0 = whole rows")
    parser.add_argument("--grid", choices=("q4_0", "8da4w"), help="a runtime's own of 4 bits, see docs/deployment.md")
    parser.add_argument("--method", choices=tuple(METHODS), default="mse", help="default mse")
    parser.add_argument("--text", type=Path, required=True, help="text to calibrate on and to measure with")
    parser.add_argument("--heldout", type=Path, help="text to measure with instead of the end of --text")
    parser.add_argument("--length", type=int, default=256, help="tokens of a window, default 256")
    parser.add_argument("--windows", type=int, default=64, help="windows that calibration looks at, default 64")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    parser.add_argument("--no-verify", action="store_true", help="do not compare the files with the model")
    args = parser.parse(argv)
    quantize(args)
    return 0


def quantize(args: Any) -> None:
    """Check, load, round, measure, write."""
    from jaxpo.convert.card import facts_of
    from jaxpo.convert.config_json import write_json
    from jaxpo.convert.hf import describe, folder_in_making, tensors_of
    from jaxpo.convert.model_io import load_model, read_heads
    from jaxpo.convert.rounding.methods import quantize_model
    from jaxpo.convert.shards import parse_size, write_shards
    from jaxpo.convert.verify import verify
    from jaxpo.models.family import limits, param_table, sees
    from jaxpo.ops.grids import grid

    name = args.grid or f"int{args.bits}"
    if args.grid is not None and args.bits != 4:
        raise ConfigError(f"quantize: --grid {args.grid} has 4 bits; leave out --bits {args.bits}.")
    to = grid(name, args.group)
    if read_heads(args.model):
        raise ConfigError(f"quantize: {args.model} has heads beside the model, which nothing here measures.")
    model = load_model(args.model)
    if sees(model.config):
        raise ConfigError(
            f"quantize: {args.model} sees, and a text shows it nothing: how its tower fares is not known."
        )
    if model.tokenizer is None:
        raise ConfigError(f"quantize: {args.model} has no tokenizer, without which no text can be read.")
    seen, held_out = texts_of(args)
    params, config = model.params["model"], model.config
    check_sizes(args, limits(config).context)
    with folder_in_making(args.out, overwrite=args.overwrite) as partial:
        done = quantize_model(params, config, to, args.method, windows_of(seen, model.tokenizer, args))
        lines, figures = measured(params, done, config, model.tokenizer, held_out, args.length, to)
        record = {"grid": name, "bits": to.bits, "group": to.group, "method": args.method, **figures}
        write_shards(partial, tensors_of(done, param_table(config)), "float32", parse_size("5GB"))
        facts = facts_of(model.path, model.about)
        describe(partial, config, "float32", model.tokenizer, model.generation, facts)
        write_json(partial / RECORD, record)
        if not args.no_verify:
            verify(done, config, partial)
    for line in lines:
        print(line)
    print(f"{args.out}: {name} in groups of {to.group or 'a row'}, {args.method}; figures in {RECORD}")


def check_sizes(args: Any, context: int) -> None:
    """ConfigError for windows that the model cannot read."""
    if not 2 <= args.length <= context:
        raise ConfigError(f"quantize: --length {args.length} must lie in 2 to {context:,}, what the model can read.")
    if args.windows < 1:
        raise ConfigError(f"quantize: --windows {args.windows} must be at least 1.")


def texts_of(args: Any) -> tuple[list[str], list[str]]:
    """What is calibrated on, and what is measured with."""
    from jaxpo.evaluate.perplexity import read_texts

    texts = read_texts([args.text], part="all")
    if args.heldout is not None:
        return texts, read_texts([args.heldout], part="all")
    parts = texts if len(texts) >= SHARE else [part for text in texts for part in pieces(text)]
    if len(parts) < 2:
        raise ConfigError(f"quantize: {args.text} is too short to hold out a part of it; give --heldout.")
    first = len(parts) - max(1, len(parts) // SHARE)
    return parts[:first], parts[first:]


def pieces(text: str) -> list[str]:
    """About twenty stretches of a text, cut between lines."""
    lines, size = text.splitlines(keepends=True), max(1, len(text) // (2 * SHARE))
    found: list[str] = []
    now = ""
    for line in lines:
        now += line
        if len(now) >= size:
            found, now = [*found, now], ""
    return [*found, now] if now else found


def windows_of(texts: Sequence[str], tokenizer: Any, args: Any) -> Any:
    """`[n, length]` token ids, spread over the text; documents one after another, each with its first token."""
    import numpy as np

    from jaxpo.evaluate.perplexity import document_pieces

    ids = np.concatenate([piece for whole in document_pieces(tokenizer, texts, args.length) for piece in whole])
    length = min(args.length, len(ids))
    rows = ids[: len(ids) // length * length].reshape(-1, length)
    return rows[np.linspace(0, len(rows) - 1, min(args.windows, len(rows))).astype(int)]


def measured(
    before: Any, after: Any, config: Any, tokenizer: Any, texts: Sequence[str], length: int, to: Any
) -> tuple[list[str], dict[str, Any]]:
    """Bits per byte of both with intervals, their difference, and what stays as it is."""
    from jaxpo.evaluate.perplexity import bits_per_byte
    from jaxpo.evaluate.score import token_scores
    from jaxpo.models.family import param_table
    from jaxpo.models.grids import placements, unfitting
    from jaxpo.models.spec import leaves, param_count
    from jaxpo.objectives.encode import Scorer

    scorer, table = Scorer(config), param_table(config)

    def bits(params: Any) -> Any:
        return bits_per_byte(lambda x: token_scores(scorer, params, x, "logps"), tokenizer, texts, length)

    values = [bits(before), bits(after)]
    found, left = placements(table, config, to), unfitting(table, config, to)
    lines = [
        f"bits per byte {when} {value.value:.4f} ({value.low:.4f} to {value.high:.4f})"
        for when, value in zip(("before", "after "), values, strict=True)
    ]
    size, cost = sum(len(text.encode()) for text in texts), values[1].value - values[0].value
    lines.append(f"difference {cost:+.4f}, on {size:,} bytes of text that calibration did not see")
    size = sum(param.size for _, param in leaves(table) if id(param) in found)
    lines.append(f"rounded: {size:,} of {param_count(table):,} parameters")
    if left:
        lines.append(f"not rounded, as groups do not divide their rows: {len(left)} matrices, {left[0]} and the like")
    return lines, {"bits_per_byte": {"before": values[0].value, "after": values[1].value}, "not_rounded": left}
