"""Preference losses as pure functions: arrays in, unreduced float32 loss out. Importing this package loads jax only."""

from jaxpo.losses.aot import aot, aot_unpaired
from jaxpo.losses.bco import bco, bco_shift, bco_stats, init_bco_state, update_bco_shift
from jaxpo.losses.bradley_terry import bradley_terry
from jaxpo.losses.cpo import cpo
from jaxpo.losses.dove import dove
from jaxpo.losses.dpo import dpo
from jaxpo.losses.exo_rw import exo_rw
from jaxpo.losses.infonca import infonca, nca
from jaxpo.losses.kto import apo_zero_unpaired, kto, kto_kl
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
from jaxpo.losses.lipo import implicit_scores, lipo
from jaxpo.losses.pro_ranking import pro_ranking
from jaxpo.losses.ranking import (
    label_pairs,
    lambda_rank,
    list_mle,
    list_softmax,
    ndcg,
    pair_hinge,
    pair_logistic,
    point_mse,
    point_sigmoid,
)
from jaxpo.losses.simpo import simpo
from jaxpo.losses.sppo_soft import sppo_soft
from jaxpo.losses.tdpo import tdpo1, tdpo2
from jaxpo.losses.tr_dpo import tr_dpo_reference
from jaxpo.losses.wpo import wpo_weight

__all__ = [
    "aot",
    "aot_unpaired",
    "apo_zero_unpaired",
    "bco",
    "bco_shift",
    "bco_stats",
    "bradley_terry",
    "cpo",
    "dove",
    "dpo",
    "exo_rw",
    "implicit_scores",
    "infonca",
    "init_bco_state",
    "kto",
    "kto_kl",
    "label_pairs",
    "lambda_rank",
    "lcpo",
    "lcpo_margin_cpo",
    "lcpo_margin_dpo",
    "lcpo_margin_ipo",
    "lcpo_margin_simpo",
    "lcpo_stats",
    "lddpo",
    "length_normalized",
    "lipo",
    "list_mle",
    "list_softmax",
    "nca",
    "ndcg",
    "pair_hinge",
    "pair_logistic",
    "point_mse",
    "point_sigmoid",
    "pro_ranking",
    "sigmoid_norm",
    "simpo",
    "sppo_soft",
    "tdpo1",
    "tdpo2",
    "tr_dpo_reference",
    "update_bco_shift",
    "update_reliability",
    "wpo_weight",
]
