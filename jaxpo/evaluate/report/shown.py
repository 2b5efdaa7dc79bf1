"""Questions about images, with the pictures and what was said to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from jaxpo.evaluate.report.page import section
from jaxpo.evaluate.report.read import RunData
from jaxpo.evaluate.visual_questions import SHOWN

DATA = "data:image/png;base64,"


def shown(run: RunData) -> Iterator[str]:
    """A section for each file of questions, of each stage."""
    for found in run.shown:
        cards = "".join(_card(each) for each in found.get(SHOWN, ()))
        title = f"{found.get('name', 'questions')} after {found.get('stage', '')}"
        note = "Held-out questions, evenly spaced: what was asked, what was said, and the answer where that was wrong."
        yield section(title, f'<div class="shown">{cards}</div>' if cards else "", note)


def _card(each: Mapping[str, Any]) -> str:
    image = str(each.get("image", ""))
    # Nothing but a picture of our own may stand in the page.
    drawn = f'<img alt="" src="{escape(image)}">' if image.startswith(DATA) else ""
    right = bool(each.get("right"))
    said = f'<b class="{"right" if right else "wrong"}">{escape(str(each.get("said", ""))) or "–"}</b>'
    wanted = "" if right else f"<small>{escape(str(each.get('answer', '')))}</small>"
    return f'<div class="card">{drawn}<p class="note">{escape(str(each.get("question", "")))}</p>{said} {wanted}</div>'
