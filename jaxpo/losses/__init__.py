"""Preference losses as pure functions: arrays in, unreduced float32 loss out. Importing this package loads jax only."""

from jaxpo.losses.alphapo import alphapo
from jaxpo.losses.aot import aot, aot_unpaired
from jaxpo.losses.apo import apo_down, apo_zero
from jaxpo.losses.apo_accel import extrapolated_logps
from jaxpo.losses.bco import bco, bco_shift, bco_stats, init_bco_state, update_bco_shift
from jaxpo.losses.bco_pair import bco_pair
from jaxpo.losses.bradley_terry import bradley_terry
from jaxpo.losses.centring import centring
from jaxpo.losses.cispo import cispo
from jaxpo.losses.colbert_distillation import colbert_distillation, min_max
from jaxpo.losses.constrained_rlhf import (
    constrained_advantages,
    constrained_dual,
    constrained_policy,
    multiplier_loss,
    multipliers,
    update_multipliers,
)
from jaxpo.losses.cosent import cosent
from jaxpo.losses.cpo import cpo
from jaxpo.losses.davidson import davidson
from jaxpo.losses.decoupled_topk_kd import TopKRecord, decoupled_topk_kd, topk_record
from jaxpo.losses.denoising import denoising, min_snr_weights, squared_error
from jaxpo.losses.diffusion_dpo import diffusion_dpo
from jaxpo.losses.diffusion_kto import diffusion_kto, diffusion_kto_kl
from jaxpo.losses.diffusion_npo import diffusion_npo
from jaxpo.losses.discopop import discopop
from jaxpo.losses.distillation import bucket_topk_kl, forward_kl, generalized_jsd, reverse_kl, truncated_topk_kl
from jaxpo.losses.dler import dler, dler_limits, dler_rewards, dler_truncated
from jaxpo.losses.dove import dove
from jaxpo.losses.dpo import dpo
from jaxpo.losses.dpo3d import dpo3d, log_probability_gradients, unseen_mass
from jaxpo.losses.dpop import dpop
from jaxpo.losses.drpo import drpo, drpo_scores, drpo_trust_region
from jaxpo.losses.exo_pair import exo_pair
from jaxpo.losses.exo_rw import exo_rw
from jaxpo.losses.fdpo import fdpo
from jaxpo.losses.fspo import fspo, user_weights
from jaxpo.losses.gae import gae, token_rewards
from jaxpo.losses.gpm import gpm, gpm_gates, gpm_mean_scores, gpm_ptx, gpm_score, gpm_table, gpm_temperature
from jaxpo.losses.gpo import gpo
from jaxpo.losses.grpo import grpo
from jaxpo.losses.gspo_token import gspo_token
from jaxpo.losses.hapo import hapo_history, hapo_rewards, repeated_tokens
from jaxpo.losses.hinge import hinge
from jaxpo.losses.hypo import hypo, hypo_weights
from jaxpo.losses.implicit_reward import f_conjugate, f_conjugate_slope, implicit_reward, q_rewards, soft_value
from jaxpo.losses.info_nce import info_nce
from jaxpo.losses.infonca import infonca, nca
from jaxpo.losses.inpo import duality_gap, inpo, mirror_step
from jaxpo.losses.inpo_ddim import inpo_ddim
from jaxpo.losses.ipo import ipo, ipo_sum
from jaxpo.losses.irpo_ranking import irpo_ranking, target_positions
from jaxpo.losses.kl import kl_k1, kl_k2, kl_k3, kl_straight_through
from jaxpo.losses.kl_controller import adaptive_kl, fixed_kl
from jaxpo.losses.kto import apo_zero_unpaired, kto, kto_kl
from jaxpo.losses.labelled import labelled_sums
from jaxpo.losses.lcpo import (
    lcpo,
    lcpo_em,
    lcpo_margin_cpo,
    lcpo_margin_dpo,
    lcpo_margin_ipo,
    lcpo_margin_simpo,
    lcpo_stats,
    update_reliability,
)
from jaxpo.losses.lddpo import lddpo
from jaxpo.losses.length_normalized import (
    apo_down_norm,
    apo_zero_norm,
    hinge_per_token,
    length_normalized,
    lndpo,
    sigmoid_norm,
)
from jaxpo.losses.lipo import implicit_scores, lipo
from jaxpo.losses.longalign import common_direction, denscore, longalign, reweighted, segment_text
from jaxpo.losses.luspo import luspo
from jaxpo.losses.mapl import mapl, mapl_inter, mapl_intra
from jaxpo.losses.margin_mse import margin_mse
from jaxpo.losses.maxmin_rlhf import (
    maxmin_dual,
    maxmin_policy,
    maxmin_responsibilities,
    maxmin_rewards,
    maxmin_rlhf,
    maxmin_weights,
)
from jaxpo.losses.mcts_dpo import mcts_dpo
from jaxpo.losses.micro import micro, micro_distil, micro_heads, micro_hedge, micro_mixed, micro_score
from jaxpo.losses.minillm import minillm_advantages
from jaxpo.losses.modpo import modpo, modpo_reward
from jaxpo.losses.nash_md import nash_md
from jaxpo.losses.nca_pair import nca_pair
from jaxpo.losses.off_policy import geometric_mask, off_policy_mask, off_policy_weights
from jaxpo.losses.online_dpo import online_dpo
from jaxpo.losses.orion import orion_rewards
from jaxpo.losses.orpo import orpo
from jaxpo.losses.pal import pal, pal_bound, pal_distance, pal_mixture, pal_similarity, pal_token_weights
from jaxpo.losses.ppd import ppd
from jaxpo.losses.ppo import ppo, ppo_value
from jaxpo.losses.pro_orchestrator import (
    interpolated_weights,
    normalised_rewards,
    orchestrated_reward,
    orchestrator_targets,
    pro_orchestrator,
)
from jaxpo.losses.pro_ranking import pro_ranking
from jaxpo.losses.process_reward import outcome_reward, process_reward, solution_score
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
from jaxpo.losses.ranking_accuracy import (
    difficulty,
    dpo_gamma,
    dpo_threshold,
    idealised_log_ratio,
    idealised_ranking_accuracy,
    ipo_threshold,
    ranking_accuracy,
    ranking_accuracy_list,
    ranking_accuracy_norm,
)
from jaxpo.losses.rao_kupper import rao_kupper
from jaxpo.losses.rating import rating
from jaxpo.losses.rationales import rationales
from jaxpo.losses.rdpo_length import rdpo_length
from jaxpo.losses.rdpo_robust import rdpo_robust, unbiased_under_flips
from jaxpo.losses.recurrence import returns_to_go
from jaxpo.losses.regret_reward import (
    deterministic_regret,
    improved_values,
    noiseless_preference,
    partial_returns,
    regret_reward,
    segment_regret,
)
from jaxpo.losses.reinforce_plus_plus import reinforce_plus_plus, reinforce_plus_plus_baseline
from jaxpo.losses.rloo import kl_shaped_rewards, rloo
from jaxpo.losses.rpo import rpo
from jaxpo.losses.rrpo import rrpo
from jaxpo.losses.rso import rso
from jaxpo.losses.sapo import sapo
from jaxpo.losses.secrets_rm import prototype_scores, reward_difference, simcse, sinkhorn, swav
from jaxpo.losses.self_npo import self_npo
from jaxpo.losses.sft import sft
from jaxpo.losses.simpo import simpo
from jaxpo.losses.slic import slic
from jaxpo.losses.smpo_diffusion import smpo_diffusion, smpo_rewards, smpo_weights
from jaxpo.losses.sparsepo import mapo_map, mapo_mask, mask_network, sparsepo
from jaxpo.losses.spo_degree import degree_logits, degree_loss, keep_masks, spo_degree
from jaxpo.losses.spo_minimax import asymmetry, even_rewards, exploitability, self_play, win_rates
from jaxpo.losses.sppo_hard import sppo_hard
from jaxpo.losses.sppo_soft import sppo_soft
from jaxpo.losses.tdpo import tdpo1, tdpo2
from jaxpo.losses.themis import part_weights, themis, themis_tokens
from jaxpo.losses.token_classification import token_classification
from jaxpo.losses.top_entropy import entropy_threshold, top_entropy_mask
from jaxpo.losses.tpo_tree import merge_steps, shortest, step_weights, tpo_tree, tree_scores
from jaxpo.losses.tpo_triple import tpo_triple
from jaxpo.losses.tr_dpo import tr_dpo_reference
from jaxpo.losses.upo import upo, upo_information_gain, upo_sampling_weights, upo_smoothing
from jaxpo.losses.vespo import vespo, vespo_weights
from jaxpo.losses.vpo import vpo
from jaxpo.losses.whitening import Moments, masked_moments, merged_moments, whiten
from jaxpo.losses.wpo import wpo_weight
from jaxpo.losses.xpo import xpo

