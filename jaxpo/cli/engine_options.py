"""Options that every command with an engine shares, and the engine that they describe."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from jaxpo.cli.args import Parser
from jaxpo.errors import ConfigError

if TYPE_CHECKING:
    from jaxpo.config.precision import Dtype


def add_engine_options(parser: Parser, *, slots: int = 64) -> None:
    """Slots, window and precision."""
    parser.add_argument("--slots", type=int, default=slots, help=f"answers in flight at once (default {slots})")
    parser.add_argument("--context", type=int, help="tokens of prompt and answer together (default the model's window)")
    add_precision_options(parser)


def add_precision_options(parser: Parser) -> None:
    """How products are computed."""
    parser.add_argument(
        "--quantize", choices=("int8",), help="weights and activations of products as integers; says what that costs"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of products (default float32 on CPU, bfloat16 elsewhere)"
    )


def dtype_of(args: argparse.Namespace) -> Dtype:
    """The type of products, whatever type the checkpoint is kept in."""
    import jax

    from jaxpo.config.precision import compute_dtype

    return compute_dtype(args.dtype, jax.default_backend())


def window_of(model: Any, args: argparse.Namespace) -> int:
    """`--context`, or the model's own; ConfigError for one out of range."""
    from jaxpo.models.family import limits

    most = limits(model.config).context
    if args.context is not None and not 1 < args.context <= most:
        raise ConfigError(f"--context is {args.context}; it must lie in 2..{most}, the model's window.")
    if args.slots < 1:
        raise ConfigError(f"--slots is {args.slots}; it must be at least 1.")
    return int(args.context or most)


def engine_of(model: Any, args: argparse.Namespace, *, needed: int, answers: int, **options: Any) -> Any:
    """The engine that the options describe; says on stderr how far a quantised model is from its own.

    Args:
      needed, answers: see `sized`.
      options: further ones of `Engine`.
    """
    import jax.numpy as jnp

    from jaxpo.sampling.fitted import sized

    window, dtype = window_of(model, args), jnp.dtype(dtype_of(args))
    if args.quantize is not None:
        from jaxpo.sampling.quantised import divergence

        line = divergence(model.params["model"], model.config, model.tokenizer, args.quantize, dtype)
        print(line, file=sys.stderr, flush=True)
    return sized(
        model.params["model"],
        model.config,
        needed=needed,
        answers=answers,
        slots=args.slots,
        context=window,
        tokenizer=model.tokenizer,
        dtype=dtype,
        quantize=args.quantize,
        **options,
    )
