"""A proxy in front of the fake API, with a monitor that needs no model, for the tests of the proxy."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anthropic
import httpx
import openai
import pytest
from proxy_upstream import (
    PLAN,
    SYSTEM,
    USER,
    FakeApi,
    Reply,
    chat_body,
    chat_stream,
    json_reply,
    message_body,
    message_content,
    message_stream,
    response_body,
    response_items,
    response_stream,
    served,
)

from cot_probe.gate import Action, Evidence, Limits, Policy, Verdict
from cot_probe.monitor import Closing
from cot_probe.proxy.app import Proxy, proxy_app
from cot_probe.proxy.exchange import ProtocolName
from cot_probe.proxy.reading import Opening, Watch, Watches
from cot_probe.proxy.recorder import Recorder
from cot_probe.proxy.store import Store, StoredTrace, read_store
from cot_probe.proxy.upstream import ProxyOptions
from cot_probe.transcripts import Trace

SECRET = "sk-this-must-be-nowhere"
POLICY = Policy(name="test", tags={"strategic_harm": Limits(hold=0.5)}, on_not_scored="hold", on_unreadable="flag")
OPEN = Policy(name="open", tags={}, on_not_scored="allow", on_unreadable="allow")
SHAPES: dict[ProtocolName, str] = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
READING = ["read_logs", {"day": 1}]
TURNS = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}]
ASKED = {"model": "probe-1", "messages": TURNS}
CONTEXT = f"{SYSTEM}\n\n{USER}"


@dataclass
class Plain:
    """A monitor without a model: holds any call but ``read_…`` once the text tells of the shutdown script."""

    opening: Opening
    policy: Policy = POLICY
    wait_s: float = 0.0
    fails: bool = False
    always: Action | None = None
    text: str = ""
    blocks: int = 0

    async def feed(self, delta: str) -> list[Any]:
        if self.fails:
            raise RuntimeError(f"no model can read {delta}")
        self.text += delta
        return []

    async def end_block(self) -> list[Any]:
        self.blocks += 1
        return []

    async def check(self, tool: str = "", *, budget_s: float | None = None) -> Verdict:
        await asyncio.sleep(self.wait_s)
        found = "shutdown script" in self.text and not tool.startswith("read_")
        evidence = Evidence(number=0, start=0, end=1, text=PLAN, tag="strategic_harm", score=0.9)
        readable = bool(self.text.strip())
        return Verdict(
            action=self.always or ("hold" if found else ("allow" if readable else self.policy.on_unreadable)),
            reasons=("it plans to",) if found else (),
            tags=("strategic_harm",) if found else (),
            scores={"strategic_harm": 0.9 if found else 0.1},
            evidence=(evidence,) if found else (),
            scored=readable,
            policy="test",
            tool=tool,
        )

    async def close(self, *, timeout: float | None = None) -> Closing:
        return Closing(events=(), result=None, not_scored=(), trace=Trace(id="", blocks=()))


@dataclass
class Made:
    """Makes monitors, and keeps them."""

    settings: dict[str, Any] = field(default_factory=dict)
    monitors: list[Plain] = field(default_factory=list)

    def __call__(self, opening: Opening) -> Watches:
        self.monitors.append(Plain(opening, **self.settings))
        return self.monitors[-1]


@dataclass
class Run:
    """A proxy in front of the fake API, both on loopback."""

    url: str
    api: FakeApi
    proxy: Proxy
    made: Made
    path: Path

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=SECRET, max_retries=0, timeout=20)

    @property
    def anthropic(self) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.url, api_key=SECRET, max_retries=0, timeout=20)

    def settled(self) -> int:
        """How many rows the store has, once those of earlier calls are written."""
        count, since = -1, 0.0
        while time.monotonic() - since < 0.5:
            if (now := len(list(read_store(self.path)))) != count:
                count, since = now, time.monotonic()
            time.sleep(0.02)
        return count

    def stored(self, count: int) -> list[StoredTrace]:
        """The rows of the store, once there are so many."""
        end = time.monotonic() + 20
        while len(found := list(read_store(self.path))) < count:
            assert time.monotonic() < end, f"{len(found)} rows, expected {count}"
            time.sleep(0.01)
        assert len(found) == count
        return found


@contextmanager
def running(
    folder: Path,
    *,
    make: Callable[[Opening], Watches] | None = None,
    options: Mapping[str, Any] | None = None,
    **watch: Any,
) -> Iterator[Run]:
    api, made = FakeApi(), Made()
    arguments: dict[str, Any] = {"policy": POLICY, "budget_s": 5.0} | watch
    with pytest.MonkeyPatch.context() as patch, served(api) as upstream:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.delenv(name, raising=False)
            patch.delenv(name.lower(), raising=False)
        path = folder / "store.sqlite"
        settings_ = ProxyOptions(upstream=upstream, **(options or {}))
        app = proxy_app(settings_, Watch(make=make or made, **arguments), Recorder(Store(path)))
        with served(app) as url:
            yield Run(url=url, api=api, proxy=app.state.proxy, made=made, path=path)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with running(tmp_path_factory.mktemp("reading")) as run:
        yield run


@pytest.fixture(scope="module")
def gating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with running(tmp_path_factory.mktemp("gating"), gate=True) as run:
        yield run


def stream_of(
    protocol: ProtocolName, text: str = PLAN, calls: Sequence[Any] = (), *, kind: str = "reasoning"
) -> list[bytes]:
    if protocol == "chat":
        return chat_stream(kind, text, calls=calls)
    if protocol == "messages":
        return message_stream(message_content(text, calls=calls))
    return response_stream(response_items(text, calls=calls))


def body_of(protocol: ProtocolName, text: str = PLAN, calls: Sequence[Any] = ()) -> dict[str, Any]:
    if protocol == "chat":
        return chat_body("reasoning", text, calls=calls)
    if protocol == "messages":
        return message_body(message_content(text, calls=calls))
    return response_body(response_items(text, calls=calls))


def last(run: Run) -> StoredTrace:
    """The newest row, once everything is written."""
    end = time.monotonic() + 20
    while run.proxy.counts.open or run.proxy.finishing:
        assert time.monotonic() < end
        time.sleep(0.005)
    return max(read_store(run.path), key=lambda one: one.row.started)


def comment_in(text: str) -> dict[str, Any]:
    before, mark, said = text.rpartition(": cot-probe ")
    assert mark and before[-1:] in "\r\n" and said.endswith("\n\n")
    return cast(dict[str, Any], json.loads(said))


# Without a network: an application called directly, an upstream of given pieces.


class GivenPieces(httpx.AsyncBaseTransport):
    def __init__(self, given_pieces: Sequence[bytes], headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.pieces, self.headers = given_pieces, headers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()

        async def body() -> AsyncIterator[bytes]:
            for piece in self.pieces:
                yield piece

        return httpx.Response(200, headers=list(self.headers), content=body())


async def through(
    sent: Sequence[bytes],
    *,
    path: str = "/v1/chat/completions",
    headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"text/event-stream"),),
    annotate: bool = False,
    made: Made | None = None,
    **watch: Any,
) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """What the client gets of the upstream's pieces: the pieces of the body, and the headers."""
    out: list[dict[str, Any]] = []
    asked = [{"type": "http.request", "body": json.dumps(ASKED).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        out.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [(b"content-type", b"application/json"), (b"content-length", b"9")]}
    async with httpx.AsyncClient(transport=GivenPieces(sent, headers)) as client:
        options = ProxyOptions(upstream="http://upstream", annotate=annotate)
        arguments: dict[str, Any] = {"policy": POLICY, "budget_s": 5.0} | watch
        proxy = Proxy(options, Watch(make=made or Made(), **arguments), Recorder(None), client)
        await proxy(scope, receive, send)
        await proxy.finished()
    assert out[-1]["more_body"] is False
    return [message["body"] for message in out[1:]], out[0]["headers"]


def final_of(run: Run, protocol: ProtocolName, *, stream: bool, url: str = "") -> Any:
    """The answer as the provider's own client gives it."""
    if protocol == "messages":
        client = run.anthropic.with_options(base_url=url or None) if url else run.anthropic
        asked: dict[str, Any] = {"model": "m", "max_tokens": 99, "system": SYSTEM}
        asked["messages"] = [{"role": "user", "content": USER}]
        if not stream:
            return client.messages.create(**asked)
        with client.messages.stream(**asked) as events:
            return events.get_final_message()
    api = run.openai.with_options(base_url=f"{url}/v1") if url else run.openai
    if protocol == "chat":
        if not stream:
            return api.chat.completions.create(model="m", messages=cast(Any, TURNS))
        with api.chat.completions.stream(model="m", messages=cast(Any, TURNS)) as chunks:
            return chunks.get_final_completion()
    if not stream:
        return api.responses.create(model="m", instructions=SYSTEM, input=USER)
    with api.responses.stream(model="m", instructions=SYSTEM, input=USER) as events_:
        return events_.get_final_response()


def reply_of(protocol: ProtocolName, text: str, calls: Sequence[Any], *, stream: bool) -> Reply:
    return Reply(pieces=stream_of(protocol, text, calls)) if stream else json_reply(body_of(protocol, text, calls))
