"""The texts of a row, by dataset type: which are given, which are learnt, and under which role."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.marks import Mark, consecutive, endings
from jaxpo.data.rows.messages import messages
from jaxpo.data.rows.retrieval import check_scores, texts_of_row
from jaxpo.data.rows.tagged import Word, tagged_text
from jaxpo.data.rows.texts import Text, answer, string, text_of_column, text_or_messages
from jaxpo.data.rows.tokenised import Tokens, tokens_of
from jaxpo.data.rows.turns import Malformed, is_rendered, turns_of
from jaxpo.errors import DataError


@dataclass(frozen=True)
class Side:
    """One text of an example: what is given and what is to be learnt. `prompt` None = plain text or a conversation.

    Attributes:
      marks: stretches of the completion (of its only message, in a conversation) that carry a number.
      tokens: in place of the texts, in rows that were tokenised before.
      whole: there is a prompt alone, and it is itself what a row says something about.
      words: those of the completion that have classes, or are to be given some.
    """

    role: str
    prompt: Text | None
    completion: Text
    marks: tuple[Mark, ...] = ()
    tokens: Tokens | None = None
    whole: bool = False
    words: tuple[Word, ...] = ()


def side_of(
    row: Row, role: str, prompt: Text | None, completion: Text, column: str, marks: tuple[Mark, ...] = ()
) -> Side:
    """Bring both texts to one form: an answer string under a conversational prompt is an assistant turn."""
    if isinstance(prompt, list) and isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}] if completion else []
    if isinstance(prompt, str) and isinstance(completion, list):
        raise row.error(
            f"prompt is a string but {column} is a list of messages.", field=column, remedy="Give both the same form."
        )
    if isinstance(completion, list) and completion and completion[0]["role"] != "assistant":
        raise row.error(
            f"{column} starts with a turn of {completion[0]['role']!r}.",
            field=column,
            remedy="It must start with the assistant's turn; what comes before belongs to the prompt.",
        )
    return Side(role, prompt, completion, marks)


def text_sides(row: Row) -> tuple[Side, ...]:
    return (Side("text", None, string(row, "text", row.data["text"], empty_ok=False)),)


def message_sides(row: Row) -> tuple[Side, ...]:
    return (Side("completion", None, messages(row, "messages", row.data["messages"])),)


def token_sides(row: Row) -> tuple[Side, ...]:
    return (Side("completion", None, "", tokens=tokens_of(row)),)


def prompt_sides(row: Row) -> tuple[Side, ...]:
    prompt = text_of_column(row, "prompt")
    return (Side("prompt", prompt, [] if isinstance(prompt, list) else ""),)


def completion_sides(row: Row) -> tuple[Side, ...]:
    return (side_of(row, "completion", text_of_column(row, "prompt"), answer(row, "completion"), "completion"),)


def rated_sides(row: Row) -> tuple[Side, ...]:
    """An answer; or the prompt, in rows that rate prompts."""
    if "completion" in row.data:
        return completion_sides(row)
    prompt = text_of_column(row, "prompt")
    if not prompt:
        raise row.empty("the prompt is empty, and there is no completion.", field="prompt")
    return (Side("completion", prompt, [] if isinstance(prompt, list) else "", whole=True),)


def step_sides(row: Row) -> tuple[Side, ...]:
    """One answer: its steps, each followed by the separator (a line break unless the row has another)."""
    steps, labels = row.data["completions"], row.data["labels"]
    if not isinstance(steps, list) or not isinstance(labels, list):
        raise row.error("`completions` and `labels` must be lists.", field="completions")
    if not steps:
        raise row.empty("there is no step.", field="completions")
    if len(labels) != len(steps):
        raise row.error(
            f"{len(steps)} steps but {len(labels)} labels.", field="labels", remedy="Give one per step, or null."
        )
    separator = string(row, "separator", row.data.get("separator", "\n"), empty_ok=False)
    texts = [string(row, "completions", step, empty_ok=False) + separator for step in steps]
    marks = endings("step_end", texts)
    return (side_of(row, "completion", text_of_column(row, "prompt"), "".join(texts), "completions", marks),)


def pair_sides(row: Row) -> tuple[Side, ...]:
    chosen, rejected = answer(row, "chosen"), answer(row, "rejected")
    if chosen == rejected:
        raise row.error(
            "chosen == rejected: the pair says nothing.", field="rejected", remedy="Remove the row or correct it."
        )
    prompt = text_of_column(row, "prompt") if "prompt" in row.data else None
    whole = isinstance(chosen, list) if prompt else isinstance(chosen, str) and is_rendered(chosen)
    if prompt is None or (isinstance(prompt, str) and whole):
        given, (prompt, chosen, rejected) = prompt, _split_prompt(row, chosen, rejected)
        _check_repeated(row, given, prompt)
    return (side_of(row, "chosen", prompt, chosen, "chosen"), side_of(row, "rejected", prompt, rejected, "rejected"))


def triple_sides(row: Row) -> tuple[Side, ...]:
    pair = pair_sides(row)
    return (*pair, side_of(row, "gold", pair[0].prompt, answer(row, "gold"), "gold"))


def two_prompt_sides(row: Row) -> tuple[Side, ...]:
    given = {name: text_of_column(row, f"prompt_{name}") for name in ("chosen", "rejected")}
    sides = tuple(side_of(row, name, prompt, answer(row, name), name) for name, prompt in given.items())
    if sides[0].prompt == sides[1].prompt and sides[0].completion == sides[1].completion:
        raise row.error(
            "chosen == rejected under the same prompt.", field="rejected", remedy="Remove the row or correct it."
        )
    return sides


def list_sides(row: Row) -> tuple[Side, ...]:
    responses = _scored(row, "responses")
    prompt = text_of_column(row, "prompt")
    texts = [text_or_messages(row, "responses", response, empty_ok=True) for response in responses]
    return tuple(side_of(row, "candidate", prompt, text, "responses") for text in texts)


def tree_sides(row: Row) -> tuple[Side, ...]:
    """A response is the text of its steps, one after another; one without steps is absent, as an empty one is."""
    branches = _scored(row, "steps")
    prompt = text_of_column(row, "prompt")
    sides = []
    for k, steps in enumerate(branches):
        if not isinstance(steps, list):
            raise row.error(
                f"response {k} is {type(steps).__name__}, not a list of steps.",
                field="steps",
                remedy="Give one list of strings per response.",
            )
        texts = [string(row, "steps", step) for step in steps]
        if "" in texts:
            raise row.error(f"step {texts.index('')} of response {k} is empty.", field="steps", remedy="Remove it.")
        marks = consecutive("step", texts)
        sides.append(side_of(row, "candidate", prompt, "".join(texts), "steps", marks))
    return tuple(sides)


def _scored(row: Row, column: str) -> list[object]:
    """At least two responses, with one score each."""
    responses, scores = row.data[column], row.data["scores"]
    if not isinstance(responses, list) or not isinstance(scores, list):
        raise row.error(f"`{column}` and `scores` must be lists.", field=column)
    if len(responses) < 2:
        raise row.error(
            f"{len(responses)} response(s); a ranked list needs at least 2.",
            field=column,
            remedy="Remove the row, or use prompt + completion.",
        )
    if len(scores) != len(responses):
        raise row.error(
            f"{len(responses)} responses but {len(scores)} scores.", field="scores", remedy="Give one per response."
        )
    return responses


def item_sides(row: Row) -> tuple[Side, ...]:
    """One response that lists all items, joined by the separator (a line break unless the row has another)."""
    items, relevance = row.data["items"], row.data["relevance"]
    if not isinstance(items, list) or not isinstance(relevance, list):
        raise row.error("`items` and `relevance` must be lists.", field="items")
    if len(items) < 2:
        raise row.error(f"{len(items)} item(s); a ranking needs at least 2.", field="items", remedy="Remove the row.")
    if len(relevance) != len(items):
        raise row.error(
            f"{len(items)} items but {len(relevance)} grades of relevance.",
            field="relevance",
            remedy="Give one per item.",
        )
    separator = string(row, "separator", row.data.get("separator", "\n"), empty_ok=False)
    texts = [string(row, "items", item, empty_ok=False) for item in items]
    for k, text in enumerate(texts):
        if separator in text:
            raise row.error(
                f"item {k} contains the separator {separator!r}: the list could not be taken apart again.",
                field="items",
                remedy="Give the row another `separator`, or change the item.",
            )
    marks = consecutive("item", texts, separator)
    return (side_of(row, "items", text_of_column(row, "prompt"), separator.join(texts), "items", marks),)


def retrieval_sides(row: Row) -> tuple[Side, ...]:
    """A query, and its documents as candidates, the positive one first where there are no scores."""
    query, documents = texts_of_row(row)
    if "documents" in row.data:
        check_scores(row, documents)
    return (Side("query", None, query), *(Side("candidate", None, text) for text in documents))


def tagged_sides(row: Row) -> tuple[Side, ...]:
    """A text, and the words in it with their classes."""
    text, words = tagged_text(row)
    return (Side("completion", None, text, words=words),)


SIDES = {
    "tagged": tagged_sides,
    "tagged_text": tagged_sides,
    "query_documents": retrieval_sides,
    "query_positive": retrieval_sides,
    "text": text_sides,
    "messages": message_sides,
    "tokens": token_sides,
    "prompt": prompt_sides,
    "prompt_completion": completion_sides,
    "unpaired": completion_sides,
    "preference": pair_sides,
    "triple": triple_sides,
    "two_prompt": two_prompt_sides,
    "list": list_sides,
    "tree": tree_sides,
    "items": item_sides,
    "rated": rated_sides,
    "steps": step_sides,
}


def _split_prompt(row: Row, chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """The common start of both sides, cut between messages, or between words of strings."""
    if type(chosen) is not type(rejected):
        raise row.error("chosen and rejected have different forms.", field="rejected", remedy="Use one form for both.")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    cut = _border(chosen, rejected, shared)
    if cut == 0 or cut >= len(chosen) or cut >= len(rejected):
        raise _no_prompt(row, shared, {"chosen": len(chosen), "rejected": len(rejected)})
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _border(chosen: Text, rejected: Text, shared: int) -> int:
    """Where the prompt ends within what both sides share."""
    if isinstance(chosen, str):
        return _turn_start(chosen, shared) if is_rendered(chosen) else _word_start(chosen, shared)
    while shared > 0 and not _both_answer(chosen[shared:], rejected[shared:]):
        shared -= 1
    return shared


def _no_prompt(row: Row, shared: int, lengths: dict[str, int]) -> DataError:
    short, long = sorted(lengths, key=lambda name: lengths[name])
    what = "chosen and rejected share no start that could serve as one."
    if shared and shared == lengths[short]:
        what = f"all of {short} is the start of {long}: as the prompt it would leave no answer."
    return row.error(f"there is no `prompt`, and {what}", field="prompt", remedy="Add a prompt column.")


def _check_repeated(row: Row, given: Text | None, prompt: Text) -> None:
    """A string prompt beside whole conversations is one of their turns: else it would be dropped."""
    turns = [turn["content"] for turn in prompt if isinstance(turn, dict)]
    if given and isinstance(given, str) and not any(given.strip() in content for content in turns):
        raise row.error(
            "prompt is a string that chosen and rejected, which are messages, do not repeat.",
            field="prompt",
            remedy="Give the prompt as messages too, or remove it.",
        )


def _both_answer(chosen: Text, rejected: Text) -> bool:
    return all(isinstance(rest, list) and rest and rest[0]["role"] == "assistant" for rest in (chosen, rejected))


def _turn_start(text: str, shared: int) -> int:
    """The start of the last answer that begins within what is shared."""
    try:
        turns = turns_of(text)
    except Malformed:
        return 0
    return max((turn.body for turn in turns if turn.role == "assistant" and turn.body <= shared), default=0)


def _word_start(text: str, cut: int) -> int:
    """Step back so that a word and the space before it stay whole."""
    while cut > 0 and cut < len(text) and not text[cut].isspace() and not text[cut - 1].isspace():
        cut -= 1
    while cut > 0 and text[cut - 1] == " ":
        cut -= 1
    return cut
