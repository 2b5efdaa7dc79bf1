"""Functions of tokens, lists and vocabularies, at each of their guards and ties."""

import math

import jax
from losses.guard_row import row

from jaxpo import losses

MARGINS = {
    "ties": ([-3.0, -3.0], [-4.0, -4.0], [-5.0, -5.0], [-5.0, -9.0]),
    "both tied": ([-3.0, -3.0], [-4.0, -4.0], [-5.0, -5.0], [-6.0, -6.0]),
    "far": ([1e4, -3.0], [0.0, -1e4], [0.0, 0.0], [-3.0, 0.0]),
    "apart": ([-3.0, -7.0], [-5.0, -4.0], [-2.0, -3.0], [-6.0, -3.5]),
}

# --- sums, means and masks over the tokens of two responses ---

LEFT, RIGHT = [-1.0, -2.0, -3.0], [-4.0, -1.0, -2.0]
EVERY, FIRST, LAST, NOWHERE = [True] * 3, [True, False, False], [False, False, True], [False] * 3
LOGPS = {"equal": (LEFT, LEFT, LEFT, LEFT), "apart": (LEFT, RIGHT, RIGHT, [-9.0, -1.0, -3.0]),
         "far": ([1e4, -2.0, -3.0], LEFT, RIGHT, [-1e4, 0.0, 0.0])}  # fmt: skip
MASKS = {"all": (EVERY, EVERY), "one": (FIRST, LAST), "one side": (EVERY, NOWHERE), "none": (NOWHERE, NOWHERE)}
KL, WEIGHTS, ABSENT = [0.0, 0.5, 1.5], [0.0, 1.0, 0.3], [0.0, 0.0, 0.0]


def tokens(name, between, after, *, free, **settings):
    """Four rows of log-probs, arrays, the two masks, arrays."""
    cases = {f"{p}, {m}": (*LOGPS[p], *between, *MASKS[m], *after) for p in LOGPS for m in MASKS}
    return row(name, cases, free=free, **settings)


PHRASES = ([0, 1, 2], [1, 0, 0])
PER_TOKEN = {
    "lddpo": tokens("lddpo", (), (), free=4),
    "lddpo head": tokens("lddpo", (), (), free=4, alpha=0.0),
    "mcts_dpo": tokens("mcts_dpo", (), (0.2,), free=4, length_power=0.5),
    "dove": tokens("dove", (), (LAST, FIRST), free=4),
    "rrpo": tokens("rrpo", (KL,), PHRASES, free=5),
    "sparsepo": tokens("sparsepo", (KL, KL), (WEIGHTS, ABSENT, ABSENT, WEIGHTS), free=(0, 1, 2, 3, 4, 5, 8, 9, 10, 11),
                       steps=dict.fromkeys(("far, all", "far, one", "far, one side"), 1e-7)),
    "labelled_sums": row("labelled_sums", {"labels": (LEFT, [0, 1, 3])}, free=1, count=2),
    "merge_steps": row("merge_steps", {"to one": ([LEFT, RIGHT], 1), "to none": ([LEFT, RIGHT], 0)}, free=1),
    "spo_degree": row("spo_degree", {"ties": (0.5, [[0.0, 0.0]] * 2, [[1.0, 1.0]] * 2, True, False),
                                     "far": (0.0, [[1e4, 0.0]] * 2, [[-1e4, 1.0]] * 2, True, True)}, free=3),
    "degree_loss": row("degree_loss", {"ties": ([[2.0, 2.0]] * 2,), "far": ([[1e4, 0.0]] * 2,)}, free=1),
    "degree_logits": row("degree_logits", {"nothing kept": ([LEFT, RIGHT], [[True, True], [False, False]],
                                                            [[1.0, -1.0], [0.5, 0.0], [2.0, 1.0]], [0.0, 1.0])},
                         free=(0, 2, 3), loss=lambda h, kept, w, b: losses.degree_logits(h, kept, w, b[:, None])),
}  # fmt: skip

# --- lists of three responses ---

VIEWS = [[1.0, -2.0, 0.5], [0.3, 1.0, 2.0]]
ALL, TWO, ONE = [True] * 3, [True, False, True], [False, True, False]
SCORES = {"equal": [0.0, 0.0, 0.0], "two equal": [1.0, 1.0, -2.0], "apart": [0.3, -0.6, 2.0], "far": [1e4, 0.0, -1e4]}
UNEQUAL = ("two equal", "apart", "far")
TIED = ("equal, all", "two equal, all")
LABELS = {"all": ([1.0, 0.5, 0.0], ALL), "two": ([1.0, 0.5, 0.0], TWO), "one": ([1.0, 0.5, 0.0], ONE),
          "same": ([0.5, 0.5, 0.5], ALL), "nothing": ([0.0, 0.0, 0.0], ALL)}  # fmt: skip
