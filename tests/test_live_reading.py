"""What a stream has read, token by token, against the text itself; and when a sentence can be read."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from cot_probe.live_reading import LiveReading, Plan
from cot_probe.live_text import LiveText
from cot_probe.windows import SpecialTokens, WindowLayout

LAYOUT = WindowLayout(max_tokens=48, context_tokens=6, left_tokens=8, right_tokens=6)
SPECIAL = SpecialTokens(opening=1, separator=2, padding=0)
CONTEXT = (3, 4, 5)


class Held:
    """A cache of tokens instead of keys and values, and the sentences as they should stand in it."""

    def __init__(self) -> None:
        self.reading = LiveReading(CONTEXT, layout=LAYOUT, special=SPECIAL)
        self.text: list[int] = []
        self.cache: list[int] = []
        self.heads = 0

    def take(self, plan: Plan, ahead: Sequence[int] = ()) -> None:
        """Write a plan's tokens where it says; each unit must stand behind the head and what precedes it."""
        head = list(self.reading.head)
        assert len(self.cache) >= plan.start
        self.heads += plan.start == 0
        written = [token for block in plan.opening for token in block]
        self.cache[plan.start :] = written
        for unit in plan.units:
            before = self.cache[len(head) :]
            whole = [*self.text, *ahead]
            assert self.cache[: len(head)] == head
            begin = whole.index(unit.ids[0])
            assert before == whole[begin - len(before) : begin]
            self.cache += unit.ids
            assert len(self.cache) < LAYOUT.max_tokens
        self.reading.read(plan, [np.zeros(2, dtype=np.float32) for _ in plan.units])


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_every_sentence_is_read_behind_the_head_and_its_neighbours(data: DataObject) -> None:
    held = Held()
    token = 10
    first = held.reading.plan_head() if data.draw(st.booleans()) else None
    if first is not None:
        held.take(first)
    lengths = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=12))
    sentences = []
    for length in lengths:
        sentences.append(tuple(range(token, token + length)))
        token += length
    sure = 0
    while sure < len(sentences):
        # Some are read ahead, before it is sure where they end; later others with them; some turn out otherwise.
        for open_until in data.draw(st.lists(st.integers(sure, min(sure + 4, len(sentences))), max_size=2)):
            rest = [unit for n in range(sure, open_until) for unit in held.reading.units_of(n, sentences[n], 0.0)]
            if rest and data.draw(st.integers(0, 9)) == 0:
                rest[-1] = dataclasses.replace(rest[-1], ids=(*rest[-1].ids[:-1], 9))
            while not held.reading.has_read(rest) and (plan := held.reading.plan(1_000, rest)) is not None:
                held.take(plan, ahead=[token for unit in rest for token in unit.ids])
        held.reading.add(sentences[sure], 0.0)
        held.text += sentences[sure]
        sure += 1
        if data.draw(st.integers(0, 9)) == 0:
            held.reading.forget_cache()
            held.cache.clear()
            held.heads = 0
        held.reading.commit_ahead()
        if held.reading.waiting:
            held.reading.drop_ahead()
        while (plan := held.reading.plan(1_000, ())) is not None:
            held.take(plan)
    assert held.heads <= 1
    assert not held.reading.waiting


def test_open_text_that_grows_is_not_read_again() -> None:
    held = Held()
    one, two, three = (10, 11, 12), (13, 14), (15, 16, 17, 18)
    read = 0
    for so_far in ([one], [one, two], [one, two], [one, two, three]):
        rest = [unit for number, ids in enumerate(so_far) for unit in held.reading.units_of(number, ids, 0.0)]
        plan = None if held.reading.has_read(rest) else held.reading.plan(1_000, rest)
        if plan is not None:
            held.take(plan, ahead=[token for ids in so_far for token in ids])
            read += plan.size
    for ids in (one, two, three):
        held.reading.add(ids, 0.0)
    held.reading.commit_ahead()
    assert not held.reading.waiting
    assert read == len(held.reading.head) + len(one + two + three)


@pytest.mark.parametrize(
    ("so_far", "whole"),
    [
        ("- wait for the answer\n   -", ["- wait for the answer\n   "]),
        ("- wait for the answer\n   ", ["- wait for the answer\n   "]),
        ("He can see it. ", ["He can see it. "]),
        ('{"id": "a", "do": "keep it",', ['{"id": "a", ', '"do": "keep it",']),
        ("He can see", []),
        ("a line that is long enough to have been wrapped where it ends, and the next\nw", []),
    ],
)
def test_open_text_that_looks_whole_is_offered_at_once(so_far: str, whole: list[str]) -> None:
    """Nothing waits for the text that makes sure of a boundary; words in the middle of a sentence are not offered."""
    text = LiveText("x")
    text.feed(so_far)
    sure = [one.text for one, _ in text.take()]
    offered = [one.text for one, _ in text.rest(unfinished=False)] if text.may_end else []
    assert [*sure, *offered] == whole
