"""Half an hour of rough handling of ``cot-probe serve``: does it leak, lose work, or fail unexplained?

    python benchmarks/soak.py --minutes 30 [--checkpoint FOLDER] [--every 5] [--seed 0] [--log FILE]

A real service runs in a process of its own, on loopback, with narrow limits. Clients in threads
(``soak_clients.py``) tag test traces in bulk and write them as streams over WebSocket and HTTP; they
also send bodies and frames over the limit, broken JSON and malformed frames, leave before the
answer, cut requests in the middle, kill connections, read slowly or not at all, leave streams open,
follow events. All cores are busy throughout: times measured meanwhile mean nothing, and none is told.

Told at the end: memory of the service by fifth of the run, all outcomes at the clients and all
answers by the service's own count, with what they mean, and whether the two agree. Every text that
was accepted from a client who stayed is looked for, to the letter, in the answer. The exit code is 1

* if an outcome, an answer or a line of the service's log is in no table of expected ones,
* if accepted work was lost, or the counts of both sides do not agree, or something is still held
  once all clients have gone,
* if the median memory of the last fifth is over that of the second by more than 5 % (below ten
  minutes, while caches still fill, that says little).
"""

import argparse
import json
import logging
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from served import Sample, Served, served, total
from soak_clients import CREW, EXPECTED, OPTIONS, Books, Site, collect, repeat

from cot_probe.annotations import load_split

ANNOTATIONS: Final = Path(__file__).resolve().parent.parent / "annotations"
MOST_GROWTH: Final = 0.05
_SETTLE_S: Final = 120.0

ANSWERS: Final[dict[str, dict[str, str]]] = {
    "/v1/tag": {
        "200": "answered",
        "400": "no JSON",
        "413": "over the limit",
        "429": "too much waits",
        "499": "the client had gone",
    },
    "/v1/stream": {"101": "a socket"},
    "/v1/streams": {"200": "listed", "201": "opened", "429": "too many streams"},
    "/v1/streams/{id}": {"200": "taken in", "413": "over the limit"},
    "/v1/streams/{id}/check": {"200": "verdict"},
    "/v1/streams/{id}/close": {"200": "result"},
    "/v1/events": {"200": "followed"},
    "/metrics": {"200": "figures for this table"},
}
"""What the service may answer, by its own count."""
LINES: Final = {
    "alert": "a sentence or trace reached a threshold",
    "verdict": "a call would be flagged or held",
    "not scored": "scores given up under load, told to the client",
    "socket.send() raised exception.": "asyncio: written to a connection that its client had just killed",
}
"""Warnings that its log may hold; errors it may not, but those that follow from another line."""
FOLLOWS: Final = {"ASGI callable returned without completing response.": "a reader took nothing and was let go"}
"""What uvicorn calls an error, and what the service told before: at most as often as that, it is explained."""
EMPTY: Final = ("streams_open", "readers", "queued_chars", "held_chars", "scorer_queued_tokens", "scorer_failures")
"""Figures that have to be 0 once all clients have gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The service's process at one moment: seconds into the run, resident memory in MiB, descriptors, threads."""

    at: float
    memory: float
    files: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """One thing by both counts: the service's has to lie between what the clients know of and what may be besides."""

    what: str
    low: int
    high: int
    found: int

    @property
    def agrees(self) -> bool:
        """Whether it does."""
        return self.low <= self.found <= self.high


