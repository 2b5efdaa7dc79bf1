"""The newest metrics in Prometheus' text format: a file for node exporter's textfile collector, or a port."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from jaxpo.config import Prometheus
from jaxpo.errors import RunError
from jaxpo.train.files import write_atomic

PREFIX = "jaxpo_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exporter:
    """Offers the newest value of each metric of each stage; a tracker, so that it sees what metrics.jsonl holds.

    Raises:
      RunError: the port is taken.
    """

    def __init__(self, where: Prometheus, run: str):
        self._run = run
        self._file = None if where.folder is None else Path(where.folder) / f"jaxpo_{run}.prom"
        self._values: dict[str, dict[str, float]] = {}
        self._text = exposition(run, {}, running=True)
        self._server = None if where.port is None else _serve(where.address, where.port, lambda: self._text)
        self._offer()

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        own = {"step": step, "last_line_timestamp_seconds": time.time()}
        self._values[stage] = self._values.get(stage, {}) | dict(values) | own
        self._offer()

    def truncate(self, stage: str, step: int, reached: int) -> None:
        self._values.pop(stage, None)

    def close(self) -> None:
        """The last values stay in the file, and say that nothing runs any more."""
        self._offer(running=False)
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _offer(self, *, running: bool = True) -> None:
        self._text = exposition(self._run, self._values, running=running)
        if self._file is not None:
            write_atomic(self._file, self._text)
            self._file.chmod(0o644)  # node exporter is another user


def exposition(run: str, stages: Mapping[str, Mapping[str, float]], *, running: bool) -> str:
    """Gauges `jaxpo_METRIC{run, stage}`; of metrics whose names become the same one, `name` says which it is."""
    families: dict[str, list[tuple[str, str, float]]] = {}
    for stage, values in stages.items():
        for name, value in values.items():
            families.setdefault(PREFIX + re.sub(r"[^a-zA-Z0-9_]", "_", name), []).append((stage, name, value))
    lines = [f"# TYPE {PREFIX}running gauge", f"{PREFIX}running{labels(run=run)} {int(running)}"]
    for family, samples in families.items():
        several = len({name for _, name, _ in samples}) > 1
        lines.append(f"# TYPE {family} gauge")
        for stage, name, value in samples:
            which = labels(run=run, stage=stage) if not several else labels(run=run, stage=stage, name=name)
            lines.append(f"{family}{which} {value!r}")
    return "\n".join(lines) + "\n"


def labels(**values: str) -> str:
    """`{name="value",...}`, escaped."""
    escaped = {k: v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for k, v in values.items()}
    return "{" + ",".join(f'{k}="{v}"' for k, v in escaped.items()) + "}"


def _serve(address: str, port: int, text: Callable[[], str]) -> ThreadingHTTPServer:
    """A server on a thread of its own, which ends with the process."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, "there is /metrics alone")
                return
            body = text().encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Not on the run's terminal."""

    try:
        server = ThreadingHTTPServer((address, port), Handler)
    except OSError as error:
        raise RunError(
            f"prometheus.port: {address}:{port} cannot be bound ({error.strerror}); choose another port."
        ) from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True, name="prometheus").start()
    return server
