"""Data at an object store that fails half of the time."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from campaign.scene import Fault, Scene, Tally, refused

BUCKET = "rows"
ATTEMPTS = 12
"""Of botocore's own retries: jaxpo has none."""


def no_moto() -> str | None:
    """Why there is no object store to try."""
    missing = [name for name in ("moto", "s3fs") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed (pip install 'moto[server]' s3fs)" if missing else None


@contextlib.contextmanager
def serving(scene: Scene) -> Iterator[tuple[str, Path]]:
    """`(its address, the file of its calls)` of a server that ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, said = scene.folder / "s3_calls.txt", scene.folder / "s3_server.txt"
    command = [sys.executable, str(Path(__file__).with_name("flaky_s3.py")), str(port), str(log)]
    with said.open("wb") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                _put(f"{address}/{BUCKET}", b"")
                break
            time.sleep(0.2)
        else:
            raise RuntimeError(f"the server did not start: {said.read_text()}")
        yield address, log
    finally:
        server.kill()
        server.wait()


def _put(url: str, content: bytes) -> None:
    # A signature has to be there; nobody checks it.
    header = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, Signature=b"}
    with urllib.request.urlopen(urllib.request.Request(url, content, header, method="PUT")):
        pass


def flaky(scene: Scene, trials: int) -> Tally:
    """The rows of a stage at s3://: half of the calls are refused, and the run ends as with local files."""
    tally = Tally()
    with serving(scene) as (address, log):
        _put(f"{address}/{BUCKET}/sft.jsonl", (scene.folder / "sft.jsonl").read_bytes())
        environ = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_RETRY_MODE": "standard",
            "AWS_MAX_ATTEMPTS": str(ATTEMPTS),
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }
        for n in range(trials):
            run = scene.run(f"s3-{n}")
            words = ("--sft.data.train", f"s3://{BUCKET}/sft.jsonl")
            wrong = refused(scene.finish(run.name, *words, environ=environ), 0)
            if "refused" not in log.read_text().replace("PUT", ""):
                wrong.append("no call failed")
            tally.add([*wrong, *scene.same(run)])
    return tally


FAULTS = (
    Fault(
        "rows at s3:// of a server half of whose calls fail",
        f"the library retries (botocore, {ATTEMPTS} attempts) and the run ends as with local files",
        flaky,
        (0, 1),
        no_moto,
    ),
)
