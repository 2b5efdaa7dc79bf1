"""FSPO with as many shots as show nearly every attribute; registered after `fspo`, on seeds of its own."""

from __future__ import annotations

from dataclasses import replace

from evidence.claims import fspo

CLAIM = replace(
    fspo.CLAIM,
    claim="With eight of a user's choices in the prompt FSPO ranks pairs of unseen users, with one less well; a policy "
    "that sees no user stays at the population's majority.",
    measure="held-out accuracy on users of unseen tastes; effect: the least of accuracy at 8 shots - 0.85, 8 shots - 1 "
    "shot, 1 shot - none",
    seeds=(5, 6, 7, 8, 9),
    threshold=0.0,
    not_reproduced=None,
)


def measure(seed: int) -> dict[str, float]:
    return fspo.measure(seed, 8)