def moment(pid: int, begun: float) -> Moment:
    """Look at a process (Linux)."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text("ascii").splitlines())
    return Moment(
        at=time.monotonic() - begun,
        memory=int(status["VmRSS"].split()[0]) / 1024,
        files=len(list((proc / "fd").iterdir())),
        threads=int(status["Threads"]),
    )


def fifths(moments: Sequence[Moment], seconds: float) -> list[list[Moment]]:
    """The moments by fifth of the run."""
    parts: list[list[Moment]] = [[] for _ in range(5)]
    for one in moments:
        parts[min(4, int(5 * one.at / seconds))].append(one)
    if not all(parts):
        raise SystemExit("too few samples of memory: give a smaller --every or more --minutes")
    return parts


def memory_table(parts: Sequence[Sequence[Moment]]) -> str:
    """Memory by fifth."""
    lines = [
        "| fifth | samples | memory MiB, least | median | most | descriptors, most | threads, most |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, part in enumerate(parts, 1):
        memory = [one.memory for one in part]
        lines.append(
            f"| {number} | {len(part)} | {min(memory):.1f} | {statistics.median(memory):.1f} | {max(memory):.1f} | "
            f"{max(one.files for one in part)} | {max(one.threads for one in part)} |"
        )
    return "\n".join(lines)


def outcome_table(books: Books) -> str:
    """What happened to the clients, how often, and what it means."""
    lines = ["| client | outcome | times | |", "|---|---|---|---|"]
    for (client, outcome), count in sorted(books.outcomes.items()):
        lines.append(f"| {client} | {outcome} | {count:,} | {EXPECTED.get(client, {}).get(outcome, '**?**')} |")
    return "\n".join(lines)


def answer_table(answers: Counter[tuple[str, str]]) -> str:
    """What the service answered, by its own count."""
    lines = ["| path | status | times | |", "|---|---|---|---|"]
    for (path, status), count in sorted(answers.items()):
        lines.append(f"| {path} | {status} | {count:,} | {ANSWERS.get(path, {}).get(status, '**?**')} |")
    return "\n".join(lines)


def answers_in(figures: Sequence[Sample]) -> Counter[tuple[str, str]]:
    """Answers by path and status."""
    return Counter(
        {(one.labels["route"], one.labels["status"]): int(one.value) for one in figures if one.name == "requests_total"}
    )


def counts(books: Books, figures: Sequence[Sample]) -> list[Count]:
    """Both sides' counts of the same things. What clients did not wait to see may or may not have happened."""
    sums = books.sums
    unseen = sums["sockets_unseen"]

    def of(what: str, name: str, low: int, more: int = 0, **labels: str) -> Count:
        return Count(what=what, low=low, high=low + more, found=int(total(figures, name, **labels)))

    opened, closed = "streams_opened_total", "streams_closed_total"
    return [
        of("traces tagged", "traces_total", sums["traces"], sums["traces_unseen"]),
        of("records that cannot be read", "rejected_records_total", sums["rejected"]),
        of("traces that failed", "failed_traces_total", 0),
        of("traces given up as the client had gone", "abandoned_traces_total", 0, sums["traces_unseen"]),
        of("streams opened over HTTP", opened, sums["streams_opened"], door="http"),
        of("streams opened by sockets", opened, sums["sockets_opened"], unseen, door="websocket"),
        of("streams closed, all", closed, int(total(figures, opened))),
        of("streams closed by their client", closed, sums["closed_by_client"], unseen, cause="client"),
        of("streams closed as idle", closed, sums["closed_as_idle"], cause="idle"),
        of("streams whose client had gone", closed, sums["closed_otherwise"], unseen, cause="disconnected"),
        of("streams that failed", closed, 0, cause="fault"),
        of("verdicts", "verdicts_total", sums["verdicts"], sums["checks_unseen"]),
        *(of(f"left at the end: {name}", name, 0) for name in EMPTY),
    ]


def count_table(rows: Sequence[Count]) -> str:
    """Both counts."""
    lines = ["| | clients | service | |", "|---|---|---|---|"]
    for row in rows:
        span = f"{row.low:,}" if row.low == row.high else f"{row.low:,} to {row.high:,}"
        lines.append(f"| {row.what} | {span} | {row.found:,} | {'agrees' if row.agrees else '**differs**'} |")
    return "\n".join(lines)


def log_faults(log: Path) -> list[str]:
    """Lines of the service's log that are errors, unknown warnings or no JSON, each kind with its count."""
    kinds: Counter[str] = Counter()
    events: Counter[str] = Counter()
    with log.open(encoding="utf-8") as lines:
        for raw in lines:
            try:
                line = json.loads(raw)
            except ValueError:
                kinds[f"no JSON: {raw.strip()[:200]}"] += 1
                continue
            events[line["event"]] += 1
            if events[line["event"]] <= events[FOLLOWS.get(line["event"], "")]:
                continue
            if line["level"] == "info" or (line["level"] == "warning" and line["event"] in LINES):
                continue
            kinds[f"{line['level']}: {line['event']} {line.get('fault', '')} {line.get('path', '')}".rstrip()] += 1
    return [f"log: {kind} ({count} times)" for kind, count in kinds.items()]


