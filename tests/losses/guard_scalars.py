"""Functions of a few numbers per row, pairs of responses above all, at each of their guards and ties."""

import functools
import math

import jax
import jax.numpy as jnp
from losses.guard_row import row

from jaxpo import losses
from jaxpo.losses import balance
from jaxpo.losses.implicit_reward import GUARD
from jaxpo.losses.length_normalized import apo_zero_term, squared
from jaxpo.losses.orpo import CEILING

EQUAL = {"reference": (-20.0, -22.0, -20.0, -22.0), "zero": (0.0,) * 4, "equal": (-5.0,) * 4}
PAIRS = EQUAL | {
    "pair": (-2.0, -7.0, -4.0, -3.0),
    "wrong": (-9.0, -4.0, -6.0, -8.0),
    "chosen up": (1e4, -5.0, -5.0, -5.0),
    "chosen down": (-1e4, -5.0, -5.0, -5.0),
    "rejected up": (-5.0, 1e4, -5.0, -5.0),
    "rejected down": (-5.0, -1e4, -5.0, -5.0),
}
N = (4.0, 2.0)
"""Lengths."""


def pair(name, *more, first=4, at=None, free=None, **keywords):
    """The first of the four log-probs of `PAIRS`, then the same further arrays for all; `at` adds whole cases."""
    cases = {key: (*values[:first], *more) for key, values in PAIRS.items()} | (at or {})
    return row(name, cases, free=first if free is None else free, **keywords)


def single(name, *more, **keywords):
    return pair(name, *more, first=2, **keywords)


FLAT = {"zero": 1e-9, "empty": 1e-9, "ceiling": 1e-10, "half": 1e-6}
"""Within the piece above ORPO's ceiling; far below the ceiling's size; about the joint of its two formulas."""
HALF = -math.log(2.0)
CEILINGS = {"ceiling": (CEILING, -2.0, 1.0, 1.0), "half": (HALF, HALF, 1.0, 1.0), "empty": (-3.0, 0.0, 2.0, 0.0)}
FROZEN = {key: (*p[:2], 0.0, 0.0, *p[2:], -8.0, 4.0) for key, p in CEILINGS.items()}

VECTORS = {"equal": ([1.0, 2.0], [1.0, 2.0]), "zero": ([0.0, 0.0], [0.0, 0.0]), "far": ([1e2, 0.0], [0.0, 1e2])}
LIST_OF_TWO = [[1.0, 2.0], [1.0, 2.0]]
BOUND = math.log(math.expm1(0.01))
POINTS = {"equal": ([1.0, 2.0], [1.0, 2.0]), "apart": ([1.0, 2.0], [0.0, 0.0])}
SPANS = {
    "margin": ([1.0, 0.0], [0.0, 3.0], [1.0, 0.0]),
    "inside": ([0.5, 0.0], [0.0, 0.0], [0.5, 0.5]),
    "none": ([0.5, 0.0], [0.0, 0.0], [0.0, 0.0]),
}
HEADS = {
    "equal": ([0.0, 0.0], [0.0, 0.0], [0.0, 0.0]),
    "far": ([50.0, -50.0], [0.0, 0.0], [0.0, 1.0]),
    "sure": ([1.0, -1.0], [0.0, 0.0], [1e4, 0.0]),
}
"""Embeddings, items, scores of positions, and rewards of two heads with a router's logits or weights."""
PARTS = {
    "none": (1.0, 0.5, [0.0] * 8, [0.0] * 8, [0.0] * 8, [0.0] * 8),
    "some": (1.0, 1.0, [-3.0] * 8, [-2.0] * 8, [2.0, 0.0] * 4, [1.0] * 8),
    "far": (1e4, -1e4, [-1e4] * 8, [-2.0] * 8, [5.0] * 8, [1.0] * 8),
}
WEIGHTS = {"soft": ([1.0, 0.0], [0.5, 0.5]), "hot": ([0.0, 1e4], [0.0, 1.0]), "wrong": ([1e4, 0.0], [0.0, 1.0])}
REWARDS = {"one": ([1.0, 0.0], [3.0, -2.0], [1.0, 0.0], [1.0, 2.0])}

