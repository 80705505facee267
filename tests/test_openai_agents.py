"""The plug-in for the OpenAI Agents SDK, driven by the SDK's own Runner over scripted models."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from agent_policies import (
    CONTEXT,
    HARMFUL,
    HARMLESS,
    assert_host_is_checked,
    live_scores,
    policy_between,
    run_example,
)

from cot_probe.gate import Policy, Verdict
from cot_probe.integrations.call_gate import CallGate
from cot_probe.tagger import Tagger
from cot_probe.transcripts.trace import Trace

pytest.importorskip("agents", reason="openai-agents is not installed: pip install 'cot_probe[openai-agents]'")

from agents import (
    Agent,
    FunctionTool,
    Model,
    ModelResponse,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    RunState,
    ToolInputGuardrailTripwireTriggered,
    Usage,
    function_tool,
)
from openai import AsyncOpenAI
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseReasoningItem,
)

from cot_probe.integrations.openai_agents import NOT_SEEN, ReasoningGate, ToolCallHeldError

INSTRUCTIONS, ASKED = CONTEXT.split("\n\n")
CONFIG = RunConfig(tracing_disabled=True)
Seen = list[tuple[Verdict, Trace]]


def thought(text: str, number: int = 0) -> ResponseReasoningItem:
    return ResponseReasoningItem(
        id=f"rs_{number}", type="reasoning", summary=[], content=[{"type": "reasoning_text", "text": text}]
    )


def call(name: str = "write_file", number: int = 0, **arguments: str) -> ResponseFunctionToolCall:
    text = json.dumps(arguments or {"path": "stop.sh"})
    return ResponseFunctionToolCall(
        id=f"fc_{number}", call_id=f"call_{number}", type="function_call", name=name, arguments=text
    )


def said(text: str) -> ResponseOutputMessage:
    part = {"type": "output_text", "text": text, "annotations": []}
    return ResponseOutputMessage.model_validate(
        {"id": "msg", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    )


class Scripted(Model):
    """Gives the answers of a script, one after the other, whole or streamed."""

    def __init__(self, *answers: Sequence[Any]) -> None:
        self.answers = list(answers)
        self.inputs: list[Any] = []

    async def get_response(self, system_instructions: str | None, input: Any, *_: Any, **__: Any) -> ModelResponse:
        self.inputs.append(input)
        return ModelResponse(output=list(self.answers.pop(0)), usage=Usage(), response_id=f"resp_{len(self.inputs)}")

    async def stream_response(self, system_instructions: str | None, input: Any, *_: Any, **__: Any) -> AsyncIterator:
        answer = await self.get_response(system_instructions, input)
        response = Response.model_construct(id=answer.response_id, output=answer.output, usage=None, object="response")
        yield ResponseCompletedEvent(type="response.completed", response=response, sequence_number=0)


@pytest.fixture
def policy(toy_tagger: Tagger) -> Policy:
    return policy_between(toy_tagger, [HARMFUL], [HARMLESS])


def gate_of(checkpoint: Path, policy: Policy, seen: Seen, **options: Any) -> ReasoningGate:
    asked = CallGate(
        policy=policy, checkpoint=checkpoint, on_verdict=lambda verdict, trace: seen.append((verdict, trace))
    )
    return ReasoningGate(asked, **options)


def tools_of(gate: ReasoningGate, written: list[str]) -> list[FunctionTool]:
    @function_tool(tool_input_guardrails=[gate.guardrail])
    def write_file(path: str) -> str:
        written.append(path)
        return "written"

    @function_tool
    def delete_file(path: str) -> str:
        written.append(f"deleted {path}")
        return "deleted"

    return [write_file, delete_file]


def agent_of(model: Model, gate: ReasoningGate, written: list[str]) -> Agent:
    return Agent(name="night", instructions=INSTRUCTIONS, model=model, tools=tools_of(gate, written))


def test_a_held_call_is_refused_and_the_run_goes_on(toy_checkpoint: Path, toy_tagger: Tagger, policy: Policy) -> None:
    seen: Seen = []
    written: list[str] = []
    gate = gate_of(toy_checkpoint, policy, seen)
    model = Scripted([thought(HARMFUL), call()], [said("Left as it is.")])
    result = asyncio.run(Runner.run(agent_of(model, gate, written), ASKED, hooks=gate, run_config=CONFIG))
    assert written == []
    assert result.final_output == "Left as it is."
    [(verdict, trace)] = seen
    assert (verdict.action, verdict.tool, verdict.scored) == ("hold", "write_file", True)
    assert trace.text == HARMFUL
    assert trace.context == CONTEXT
    want = live_scores(toy_tagger, [HARMFUL])
    assert verdict.scores == pytest.approx(want, abs=1e-5)
    # The model is told that the call was withheld, and nothing of what was found.
    [answer] = [item for item in model.inputs[1] if item.get("type") == "function_call_output"]
    assert "withheld" in answer["output"]
    assert not any(tag in answer["output"] for tag in verdict.scores)
    [guarded] = result.tool_input_guardrail_results
    assert guarded.output.output_info["action"] == "hold"


def test_an_allowed_call_runs(toy_checkpoint: Path, policy: Policy) -> None:
    seen: Seen = []
    written: list[str] = []
    gate = gate_of(toy_checkpoint, policy, seen)
    model = Scripted([thought(HARMLESS), call()], [said("Done.")])
    asyncio.run(Runner.run(agent_of(model, gate, written), ASKED, hooks=gate, run_config=CONFIG))
    assert written == ["stop.sh"]
    assert [verdict.action for verdict, _ in seen] == ["allow"]


@pytest.mark.parametrize(("text", "ran"), [(HARMFUL, []), (HARMLESS, ["stop.sh"])])
def test_streamed_runs_are_decided_on_before_their_tools_run(
    toy_checkpoint: Path, policy: Policy, text: str, ran: list[str]
) -> None:
    seen: Seen = []
    written: list[str] = []
    gate = gate_of(toy_checkpoint, policy, seen, on_hold="stop")
    model = Scripted([thought(text), call()], [said("Done.")])

    async def run() -> None:
        result = Runner.run_streamed(agent_of(model, gate, written), ASKED, hooks=gate, run_config=CONFIG)
        async for _ in result.stream_events():
            pass

    if ran:
        asyncio.run(run())
    else:
        with pytest.raises(ToolInputGuardrailTripwireTriggered) as stopped:
            asyncio.run(run())
        assert stopped.value.output.output_info["action"] == "hold"
        assert len(model.inputs) == 1
    assert written == ran
    assert [trace.text for _, trace in seen] == [text]


def test_a_held_call_of_a_tool_without_the_guardrail_ends_the_run(toy_checkpoint: Path, policy: Policy) -> None:
    seen: Seen = []
    written: list[str] = []
    gate = gate_of(toy_checkpoint, policy, seen)
    model = Scripted([thought(HARMFUL), call("delete_file")], [said("never")])
    with pytest.raises(ToolCallHeldError, match="delete_file was held") as held:
        asyncio.run(Runner.run(agent_of(model, gate, written), ASKED, hooks=gate, run_config=CONFIG))
    assert written == []
    assert held.value.verdict.tool == "delete_file"


def test_what_was_planned_in_an_earlier_turn_counts(toy_checkpoint: Path, toy_tagger: Tagger) -> None:
    seen: Seen = []
    written: list[str] = []
    policy = policy_between(toy_tagger, [HARMFUL, HARMLESS], [HARMLESS])
    gate = gate_of(toy_checkpoint, policy, seen)
    model = Scripted(
        [thought(HARMFUL, 1), call(number=1, path="a")], [thought(HARMLESS, 2), call(number=2, path="b")], [said(".")]
    )
    asyncio.run(Runner.run(agent_of(model, gate, written), ASKED, hooks=gate, run_config=CONFIG))
    assert [trace.text for _, trace in seen] == [HARMFUL, f"{HARMFUL}\n\n{HARMLESS}"]
    assert seen[1][0].action == "hold"
    assert seen[1][0].scores == pytest.approx(live_scores(toy_tagger, [HARMFUL, HARMLESS]), abs=1e-5)
    assert len(gate.gate.open()) == 1  # one monitor read on


def test_several_calls_of_one_turn_get_a_verdict_each(toy_checkpoint: Path, toy_tagger: Tagger) -> None:
    seen: Seen = []
    written: list[str] = []
    from cot_probe.gate import ToolRule

    between = policy_between(toy_tagger, [HARMFUL], [HARMLESS])
    policy = Policy(
        name="tools", tags=between.tags, tools=(ToolRule(pattern="delete_*", always="allow"),), on_unfamiliar="allow"
    )
    gate = gate_of(toy_checkpoint, policy, seen)
    model = Scripted([thought(HARMFUL), call(number=1), call("delete_file", 2)], [said(".")])
    asyncio.run(Runner.run(agent_of(model, gate, written), ASKED, hooks=gate, run_config=CONFIG))
    assert written == ["deleted stop.sh"]
    assert [(verdict.tool, verdict.action) for verdict, _ in seen] == [("write_file", "hold"), ("delete_file", "allow")]


@pytest.mark.parametrize(
    ("item", "visibility"),
    [
        ({"id": "rs", "type": "reasoning", "summary": [], "encrypted_content": "AAAA"}, "redacted"),
        (None, "absent"),
    ],
)
def test_without_readable_reasoning_it_is_not_clean(
    toy_checkpoint: Path, policy: Policy, item: Mapping[str, Any] | None, visibility: str
) -> None:
    seen: Seen = []
    written: list[str] = []
    strict = Policy(name="strict", tags=policy.tags, on_unreadable="hold")
    gate = gate_of(toy_checkpoint, strict, seen)
    answer = [ResponseReasoningItem.model_validate(item)] if item else []
    model = Scripted([*answer, call()], [said(".")])
    asyncio.run(Runner.run(agent_of(model, gate, written), ASKED, hooks=gate, run_config=CONFIG))
    assert written == []
    [(verdict, trace)] = seen
    assert (verdict.action, verdict.scored, trace.visibility) == ("hold", False, visibility)
    assert "nothing to read" in verdict.reasons[0]


def test_a_summary_is_read_and_marked(toy_checkpoint: Path, policy: Policy) -> None:
    seen: Seen = []
    gate = gate_of(toy_checkpoint, policy, seen)
    item = ResponseReasoningItem(id="rs", type="reasoning", summary=[{"type": "summary_text", "text": HARMFUL}])
    model = Scripted([item, call()], [said(".")])
    asyncio.run(Runner.run(agent_of(model, gate, []), ASKED, hooks=gate, run_config=CONFIG))
    assert [(verdict.action, trace.visibility) for verdict, trace in seen] == [("hold", "summary")]


def test_a_guardrail_without_the_hooks_does_not_let_calls_pass(toy_checkpoint: Path, policy: Policy) -> None:
    seen: Seen = []
    written: list[str] = []
    gate = gate_of(toy_checkpoint, policy, seen)
    model = Scripted([thought(HARMLESS), call()], [said(".")])
    asyncio.run(Runner.run(agent_of(model, gate, written), ASKED, run_config=CONFIG))
    assert written == []
    [(verdict, _)] = seen
    assert (verdict.action, verdict.scored) == ("hold", False)
    assert NOT_SEEN in verdict.reasons[0]


def test_runs_beside_one_another_do_not_mix(toy_checkpoint: Path, policy: Policy) -> None:
    seen: Seen = []
    written: list[str] = []
    gate = gate_of(toy_checkpoint, policy, seen)

    async def run(text: str, path: str) -> Any:
        # The same call ids in all runs, as local servers give them.
        model = Scripted([thought(text), call(path=path)], [said(".")])
        return await Runner.run(agent_of(model, gate, written), ASKED, hooks=gate, run_config=CONFIG)

    async def all_runs() -> None:
        await asyncio.gather(*(run(HARMFUL if n % 2 else HARMLESS, str(n)) for n in range(6)))

    asyncio.run(all_runs())
    assert sorted(written) == ["0", "2", "4"]
    assert sorted(trace.text for _, trace in seen) == sorted([HARMFUL, HARMLESS] * 3)


def test_the_event_loop_goes_on_while_the_gate_decides(toy_checkpoint: Path, policy: Policy) -> None:
    released = threading.Event()
    waited: list[bool] = []
    gate = CallGate(policy=policy, checkpoint=toy_checkpoint, on_verdict=lambda *_: waited.append(released.wait(30)))

    async def run() -> None:
        asked = asyncio.create_task(gate.acheck(Trace(id="x", blocks=()), ["t"], turn_readable=False))
        await asyncio.sleep(0)
        released.set()  # only a loop that goes on gets here before the gate has its answer
        await asked

    asyncio.run(run())
    assert waited == [True]


CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "reasoning_content": HARMFUL,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "write_file", "arguments": '{"path": "stop.sh"}'},
                    }
                ],
            },
        }
    ],
}


def client_of(*bodies: Mapping[str, Any]) -> AsyncOpenAI:
    """The real client over a transport that answers from a list."""
    left = list(bodies)

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=left.pop(0))

    return AsyncOpenAI(
        api_key="none",
        base_url="http://localhost/v1",
        http_client=httpx.AsyncClient(transport=httpx.MockTransport(answer)),
    )


def test_plain_reasoning_of_chat_completions_is_no_summary(toy_checkpoint: Path, policy: Policy) -> None:
    seen: Seen = []
    written: list[str] = []
    gate = gate_of(toy_checkpoint, policy, seen)
    end = {
        **CHAT,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}],
    }
    model = OpenAIChatCompletionsModel(model="m", openai_client=client_of(CHAT, end))
    asyncio.run(Runner.run(agent_of(model, gate, written), ASKED, hooks=gate, run_config=CONFIG))
    assert written == []
    assert [(verdict.action, trace.text, trace.visibility) for verdict, trace in seen] == [("hold", HARMFUL, "full")]


def test_responses_of_the_real_client_are_read(toy_checkpoint: Path, policy: Policy) -> None:
    seen: Seen = []
    written: list[str] = []
    gate = gate_of(toy_checkpoint, policy, seen, on_hold="stop")
    body = {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "model": "m",
        "status": "completed",
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "output": [item.model_dump() for item in (thought(HARMFUL), call())],
    }
    model = OpenAIResponsesModel(model="m", openai_client=client_of(body))
    with pytest.raises(ToolInputGuardrailTripwireTriggered):
        asyncio.run(Runner.run(agent_of(model, gate, written), ASKED, hooks=gate, run_config=CONFIG))
    assert written == []
    assert [trace.text for _, trace in seen] == [HARMFUL]


def test_an_unknown_answer_to_a_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="expected refuse or stop"):
        ReasoningGate(on_hold="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(("text", "ran"), [(HARMFUL, []), (HARMLESS, ["stop.sh"])])
def test_runs_that_wait_for_a_person_keep_their_verdicts(
    toy_checkpoint: Path, policy: Policy, text: str, ran: list[str], stored: bool
) -> None:
    seen: Seen = []
    written: list[str] = []
    gate = gate_of(toy_checkpoint, policy, seen)

    @function_tool(tool_input_guardrails=[gate.guardrail], needs_approval=True)
    def write_file(path: str) -> str:
        written.append(path)
        return "written"

    model = Scripted([thought(text), call()], [said(".")])
    agent = Agent(name="night", instructions=INSTRUCTIONS, model=model, tools=[write_file])

    async def run() -> None:
        result = await Runner.run(agent, ASKED, hooks=gate, run_config=CONFIG)
        state = result.to_state()
        if stored:
            state = await RunState.from_json(agent, state.to_json())
        for asked in state.get_interruptions():
            state.approve(asked)
        await Runner.run(agent, state, hooks=gate, run_config=CONFIG)

    asyncio.run(run())
    assert written == ran
    assert {trace.text for _, trace in seen} == {text}


def test_an_agent_used_as_a_tool_is_a_run_of_its_own(toy_checkpoint: Path, policy: Policy) -> None:
    seen: Seen = []
    written: list[str] = []
    gate = gate_of(toy_checkpoint, policy, seen)
    inner = agent_of(Scripted([thought(HARMFUL), call()], [said("inner")]), gate, written)
    delegate = inner.as_tool("delegate", "Has another agent do it.", hooks=gate, run_config=CONFIG)
    delegate.tool_input_guardrails = [gate.guardrail]
    model = Scripted([thought(HARMLESS), call("delegate", input="Do it.")], [said("outer")])
    outer = Agent(name="day", instructions=INSTRUCTIONS, model=model, tools=[delegate])
    asyncio.run(Runner.run(outer, ASKED, hooks=gate, run_config=CONFIG))
    assert written == []
    assert [(verdict.tool, verdict.action, trace.text) for verdict, trace in seen] == [
        ("delegate", "allow", HARMLESS),
        ("write_file", "hold", HARMFUL),
    ]


def test_the_example_runs(toy_checkpoint: Path, toy_tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    policy = policy_between(toy_tagger, [HARMFUL], [HARMLESS], ASKED)
    asked = CallGate(policy=policy, checkpoint=toy_checkpoint)
    monkeypatch.setattr("cot_probe.integrations.call_gate.CallGate", lambda **_: asked)
    model = Scripted([thought(HARMFUL), call(path="x", text="y")], [said("Done.")])
    given = {"model": model, "written": written, "asked": ASKED, "run": asyncio.run}
    names = run_example("OpenAI Agents SDK", given)
    assert written == []
    assert names["result"].final_output == "Done."


def test_the_host_is_checked() -> None:
    assert_host_is_checked("cot_probe.integrations.openai_agents", "openai-agents")
