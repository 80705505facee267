"""The clients of ``soak.py``: each does one thing to the service, again and again, and notes how it went.

What a client was told is held against ``EXPECTED``; what the service took in and did not answer in
full is noted as lost.
"""

import contextlib
import json
import os
import random
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

PATIENCE_S: Final = 120.0
IDLE_S: Final = 10.0
BODY_MIB: Final = 1
MAX_STREAMS: Final = 10
OPTIONS: Final = ("--idle-s", f"{IDLE_S:g}", "--max-body-mib", f"{BODY_MIB}", "--max-streams", f"{MAX_STREAMS}")
"""Of ``cot-probe serve``, so narrow that the clients reach the limits."""
_OVER_LIMIT: Final = BODY_MIB * 2**20 + 200_000
_GONE: Final = "the client went away, as meant"

EXPECTED: Final[dict[str, dict[str, str]]] = {
    "tag": {"200": "every item answered in its place", "429": "too much waits: come again"},
    "tag, body over the limit": {"413": "refused"},
    "tag, no JSON": {"400": "refused"},
    "tag, client leaves early": {"left": _GONE, "200": "the answer came before"},
    "tag, cut in the middle": {"cut": _GONE},
    "socket, closed": {"1000": "whole trace answered", "1013": "too many streams: come again"},
    "socket, slow reader": {"1000": "whole trace answered", "1013": "too many streams: come again"},
    "socket, malformed frames": {"1000": "each answered, trace whole", "1013": "too many streams: come again"},
    "socket, many malformed frames": {"1008": "closed: too many", "1013": "too many streams: come again"},
    "socket, frame over the limit": {
        "1009": "closed: too big",
        "1006": "the same, but reset before the client, still sending, had read why",
        "1013": "too many streams: come again",
    },
    "socket, silent": {"1000": "closed as idle, whole trace answered", "1013": "too many streams: come again"},
    "socket, killed": {"killed": _GONE},
    "stream, opened": {"201": "opened", "429": "too many streams: come again"},
    "stream, fed": {"200": "taken in"},
    "stream, body over the limit": {"413": "refused, nothing taken in"},
    "stream, checked": {"200": "verdict"},
    "stream, closed": {"200": "whole trace answered"},
    "stream, left open": {"200": "closed as idle, whole trace answered later"},
    "watcher": {"200": "followed events for a while"},
    "watcher that takes nothing": {"held": "was sent no end", "let go": "the service ended it"},
}
"""What may happen to each kind of client, and what it means."""


class Books:
    """What the clients sent and were told, all threads together."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.sums: Counter[str] = Counter()
        self.lost: list[str] = []
        self._lock = threading.Lock()

    def note(self, client: str, outcome: object, **sums: int) -> None:
        """An outcome, and what is added to which sum."""
        with self._lock:
            self.outcomes[client, str(outcome)] += 1
            self.sums.update(sums)

    def lose(self, what: str) -> None:
        """Accepted work that was not answered in full."""
        with self._lock:
            self.lost.append(what)

    @property
    def unexplained(self) -> list[str]:
        """Outcomes that are not in the table."""
        return [
            f"{client}: {outcome} ({count} times)"
            for (client, outcome), count in sorted(self.outcomes.items())
            if outcome not in EXPECTED.get(client, {})
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where the clients go, what they send, and until when (monotonic)."""

    url: str
    sockets: str
    place: tuple[str, int]
    traces: Sequence[tuple[str, str]]
    end: float
    books: Books
    left: "deque[tuple[float, str, str]]" = field(default_factory=deque)
    """Streams that nobody closed: when, id, text."""

    @property
    def over(self) -> bool:
        """Whether it is time to stop."""
        return time.monotonic() >= self.end

    def client(self, timeout: float = PATIENCE_S) -> httpx.Client:
        """A connection to the service."""
        return httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)


def repeat(turn: Callable[[Site, random.Random], None], site: Site, seed: int) -> None:
    """Take turns until the time is over; what a client did not foresee is an outcome too."""
    rng = random.Random(seed)
    while not site.over:
        try:
            turn(site, rng)
        except Exception as error:  # whatever it is, it is in the books, and in no table
            site.books.note(turn.__name__, f"{type(error).__name__}: {str(error)[:100]}")
            time.sleep(0.2)


def pieces(text: str, rng: random.Random) -> Iterator[str]:
    """The text as a model would write it."""
    at = 0
    while at < len(text):
        size = rng.randint(5, 60)
        yield text[at : at + size]
        at += size


def whole(result: dict[str, Any] | None, text: str) -> bool:
    """Whether a tagged trace holds all of a text, every sentence with its scores."""
    sentences = result["sentences"] if result else []
    return "".join(one["text"] for one in sentences) == text and all(one["scores"] for one in sentences)


