"""What a user sees of a file and of rendered examples, with and without colour."""

from __future__ import annotations

import io

from rich.console import Console

from jaxpo.data.rows.needs import Needs
from jaxpo.data.rows.trainable import Asked, Use
from jaxpo.data.tokens.inspect import inspect
from jaxpo.data.tokens.preview import Preview
from jaxpo.recipe.uses import uses


def printed(renderable, **options):
    console = Console(file=io.StringIO(), width=100, **options)
    console.print(renderable)
    return console.file.getvalue()


def use_of(methods, purpose="preference"):
    """A kind of training by methods that need this."""
    return Use(purpose, "recipe", "--data FILE", purpose, {name: Asked(needs) for name, needs in methods.items()})


def lacking(report):
    """Method -> what the file lacks for it, over all uses; the column's name where it is one."""
    found = {name: why for fit in report.fits if fit.use.purpose != "language" for name, why in fit.missing.items()}
    return {name: why.split("'")[1] if why.startswith("no column ") else why for name, why in found.items() if why}


def test_preview_marks_the_trained_tokens(prepared, files):
    data = prepared(files / "messages.jsonl", max_length=128)
    text = str(Preview(data, 1))
    assert text.startswith("type messages: 7 examples")
    assert "read 7, kept 7" in text
    assert "What is the capital of France?<|im_end|>" in text
    assert "⟦Paris.<|im_end|>\n⟧" in text
    segment = data.store.read([0])[0].segments[0]
    assert f"completion: {len(segment.tokens)} tokens, {segment.supervised.sum()} trained" in text
    plain = printed(Preview(data, 1), no_color=True)
    assert "⟦Paris.<|im_end|>" in plain
    coloured = printed(Preview(data, 1), force_terminal=True, color_system="standard")
    assert "\x1b[32m⟦Paris." in coloured


def test_preview_of_pairs_shows_roles_and_columns(prepared, files):
    text = str(Preview(prepared(files / "preference.jsonl", "preference", roles=("chosen", "rejected")), 2))
    assert "columns margin" in text
    for part in ("chosen: ", "rejected: ", "⟦Paris.<|im_end|>⟧", "⟦It is Lyon, I think.<|im_end|>⟧", "margin = 0.25"):
        assert part in text
    text = str(Preview(prepared(files / "list.jsonl", "preference", roles=("candidate",)), 1))
    assert "candidate 2: " in text
    assert "candidate 3: " not in text, "an empty response is not there"


def test_preview_shortens_long_text(prepared, write):
    text = str(Preview(prepared(write({"text": "x" * 5000}), "language", max_length=8192), 1))
    assert len(text) < 1500
    assert "more characters)" in text


def test_inspect(files, tokenizer):
    methods = {"pairs": Needs(roles=("chosen", "rejected")), "lists": Needs(roles=("candidate",), columns=("scores",))}
    report = inspect(files / "preference.jsonl", uses=[use_of(methods)])
    assert (report.type, report.rows, report.unit) == ("preference", 5, "characters")
    assert report.columns["margin"] == "0.0"
    assert report.fits[0].missing == {"pairs": "", "lists": "no column 'responses'"}
    for text in (str(report), printed(report)):
        for part in ("type preference, 5 rows", "no column 'responses'", "⟦Paris.<|im_end|>⟧", "margin"):
            assert part in text
    counted = inspect(files / "text.jsonl", tokenizer=tokenizer)
    assert counted.unit == "tokens"
    assert counted.lengths["text"][-1] == max(
        len(tokenizer.encode(line)) + 2
        for line in (
            "The quick brown fox jumps over the lazy dog.",
            "Grüße aus Köln: naïve café, 東京 and 🎉.",
            "def f(x):\n    return x + 1\n",
            "Numbers: 1234 and 84721.\n\nA new paragraph.",
        )
    )


def test_inspect_every_example_file(files):
    for path in sorted(files.glob("*.jsonl")):
        report = inspect(path, samples=1)
        assert report.rows == sum(1 for _ in path.open())
        assert str(report)


def test_inspect_names_the_first_missing_column(files, write):
    pairs = ("chosen", "rejected")
    methods = {
        "pairs": Needs(roles=pairs),
        "spans": Needs(roles=pairs, per_token=("phrase",)),
        "rationale": Needs(roles=pairs, optional_roles=("rationale",)),
        "gold or chosen": Needs(roles=pairs, optional_roles=("gold",)),
        "votes": Needs(roles=pairs, columns=("annotator", "votes")),
        "unpaired": Needs(roles=("completion", "kl"), columns=("label",)),
        "weighted": Needs(roles=("completion",), columns=("label", "weight")),
        "lists": Needs(roles=("candidate",), columns=("scores",)),
        "trees": Needs(roles=("candidate",), columns=("scores",), per_token=("step",)),
        "items": Needs(roles=("items",), columns=("relevance",), per_token=("item",)),
    }

    def missing(path):
        return lacking(inspect(path, uses=[use_of(methods)]))

    of_pairs = {"lists": "responses", "trees": "steps", "items": "items"}
    plain = {"spans": "chosen_spans", "rationale": "rationale", "votes": "annotator", "weighted": "weight"}
    assert missing(files / "preference.jsonl") == plain | of_pairs
    assert missing(files / "spans.jsonl") == {k: v for k, v in plain.items() if k != "spans"} | of_pairs
    assert missing(files / "rationale.jsonl") == {k: v for k, v in plain.items() if k != "rationale"} | of_pairs
    assert set(missing(files / "tree.jsonl")) == set(methods) - {"lists", "trees"}
    assert set(missing(files / "items.jsonl")) == set(methods) - {"items"}
    assert set(missing(files / "weights.jsonl")) == set(methods) - {"unpaired", "weighted"}
    tuned = use_of({"f": Needs(roles=("completion",))}, "sft")
    assert lacking(inspect(files / "weights.jsonl", uses=[tuned])) == {
        "f": "its stage reads no rows of type 'unpaired'"
    }
    one_class = write(*({"prompt": "p", "completion": c, "label": True} for c in "ab"))
    assert missing(one_class)["unpaired"] == "no row with label false"


