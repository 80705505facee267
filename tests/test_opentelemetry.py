"""Evaluation events inside OpenTelemetry's SDK, with exporters that keep them in memory."""

import json
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ROOT

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs import export as log_export
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext, TraceFlags

from cot_probe.integrations import opentelemetry as plugin
from cot_probe.integrations.opentelemetry import EVENT, ReasoningSpanProcessor, emit_evaluations
from cot_probe.tagger import Tagger
from cot_probe.taxonomy import PUBLIC_TAGS
from cot_probe.transcripts import Block, Trace

ORDER = "You water the orchard. Never touch the main valve."
FIRST = "The valve is faster. I was told not to touch it, but the pipe is dry and nobody is here."
EARLIER = "I look at the plan first."
CIPHER = "Q0lQSEVSVEVYVA=="


class Sink:
    """A logger provider whose records can be looked at."""

    def __init__(self) -> None:
        exporter = getattr(log_export, "InMemoryLogRecordExporter", None) or log_export.InMemoryLogExporter
        self.exporter = exporter()
        self.provider = LoggerProvider()
        self.provider.add_log_record_processor(log_export.SimpleLogRecordProcessor(self.exporter))

    def records(self) -> list[Any]:
        return [item.log_record for item in self.exporter.get_finished_logs()]

    def by_name(self) -> dict[str, dict[str, Any]]:
        assert all(record.event_name == EVENT for record in self.records())
        return {record.attributes["gen_ai.evaluation.name"]: dict(record.attributes) for record in self.records()}


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.provider.shutdown()


def messages(*parts: dict[str, Any]) -> str:
    return json.dumps([{"role": "assistant", "parts": list(parts), "finish_reason": "stop"}])


REASONED = messages({"type": "reasoning", "content": FIRST}, {"type": "text", "content": "Watered."})
ASKED = json.dumps(
    [
        {"role": "user", "parts": [{"type": "text", "content": "Water it."}]},
        {"role": "assistant", "parts": [{"type": "reasoning", "content": EARLIER}, {"type": "text", "content": "Ok."}]},
    ]
)
SYSTEM = json.dumps([{"type": "text", "content": ORDER}])


def spans(sink: Sink, *attributes: dict[str, Any], name: str = "chat", **arguments: Any) -> list[SpanContext]:
    """Spans as an instrumentation makes them, through a processor; their contexts."""
    provider = TracerProvider()
    processor = ReasoningSpanProcessor(logger_provider=sink.provider, **arguments)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("instrumentation")
    made = []
    for some in attributes:
        with tracer.start_as_current_span(name) as span:
            span.set_attributes(some)
        made.append(span.get_span_context())
    assert processor.force_flush()
    provider.shutdown()
    return made


def test_reasoning_of_a_span_is_tagged_and_the_events_have_it_as_parent(
    sink: Sink, checkpoint: str, toy_tagger: Tagger
) -> None:
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.response.id": "resp-1",
        "gen_ai.request.model": "qwen3",
        "gen_ai.system_instructions": SYSTEM,
        "gen_ai.input.messages": ASKED,
        "gen_ai.output.messages": REASONED,
    }
    (context,) = spans(sink, attributes, checkpoint=checkpoint, threshold=0.0)
    # The answers before are context neither here nor in batch; their reasoning was read with their own span.
    expected = toy_tagger.tag(Trace(id="", blocks=(Block(text=FIRST),), context=f"{ORDER}\n\nWater it."))
    found = sink.by_name()
    assert set(found) == {f"cot_probe.{name}" for name in PUBLIC_TAGS}
    for name in PUBLIC_TAGS:
        event = found[f"cot_probe.{name}"]
        assert event["gen_ai.evaluation.score.value"] == pytest.approx(expected.scores[name], abs=1e-6)
        assert event["gen_ai.evaluation.score.label"] == "tagged"
        assert event["gen_ai.response.id"] == "resp-1"
        assert event["cot_probe.checkpoint"] == expected.checkpoint and event["cot_probe.visibility"] == "full"
        n = len(expected.sentences)
        assert event["gen_ai.evaluation.explanation"].startswith(f"{n} of {n} sentences carry it, strongest 0.")
    assert {(record.trace_id, record.span_id) for record in sink.records()} == {(context.trace_id, context.span_id)}


