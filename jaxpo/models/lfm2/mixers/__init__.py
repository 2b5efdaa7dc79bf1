"""The mixers of LFM2 and LFM3, one file each; a further one is a file, an entry here and a name in `LAYER_TYPES`."""

from jaxpo.models.lfm2.mixers.attention import FULL_ATTENTION, SLIDING_ATTENTION
from jaxpo.models.lfm2.mixers.base import Mixer, Packed, See, Step, unseen
from jaxpo.models.lfm2.mixers.conv import CONV

MIXERS: dict[str, Mixer] = {
    "conv": CONV,
    "full_attention": FULL_ATTENTION,
    "sliding_attention": SLIDING_ATTENTION,
}
"""Layer type -> its mixer."""

__all__ = ["MIXERS", "Mixer", "Packed", "See", "Step", "unseen"]