def settle(service: Served) -> list[Sample]:
    """The service's figures, once nothing is left or the time for that is over."""
    end = time.monotonic() + _SETTLE_S
    while True:
        figures = service.figures()
        if time.monotonic() > end or not any(total(figures, name) for name in EMPTY):
            return figures
        time.sleep(0.5)


def handle_roughly(service: Served, arguments: argparse.Namespace) -> tuple[Books, list[Moment]]:
    """Let the clients at it, and look at the service's process meanwhile."""
    traces = [(record.context, record.text) for record in load_split(ANNOTATIONS, "test")]
    begun = time.monotonic()
    site = Site(
        url=service.url,
        sockets=service.sockets,
        place=service.place,
        traces=traces,
        end=begun + 60 * arguments.minutes,
        books=Books(),
    )
    rng = random.Random(arguments.seed)
    threads = [threading.Thread(target=repeat, args=(turn, site, rng.randrange(2**32))) for turn in CREW]
    for thread in threads:
        thread.start()
    moments: list[Moment] = []
    while not site.over:
        time.sleep(max(0.0, min(begun + arguments.every * (len(moments) + 1), site.end) - time.monotonic()))
        if service.process.poll() is not None:
            raise SystemExit(f"the service ended during the run, exit code {service.process.returncode}")
        moments.append(moment(service.process.pid, begun))
    for thread in threads:
        thread.join()
    collect(site, all_of_them=True)
    return site.books, moments


def run(arguments: argparse.Namespace, log: Path) -> list[str]:
    """The whole run; prints the tables, returns what should not have been."""
    options = [*OPTIONS, *(["--checkpoint", str(arguments.checkpoint)] if arguments.checkpoint else [])]
    with served(options, log=log) as service:
        books, moments = handle_roughly(service, arguments)
        figures = settle(service)
        code = service.stop()
    parts, answers, both = fifths(moments, 60 * arguments.minutes), answers_in(figures), counts(books, figures)
    shed = ", ".join(f"{books.sums[name]:,} {stage}" for name, stage in (("shed", "provisional"), ("late", "final")))
    print(memory_table(parts), outcome_table(books), answer_table(answers), count_table(both), sep="\n\n")
    print(f"\nScores given up under load, and told (sockets): {shed}; events that slow readers missed, and were told:")
    print(f"{books.sums['events_missed']:,} (sockets), {total(figures, 'events_missed_total'):,.0f} (all readers).")
    second, last = (statistics.median(one.memory for one in part) for part in (parts[1], parts[4]))
    growth = last / second - 1
    print(f"\nMedian memory, last fifth against second: {100 * growth:+.1f} %. Exit code of the service: {code}.")
    odd = [f"{path}: {status}" for path, status in answers if status not in ANSWERS.get(path, {})]
    faults = [
        *(f"unexplained: {what}" for what in (*books.unexplained, *odd, *log_faults(log))),
        *(f"lost: {what}" for what in books.lost),
        *(f"counts differ: {row.what}" for row in both if not row.agrees),
    ]
    if growth > MOST_GROWTH:
        faults.append(f"memory grew by {100 * growth:.1f} %, over {100 * MOST_GROWTH:g} %")
    if code:
        faults.append(f"the service ended with {code}, expected 0")
    return faults


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks at the service's memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="keep the service's log here")
    arguments = parser.parse_args()
    logging.getLogger("websockets").setLevel(logging.CRITICAL + 1)  # the clients' own, of connections they killed
    with tempfile.TemporaryDirectory() as folder:
        faults = run(arguments, arguments.log or Path(folder) / "service.log")
    print("\n".join(("", *faults[:100])) if faults else "\nNothing unexplained, nothing lost, memory flat.")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
