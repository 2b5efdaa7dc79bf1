"""Judges as a command line names them: by one word each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxpo.errors import ConfigError
from jaxpo.judges.base import Judge
from jaxpo.judges.endpoint import ChatJudge, Endpoint
from jaxpo.judges.function import FunctionJudge
from jaxpo.judges.jury import Jury
from jaxpo.judges.program import ProgramJudge
from jaxpo.judges.reward import RewardJudge
from jaxpo.judges.unit_tests import UnitTestJudge
from jaxpo.judges.verifier import VerifierJudge

JUDGES = (
    "Give reward (with --reward RUN), verifier (with --answer COLUMN), unit_tests (with --tests COLUMN), "
    "module:function, file.py:function, a file.py that somebody else wrote, which is run in a sandbox, or the "
    "http://... address of a chat endpoint (with --judge-model NAME)."
)


@dataclass(frozen=True)
class JudgeOptions:
    """Which judge is meant.

    Attributes:
      judge: reward, verifier, unit_tests, module:function, file.py:function, file.py or http://...; several make a
        jury, the mean of all. unit_tests and file.py run in a sandbox.
      judge_model, judge_key: the endpoint's model, and the environment variable with its key.
      judge_rubric: text file with the endpoint's instructions, which must ask for a last line `Score: NUMBER`.
      judge_scale: lowest and highest score of an endpoint.
      answer: the verifier's column with the right answer.
      tests: the column with the tests that unit_tests runs.
      unsandboxed: run foreign code with limits alone where bubblewrap does not work: it has the network and your files.
      user: column that names the user whose taste a reward model is asked about, where it knows several.
    """

    judge: tuple[str, ...] = ("reward",)
    judge_model: str = ""
    judge_key: str = ""
    judge_rubric: str = ""
    judge_scale: tuple[float, float] = (1.0, 10.0)
    answer: str = "answer"
    tests: str = "tests"
    unsandboxed: bool = False
    user: str = ""

    def judges(self) -> Judge:
        """The judge that the options describe; ConfigError for a word that is none's name."""
        members = tuple(self._judge(word) for word in self.judge)
        return members[0] if len(members) == 1 else Jury(members)

    def _judge(self, word: str) -> Judge:
        if word == "reward":
            return RewardJudge(user=self.user)
        if word == "verifier":
            return VerifierJudge(self.answer)
        if word == UnitTestJudge.NAME:
            return UnitTestJudge(tests=self.tests, unsandboxed=self.unsandboxed)
        if is_address(word):
            low, high = self.judge_scale
            endpoint = Endpoint(word, self.judge_model, self.judge_key)
            return ChatJudge(endpoint, low=low, high=high, **({"rubric": self._rubric()} if self.judge_rubric else {}))
        if ":" in word:
            return FunctionJudge(word)
        if word.endswith(".py"):
            return ProgramJudge(program=word, unsandboxed=self.unsandboxed)
        raise ConfigError(f"--judge {word}: there is no such judge. {JUDGES}")

    def _rubric(self) -> str:
        try:
            return Path(self.judge_rubric).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--judge-rubric {self.judge_rubric}: cannot be read ({error.strerror}).") from error


def is_address(word: str) -> bool:
    """Whether a word is the address of an endpoint."""
    return word.startswith(("http://", "https://"))