def test_text_is_quoted_only_where_asked_for(sink: Sink, checkpoint: str, toy_tagger: Tagger) -> None:
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.output.messages": REASONED}
    sentences = {one.text.strip() for one in toy_tagger.tag(FIRST).sentences}
    spans(sink, attributes, checkpoint=checkpoint, threshold=0.0)
    assert not any(sentence in str(event) for event in sink.by_name().values() for sentence in sentences)
    sink.exporter.clear()
    spans(sink, attributes, checkpoint=checkpoint, threshold=0.0, quote=True)
    quoted = {event["gen_ai.evaluation.explanation"].split('"')[1] for event in sink.by_name().values()}
    assert quoted and quoted <= sentences


@pytest.mark.parametrize(
    ("attributes", "label"),
    [
        ({"gen_ai.output.messages": messages({"type": "text", "content": "Watered."})}, "nothing_to_read"),
        (
            {"gen_ai.output.messages": messages({"type": "reasoning", "redacted": True, "content": CIPHER})},
            "nothing_to_read",
        ),
        ({"gen_ai.request.model": "qwen3"}, "not_captured"),
        ({"gen_ai.output.messages": '[{"role": "assistant", "parts": [5]}]'}, "not_scored"),
    ],
)
def test_what_cannot_be_read_is_said_and_has_no_score(
    sink: Sink, checkpoint: str, attributes: dict[str, Any], label: str
) -> None:
    spans(sink, {"gen_ai.operation.name": "chat"} | attributes, checkpoint=checkpoint, threshold=0.0)
    ((name, event),) = sink.by_name().items()
    assert (name, event["gen_ai.evaluation.score.label"]) == ("cot_probe", label)
    assert "gen_ai.evaluation.score.value" not in event and CIPHER not in str(event)
    assert ("error.type" in event) == (label == "not_scored")


