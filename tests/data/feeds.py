"""Sources for tests, and all batches that a source feeds."""

import contextlib

import jax
import numpy as np


def fed(source, rows_seen, steps, state=None):
    with contextlib.closing(source.open(rows_seen, steps)) as feed:
        return [feed.next(state) for _ in range(steps)]


class Given:
    """A source, and feed, of one packed batch again and again; notes what it is told, and may fail with `error`."""

    hash = "given"

    def __init__(self, batch, error=None):
        self.batch, self.error = jax.tree.map(np.asarray, batch), error
        self.states, self.closed = [], 0

    def empty(self):
        zeros = jax.tree.map(np.zeros_like, self.batch)
        absent = {name: np.full_like(x, -1) for name, x in zeros.per_token.items() if name == "media"}
        roles = {name: np.full_like(role, -1) for name, role in zeros.roles.items()}
        ids = np.full_like(zeros.example_id, -1)
        return zeros.replace(per_token=zeros.per_token | absent, roles=roles, example_id=ids)

    def open(self, rows_seen, steps):
        return self

    def next(self, state):
        self.states.append(state)
        if self.error is not None:
            raise self.error
        return self.batch

    def settle(self):
        pass

    def close(self):
        self.closed += 1
