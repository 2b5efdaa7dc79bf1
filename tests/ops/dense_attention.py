"""Attention by the textbook formulas in float64: what every backend is compared with."""

import numpy as np


def dense_attention(q, k, v, g, segments, key_ids, *, causal, window):
    """Output, and gradients of `sum(out * g)`, one row and one head after the other."""
    share = q.shape[2] // k.shape[2]
    at = np.arange(q.shape[1])
    distance = at[:, None] - at[None, :]
    allowed = distance >= 0 if causal else np.ones_like(distance, bool)
    if window:
        allowed &= abs(distance) < window
    out, dq, dk, dv = np.zeros_like(q), np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    scale = q.shape[-1] ** -0.5
    for r in range(q.shape[0]):
        seen = allowed & (segments[r][:, None] == key_ids[r][None, :]) & (segments[r][:, None] > 0)
        for h in range(q.shape[2]):
            key, value = k[r, :, h // share], v[r, :, h // share]
            p = np.exp(q[r, :, h] @ key.T * scale) * seen
            p /= np.maximum(p.sum(1, keepdims=True), 1e-300)
            out[r, :, h] = p @ value
            dp = g[r, :, h] @ value.T
            ds = p * (dp - (p * dp).sum(1, keepdims=True)) * scale
            dq[r, :, h] = ds @ key
            dk[r, :, h // share] += ds.T @ q[r, :, h]
            dv[r, :, h // share] += p.T @ g[r, :, h]
    return out, dq, dk, dv
