"""``cot-probe serve`` as a process of its own, for the benchmarks that drive it over loopback."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample of the service's figures: the name without its prefix, labels, value."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A service that runs; ``url`` has no slash at its end."""

    url: str
    process: "subprocess.Popen[str]"

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    @property
    def sockets(self) -> str:
        """Where it takes streams over a WebSocket."""
        return f"ws://{self.url.removeprefix('http://')}/v1/stream"

    def figures(self) -> list[Sample]:
        """All counters and gauges as they stand."""
        answer = httpx.get(f"{self.url}/metrics", timeout=PATIENCE_S, trust_env=False).raise_for_status()
        families = text_string_to_metric_families(answer.text)
        return [
            Sample(name=one.name.removeprefix("cot_probe_"), labels=dict(one.labels), value=one.value)
            for family in families
            for one in family.samples
        ]

    def stop(self) -> int:
        """Tell it to stop, and wait; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextmanager
def served(options: Sequence[str], *, log: Path) -> Iterator[Served]:
    """The service on a free port of loopback, started with these options; its log goes to a file."""
    code = "from cot_probe.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", "0", *options]
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            found = re.search(r"serving on (\S+?)/,", process.stdout.readline())
            if found is None:
                raise SystemExit(f"cot-probe serve ended: {log.read_text(encoding='utf-8')[-500:]}")
            yield Served(url=found[1], process=process)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE_S)


def total(figures: Sequence[Sample], name: str, **labels: str) -> float:
    """The sum of a figure over all samples with these labels."""
    return sum(one.value for one in figures if one.name == name and labels.items() <= one.labels.items())
