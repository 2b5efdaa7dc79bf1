"""`jaxpo generate MODEL --file FILE --out OUT.jsonl`: answers to a file of prompts."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.construct import add_option, given, options_of
from jaxpo.cli.engine_options import dtype_of, engine_of, window_of
from jaxpo.cli.image_options import room_for, viewer_for
from jaxpo.cli.sampling_options import load_with_tokenizer, stop_ids
from jaxpo.errors import ConfigError
from jaxpo.judges.named import JUDGES, JudgeOptions

NEEDS_OUT = ("restart", "skip_bad", "logps", "prefix", "best_of")


def add_file_options(parser: Parser) -> None:
    """What only --out has."""
    group = parser.add_argument_group("a file of answers")
    group.add_argument("--out", type=Path, help="JSONL file to write: the rows of --file with their answers")
    group.add_argument("--restart", action="store_true", help="remove what an earlier run of this output left")
    group.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be answered, and count them")
    group.add_argument("--logps", action="store_true", help="write tokens and log-probs, too")
    group.add_argument("--prefix", default="", help="of the new columns' names")
    group.add_argument("--best-of", type=int, metavar="N", help="draw N answers and write the one the judge likes best")
    judges = parser.add_argument_group("the judge of --best-of", f"{JUDGES}\n\n{JudgeOptions.__doc__}")
    for leaf in options_of(JudgeOptions):
        add_option(judges, leaf)
    judges.add_argument("--reward", type=Path, help="the reward judge's model")


def said_of_judge(args: argparse.Namespace) -> list[str]:
    """The options about judges that stand on the command line, as they are written there."""
    names = [leaf.path[0] for leaf in options_of(JudgeOptions) if getattr(args, f"option_{leaf.path[0]}") is not None]
    return [f"--{name.replace('_', '-')}" for name in (*names, *(["reward"] if args.reward else []))]


def only_with_out(args: argparse.Namespace) -> None:
    """ConfigError for an option that means nothing without --out."""
    said = [f"--{name.replace('_', '-')}" for name in NEEDS_OUT if getattr(args, name)] + said_of_judge(args)
    if said:
        raise ConfigError([f"{option} needs --out OUT.jsonl." for option in said])


def answer_file(args: argparse.Namespace, template: Any) -> int:
    """Answer the file, say what came of it."""
    from jaxpo.construct.batch.job import Answering, Job, run_job

    judge = judge_of(args)
    if args.prompts or args.file is None or args.json or args.image:
        raise ConfigError(
            "generate: --out answers the prompts of --file FILE alone; leave out prompts, --image and --json."
        )
    job = Job(
        file=args.file,
        out=args.out,
        template=template,
        system=args.system,
        raw=args.raw,
        skip_bad=args.skip_bad,
        logps=args.logps,
        prefix=args.prefix,
        judge=judge,
    )
    job.check()
    model = load_with_tokenizer(args.model)
    job = replace(job, template=replace(template, stop_ids=stop_ids(model)))
    if template.constraint is not None:
        template.constraint.begin(model.tokenizer, model.config.vocab_size)  # or it is none, before anything is drawn
    viewer = viewer_for(model, args, root=args.image_root)
    answering = Answering(
        tokenizer=model.tokenizer,
        viewer=viewer,
        # In one shape, so that what was drawn before an interruption changes nothing of what comes after it.
        engine=lambda needed: engine_of(
            model, args, needed=needed, answers=args.slots, one_shape=True, **room_for(viewer)
        ),
        context=window_of(model, args),
        identity=identity_of(model, args) | ({} if viewer is None else {"images": asdict(viewer.settings)}),
        networks=networks_of(args),
    )
    outcome = run_job(job, answering, restart=args.restart)
    report(job, outcome)
    return 0


def judge_of(args: argparse.Namespace) -> Any:
    """The judge of --best-of, or None; ConfigError for one without the other."""
    if args.best_of is None:
        if said := said_of_judge(args):
            raise ConfigError([f"{option} needs --best-of N." for option in said])
        return None
    if args.n is not None:
        raise ConfigError("--n and --best-of N: the best of N answers is one; leave out --n.")
    if args.best_of < 2:
        raise ConfigError(f"--best-of is {args.best_of}; it must be at least 2.")
    options = given(options_of(JudgeOptions), args)
    if "judge" not in options:
        raise ConfigError(f"--best-of needs --judge. {JUDGES}")
    if ("reward" in options["judge"]) != (args.reward is not None):
        raise ConfigError("--judge reward and --reward RUN need one another.")
    judge = JudgeOptions(**options).judges()
    if problems := judge.problems():
        raise ConfigError(problems)
    return judge


def identity_of(model: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What answers depend on besides the request."""
    from jaxpo.checkpoint.fingerprint import fingerprint
    from jaxpo.config.serialise import to_jsonable
    from jaxpo.judges.ledger import digest

    return {
        "model": {
            "parameters": fingerprint(dict(model.params["model"]))[:16],
            "configuration": digest(to_jsonable(model.config)),
            "tokenizer": model.tokenizer.hash[:16],
            "template": digest(model.tokenizer.template),
        },
        "context": args.context,
        "quantize": args.quantize,
        "dtype": dtype_of(args),
    }


def networks_of(args: argparse.Namespace) -> Any:
    """The judge's networks, read when they are asked for."""

    @cache
    def network(name: str) -> Any:
        from jaxpo.judges.network import Network
        from jaxpo.models.family import limits

        model = load_with_tokenizer(args.reward)
        return Network.of(model, max_length=limits(model.config).context)

    return network


def report(job: Any, outcome: Any) -> None:
    """What was written, what was left out and why."""
    for error in outcome.skipped[:3]:
        print(f"left out: {error}")
    if len(outcome.skipped) > 3:
        print(f"left out: {len(outcome.skipped) - 3} more")
    if outcome.rows is None:
        print(f"{job.out} is complete; --restart makes it again.")
        return
    for why, n in Counter(outcome.failures).most_common(3):
        print(f"{n} answers without a score: {why}")
    counts = [f"{n} ended by {reason}" for reason, n in sorted(outcome.reasons.items())]
    counts += [f"{len(outcome.skipped)} rows left out"] if outcome.skipped else []
    counts += [f"{outcome.unscored} rows without a score"] if outcome.unscored else []
    counts += [f"{outcome.drawn} answers drawn, {outcome.tokens_per_second:,.0f} tokens/s"] if outcome.drawn else []
    print(f"{job.out}: {outcome.rows} rows ({', '.join(counts)})")
