"""Typed configuration of a run: frozen dataclasses only, no work.

Field names are TRL's where the concept is TRL's. Importing this module imports no jax, so that `--help`, `explain` and
a typo answer at once.
"""

from jaxpo.config.alerts import DiskLow, LossSpike, NonFinite, Stall, Straggler, ThroughputDrop
from jaxpo.config.data import Curriculum, Data, Fim, Mixed, Texts, Tokenizer
from jaxpo.config.image_data import ImageData, Users
from jaxpo.config.images import Images, ImageSettings
from jaxpo.config.merge import Merge, Search
from jaxpo.config.networks import Beside
from jaxpo.config.noise import NoiseSchedule
from jaxpo.config.online import Hybrid, MaxMin, Online, RolloutEngine
from jaxpo.config.optimizers import OPTIMIZERS, Adafactor, Muon, Optimizer, OptimizerBase
from jaxpo.config.part import RecipePart
from jaxpo.config.run import Compute, Mesh, Prometheus, Run
from jaxpo.config.stages import (
    QAT,
    SFT,
    Denoise,
    Distill,
    LoRA,
    MaskedLM,
    Preference,
    Pretrain,
    Retrieval,
    Reward,
    Routing,
    Stage,
)
from jaxpo.config.work import Work

__all__ = [
    "OPTIMIZERS",
    "QAT",
    "SFT",
    "Adafactor",
    "Beside",
    "Compute",
    "Curriculum",
    "Data",
    "Denoise",
    "DiskLow",
    "Distill",
    "Fim",
    "Hybrid",
    "ImageData",
    "ImageSettings",
    "Images",
    "LoRA",
    "LossSpike",
    "MaskedLM",
    "MaxMin",
    "Merge",
    "Mesh",
    "Mixed",
    "Muon",
    "NoiseSchedule",
    "NonFinite",
    "Online",
    "Optimizer",
    "OptimizerBase",
    "Preference",
    "Pretrain",
    "Prometheus",
    "RecipePart",
    "Retrieval",
    "Reward",
    "RolloutEngine",
    "Routing",
    "Run",
    "Search",
    "Stage",
    "Stall",
    "Straggler",
    "Texts",
    "ThroughputDrop",
    "Tokenizer",
    "Users",
    "Work",
]
