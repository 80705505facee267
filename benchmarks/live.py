"""The live monitor: time from a sentence's last character to its score, and how many streams it bears.

    python benchmarks/live.py --streams 1 50 --seconds 60 [--checkpoint FOLDER] [--bf16] [--rate 40] [--server]

Written test traces are fed token by token, so many a second and stream, as a model would write
them. For each number of streams the table gives the latency of provisional scores (median, 99th
percentile), of the final ones, sentences given up, and the tokens encoded for each token of
reasoning. The rival, in the same run, tags the whole text so far anew at each sentence end.

With ``--server`` the streams go over WebSockets to a ``cot-probe serve`` in a process of its own, on
the same machine, each stream with its own beat. Latency is then what a client sees: from sending
the token with a sentence's last character until its event has arrived and been parsed.
"""

import argparse
import asyncio
import bisect
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from served import served
from websockets.asyncio.client import ClientConnection, connect

from cot_probe.alerts import NotScored, SentenceScored
from cot_probe.annotations import load_split
from cot_probe.monitor import Monitor
from cot_probe.scoring import Scorer
from cot_probe.sentences import split
from cot_probe.tagger import Tagger, load_tagger

ANNOTATIONS = Path(__file__).resolve().parent.parent / "annotations"


@dataclass(slots=True)
class Seen:
    """What the streams said. A sentence read again in a new window has had its provisional score already."""

    provisional: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    missed: int = 0
    known: set[tuple[str, int, str]] = field(default_factory=set)

    def scored(self, event: SentenceScored) -> None:
        """Note the latency of a sentence's final score, or of its first provisional one as it now reads."""
        known = (event.stream, event.number, event.text.rstrip())
        if event.final:
            self.final.append(1000 * event.seconds)
        elif known not in self.known:
            self.known.add(known)
            self.provisional.append(1000 * event.seconds)

    def take(self, events: Sequence[object]) -> None:
        """Note the latencies of some events."""
        for event in events:
            if isinstance(event, SentenceScored):
                self.scored(event)
            elif isinstance(event, NotScored):
                self.missed += event.last - event.first + 1


@dataclass(slots=True)
class Heard:
    """What sockets were told: latencies in milliseconds, sentences given up, tokens sent and how late at most."""

    provisional: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    missed: int = 0
    gone: list[dict[str, Any]] = field(default_factory=list)
    fed: int = 0
    late: float = 0.0


def tokens_of(tagger: Tagger, text: str) -> list[str]:
    """The text cut where the tokenizer begins a token; white space goes with the token behind it."""
    encoded = tagger.checkpoint.tokenizer.fast.encode(text, add_special_tokens=False)
    starts = [begin for begin, _ in encoded.offsets]
    cuts = [0, *(begin for before, begin in itertools.pairwise(starts) if begin > before), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(dict.fromkeys(cuts))]


def endless(tagger: Tagger, traces: Sequence[tuple[str, str]], seed: int) -> Iterator[tuple[str, list[str]]]:
    """Traces as (context, tokens), again and again in another order."""
    rng = random.Random(seed)
    while True:
        for context, text in rng.sample(traces, len(traces)):
            yield context, tokens_of(tagger, text)


def drive(tagger: Tagger, traces: Sequence[tuple[str, str]], arguments: argparse.Namespace, streams: int) -> str:
    """Feed ``streams`` streams for a while; a row of the table."""
    seen, fed = Seen(), 0
    sources = [endless(tagger, traces, seed) for seed in range(streams)]
    with Scorer(tagger) as scorer:
        current = []
        for number, source in enumerate(sources):
            context, tokens = next(source)
            current.append((Monitor(scorer, id=str(number), context=context, budget_s=0.0), iter(tokens)))
        begun = time.monotonic()
        late = 0.0
        for tick in itertools.count():
            due = begun + tick / arguments.rate
            if due - begun > arguments.seconds:
                break
            time.sleep(max(0.0, due - time.monotonic()))
            late = max(late, time.monotonic() - due)
            for at, (monitor, tokens) in enumerate(current):
                token = next(tokens, None)
                if token is None:
                    seen.take(monitor.close().events)
                    context, more = next(sources[at])
                    current[at] = (Monitor(scorer, id=str(at), context=context, budget_s=0.0), iter(more))
                    continue
                seen.take(monitor.feed(token))
                fed += 1
        for monitor, _ in current:
            seen.take(monitor.close().events)
        stats = scorer.stats
    encoded = (stats.tokens_provisional + stats.tokens_final) / fed
    return (
        f"| {streams} | {fed:,} | {len(seen.provisional):,} | {_point(seen.provisional, 50):.1f} | "
        f"{_point(seen.provisional, 99):.1f} | {_point(seen.final, 50):,.0f} | {seen.missed} | {encoded:.2f} | {1000 * late:.0f} |"
    )


def rival(tagger: Tagger, traces: Sequence[tuple[str, str]], sentences: int) -> list[float]:
    """Milliseconds to tag the text so far anew, at each sentence end of some traces."""
    spent: list[float] = []
    for context, text in traces:
        for sentence in split(text):
            begun = time.monotonic()
            tagger.tag(text[: sentence.end], context=context)
            spent.append(1000 * (time.monotonic() - begun))
            if len(spent) >= sentences:
                return spent
    return spent


def alone(tagger: Tagger, traces: Sequence[tuple[str, str]], sentences: int) -> list[float]:
    """The monitor's latencies on the same sentences, one after the other, waiting for each."""
    seen = Seen()
    with Scorer(tagger) as scorer:
        for context, text in traces:
            monitor = Monitor(scorer, context=context, budget_s=10.0)
            for sentence in split(text):
                seen.take([e for e in monitor.feed(sentence.text) if getattr(e, "final", True) is False])
            monitor.close()
            if len(seen.provisional) >= sentences:
                break
    return seen.provisional


