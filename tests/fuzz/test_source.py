"""What the source may not do: unpickle, run code that data name, unpack archives, or use the network unasked."""

from __future__ import annotations

import ast
import contextlib
import re
import socket
import threading
from functools import cache
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

from jaxpo.cli.main import main

PACKAGE = Path(__file__).resolve().parents[2] / "jaxpo"

# Modules that turn bytes into code or objects, and those that talk to other machines; where one is imported all the
# same, and why.
CODE = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "runpy", "code", "imp"),
    *("tarfile", "zipfile", "subprocess", "ctypes", "cffi", "pty", "multiprocessing", "torch", "transformers"),
}
NETWORK = {
    *("socket", "ssl", "http", "urllib", "ftplib", "smtplib", "telnetlib", "xmlrpc", "socketserver", "asyncio"),
    *("requests", "httpx", "aiohttp", "urllib3", "websockets", "grpc", "huggingface_hub", "datasets", "boto3"),
}
IMPORTED = {
    "cli/dry_run.py": {"subprocess"},  # itself again, with more devices
    "data/npz.py": {"zipfile"},  # reads arrays out of one; nothing is unpacked to disk
    "data/tokens/index.py": {"zipfile"},  # writes one, and maps arrays that lie in it as they are
    "data/tokens/store.py": {"zipfile"},  # the error of a damaged one
    "convert/gguf/llama.py": {"subprocess", "urllib"},  # llama.cpp, which listens inside its own process
    "convert/gguf/k_quants.py": {"subprocess"},  # llama.cpp's quantiser, where it is on the PATH
    "convert/runtimes/runtime.py": {"subprocess"},  # the programs beside it, by the interpreter that the user names
    "convert/runtimes/programs/run_genai.py": {"subprocess"},  # its model builder, which is a command
    "convert/runtimes/programs/run_executorch.py": {"torch"},  # which ExecuTorch's export is made of
    "convert/diffusers/verify.py": {"torch"},  # runs an export that was just written by diffusers
    "convert/verify.py": {"torch", "transformers"},  # compares an export that was just written with them
    "convert/reward_hf.py": {"torch", "transformers"},  # the same; what it runs is the six lines that were just written
    "judges/http.py": {"http", "urllib"},  # a judge whose address the configuration names
    "judges/endpoint.py": {"urllib"},  # takes such an address apart
    "train/watchman.py": {"socket"},  # a pair of sockets inside the process, for signals
    "train/rundir.py": {"socket"},  # the name of this machine
    "sharding/liveness.py": {"socket", "ctypes"},  # the same lines, kept open; the C library's handler of SIGABRT
    "sharding/roll_call.py": {"socket"},  # several hosts, at the address that is given
    "train/notify.py": {"urllib", "subprocess"},  # receivers of alerts, which the configuration and environment name
    "train/processes.py": {"socket"},  # the name of this machine
    "train/prometheus.py": {"http"},  # a port that the configuration opens
    "sandbox.py": {"subprocess"},  # tries whether the fence works
    "watched.py": {"subprocess"},  # foreign code, shut in
    "online/rewards/function.py": {"asyncio"},  # waits for a reward function of the configuration that is a coroutine
    # `jaxpo serve`: the loop of its handlers, and the socket that its options name
    **{f"serve/{name}.py": {"asyncio"} for name in ("answering", "app", "asked", "http")},
    "serve/server.py": {"asyncio", "socket"},
}
# Modules that are imported by a name that is computed.
BY_NAME = {
    "cli/main.py": "the table of commands",
    "config/file.py": "a Python file that the user names as the configuration",
    "convert/formats.py": "the table of formats",
    "convert/image_encoder.py": "diffusers and what it is made of, which are optional",
    "convert/reward_hf.py": "the class that an export brings along, which was just written",
    "config/serialise.py": "types of a stored configuration: jaxpo's own, or of a run that the user runs",
    "construct/base.py": "the modules of its own folder",
    "evaluate/retrieval/candidates.py": "the library of nearest neighbours, which is optional",
    "evaluate/retrieval/lexical.py": "bm25s, which is optional",
    "evaluate/tasks/registry.py": "the table of tasks",
    "judges/function.py": "a judge's function, which the configuration names",
    "models/lazy.py": "the table of families, and the functions that a family names",
    "objectives/methods/__init__.py": "the modules of its own folder",
    "train/trackers.py": "trackers, which are optional",
}
LOADERS = {"import_module", "__import__", "exec_module", "spec_from_file_location", "find_module"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "execfile",
    "system",
    "popen",
    "extractall",
    "unpack_archive",
    "set_int_max_str_digits",
}


