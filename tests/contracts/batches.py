"""Hand-made batches for the contract tests: the same examples packed densely or one segment per row.

Independent of `jaxpo.data.packing.plan` on purpose: the contracts must hold for any layout that the Batch docstring
allows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from jaxpo.data.packing.batch import Batch

VOCAB = 48
LONGEST = 12


@dataclass
class Example:
    """Segments as (tokens, number of prompt tokens), what part each plays, and per-example columns.

    `marks` are the most that each per-token column reaches; its numbers are drawn from the tokens themselves, as are
    those of `floats`, per-token columns of real numbers.
    """

    segments: list[tuple[np.ndarray, int]]
    roles: dict[str, int | list[int]]
    columns: dict[str, object] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)
    floats: tuple[str, ...] = ()


def segment(rng: np.random.Generator, prompt: np.ndarray, response: int) -> tuple[np.ndarray, int]:
    tokens = np.concatenate([prompt, rng.integers(3, VOCAB, response)])
    return tokens.astype(np.int32), len(prompt)


PAIR_MARKS = {"phrase": 2, "keyword": 3, "step": 3, "part": 8}
OTHER_ROLES = (
    "gold", "rationale", "inter_chosen", "inter_rejected", "intra_chosen_plus", "intra_chosen_minus",
    "intra_rejected_plus", "intra_rejected_minus",
)  # fmt: skip


def make_examples(kind: str, count: int, seed: int = 0) -> list[Example]:
    """Ragged random examples; see `KINDS`."""
    rng = np.random.default_rng(seed)
    return [KINDS[kind](rng, i) for i in range(count)]


def some_prompt(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(3, VOCAB, rng.integers(2, 5))


def some_length(rng: np.random.Generator) -> int:
    return int(rng.integers(1, LONGEST - 5))


def text(rng: np.random.Generator, i: int) -> Example:
    return Example([segment(rng, some_prompt(rng)[:1], some_length(rng) + 2)], {"text": 0})


def completion(rng: np.random.Generator, i: int) -> Example:
    prompt = some_prompt(rng)
    segments = [segment(rng, prompt, some_length(rng)) for _ in range(2)]
    columns = {"label": float(i % 3 != 0), "weight": float(0.5 + i % 2), "ratings": ratings(rng, i), "group": i % 2}
    return Example(segments, {"completion": 0, "kl": 1}, columns)


def mixture(rng: np.random.Generator, i: int) -> Example:
    """A prompt with the weights of two heads."""
    one = segment(rng, some_prompt(rng), some_length(rng))
    return Example(
        [one], {"completion": 0}, {"ratings": np.asarray([0.1 + 0.1 * (i % 8), 0.9 - 0.1 * (i % 8)], np.float32)}
    )


TRAINER = (
    "advantages", "sampling_logps", "old_logps", "ref_logps", "old_values", "returns",
    *(f"{name}:one" for name in ("advantages", "old_values", "returns")),
)  # fmt: skip


def rollout(rng: np.random.Generator, i: int) -> Example:
    one = segment(rng, some_prompt(rng), some_length(rng) + 1)
    columns = {
        "reward": float(i % 3), "reward:one": float(i % 3), "rewarded": float(i % 5 > 0), "group_std": float(i % 2),
        "finished": float(i % 4 > 0), "failed": float(i % 7 == 0), "answer_length": float(len(one[0]) - one[1]),
        "kl_coef": 0.1, "group": float(i // 4),
    }  # fmt: skip
    return Example([one], {"completion": 0}, columns, floats=TRAINER)


def ratings(rng: np.random.Generator, i: int) -> np.ndarray:
    """Two of a response, of which one may be missing."""
    found = np.round(rng.normal(2.0, 1.0, 2), 2).astype(np.float32)
    found[i % 2] = np.nan if i % 5 == 0 else found[i % 2]
    return found


def steps(rng: np.random.Generator, i: int) -> Example:
    """An answer of up to three steps, one of which nobody may have judged."""
    labels = np.asarray([1.0, float(i % 2), -1.0 if i % 4 == 0 else 0.5], np.float32)
    one = segment(rng, some_prompt(rng), some_length(rng) + 1)
    return Example([one], {"completion": 0}, {"labels": labels, "group": i % 2}, {"step_end": 3})


def tagged(rng: np.random.Generator, i: int) -> Example:
    """A text some of whose tokens are words of one of three classes."""
    one = segment(rng, some_prompt(rng)[:1], some_length(rng) + 2)
    return Example([one], {"completion": 0}, {"group": i % 2}, {"tag": 3})


def listed(rng: np.random.Generator, i: int) -> Example:
    prompt = some_prompt(rng)
    segments = [segment(rng, prompt, some_length(rng) + 1) for _ in range(4)]
    present = [0, 1, 2, 3 if i % 2 else -1]
    scores = np.round((rng.permutation(4) + rng.random(4)) / 5, 2)  # distinct, in [0, 1]
    columns = {"scores": np.where(np.asarray(present) >= 0, scores, 0.0).astype(np.float32), "group": i % 2}
    return Example(segments[: 4 if i % 2 else 3], {"candidate": present}, columns, {"step": 3})


def retrieval(rng: np.random.Generator, i: int) -> Example:
    """A query and up to four documents with a teacher's scores; some positions are no keys, some are not scored."""
    example = listed(rng, i)
    texts = [segment(rng, some_prompt(rng)[:0], some_length(rng) + 4) for _ in range(len(example.segments) + 1)]
    here = [k + 1 if k >= 0 else -1 for k in example.roles["candidate"]]
    columns = {"scores": example.columns["scores"], "document": np.asarray([10 * i + k for k in range(4)], np.int32)}
    return Example(texts, {"query": 0, "candidate": here}, columns, {"key": 1, "scored": 1})


