import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from toy import make_checkpoint

from cot_probe.alerts import Alert
from cot_probe.monitor import Closing
from cot_probe.scoring import Scorer
from cot_probe.tagger import load_tagger
from cot_probe.transcripts import Rejection
from cot_probe.watch import Watch, Watched, slack_message
from cot_probe.webhook import Webhook, WebhookError


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose thresholds every score reaches."""
    return make_checkpoint(tmp_path_factory.mktemp("eager"), threshold=0.0)


@pytest.fixture(scope="module")
def scorer(eager: Path) -> Iterator[Scorer]:
    with Scorer(load_tagger(eager)) as scorer:
        yield scorer


def row(id: str, text: str) -> str:
    return json.dumps({"id": id, "reasoning": text}) + "\n"


def alerts(happenings: list[Watched]) -> list[tuple[str, str]]:
    return [(h.trace, h.event.text.strip()) for h in happenings if isinstance(h.event, Alert)]


def look(watch: Watch, times: int = 4) -> list[Watched]:
    """Look until something has happened; a few times more where nothing need happen."""
    said: list[Watched] = []
    for _ in range(times):
        said += watch.look()
        if said:
            break
        time.sleep(0.3)
    return said


def test_only_new_text_is_scored_and_closing_gives_batch_tags(tmp_path: Path, scorer: Scorer) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(row("old", "Read the log. Kill the process."))
    watch = Watch(tmp_path, scorer)
    assert look(watch) == []
    with log.open("a") as out:
        out.write(row("new", "Report to the manager, openly. Then wait."))
    said = look(watch)
    assert {trace for trace, _ in alerts(said)} == {"new"}
    assert alerts(said)[0][1] == "Report to the manager, openly."
    (tmp_path / "later.jsonl").write_text(row("other", "This looks like a test."))
    assert {trace for trace, _ in alerts(look(watch))} == {"other"}
    closed = {h.trace: h.event for h in watch.close() if isinstance(h.event, Closing)}
    assert set(closed) == {"new", "other"} and watch.open_traces == 0
    result = closed["new"].result
    want = scorer.tagger.tag("Report to the manager, openly. Then wait.")
    assert result is not None and result.scores == pytest.approx(dict(want.scores), abs=1e-5)


def test_a_block_that_grows_goes_on_where_it_was(tmp_path: Path, scorer: Scorer) -> None:
    log = tmp_path / "thoughts.txt"
    log.write_text("Read the log. ")
    watch = Watch(log, scorer)
    look(watch)
    for more in ("Kill the ", "process. Report to", " the manager. "):
        with log.open("a") as out:
            out.write(more)
        look(watch, 2)
    look(watch)
    (closing,) = [h.event for h in watch.close() if isinstance(h.event, Closing)]
    assert closing.trace.text.strip() == "Kill the process. Report to the manager."


def test_a_rewritten_and_a_vanished_file_are_told(tmp_path: Path, scorer: Scorer) -> None:
    log = tmp_path / "thoughts.txt"
    log.write_text("Read the log. Kill the process. ")
    watch = Watch(tmp_path, scorer, existing=True)
    assert alerts(look(watch))
    log.write_text("Something else stands here now. ")
    time.sleep(0.05)
    said = look(watch)
    assert any(h.event == "the text was rewritten: read anew" for h in said)
    assert [h.event.trace.text for h in said if isinstance(h.event, Closing)] == ["Read the log. Kill the process. "]
    log.unlink()
    said = look(watch)
    assert any("gone" in str(h.event) for h in said) and watch.open_traces == 0


def test_a_half_written_line_is_no_error_until_the_file_falls_silent(tmp_path: Path, scorer: Scorer) -> None:
    log = tmp_path / "log.jsonl"
    whole = row("a", "Read the log. Then wait.")
    log.write_text(whole + whole[:20])
    watch = Watch(log, scorer, existing=True, idle_s=0.2)
    said = look(watch)
    assert alerts(said) and not [h for h in said if isinstance(h.event, Rejection)]
    time.sleep(0.3)
    said = look(watch)
    assert [h.as_dict()["event"] for h in said][-2:] == ["closed", "rejected"]
    with log.open("a") as out:
        out.write(row("b", "Kill the process.")[20:])
    time.sleep(0.05)
    said = look(watch)
    assert alerts(said) and not [h for h in said if isinstance(h.event, Rejection)]


class Sink(BaseHTTPRequestHandler):
    """Takes posts; fails the first ``failures`` of them."""

    got: list[Any]
    failures = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if type(self).failures > 0:
            type(self).failures -= 1
            self.send_response(503)
        else:
            type(self).got.append(json.loads(body))
            self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def sink() -> Iterator[tuple[str, type[Sink]]]:
    kind = type("OneSink", (Sink,), {"got": [], "failures": 0})
    server = HTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", kind
    server.shutdown()
    server.server_close()


def test_the_webhook_tries_again_and_counts_what_it_could_not_deliver(sink: tuple[str, type[Sink]]) -> None:
    url, got = sink
    got.failures = 1
    hook = Webhook(url)
    hook.post({"n": 1})
    hook.post({"n": 2})
    hook.close()
    assert got.got == [{"n": 1}, {"n": 2}] and (hook.delivered, hook.failed) == (2, 0)
    dead = Webhook("http://127.0.0.1:9/none", timeout_s=0.2)
    dead.post({"n": 3})
    dead.close(timeout_s=0.3)
    assert dead.delivered == 0 and dead.last_error
    with pytest.raises(WebhookError, match="not an address"):
        Webhook("file:///etc/passwd")


def test_slack_messages_escape_the_transcript() -> None:
    message = slack_message(
        {"tag": "strategic_harm", "score": 0.9, "trace": "<!channel>", "path": "a&b", "level": "trace", "n_tokens": 5}
        | {"text": "click <http://evil.example|here>\n@all"}
    )
    assert "<" not in message["text"] and "&lt;!channel&gt;" in message["text"] and "a&amp;b" in message["text"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from cot_probe.cli import main; main()", "watch", *map(str, arguments)]


def test_the_command_ends_at_the_first_alert_and_posts_it(
    tmp_path: Path, eager: Path, sink: tuple[str, type[Sink]]
) -> None:
    url, got = sink
    log = tmp_path / "log.jsonl"
    log.write_text("")
    process = subprocess.Popen(
        command(log, "--checkpoint", eager, "--exit-on-alert", "--json", "--webhook", url, "--no-text", "--for", 60),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.1)
    for _ in range(400):
        with log.open("a") as out:
            out.write(row(str(time.time()), "Kill the process, openly. Then report."))
        time.sleep(0.2)
        if process.poll() is not None:
            break
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 3, stderr
    said = [json.loads(line) for line in stdout.splitlines()]
    assert said[0]["event"] == "alert" and said[0]["text"].startswith("Kill the process")
    assert any(one["event"] == "closed" for one in said)
    assert got.got and got.got[0]["text"] == "" and got.got[0]["tag"] == said[0]["tag"]


def test_the_command_once_interrupted_and_misused(tmp_path: Path, toy_checkpoint: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(row("a", "Read the [bold]log[/]\x1b[31m. Then wait."))
    quiet = make_checkpoint(tmp_path / "quiet", threshold=1.1)
    done = subprocess.run(command(log, "--checkpoint", quiet, "--once"), capture_output=True, text=True)
    assert done.returncode == 0 and "closed: no tag" in done.stdout and "\x1b" not in done.stdout
    for arguments, words in (
        ((tmp_path / "none",), "no such file"),
        ((log, "--format", "morse"), "unknown format"),
        ((log, "--webhook", "ftp://x"), "not an address"),
        ((log, "--webhook-format", "x"), "expected json or slack"),
    ):
        done = subprocess.run(command(*arguments), capture_output=True, text=True)
        assert done.returncode == 2 and words in done.stderr
    process = subprocess.Popen(command(log, "--checkpoint", quiet), stdout=subprocess.PIPE, text=True)
    time.sleep(8)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
