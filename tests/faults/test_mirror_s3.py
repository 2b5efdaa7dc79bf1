"""A run whose data and whose copy lie on an S3 server half of whose calls fail: it trains, is lost, and goes on."""

import dataclasses
import json
import random
import threading

import fsspec
import pytest
import stages.recipe as recipes

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.cli.main import main
from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.model_io import load_model
from jaxpo.train.metrics import TIMING, read_metrics
from jaxpo.train.mirror import Mirror

pytestmark = [pytest.mark.scale, pytest.mark.usefixtures("one_device")]
STEPS = 6


class Failing:
    """Answers a share of the calls with 503, before or after the server has done what they ask for."""

    def __init__(self, app, share=0.5):
        self.app, self.share, self.calls, self.failed = app, share, 0, 0
        self._draw, self._lock = random.Random(0), threading.Lock()

    def __call__(self, environ, start):
        with self._lock:
            self.calls += 1
            fails, done = self._draw.random() < self.share, self._draw.random() < 0.5
            self.failed += fails
        if fails and done:
            b"".join(self.app(environ, lambda *_: None))
        if fails:
            if not done:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [b""] if environ["REQUEST_METHOD"] == "HEAD" else [body]
        return self.app(environ, start)


@pytest.fixture(scope="module")
def server(one_device):
    """The file system of the bucket `bucket`, and the server's count of its calls; only the libraries try again."""
    pytest.importorskip("s3fs", reason="s3fs is not installed (the extra s3)")
    app = pytest.importorskip("moto.moto_server.werkzeug_app", reason="moto and flask are not installed")
    serving = pytest.importorskip("werkzeug.serving", reason="werkzeug is not installed")
    failing = Failing(app.DomainDispatcherApplication(app.create_backend_app), share=0.0)
    running = serving.make_server("127.0.0.1", 0, failing, threaded=True)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y"), ("AWS_REGION", "us-east-1")):
            patch.setenv(name, value)
        # As often as botocore is told to, without its waits: one call in 16384 fails for good.
        patch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)
        options = {
            "endpoint_url": f"http://127.0.0.1:{running.port}",
            "config_kwargs": {"retries": {"max_attempts": 13, "mode": "legacy"}},
        }
        patch.setitem(fsspec.config.conf, "s3", options)
        fs = fsspec.filesystem("s3")
        fs.mkdir("bucket")
        yield fs, failing
    running.shutdown()


@pytest.fixture(scope="module")
def recipe(server, tmp_path_factory):
    """Six steps on rows at s3://, from whose server half of the answers are errors from here on."""
    folder = tmp_path_factory.mktemp("s3")
    recipes.write_data(folder)
    run = recipes.recipe(folder, prompts=(), export=False, mirror="s3://bucket/runs")
    sft = run.stages[1]
    rows = dataclasses.replace(sft.data, train=("s3://bucket/rows/sft_train.jsonl",), curriculum=None)
    sft = dataclasses.replace(sft, data=rows, max_steps=STEPS, save_steps=2, snapshot_steps=0, eval_steps=0)
    server[0].put_file(str(folder / "sft_train.jsonl"), "bucket/rows/sft_train.jsonl")
    (folder / "recipe.json").write_text(json.dumps(to_jsonable(dataclasses.replace(run, stages=(sft,)))))
    server[1].share = 0.5
    return folder / "recipe.json"


def log(run):
    return [{k: v for k, v in r.items() if k not in TIMING} for r in read_metrics(run / "metrics.jsonl")]


def test_a_lost_run_goes_on_from_its_copy(server, recipe, tmp_path, capfd):
    fs, failing = server
    assert main(["run", str(recipe), "--output-dir", str(tmp_path / "one")]) == 0
    said = capfd.readouterr().out
    assert "copying s3://bucket/rows/sft_train.jsonl" in said
    assert "warning: the mirror" not in said
    whole = tmp_path / "one" / "tiny"
    assert 0.3 < failing.failed / failing.calls < 0.7
    assert failing.calls > 60
    # The machine is lost while the last checkpoint is being copied.
    failing.share = 0.0
    fs.invalidate_cache()
    assert {n.split("/")[6] for n in fs.find("bucket/runs/tiny/stages/sft/checkpoints")} == {"00000004", "00000006"}
    fs.rm("bucket/runs/tiny/finished.json")
    fs.rm("bucket/runs/tiny/stages/sft/model", recursive=True)
    fs.rm("bucket/runs/tiny/stages/sft/checkpoints/00000006/files.json")
    failing.share = 0.5
    assert main(["run", str(recipe), "--output-dir", str(tmp_path / "two")]) == 0
    again, said = tmp_path / "two" / "tiny", capfd.readouterr().out
    assert "fetched from s3://bucket/runs/tiny: stages/sft/checkpoints/00000004, and the files beside them" in said
    assert "resuming at step 4 of stage sft" in said
    assert log(again) == log(whole)
    assert fingerprint(load_model(again / "stages" / "sft").params) == fingerprint(
        load_model(whole / "stages" / "sft").params
    )


def test_a_mirror_that_fails_for_good_costs_no_step(server, recipe, tmp_path, capfd):
    """Every call fails once the run has begun; it ends as it would have, and the next start copies all of it."""
    fs, failing = server
    failing.share = 0.0
    arguments = ["run", str(recipe), "--output-dir", str(tmp_path), "--run", "late"]
    real = Mirror._put

    def put(mirror, name):
        failing.share = 1.0
        return real(mirror, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mirror, "_put", put)
        assert main(arguments) == 0
    failing.share = 0.5
    assert "warning: the mirror s3://bucket/runs/late cannot be written" in capfd.readouterr().out
    assert not fs.exists("bucket/runs/late/finished.json")
    assert main(arguments) == 0
    fs.invalidate_cache()
    assert fs.exists("bucket/runs/late/finished.json")
    assert "warning" not in capfd.readouterr().out
