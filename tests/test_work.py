"""How much work tagging is, counted and never timed: tokens encoded, padding, passes, for each token of text.

The tokenizer and the layout of windows are the shipped ones, the body is a tiny one with random weights: it
reads exactly what the large one would. Bounds are ratios, a little above what was counted when they were
written; one that is broken means that the same text has come to cost more.
"""

import dataclasses
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from conftest import ROOT
from transformers import BertConfig, BertModel

from cot_probe.encoder import Encoder
from cot_probe.monitor import Monitor
from cot_probe.scoring import Scorer
from cot_probe.tagger import Tagger
from cot_probe.transcripts import Trace, read_path
from cot_probe.transcripts.trace import trace_of

sys.path.insert(0, str(ROOT / "benchmarks"))
import cost
import pages
import pipeline
import scaling

EXAMPLES = [item for item in read_path(ROOT / "tests" / "data" / "examples") if isinstance(item, Trace) and item.text]
CONTEXT = "You keep the ledger of a harbour office. Never leave a page out."
MOST = 240
"""Numbers from 100 on of which each is one token of the vocabulary."""
LENGTHS = [30, 60, 120, 200, 260, 300, 350, 400, 500, 900, 2000]
"""Words of traces: about those of the annotated test split, with a longer tail."""


@dataclass(slots=True)
class Work:
    """What a body was given, over some calls.

    Attributes:
        rows: Windows, each with its token ids, without padding.
        padded: Tokens with padding.
        passes: Forward passes of the whole body.
        read: Ids read from left to right by the live monitor, which calls the body's layers itself.
    """

    rows: list[list[int]] = field(default_factory=list)
    padded: int = 0
    passes: int = 0
    read: list[int] = field(default_factory=list)

    @property
    def encoded(self) -> int:
        """Tokens in windows, without padding."""
        return sum(map(len, self.rows))

    @property
    def padding(self) -> float:
        """Share of what the body was given that was padding."""
        return 1 - self.encoded / self.padded


@contextmanager
def counted(tagger: Tagger) -> Iterator[Work]:
    """Count what the tagger's body is given."""
    body: Any = tagger.checkpoint.encoder.body
    work = Work()
    embedded: list[list[int]] = []

    def passed(_: Any, __: Any, inputs: dict[str, torch.Tensor]) -> None:
        mask = inputs["attention_mask"].bool()
        work.rows += [ids[kept].tolist() for ids, kept in zip(inputs["input_ids"], mask, strict=True)]
        work.padded += mask.numel()
        work.passes += 1

    def looked_up(_: Any, __: Any, inputs: dict[str, torch.Tensor]) -> None:
        # The live reader gives places of its own, the body leaves them to the embeddings.
        if inputs.get("position_ids") is not None:
            embedded.append(inputs["input_ids"].flatten().tolist())

    hooks = [
        body.register_forward_pre_hook(passed, with_kwargs=True),
        body.embeddings.register_forward_pre_hook(looked_up, with_kwargs=True),
    ]
    try:
        yield work
    finally:
        for hook in hooks:
            hook.remove()
        work.read = [token for ids in embedded for token in ids]


@pytest.fixture(scope="module")
def small(tagger: Tagger) -> Tagger:
    """The shipped tagger with a tiny body."""
    torch.manual_seed(0)
    vocabulary = tagger.checkpoint.tokenizer.fast.get_vocab_size()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    body = BertModel(BertConfig(vocab_size=vocabulary, max_position_embeddings=512, **sizes), add_pooling_layer=False)
    taxonomy = tagger.checkpoint.taxonomy
    encoder = Encoder(body, width=16, layers=(1,), hidden=8, n_labels=len(taxonomy.labels), n_kinds=len(taxonomy.kinds))
    return Tagger(dataclasses.replace(tagger.checkpoint, encoder=encoder.eval()), point=tagger.point)


def batch_work(tagger: Tagger, traces: Sequence[Trace]) -> tuple[Work, int]:
    """The work of tagging traces, and the tokens of their text."""
    with counted(tagger) as work:
        tokens = sum(tagged.n_tokens for tagged in tagger.tag_many(traces))
    return work, tokens


def long_trace(words: int) -> Trace:
    """A trace of the examples' sentences."""
    (trace,) = pipeline.mixed_traces(1, [words], seed=1)
    return dataclasses.replace(trace, context=CONTEXT)


