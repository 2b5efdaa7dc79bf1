"""Judges: what gives an answer its score. Frozen dataclasses, chosen by value; importing them imports no jax."""

from jaxpo.judges.base import Judge
from jaxpo.judges.endpoint import ChatJudge, Endpoint
from jaxpo.judges.function import FunctionJudge
from jaxpo.judges.jury import Jury
from jaxpo.judges.program import ProgramJudge
from jaxpo.judges.reference import OverlapJudge, ReferenceChatJudge
from jaxpo.judges.reward import RewardJudge
from jaxpo.judges.unit_tests import UnitTestJudge
from jaxpo.judges.verifier import VerifierJudge

__all__ = [
    "ChatJudge",
    "Endpoint",
    "FunctionJudge",
    "Judge",
    "Jury",
    "OverlapJudge",
    "ProgramJudge",
    "ReferenceChatJudge",
    "RewardJudge",
    "UnitTestJudge",
    "VerifierJudge",
]
