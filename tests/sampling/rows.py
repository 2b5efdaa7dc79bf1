"""Rows of settings for the tests of processors and draws, and the same rules written token by token in float64."""

import numpy as np

from jaxpo.sampling.request import Request
from jaxpo.sampling.row_settings import Widths, empty, fill, row_keys, row_values
from jaxpo.sampling.sampler import Sampler

WIDTHS = Widths(stop_ids=4, logit_bias=8, forced_ids=4)


def settings_of(requests, vocabulary, *, stop_ids=(), vocab_limit=None, seed=0):
    """One row per request, each with the key of its place."""
    keys = row_keys([(seed, row, 0) for row in range(len(requests))], len(requests))
    how = {"vocabulary": vocabulary, "stop_ids": stop_ids, "vocab_limit": vocab_limit}
    values = [row_values(request, WIDTHS, key=key, **how) for request, key in zip(requests, keys, strict=True)]
    return fill(empty(len(requests), vocabulary, WIDTHS), dict(enumerate(values)))


def asks(prompt=(1,), **settings):
    """A request whose keywords are those of `Request` and of `Sampler`."""
    ours = {name: settings.pop(name) for name in list(settings) if name in Sampler.__dataclass_fields__}
    return Request(list(prompt), sampler=Sampler(**ours), **settings)


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def processed(logits, request, answer=(), stop_ids=(), vocab_limit=None):
    """One row's logits by id, float64, from the definitions."""
    z = np.asarray(logits, np.float64).copy()
    sampler = request.sampler
    z[[i for i in range(len(z)) if request.allowed_ids is not None and i not in request.allowed_ids]] = -np.inf
    z[list(request.banned_ids)] = -np.inf
    z[len(z) if vocab_limit is None else vocab_limit :] = -np.inf
    for i, value in request.logit_bias.items():
        z[i] += value
    for i in {*request.prompt, *answer}:
        z[i] = z[i] / sampler.repetition_penalty if z[i] > 0 else z[i] * sampler.repetition_penalty
    for i in answer:
        z[i] -= sampler.frequency_penalty
    for i in set(answer):
        z[i] -= sampler.presence_penalty
    if len(answer) < request.min_new_tokens:
        z[list(stop_ids)] = -np.inf
    return z


def filtered(z, sampler):
    """Temperature, top-k, top-p and min-p of one row's processed logits, float64."""
    z = np.asarray(z, np.float64) / sampler.temperature
    if sampler.top_k:
        z = np.where(z < np.sort(z)[::-1][min(sampler.top_k, len(z)) - 1], -np.inf, z)
    if sampler.top_p < 1:
        order = np.lexsort((np.arange(len(z)), -z))
        p = softmax(z)[order]
        before = np.concatenate([[0.0], np.cumsum(p)[:-1]])
        out = order[(before >= sampler.top_p) & (np.arange(len(z)) > 0)]
        z = z.copy()
        z[out] = -np.inf
    if sampler.min_p:
        p = softmax(z)
        z = np.where(p < sampler.min_p * p.max(), -np.inf, z)
    return z
