"""Small pictures of coloured shapes with captions: how far one is what its caption says can be read off its pixels.

A corpus on which a diffusion model of a third of a million parameters learns to follow captions on two cores.
"""

from jaxpo.corpora.scenes.captions import VOCABULARY, encode
from jaxpo.corpora.scenes.draw import HELD_OUT, draw
from jaxpo.corpora.scenes.pairs import Judged, pairs
from jaxpo.corpora.scenes.reading import NOTHING, adherence, exact, reading
from jaxpo.corpora.scenes.rewards import REWARDS, brightness, colour, position, symmetry
from jaxpo.corpora.scenes.scene import BACKGROUNDS, COLOURS, PLACES, SHAPES, Scene, Thing, render
from jaxpo.corpora.scenes.users import TASTES, embeddings, support

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "HELD_OUT",
    "NOTHING",
    "PLACES",
    "REWARDS",
    "SHAPES",
    "TASTES",
    "VOCABULARY",
    "Judged",
    "Scene",
    "Thing",
    "adherence",
    "brightness",
    "colour",
    "draw",
    "embeddings",
    "encode",
    "exact",
    "pairs",
    "position",
    "reading",
    "render",
    "support",
    "symmetry",
]
