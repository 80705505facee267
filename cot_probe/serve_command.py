"""``cot-probe serve``: the service, from the command line."""

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cot_probe.console import bound, fail, keep_few_kernels, policy_of, tagger_of

if TYPE_CHECKING:
    from cot_probe.serving.guards import Access

EXITS: Final = (
    "Exit codes: 0 told to stop, and all accepted work was finished; 1 not all was finished in time; 2 wrong usage, "
    "or the address cannot be bound."
)
_EXIT_UNFINISHED: Final = 1


def serve(
    host: Annotated[
        str, typer.Option(help="Address to bind to; beyond this machine, a token is asked for.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 8321,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the bearer token (default: $COT_PROBE_TOKEN, else one is made and shown)."),
    ] = None,
    auth: Annotated[
        bool | None,
        typer.Option("--auth/--no-auth", help="Ask for a token (default: beyond this machine, or where one is given)."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name by which the service may be called, besides addresses; may be repeated."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM): serve over TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    policy: Annotated[Path | None, typer.Option(help="Policy (TOML) that verdicts on tool calls go by.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder (default: the shipped one).")] = None,
    fpr: Annotated[float | None, typer.Option(help="Operating point: false-positive rate (0.001, 0.01, 0.05).")] = None,
    threshold: Annotated[float | None, typer.Option(help="Instead: tag scores at or above this.")] = None,
    max_body_mib: Annotated[float, typer.Option(min=0.001, help="Longest body of a request, in MiB.")] = 8.0,
    max_streams: Annotated[int, typer.Option(min=1, help="Streams open at a time.")] = 100,
    max_stream_chars: Annotated[int, typer.Option(min=1, max=16_000_000, help="Characters of one stream.")] = 1_000_000,
    max_queued_chars: Annotated[
        int, typer.Option(min=1, help="Characters that wait to be tagged; beyond, 429.")
    ] = 4_000_000,
    max_held_chars: Annotated[int, typer.Option(min=1, help="Characters held in memory for all clients.")] = 64_000_000,
    idle_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds without input after which a stream is closed.")
    ] = 600.0,
    request_s: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.")] = 120.0,
    check_s: Annotated[
        float, typer.Option(min=0.001, help="Seconds that a verdict on a tool call waits for scores.")
    ] = 0.1,
    drain_s: Annotated[float, typer.Option(min=0.1, help="Seconds to finish accepted work when told to stop.")] = 30.0,
    log_text: Annotated[bool, typer.Option("--log-text", help="Let logs quote transcripts.")] = False,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16: faster, scores move a little.")] = False,
) -> None:
    """Serve tagging and live monitoring over HTTP; a live page is at /."""
    try:
        from cot_probe.server import Server, create_app
        from cot_probe.serving.guards import TokenError
        from cot_probe.serving.limits import MIB, Limits
        from cot_probe.serving.logs import log_to
    except ImportError as error:
        raise fail(f"serving needs FastAPI, uvicorn and more: pip install 'cot_probe[serve]' ({error})") from None
    if (tls_cert is None) != (tls_key is None):
        raise fail("--tls-cert and --tls-key go together: give both or neither")
    try:
        access, made = _access(host, token_file, auth, allow_host or [])
    except TokenError as error:
        raise fail(error) from None
    limits = Limits(
        body_bytes=int(max_body_mib * MIB),
        streams=max_streams,
        stream_chars=max_stream_chars,
        queued_chars=max_queued_chars,
        held_chars=max_held_chars,
        idle_s=idle_s,
        check_s=check_s,
        tag_s=request_s,
        drain_s=drain_s,
    )
    listener = bound(host, port)
    keep_few_kernels()
    tagger = tagger_of(checkpoint, fpr=fpr, threshold=threshold, device=device, bf16=bf16)
    app = create_app(tagger, access=access, limits=limits, policy=policy_of(policy, tagger), log_text=log_text)
    log_to(text=log_text)

    def started() -> None:
        _say_where(listener, host, access, made=made, tls=tls_cert is not None)

    server = Server(app, started=started, ssl_certfile=tls_cert, ssl_keyfile=tls_key)
    server.run(sockets=[listener])
    if not server.finished:
        # What still computes would hold the process: it was told that its time is over.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_EXIT_UNFINISHED)


def _access(host: str, token_file: Path | None, auth: bool | None, names: list[str]) -> tuple["Access", bool]:
    """Who may speak to the service, and whether its token was made just now."""
    from cot_probe.serving.guards import TOKEN_VARIABLE, Access, given_token, is_loopback, new_token

    local = is_loopback(host)
    wanted = auth if auth is not None else not local or token_file is not None or TOKEN_VARIABLE in os.environ
    token = given_token(token_file) if wanted else None
    made = wanted and token is None
    if not wanted and not local:
        typer.echo(f"cot-probe: WITHOUT A TOKEN on {host}: whoever reaches it can read all streams", err=True)
    hosts = frozenset(name.lower().rstrip(".") for name in (*names, host))
    return Access(token=new_token() if made else token, hosts=hosts), made


def _say_where(listener: socket.socket, host: str, access: "Access", *, made: bool, tls: bool) -> None:
    """Tell people the address, on standard output; a token that was made is told here and nowhere else."""
    shown = f"[{host.strip('[]')}]" if ":" in host else host
    address = f"{'https' if tls else 'http'}://{shown}:{listener.getsockname()[1]}/"
    typer.echo(f"cot-probe: serving on {address}, its interface on {address}docs")
    if made:
        typer.echo(f"cot-probe: token, told this once: {access.token}")
        typer.echo(f"cot-probe: live page: {address}#token={access.token}")
    if access.token is not None and not tls and "127.0.0.1" not in address and "localhost" not in address:
        typer.echo(
            "cot-probe: the token travels in the clear: give --tls-cert, or put a proxy with TLS in front", err=True
        )
