#!/usr/bin/env python3
"""Write what starts one run on several hosts: a SLURM script, a Kubernetes JobSet, or a command for a TPU slice.

  scripts/launch/render.py slurm --nodes 4 --devices 8 -- jaxpo run sft.json --run big > big.sbatch
  scripts/launch/render.py jobset --nodes 4 --devices 8 --image IMAGE --claim CLAIM -- jaxpo run sft.json > big.yaml
  scripts/launch/render.py tpu --tpu NAME --zone ZONE -- jaxpo run sft.json --run big > big.sh

README.md beside this file says how each is used. Standard library only; exit status 2: a setting that cannot be.
"""

import argparse
import json
import os
import re
import shlex
import string
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TEMPLATES = {"slurm": "slurm.sbatch", "jobset": "jobset.yaml", "tpu": "tpu_pod.sh"}
# A label of DNS, short enough for the names of pods that are made from it.
NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


def render(kind, settings, command):
    """The text of one template; ValueError names a setting that cannot be."""
    problem = mistake(kind, settings, command)
    if problem:
        raise ValueError(problem)
    words = " ".join(shlex.quote(word) for word in command)
    if kind == "jobset":
        # Within a double-quoted YAML string.
        words = json.dumps(words)[1:-1]
    values = dict(settings, command=words)
    if kind == "jobset":
        values["selector"] = json.dumps(dict(pair.split("=", 1) for pair in settings["selector"]))
    if kind == "tpu":
        values.update({name: shlex.quote(settings[name]) for name in ("tpu", "zone")})
    with open(os.path.join(HERE, TEMPLATES[kind]), encoding="utf-8") as f:
        return string.Template(f.read()).substitute(values)


def mistake(kind, settings, command):
    """What is wrong with the settings, in one sentence; None = nothing."""
    if not command:
        return "give the command behind --, such as -- jaxpo run CONFIG"
    if any("\n" in word for word in command):
        return "the command has a line break"
    if kind != "tpu" and not NAME.fullmatch(settings["name"]):
        return "--name {!r}: lower-case letters, digits and hyphens, at most 40, from a letter on".format(
            settings["name"]
        )
    for name in ("nodes", "devices", "cpus", "restarts"):
        least = 0 if name == "restarts" else 1
        if settings.get(name, least) < least:
            return f"--{name} {settings[name]}: at least {least}"
    if kind == "slurm" and not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", settings["time"]):
        return "--time {!r}: expected [DAYS-]HOURS:MINUTES:SECONDS".format(settings["time"])
    if kind == "jobset":
        for name in ("image", "claim", "mount", "resource"):
            if not re.fullmatch(r"[A-Za-z0-9/._:@-]+", settings[name]):
                return f"--{name} {settings[name]!r}: letters, digits and / . _ : @ - alone"
        wrong = [pair for pair in settings["selector"] if not re.fullmatch(r"[^=\s]+=[^=\s]+", pair)]
        if wrong:
            return f"--selector {wrong[0]!r}: expected KEY=VALUE"
    return None


def parser():
    """One subcommand per place to run."""
    found = argparse.ArgumentParser(
        prog="scripts/launch/render.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    kinds = found.add_subparsers(dest="kind", required=True)
    slurm = kinds.add_parser("slurm", help="an sbatch script, one process per GPU")
    jobset = kinds.add_parser("jobset", help="a JobSet, one process per pod")
    tpu = kinds.add_parser("tpu", help="a command on every host of a TPU slice")
    for each in (slurm, jobset):
        each.add_argument("--name", default="jaxpo", help="of the job (default jaxpo)")
        each.add_argument("--nodes", type=int, required=True, help="hosts")
        each.add_argument("--devices", type=int, required=True, help="accelerators per host")
        each.add_argument("--restarts", type=int, default=10, help="after lost hosts and preemptions (default 10)")
    slurm.add_argument("--cpus", type=int, default=8, help="per process (default 8)")
    slurm.add_argument("--time", default="24:00:00", help="limit of the job (default 24:00:00)")
    jobset.add_argument("--image", required=True, help="container image with jaxpo")
    jobset.add_argument("--claim", required=True, help="persistent volume claim (ReadWriteMany) for data and runs")
    jobset.add_argument("--mount", default="/runs", help="where it is mounted (default /runs)")
    jobset.add_argument("--resource", default="nvidia.com/gpu", help="or google.com/tpu (default nvidia.com/gpu)")
    jobset.add_argument("--selector", action="append", default=[], help="KEY=VALUE of the nodes; may be repeated")
    tpu.add_argument("--tpu", required=True, help="name of the TPU VM")
    tpu.add_argument("--zone", required=True, help="its zone")
    return found


def main(argv):
    options, command = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    settings = vars(parser().parse_args(options))
    try:
        sys.stdout.write(render(settings.pop("kind"), settings, command))
    except ValueError as error:
        print(f"error: {error}.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