class Clock:
    """Notes of one stream when which character was sent; tells how long an event took."""

    def __init__(self) -> None:
        self.ends: list[int] = []
        self.times: list[float] = []

    def sent(self, text: str) -> None:
        """This text is being sent now."""
        self.ends.append((self.ends[-1] if self.ends else 0) + len(text))
        self.times.append(time.monotonic())

    def since(self, event: dict[str, Any]) -> float:
        """Milliseconds since the last character of the event's sentence, white space behind it left out."""
        last = event["start"] + len(event["text"].rstrip())
        return 1000 * (time.monotonic() - self.times[bisect.bisect_left(self.ends, last)])


async def write(
    line: ClientConnection, tokens: Sequence[str], dues: Iterator[float], clock: Clock, seen: Heard
) -> None:
    """Send one trace token by token, each when it is due, as long as anything is."""
    for token, due in zip(tokens, dues, strict=False):
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        seen.late = max(seen.late, time.monotonic() - due)
        clock.sent(token)
        await line.send(json.dumps({"type": "delta", "text": token}))
        seen.fed += 1
    await line.send(json.dumps({"type": "close"}))


async def hear(line: ClientConnection, clock: Clock, seen: Heard) -> None:
    """Note every event of a socket, until the service closes it."""
    async for message in line:
        event = json.loads(message)
        if event["event"] == "sentence_scored":
            (seen.final if event["final"] else seen.provisional).append(clock.since(event))
        elif event["event"] == "not_scored":
            seen.missed += event["last"] - event["first"] + 1
        elif event["event"] in ("missed", "error"):
            seen.gone.append(event)
    if line.close_code != 1000:
        raise SystemExit(f"a socket was closed with {line.close_code}: {line.close_reason}")


async def drive_served(
    url: str, sources: Sequence[Iterator[tuple[str, list[str]]]], seconds: float, rate: float
) -> str:
    """As :func:`drive`, over sockets."""
    seen = Heard()
    begun = time.monotonic() + 0.5
    end = begun + seconds

    async def one(number: int, source: Iterator[tuple[str, list[str]]]) -> None:
        """One stream: a trace after the other; what the last one is still told comes beside the next."""
        hearing = []
        first = begun + number / len(sources) / rate
        while first + 1 / rate < end:
            context, tokens = next(source)
            line, clock = await connect(url, max_size=None, max_queue=None, compression=None, proxy=None), Clock()
            hearing.append(asyncio.create_task(hear(line, clock, seen)))
            await line.send(json.dumps({"type": "open", "context": context}))
            first = max(first, time.monotonic())
            dues = itertools.takewhile(lambda due: due < end, itertools.count(first, 1 / rate))
            await write(line, tokens, dues, clock, seen)
            first += len(tokens) / rate
        await asyncio.gather(*hearing)

    await asyncio.gather(*(one(number, source) for number, source in enumerate(sources)))
    if seen.gone:
        raise SystemExit(f"{len(seen.gone)} events went by unread or were errors, the first: {seen.gone[0]}")
    return (
        f"| {len(sources)} | {seen.fed:,} | {len(seen.provisional):,} | {_point(seen.provisional, 50):.1f} | "
        f"{_point(seen.provisional, 99):.1f} | {_point(seen.final, 50):,.0f} | {seen.missed} | {1000 * seen.late:.0f} |"
    )


def through_the_server(tagger: Tagger, traces: Sequence[tuple[str, str]], arguments: argparse.Namespace) -> None:
    """The table for streams over sockets."""
    options = ["--checkpoint", str(arguments.checkpoint)] if arguments.checkpoint else []
    options += ["--bf16"] if arguments.bf16 else []
    options += ["--max-streams", str(2 * max(arguments.streams))]
    print(
        "| streams | tokens sent | provisional scores | median ms | p99 ms | final, median ms | not scored | sender late, ms |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, served(options, log=Path(folder) / "service.log") as service:
        for streams in arguments.streams:
            sources = [endless(tagger, traces, seed) for seed in range(streams)]
            print(asyncio.run(drive_served(service.sockets, sources, arguments.seconds, arguments.rate)), flush=True)


def _point(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=40.0, help="tokens a second and stream")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--sentences", type=int, default=200, help="sentences for the comparison with the rival")
    parser.add_argument("--server", action="store_true", help="through a served checkpoint, over WebSockets")
    arguments = parser.parse_args()
    tagger = load_tagger(arguments.checkpoint, bf16=arguments.bf16)
    records = [record for record in load_split(ANNOTATIONS, "test") if len(record.text) > 600]
    traces = [(record.context, record.text) for record in records]
    if arguments.server:
        through_the_server(tagger, traces, arguments)
        return
    ours, theirs = alone(tagger, traces, arguments.sentences), rival(tagger, traces, arguments.sentences)
    print("| one sentence after the other | median ms | p99 ms |\n|---|---|---|")
    for name, spent in (("monitor", ours), ("whole text tagged anew", theirs)):
        print(f"| {name} | {_point(spent, 50):.1f} | {_point(spent, 99):.1f} |")
    print(f"\nThe rival takes {statistics.fmean(theirs) / statistics.fmean(ours):.1f} times as long on average.\n")
    print(
        "| streams | tokens fed | provisional scores | median ms | p99 ms | final, median ms | not scored | "
        "tokens encoded for each | feeder late, ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for streams in arguments.streams:
        print(drive(tagger, traces, arguments, streams), flush=True)


if __name__ == "__main__":
    main()