def entries(count: int) -> list[str]:
    """Sentences that no two alike: each has a number that is one token of the vocabulary."""
    return [
        f"Page {number} of the ledger was read, and all of its sums were found to agree. " for number in numbers(count)
    ]


def numbers(count: int) -> range:
    """The numbers in them."""
    return range(100, 100 + count)


def test_a_fixed_corpus(small: Tagger) -> None:
    """The shipped examples and one long trace."""
    work, tokens = batch_work(small, [*EXAMPLES, long_trace(8000)])
    assert tokens == sum(len(ids) for trace in [*EXAMPLES, long_trace(8000)] for ids in small.token_ids([trace.text]))
    assert work.encoded / tokens < 1.4  # neighbours and instructions are read again with every window
    assert work.padded / tokens < 1.5
    assert work.passes <= 1.2 * work.padded / 2048 + 2


def test_a_handful_of_short_traces(small: Tagger) -> None:
    """They go through in a few passes: more would cost as much as the padding of one for all."""
    work, tokens = batch_work(small, EXAMPLES)
    assert work.encoded / tokens < 1.3 and work.padded / tokens < 1.5 and work.passes <= 6


def test_padding_of_a_realistic_mix_of_lengths(small: Tagger) -> None:
    work, tokens = batch_work(small, list(pipeline.mixed_traces(88, LENGTHS, seed=0)))
    assert work.padding <= 0.05
    assert work.encoded / tokens < 1.45
    assert work.passes <= 1.25 * work.padded / 2048 + 2  # one rest a group of traces


def test_work_is_linear_in_length(small: Tagger) -> None:
    """Twice the text is twice the windows, tokens and passes, however long; nothing is read again from the start."""
    found = [batch_work(small, [long_trace(words)]) for words in (2000, 4000, 8000, 16_000)]
    each = [work.encoded / tokens for work, tokens in found]
    assert max(each) / min(each) < 1.05
    for (one, fewer), (two, more) in itertools.pairwise(found):
        growth = more / fewer
        assert len(two.rows) == pytest.approx(growth * len(one.rows), abs=2)
        assert two.passes <= growth * one.passes + 2
    assert found[-1][0].padding <= 0.05


def test_work_does_not_depend_on_how_many_there_are(small: Tagger) -> None:
    few, many = (
        [trace_of(trace.text, id=str(n), context=trace.context) for n in range(count) for trace in EXAMPLES]
        for count in (10, 40)
    )
    (one, fewer), (four, more) = batch_work(small, few), batch_work(small, many)
    assert more == 4 * fewer and four.encoded == 4 * one.encoded
    assert four.padded <= 4 * one.padded * 1.05 and four.passes <= 4 * one.passes


def test_each_sentence_is_read_in_one_window_and_as_a_neighbour_of_the_next(small: Tagger) -> None:
    text = "".join(entries(MOST))
    work, _ = batch_work(small, [trace_of(text, context=CONTEXT)])
    seen = times_read(small, [token for row in work.rows for token in row], MOST)
    assert set(seen.values()) <= {1, 2} and sum(seen.values()) < 1.35 * MOST


def times_read(tagger: Tagger, ids: Sequence[int], count: int) -> dict[int, int]:
    """How many times the token of each sentence's number is among ``ids``."""
    marks = [ids for (ids,) in tagger.token_ids([str(number) for number in numbers(count)])]
    found = Counter(ids)
    return {number: found[mark] for number, mark in zip(numbers(count), marks, strict=True)}