def items(rng: np.random.Generator, i: int) -> Example:
    number = 4 if i % 2 else 3
    relevance = np.full(4, -1.0, np.float32)
    relevance[:number] = rng.permutation([2.0, 1.0, 0.0, 0.0][:number])
    one = segment(rng, some_prompt(rng)[:2], LONGEST - 4)
    return Example([one], {"items": 0}, {"relevance": relevance}, {"item": number})


def pair_columns(rng: np.random.Generator, i: int) -> dict[str, object]:
    return {
        "annotator": i % 3,
        "margin": float(np.round(rng.normal(), 2)),
        "votes": np.asarray([1 + i % 4, 1.0], np.float32),
        "rewards": np.round(rng.normal(size=(2, 2)), 2).astype(np.float32),
        "chosen_score": 1.0 + i % 3,
        "rejected_score": 0.5,
        "chosen_finished": float(i % 4 > 0),
        "rejected_finished": float(i % 5 > 0),
        "own_chosen": float(i % 3 > 0),
        "tie": i % 4 == 1,
        "smoothing": 0.1 * (i % 5),
        "group": i % 2,
        "user": i % 3,
        "responsibilities": np.asarray([0.25 + 0.5 * (i % 2), 0.75 - 0.5 * (i % 2)], np.float32),
    }


def pair(rng: np.random.Generator, i: int, *, prompts: int = 1) -> Example:
    prompt = some_prompt(rng)
    other = some_prompt(rng) if prompts == 2 else prompt
    segments = [segment(rng, prompt, some_length(rng)), segment(rng, other, some_length(rng))]
    return Example(segments, {"chosen": 0, "rejected": 1}, pair_columns(rng, i), PAIR_MARKS)


def two_prompts(rng: np.random.Generator, i: int) -> Example:
    return pair(rng, i, prompts=2)


def many_roles(rng: np.random.Generator, i: int) -> Example:
    """A pair with a gold response always, and the optional roles in two examples of three."""
    example = pair(rng, i)
    here = OTHER_ROLES if i % 3 else OTHER_ROLES[:1]
    for _ in here:
        example.segments.append(segment(rng, some_prompt(rng), some_length(rng)))
    example.roles |= {role: 2 + k if role in here else -1 for k, role in enumerate(OTHER_ROLES)}
    example.columns["inter_sign"] = float(1 - 2 * (i % 2))
    return example


def sampled(rng: np.random.Generator, i: int) -> Example:
    """A pair with up to four samples to its prompt."""
    example = pair(rng, i)
    prompt = example.segments[0][0][: example.segments[0][1]]
    here = (4, 0, 3)[i % 3]
    example.segments += [segment(rng, prompt, some_length(rng)) for _ in range(here)]
    example.roles |= {f"sample_{k}": 1 + k if k <= here else -1 for k in range(1, 5)}
    return example


KINDS = {
    "text": text,
    "completion": completion,
    "mixture": mixture,
    "rollout": rollout,
    "steps": steps,
    "tagged": tagged,
    "list": listed,
    "items": items,
    "retrieval": retrieval,
    "pair": pair,
    "two_prompts": two_prompts,
    "many_roles": many_roles,
    "sampled": sampled,
}


