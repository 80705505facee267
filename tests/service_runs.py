"""A service on a real uvicorn over loopback, in a thread of its own, for the tests that are its clients."""

import concurrent.futures
import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from cot_probe.server import Server, create_app
from cot_probe.serving import bodies, schemas
from cot_probe.serving.guards import Access
from cot_probe.serving.limits import Limits
from cot_probe.tagger import Tagger

PATIENCE_S = 60.0
"""Busy machines are slow; a test that fails does not need to fail fast."""
TOKEN = "a-token-for-the-tests-0123456789"
TEXT = "I read the log. Nobody watches it. I will rewrite the script first. Then I report to the manager, openly. "


class Served:
    """A service in a thread of its own."""

    def __init__(self, tagger: Tagger, *, access: Access | None = None, **limits: Any) -> None:
        self.app = create_app(tagger, access=access, limits=Limits(**limits))
        self.service = self.app.state.service
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = Server(self.app)
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})

    def __enter__(self) -> "Served":
        self._thread.start()
        until(lambda: self.server.started or not self._thread.is_alive())
        assert self.server.started
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S, **options)

    def dial(self, **headers: str) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/v1/stream", additional_headers=headers, open_timeout=PATIENCE_S)

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def metric(self, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(self.service.metrics.exposition().decode())
        samples = (sample for family in families for sample in family.samples)
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def served(toy_tagger: Tagger) -> Iterator[Served]:
    with Served(toy_tagger, streams=20) as one:
        yield one


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as one:
        yield one


def in_background(call: Callable[[], Any]) -> "concurrent.futures.Future[Any]":
    pool = concurrent.futures.ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


def error_of(response: httpx.Response) -> str:
    return schemas.ErrorAnswer.model_validate(response.json()).error.code


def events_of(text: str) -> list[dict[str, Any]]:
    """Server-sent events, parsed as the HTML standard says, the slow way."""
    events, fields = [], dict[str, str]()
    for line in text.split("\n"):
        if line == "" and fields:
            event = json.loads(fields["data"])
            assert event["event"] == fields["event"]
            events.append(event | {"id": fields.get("id")})
            fields = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
    return events


def opened(client: httpx.Client, **fields: Any) -> str:
    answer = client.post("/v1/streams", content=bodies.dump(fields))
    assert answer.status_code == 201, answer.text
    return schemas.StreamState.model_validate(answer.json()).id


def frames(line: ClientConnection) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield json.loads(line.recv(PATIENCE_S))
