"""How a valid file becomes a wrong one: bytes that changed anyhow, and JSON that is well formed and means nonsense."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

TOKENS = (
    b"\0",
    b"\xff\xff\xff\xff",
    b"\xed\xa0\x80",
    b"[" * 200,
    b'"',
    b"{",
    b"}",
    b",",
    b"1e400",
    b"../",
    b"\x80",
    b"\n",
)
DEEP = 5000
"""Levels of nesting: more than the interpreter's stack takes."""
ODD = (
    *("null", "true", "false", "0", "1", "-1", "2", "0.5", "1e400", "-1e400", "NaN", "1e-320", "9" * 5000),
    *("2147483648", "4294967296", "9223372036854775808", "1000000000", "-9223372036854775809"),
    *('""', '"a"', r'"\ud800"', r'"a\u0000b"', '"../../outside"', '"/etc/passwd"', '"' + "x" * 5000 + '"'),
    *("[]", "{}", "[[]]", "[null]", '[1, "a", {}]', '{"a": 1}', '{"a": {"a": []}}', "[" + "1," * 5000 + "1]"),
    *("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP),
)
"""JSON texts of values that nobody means."""
_MARK = "\ue000{}\ue001"


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """The bytes with a few of them changed, taken out, put in or cut off."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(("flip", "replace", "insert", "delete", "cut", "repeat")))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
        elif kind in ("replace", "insert"):
            new = draw(st.sampled_from(TOKENS) | st.binary(max_size=8))
            content = content[:at] + new + content[at + (len(new) if kind == "replace" else 0) :]
        elif kind == "delete":
            content = content[:at] + content[at + draw(st.integers(1, 40)) :]
        elif kind == "repeat":
            content = content[:at] + content[at : at + 64] * draw(st.integers(2, 8)) + content[at + 64 :]
        else:
            content = content[:at]
    return content


@st.composite
def nonsense(draw: Any, document: Any) -> bytes:
    """The JSON text of a document with one to three values that are something else, missing, or beside new ones."""
    document = copy.deepcopy(document)
    texts: dict[str, str] = {}
    for i in range(draw(st.integers(1, 3))):
        holder, key = _place(draw, document)
        if holder is None:
            break
        kind = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add")))
        if kind == "remove":
            del holder[key]
            continue
        mark = _MARK.format(i)
        texts[json.dumps(mark)] = draw(st.sampled_from(ODD))
        if kind == "replace":
            holder[key] = mark
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(("", "a", "\x00", "../a", "é", str(key) + "_")))] = mark
        else:
            holder.append(mark)
    text = json.dumps(document)
    for mark, odd in texts.items():
        text = text.replace(mark, odd)
    return text.encode()


def _place(draw: Any, document: Any) -> tuple[Any, Any]:
    """A container inside the document and a key of it: one step down after another, as deep as it is drawn."""
    holder, key, inside = None, None, document
    while isinstance(inside, dict | list) and inside and (holder is None or draw(st.booleans())):
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        holder, key = inside, draw(st.sampled_from(keys))
        inside = holder[key]
    return holder, key
