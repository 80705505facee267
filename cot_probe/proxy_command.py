"""``cot-probe proxy``: a reverse proxy that reads reasoning on its way, and can withhold tool calls."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cot_probe.console import bound, fail, keep_few_kernels, policy_of, tagger_of

if TYPE_CHECKING:
    from cot_probe.gate import Policy
    from cot_probe.proxy.reading import Opening, Watches
    from cot_probe.scoring import Scorer


def proxy(
    upstream: Annotated[str, typer.Option(help="URL to pass requests to, say https://api.openai.com.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8718,
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="Withhold tool calls that the policy holds.")] = False,
    policy: Annotated[Path | None, typer.Option(help="Policy (TOML; docs/policy.md). Default: built in.")] = None,
    store: Annotated[Path, typer.Option(help="Where traces and verdicts are written (SQLite).")] = Path(
        "cot-probe-proxy.sqlite"
    ),
    no_store: Annotated[bool, typer.Option("--no-store", help="Write none.")] = False,
    annotate: Annotated[
        bool, typer.Option("--annotate/--no-annotate", help="Tell clients the verdict: headers, a last SSE comment.")
    ] = True,
    budget: Annotated[float, typer.Option(min=0.0, help="Longest wait for scores before a verdict, seconds.")] = 0.25,
    timeout: Annotated[float, typer.Option(min=0.1, help="Longest wait for the upstream's next bytes, seconds.")] = 600,
    max_body: Annotated[int, typer.Option(min=1, help="Largest body that is read, MiB; larger ones pass unread.")] = 32,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder (default: the shipped one).")] = None,
    fpr: Annotated[float | None, typer.Option(help="Operating point: false-positive rate (0.001, 0.01, 0.05).")] = None,
    threshold: Annotated[float | None, typer.Option(help="Instead: tag scores at or above this.")] = None,
) -> None:
    """Stand between agents and a model's API, read the reasoning on its way, write down traces and verdicts."""
    try:
        from cot_probe.proxy.app import proxy_app
        from cot_probe.proxy.recorder import Recorder
        from cot_probe.proxy.server import ProxyServer, log_to
        from cot_probe.proxy.store import Store, StoreError
        from cot_probe.proxy.upstream import MIB, ProxyOptions
    except ImportError as error:
        raise fail(f"the proxy needs Starlette, uvicorn and httpx: pip install 'cot_probe[proxy]' ({error})") from None
    try:
        options = ProxyOptions(upstream=upstream, annotate=annotate, max_body_bytes=max_body * MIB, read_s=timeout)
        recorder = Recorder(None if no_store else Store(store))
    except (StoreError, ValueError) as error:
        raise fail(error) from None
    listener = bound(host, port)
    keep_few_kernels()
    tagger = tagger_of(checkpoint, fpr=fpr, threshold=threshold)
    chosen = policy_of(policy, tagger)
    from cot_probe.proxy.reading import Watch
    from cot_probe.scoring import Scorer

    log_to()
    with Scorer(tagger) as scorer:
        watch = Watch(make=monitor_maker(scorer, chosen), policy=chosen, gate=gate, budget_s=budget)
        server = ProxyServer(proxy_app(options, watch, recorder), finish_s=options.finish_s)
        mode = "tool calls gated" if gate else "reading only"
        where = "http://{}:{}".format(*listener.getsockname()[:2])
        typer.echo(f"cot-probe: {where} -> {upstream} ({mode}, policy {chosen.signature})", err=True)
        server.run(sockets=[listener])


def monitor_maker(scorer: "Scorer", policy: "Policy") -> "Callable[[Opening], Watches]":
    """What makes the monitor of an answer: all share one model; feeding never waits for scores."""
    from cot_probe.monitor import AsyncMonitor

    def make(opening: "Opening") -> "Watches":
        return AsyncMonitor(
            scorer,
            id=opening.id,
            context=opening.context,
            policy=policy,
            budget_s=0.0,
            visibility=opening.visibility,
            metadata=opening.metadata,
        )

    return make
