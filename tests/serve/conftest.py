"""A tokenizer, and a server whose engine answers with what is written down."""

import pytest
from fakes.scripted_engine import ScriptedEngine
from serve.running import running

from jaxpo.data.tokenizer.tokenizer import train_tokenizer

WORDS = "the quick brown fox jumps over the lazy dog, naïve café 你好 and so on. "
ANSWER = "the lazy dog, naïve café 你好, and the fox"


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([WORDS * 3], 300)


@pytest.fixture(scope="session")
def scripted(tokenizer):
    """A server that answers `ANSWER`, sample s without its first s tokens, and then ends its turn."""
    ids = [*tokenizer.encode(ANSWER), tokenizer.eos_id]
    with running(ScriptedEngine(tokenizer, lambda request, sample: ids[sample:]), tokenizer) as found:
        yield found
