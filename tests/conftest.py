"""Shared fixtures: 8 simulated CPU devices, a persistent compile cache, and the optional real data."""

import gc
import os
import re
import signal
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from jaxpo.cli import compile_cache

ROOT = Path(__file__).resolve().parents[1]
# Compiling is most of this suite's work: the arrays are tiny, so LLVM's optimisations cost more than they save.
FAST_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    # The older way to compile fusions takes a quarter of the time; jaxlib 0.11 has the newer one only.
    FAST_COMPILE += " --xla_cpu_use_fusion_emitters=false"
# On a loaded machine simulated devices and processes come to a collective far apart; by default XLA ends them for it.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=900 --xla_cpu_collective_timeout_seconds=900"
# Whatever the caller's shell sets for its own runs, the tests compute on the same simulated devices in the same way; of
# JAX's settings only those of its compile cache are the caller's.
for setting in [name for name in os.environ if name.startswith("JAX_") and "_CACHE" not in name]:
    del os.environ[setting]
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {FAST_COMPILE} {PATIENT}"
os.environ["JAX_PLATFORMS"] = "cpu"
# Checkouts share what they compile, as they share their environments: it is the half of what the tests take.
COMPILED = compile_cache.root({k: v for k, v in os.environ.items() if k == "XDG_CACHE_HOME"}).with_name("tested")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED / compile_cache.host()))
# Small programs too: reading one takes a sixth of compiling it, and files, processes and subprocesses share them.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# The cache's own log lines about host features are noise here: cache and tests share one machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# A busy machine is no failure.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

# Folders whose files hold few, long tests. They start first: what is left for the end is short, and no process waits
# long for the last of the others (`--no-loadscope-reorder` in scripts/test keeps this order).
LONG = ("stages", "contracts", "sharding", "train", "curriculum", "construct", "objectives", "cli", "evaluate")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where the comparisons alone are asked for, files without one are not imported either."""
    if config.option.markexpr != "parity" or collection_path.suffix != ".py":
        return None
    return "mark.parity" not in collection_path.read_text() or None


def pytest_sessionstart(session: pytest.Session) -> None:
    """One process of several clears the kept programs down to their size."""
    if not hasattr(session.config, "workerinput"):
        compile_cache.prune(COMPILED, 1 << 30)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tracing makes millions of small objects: the collector looks at them less often, and not at the modules."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {folder: i for i, folder in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(LONG)))


# What a file that patches has traced must not serve another; and one that counts what is compiled begins with nothing.
ALONE = re.compile(
    r"[mM]onkey_?[pP]atch|caplog|log_compiles|clear_caches|_cache_size|live_arrays|monitoring|one_device|use_mesh"
)
MOST_RESIDENT = 3 << 29


def resident() -> float:
    """Bytes of memory that this process holds; infinity where the system does not say so."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return float("inf")


@pytest.fixture(autouse=True, scope="module")
def release_compiled_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Files share what is compiled of small operations; but all programs of all files together take gigabytes."""
    alone = ALONE.search(request.path.read_text()) is not None
    if alone and "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    yield
    if "jax" in sys.modules and (alone or resident() > MOST_RESIDENT):
        sys.modules["jax"].clear_caches()


@pytest.fixture
def default_signals():
    """Signals handled as in a program started from a terminal; a background job may ignore them, as under nohup."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data that lies beside the checkout for developers and CI, not at a user's."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets (shared/data beside the checkout) are not on this machine")
    return folder
