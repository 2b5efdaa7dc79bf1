"""A generation made with dynamic sampling, by a writer and rewards that are numbers."""

import numpy as np

from jaxpo.online.advantages import deviation, summed
from jaxpo.online.answers import Answer, Group, Prompt
from jaxpo.online.generation import Maker
from jaxpo.online.ledger import Journal
from jaxpo.sampling.sampler import Sampler

EMPTY = np.zeros(1, np.float32)


class Prompts:
    def number(self, position):
        return position % 5

    def at(self, number):
        return Prompt(number, np.int32([1, number]), f"prompt {number}", {})


class Writer:
    """Answers say which prompt they are to."""

    asked: tuple[int, ...] = ()

    def use(self, params, most):
        self.params = params

    def write(self, asked, n, sampler, longest, what):
        for one in reversed(asked):  # in any order
            self.asked = (*self.asked, one.position)
            answers = [Answer(np.int32([k]), EMPTY, EMPTY, True, f"{one.prompt.number} {k}") for k in range(n)]
            yield Group(one.place, one.position, one.prompt, tuple(answers))


class Scoring:
    """Answers to even prompts have one reward, to odd ones their number."""

    remembers, figures = 0, {}

    def score(self, groups, ledger, earlier):
        self.figures = {"rewards/number/first": float(groups[0].prompt.number)}
        values = [[[0.5 if g.prompt.number % 2 == 0 else k] for k in range(len(g.answers))] for g in groups]
        return np.asarray(values, float), np.zeros((len(groups), 2))


def maker(folder, replaced):
    shown = []
    weights = np.ones(1)
    made = Maker(
        Prompts(),
        Writer(),
        Scoring(),
        Journal(folder, {}),
        size=3,
        n=2,
        sampler=Sampler(),
        max_new_tokens=4,
        replaced=replaced,
        spread=lambda rewards: deviation(summed(rewards, weights)),
        at_once=6,
        show=shown.append,
    )
    return made, shown


def positions(generation):
    return [group.position for group in generation.groups]


def test_groups_without_spread_are_replaced_by_the_next_prompts(tmp_path):
    made, shown = maker(tmp_path, 1)
    params = {"w": np.ones(2, np.float32)}
    first = made.make(0, params)
    # 0, 1, 2 are asked; 0 and 2 are alike, and 3 and 4 take their places; 4 is alike too, and stays.
    assert positions(first) == [3, 1, 4]
    assert first.tried == 5
    assert first.figures == {"rewards/number/first": 1.5}, "the mean of both rounds, which began with 0 and 3"
    np.testing.assert_array_equal(first.rewards[..., 0], [[0, 1], [0, 1], [0.5, 0.5]])
    assert shown[:2] == ["generation 0, writing 0/3", "generation 0, writing 1/3"]
    assert "generation 0, rewards" in shown
    # The next generation goes on behind all that were asked, whoever makes it, and what is in the ledger is read.
    again, _ = maker(tmp_path, 1)
    second = again.make(1, params)
    assert min(again.writer.asked) == 5
    same, _ = maker(tmp_path, 1)
    assert positions(same.make(1, params)) == positions(second)
    assert positions(same.make(0, params)) == positions(first)
    assert same.make(0, params).figures == first.figures
    assert same.writer.asked == ()


def test_more_rounds_replace_more_and_none_keeps_all(tmp_path):
    plain, _ = maker(tmp_path / "plain", 0)
    assert positions(plain.make(0, {"w": EMPTY})) == [0, 1, 2]
    wide, _ = maker(tmp_path / "wide", 3)
    found = wide.make(0, {"w": EMPTY})
    assert all(group.prompt.number % 2 for group in found.groups)
