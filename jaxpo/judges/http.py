"""One JSON request over HTTP, repeated with growing pauses where that can help. Standard library only."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from jaxpo.errors import ConfigError

T = TypeVar("T")
LONGEST_PAUSE = 60.0
TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
REFUSED = {401: "the key is missing or wrong", 403: "access is forbidden", 404: "there is no such address or model"}


class EndpointFailure(Exception):
    """No usable reply; the text says why."""


def post_with_retries(
    url: str,
    body: dict[str, Any],
    key: str,
    *,
    timeout: float,
    retries: int,
    backoff: float,
    read: Callable[[Any], T],
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """POST a JSON body and `read` the JSON reply.

    Args:
      key: sent as a bearer token unless empty.
      read: raises ValueError for a reply that is of no use; that is repeated too.

    Raises:
      EndpointFailure: the last reason, after `1 + retries` attempts, or at once where repeating cannot help.
      ConfigError: 401, 403 or 404, which no other item would survive either.
    """
    reason, asked_to_wait = "", None
    for attempt in range(1 + retries):
        if attempt:
            pause(min(LONGEST_PAUSE, backoff * 2 ** (attempt - 1) if asked_to_wait is None else asked_to_wait))
        asked_to_wait = None
        try:
            return read(_post(url, body, key, timeout))
        except urllib.error.HTTPError as error:
            detail = error.read(300).decode(errors="replace").strip()
            reason = f"HTTP {error.code}: {detail}"
            if error.code in REFUSED:
                raise ConfigError(f"{url}: HTTP {error.code}, {REFUSED[error.code]}. {detail}".strip()) from None
            if error.code not in TRANSIENT:
                raise EndpointFailure(reason) from None
            asked_to_wait = _retry_after(error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # OSError: no connection, time limit. ValueError: no JSON, or not what `read` wants.
            reason = f"{type(error).__name__}: {error}"
    raise EndpointFailure(f"{reason} (after {1 + retries} attempts)")


def _post(url: str, body: dict[str, Any], key: str, timeout: float) -> Any:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=timeout) as reply:
        found = json.loads(reply.read())
    # A ValueError, and so no answer: half a surrogate pair could be neither tokenised nor written.
    json.dumps(found, ensure_ascii=False).encode()
    return found


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    """Seconds that the server asks for; a date is not understood and means the usual pause."""
    value = error.headers.get("Retry-After", "")
    return float(value) if value.replace(".", "", 1).isdigit() else None