PAIRWISE = {
    **{name: pair(name) for name in ("ipo_sum", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
                                     "discopop", "rdpo_robust", "dpo_gamma", "lcpo_margin_dpo", "lcpo_margin_ipo",
                                     "log_probability_gradients")},
    **{name: pair(name, *N, at={"no tokens": (0.0,) * 6, "one token": (-1.0, -2.0, -1.0, -3.0, 1.0, 1.0)})
       for name in ("ipo", "rdpo_length", "lndpo", "sigmoid_norm", "apo_zero_norm", "apo_down_norm")},
    "dpo": pair("dpo", label_smoothing=0.1),
    "dpo3d": pair("dpo3d", sft_weight=0.5),
    "length_normalized": pair("length_normalized", *N, relative=squared, absolute=apo_zero_term, margin=0.5),
    "hinge": pair("hinge", at={"margin": (20.0, 0.0, 0.0, 0.0)}, kinks=["margin"], beta=0.05),
    "rso": pair("rso"),
    "rso hinge": pair("rso", at={"margin": (-8.0, -3.0, -20.0, 5.0)}, kinks=["margin"], gamma=0.05, margin=True),
    "hinge_per_token": pair("hinge_per_token", *N, at={"margin": (-3.0, -6.0, -4.0, -6.0, *N)}, kinks=["margin"],
                            beta=4.0),
    "dpop": pair("dpop", kinks=[*EQUAL, "rejected up"]),
    "fdpo reverse_kl": pair("fdpo", divergence="reverse_kl"),
    "fdpo forward_kl": pair("fdpo", at={"exponent": (-81.0, 0.0, -1.0, 0.0)}, kinks=["exponent"],
                            divergence="forward_kl"),
    "fdpo js_divergence": pair("fdpo", divergence="js_divergence"),
    "fdpo alpha_divergence": pair("fdpo", at={"exponent": (-161.0, 0.0, -1.0, 0.0)}, kinks=["exponent"],
                                  divergence="alpha_divergence", alpha=0.5),
    "rpo": pair("rpo", 4.0, variant="average"),
    "tdpo1": pair("tdpo1", 0.5, 0.0, free=6),
    "tdpo2": pair("tdpo2", 0.5, 0.0, free=(0, 1, 2, 3, 5)),
    "fspo ipo": pair("fspo"),
    "fspo dpo": pair("fspo", form="dpo", label_smoothing=0.1),
    "inpo": pair("inpo", -8.0, -6.0, free=6, eta=0.5),
    "upo": pair("upo", 0.2, 4.0),
    "hypo": single("hypo", free=1),
    "vpo": pair("vpo", -8.0, -6.0, free=6),
    "modpo": pair("modpo", [1.0], [0.5]),
    "modpo hinge": pair("modpo", [1.0], [0.5], at={"margin": (7.5, 0.0, 0.0, 0.0, [1.0], [0.5])}, kinks=["margin"],
                        form="hinge"),
    "modpo_reward": single("modpo_reward", [1.0]),
    "rationales dpo": pair("rationales", *N, -8.0, 4.0, free=(0, 1, 2, 3, 6), form="sigmoid"),
    "rationales orpo": pair("rationales", *N, -8.0, 4.0, free=(0, 1, 2, 3, 6), at=FROZEN, kinks=["ceiling"],
                            steps=FLAT, base="orpo"),
    "rationales simpo": pair("rationales", *N, 0.0, 0.0, free=(0, 1, 2, 3, 6), base="simpo"),
    "simpo": single("simpo", *N, label_smoothing=0.1),
    "alphapo": single("alphapo", *N, at={"exponent": (-1280.0, -2.0, *N)}, kinks=["exponent"], alpha=0.25),
    "orpo": single("orpo", *N, at=CEILINGS, kinks=["ceiling"], steps=FLAT),
    "orpo.log_odds": row("orpo.log_odds", {"ceiling": (CEILING,), "half": (HALF,), "zero": (0.0,), "far": (-1e4,)},
                         free=1, kinks=["ceiling"], steps=FLAT),
    "lcpo_margin_simpo": single("lcpo_margin_simpo", *N),
    "lcpo_margin_cpo": single("lcpo_margin_cpo"),
    "cpo": single("cpo", label_smoothing=0.1),
    "slic": pair("slic", first=3, at={"margin": (-3.0, -4.0, -2.0)}, kinks=["margin"], delta=1.0),
    "tpo_triple": pair("tpo_triple", *N, first=3, label_smoothing=0.1),
    "tpo_triple tpo_l": pair("tpo_triple", *N, first=3, variant="tpo_l"),
    "tpo_triple ipo": pair("tpo_triple", *N, first=3, variant="ipo"),
    "tpo_triple hinge": pair("tpo_triple", *N, first=3, at={"margin": (-3.0, -7.0, -2.0, *N)}, kinks=["margin"],
                             variant="hinge", beta=0.25),
    "bradley_terry": pair("bradley_terry", first=3, label_smoothing=0.1, center_rewards_coefficient=0.01),
    "bradley_terry soft": pair("bradley_terry", first=2, loss=lambda w, v: losses.bradley_terry(
        w, v, weight=jnp.full(w.shape, 0.5), probability=jnp.full(w.shape, 0.3), temperature=2.0)),
    "centring": pair("centring", first=2),
    "rao_kupper": pair("rao_kupper", False, first=2),
    "rao_kupper tie": pair("rao_kupper", True, first=2, threshold=1.01),
    "rao_kupper no ties": pair("rao_kupper", False, first=2, threshold=1.0),
    "davidson": pair("davidson", False, first=2),
    "gpm": row("gpm", VECTORS, free=2, temperature=1.0),
    "gpm regression": row("gpm", VECTORS, free=2, temperature=1.0, form="regression"),
    "gpm_score": row("gpm_score", VECTORS, free=2),
    "gpm_table": row("gpm_table", {"equal": (LIST_OF_TWO,)}, free=1),
    "gpm_mean_scores": row("gpm_mean_scores", {"equal": ([[0.0, 0.0], [0.0, 0.0]],)}, free=1),
    "gpm_gates": row("gpm_gates", {"equal": ([0.0, 0.0],), "far": ([1e4, 0.0],)}, free=1),
    "gpm_temperature": row("gpm_temperature", {"at the bound": (BOUND,), "below": (-20.0,), "above": (1.0,)}, free=1,
                           kinks=["at the bound"], steps={"at the bound": 1e-6}),
    "gpm_ptx": row("gpm_ptx", {"zero": (0.0,), "far": (-1e4,)}, free=1, beta=1.0),
    "gpo": row("gpo", {"zero": (0.0, 0.0, 0.0), "far": (1e4, 0.0, 1.0)}, free=1, beta=1.0),
    "pal": row("pal", SPANS, free=2, kinks=["margin"]),
    "pal logistic": row("pal", SPANS, free=2, form="logistic"),
    "pal_distance": row("pal_distance", POINTS, free=2, kinks=["equal"]),
    "pal_similarity": row("pal_similarity", {"apart": ([1.0, 2.0], [0.5, -1.0], 0.0), "scale": (
        [1.0, 2.0], [0.5, -1.0], math.log(100.0))}, free=3, kinks=["scale"], steps={"scale": 1e-6}),
    "pal_mixture": row("pal_mixture", {"equal": ([0.0, 0.0],), "far": ([1e4, 0.0],)}, free=1),
    "pal_bound": row("pal_bound", {"on the surface": ([3.0, 4.0],), "inside": ([1.0, 0.0],), "outside": ([6.0, 8.0],),
                                   "nowhere": ([0.0, 0.0],)}, free=1, radius=5.0, kinks=["on the surface"]),
    "micro": row("micro", HEADS, free=3),
    "micro smoothed": row("micro", HEADS, free=3, label_smoothing=0.1, entropy_coefficient=0.0),
    "micro_mixed": row("micro_mixed", {k: (*v, v[2]) for k, v in HEADS.items()}, free=4),
    "micro_heads": row("micro_heads", {k: v[:2] for k, v in HEADS.items()}, free=2),
    "micro_hedge": row("micro_hedge", {"equal": ([0.5, 0.5], [[0.0, 0.0]]), "far": ([0.5, 0.5], [[1e4, 0.0]])},
                       free=(1,)),
    "micro_distil": row("micro_distil", {"equal": ([0.0, 0.0], [0.5, 0.5]), "sure": ([1e4, 0.0], [1.0, 0.0])}, free=1),
    "micro_score": row("micro_score", {"zero": ([0.0, 0.0], [0.5, 0.5]), "far": ([1e4, -1e4], [0.0, 1.0])}, free=2),
    "maxmin_rlhf": row("maxmin_rlhf", HEADS, free=2),
    "maxmin_policy": row("maxmin_policy", {"equal": ([[0.5, 0.5]], [[[0.0, 0.0]]], [1.0])}, free=(1, 2),
                         loss=jax.vmap(losses.maxmin_policy)),
    "constrained_policy": row("constrained_policy", {"equal": ([0.5, 0.5], [[0.0, 0.0]], [0.4])}, free=(1, 2),
                              loss=jax.vmap(losses.constrained_policy)),
    "multipliers": row("multipliers", {"zero": ([0.0, 1e2],), "below": ([-1e2, 0.0],)}, free=1),
    "multiplier_loss": row("multiplier_loss", {"reached": ([0.0], [1.0], [1.0]), "far": ([1e2], [1e4], [0.0])}, free=1),
    "regret_reward": pair("regret_reward", 0.3, first=2),
    "partial_returns": row("partial_returns", {"zero": ([0.0, 1.0], [0.0, 0.0])}, free=2,
                           loss=jax.vmap(losses.partial_returns)),
    "deterministic_regret": pair("deterministic_regret", first=3),
    "segment_regret": row("segment_regret", {"equal": ([1.0, 2.0], [1.0, 2.0]), "far": ([1e4, 0.0], [0.0, 0.0])},
                          free=2),
    "improved_values": row("improved_values", {"equal": ([[1.0, 0.0], [1.0, 0.0]], [1.0, 2.0]),
                                               "far": ([[1e2, 0.0], [0.0, 1.0]], [1.0, 2.0])}, free=2,
                           loss=jax.vmap(lambda psi, w: losses.improved_values(psi, w, temperature=0.5))),
    "davidson tie": pair("davidson", True, first=2, nu=0.01),
    "davidson no ties": pair("davidson", False, first=2, nu=0.0),
    "outcome_reward": pair("outcome_reward", 0.3, first=1),
    "sft": pair("sft", first=1),
    "unbiased_under_flips": single("unbiased_under_flips", label_smoothing=0.1),
    "idealised_log_ratio": single("idealised_log_ratio", 1.0),
    "difficulty": single("difficulty"),
    "dpo_threshold": pair("dpo_threshold", first=1),
    "ipo_threshold": row("ipo_threshold", {"inside": (4.0,), "end": (5.0,)}, free=1, kinks=["end"], tau=0.1),
    "kto": single("kto", True, 0.0),
    "kto bad": single("kto", False, 15.0),
    "apo_zero_unpaired": single("apo_zero_unpaired", True),
    "bco": single("bco", False, 0.3),
    "sppo_soft": single("sppo_soft", 0.5),
    "themis": row("themis", PARTS, free=4, loss=lambda *a: sum(losses.themis(*a, beta=0.5))),
    "themis pooled": row("themis", PARTS, free=4, loss=lambda *a: sum(losses.themis(*a, normalisation="pooled"))),
    "pro_orchestrator": row("pro_orchestrator", WEIGHTS, free=1),
    "orchestrated_reward": row("orchestrated_reward", REWARDS, free=2),
    "normalised_rewards": row("normalised_rewards", {"flat": ([1.0, 2.0], [1.0, 1.0], [0.0, 1.0])}, free=1),
    "interpolated_weights": row("interpolated_weights", {"both": ([0.5, 0.5], [1.0, 0.0])}, free=2, share=0.25),
    "extrapolated_logps": row("extrapolated_logps", {"alike": ([0.0, -1.0], [0.0, -1.0]),
                                                     "far": ([0.0, -1e4], [-1e4, 0.0])}, free=2),
    "squared_error": row("squared_error", {"equal": ([1.0, 2.0], [1.0, 2.0]), "far": ([1e4, 0.0], [0.0, 0.0])}, free=2),
    "denoising": row("denoising", {"zero": (0.0, 0.5), "far": (1e4, 0.0)}, free=1, snr_limit=5.0),
    "diffusion_dpo": pair("diffusion_dpo", first=4, free=2, beta=2.0),
    "diffusion_kto": row("diffusion_kto", {"zero": (0.0, 0.0, True, 0.0), "bad": (3.0, 1.0, False, 0.5)}, free=1,
                         beta=2.0),
    **{name: pair(name, free=2, beta=2.0) for name in ("diffusion_npo", "inpo_ddim", "ppd")},
    "smpo_diffusion": pair("smpo_diffusion", 0.7, 0.2, free=2, beta=2.0),
    "smpo_diffusion tie": pair("smpo_diffusion", 0.5, 0.5, free=2, beta=2.0),
    "self_npo": row("self_npo", {"equal": ([1.0, 2.0], [1.0, 2.0]), "far": ([1e4, 0.0], [0.0, 0.0])}, free=1,
                    width=0.5),
    "self_npo squared": row("self_npo", {"equal": ([1.0, 2.0], [1.0, 2.0])}, free=1, form="squared"),
    "longalign": row("longalign", {"apart": ([1.0, 2.0], [0.5, -1.0]), "nowhere": ([0.0, 0.0], [0.5, -1.0])}, free=1,
                     kinks=["nowhere"], loss=lambda g, t: losses.longalign(g, t, jnp.asarray([0.6, 0.8]))),
    "segment_text": row("segment_text", {"apart": ([[1.0, 2.0], [0.5, -1.0]], [True, True]),
                                         "one": ([[1.0, 2.0], [0.5, -1.0]], [True, False])}, free=1),
    "reweighted": row("reweighted", {"along": ([[0.6, 0.8]], [0.6, 0.8])}, free=1, loss=jax.vmap(losses.reweighted)),
    "denscore": row("denscore", {"equal": (1.0, 1.0), "far": (1e4, 0.0)}, free=2),
    "mapl_intra": single("mapl_intra"),
    "mapl_inter": pair("mapl_inter", -1.0),
    "mapl": row("mapl", {"equal": (0.0, 0.0, [0.0, 0.0], [0.0, 0.0], 0.0, 0.0, 1.0),
                         "far": (1e4, 1.0, [1e4, 2.0], [0.0, -1e4], 3.0, -1e4, -1.0)}, free=6),
}  # fmt: skip