# Whole traces


def tag(site: Site, rng: random.Random) -> None:
    """Records, now and then one that cannot be read among them."""
    sent = [rng.choice(site.traces) for _ in range(rng.randint(1, 5))]
    bad = rng.random() < 0.3
    items: list[Any] = [{"reasoning": text, "context": context} for context, text in sent] + [3] * bad
    with site.client() as client:
        answer = client.post("/v1/tag", json={"items": items})
    if answer.status_code != 200:
        site.books.note("tag", answer.status_code)
        return
    results = answer.json()["results"]
    site.books.note("tag", 200, traces=sum(len(one["traces"]) for one in results), rejected=bad)
    good = [len(one["traces"]) == 1 and one["error"] is None for one in results[: len(sent)]]
    if len(results) != len(items) or not all(good) or (bad and results[-1]["error"] is None):
        site.books.lose(f"tag: {len(items)} items sent, answered {[one['error'] for one in results]}")
    elif not all(whole(one["traces"][0], text) for one, (_, text) in zip(results, sent, strict=False)):
        site.books.lose("tag: an answer does not hold the text that was sent")
    time.sleep(0.05)


def tag_wrongly(site: Site, rng: random.Random) -> None:
    """Bodies that are too long or no JSON, clients that leave, requests that are cut."""
    how = rng.randrange(4)
    with site.client(0.05 if how == 2 else PATIENCE_S) as client:
        if how == 0:
            answer = client.post("/v1/tag", content=b"x" * _OVER_LIMIT)
            site.books.note("tag, body over the limit", answer.status_code)
        elif how == 1:
            answer = client.post("/v1/tag", content=b'{"items":[')
            site.books.note("tag, no JSON", answer.status_code)
        elif how == 2:
            long = "\n\n".join(text for _, text in rng.sample(site.traces, 5))
            left: object = "left"
            with contextlib.suppress(httpx.TimeoutException):
                left = client.post("/v1/tag", json={"items": [long] * 5}).status_code
            site.books.note("tag, client leaves early", left, traces_unseen=5)
    if how == 3:
        with socket.create_connection(site.place) as line:
            head = "POST /v1/tag HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n{"
            line.sendall(head.encode() + os.urandom(20))
            time.sleep(0.05)
        site.books.note("tag, cut in the middle", "cut")
    time.sleep(0.2)


# Streams over a WebSocket


def socket_stream(site: Site, rng: random.Random) -> None:
    """One stream, written well or badly."""
    mode = rng.choice([name for name in EXPECTED if name.startswith("socket, ")])
    context, text = rng.choice(site.traces)
    with connect(site.sockets, open_timeout=PATIENCE_S, max_size=None, proxy=None) as line:
        line.send(json.dumps({"type": "open", "name": "soak", "context": context}))
        checks = bad = 0
        with contextlib.suppress(ConnectionClosed):  # how it was closed is seen below
            for piece in pieces(text, rng):
                line.send(json.dumps({"type": "delta", "text": piece}))
                if rng.random() < 0.05:
                    line.send(json.dumps({"type": "check", "tool": "x", "id": str(checks)}))
                    checks += 1
                if mode == "socket, killed" and rng.random() < 0.05:
                    break
            bad = _misbehave(line, mode, rng)
        if mode == "socket, killed":
            _reset(line)
            site.books.note(mode, "killed", sockets_unseen=1, checks_unseen=checks)
            return
        told = list(_told(line))
    _judge(site, mode, line.protocol.close_code, told, text, checks, bad)


def _misbehave(line: ClientConnection, mode: str, rng: random.Random) -> int:
    """What this kind of client does at the end; how many malformed frames it sent."""
    bad = {"socket, malformed frames": rng.randint(1, 6), "socket, many malformed frames": 12}.get(mode, 0)
    for _ in range(bad):
        line.send(rng.choice(["{", "[]", b"\x00", '{"type":"delta","text":3}', '{"type":"no"}']))
    if mode == "socket, frame over the limit":
        line.send(json.dumps({"type": "delta", "text": "x" * _OVER_LIMIT}))
    if mode == "socket, slow reader":
        time.sleep(rng.uniform(0.5, 3.0))
    if mode != "socket, silent" and (mode != "socket, killed" or rng.random() < 0.5):
        line.send(json.dumps({"type": "close"}))
    return bad


