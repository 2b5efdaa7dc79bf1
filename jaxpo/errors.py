"""Errors that a user can act on, and exit statuses. The command line prints an error's text and exits with 2."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

OK, FAULT, USER_ERROR, INTERRUPTED, PREEMPTED = 0, 1, 2, 130, 143
"""Exit statuses of the command line; the last two are 128 + the number of SIGINT and of SIGTERM."""
TRY_AGAIN = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong with the command, which goes on where it was."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What only a write can meet."""


class JaxpoError(Exception):
    """Base of every error whose message is meant for the user: what is wrong, where, and what to do."""


class ConfigError(JaxpoError):
    """One or several mistakes in a configuration, shown together.

    Attributes:
      problems: one sentence per mistake, each naming the field and the remedy.
    """

    def __init__(self, problems: str | list[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        lines = "\n".join(f"  - {p}" for p in self.problems)
        super().__init__(self.problems[0] if len(self.problems) == 1 else f"{len(self.problems)} problems:\n{lines}")


class DataError(JaxpoError):
    """A data file that cannot be used: names the file, the row, the field and the remedy."""

    def __init__(
        self,
        message: str,
        *,
        file: object = None,
        row: int | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ):
        where = ", ".join(
            part
            for part in (
                str(file) if file is not None else "",
                f"row {row}" if row is not None else "",
                f"field {field!r}" if field is not None else "",
            )
            if part
        )
        text = f"{where}: {message}" if where else message
        super().__init__(f"{text} {remedy}" if remedy else text)
        self.message, self.file, self.row, self.field, self.remedy = message, file, row, field, remedy


class EmptyRow(DataError):
    """A row that there is nothing to learn from; `data.on_empty` decides whether it is left out instead."""


class BadImage(DataError):
    """An image that cannot be used; `data.images.on_bad_image` decides whether its row is left out instead."""


class CheckpointError(JaxpoError):
    """A checkpoint or weight file that is missing, incomplete, foreign, or does not fit the model."""


class DamagedError(CheckpointError):
    """A checkpoint whose files are not those that were written. Files that cannot be read at all are not meant.

    Attributes:
      what: what is wrong with which file; the message goes on with the remedy.
    """

    def __init__(self, what: str, remedy: str = ""):
        super().__init__(f"{what}. {remedy}".strip())
        self.what = what


class BackendError(JaxpoError):
    """A named implementation that this platform or installation does not offer."""


class RunError(JaxpoError):
    """A run directory that cannot be used as asked: locked, or made from another configuration or data."""


class NonFiniteError(JaxpoError):
    """Training met a non-finite loss or gradient; the offending batch was dumped."""


def no_folder(path: Path | str) -> str:
    """What to say where a model's folder is expected and there is none; names of the Hub and single files are told."""
    path = Path(path)
    if path.is_file():
        kind = f"make a model of it with `jaxpo import {path} OUT`, or " if path.suffix == ".gguf" else ""
        return f"{path} is a file; {kind}give the folder that holds config.json and the safetensors"
    hub = len(path.parts) == 2 and not path.is_absolute() and path.parts[0] not in (".", "..")
    hint = f" (if that is a name on the Hugging Face Hub: hf download {path} --local-dir {path.name})" if hub else ""
    return f"there is no folder {path}{hint}"


@contextlib.contextmanager
def writing(path: object, temporary: object = None) -> Iterator[None]:
    """An `OSError` of the block that names no file, as that of a full disk, or its temporary name, names this one.

    Writers in C++ say in words what an `OSError` says by number.
    """
    try:
        yield
    except RuntimeError as error:
        for code in FULL:
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code), str(path)) from error
        raise
    except OSError as error:
        nameless = error.filename is None and error.errno in FULL
        if nameless or (error.filename is not None and str(error.filename) == str(temporary)):
            error.filename = str(path)
        raise


def file_problem(error: OSError) -> str | None:
    """`cannot write PATH: reason`, in one line; None of an error that is about no file."""
    path = error.filename
    if path is None:
        return f"cannot write: {error.strerror}" if error.errno in FULL else None
    unreadable = error.errno in (errno.EACCES, errno.EPERM) and os.path.exists(path) and not os.access(path, os.R_OK)
    verb = "read" if error.errno == errno.ENOENT or unreadable else "write"
    # A folder that is to be made where a file lies.
    reason = os.strerror(errno.ENOTDIR) if error.errno == errno.EEXIST and os.path.isfile(path) else error.strerror
    return f"cannot {verb} {os.fsdecode(path)}: {reason}"


def near_misses(word: str, known: Iterable[str], *, n: int = 3, cutoff: float = 0.6) -> list[str]:
    """The known words that a misspelt one resembles, nearest first."""
    return difflib.get_close_matches(word, list(known), n=n, cutoff=cutoff)


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "", cutoff: float = 0.6) -> str:
    """' Did you mean X?' for a near miss, otherwise nothing."""
    near = near_misses(word, known, cutoff=cutoff)
    return f" Did you mean {' or '.join(prefix + n for n in near)}?" if near else ""