# --- scalars, state and routing ---

T = {"zero": 0.0, "below": -1e4, "inside": 0.4, "beyond": 1e4}
DIVERGENCES = {d: T | {"guard": GUARD.get(d, 0.5)} for d in ("tv", "chi2", "hellinger", "js", "kl")}
ETA = {
    "sure": (1.0, 1.0),
    "never": (-2.0, 0.0),
    "even": (0.0, 0.5),
    "clipped": (3.0, 1e-4),
    "far": (1e4, 0.9),
    "wrong": (-1e4, 0.9),
}
NETWORK = {"idle": ([[2.0], [-1.0]], [0.0], [0.5], [1.0, 2.0]), "on": ([[2.0], [1.0]], [0.5], [0.5], [1.0, 2.0]),
           "mixer zero": ([[2.0], [1.0]], [0.0], [0.0], [1.0, 2.0]),
           "off": ([[2.0], [1.0]], [0.5], [-0.5], [1.0, 2.0])}  # fmt: skip
LOADS = {"even": ([2.0, 2.0], [1.0, 1.0], 2.0), "none": ([0.0, 0.0], [0.0, 0.0], 0.0)}
BOUND = {"at": (1.0, 1.0), "below": (0.5, 1.0), "above": (2.0, 1.0)}


def posterior(s, eta):
    """-log(p eta + (1 - p)(1 - eta)), p = sigmoid(s): what LCPO's gradient is that of."""
    eta = jnp.clip(eta, 1e-4, 1 - 1e-4)
    return -jnp.logaddexp(jnp.log(eta) - jnp.logaddexp(0.0, -s), jnp.log1p(-eta) - jnp.logaddexp(0.0, s))


