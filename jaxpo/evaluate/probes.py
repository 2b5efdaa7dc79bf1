"""What a run measures on held-out files, on its initial model and after every stage: values that hold settings.

Each has `measure(context) -> {name: Measurement}`; the run writes the results to `summary.json`. Imports no jax:
configurations hold probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jaxpo.config.places import OtherFile
from jaxpo.evaluate.byte_ngram import ByteNgram
from jaxpo.evaluate.compression import xz_bits_per_byte, xz_primed_bits_per_byte
from jaxpo.evaluate.intervals import Measurement, mean, ratio, share
from jaxpo.evaluate.perplexity import (
    answer_loss,
    bits_per_byte,
    encode_records,
    read_records,
    read_texts,
    shuffle_prompts,
)
from jaxpo.evaluate.ranking import (
    PairScores,
    ranking_accuracy,
    score_pairs,
    shorter_wins,
    without_prompts,
)
from jaxpo.evaluate.tasks.files import spaced

if TYPE_CHECKING:
    from jaxpo.evaluate.context import ProbeContext

INITIAL = "initial"
Measured = dict[str, Measurement]


class Probe(Protocol):
    """Anything that measures a model."""

    def measure(self, context: ProbeContext) -> Measured:
        """Name -> value with n and interval; names are unique within a run."""
        ...


@dataclass(frozen=True)
class BitsPerByte:
    """Bits per byte of held-out text; see `perplexity.bits_per_byte` for how documents are cut."""

    files: tuple[OtherFile, ...]
    max_length: int = 256

    def measure(self, context: ProbeContext) -> Measured:
        texts = read_texts(context.files(self.files))
        return {"bits_per_byte": bits_per_byte(context.logps, context.tokenizer, texts, self.max_length)}


@dataclass(frozen=True)
class Baselines:
    """What needs no network: `xz -9e` alone and primed with the training text, and a byte 4-gram (Witten-Bell).

    Measured once, with the initial model.
    """

    train: tuple[OtherFile, ...]
    heldout: tuple[OtherFile, ...]
    order: int = 4

    def measure(self, context: ProbeContext) -> Measured:
        if context.stage != INITIAL:
            return {}
        heldout = [text.encode() for text in read_texts(context.files(self.heldout))]
        train = [text.encode() for text in read_texts(context.files(self.train), "train")]
        model = ByteNgram.fit(train, self.order)
        alone, primed = xz_bits_per_byte(b"".join(heldout)), xz_primed_bits_per_byte(b"".join(heldout), b"".join(train))
        return {
            "xz_bits_per_byte": Measurement(alone, len(heldout)),
            "xz_primed_bits_per_byte": Measurement(primed, len(heldout)),
            f"byte_{self.order}gram_bits_per_byte": ratio([model.bits(d) for d in heldout], [len(d) for d in heldout]),
        }


@dataclass(frozen=True)
class SFTLoss:
    """Loss per supervised token of held-out answers, to their own questions and to shuffled ones."""

    files: tuple[OtherFile, ...]
    max_length: int = 256

    def measure(self, context: ProbeContext) -> Measured:
        records = read_records(context.files(self.files), "prompt_completion")

        def loss(chosen: list[Any]) -> Measurement:
            return answer_loss(context.logps, encode_records(chosen, context.tokenizer, self.max_length))

        return {"sft_loss": loss(records), "sft_loss_shuffled_questions": loss(shuffle_prompts(records))}


@dataclass(frozen=True)
class RankingAccuracy:
    """Share of held-out pairs whose chosen answer has the larger log-prob per token.

    Also: the same without the prompt; the rule 'the shorter wins'; and, after a stage that started from another model,
    how far the stage moved the log-probs per token of chosen and rejected answers.

    Attributes:
      name: prefix of the results.
      controls: whether to measure more than the accuracy itself.
      limit: use at most this many pairs, evenly spaced over the files.
    """

    files: tuple[OtherFile, ...]
    name: str = "ranking"
    max_length: int = 256
    controls: bool = True
    limit: int | None = None

    def measure(self, context: ProbeContext) -> Measured:
        records = spaced(read_records(context.files(self.files), "preference"), self.limit)
        examples = encode_records(records, context.tokenizer, self.max_length)
        scores = score_pairs(context.logps, examples)
        results = {f"{self.name}_accuracy": ranking_accuracy(scores)}
        if not self.controls:
            return results
        bare = encode_records(without_prompts(records), context.tokenizer, self.max_length)
        results[f"{self.name}_accuracy_no_prompt"] = ranking_accuracy(score_pairs(context.logps, bare))
        results[f"{self.name}_accuracy_shorter_wins"] = shorter_wins(scores)
        if context.before is not None:
            before = score_pairs(lambda segments: context.logps(segments, context.before), examples)
            results |= self._changes(before, scores)
        return results

    def _changes(self, before: PairScores, after: PairScores) -> Measured:
        return {
            f"{self.name}_change_chosen_logp": mean(after.mean_chosen - before.mean_chosen),
            f"{self.name}_change_rejected_logp": mean(after.mean_rejected - before.mean_rejected),
        }


@dataclass(frozen=True)
class EndsByItself:
    """Share of greedy answers to held-out questions that end within `max_new_tokens`, and how long they are.

    Attributes:
      prompts: how many questions, evenly spaced over the file.
    """

    files: tuple[OtherFile, ...]
    prompts: int = 64
    max_new_tokens: int = 96

    def measure(self, context: ProbeContext) -> Measured:
        from jaxpo.sampling.prompts import prompt_of

        records = spaced(read_records(context.files(self.files), "prompt_completion"), self.prompts)
        answers = context.subject.greedy([prompt_of(record) for record in records], self.max_new_tokens)
        ended = [answer.reason != "length" for answer in answers]
        return {
            "ends_by_itself": share(sum(ended), len(ended)),
            "answer_tokens": mean([float(len(answer.tokens)) for answer in answers]),
        }
