"""`jaxpo generate MODEL --file FILE --out OUT.jsonl`: answers to a file of prompts."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.engine_options import dtype_of, engine_of, window_of
from jaxpo.cli.sampling_options import load_with_tokenizer, stop_ids
from jaxpo.errors import ConfigError
from jaxpo.judges.named import JUDGES, JudgeOptions

NEEDS_OUT = ("restart", "skip_bad", "logps", "prefix", "best_of")
_JUDGE = (
    "judge",
    "judge_model",
    "judge_key",
    "judge_rubric",
    "judge_scale",
    "answer",
    "tests",
    "unsandboxed",
    "reward",
)


def add_file_options(parser: Parser) -> None:
    """What only --out has."""
    group = parser.add_argument_group("a file of answers")
    group.add_argument("--out", type=Path, help="JSONL file to write: the rows of --file with their answers")
    group.add_argument("--restart", action="store_true", help="remove what an earlier run of this output left")
    group.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be answered, and count them")
    group.add_argument("--logps", action="store_true", help="write tokens and log-probs, too")
    group.add_argument("--prefix", default="", help="of the new columns' names")
    group.add_argument("--best-of", type=int, metavar="N", help="draw N answers and write the one the judge likes best")
    group.add_argument("--judge", nargs="+", help=JUDGES)
    group.add_argument("--judge-model", help="the endpoint's model")
    group.add_argument("--judge-key", help="environment variable with the endpoint's key")
    group.add_argument("--judge-rubric", help="text file with the endpoint's instructions")
    group.add_argument("--judge-scale", nargs=2, type=float, metavar=("LOW", "HIGH"), help="of the endpoint's scores")
    group.add_argument("--answer", help="the verifier's column with the right answer (default answer)")
    group.add_argument("--tests", help="the column with the tests that unit_tests runs (default tests)")
    unsafe = "run foreign code with limits alone where bubblewrap does not work: it has the network and your files"
    group.add_argument("--unsandboxed", action="store_true", default=None, help=unsafe)
    group.add_argument("--reward", type=Path, help="the reward judge's model")


def only_with_out(args: argparse.Namespace) -> None:
    """ConfigError for an option that means nothing without --out."""
    given = [name for name in (*NEEDS_OUT, *_JUDGE) if getattr(args, name)]
    if given:
        raise ConfigError([f"--{name.replace('_', '-')} needs --out OUT.jsonl." for name in given])


def answer_file(args: argparse.Namespace, template: Any) -> int:
    """Answer the file, say what came of it."""
    from jaxpo.construct.batch.job import Answering, Job, run_job

    judge = judge_of(args)
    if args.prompts or args.file is None or args.json:
        raise ConfigError("generate: --out answers the prompts of --file FILE alone; leave out prompts and --json.")
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
    answering = Answering(
        tokenizer=model.tokenizer,
        # In one shape, so that what was drawn before an interruption changes nothing of what comes after it.
        engine=lambda needed: engine_of(model, args, needed=needed, answers=args.slots, one_shape=True),
        context=window_of(model, args),
        identity=identity_of(model, args),
        networks=networks_of(args),
    )
    outcome = run_job(job, answering, restart=args.restart)
    report(job, outcome)
    return 0


def judge_of(args: argparse.Namespace) -> Any:
    """The judge of --best-of, or None; ConfigError for one without the other."""
    given = {name: getattr(args, name) for name in _JUDGE if getattr(args, name) is not None}
    if args.best_of is None:
        if given:
            raise ConfigError([f"--{name.replace('_', '-')} needs --best-of N." for name in given])
        return None
    if args.n is not None:
        raise ConfigError("--n and --best-of N: the best of N answers is one; leave out --n.")
    if args.best_of < 2:
        raise ConfigError(f"--best-of is {args.best_of}; it must be at least 2.")
    if "judge" not in given:
        raise ConfigError(f"--best-of needs --judge. {JUDGES}")
    if ("reward" in given["judge"]) != ("reward" in given):
        raise ConfigError("--judge reward and --reward RUN need one another.")
    options: dict[str, Any] = {name: value for name, value in given.items() if name != "reward"}
    options |= {name: tuple(options[name]) for name in ("judge", "judge_scale") if name in options}
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
