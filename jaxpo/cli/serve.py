"""`jaxpo serve MODEL`: a model behind OpenAI's HTTP interface."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.engine_options import add_engine_options, engine_of, window_of
from jaxpo.cli.image_options import add_image_options, image_folder, room_for, viewer_for
from jaxpo.cli.sampling_options import add_model, add_sampler, load_with_tokenizer, sampler_of, stop_ids
from jaxpo.cli.terminal import lasting_streams
from jaxpo.errors import ConfigError
from jaxpo.sampling.sampler import Sampler

KEY = "JAXPO_API_KEY"
TOGETHER = 128_000_000
"""Pixels of all images of a request, which are decoded while it waits."""
NEEDED = ("starlette", "uvicorn", "llguidance")


def main(argv: Sequence[str]) -> int:
    parser = Parser("serve", "Answer HTTP requests in OpenAI's form: /v1/completions, /v1/chat/completions.")
    add_model(parser)
    add_place(parser)
    add_engine(parser)
    add_limits(parser)
    add_image_options(parser)
    parser.add_argument(
        "--image-root", type=Path, help="folder of the image files that requests may name (default none: data: URLs)"
    )
    # A request that says nothing is answered as OpenAI's server would.
    add_sampler(parser, Sampler())
    args = parser.parse(argv)
    sampler = sampler_of(args)
    key = args.api_key or os.environ.get(KEY) or None
    check(args, key)
    image_folder(args.image_root)

    from jaxpo.serve.server import bind

    # Whoever reads the log may go away; those who ask are answered all the same.
    with bind(args.host, args.port) as bound, lasting_streams():
        model = load_with_tokenizer(args.model)
        return serve(model, sampler, key, args, bound)


def add_place(parser: Parser) -> None:
    """Where the server is reached, and by whom."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=int, default=8000, help="0 = any that is free (default 8000)")
    parser.add_argument("--api-key", default="", help=f"what clients must send (better: the variable {KEY})")
    parser.add_argument("--name", default="", help="the model's name for clients (default its folder's)")


def add_engine(parser: Parser) -> None:
    """How answers are computed."""
    add_engine_options(parser, slots=16)
    parser.add_argument("--rounds", type=int, default=4, help="tokens between two pieces of a stream (default 4)")
    parser.add_argument("--cache", choices=("dense", "pages"), default="dense", help="default dense")
    parser.add_argument("--no-warm-up", action="store_true", help="compile when requests come, not before")


def add_limits(parser: Parser) -> None:
    """What clients may ask for."""
    parser.add_argument("--queue", type=int, default=256, help="answers that may wait (default 256); then 429")
    parser.add_argument("--time-limit", type=float, default=600.0, help="seconds of a request (default 600)")
    parser.add_argument("--body-limit", type=int, default=4 * 2**20, help="bytes of a request (default 4 MiB)")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds for what runs when stopped (default 30)")


def check(args: argparse.Namespace, key: str | None) -> None:
    """ConfigError that lists everything wrong with the options, before anything is read."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise ConfigError(f"serve: {', '.join(lacking)} not installed: pip install 'jaxpo[serve]'")

    from jaxpo.serve.server import is_loopback

    problems = [
        f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be {words}."
        for name, words, fits in (
            ("port", "in 0..65535", 0 <= args.port <= 65535),
            ("slots", "at least 1", args.slots >= 1),
            ("rounds", "at least 1", args.rounds >= 1),
            ("queue", "at least 0", args.queue >= 0),
            ("time_limit", "positive", 0 < args.time_limit < float("inf")),
            ("body_limit", "at least 1", args.body_limit >= 1),
            ("grace", "at least 0", 0 <= args.grace < float("inf")),
        )
        if not fits
    ]
    if key is None and not is_loopback(args.host):
        problems.append(
            f"--host {args.host} can be reached from other machines: set {KEY}, or --api-key, that clients must send."
        )
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        problems.append("--api-key must be printable ASCII without blanks, as a header can hold it.")
    if problems:
        raise ConfigError(problems)


def serve(model: Any, sampler: Sampler, key: str | None, args: argparse.Namespace, bound: Any) -> int:
    """Make the engine and answer until the end; the exit status."""
    from jaxpo.serve.desk import Desk, Limits
    from jaxpo.serve.engine_thread import EngineThread
    from jaxpo.serve.served import Served
    from jaxpo.serve.server import LOOPBACK_NAMES, Server, address_of

    window = window_of(model, args)
    viewer = viewer_for(model, args, root=args.image_root, files=args.image_root is not None, together=TOGETHER)
    how = {"rounds": args.rounds, "cache": args.cache, **room_for(viewer)}
    engine = engine_of(model, args, needed=window, answers=args.slots, **how)
    if not args.no_warm_up:
        say("compiling")
        engine.warm_up()
    served = Served(
        name=args.name or Path(args.model).resolve().name,
        tokenizer=model.tokenizer,
        vocabulary=model.config.vocab_size,
        context=engine.context,
        stop_ids=stop_ids(model),
        sampler=sampler,
        created=int(time.time()),
        viewer=viewer,
    )
    thread = EngineThread(engine, died=lambda: server.engine_died())
    limits = Limits(queue=args.queue, seconds=args.time_limit, body=args.body_limit)
    # Without a key a page in a browser here must not reach the server under a name of its own.
    hosts = () if key is not None else (*LOOPBACK_NAMES, args.host.lower())
    desk = Desk(served, thread, args.slots, limits, key, hosts)
    address = address_of(bound)
    server = Server(desk, bound, grace=args.grace, ready=lambda: say(f"{served.name} at {address}/v1"))
    return server.run()


def say(line: str) -> None:
    """To the log."""
    print(f"jaxpo serve: {line}", file=sys.stderr, flush=True)
