"""What all handlers share: the model, the engine's thread, the limits, what is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxpo.serve.engine_thread import EngineThread
from jaxpo.serve.errors import ending, failed
from jaxpo.serve.metrics import Metrics
from jaxpo.serve.places import Places
from jaxpo.serve.served import Served

LONGEST_PAUSE = 30


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the server.

    Attributes:
      queue: answers that may wait beside those that run.
      seconds: for one request, the waiting included.
      body: bytes of a request.
      body_seconds: until all of it has come.
    """

    queue: int = 256
    seconds: float = 600.0
    body: int = 4 * 2**20
    body_seconds: float = 30.0


@dataclass
class Desk:
    """Made once.

    Attributes:
      slots: answers that run at once.
      key: what clients must give; None = nothing.
      hosts: names under which the server may be asked for; () = any.
      ending: whether no new requests are taken.
    """

    served: Served
    thread: EngineThread
    slots: int
    limits: Limits = Limits()
    key: str | None = None
    hosts: tuple[str, ...] = ()
    ending: bool = False
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.places = Places(self.slots + self.limits.queue, self.pause)

    def pause(self) -> int:
        """Seconds after which a place may be free: what a request took lately."""
        return max(1, min(LONGEST_PAUSE, round(self.metrics.seconds.recent())))

    def check_open(self) -> None:
        """ApiError where nothing can be answered any more."""
        if self.thread.death is not None:
            raise failed(self.thread.death)
        if self.ending:
            raise ending()

    @property
    def state(self) -> str:
        return "dead" if self.thread.death is not None else "stopping" if self.ending else "ok"

    def gauges(self) -> Mapping[str, float]:
        """What holds now."""
        load = self.thread.load
        return {
            "up": int(self.state == "ok"),
            "slots": load.slots,
            "running": load.running,
            "waiting": load.waiting,
            "places_taken": self.places.taken,
            "places": self.places.limit,
            "prefix_tokens_shared": load.shared,
            "prompt_tokens_read": load.read,
            "tokens_drawn": load.written,
        }