def network(weight, bias, mixer, hidden):
    head = {"weight": weight, "bias": bias}
    return losses.mask_network({"layers": {"0": head}, "mixer": {"weight": mixer}}, [hidden])


def rewarded(at):
    """`implicit_reward` where its conjugate has the arguments `at`; the guard also by way of the prompt's value."""
    cases = {key: (-t, 0.0, 2.0, 0.0) for key, t in at.items()}
    return cases | {"by value": (-3.0, -3.0, 2.0, -at["guard"])}


SCALARS = {
    **{f"{name} {d}": row(name, {k: (t,) for k, t in at.items()}, free=1, divergence=d,
                          kinks=["guard"] if name == "f_conjugate_slope" and d in GUARD else ())
       for name in ("f_conjugate", "f_conjugate_slope") for d, at in DIVERGENCES.items()},
    **{f"implicit_reward {d}": row("implicit_reward", rewarded(at), free=(0, 1, 3), divergence=d, reduction="sum")
       for d, at in DIVERGENCES.items()},
    "implicit_reward mean": row("implicit_reward", {"guard": (-1.2, 0.0, 2.0, 0.0), "no tokens": (0.0, 0.0, 0.0, 0.5)},
                                free=(0, 1, 3), divergence="js"),
    "lcpo": row("lcpo", ETA, free=1, loss=lambda s, eta: losses.lcpo(s, eta)[0], whole=posterior),
    "mask_network": row("mask_network", NETWORK, free=3, kinks=["idle", "mixer zero"], loss=jax.vmap(network)),
    "balance.load_balance": row("balance.load_balance", LOADS, free=(1,),
                                loss=jax.vmap(functools.partial(balance.load_balance, top_k=2))),
    "balance.router_z": row("balance.router_z", {"none": (0.0, 0.0), "one": (4.0, 1.0)}, free=1),
    "numerics.at_most": row("numerics.at_most", BOUND, free=1, kinks=["at"]),
    "numerics.softplus": row("numerics.softplus", {"zero": (0.0,), "up": (1e4,), "down": (-1e4,)}, free=1),
}  # fmt: skip
