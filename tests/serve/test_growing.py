"""However an answer grows, its pieces are what it is as a whole."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from serve.conftest import ANSWER

from jaxpo.data.chat.calls import CALL_END, CALL_START
from jaxpo.sampling.request import Generation
from jaxpo.serve.growing import Growing


def generation(tokens, text, reason):
    empty = np.zeros(len(tokens), np.float32)
    return Generation(0, 0, list(tokens), empty, empty, empty.astype(np.int32), reason, text)


@given(st.data())
def test_pieces_are_the_whole(tokenizer, data):
    marks = [tokenizer.special_ids[mark] for mark in (CALL_START, CALL_END)]
    parts = [tokenizer.encode(ANSWER), tokenizer.encode("f(x='你')"), tokenizer.encode("é")[:1], *([m] for m in marks)]
    tokens = [i for part in data.draw(st.lists(st.sampled_from(parts), max_size=6)) for i in part]
    stop = data.draw(st.lists(st.sampled_from(["café", "fox", "lazy dog", "(x", "zz", "é 你好, a"]), max_size=2))
    calls = data.draw(st.booleans())
    # What the engine does: it ends with the token that completes a stop string, and cuts the text before it.
    decoder, text, used, reason = tokenizer.stream(), "", len(tokens), "length"
    for used, token in enumerate(tokens, start=1):  # noqa: B007
        text += decoder.feed(token)
        if found := [at for s in stop if (at := text.find(s)) >= 0]:
            text, reason = text[: min(found)], "stop_string"
            break
    else:
        text += decoder.finish()
    ended = generation(tokens[:used], text, reason)

    whole = Growing(tokenizer, stop, calls=calls).feed(ended)
    growing, at, pieces = Growing(tokenizer, stop, calls=calls), 0, []
    while at < used and data.draw(st.booleans()):
        at = data.draw(st.integers(at, used - 1)) if used - 1 >= at else used
        pieces.append(growing.feed(generation(tokens[:at], "", None)))
    pieces.append(growing.feed(ended))

    assert "".join(piece.text for piece in pieces) == whole.text
    assert tuple(call for piece in pieces for call in piece.calls) == whole.calls
    assert tuple(o for piece in pieces for o in piece.offsets) == whole.offsets
    assert [piece.first for piece in pieces[1:]] == [piece.last for piece in pieces[:-1]]
    assert pieces[-1].last == used
    if not calls:
        assert whole.text == text
