"""Processes that die, are stopped, hang, or meet: at instants that are drawn, or that the run's files tell."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

from campaign.child import Child
from campaign.outcome import far_from, outcome, position, steps_lost
from campaign.recipe import STAGES
from campaign.scene import Fault, Scene, Tally, refused

CHAIN = 5
"""SIGKILLs that one run takes before it may end: its end is compared once."""
SILENCE = 10
"""Seconds of silence after which the other processes give a peer up."""
LONG = 3600
"""Seconds: what takes as long hangs."""


def killed(scene: Scene, trials: int) -> Tally:
    """SIGKILL at random instants, several in one run before it is left alone."""
    tally, number = Tally(), 0
    while tally.tried < trials:
        run = scene.run(f"killed-{number}")
        number += 1
        kills, lost, wrong = _kill_repeatedly(scene, run, min(CHAIN, trials - tally.tried))
        if (run / "finished.json").is_file():
            found, after = scene.same(run), 0
        else:
            found, after = scene.again(run)
        for _ in range(kills):
            tally.add([*wrong, *found], max(lost, after))
    return tally


def _kill_repeatedly(scene: Scene, run: Path, most: int) -> tuple[int, int, list[str]]:
    """`(kills, the most steps taken again after one, what is wrong)`; fewer kills where the run ends before."""
    lost, wrong = 0, []
    for kills in range(most):
        before = position(run)
        child = scene.start(run.name)
        child.until(lambda: False, scene.rng.uniform(0, scene.seconds))
        over = child.process.poll()
        child.send(signal.SIGKILL)
        again, problems = steps_lost(before, child.output.read_text(errors="replace"), whole=False)
        lost, wrong = max(lost, again), wrong + problems
        if over is not None:
            return kills, lost, wrong if over == 0 else [*wrong, f"a restart ended with {over}"]
    return most, lost, wrong


def killed_in_a_save(scene: Scene, trials: int) -> Tally:
    """SIGKILL while a checkpoint is written: its folder does not have its name yet."""
    tally = Tally()
    for n in range(trials):
        run = scene.run(f"in-a-save-{n}")
        folder = run / "stages" / STAGES[0] / "checkpoints"
        child = scene.start(run.name)
        caught = child.until(lambda folder=folder: saving(folder))
        if n % 2:
            time.sleep(scene.rng.uniform(0, 0.03))
        child.send(signal.SIGKILL)
        half = saving(folder)
        wrong, lost = scene.again(run)
        if saving(folder):
            wrong.append("the half-written checkpoint is still there")
        tally.add(wrong if caught and (half or n % 2) else [*wrong, "the save was over before the signal"], lost)
    return tally


def saving(folder: Path) -> bool:
    """Whether a checkpoint has a temporary name."""
    return folder.is_dir() and any(not p.name.isdigit() and not p.name.startswith(".") for p in folder.iterdir())


def terminated(scene: Scene, trials: int) -> Tally:
    """SIGTERM once some step is in the metrics: the step under way is saved."""
    tally = Tally()
    for n in range(trials):
        run = scene.run(f"terminated-{n}")
        lines = 1 + scene.rng.randrange(8)
        child = scene.start(run.name)
        child.until(lambda run=run, lines=lines: logged(run) >= lines)
        child.send(signal.SIGTERM)
        ended = child.ended()
        wrong = refused(ended, 128 + signal.SIGTERM, "stopped by SIGTERM")
        problems, lost = scene.again(run)
        if lost:
            problems.append(f"{lost} steps were taken again after a polite stop")
        tally.add([*wrong, *problems], lost)
    return tally


def logged(run: Path) -> int:
    """Lines of the metrics."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def two_in_one(scene: Scene, trials: int) -> Tally:
    """A second run in the directory of one that is under way."""
    tally = Tally()
    for n in range(trials):
        run = scene.run(f"two-in-one-{n}")
        first = scene.start(run.name)
        first.until(lambda run=run: (run / "config.json").is_file())
        wrong = refused(scene.finish(run.name), 2, f"is in use by process {first.process.pid}")
        ended = first.ended()
        tally.add([*wrong, *refused(ended, 0), *scene.same(run)])
    return tally


def hung(scene: Scene, trials: int) -> Tally:
    """A step that does not end: the stacks are written in time, and the process ends."""
    tally = Tally()
    for n in range(trials):
        run = scene.run(f"hung-{n}")
        limit = ["--hang-timeout", "8", "--hang-exit"]
        child = scene.start(run.name, *limit, fault={"kind": "hang", "batch": 4, "seconds": LONG})
        stacks = run / "stages" / STAGES[0] / "hung_steps.txt"
        ended = child.ended()
        wrong = refused(ended, 75, "has taken more than 8 s")
        text = stacks.read_text() if stacks.is_file() else ""
        if "sitecustomize.py" not in text or "fit" not in text:
            wrong.append("the stacks do not show where it hangs")
        problems, lost = scene.again(run)
        tally.add([*wrong, *problems], lost)
    return tally


def reader_dies(scene: Scene, trials: int) -> Tally:
    """A thread that reads ahead ends by an error."""
    tally = Tally()
    for n in range(trials):
        run = scene.run(f"reader-{n}")
        ended = scene.finish(run.name, fault={"kind": "worker", "batch": 4})
        wrong = [] if ended.code not in (0, None) else [f"it ended with {ended.code}"]
        if "planned: a thread that reads data dies" not in ended.text:
            wrong.append(f"it did not say what died, but: {ended.last}")
        problems, lost = scene.again(run)
        tally.add([*wrong, *problems], lost)
    return tally


def peer_dies(scene: Scene, trials: int) -> Tally:
    """SIGKILL to the second of two processes; then both again, to an end equal to rounding."""
    tally = Tally()
    for n in range(trials):
        run = scene.run(f"peer-{n}")
        pair = _together(scene, run)
        pair[0].until(lambda run=run: logged(run) >= 3)
        pair[1].send(signal.SIGKILL)
        wrong = refused(pair[0].ended(), 75, "process 1 is gone without a word")
        ended = [child.ended() for child in _together(scene, run)]
        wrong += [text for one in ended for text in refused(one, 0)]
        tally.add(wrong or far_from(outcome(run), scene.expected))
    return tally


def _together(scene: Scene, run: Path) -> list[Child]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_COORDINATOR_BIND_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    common["JAXPO_PEER_TIMEOUT"] = str(SILENCE)
    return [scene.start(run.name, environ={**common, "JAX_PROCESS_ID": str(i)}) for i in range(2)]


FAULTS = (
    Fault("SIGKILL at a random instant", "each start goes on from the newest checkpoint", killed, (2, 50)),
    Fault(
        "SIGKILL inside an asynchronous save",
        "the half-written checkpoint does not count, and is removed",
        killed_in_a_save,
        (0, 6),
    ),
    Fault("SIGTERM at a random step", "ends with 143; the step under way is saved", terminated, (1, 4)),
    Fault("two runs on one directory", "the second is refused and names the first, which goes on", two_in_one, (0, 1)),
    Fault("a step that hangs", "stacks of all threads within the set time; ends with 75", hung, (0, 2)),
    Fault("a thread that reads data dies", "the run ends with its error", reader_dies, (0, 1)),
    Fault(
        "one of two processes is killed",
        "the other names it and ends with 75; both again end as one process does, to rounding",
        peer_dies,
        (0, 1),
    ),
)
