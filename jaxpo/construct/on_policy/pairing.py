"""Preference data as in the LFM2 report: on-policy samples and given answers, judged; the best against the worst.

Reference: LFM2 Technical Report, preference optimisation, data: 5 samples per prompt from the SFT model with the given
answers (one of instruction data, two of preference data), a jury's scores, best = chosen, worst = rejected, the chosen
answer of instruction data refined by CLAIR, then score filters and removal of over-long pairs. Judges, thresholds and
tie rule are unpublished: here they are options.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from jaxpo.construct.on_policy.best_worst import Candidate, best_and_worst, without_repeats
from jaxpo.construct.on_policy.revision import refined
from jaxpo.construct.on_policy.samples import Sample, draw_samples
from jaxpo.construct.on_policy.workshop import Pair, Workshop, item_of, judged
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges.base import Judge
from jaxpo.judges.questions import Question, read_questions
from jaxpo.judges.refine import Refiner


def make_pairs(rows: Sequence[Row], judge: Judge, refiner: Refiner | None, shop: Workshop) -> Iterator[dict[str, Any]]:
    """Rows `prompt, chosen, rejected, scores, margin, chosen_from, rejected_from`, in the order of the rows.

    Raises:
      ConfigError: options out of range, a judge or refiner that cannot work.
      DataError: a row that cannot be used.
      RunError: a judge or refiner that fails all the time.
    """
    if problems := shop.options.problems():
        raise ConfigError(problems)
    questions = read_questions(rows)
    judge.check([q.row for q in questions])
    for member in judge.members():
        member.open(shop.networks)  # refuses a network that is missing, before anything is drawn
    if refiner is not None:
        refiner.check()
    candidates = _candidates(questions, shop)
    scores = judged(judge, [item_of(q, c.text) for q, cs in candidates for c in cs], shop, "score")
    picked = [p for q, cs in candidates if (p := _pick(q, cs, scores, shop)) is not None]
    if refiner is not None:
        picked = refined(picked, judge, refiner, shop)
    yield from _filtered(picked, shop)


def _candidates(questions: Sequence[Question], shop: Workshop) -> list[tuple[Question, list[Candidate]]]:
    """Given answers and samples, each text once; questions that cannot be sampled are gone."""
    options, counts = shop.options, shop.counts
    drawn: dict[int, list[Sample]] = {q.number: [] for q in questions}
    if options.samples:
        drawn = draw_samples(
            questions,
            shop.networks("model"),
            shop.folder,
            n=options.samples,
            sampler=options.sampler,
            max_new_tokens=options.max_new_tokens,
            seed=shop.seed,
            max_rows=options.max_rows,
            counts=counts,
            say=shop.say,
            check=shop.check,
        )
    found = []
    for q in questions:
        if q.number in drawn:
            samples = list(_usable(drawn[q.number], options.keep_unfinished, counts))
            given = [Candidate(text, origin) for origin, text in q.given.items()] if options.given_answers else []
            every = [*given, *samples]
            kept = without_repeats(every)
            counts["candidates_repeated"] += len(every) - len(kept)
            counts["candidates"] += len(kept)
            found.append((q, kept))
    return found


def _usable(samples: Sequence[Sample], keep_unfinished: bool, counts: Counter[str]) -> Iterator[Candidate]:
    for number, sample in enumerate(samples):
        if not sample.text.strip():
            counts["samples_empty"] += 1
        elif not sample.finished and not keep_unfinished:
            counts["samples_unfinished"] += 1
        else:
            yield Candidate(sample.text, f"sample {number}")


def _pick(q: Question, candidates: list[Candidate], scores: dict[str, float], shop: Workshop) -> Pair | None:
    keys = [item_of(q, c.text).key(None) for c in candidates]
    if any(key not in scores for key in keys):
        shop.counts["rows_left_out_judge_failed"] += 1
        return None
    if len(candidates) < 2:
        shop.counts["rows_left_out_one_candidate"] += 1
        return None
    values = [scores[key] for key in keys]
    if shop.options.ties == "likely":
        candidates = _with_logps(q, candidates, shop)
    found = best_and_worst(candidates, values, shop.options.ties)
    if found is None:
        shop.counts["rows_left_out_equal_scores"] += 1
        return None
    best, worst = found
    return Pair(q, candidates[best], candidates[worst], (values[best], values[worst]))


def _with_logps(q: Question, candidates: Sequence[Candidate], shop: Workshop) -> list[Candidate]:
    network, texts = shop.networks("model"), [c.text for c in candidates]
    prompts = [q.prompt] * len(texts)
    means = network.logps(prompts, texts) / network.token_counts(prompts, texts)
    return [replace(c, logp=float(mean)) for c, mean in zip(candidates, means, strict=True)]


def _filtered(pairs: Sequence[Pair], shop: Workshop) -> Iterator[dict[str, Any]]:
    lengths = _lengths(pairs, shop)
    for pair, length in zip(pairs, lengths, strict=True):
        if shop.options.min_score is not None and pair.scores[0] < shop.options.min_score:
            shop.counts["rows_left_out_min_score"] += 1
        elif pair.margin < shop.options.min_margin:
            shop.counts["rows_left_out_min_margin"] += 1
        elif length > shop.max_length:
            shop.counts["rows_left_out_over_long"] += 1
        elif pair.chosen.text.strip() == pair.rejected.text.strip():
            shop.counts["rows_left_out_refined_into_rejected"] += 1
        else:
            shop.counts[f"chosen_{_source(pair.chosen)}"] += 1
            shop.counts[f"rejected_{_source(pair.rejected)}"] += 1
            yield {
                "prompt": pair.question.prompt,
                "chosen": pair.question.as_written(pair.chosen.text),
                "rejected": pair.question.as_written(pair.rejected.text),
                "scores": list(pair.scores),
                "margin": pair.margin,
                "chosen_from": pair.chosen.origin,
                "rejected_from": pair.rejected.origin,
                "source": f"{pair.question.row.file.name}:{pair.question.row.number}",
            }


def _source(candidate: Candidate) -> str:
    return "sampled" if candidate.sampled else "given"


def _lengths(pairs: Sequence[Pair], shop: Workshop) -> list[int]:
    """Tokens of prompt and the longer answer."""
    if not pairs:
        return []
    network, prompts = shop.networks("model"), [p.question.prompt for p in pairs]
    sides = [[getattr(p, side).text for p in pairs] for side in ("chosen", "rejected")]
    return [int(max(n)) for n in zip(*(network.lengths(prompts, texts) for texts in sides), strict=True)]