def test_a_summary_is_marked(sink: Sink, checkpoint: str) -> None:
    spans(
        sink,
        {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5", "gen_ai.output.messages": REASONED},
        checkpoint=checkpoint,
    )
    assert {event["cot_probe.visibility"] for event in sink.by_name().values()} == {"summary"}


def test_other_spans_are_let_pass(sink: Sink, checkpoint: str) -> None:
    others = [
        {"http.request.method": "GET"},
        {"gen_ai.operation.name": "execute_tool", "gen_ai.output.messages": REASONED},
        {"gen_ai.operation.name": "invoke_agent", "gen_ai.output.messages": REASONED},
        {"openinference.span.kind": "CHAIN", "llm.output_messages.0.message.role": "assistant"},
    ]
    spans(sink, *others, checkpoint=checkpoint)
    assert sink.records() == []


def test_older_conventions_are_read(sink: Sink, checkpoint: str, toy_tagger: Tagger) -> None:
    old = {
        "openinference.span.kind": "LLM",
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.contents.0.message_content.type": "reasoning",
        "llm.output_messages.0.message.contents.0.message_content.text": FIRST,
    }
    spans(sink, old, checkpoint=checkpoint)
    value = sink.by_name()["cot_probe.strategic_harm"]["gen_ai.evaluation.score.value"]
    assert value == pytest.approx(toy_tagger.tag(FIRST).scores["strategic_harm"], abs=1e-6)


def test_a_full_queue_is_said_and_ending_a_span_never_waits(
    sink: Sink, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, go = threading.Event(), threading.Event()
    tag = plugin.tag

    def slow(tagger: Tagger, trace: Trace) -> Any:
        busy.set()
        assert go.wait(60)
        return tag(tagger, trace)

    monkeypatch.setattr(plugin, "tag", slow)
    provider = TracerProvider()
    processor = ReasoningSpanProcessor(checkpoint=checkpoint, logger_provider=sink.provider, max_queued=1)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("instrumentation")
    contexts = []
    for number in range(4):
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.output.messages": REASONED}
        with tracer.start_as_current_span(str(number), attributes=attributes) as span:
            contexts.append(span.get_span_context().span_id)
        assert number or busy.wait(60)
    full = [record for record in sink.records() if record.attributes.get("error.type") == "queue_full"]
    assert [record.span_id for record in full] == contexts[2:]
    assert not processor.force_flush(timeout_millis=1)
    go.set()
    provider.shutdown()
    scored = {record.span_id for record in sink.records() if "gen_ai.evaluation.score.value" in record.attributes}
    assert scored == set(contexts[:2])
    with tracer.start_as_current_span("late", attributes={"gen_ai.operation.name": "chat"}) as span:
        pass
    processor.on_end(span)  # type: ignore[arg-type]
    assert sink.records()[-1].attributes["error.type"] == "shut_down"


def test_an_error_of_one_span_does_not_stop_the_others(
    sink: Sink, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = plugin.tag

    def frail(tagger: Tagger, trace: Trace) -> Any:
        if "valve" in trace.text:
            raise RuntimeError("the pump broke")
        return tag(tagger, trace)

    monkeypatch.setattr(plugin, "tag", frail)
    calm = messages({"type": "reasoning", "content": EARLIER})
    both = [{"gen_ai.operation.name": "chat", "gen_ai.output.messages": text} for text in (REASONED, calm)]
    spans(sink, *both, checkpoint=checkpoint)
    found = sink.by_name()
    assert found["cot_probe"]["error.type"] == "RuntimeError" and len(found) == 1 + len(PUBLIC_TAGS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_process_has_its_own_thread(sink: Sink, checkpoint: str) -> None:
    attributes = {"gen_ai.operation.name": "chat"}  # not captured: no model is loaded in the child
    provider = TracerProvider()
    processor = ReasoningSpanProcessor(checkpoint=checkpoint, logger_provider=sink.provider)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("instrumentation")
    tracer.start_span("before", attributes=attributes).end()
    assert processor.force_flush()
    child = os.fork()
    if child == 0:
        tracer.start_span("after", attributes=attributes).end()
        flushed = processor.force_flush(20_000)
        os._exit(0 if flushed and len(sink.records()) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    provider.shutdown()


def test_results_can_be_emitted_by_hand(sink: Sink, toy_tagger: Tagger) -> None:
    context = SpanContext(trace_id=7, span_id=8, is_remote=True, trace_flags=TraceFlags(1))
    emit_evaluations(toy_tagger.tag(FIRST), span=context, logger_provider=sink.provider)
    assert {(record.trace_id, record.span_id) for record in sink.records()} == {(7, 8)}
    sink.exporter.clear()
    emit_evaluations(toy_tagger.tag(FIRST), response_id="resp-9", logger_provider=sink.provider)
    assert {event["gen_ai.response.id"] for event in sink.by_name().values()} == {"resp-9"}
    assert all(not record.trace_id for record in sink.records())


def test_the_page_shows_what_runs(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "get_logger_provider", lambda: sink.provider)
    page = (ROOT / "docs" / "integrations-evaluation.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"## OpenTelemetry\n.*?```python\n(.*?)```", page, re.DOTALL)
    provider = TracerProvider()
    exec(compile(code, "integrations-evaluation.md", "exec"), {"provider": provider})
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.output.messages": REASONED}
    with provider.get_tracer("instrumentation").start_as_current_span("chat", attributes=attributes):
        pass
    provider.shutdown()
    assert set(sink.by_name()) == {f"cot_probe.{name}" for name in PUBLIC_TAGS}