SOLUTIONS = {f"{s}, {m}": (SCORES[s], mask) for s in SCORES for m, mask in
             (("all", ALL), ("two", TWO), ("one", ONE), ("none", [False] * 3))}  # fmt: skip
MARGIN = {"margin": ([1.0, 0.0, -3.0], *LABELS["all"])}


def listed(name, *more, at=None, free=1, **keywords):
    """Scores, further arrays, labels and the mask."""
    cases = {f"{s}, {k}": (SCORES[s], *more, *LABELS[k]) for s in SCORES for k in LABELS}
    return row(name, cases | (at or {}), free=free, **keywords)


STEPS = {
    "equal": [[0.0, 0.0]] * 3,
    "apart": [[1.0, 2.0], [-1.0, 0.5], [0.0, -4.0]],
    "far": [[1e4, 0.0]] * 2 + [[-1e4, 0.0]],
}
COUNTS, WEIGHED, UNWEIGHED = (
    [[2.0, 1.0], [3.0, 0.0], [1.0, 1.0]],
    [[1.0, 0.5]] * 3,
    [[1.0, 0.5], [0.0, 0.0], [1.0, 1.0]],
)
TREES = {"equal": (STEPS["equal"], COUNTS, WEIGHED), "apart": (STEPS["apart"], COUNTS, WEIGHED),
         "far": (STEPS["far"], COUNTS, WEIGHED), "no weight": (STEPS["apart"], COUNTS, UNWEIGHED)}  # fmt: skip
OTHER = {
    "apart": [3.0, -1.0],
    "parallel": [6.0, 8.0],
    "opposite": [-3.0, -4.0],
    "zero": [0.0, 0.0],
    "tiny": [1e-6, 0.0],
}
STATES = {key: ([[[0.6, 0.8]], [h]], [[1.0], [2.0]], [1.0, 0.0], [True, True]) for key, h in OTHER.items()}
PRESENT = {"all": ALL, "two": TWO, "one": ONE}
GRADES = {"all": ([2.0, 1.5, 0.0], ALL), "same": ([1.0] * 3, ALL), "one": ([1.0] * 3, ONE)}
ITEMS = {f"{s}, {m}": (SCORES[s], [-1.0] * 3, [1.0, 0.0, 3.0], [2.0, 0.0, 1.0], [1, 3, 2], PRESENT[m])
         for s in SCORES for m in PRESENT}  # fmt: skip
RANKED = {f"{s}, {g}": (SCORES[s], [1.0, 4.0, 0.0], *GRADES[g]) for s in SCORES for g in GRADES}
WORDS = {f"{s}, {m}": ([SCORES[s], SCORES["apart"]], [0, 2], mask) for s in SCORES for m, mask in
         (("all", [True, True]), ("one", [True, False]), ("none", [False, False]))}  # fmt: skip
