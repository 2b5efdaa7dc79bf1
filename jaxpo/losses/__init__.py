"""Preference losses as pure functions: arrays in, unreduced float32 loss out. Importing this package loads jax only."""

from jaxpo.losses.aot import aot, aot_unpaired
from jaxpo.losses.bco import bco, bco_shift, bco_stats, init_bco_state, update_bco_shift
from jaxpo.losses.bradley_terry import bradley_terry
from jaxpo.losses.cpo import cpo
from jaxpo.losses.dove import dove
from jaxpo.losses.dpo import dpo
from jaxpo.losses.lcpo import (
    lcpo,
    lcpo_margin_cpo,
    lcpo_margin_dpo,
    lcpo_margin_ipo,
    lcpo_margin_simpo,
    lcpo_stats,
    update_reliability,
)
from jaxpo.losses.lddpo import lddpo
from jaxpo.losses.length_normalized import length_normalized, sigmoid_norm
from jaxpo.losses.lipo import label_pairs, lipo
from jaxpo.losses.simpo import simpo
from jaxpo.losses.tdpo import tdpo2

__all__ = [
    "aot",
    "aot_unpaired",
    "bco",
    "bco_shift",
    "bco_stats",
    "bradley_terry",
    "cpo",
    "dove",
    "dpo",
    "init_bco_state",
    "label_pairs",
    "lcpo",
    "lcpo_margin_cpo",
    "lcpo_margin_dpo",
    "lcpo_margin_ipo",
    "lcpo_margin_simpo",
    "lcpo_stats",
    "lddpo",
    "length_normalized",
    "lipo",
    "sigmoid_norm",
    "simpo",
    "tdpo2",
    "update_bco_shift",
    "update_reliability",
]
