"""Receivers of alerts: a command, an address. Neither is in the configuration: it names a variable of the environment.

So a run directory from elsewhere starts nothing and calls nobody, and a secret address is in no `config.json`. The
variables are those for alerts alone: what others hold, `SHELL` for one, was never meant to get them.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from jaxpo.errors import ConfigError
from jaxpo.train.alarms import Alert

PREFIX = "JAXPO_ALERT_"


@dataclass(frozen=True)
class RunCommand:
    """Runs the command in a variable of the environment, without a shell; the alert is JSON on its standard input.

    Nothing happens where the variable is not set.
    """

    variable: str = "JAXPO_ALERT_COMMAND"
    seconds: float = 30.0

    def __post_init__(self) -> None:
        _check(self.variable)

    def send(self, alert: Alert) -> None:
        command = os.environ.get(self.variable)
        if command:
            subprocess.run(
                shlex.split(command),
                input=json.dumps(asdict(alert)),
                text=True,
                check=True,
                timeout=self.seconds,
                stdout=subprocess.DEVNULL,
            )


@dataclass(frozen=True)
class Post:
    """POSTs the alert as JSON to the http(s) address in a variable of the environment.

    {"text": one line, and the fields of `Alert`}: chat services with incoming webhooks show `text`. Nothing happens
    where the variable is not set.
    """

    variable: str = "JAXPO_ALERT_URL"
    seconds: float = 10.0

    def __post_init__(self) -> None:
        _check(self.variable)

    def send(self, alert: Alert) -> None:
        url = os.environ.get(self.variable)
        if not url:
            return
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"{self.variable} must hold an http or https address")
        body: Mapping[str, Any] = {"text": f"{alert.run}: {alert.text()}", **asdict(alert)}
        request = urllib.request.Request(
            url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=self.seconds):
            pass


def _check(variable: str) -> None:
    if not variable.startswith(PREFIX):
        raise ConfigError(f"on_alert: the variable {variable!r} must have a name that begins with {PREFIX}.")