@pytest.mark.parametrize("cut", ["sentence", "word"])
def test_no_sentence_is_encoded_twice_live(small: Tagger, cut: str) -> None:
    """For its provisional score once, or as a neighbour where a window begins; for its final one as in a batch."""
    count = 150
    deltas = entries(count) if cut == "sentence" else [f"{word} " for word in "".join(entries(count)).split()]
    with counted(small) as live, Scorer(small, max_lag_s=600.0) as scorer:
        monitor = Monitor(scorer, context=CONTEXT, budget_s=120.0)
        for delta in deltas:
            monitor.feed(delta)
        closing = monitor.close(timeout=120)
        stats = scorer.stats
    assert closing.result is not None and not closing.not_scored
    whole, tokens = batch_work(small, [trace_of("".join(deltas), context=CONTEXT)])
    assert sorted(live.rows) == sorted(whole.rows)  # the final scores cost what a batch does
    assert len(live.read) == stats.tokens_provisional
    # Where a window closes, the sentence that it has no room for is read ahead in a fresh cache, and once more,
    # with its neighbours, when it is over; everything else is read once.
    left = small.checkpoint.config.layout.left_tokens
    each = len(small.token_ids(entries(1))[0])
    closed = len(whole.rows) - 1
    opening = left + len(small.context_ids(CONTEXT)) + 2
    assert len(live.read) <= tokens + opening + closed * 2 * (opening + 2 * each)
    seen = times_read(small, live.read, count)
    assert set(seen.values()) <= {1, 2, 3}
    assert sum(times > 1 for times in seen.values()) <= closed * (-(-left // each) + 2)


def test_live_reading_is_linear_in_length(small: Tagger) -> None:
    found = []
    for count in (60, 120, MOST):
        with counted(small) as work, Scorer(small, max_lag_s=600.0) as scorer:
            monitor = Monitor(scorer, budget_s=120.0)
            for sentence in entries(count):
                monitor.feed(sentence)
            monitor.close(timeout=120)
        found.append((len(work.read) + work.encoded) / count)
    assert max(found) / min(found) < 1.15


def test_tokenising_is_done_once(small: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The characters given to the tokenizer are those of the text, and twice those of the instructions at most."""
    given: list[str] = []
    inner = small.token_ids
    monkeypatch.setattr(small, "token_ids", lambda texts: (given.extend(texts), inner(texts))[1])
    traces = [long_trace(3000), *EXAMPLES]
    list(small.tag_many(traces))
    assert sum(map(len, given)) <= sum(len(trace.text) + 2 * len(trace.context) + 1 for trace in traces)


# What the benchmarks compute from what they measure.


def test_a_table_goes_between_its_marks_and_nowhere_else(tmp_path: Any) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- one: begin -->\nold\n<!-- one: end -->\nb\n<!-- two: begin -->\n<!-- two: end -->\n")
    pages.write_between(page, "one", "new")
    assert (
        page.read_text()
        == "a\n<!-- one: begin -->\nnew\n<!-- one: end -->\nb\n<!-- two: begin -->\n<!-- two: end -->\n"
    )
    with pytest.raises(ValueError, match=r"page\.md: .* <!-- three: begin -->"):
        pages.write_between(page, "three", "new")


def test_costs_by_hand() -> None:
    """36,000 tokens a second on two cores are 100 million an hour and pair, near enough by hand."""
    worker = cost.Worker(name="x", tokens_per_second=10_000, units=2, dollars_an_hour=0.18, watts=9)
    assert worker.dollars == pytest.approx(0.01) and worker.watt_hours == pytest.approx(0.5)
    asked = cost.Asked(prompt=300, context=200, trace=500, answer=100)
    assert cost.Judge(name="x", tokens_in=1, tokens_out=5).dollars(asked) == pytest.approx((1000 + 500) / 500)
    found = cost.speeds_in((ROOT / "docs" / "sizing.md").read_text(encoding="utf-8"))
    assert found and all(speed.tokens_per_second > 0 for speed in found) and len({s.threads for s in found}) == 1
    with pytest.raises(ValueError, match="no row"):
        cost.speeds_in("nothing measured")
    assert 200 < cost.prompt_tokens() < 600


def test_the_exponent_of_a_linear_and_of_a_quadratic_cost() -> None:
    def swept(power: float) -> list[scaling.Measured]:
        return [
            scaling.Measured(
                point=scaling.Point(sweep=scaling.LENGTHS, traces=3, words=words),
                tokens=3 * words,
                seconds=(3e-6 * words**power,),
                memory=(1,),
            )
            for words in (100, 1000, 10_000)
        ]

    assert scaling.exponent(swept(1)) == pytest.approx(1) and scaling.exponent(swept(2)) == pytest.approx(2)
    assert "power of 2.000" in scaling.table(swept(2))


def test_the_rivals_see_each_sentence_once_with_its_neighbours() -> None:
    trace = {"context": "C.", "reasoning": "One is here. Two is here. Three is here. Four is here."}
    pairs = list(pipeline.pairs_of(trace, before=1, after=1))
    assert [pair["text_pair"] for pair in pairs] == ["One is here.", "Two is here.", "Three is here.", "Four is here."]
    assert [pair["text"] for pair in pairs][:2] == ["C. Two is here.", "C. One is here. Three is here."]
