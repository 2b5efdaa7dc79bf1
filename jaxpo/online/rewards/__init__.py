"""Rewards of answers; any judge of `jaxpo.judges` is one too. Imports no jax: configurations hold them."""

from jaxpo.judges import ChatJudge, Endpoint, Jury, ProgramJudge, RewardJudge
from jaxpo.online.rewards.base import Response, RewardFunction
from jaxpo.online.rewards.environment import EnvironmentReward
from jaxpo.online.rewards.forms import JSONReward, PatternReward
from jaxpo.online.rewards.function import FunctionReward
from jaxpo.online.rewards.lengths import LengthReward, RepetitionPenalty, SoftOverlong
from jaxpo.online.rewards.maths import MathReward
from jaxpo.online.rewards.named import named_reward
from jaxpo.online.rewards.r3 import R3Reward
from jaxpo.online.rewards.shaped_lengths import BudgetReward, CosineReward
from jaxpo.online.rewards.unit_tests import UnitTestReward
from jaxpo.online.rewards.verifier import VerifierReward
from jaxpo.online.rewards.win_rate import WinRateReward

__all__ = [
    "BudgetReward",
    "ChatJudge",
    "CosineReward",
    "Endpoint",
    "EnvironmentReward",
    "FunctionReward",
    "JSONReward",
    "Jury",
    "LengthReward",
    "MathReward",
    "PatternReward",
    "ProgramJudge",
    "R3Reward",
    "RepetitionPenalty",
    "Response",
    "RewardFunction",
    "RewardJudge",
    "SoftOverlong",
    "UnitTestReward",
    "VerifierReward",
    "WinRateReward",
    "named_reward",
]
