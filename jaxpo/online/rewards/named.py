"""Rewards as a command line names them: by one word each."""

from __future__ import annotations

from jaxpo.judges.base import Judge
from jaxpo.judges.program import ProgramJudge
from jaxpo.online.rewards.function import FunctionReward
from jaxpo.online.rewards.unit_tests import UnitTestReward


def named_reward(word: str, *, unsandboxed: bool = False) -> Judge:
    """`unit_tests`; a program, `file.py`, run in a sandbox; or a function, `file.py:function` or `module:function`."""
    if word == UnitTestReward.NAME:
        return UnitTestReward(unsandboxed=unsandboxed)
    if word.endswith(".py"):
        return ProgramJudge(program=word, unsandboxed=unsandboxed)
    return FunctionReward(function=word)