def mark_tokens(name: str, response: np.ndarray, most: int) -> np.ndarray:
    """Steps and items follow one another and cover the response; phrases and keywords lie here and there."""
    if name == "step_end":
        steps = mark_tokens("step", response, most)
        return np.where(steps != np.append(steps[1:], 0), steps, 0)
    if name in ("step", "item"):
        return 1 + np.arange(len(response)) * min(most, len(response)) // len(response)
    if name in ("key", "scored"):
        return (response % (5 if name == "key" else 4) > 0).astype(np.int32)
    return response % (most + 1)


def real_numbers(name: str, response: np.ndarray) -> np.ndarray:
    """Advantages of both signs; log-probs near those of a small model."""
    return (
        np.sin(response + len(name))
        if name in ("advantages", "returns", "old_values")
        else -3.5 - 0.01 * (response % (5 + len(name)))
    )


def layout(
    examples: list[Example], *, blocks: int, block_rows: int, row_length: int, slots: int, filled: int | None = None
) -> Batch:
    """Place examples round-robin into the first `filled` blocks (None = all), each segment where there is room."""
    filled = filled or blocks
    per_block = -(-len(examples) // filled)
    rows, n = blocks * block_rows, blocks * per_block
    tokens = np.full((rows, row_length), 1, np.int32)  # padding holds a real id: nothing may depend on it
    segment_ids, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    completion, prompts = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    roles = {k: np.full((n, *np.shape(v)), -1, np.int32) for k, v in examples[0].roles.items()}
    columns = {k: np.zeros((n, *np.shape(v)), np.asarray(v).dtype) for k, v in examples[0].columns.items()}
    kept = {"i": np.int32, "b": np.bool_}
    columns = {k: v.astype(kept.get(v.dtype.kind, np.float32)) for k, v in columns.items()}
    marks = {name: np.zeros(tokens.shape, np.int32) for name in examples[0].marks}
    marks |= {name: np.zeros(tokens.shape, np.float32) for name in examples[0].floats}
    example_id = np.full(n, -1, np.int32)
    used = np.zeros((rows, 2), int)  # next free position, segments so far
    for i, example in enumerate(examples):
        block, at = i % filled, (i % filled) * per_block + i // filled
        where = []
        for ids, prompt in example.segments:
            row = next(
                r
                for r in range(block * block_rows, (block + 1) * block_rows)
                if used[r, 0] + len(ids) <= row_length and used[r, 1] < slots
            )
            start, slot = used[row]
            span = slice(start, start + len(ids))
            tokens[row, span], segment_ids[row, span] = ids, slot + 1
            positions[row, span] = np.arange(len(ids))
            completion[row, start + max(prompt, 1) : start + len(ids)] = True
            prompts[row, start + 1 : start + prompt] = True
            for name, most in example.marks.items():
                marks[name][row, start + prompt : start + len(ids)] = mark_tokens(name, ids[prompt:], most)
            for name in example.floats:
                marks[name][row, start + prompt : start + len(ids)] = real_numbers(name, ids[prompt:])
            where.append((row - block * block_rows) * slots + slot)
            used[row] += (len(ids), 1)
        for name, index in example.roles.items():
            roles[name][at] = np.where(np.asarray(index) >= 0, np.asarray([*where, -1])[index], -1)
        for name, value in example.columns.items():
            columns[name][at] = value
        example_id[at] = i
    as_jax = lambda tree: {k: jnp.asarray(v) for k, v in tree.items()}  # noqa: E731
    return Batch(
        tokens=jnp.asarray(tokens),
        segment_ids=jnp.asarray(segment_ids),
        positions=jnp.asarray(positions),
        masks=as_jax({"completion": completion, "prompt": prompts}),
        per_token=as_jax(marks),
        per_segment={},
        per_example=as_jax(columns),
        roles=as_jax(roles),
        example_id=jnp.asarray(example_id),
        block_rows=block_rows,
        slots=slots,
        max_segment=LONGEST,
    )


def packed(examples: list[Example], blocks: int = 8, filled: int | None = None, block_rows: int = 2) -> Batch:
    """Several segments per row, examples spread over the rows of their block; blocks after the first `filled` empty."""
    per_block = -(-len(examples) // (filled or blocks))
    widest = max(len(e.segments) for e in examples)
    each = -(-per_block * widest // block_rows)
    shape = {"block_rows": block_rows, "row_length": LONGEST * each + 6, "slots": max(8, each)}
    return layout(examples, blocks=blocks, filled=filled, **shape)


def unpacked(examples: list[Example]) -> Batch:
    """One segment per row, one example per block."""
    widest = max(len(e.segments) for e in examples)
    return layout(examples, blocks=len(examples), block_rows=widest, row_length=LONGEST, slots=1)
