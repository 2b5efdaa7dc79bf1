"""Installed, not cloned: the wheel in an environment of its own, used from a folder that is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# It starts the command, and trains with it, in processes of their own.
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it, and the folder where its user works.

    Attributes:
      source: the clean copy that the wheel was made of.
    """

    bin: Path
    work: Path
    source: Path

    def __call__(self, program: str, *arguments: object) -> str:
        """Standard output of a program of the environment that must succeed."""
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("device_count=8", "device_count=1")
        done = subprocess.run(
            [self.bin / program, *map(str, arguments)], cwd=self.work, env=environment, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel of a clean copy; the dependencies are those of the interpreter that runs the tests."""
    if not (ROOT / ".git").exists():
        pytest.skip("the wheel is made of the files that git knows")
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if os.path.lexists(ROOT / name):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "source" / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder / "dist", folder / "source"]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = (folder / "dist").glob("jaxpo-*.whl")
    venv.create(folder / "env", symlinks=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", "--no-compile", wheel], check=True)
    inside = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    (Path(inside.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "work").mkdir()
    return Installed(folder / "env" / "bin", folder / "work", folder / "source")


def test_losses_come_from_the_wheel(installed: Installed) -> None:
    script = (
        "import sys, jaxpo, jaxpo.losses; from jax.numpy import array; from importlib.metadata import version;"
        "print(jaxpo.__file__, version('jaxpo') == jaxpo.__version__, 'orbax' in sys.modules,"
        " float(jaxpo.losses.dpo(array([-1.0]), array([-1.0]), array([-1.0]), array([-1.0]))[0]), sep='\\n')"
    )
    file, same, heavy, loss = installed("python", "-c", script).splitlines()
    assert Path(file).is_relative_to(installed.bin.parent)
    assert not Path(file).is_relative_to(ROOT)
    assert (same, heavy) == ("True", "False")
    assert float(loss) == pytest.approx(0.6931472)


def test_a_source_distribution_holds_the_tests(installed: Installed, tmp_path: Path) -> None:
    make = f"import setuptools.build_meta as build; build.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", make], cwd=installed.source, check=True, capture_output=True)
    (archive,) = tmp_path.glob("jaxpo-*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"CHANGELOG.md", "constraints.txt", "jaxpo/recipes/sft.py", "configs/sft.py", "docs/data.md"} <= names
    tests = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")}
    assert tests <= names, sorted(tests - names)[:5]


def test_recipes_are_listed_and_copied(installed: Installed) -> None:
    out = installed("jaxpo", "recipes")
    assert {path.stem for path in (ROOT / "jaxpo" / "recipes").glob("[!_]*.py")} == {
        line.split()[0] for line in out.partition("\n\n")[0].splitlines()
    }
    assert "jaxpo run mine.py" in installed("jaxpo", "recipes", "copy", "sft", "mine.py")
    assert (installed.work / "mine.py").read_text().startswith('"""Supervised fine-tuning')


def test_the_installation_checks_itself(installed: Installed) -> None:
    out = installed("jaxpo", "selftest")
    assert f"in {installed.bin.parent}" in out
    assert out.count("  ok      ") == 4
    assert "all checks passed" in out


WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "jetty")
TINY = (
    *("--model.hidden-size", 32, "--model.intermediate-size", 64, "--model.num-attention-heads", 2),
    *("--model.num-key-value-heads", 1, "--model.head-dim", 16, "--model.vocab-size", 320),
    *("--model.layer-types", "conv", "full_attention", "--tokenizer.vocab-size", 300),
)


def test_a_recipe_is_run_by_its_name(installed: Installed) -> None:
    rows = [{"prompt": f"what is {n} and {n}? ", "completion": f"{2 * n}."} for n in range(32)]
    (installed.work / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--tokenizer.train-on", "my.jsonl", "--sft.data.train", "my.jsonl", "--sft.max-steps", 2)
    lengths = ("--sft.data.max-length", 64, "--sft.data.row-length", 64)
    out = installed("jaxpo", "run", "sft", "--run", "runs/mine", *words, *lengths, *TINY)
    assert "export verified" in out
    assert (installed.work / "runs" / "mine" / "report.html").is_file()


def test_the_quickstart_runs_in_small(installed: Installed) -> None:
    notes = (" ".join(f"{word}{n * n + i}" for i, word in enumerate(WORDS)) + "." for n in range(300))
    (installed.work / "notes.txt").write_text("\n\n".join(notes))
    budget = {"max-steps": 2, "optimizer.warmup-steps": 0}
    stages = ("pretrain", "sft", "preference")
    words = [word for stage in stages for field, n in budget.items() for word in (f"--{stage}.{field}", n)]
    installed("jaxpo", "run", "quickstart", "--text", "notes.txt", *words, *TINY)
    summary = json.loads((installed.work / "runs" / "quickstart" / "summary.json").read_text())
    assert {"pretrain", "sft", "preference", "merge"} <= set(summary["probes"])