WORDS = re.compile(
    rf"\b(?:{'|'.join(sorted(CODE | NETWORK | LOADERS | CALLS | {'allow_pickle', 'trust_remote_code'}))})\b"
)


@cache
def trees() -> dict[str, ast.Module]:
    """The files in which any of the words stands; to parse the others would take long and show nothing."""
    texts = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    assert len(texts) > 500
    return {file: ast.parse(text) for file, text in texts.items() if WORDS.search(text)}


@cache
def nodes(kind: type[ast.AST]) -> list[tuple[str, ast.AST]]:
    return [(file, node) for file, tree in trees().items() for node in ast.walk(tree) if isinstance(node, kind)]


def called(call: ast.Call) -> tuple[str, str]:
    """`("np", "load")` of `np.load(...)`, `("", "load")` of `load(...)`."""
    function = call.func
    if isinstance(function, ast.Attribute):
        before = function.value
        return (before.id if isinstance(before, ast.Name) else "..."), function.attr
    return "", function.id if isinstance(function, ast.Name) else ""


def test_what_is_imported():
    """Inside functions too."""
    found: dict[str, set[str]] = {}
    names = [(file, alias.name) for file, node in nodes(ast.Import) for alias in node.names]
    names += [(file, node.module or "") for file, node in nodes(ast.ImportFrom) if not node.level]
    for file, name in names:
        if (first := name.partition(".")[0]) in CODE | NETWORK:
            found.setdefault(file, set()).add(first)
    assert found == IMPORTED


def test_no_code_is_made_of_data():
    for file, node in nodes(ast.Call):
        before, last = called(node)
        where = f"{file}:{node.lineno}: {before}.{last}"
        # `re.compile`, a program's `.compile()` and a module's `.eval()` make no code of a text.
        harmless = (before and last in ("compile", "eval")) or (before, last) == ("platform", "system")
        assert last not in CALLS or harmless, where
        assert last not in LOADERS or file in BY_NAME, where
        assert (before, last) not in (("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load")), where
        assert (before, last) != ("torch", "load"), where


def test_no_pickle_is_read_and_no_remote_code_trusted():
    for file, node in nodes(ast.Call):
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        pickles = given.get("allow_pickle")  # numpy 2 refuses them by default
        assert pickles is None or (isinstance(pickles, ast.Constant) and pickles.value is False), (
            f"{file}:{node.lineno}"
        )
        assert "trust_remote_code" not in given, f"{file}:{node.lineno}"


class Reached(BaseException):
    """Something asked for the network; no handler of errors may hide it."""


@pytest.fixture
def no_network(monkeypatch):
    """Every way to another machine fails; pairs of sockets inside the process stay."""

    def reach(*args, **kwargs):
        raise Reached(args)

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, reach)
    for name in ("create_connection", "create_server", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, reach)
    with pytest.raises(Reached):
        socket.create_connection(("localhost", 1))


def test_readers_need_no_network(no_network):
    before = threading.active_count()
    for target in TARGETS.values():
        target.read(target.make() / target.file)
    assert threading.active_count() <= before + 8


def test_commands_that_only_look_need_no_network(no_network, capsys):
    data = TARGETS["rows.jsonl"]
    assert main(["data", "inspect", str(data.make() / data.file)]) == 0
    assert main(["explain", "pretrain"]) in (0, 2)
    assert main(["recipes"]) == 0


@pytest.mark.slow
def test_a_recipe_needs_no_network(no_network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = TARGETS["document.txt"].make() / "document.txt"
    words = ["--tokenizer.train-on", str(data), "--pretrain.data.train", str(data), "--pretrain.max-steps", "1"]
    sizes = ["--pretrain.data.max-length", "32", "--pretrain.data.row-length", "32", "--tokenizer.vocab-size", "300"]
    with contextlib.suppress(SystemExit):
        assert main(["run", "pretrain", "--preset", "nano", "--run", "x", *words, *sizes]) == 0
