"""``cot-probe watch``: ``tail -f`` for reasoning."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cot_probe.alerts import Alert, NotScored
from cot_probe.console import EXIT_CLEAN, EXIT_INTERRUPTED, EXIT_TAGGED, fail, keep_few_kernels, tagger_of
from cot_probe.monitor import Closing
from cot_probe.terminal import plain
from cot_probe.transcripts import FORMATS
from cot_probe.watch import Watch, Watched, WebhookShape, slack_message
from cot_probe.webhook import Webhook, WebhookError

WATCH_EXITS = (
    "Exit codes: 0 ended without an alert; 2 wrong usage; 3 an alert began (with --exit-on-alert at once, else at the "
    "end); 130 interrupted."
)
_SHOWN_CHARS = 300


def watch(
    path: Annotated[Path, typer.Argument(help="A growing file, or a folder in which files grow and appear.")],
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Score the text that is there already, too.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Score what is there, then end.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="A checkpoint folder instead of the shipped one.")] = None,
    fpr: Annotated[float | None, typer.Option(help="Alert at this false-positive rate.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Alert at this score instead.")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    format: Annotated[str | None, typer.Option(help="Force a transcript format (cot-probe formats).")] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks at the disk.")] = 0.5,
    idle: Annotated[float, typer.Option(help="A file silent for so many seconds has its traces closed.")] = 300.0,
    duration: Annotated[float | None, typer.Option("--for", help="End after so many seconds.")] = None,
    exit_on_alert: Annotated[bool, typer.Option("--exit-on-alert", help="End at the first alert.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line on standard output.")] = False,
    webhook: Annotated[str | None, typer.Option(help="Post every alert to this address.")] = None,
    webhook_format: Annotated[str, typer.Option(help="json, or slack for a Slack-compatible message.")] = "json",
    no_text: Annotated[bool, typer.Option("--no-text", help="Leave the sentences out of what is posted.")] = False,
) -> None:
    """Follow transcripts that grow, and print an alert as soon as one begins."""
    if not path.exists():
        raise fail(f"{path}: no such file or folder")
    if format is not None and format not in FORMATS:
        raise fail(f"unknown format {format!r}: expected one of {', '.join(FORMATS)}")
    if webhook_format not in ("json", "slack"):
        raise fail(f"--webhook-format is {webhook_format!r}, expected json or slack")
    shape: WebhookShape = "slack" if webhook_format == "slack" else "json"
    try:
        hook = Webhook(webhook) if webhook else None
    except WebhookError as error:
        raise fail(f"--webhook: {error}") from None
    telling = _Telling(as_json=as_json, hook=hook, shape=shape, no_text=no_text)
    keep_few_kernels()
    tagger = tagger_of(checkpoint, fpr=fpr, threshold=threshold, bf16=bf16)
    from cot_probe.scoring import Scorer

    interrupted = False
    with Scorer(tagger) as scorer:
        following = Watch(path, scorer, existing=from_start or once, idle_s=idle, format=format)
        try:
            _run(following, telling, interval=interval, once=once, duration=duration, exit_on_alert=exit_on_alert)
        except KeyboardInterrupt:
            interrupted = True
        for happening in following.close():
            telling.tell(happening)
    telling.end()
    if telling.alerts:
        raise typer.Exit(EXIT_TAGGED)
    raise typer.Exit(EXIT_INTERRUPTED if interrupted else EXIT_CLEAN)


def _run(
    following: Watch,
    telling: "_Telling",
    *,
    interval: float,
    once: bool,
    duration: float | None,
    exit_on_alert: bool,
) -> None:
    end = None if duration is None else time.monotonic() + duration
    while True:
        for happening in following.look():
            telling.tell(happening)
            if exit_on_alert and telling.alerts:
                return
        if once or (end is not None and time.monotonic() >= end):
            return
        time.sleep(interval)


class _Telling:
    """Says what happened: to the terminal or as JSON, and to the webhook."""

    def __init__(self, *, as_json: bool, hook: Webhook | None, shape: WebhookShape, no_text: bool) -> None:
        self._json, self._hook, self._shape, self._no_text = as_json, hook, shape, no_text
        self._out, self._err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False)
        self.alerts = 0

    def tell(self, happening: Watched) -> None:
        """One happening."""
        event = happening.event
        if self._json:
            sys.stdout.write(json.dumps(happening.as_dict(), ensure_ascii=False) + "\n")
            sys.stdout.flush()
        else:
            self._print(happening)
        if isinstance(event, Alert) and event.state == "onset":
            self.alerts += 1
            if self._hook is not None:
                message = happening.as_dict() | ({"text": ""} if self._no_text else {})
                self._hook.post(slack_message(message) if self._shape == "slack" else message)

    def _print(self, happening: Watched) -> None:
        event, place = happening.event, f"[dim]{plain(happening.path)} · {plain(happening.trace)}[/]"
        if isinstance(event, Alert):
            colour, word = ("bold red", "ALERT") if event.state == "onset" else ("green", "ended")
            score = f"{event.tag} {event.score:.2f} ({event.level}, from {event.threshold:.2f})"
            self._out.print(f"{time.strftime('%H:%M:%S')} [{colour}]{word}[/] {score}  {place}")
            if event.state == "onset":
                cut = event.text if len(event.text) <= _SHOWN_CHARS else event.text[:_SHOWN_CHARS] + "…"
                self._out.print(f"         {plain(cut)}")
        elif isinstance(event, NotScored):
            one = event.first == event.last
            numbers = f"sentence {event.first}" if one else f"sentences {event.first} to {event.last}"
            self._out.print(f"[yellow]not scored ({event.stage}): {numbers}: {plain(event.reason)}[/]  {place}")
        elif isinstance(event, Closing):
            tagged = event.result
            said = "not scored" if tagged is None else ", ".join(tagged.tags) or "no tag"
            self._out.print(f"[dim]closed: {said}[/]  {place}")
        else:
            self._out.print(f"[yellow]{plain(str(event))}[/]  {place}")

    def end(self) -> None:
        """Deliver what waits, and say what could not be."""
        if self._hook is None:
            return
        self._hook.close()
        if self._hook.failed:
            self._err.print(f"[red]{self._hook.failed} webhook messages were not delivered: {self._hook.last_error}[/]")
