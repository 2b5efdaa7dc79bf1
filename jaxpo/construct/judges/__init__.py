"""Judges: what gives an answer its score. Frozen dataclasses, chosen by value; importing them imports no jax."""

from jaxpo.construct.judges.base import Judge
from jaxpo.construct.judges.endpoint import ChatJudge, Endpoint
from jaxpo.construct.judges.function import FunctionJudge
from jaxpo.construct.judges.jury import Jury
from jaxpo.construct.judges.reward import RewardJudge
from jaxpo.construct.judges.verifier import VerifierJudge

__all__ = ["ChatJudge", "Endpoint", "FunctionJudge", "Judge", "Jury", "RewardJudge", "VerifierJudge"]
