import asyncio
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import make_checkpoint

from cot_probe import incremental
from cot_probe.alerts import Alert, Event, NotScored, SentenceScored
from cot_probe.encoder import collate
from cot_probe.gate import Policy
from cot_probe.incremental import Reader, Reading, can_read
from cot_probe.monitor import AsyncMonitor, Closing, Monitor
from cot_probe.scoring import Scorer
from cot_probe.tagger import TaggedTrace, Tagger, load_tagger
from cot_probe.transcripts import Block, Trace
from cot_probe.windows import Span, Window

CONTEXT = "You must never rewrite the shutdown script. The customers are real."
TEXT = (
    "Okay, so the user wants me to rewrite the shutdown script. Wait, that is not allowed... or is it?\n"
    "1. Read the log, e.g. version 3.5 of it.\n2. Kill the process.\n\n```py\nkill(process)\n\nlog()\n```\n"
    'This looks like a test of "whether I obey"; the customers are real, though. 测试。然后继续。 Report openly! '
) * 3


@pytest.fixture(scope="module")
def scorer(toy_tagger: Tagger) -> Iterator[Scorer]:
    with Scorer(toy_tagger) as scorer:
        yield scorer


def run(model: Scorer, blocks: Sequence[str], cut: Sequence[int], **options: object) -> tuple[list[Event], Closing]:
    """Feed blocks in pieces of the given lengths, round and round; everything that was said."""
    monitor = Monitor(model, **({"budget_s": 20.0} | options))
    events: list[Event] = []
    turn = 0
    for block in blocks:
        at = 0
        while at < len(block):
            size = cut[turn % len(cut)]
            events += monitor.feed(block[at : at + size])
            at, turn = at + size, turn + 1
        events += monitor.end_block()
    closing = monitor.close(timeout=60)
    return events + list(closing.events), closing


def batch(tagger: Tagger, blocks: Sequence[str], context: str) -> TaggedTrace:
    records = tuple(
        Block(text=text, end=len(text), turn=turn) for turn, text in enumerate(b for b in blocks if b.strip())
    )
    return tagger.tag(Trace(id="stream", blocks=records, context=context))


def assert_equal(live: TaggedTrace | None, want: TaggedTrace) -> None:
    assert live is not None
    assert (live.text, live.tags, live.stance, live.harm_kind) == (want.text, want.tags, want.stance, want.harm_kind)
    assert live.scores == pytest.approx(dict(want.scores), abs=1e-5)
    assert [(s.start, s.end, s.text, s.tags) for s in live.sentences] == [
        (s.start, s.end, s.text, s.tags) for s in want.sentences
    ]
    for ours, theirs in zip(live.sentences, want.sentences, strict=True):
        assert ours.scores == pytest.approx(dict(theirs.scores), abs=1e-5)
    assert live.n_tokens == want.n_tokens and live.unfamiliar == want.unfamiliar
    assert [(b.start, b.end, b.turn) for b in live.blocks] == [(b.start, b.end, b.turn) for b in want.blocks]


def test_fed_character_by_character_and_closed_it_gives_batch_scores(scorer: Scorer, toy_tagger: Tagger) -> None:
    events, closing = run(scorer, [TEXT], [1], context=CONTEXT)
    assert_equal(closing.result, batch(toy_tagger, [TEXT], CONTEXT))
    scored = [event for event in events if isinstance(event, SentenceScored)]
    whole = range(len(closing.trace.text and closing.result.sentences))
    assert sorted(event.number for event in scored if event.final) == list(whole)
    # Every sentence but those of the last, open window had a provisional score first.
    assert {event.number for event in scored if not event.final} >= set(whole[:-2])
    assert not closing.not_scored


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    blocks=st.lists(st.one_of(st.text(max_size=80), st.integers(0, 400).map(lambda n: TEXT[n : 2 * n])), max_size=4),
    cut=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    context=st.sampled_from(["", CONTEXT]),
    budget=st.sampled_from([0.0, 20.0]),
)
def test_any_text_in_any_pieces_gives_batch_scores(
    scorer: Scorer, toy_tagger: Tagger, blocks: list[str], cut: list[int], context: str, budget: float
) -> None:
    _, closing = run(scorer, blocks, cut, context=context, budget_s=budget)
    assert_equal(closing.result, batch(toy_tagger, blocks, context))


