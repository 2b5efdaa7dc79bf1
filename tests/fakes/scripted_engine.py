"""An engine without a model: what each request is answered with is written down; slots, steps and ends are real."""

import time
from collections import deque
from types import SimpleNamespace

import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.sampling.request import Generation, TopLogps


class ScriptedEngine:
    """`script(request, sample) -> ids`; a number among them that is None ends the row with an error.

    Attributes:
      slots, per_step: rows that run at once, tokens of each per step.
      pause: seconds of a step.
      paced: a semaphore that every step takes from, for whoever lets the engine go on step by step; a step that nobody
        lets begins after a second all the same. None = the engine goes on by itself.
      fault: raised by the next step.
      most: rows that ran at once at most.
    """

    def __init__(self, tokenizer, script, *, slots=4, per_step=2, pause=0.0, paced=None):
        self.tokenizer, self.script, self.slots, self.per_step, self.pause = tokenizer, script, slots, per_step, pause
        self.paced = paced
        self.waiting, self.running, self.cancelled, self.rows = deque(), [], set(), {}
        self.submitted = self.most = self.ended = 0
        self.fault = None

    @property
    def busy(self):
        return bool(self.rows)

    @property
    def load(self):
        counts = {"waiting": len(self.waiting), "running": len(self.running), "slots": self.slots}
        return SimpleNamespace(**counts, read=0, shared=0, written=0)

    def submit(self, request):
        if request.seed == 666:
            raise ConfigError("the scripted engine takes no seed 666")
        number, self.submitted = self.submitted, self.submitted + 1
        rows = [
            SimpleNamespace(number=number, request=request, sample=s, tokens=[], reason=None) for s in range(request.n)
        ]
        for row in rows:
            row.script, row.tokens = list(self.script(request, row.sample)), []
            row.reason = row.error = None
        self.rows[number] = rows
        self.waiting.extend(rows)
        return number

    def cancel(self, number):
        if number in self.rows:
            self.cancelled.add(number)

    def so_far(self, number):
        return [self._generation(row) for row in self.rows.get(number, [])]

    def step(self):
        if self.fault is not None:
            raise self.fault
        time.sleep(self.pause)
        if self.paced is not None:
            self.paced.acquire(timeout=1.0)
        for number in self.cancelled:
            for row in self.rows[number]:
                row.reason = row.reason or "cancelled"
        self.cancelled.clear()
        while self.waiting and len(self.running) < self.slots:
            self.running.append(self.waiting.popleft())
        self.most = max(self.most, len(self.running))
        for row in self.running:
            for _ in range(self.per_step):
                self._write(row)
        done = [row for row in (*self.running, *self.waiting) if row.reason]
        self.running = [row for row in self.running if not row.reason]
        self.waiting = deque(row for row in self.waiting if not row.reason)
        found = [self._generation(row) for row in done]
        self.ended += len(found)
        for row in done:
            if all(other.reason for other in self.rows.get(row.number, [])):
                self.rows.pop(row.number, None)
        return found

    def _write(self, row):
        if row.reason:
            return
        if len(row.tokens) >= len(row.script):
            row.reason = "length"
            return
        token = row.script[len(row.tokens)]
        if token is None:
            row.reason, row.error = "error", "the model's logits are not finite"
            return
        row.tokens.append(token)
        text = self.tokenizer.decode(row.tokens)
        if token in (row.request.stop_ids or ()):
            row.reason = "stop_id"
        elif any(stop in text for stop in row.request.stop):
            row.reason = "stop_string"
        elif len(row.tokens) >= row.request.max_new_tokens:
            row.reason = "length"

    def _generation(self, row):
        text, count, k = self.tokenizer.decode(row.tokens), len(row.tokens), row.request.top_logps
        at = min((at for stop in row.request.stop if (at := text.find(stop)) >= 0), default=len(text))
        logps = -np.arange(1, count + 1, dtype=np.float32)
        ids = np.tile(np.arange(20, 20 + k, dtype=np.int32), (count, 1))
        return Generation(
            request=row.number,
            sample=row.sample,
            tokens=list(row.tokens),
            logps=logps,
            sampling_logps=logps,
            versions=np.zeros(count, np.int32),
            reason=row.reason,
            text=text[:at],
            top=TopLogps(ids, np.full((count, k), -0.5, np.float32)) if k else None,
            error=row.error,
        )
