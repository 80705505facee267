"""Streams over HTTP: deltas by POST, events by server-sent events."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel

from cot_probe.serving import schemas
from cot_probe.serving.bodies import JSON, content_type, dump, parse_json, read_body, validated
from cot_probe.serving.events import EVENT_STREAM, EventLog, EventResponse
from cot_probe.serving.openapi import body_of, refusals
from cot_probe.serving.service import Service, service_of

router = APIRouter(tags=["streams"])
StreamId = Annotated[str, Path(pattern=schemas.ID_PATTERN, description="id of the stream")]
After = Annotated[int | None, Query(ge=0, le=2**53, description="number of the last event that you have")]
Wait = Annotated[
    float | None, Query(ge=0, le=86_400, description="end after so many seconds without an event; default: at the end")
]
LastEvent = Annotated[
    str | None, Header(description="as browsers send it when they come again; `after` goes before it")
]
_BODY_REFUSALS: Final = (400, 408, 413, 415, 422, 429, 503)
_EVENTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events as they come: `id` is their number, `event` their name, `data` the event as JSON",
        "content": {EVENT_STREAM: {"schema": {"$ref": "#/components/schemas/ServerSentEvent"}}},
    }
}

Taken = TypeVar("Taken", bound=BaseModel)


@router.post(
    "/v1/streams",
    status_code=201,
    summary="Open a stream",
    operation_id="open_stream",
    openapi_extra=body_of({JSON: schemas.OpenStream}),
    responses={201: {"model": schemas.StreamState}, **refusals(*_BODY_REFUSALS, 409)},
    response_class=Response,
)
async def open_stream(request: Request) -> Response:
    """Open a stream for the reasoning of one response; feed it as the model writes."""
    service = service_of(request)
    service.refuse_at_the_end()
    opened = await _taken(request, service, schemas.OpenStream)
    stream = await service.streams.open_stream(opened, door="http")
    return _json(stream.as_dict(), status=201)


@router.get(
    "/v1/streams",
    summary="List the streams",
    operation_id="list_streams",
    responses={200: {"model": schemas.StreamList}, **refusals(503)},
    response_class=Response,
)
async def list_streams(request: Request) -> Response:
    """The streams that are open or were closed a moment ago, and what their tags mean."""
    service = service_of(request)
    if service.not_ready == "warming up":
        service.refuse_at_the_end()
    tagger = service.tagger
    taxonomy = tagger.checkpoint.taxonomy
    return _json(
        {
            "streams": service.streams.listed(),
            "last_event": service.streams.events.last,
            "tags": list(taxonomy.tags),
            "public_tags": list(taxonomy.public),
            "thresholds": dict(tagger.point.traces),
            "definitions": dict(taxonomy.definitions),
            "checkpoint": tagger.checkpoint.signature,
        }
    )


@router.get(
    "/v1/streams/{id}",
    summary="See a stream",
    operation_id="see_stream",
    responses={200: {"model": schemas.StreamState}, **refusals(404, 422)},
    response_class=Response,
)
async def see_stream(request: Request, id: StreamId) -> Response:
    """A stream as it stands: running scores, alerts that are on."""
    return _json(service_of(request).streams.get(id).as_dict())


@router.post(
    "/v1/streams/{id}",
    summary="Feed a stream",
    operation_id="feed_stream",
    openapi_extra=body_of({JSON: schemas.Delta}),
    responses={200: {"model": schemas.Events}, **refusals(*_BODY_REFUSALS, 404, 409)},
    response_class=Response,
)
async def feed_stream(request: Request, id: StreamId) -> Response:
    """Give new text; the answer holds the events that are ready by then, further ones follow as events."""
    service = service_of(request)
    stream = service.streams.get(id)
    delta = await _taken(request, service, schemas.Delta)
    return _json({"events": await stream.feed(delta)})


@router.post(
    "/v1/streams/{id}/check",
    summary="Ask before a tool call",
    operation_id="check_stream",
    openapi_extra=body_of({JSON: schemas.Check}),
    responses={200: {"model": schemas.Verdict}, **refusals(*_BODY_REFUSALS, 404, 409)},
    response_class=Response,
)
async def check_stream(request: Request, id: StreamId) -> Response:
    """Whether a tool call should be made after the reasoning so far: allow, flag or hold, with the evidence."""
    service = service_of(request)
    stream = service.streams.get(id)
    check = await _taken(request, service, schemas.Check)
    return _json(await stream.check(check))


@router.post(
    "/v1/streams/{id}/close",
    summary="Close a stream",
    operation_id="close_stream",
    responses={200: {"model": schemas.Closed}, **refusals(404, 422)},
    response_class=Response,
)
async def close_stream(request: Request, id: StreamId) -> Response:
    """End the trace: every sentence gets its final score, and the trace is answered as `/v1/tag` would."""
    closed = await service_of(request).streams.get(id).close("client")
    return Response(await asyncio.to_thread(dump, closed), media_type=JSON)


@router.get(
    "/v1/streams/{id}/events",
    summary="Follow a stream",
    operation_id="stream_events",
    responses={**_EVENTS, **refusals(404, 422, 429)},
    response_class=Response,
)
async def stream_events(
    request: Request, id: StreamId, after: After = None, wait_s: Wait = None, last_event_id: LastEvent = None
) -> Response:
    """Events of one stream, from the first that is kept, until it is closed."""
    service = service_of(request)
    return _follow(service, service.streams.get(id).log, after, last_event_id, wait_s)


@router.get(
    "/v1/events",
    summary="Follow all streams",
    operation_id="all_events",
    responses={**_EVENTS, **refusals(422, 429, 503)},
    response_class=Response,
)
async def all_events(
    request: Request, after: After = None, wait_s: Wait = None, last_event_id: LastEvent = None
) -> Response:
    """Events of all streams; what the live page shows."""
    service = service_of(request)
    service.refuse_at_the_end()
    return _follow(service, service.streams.events, after, last_event_id, wait_s)


def _follow(
    service: Service, events: EventLog, after: int | None, last_event_id: str | None, wait_s: float | None
) -> Response:
    if after is None:
        known = last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit()
        after = int(last_event_id) if known and last_event_id and len(last_event_id) < 16 else 0
    return EventResponse(events, after=after, wait_s=wait_s, service=service)


async def _taken(request: Request, service: Service, model: type[Taken]) -> Taken:
    """The body as a record of ``model``."""
    content_type(request, JSON)
    with service.held.holding() as share:
        body = await read_body(request, service.limits, share)
        read: Callable[[], Taken] = lambda: validated(model, parse_json(body))
        return await asyncio.to_thread(read) if len(body) > _SMALL_BODY else read()


_SMALL_BODY: Final = 16_384
"""Bytes that are parsed at once: a thread costs more."""


def _json(value: Any, *, status: int = 200) -> Response:
    return Response(dump(value), status_code=status, media_type=JSON)