def test_inspect_shows_further_segments(files):
    report = inspect(files / "mapl.jsonl", samples=1)
    assert {"inter_chosen", "intra_rejected_minus"} <= set(report.lengths)
    assert "[intra_chosen_minus] " in report.samples[0]


FINE_TUNING = {name for use in uses() if use.purpose == "sft" for name in use.methods}
RETRIEVAL = ("colbert_distillation", "cosent", "info_nce", "margin_mse")
# Methods that need more than a pair, and what a plain pair lacks first for them.
BEYOND_PAIRS = {
    **dict.fromkeys(("exo_rw", "infonca", "lipo", "nca", "pro_ranking"), "responses"),
    **{"plackett_luce": "responses", "process_reward": "completions", "rating": "completion"},
    "token_classification": "words",
    **dict.fromkeys(("davidson", "rao_kupper"), "tie"),
    **{"irpo_ranking": "items", "tpo_tree": "steps", "tpo_triple": "gold"},
    **dict.fromkeys(FINE_TUNING, "completion"),
    **dict.fromkeys(("mapl", "mapl_reward"), "inter_prompt"),
    **{"gpo": "rewards", "maxmin_rlhf": "responsibilities", "micro_router": "completion", "pal": "user"},
    **{"meta_rm": "samples", "modpo": "rewards", "rationales": "rationale", "sppo_soft": "votes"},
    **{"rrpo": "chosen_spans", "spo_degree": "chosen_keywords", "themis": "chosen_parts"},
    **{"pro_orchestrator": "completion", "mcts_dpo": "chosen_spans", "upo": "smoothing"},
    **dict.fromkeys(RETRIEVAL, "query"),
}
UNPAIRED = {"kto", "bco", "apo_zero_unpaired", "outcome_reward"}
NONE, SFT = frozenset(), frozenset(FINE_TUNING)
LISTS = {"exo_rw", "infonca", "lipo", "nca"}
# What the values of the example file's columns do not allow, as long as the method is told nothing else.
OF_VALUES = {
    "modpo": "column 'rewards' holds 2 reward(s) per response, but weights has 2 entries; give 3: the pairs' own, then "
    "one per name in alphabetical order.",
    "gpo": "column 'rewards' holds 2 names, but a response has one mean score; keep one of them.",
}
OF_THEIR_OWN = {
    **{
        "annotators": {"sppo_soft"},
        "keywords": {"spo_degree"},
        "mapl": {"mapl", "mapl_reward"},
        "rationale": {"rationales"},
    },
    "responsibilities": {"maxmin_rlhf", "pal"},
    "samples": {"meta_rm"},
    **{"parts": {"themis"}, "rewards": {"modpo", "gpo"}, "spans": {"rrpo"}, "triple": {"tpo_triple"}},
    **{"calibration": NONE, "smoothing": {"upo"}, "step_pairs": {"mcts_dpo", "rrpo", "upo"}},
    **dict.fromkeys(("preference", "preference_chat", "preference_implicit"), NONE),
}
OTHERS = {
    **dict.fromkeys(("unpaired", "weights"), UNPAIRED),
    "groups": {"davidson", "rao_kupper"},
    "rated": SFT | {"rating"},
    "weights_of_heads": SFT | {"pro_orchestrator", "rating"},
    "rated_prompts": {"pro_orchestrator", "rating"},
    "steps": {"process_reward"},
    **{
        "list": LISTS,
        "tree": {*LISTS, "plackett_luce", "pro_ranking", "tpo_tree"},
        "items": {"irpo_ranking"},
        "prompt": NONE,
    },
    "tagged": {"token_classification"},
    "tagged_text": SFT | {"token_classification"},
    "query_positive": {"info_nce"},
    "query_documents": set(RETRIEVAL),
    **dict.fromkeys(("alpaca", "messages", "sharegpt", "text", "tokens"), SFT),
    **dict.fromkeys(("prompt_completion", "prompt_completion_chat"), SFT),
}


def test_which_methods_of_the_catalogue_an_example_file_trains(files):
    every = {name for use in uses() for name in use.methods}

    def why_not(path):
        return lacking(inspect(path, samples=0, uses=uses()))

    for name, own in OF_THEIR_OWN.items():
        values = {k: v for k, v in OF_VALUES.items() if k in own}
        values |= {"mcts_dpo": "smoothing"} if name == "spans" else {}  # which has the spans that others lack first
        assert why_not(files / f"{name}.jsonl") == {k: v for k, v in BEYOND_PAIRS.items() if k not in own} | values
    for name, trained in OTHERS.items():
        assert every - set(why_not(files / f"{name}.jsonl")) == trained, name
    scores = why_not(files / "mean_scores.jsonl")
    assert scores == {k: v for k, v in BEYOND_PAIRS.items() if k not in ("gpo", "modpo")}
    two_prompts = why_not(files / "two_prompt.jsonl")
    assert two_prompts == BEYOND_PAIRS | dict.fromkeys(UNPAIRED, "completion")
    assert {path.stem for path in files.glob("*.jsonl")} == {*OF_THEIR_OWN, *OTHERS, "two_prompt", "mean_scores"}
    first = why_not(files / "prompt.jsonl")
    for name, column in {"dpo": "chosen", "kto": "completion", "lipo": "responses", "tpo_tree": "steps"}.items():
        assert first[name] == column