__all__ = [
    "Moments",
    "TopKRecord",
    "adaptive_kl",
    "alphapo",
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_down_norm",
    "apo_zero",
    "apo_zero_norm",
    "apo_zero_unpaired",
    "asymmetry",
    "bco",
    "bco_pair",
    "bco_shift",
    "bco_stats",
    "bradley_terry",
    "bucket_topk_kl",
    "centring",
    "cispo",
    "colbert_distillation",
    "common_direction",
    "constrained_advantages",
    "constrained_dual",
    "constrained_policy",
    "cosent",
    "cpo",
    "davidson",
    "decoupled_topk_kd",
    "degree_logits",
    "degree_loss",
    "denoising",
    "denscore",
    "deterministic_regret",
    "difficulty",
    "diffusion_dpo",
    "diffusion_kto",
    "diffusion_kto_kl",
    "diffusion_npo",
    "discopop",
    "dler",
    "dler_limits",
    "dler_rewards",
    "dler_truncated",
    "dove",
    "dpo",
    "dpo3d",
    "dpo_gamma",
    "dpo_threshold",
    "dpop",
    "drpo",
    "drpo_scores",
    "drpo_trust_region",
    "duality_gap",
    "entropy_threshold",
    "even_rewards",
    "exo_pair",
    "exo_rw",
    "exploitability",
    "extrapolated_logps",
    "f_conjugate",
    "f_conjugate_slope",
    "fdpo",
    "fixed_kl",
    "forward_kl",
    "fspo",
    "gae",
    "generalized_jsd",
    "geometric_mask",
    "gpm",
    "gpm_gates",
    "gpm_mean_scores",
    "gpm_ptx",
    "gpm_score",
    "gpm_table",
    "gpm_temperature",
    "gpo",
    "grpo",
    "gspo_token",
    "hapo_history",
    "hapo_rewards",
    "hinge",
    "hinge_per_token",
    "hypo",
    "hypo_weights",
    "idealised_log_ratio",
    "idealised_ranking_accuracy",
    "implicit_reward",
    "implicit_scores",
    "improved_values",
    "info_nce",
    "infonca",
    "init_bco_state",
    "inpo",
    "inpo_ddim",
    "interpolated_weights",
    "ipo",
    "ipo_sum",
    "ipo_threshold",
    "irpo_ranking",
    "keep_masks",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_shaped_rewards",
    "kl_straight_through",
    "kto",
    "kto_kl",
    "label_pairs",
    "labelled_sums",
    "lambda_rank",
    "lcpo",
    "lcpo_em",
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
    "lndpo",
    "log_probability_gradients",
    "longalign",
    "luspo",
    "mapl",
    "mapl_inter",
    "mapl_intra",
    "mapo_map",
    "mapo_mask",
    "margin_mse",
    "mask_network",
    "masked_moments",
    "maxmin_dual",
    "maxmin_policy",
    "maxmin_responsibilities",
    "maxmin_rewards",
    "maxmin_rlhf",
    "maxmin_weights",
    "mcts_dpo",
    "merge_steps",
    "merged_moments",
    "micro",
    "micro_distil",
    "micro_heads",
    "micro_hedge",
    "micro_mixed",
    "micro_score",
    "min_max",
    "min_snr_weights",
    "minillm_advantages",
    "mirror_step",
    "modpo",
    "modpo_reward",
    "multiplier_loss",
    "multipliers",
    "nash_md",
    "nca",
    "nca_pair",
    "ndcg",
    "noiseless_preference",
    "normalised_rewards",
    "off_policy_mask",
    "off_policy_weights",
    "online_dpo",
    "orchestrated_reward",
    "orchestrator_targets",
    "orion_rewards",
    "orpo",
    "outcome_reward",
    "pair_hinge",
    "pair_logistic",
    "pal",
    "pal_bound",
    "pal_distance",
    "pal_mixture",
    "pal_similarity",
    "pal_token_weights",
    "part_weights",
    "partial_returns",
    "point_mse",
    "point_sigmoid",
    "ppd",
    "ppo",
    "ppo_value",
    "pro_orchestrator",
    "pro_ranking",
    "process_reward",
    "prototype_scores",
    "q_rewards",
    "ranking_accuracy",
    "ranking_accuracy_list",
    "ranking_accuracy_norm",
    "rao_kupper",
    "rating",
    "rationales",
    "rdpo_length",
    "rdpo_robust",
    "regret_reward",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
    "repeated_tokens",
    "returns_to_go",
    "reverse_kl",
    "reward_difference",
    "reweighted",
    "rloo",
    "rpo",
    "rrpo",
    "rso",
    "sapo",
    "segment_regret",
    "segment_text",
    "self_npo",
    "self_play",
    "sft",
    "shortest",
    "sigmoid_norm",
    "simcse",
    "simpo",
    "sinkhorn",
    "slic",
    "smpo_diffusion",
    "smpo_rewards",
    "smpo_weights",
    "soft_value",
    "solution_score",
    "sparsepo",
    "spo_degree",
    "sppo_hard",
    "sppo_soft",
    "squared_error",
    "step_weights",
    "swav",
    "target_positions",
    "tdpo1",
    "tdpo2",
    "themis",
    "themis_tokens",
    "token_classification",
    "token_rewards",
    "top_entropy_mask",
    "topk_record",
    "tpo_tree",
    "tpo_triple",
    "tr_dpo_reference",
    "tree_scores",
    "truncated_topk_kl",
    "unbiased_under_flips",
    "unseen_mass",
    "update_bco_shift",
    "update_multipliers",
    "update_reliability",
    "upo",
    "upo_information_gain",
    "upo_sampling_weights",
    "upo_smoothing",
    "user_weights",
    "vespo",
    "vespo_weights",
    "vpo",
    "whiten",
    "win_rates",
    "wpo_weight",
    "xpo",
]
