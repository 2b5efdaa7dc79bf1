"""An S3 of this machine, half of whose answers say that it is busy: `python flaky_s3.py PORT LOG`."""

from __future__ import annotations

import random
import sys

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

BUSY = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.'
    b"</Message></Error>"
)


class HalfOfTheTime:
    """A WSGI application before another one: a drawn half of the reads is refused, and all calls are written down."""

    def __init__(self, inner, log):
        self._inner, self._log, self._rng = inner, log, random.Random(0)

    def __call__(self, environ, start_response):
        fails = environ["REQUEST_METHOD"] in ("GET", "HEAD") and self._rng.random() < 0.5
        with open(self._log, "a", encoding="utf-8") as log:
            log.write(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {'refused' if fails else 'answered'}\n")
        if not fails:
            return self._inner(environ, start_response)
        start_response("503 Slow Down", [("Content-Type", "application/xml")])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else BUSY]


if __name__ == "__main__":
    application = HalfOfTheTime(DomainDispatcherApplication(create_backend_app), sys.argv[2])
    run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=False)
