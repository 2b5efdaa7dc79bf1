"""Questions about images, with the pictures and what was said to them, and grids of what a model draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from jaxpo.evaluate.drawn import DRAWN
from jaxpo.evaluate.report.page import section
from jaxpo.evaluate.report.read import RunData
from jaxpo.evaluate.visual_questions import SHOWN

DATA = "data:image/png;base64,"


def shown(run: RunData) -> Iterator[str]:
    """A section for each file of questions, and for each grid, of each stage."""
    for found in run.shown:
        if DRAWN in found:
            yield _grid(found)
            continue
        cards = "".join(_card(each) for each in found.get(SHOWN, ()))
        title = f"{found.get('name', 'questions')} after {found.get('stage', '')}"
        note = "Held-out questions, evenly spaced: what was asked, what was said, and the answer where that was wrong."
        yield section(title, f'<div class="shown">{cards}</div>' if cards else "", note)


def _grid(found: Mapping[str, Any]) -> str:
    """Rows of images, each below the name of who drew them."""
    rows = "".join(
        f'<p class="note">{escape(str(row.get("label", "")))}</p>{_picture(row)}' for row in found.get(DRAWN) or ()
    )
    captions = " | ".join(map(str, found.get("captions") or ()))
    note = f"The images of a column are of one caption and from one noise: {captions}"
    title = f"{found.get('name', 'samples')} after {found.get('stage', '')}"
    return section(title, f'<div class="card drawn">{rows}</div>', note)


def _picture(each: Mapping[str, Any]) -> str:
    """Nothing but a picture of our own may stand in the page."""
    image = str(each.get("image", ""))
    return f'<img alt="" src="{escape(image)}">' if image.startswith(DATA) else ""


def _card(each: Mapping[str, Any]) -> str:
    drawn = _picture(each)
    right = bool(each.get("right"))
    said = f'<b class="{"right" if right else "wrong"}">{escape(str(each.get("said", ""))) or "–"}</b>'
    wanted = "" if right else f"<small>{escape(str(each.get('answer', '')))}</small>"
    return f'<div class="card">{drawn}<p class="note">{escape(str(each.get("question", "")))}</p>{said} {wanted}</div>'