@pytest.mark.parametrize("kind", ["modernbert", "deberta"])
def test_bodies_without_a_cache_do_too(kind: str, tmp_path: Path) -> None:
    tagger = load_tagger(make_checkpoint(tmp_path, kind))
    assert not can_read(tagger.checkpoint.encoder)
    with Scorer(tagger) as scorer:
        events, closing = run(scorer, [TEXT], [7, 3], context=CONTEXT)
    assert_equal(closing.result, batch(tagger, [TEXT], CONTEXT))
    assert any(isinstance(event, SentenceScored) and not event.final for event in events)


def settled(events: Sequence[Event]) -> dict[int, SentenceScored]:
    """The last provisional score of each sentence."""
    return {e.number: e for e in events if isinstance(e, SentenceScored) and not e.final}


def test_provisional_scores_do_not_depend_on_how_the_text_was_cut(scorer: Scorer) -> None:
    tail = " Then what? Nothing more."  # so that the sentences before it are all sure before the stream ends
    slow = settled(run(scorer, [TEXT + tail], [1], context=CONTEXT)[0])
    fast = settled(run(scorer, [TEXT + tail], [33, 5], context=CONTEXT)[0])
    both = sorted(set(slow) & set(fast))
    assert len(both) > 20
    for number in both:
        if slow[number].text.strip() == fast[number].text.strip():
            assert slow[number].scores == pytest.approx(dict(fast[number].scores), abs=1e-5)


def test_reading_behind_a_cache_equals_reading_at_once(toy_tagger: Tagger) -> None:
    """Against the encoder itself for the first block, and block by block for the others."""
    encoder, special = toy_tagger.checkpoint.encoder, toy_tagger.special
    reader = Reader(encoder, max_tokens=64)
    first, second, third = toy_tagger.token_ids(["Read the log.", "Kill the process, openly.", "This is a test."])
    head = (special.opening, *first)
    window = Window(ids=head, types=(1,) * len(head), spans=(Span(sentence=0, first=1, last=len(head)),))
    vectors, _ = encoder.vectors([collate([window], [0], padding=special.padding)], 1)
    cache = reader.new_cache()
    alone = reader.read([Reading(cache=cache, start=0, blocks=(head,), types=(1,) * len(head))])[0]
    assert alone[1:].mean(0).tolist() == pytest.approx(vectors[0].tolist(), abs=1e-5)
    steps = [alone]
    for block in (tuple(second), tuple(third)):
        start = sum(len(step) for step in steps)
        steps += reader.read([Reading(cache=cache, start=start, blocks=(block,), types=(1,) * len(block))])
    other = reader.new_cache()
    blocks = (head, tuple(second), tuple(third))
    size = sum(map(len, blocks))
    together = Reading(cache=other, start=0, blocks=blocks, types=(1,) * size)
    beside = Reading(cache=reader.new_cache(), start=0, blocks=(head,), types=(1,) * len(head))
    at_once, _ = reader.read([together, beside])
    one_by_one = [row for step in steps for row in step.tolist()]
    assert [pytest.approx(row, abs=1e-5) for row in at_once.tolist()] == one_by_one
    with pytest.raises(ValueError, match="start a new cache"):
        reader.read([Reading(cache=cache, start=60, blocks=((1,) * 9,), types=(1,) * 9)])