LISTWISE = {
    "reward_difference": row("reward_difference", {"equal": (SCORES["equal"], ALL), "two": (SCORES["two equal"], ALL),
                                                   "apart": (SCORES["apart"], ALL), "masked": (SCORES["equal"], ONE)},
                             free=1, kinks=("equal", "two")),
    "simcse": row("simcse", {"apart": (VIEWS, VIEWS[::-1]), "alike": (VIEWS, VIEWS),
                             "zero": ([[0.0] * 3, RIGHT], VIEWS)}, free=2,
                  kinks=("zero",), loss=lambda s, t: jax.vmap(losses.simcse)(s, t)),
    "prototype_scores": row("prototype_scores", {"apart": ([1.0, -0.5], VIEWS), "zero": ([0.0] * 2, VIEWS)},
                            free=2, kinks=("zero",), loss=lambda f, c: jax.vmap(losses.prototype_scores)(f, c)),
    **{name: listed(name, [0.0] * 3, free=2, beta=0.1) for name in ("infonca", "nca", "exo_rw")},
    **{name: listed(name) for name in ("pair_logistic", "list_mle", "list_softmax", "point_mse", "point_sigmoid")},
    **{name: listed(name) for name in ("margin_mse", "cosent")},
    "info_nce": row("info_nce", {f"{s}, {m}": (SCORES[s], PRESENT[m]) for s in SCORES for m in PRESENT}, free=1,
                    loss=lambda s, where: losses.info_nce(s, where)),
    "colbert_distillation": row("colbert_distillation", {key: (SCORES[key], *LABELS["all"]) for key in UNEQUAL},
                                free=1, kinks=["two equal"]),
    "colbert_distillation raw": listed("colbert_distillation", normalize=False),
    "min_max": row("min_max", {key: (SCORES[key], ALL) for key in UNEQUAL}, free=1, kinks=["two equal"]),
    "list_mle top": listed("list_mle", top_k=1),
    "rating": listed("rating", form="mse"),
    "rating bce": listed("rating", form="bce", low=-1.0, high=2.0),
    "rating softmax": listed("rating", form="softmax"),
    **{f"token_classification {name}": row("token_classification", WORDS, free=1, label_smoothing=eps)
       for name, eps in (("sharp", 0.0), ("smooth", 0.1))},
    "process_reward": listed("process_reward"),
    "process_reward last": listed("process_reward", last_step_only=True),
    **{f"solution_score {how}": row("solution_score", SOLUTIONS, free=1, how=how,
                                    kinks=("equal, all", "equal, two") if how == "min" else ())
       for how in ("min", "product", "last", "mean")},
    "lipo": listed("lipo", [0.0] * 3, free=2, kinks=TIED, beta=0.5),
    "lambda_rank": listed("lambda_rank", kinks=TIED, times_list_size=True),
    "pair_hinge": listed("pair_hinge", at=MARGIN, kinks=["margin"]),
    "implicit_scores": row("implicit_scores", {"equal": ([0.0] * 3, [0.0] * 3, ALL)}, free=2),
    "irpo_ranking": row("irpo_ranking", ITEMS, free=2),
    "pro_ranking": row("pro_ranking", RANKED, free=1),
    "tpo_tree": row("tpo_tree", {key: (*tree, [1.0, 0.5, 0.0], ALL) for key, tree in TREES.items()}, free=(0, 2),
                    kinks=["equal", "far", "no weight"]),
    "tree_scores": row("tree_scores", {key: (*tree, ALL) for key, tree in TREES.items()}, free=(0, 2),
                       kinks=["no weight"]),
    "tree_scores sum": row("tree_scores", {key: (*tree, TWO) for key, tree in TREES.items()}, free=(0, 2),
                           pooling="sum", normalize=False),
    **{f"step_weights {mode}": row("step_weights", STATES, free=1, kinks=["tiny"], steps={"zero": 1e-9, "tiny": 1e-9},
                                   stop_gradient=False, mode=mode) for mode in ("one_plus_cos", "one_minus_cos")},
    "aot": row("aot", MARGINS, free=4, kinks=["ties"], loss=jax.vmap(losses.aot)),
    "aot_unpaired": row("aot_unpaired", MARGINS, free=4, kinks=["ties"], loss=jax.vmap(losses.aot_unpaired)),
}  # fmt: skip

# --- distributions over a vocabulary of three ---

LOGITS = {"equal": ([0.0] * 3, [0.0] * 3), "same": ([1.0, 0.0, -2.0], [1.0, 0.0, -2.0]),
          "apart": ([1.0, 1.0, -2.0], [-1.0, 3.0, 0.5]), "far": ([1e4, 0.0, 0.0], [0.0, 0.0, 1e4])}  # fmt: skip
TOP = {"equal": ([0.0] * 3, [0.0, 0.0], math.log(3.0), [2, 0]), "apart": ([1.0, 1.0, -2.0], [3.0, 0.5], 4.0, [1, 2]),
       "no tail": ([1.0, 0.0, 2.0], [1.0, 0.0], math.log(1 + math.e), [0, 1]),
       "far": ([0.0, 1e4, -1e4], [2.0, 0.0], 3.0, [0, 2])}  # fmt: skip
WHOLE = {
    "all": ([1.0, 1.0, -2.0], [3.0, 0.5, 0.0], 3.2, [1, 2, 0]),
    "far": ([1e4, 0.0, 0.0], [1.0, 1.0, 1.0], 2.1, [0, 1, 2]),
}
HALF = -math.log(2.0)
SEEN = {"all seen": ([HALF, HALF],), "rounded above": ([HALF, -0.6],), "far": ([-1e4, -1.0],)}
VOCAB = {
    **{name: row(name, LOGITS, free=1, tau=2.0) for name in ("forward_kl", "reverse_kl", "generalized_jsd")},
    **{f"{name}{at}": row(name, cases, free=1) for name in ("decoupled_topk_kd", "bucket_topk_kl")
       for at, cases in (("", TOP), (" whole", WHOLE))},
    "truncated_topk_kl": row("truncated_topk_kl", {k: (z, t, ids) for k, (z, t, _, ids) in TOP.items()}, free=1),
    **{f"vocab.{name}": row(f"vocab.{name}", {k: (z,) for k, (z, _) in LOGITS.items()}, free=1)
       for name in ("log_normalizer", "entropy", "log_collision")},
    "vocab.kl_divergence": row("vocab.kl_divergence", LOGITS, free=2),
    "vocab.log_prob": row("vocab.log_prob", {k: (z, 1) for k, (z, _) in LOGITS.items()}, free=1),
    "soft_value": row("soft_value", {k: (z,) for k, (z, _) in LOGITS.items()}, free=1),
    "q_rewards": row("q_rewards", {k: (pair, [2]) for k, pair in LOGITS.items()}, free=1),
    "unseen_mass": row("unseen_mass", SEEN, free=1, kinks=["all seen"]),
}  # fmt: skip
