"""How a user's earlier choices and a question stand in one prompt."""

from __future__ import annotations

from collections.abc import Sequence

from jaxpo.construct.rationales import plain
from jaxpo.data.rows.texts import Text
from jaxpo.judges.endpoint import plain as with_roles

QUESTION, PREFERRED, DISPREFERRED = "## Question", "## Preferred Response", "## Dispreferred Response"
DESCRIPTION = "## User Description"
TASK = "# Task\nAnswer the next question as the user of the examples would prefer."

Shot = tuple[Text, Text, Text]
"""Prompt, preferred and dispreferred response."""


def few_shot(shots: Sequence[Shot], question: Text) -> str:
    """N numbered examples, then the question; what is to be written begins with `PREFERRED`."""
    examples = [
        f"# Example {number}\n{QUESTION}\n{asked(prompt)}\n\n{PREFERRED}\n{said(chosen)}\n\n"
        f"{DISPREFERRED}\n{said(rejected)}\n\n"
        for number, (prompt, chosen, rejected) in enumerate(shots, start=1)
    ]
    return f"{''.join(examples)}{TASK}\n\n{QUESTION}\n{asked(question)}\n\n"


def headed(heading: str, text: Text) -> str:
    """A text under its heading."""
    return f"{heading}\n{said(text)}"


def asked(prompt: Text) -> str:
    """A prompt as text: of a conversation of one turn its content, of a longer one with the roles."""
    single = isinstance(prompt, str) or len(prompt) == 1
    return (plain(prompt) if single else with_roles(prompt)).strip()


def said(text: Text) -> str:
    """A response as text."""
    return plain(text).strip()


def as_prompt(text: str, like: Text) -> Text:
    """A text in the form of another prompt: a string, or a user's turn."""
    return text if isinstance(like, str) else [{"role": "user", "content": text}]


def as_answer(text: str, like: Text) -> Text:
    """The same of an answer: a string, or an assistant's turn."""
    return text if isinstance(like, str) else [{"role": "assistant", "content": text}]


def described(prompt: Text, description: str) -> Text:
    """A few-shot prompt that says who the user is, too."""
    text = f"{asked(prompt)}\n\n{headed(DESCRIPTION, description)}\n\n"
    return as_prompt(text, prompt)
