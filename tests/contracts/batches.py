"""Hand-made batches for the contract tests: the same examples packed densely or one segment per row.

Independent of `jaxpo.data.plan` on purpose: the contracts must hold for any layout that the Batch docstring allows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from jaxpo.data.batch import Batch

VOCAB = 48
LONGEST = 12


@dataclass
class Example:
    """Segments as (tokens, number of prompt tokens), what part each plays, and per-example columns."""

    segments: list[tuple[np.ndarray, int]]
    roles: dict[str, int | list[int]]
    columns: dict[str, object] = field(default_factory=dict)


def segment(rng: np.random.Generator, prompt: np.ndarray, response: int) -> tuple[np.ndarray, int]:
    tokens = np.concatenate([prompt, rng.integers(3, VOCAB, response)])
    return tokens.astype(np.int32), len(prompt)


def make_examples(kind: str, count: int, seed: int = 0) -> list[Example]:
    """Ragged random examples: "text", "completion" (with labels), "pair" (with annotators), "list", "two_prompts"."""
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(count):
        prompt = rng.integers(3, VOCAB, rng.integers(2, 5))
        length = lambda: int(rng.integers(1, LONGEST - 5))  # noqa: E731
        if kind == "text":
            examples.append(Example([segment(rng, prompt[:1], length() + 2)], {"text": 0}))
        elif kind == "completion":
            columns = {"label": float(i % 3 != 0)}
            examples.append(Example([segment(rng, prompt, length())], {"completion": 0}, columns))
        elif kind == "list":
            segments = [segment(rng, prompt, length()) for _ in range(4)]
            present = [0, 1, 2, 3 if i % 2 else -1]
            scores = np.round(rng.random(4), 1)
            columns = {"scores": np.where(np.asarray(present) >= 0, scores, 0.0).astype(np.float32)}
            examples.append(Example(segments[: 4 if i % 2 else 3], {"candidate": present}, columns))
        else:
            other = rng.integers(3, VOCAB, rng.integers(2, 5)) if kind == "two_prompts" else prompt
            segments = [segment(rng, prompt, length()), segment(rng, other, length())]
            columns = {"annotator": i % 3, "margin": float(np.round(rng.normal(), 2))}
            examples.append(Example(segments, {"chosen": 0, "rejected": 1}, columns))
    return examples


def layout(examples: list[Example], *, blocks: int, block_rows: int, row_length: int, slots: int) -> Batch:
    """Place examples round-robin into blocks, each segment in the first row of its block with room for it."""
    per_block = -(-len(examples) // blocks)
    rows, n = blocks * block_rows, blocks * per_block
    tokens = np.full((rows, row_length), 1, np.int32)  # padding holds a real id: nothing may depend on it
    segment_ids, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    completion, prompts = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    roles = {k: np.full((n, *np.shape(v)), -1, np.int32) for k, v in examples[0].roles.items()}
    columns = {k: np.zeros((n, *np.shape(v)), np.asarray(v).dtype) for k, v in examples[0].columns.items()}
    columns = {k: v.astype(np.int32 if v.dtype.kind == "i" else np.float32) for k, v in columns.items()}
    example_id = np.full(n, -1, np.int32)
    used = np.zeros((rows, 2), int)  # next free position, segments so far
    for i, example in enumerate(examples):
        block, at = i % blocks, (i % blocks) * per_block + i // blocks
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
        per_token={},
        per_segment={},
        per_example=as_jax(columns),
        roles=as_jax(roles),
        example_id=jnp.asarray(example_id),
        block_rows=block_rows,
        slots=slots,
        max_segment=LONGEST,
    )


def packed(examples: list[Example], blocks: int = 8) -> Batch:
    """Several segments per row, examples spread over the rows of their block."""
    per_block = -(-len(examples) // blocks)
    widest = max(len(e.segments) for e in examples)
    return layout(examples, blocks=blocks, block_rows=2, row_length=LONGEST * per_block * widest // 2 + 6, slots=8)


def unpacked(examples: list[Example]) -> Batch:
    """One segment per row, one example per block."""
    widest = max(len(e.segments) for e in examples)
    return layout(examples, blocks=len(examples), block_rows=widest, row_length=LONGEST, slots=1)
