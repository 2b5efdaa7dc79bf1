"""Values and gradients against transformers' LFM2, float32, error max |a - b| / max |b| per tensor."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")
pytest.importorskip("transformers", reason="parity tests need transformers (scripts/test --parity)")

from parity.lfm2_pair import SHAPES, check_gradients, error, logits_and_gradient, make_pair, run_torch  # noqa: E402

LOGITS, GRADIENTS = 1e-5, 1e-4


@pytest.fixture(scope="module", params=list(SHAPES))
def pair(request, tmp_path_factory):
    return make_pair(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(autouse=True)
def _no_old_gradients(pair):
    pair.torch_model.zero_grad()


def _random(pair, rows, length, seed=0):
    """Never the padding token: torch's embedding gives its row no gradient, wherever it stands."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, pair.config.vocab_size, (rows, length))
    return tokens, rng.standard_normal((rows, length, pair.config.vocab_size)).astype(np.float32)


@pytest.mark.parametrize("length", [1, 2, 3, 257])
def test_logits_and_every_gradient(pair, length):
    tokens, cotangent = _random(pair, 2, length)
    theirs = run_torch(pair, tokens, cotangent)
    positions = np.broadcast_to(np.arange(length), tokens.shape)
    ours, gradient = logits_and_gradient(
        pair.params, tokens, np.ones_like(tokens), positions, cotangent, config=pair.config
    )
    assert theirs.std() >= 1
    assert error(ours, theirs) <= LOGITS
    worst = check_gradients(pair, gradient, GRADIENTS)
    print(f"length {length}: logits {error(ours, theirs):.1e}, gradients {worst:.1e}")


def test_left_padded_batch(pair):
    """transformers with an attention mask; ours with segment 0 for the padding."""
    lengths, width = [1, 2, 5, 19], 19
    tokens, cotangent = _random(pair, len(lengths), width)
    mask = np.arange(width) >= width - np.array(lengths)[:, None]
    cotangent *= mask[..., None]
    theirs = run_torch(pair, tokens, cotangent, mask)
    positions = np.maximum(np.cumsum(mask, 1) - 1, 0)
    ours, gradient = logits_and_gradient(
        pair.params, tokens, mask.astype(np.int32), positions, cotangent, config=pair.config
    )
    assert error(np.asarray(ours)[mask], theirs[mask]) <= LOGITS
    check_gradients(pair, gradient, GRADIENTS)


def test_packed_rows_are_documents_one_at_a_time(pair):
    """Two packed rows of ragged documents with padding between and after, against one forward per document."""
    rows, width = [[1, 2, 70, 3, 11], [33, 1, 1, 52]], 192
    tokens, cotangent = _random(pair, len(rows), width, seed=3)
    segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    theirs, real = np.zeros(cotangent.shape, np.float32), np.zeros(tokens.shape, bool)
    for r, lengths in enumerate(rows):
        start = 4 * r  # the second row starts with padding
        for i, n in enumerate(lengths):
            here = slice(start, start + n)
            segments[r, here], positions[r, here], real[r, here] = i + 1, np.arange(n), True
            theirs[r, here] = run_torch(pair, tokens[r : r + 1, here], cotangent[r : r + 1, here])[0]
            start += n + (i == 2)
    cotangent *= real[..., None]
    ours, gradient = logits_and_gradient(
        pair.params, tokens, segments, positions, cotangent, config=pair.config, max_segment=70
    )
    assert error(np.asarray(ours)[real], theirs[real]) <= LOGITS
    check_gradients(pair, gradient, GRADIENTS)
