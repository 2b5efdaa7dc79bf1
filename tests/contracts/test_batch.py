"""The packed batch: role tables read the same segments from any layout, and splitting loses nothing."""

import jax
import numpy as np
import pytest
from contracts.batches import KINDS as MAKERS
from contracts.batches import LONGEST, make_examples, packed, unpacked

from jaxpo.data.packing.batch import join_leading, last_of, rows_of, split_leading, take, unpack

KINDS = sorted(MAKERS)


@jax.jit
def of_every_role(batch):
    """Tokens and completion masks of the segments that each role names."""
    arrays = batch.tokens, batch.masks["completion"]
    return {name: [rows_of(x, role, batch) for x in arrays] for name, role in batch.roles.items()}


@jax.jit
def chosen(batch):
    return take(unpack(batch.tokens, batch), batch.roles["chosen"], batch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lay", [packed, unpacked])
def test_roles_recover_every_segment(kind, lay):
    examples = make_examples(kind, 16)
    batch = lay(examples)
    for name, (tokens, masks) in jax.device_get(of_every_role(batch)).items():
        for n, i in enumerate(np.asarray(batch.example_id)):
            wanted = np.atleast_1d(examples[i].roles[name]) if i >= 0 else np.array([-1])
            for k, index in enumerate(wanted):
                got = tokens[n] if tokens.ndim == 2 else tokens[n, k]
                mask = masks[n] if tokens.ndim == 2 else masks[n, k]
                ids, prompt = examples[i].segments[index] if index >= 0 else (np.zeros(0, int), 0)
                np.testing.assert_array_equal(got, np.pad(ids, (0, LONGEST - len(ids))))
                np.testing.assert_array_equal(np.flatnonzero(mask), np.arange(max(prompt, 1), len(ids)))


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_split_and_join_are_inverse_and_keep_roles_valid(parts):
    batch = packed(make_examples("pair", 16))
    whole = chosen(batch)
    pieces = jax.vmap(chosen)(batch.split(parts))
    np.testing.assert_array_equal(join_leading(pieces, batch.blocks), whole)
    np.testing.assert_array_equal(join_leading(split_leading(whole, batch.blocks, parts), batch.blocks), whole)


def test_split_refuses_to_cut_a_block():
    with pytest.raises(ValueError, match="8 blocks cannot be split into 3 microbatches"):
        packed(make_examples("pair", 16)).split(3)


def test_last_of_reads_the_last_real_token():
    batch = packed(make_examples("completion", 16))
    read = jax.jit(lambda b: take(last_of(b.tokens[..., None], b), b.roles["completion"], b)[:, 0])
    last = np.asarray(read(batch))
    examples = make_examples("completion", 16)
    for n, i in enumerate(np.asarray(batch.example_id)):
        assert last[n] == examples[i].segments[0][0][-1]