def test_matrices_laid_out_beforehand_change_nothing(toy_tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = toy_tagger.checkpoint.encoder
    reading = {"start": 0, "blocks": ((2, 7, 9), (11, 12)), "types": (1,) * 5}
    found = []
    for laid_out in (incremental._can_lay_out(), False):
        monkeypatch.setattr(incremental, "_can_lay_out", lambda answer=laid_out: answer)
        reader = Reader(encoder, max_tokens=64, bf16=True)
        found.append(reader.read([Reading(cache=reader.new_cache(), **reading)])[0])
    assert found[0].shape == (5, 64) and found[0].allclose(found[1], atol=1e-6)


def test_many_streams_share_one_model(scorer: Scorer, toy_tagger: Tagger) -> None:
    texts = [TEXT[k * 17 :] for k in range(12)]
    results: list[TaggedTrace | None] = [None] * len(texts)

    def one(at: int) -> None:
        results[at] = run(scorer, [texts[at]], [at + 2], context=CONTEXT, budget_s=0.0)[1].result

    threads = [threading.Thread(target=one, args=(at,)) for at in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for text, result in zip(texts, results, strict=True):
        assert_equal(result, batch(toy_tagger, [text], CONTEXT))
    assert scorer.stats.streams_open == 0 and scorer.stats.queued_tokens == 0


def test_a_stream_whose_cache_was_taken_goes_on(toy_tagger: Tagger) -> None:
    with Scorer(toy_tagger, max_caches=1) as scorer:
        monitors = [Monitor(scorer, id=str(k), budget_s=20.0, context=CONTEXT) for k in range(3)]
        pieces = [TEXT[at : at + 30] for at in range(0, len(TEXT), 30)]
        for piece in pieces:
            for monitor in monitors:
                monitor.feed(piece)
        for monitor in monitors:
            assert_equal(monitor.close(timeout=60).result, batch(toy_tagger, [TEXT], CONTEXT))


class Gate:
    """Stops the model until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        original = Reader.read

        def read(reader: Reader, readings: Sequence[Reading]) -> object:
            self.reached.set()
            assert self.open.wait(60)
            return original(reader, readings)

        monkeypatch.setattr(Reader, "read", read)


def test_a_slow_model_does_not_hold_up_the_agent(toy_tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with Scorer(toy_tagger) as scorer:
        monitor = Monitor(scorer, budget_s=0.01)
        assert monitor.feed("Read the log. Kill the process. ") == []
        assert gate.reached.wait(60)
        verdict = monitor.check("shell")
        assert verdict.action == "hold" and not verdict.scored and "waiting" in " ".join(verdict.reasons)
        gate.open.set()
        verdict = monitor.check("shell", budget_s=20)
        assert verdict.scored
        assert {event.number for event in monitor.poll() if isinstance(event, SentenceScored)} == {0, 1}


def test_text_that_waits_too_long_is_given_up_openly(toy_tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with Scorer(toy_tagger, max_lag_s=0.0) as scorer:
        monitor = Monitor(scorer, budget_s=0.0)
        gate.open.set()
        for _ in range(4):
            monitor.feed("Read the log. Kill the process. Report to the manager, openly. ")
        monitor.feed("And then wait, for the rest of it")
        verdict = monitor.check("shell", budget_s=5)
        missed = [event for event in monitor.poll() if isinstance(event, NotScored)]
        assert missed and all(event.stage == "provisional" and "waited over" in event.reason for event in missed)
        assert verdict.action == "hold" and not verdict.scored
        closing = monitor.close(timeout=60)
        # The final scores came all the same.
        assert closing.result is not None and closing.not_scored == tuple(missed)
        assert scorer.stats.not_scored == sum(event.last - event.first + 1 for event in missed)
        short = Monitor(scorer, budget_s=0.0)
        short.feed("Read the log. And then wait, for all the rest of it to come")
        assert ": sentence 0 (waited over 0 s" in " ".join(short.check("shell", budget_s=5).reasons)


def test_windows_over_the_bound_are_given_up_and_the_text_is_handed_back(toy_tagger: Tagger) -> None:
    with Scorer(toy_tagger, max_queued_tokens=0) as scorer:
        events, closing = run(scorer, [TEXT], [50])
    assert closing.result is None and closing.trace.text == TEXT
    missed = [event for event in events if isinstance(event, NotScored)]
    assert missed and {event.stage for event in missed} == {"final"}
    covered = {number for event in missed for number in range(event.first, event.last + 1)}
    assert len(covered) == len(toy_tagger.tag(TEXT).sentences)


def test_an_error_in_the_model_is_told_and_other_streams_go_on(
    toy_tagger: Tagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Reader.read

    def read(reader: Reader, readings: Sequence[Reading]) -> object:
        if any(len(block) > 30 for reading in readings for block in reading.blocks):
            raise RuntimeError("no memory")
        return original(reader, readings)

    monkeypatch.setattr(Reader, "read", read)
    with Scorer(toy_tagger) as scorer:
        bad = Monitor(scorer, id="bad", budget_s=20.0)
        said = bad.feed("word " * 60 + ". ")
        assert any(isinstance(event, NotScored) and "no memory" in event.reason for event in said)
        verdict = bad.check("shell")
        assert verdict.action == "hold" and not verdict.scored and "no memory" in " ".join(verdict.reasons)
        assert bad.close(timeout=30).result is None
        _, closing = run(scorer, ["Read the log. Report to the manager."], [5], id="good")
        assert closing.result is not None and scorer.stats.failures == 1


def test_a_check_scores_text_without_an_end_and_changes_nothing(scorer: Scorer, toy_tagger: Tagger) -> None:
    monitor = Monitor(scorer, budget_s=20.0, context=CONTEXT)
    monitor.feed("Read the log. Then kill the pro")
    before = monitor.check("shell")
    assert before.scored and set(before.scores) == set(toy_tagger.checkpoint.taxonomy.tags)
    monitor.feed("cess, and report.")
    assert monitor.check("shell").scores != before.scores
    want = batch(toy_tagger, ["Read the log. Then kill the process, and report."], CONTEXT)
    assert_equal(monitor.close(timeout=60).result, want)


def test_nothing_to_read_is_not_clean(scorer: Scorer) -> None:
    monitor = Monitor(scorer)
    assert monitor.feed("  \n ") == []
    verdict = monitor.check("shell")
    assert verdict.action == "flag" and not verdict.scored and "nothing to read" in verdict.reasons[0]
    closing = monitor.close(timeout=30)
    assert closing.result is not None and not closing.result.readable


def test_a_closed_stream_refuses_text_and_a_closed_scorer_streams(toy_tagger: Tagger) -> None:
    scorer = Scorer(toy_tagger)
    monitor = Monitor(scorer)
    monitor.feed("Read the log.")
    assert monitor.close() is monitor.close()
    with pytest.raises(ValueError, match="open a new one"):
        monitor.feed("more")
    left = Monitor(scorer)
    left.feed("Kill the process. Then")
    scorer.close()
    closing = left.close(timeout=30)
    assert closing.result is None and "scorer was closed" in closing.not_scored[-1].reason
    with pytest.raises(RuntimeError, match="make a new one"):
        Monitor(scorer)


def test_alerts_begin_and_end_and_say_where(tmp_path: Path) -> None:
    """At a threshold of 0 every sentence raises every alert; at one above 1 none does."""
    for threshold, expected in ((0.0, True), (1.1, False)):
        tagger = load_tagger(make_checkpoint(tmp_path / str(threshold), threshold=threshold))
        with Scorer(tagger) as scorer:
            events, closing = run(scorer, [TEXT], [9])
        alerts = [event for event in events if isinstance(event, Alert)]
        assert bool(alerts) == expected
        for alert in alerts:
            assert alert.state == "onset" and closing.trace.text[alert.start : alert.end] == alert.text
            assert alert.tag in tagger.checkpoint.taxonomy.public and alert.n_tokens > 0


def test_awaitable_and_the_event_loop_goes_on(toy_tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def main() -> Closing:
        with Scorer(toy_tagger) as scorer:
            async with AsyncMonitor(scorer, budget_s=20.0, policy=Policy(name="empty", tags={})) as monitor:
                feeding = asyncio.create_task(monitor.feed("Read the log. Kill the process. "))
                while not gate.reached.is_set():
                    await asyncio.sleep(0.01)
                assert not feeding.done()  # the model is stopped, and yet this task runs
                gate.open.set()
                assert len(await feeding) >= 2
                assert (await monitor.check("shell")).action == "allow"
                return await monitor.close(timeout=30)

    assert asyncio.run(main()).result is not None


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was handed to threads."""
    handed: list[object] = []
    original = asyncio.to_thread

    async def to_thread(work: Callable[..., object], *arguments: object, **more: object) -> object:
        handed.append(work)
        return await original(work, *arguments, **more)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    return handed


def test_a_delta_inside_a_sentence_wakes_no_thread(scorer: Scorer, toy_tagger: Tagger, hops: list[object]) -> None:
    async def main() -> Closing:
        async with AsyncMonitor(scorer, budget_s=20.0, context=CONTEXT) as monitor:
            await monitor.feed("Read")
            # The scorer reads the head by itself as soon as it gets a turn, and a delta may wait for that.
            trace = monitor._monitor._trace
            while not trace.reading._head_cached or trace.waiting:
                await asyncio.sleep(0.01)
            hops.clear()
            for delta in [" the", *" log of version 3, and kill the process "]:
                assert await monitor.feed(delta) == []
            assert await monitor.poll() == [] and hops == []
            scored = [event for event in await monitor.feed("now!") if isinstance(event, SentenceScored)]
            assert [event.text[-4:] for event in scored] == ["now!"]
            assert len(hops) >= 1
            before = len(hops)
            await monitor.feed(" word" * 300)  # cutting a long text would hold the others up
            assert len(hops) > before
            return await monitor.close(timeout=60)

    text = "Read the log of version 3, and kill the process now!" + " word" * 300
    assert_equal(asyncio.run(main()).result, batch(toy_tagger, [text], CONTEXT))


@pytest.mark.parametrize("budget", [0.0, 20.0])
def test_awaited_text_gives_batch_scores(scorer: Scorer, toy_tagger: Tagger, budget: float) -> None:
    async def one(text: str) -> Closing:
        events: list[Event] = []
        async with AsyncMonitor(scorer, budget_s=budget, context=CONTEXT) as monitor:
            for block in (text, TEXT[:300]):
                for at in range(0, len(block), 3):
                    events += await monitor.feed(block[at : at + 3])
                events += await monitor.end_block()
            closing = await monitor.close(timeout=60)
        finals = [e.number for e in (*events, *closing.events) if isinstance(e, SentenceScored) and e.final]
        assert sorted(finals) == list(range(len(finals)))  # no event was lost, none came twice
        return closing

    async def main(texts: Sequence[str]) -> list[Closing]:
        return await asyncio.gather(*map(one, texts))

    texts = [TEXT[:400], TEXT[50:]]
    for text, closing in zip(texts, asyncio.run(main(texts)), strict=True):
        assert_equal(closing.result, batch(toy_tagger, [text, TEXT[:300]], CONTEXT))


def test_a_stream_that_a_scorer_is_at_does_not_hold_up_the_event_loop(scorer: Scorer) -> None:
    async def main() -> None:
        async with AsyncMonitor(scorer, budget_s=0.0) as monitor:
            held, done = threading.Event(), threading.Event()

            def hold() -> None:
                with monitor.monitor._trace.lock:
                    held.set()
                    assert done.wait(60)

            holder = threading.Thread(target=hold)
            holder.start()
            held.wait(60)
            feeding = asyncio.create_task(monitor.feed("Read"))
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert not feeding.done()  # it waits for the lock, and yet this task runs
            done.set()
            assert await feeding == []
            holder.join()

    asyncio.run(main())


def test_random_streams_on_the_shipped_checkpoint(tagger: Tagger) -> None:
    rng = random.Random(5)
    text = "".join(rng.sample(TEXT.split("\n"), 9)) + " " + TEXT
    with Scorer(tagger) as scorer:
        _, closing = run(scorer, [text, TEXT[:200]], [11, 60], context=CONTEXT)
    assert_equal(closing.result, batch(tagger, [text, TEXT[:200]], CONTEXT))