def _told(line: ClientConnection) -> Iterator[dict[str, Any]]:
    """Events until the socket is closed."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield json.loads(line.recv(timeout=PATIENCE_S))


def _reset(line: ClientConnection) -> None:
    """Kill a connection: no closing frame, a TCP reset."""
    with contextlib.suppress(OSError):  # the service may have closed it before
        line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.socket.shutdown(socket.SHUT_RD)
    line.socket.close()


def _judge(
    site: Site, mode: str, code: int | None, told: Sequence[dict[str, Any]], text: str, checks: int, bad: int
) -> None:
    """Note how a socket ended, and whether all that it had sent was answered."""
    events = Counter(event["event"] for event in told)
    opened = "opened" in events
    by_client = code == 1000 and mode != "socket, silent"
    site.books.note(
        mode,
        code,
        sockets_opened=opened,
        closed_by_client=by_client,
        closed_as_idle=code == 1000 and not by_client,
        closed_otherwise=opened and code != 1000,
        verdicts=events["verdict"],
        checks_unseen=checks - events["verdict"] if code != 1000 else 0,
        events_missed=sum(event["count"] for event in told if event["event"] == "missed"),
        shed=_shed(told, "provisional"),
        late=_shed(told, "final"),
    )
    if code != 1000:
        return
    if events["verdict"] != checks or events["error"] != bad:
        site.books.lose(f"{mode}: {checks} checks and {bad} bad frames sent, answered {dict(events)}")
    if told[-1]["event"] != "result" or not whole(told[-1]["result"], text):
        site.books.lose(f"{mode}: no result, or not of the whole text: last event {told[-1]['event']}")


def _shed(told: Sequence[dict[str, Any]], stage: str) -> int:
    missed = (event for event in told if event["event"] == "not_scored" and event["stage"] == stage)
    return sum(event["last"] - event["first"] + 1 for event in missed)


# Streams over HTTP


def http_stream(site: Site, rng: random.Random) -> None:
    """One stream, closed or left to itself."""
    collect(site)
    context, text = rng.choice(site.traces)
    with site.client() as client:
        opened = client.post("/v1/streams", json={"context": context, "name": "soak"})
        site.books.note("stream, opened", opened.status_code, streams_opened=opened.status_code == 201)
        if opened.status_code != 201:
            time.sleep(0.2)
            return
        path = f"/v1/streams/{opened.json()['id']}"
        for piece in pieces(text, rng):
            site.books.note("stream, fed", client.post(path, json={"text": piece}).status_code)
            if rng.random() < 0.02:
                answer = client.post(path, json={"text": "x" * _OVER_LIMIT})
                site.books.note("stream, body over the limit", answer.status_code)
            if rng.random() < 0.05:
                answer = client.post(f"{path}/check", json={"tool": "x"})
                site.books.note("stream, checked", answer.status_code, verdicts=answer.status_code == 200)
        if rng.random() < 0.5:
            site.left.append((time.monotonic(), path, text))
            return
        _close(client, site, "stream, closed", path, text, "closed_by_client")


def collect(site: Site, *, all_of_them: bool = False) -> None:
    """Ask for the results of streams that the service has closed by itself by now."""
    while site.left and (all_of_them or time.monotonic() - site.left[0][0] > 3 * IDLE_S):
        try:
            since, path, text = site.left.popleft()
        except IndexError:  # another client was quicker
            return
        time.sleep(max(0.0, since + 3 * IDLE_S - time.monotonic()))
        with site.client() as client:
            _close(client, site, "stream, left open", path, text, "closed_as_idle")


def _close(client: httpx.Client, site: Site, name: str, path: str, text: str, cause: str) -> None:
    answer = client.post(f"{path}/close")
    site.books.note(name, answer.status_code, **{cause: 1})
    if answer.status_code == 200 and not whole(answer.json()["result"], text):
        site.books.lose(f"{name}: no result, or not of the whole text")


# Watchers


def watcher(site: Site, rng: random.Random) -> None:
    """Follows all events for a few seconds, sometimes slowly, then leaves."""
    leave = time.monotonic() + rng.uniform(1, 5)
    with site.client() as client:
        after = client.get("/v1/streams").json()["last_event"]
        with client.stream("GET", "/v1/events", params={"after": after}) as answer:
            site.books.note("watcher", answer.status_code)
            for _ in answer.iter_lines():
                if rng.random() < 0.01:
                    time.sleep(0.2)
                if time.monotonic() > leave or site.over:
                    return


def stuck_watcher(site: Site, rng: random.Random) -> None:
    """Asks for events and takes none, for longer than a reader is given."""
    with socket.create_connection(site.place) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.sendall(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        stop = time.monotonic() + rng.uniform(20, 60)
        while time.monotonic() < stop and not site.over:
            time.sleep(0.5)
        try:
            line.sendall(b" ")
            time.sleep(0.05)
            line.sendall(b" ")
        except OSError:
            site.books.note("watcher that takes nothing", "let go")
        else:
            site.books.note("watcher that takes nothing", "held")


CREW: Final = (*[tag] * 3, tag_wrongly, *[socket_stream] * 6, *[http_stream] * 2, *[watcher] * 2, stuck_watcher)
"""Who is at work at the same time."""
