"""The chosen answers of instruction data, minimally revised and judged again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxpo.construct.on_policy.best_worst import Candidate
from jaxpo.construct.on_policy.workshop import Pair, Workshop, item_of, judged
from jaxpo.judges.asking import Item
from jaxpo.judges.base import Judge
from jaxpo.judges.ledger import Ledger
from jaxpo.judges.refine import Refiner


def refined(pairs: Sequence[Pair], judge: Judge, refiner: Refiner, shop: Workshop) -> list[Pair]:
    """The chosen answers of instruction data revised; pairs whose revision failed are left out."""
    todo = {item.key(None): item for p in pairs if "completion" in p.question.given for item in [_chosen(p)]}
    ledger = Ledger(shop.folder, f"refined-{refiner.NAME}", refiner.identity())
    texts = shop.ask(todo, refiner.open(), ledger, "refinement", refiner.BATCH).values
    revised = [(p, texts.get(_chosen(p).key(None))) for p in pairs]
    again = [item_of(p.question, text) for p, text in revised if text and text.strip() != p.chosen.text.strip()]
    scores = judged(judge, again, shop, "score of refined") if shop.options.rescore else {}
    every = (_revise(p, text, scores, shop) for p, text in revised)
    return [p for p in every if p is not None]


def _revise(pair: Pair, text: str | None, scores: dict[str, float], shop: Workshop) -> Pair | None:
    counts = shop.counts
    if "completion" not in pair.question.given:
        return pair
    if text is None:
        counts["rows_left_out_refinement_failed"] += 1
        return None
    if text.strip() == pair.chosen.text.strip():
        counts["refinements_unchanged"] += 1
        return pair
    score = pair.scores[0]
    if shop.options.rescore:
        found = scores.get(item_of(pair.question, text).key(None))
        if found is None:
            counts["rows_left_out_judge_failed"] += 1
            return None
        if found < score:
            counts["refinements_worse"] += 1
            return pair
        score = found
    counts["refinements_used"] += 1
    return replace(pair, chosen=Candidate(text, f"{pair.chosen.origin}, refined"), scores=(score, pair.scores[1]))


def _chosen(pair: Pair) -> Item:
    return item_of(pair.question, pair.chosen.text)
