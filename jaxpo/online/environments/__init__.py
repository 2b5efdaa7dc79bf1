"""Environments of several turns. Imports no jax: configurations hold them."""

from jaxpo.online.environments.base import Environment, EnvironmentOf, ToolConversation, describe
from jaxpo.online.environments.calculator import Calculator
from jaxpo.online.environments.guessing import GuessNumber
from jaxpo.online.environments.own import OwnEnvironment
from jaxpo.online.environments.table import TableLookUp

__all__ = [
    "Calculator",
    "Environment",
    "EnvironmentOf",
    "GuessNumber",
    "OwnEnvironment",
    "TableLookUp",
    "ToolConversation",
    "describe",
]
