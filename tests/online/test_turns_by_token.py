"""What is recorded and estimated token by token is that of the tokens that the model wrote, over all its turns."""

import numpy as np

from jaxpo.online.answers import Answer, Group, Prompt
from jaxpo.online.penalty import padded
from jaxpo.online.talk import Talk

OWN = np.asarray([True, True, False, False, True])


def group():
    """A conversation, and an answer of one turn."""
    numbers = np.zeros(5, np.float32)
    talk = Answer(np.arange(5, dtype=np.int32), numbers, numbers, True, "", Talk(OWN, (), 0.0, 2))
    plain = Answer(np.int32([7, 8]), numbers[:2], numbers[:2], True, "")
    return Group(0, 0, Prompt(0, np.int32([1]), "p", {}), (talk, plain))


def test_tokens_of_all_turns_stand_side_by_side_and_go_back_to_their_places():
    grid = padded([group()], 6)
    rows = grid.rows([np.float32([1, 2, 50, 60, 3]), np.float32([4, 5])])
    np.testing.assert_array_equal(rows, [[1, 2, 3, 0, 0, 0], [4, 5, 0, 0, 0, 0]])
    back = grid.parts(rows)
    np.testing.assert_array_equal(back[0], [1, 2, 0, 0, 3])
    np.testing.assert_array_equal(back[1], [4, 5])
