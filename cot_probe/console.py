"""What commands share: exit codes, checkpoints, addresses and inputs named on the command line, progress."""

import glob
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cot_probe.transcripts import ReadOptions, Rejection, Trace, read_path, read_stream, transcript_files

if TYPE_CHECKING:
    from cot_probe.gate import Policy
    from cot_probe.journal import Tally
    from cot_probe.tagger import Tagger

EXIT_CLEAN: Final = 0
EXIT_USAGE: Final = 2
EXIT_TAGGED: Final = 3
EXIT_REJECTED: Final = 4
EXIT_NOTHING: Final = 5
EXIT_HIDDEN: Final = 6
EXIT_INTERRUPTED: Final = 130

SHOWN_REJECTIONS: Final = 20
"""So many are told one by one; all are counted, and listed in the file of rejections."""

_KERNELS: Final = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
"""Variable of oneDNN, which computes torch's layers on a CPU, and its value here (of itself: 1,024)."""


def quiet_loading() -> None:
    """Show no progress bar while weights are loaded, without importing what would show one."""
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def fail(reason: object) -> typer.Exit:
    """Say why a command stops and give the exception that stops it."""
    typer.echo(f"cot-probe: {reason}", err=True)
    return typer.Exit(EXIT_USAGE)


def keep_few_kernels() -> None:
    """Bound the compiled kernels that torch keeps, for commands that run for days.

    It keeps one for each shape that occurs; texts of all lengths, read together in all numbers, make a
    service grow by half for half an hour before the oldest go. Fewer are as quick. Before the first pass.
    """
    os.environ.setdefault(*_KERNELS)


def tagger_of(
    checkpoint: Path | None,
    *,
    fpr: float | None = None,
    threshold: float | None = None,
    device: str = "cpu",
    bf16: bool = False,
    backend: str = "torch",
    cascade: bool = False,
) -> "Tagger":
    """The tagger that the options name; the arguments are those of :func:`cot_probe.load_tagger`.

    Raises:
        typer.Exit: if the checkpoint or the operating point cannot be used; why is said.
    """
    from cot_probe.manifest import CheckpointError
    from cot_probe.tagger import load_tagger

    quiet_loading()
    try:
        return load_tagger(
            checkpoint, fpr=fpr, threshold=threshold, device=device, bf16=bf16, backend=backend, cascade=cascade
        )
    except (CheckpointError, ValueError) as error:
        raise fail(error) from None


def policy_of(path: Path | None, tagger: "Tagger") -> "Policy":
    """The policy in a file, or the default one of the tagger's checkpoint.

    Raises:
        typer.Exit: if it cannot be used; why is said.
    """
    from cot_probe.gate import PolicyError, default_policy, load_policy

    try:
        return default_policy(tagger) if path is None else load_policy(path, tagger)
    except PolicyError as error:
        raise fail(error) from None


def bound(host: str, port: int) -> socket.socket:
    """A socket that can listen, to be made before a checkpoint is loaded; port 0 takes any that is free.

    Raises:
        typer.Exit: if the address cannot be bound; why is said.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.set_inheritable(False)
    except OSError as error:
        raise fail(f"cannot listen on {host}, port {port} ({error}): give another --host or --port") from None
    return listener


def matches(path: str) -> list[str]:
    """The path itself where it exists, else what it matches as a glob pattern."""
    return [path] if path == "-" or os.path.exists(path) else sorted(glob.glob(path, recursive=True))


def size_of(files: Iterable[Path]) -> int:
    """Bytes of all files that are there."""
    return sum(file.stat().st_size for file in files if file.is_file())


def items_in(
    paths: Iterable[str],
    *,
    format: str | None = None,
    options: ReadOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Trace | Rejection]:
    """Everything in the files, folders, globs and standard input (``-``) that ``paths`` names, in order."""
    for path in paths:
        found = matches(path)
        if not found:
            yield Rejection(path=path, reason="no such file, and no file matches it as a glob pattern")
        elif path == "-":
            yield from read_stream(sys.stdin.buffer, name="<stdin>", format=format, options=options)
        else:
            for name in found:
                yield from read_path(name, format=format, options=options, progress=progress)


class Rejections:
    """Tells rejections on standard error as they come, the first ones one by one; stops a strict command."""

    def __init__(self, *, strict: bool = False) -> None:
        self.count = 0
        self._strict = strict

    def __call__(self, rejection: Rejection) -> None:
        """Count one, and tell it."""
        self.count += 1
        if self.count <= SHOWN_REJECTIONS:
            typer.echo(f"cot-probe: not read: {rejection}", err=True)
        elif self.count == SHOWN_REJECTIONS + 1:
            typer.echo("cot-probe: not read: … and more, counted at the end", err=True)
        if self._strict:
            raise typer.Exit(EXIT_REJECTED)

    def kept(self, items: Iterable[Trace | Rejection]) -> Iterator[Trace]:
        """The traces among ``items``; rejections are told and counted."""
        for item in items:
            if isinstance(item, Rejection):
                self(item)
            else:
                yield item


def progress_bar(console: Console) -> Progress:
    """A bar; nothing at all where the console is no terminal."""
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def inputs_of(paths: Iterable[str]) -> list[Path]:
    """Every file below the paths, for sizes; standard input has none."""
    return [file for path in paths if path != "-" for name in matches(path) for file in transcript_files(name)]


class Pace:
    """Bytes read of bytes to read, and tokens a second: what people and machines are told on the way."""

    def __init__(self, files: list[Path]) -> None:
        self.files = len(files)
        self.bytes = size_of(files)
        self.read = 0
        self._begun = time.monotonic()

    def add(self, count: int) -> None:
        """So many bytes were read."""
        self.read += count

    def figures(self, tally: "Tally", files_done: int) -> dict[str, Any]:
        """Counts so far; ``seconds_left`` is null before anything was read."""
        seconds = max(1e-9, time.monotonic() - self._begun)
        share = min(1.0, self.read / self.bytes) if self.bytes else 1.0
        return {
            "files_done": files_done,
            "files": self.files,
            "bytes_read": self.read,
            "bytes": self.bytes,
            "traces": tally.traces,
            "rejected": tally.rejected,
            "tokens": tally.tokens,
            "tokens_per_second": round(tally.tokens / seconds, 1),
            "seconds": round(seconds, 1),
            "seconds_left": round(seconds * (1 - share) / share, 1) if share > 0 else None,
            "tags": dict(tally.tags),
        }


class JsonProgress:
    """One JSON object a line on standard error, at most one a second, and one at the end."""

    def __init__(self, *, every: float = 1.0) -> None:
        self._every = every
        self._last = -every

    def tell(self, figures: dict[str, Any], *, last: bool = False) -> None:
        """Write the figures, unless the last line is too young."""
        now = time.monotonic()
        if last or now - self._last >= self._every:
            self._last = now
            typer.echo(json.dumps({"progress": figures | {"done": last}}), err=True)


def described(figures: dict[str, Any]) -> str:
    """The figures as one line beside a bar."""
    tags = ", ".join(f"{name} {count}" for name, count in sorted(figures["tags"].items(), key=lambda x: -x[1])[:3])
    parts = [
        f"{figures['files_done']}/{figures['files']} files",
        f"{figures['traces']:,} traces",
        f"{figures['tokens_per_second']:,.0f} tokens/s",
    ]
    return (
        ", ".join(parts)
        + (f"; {tags}" if tags else "")
        + (f"; {figures['rejected']} not read" if figures["rejected"] else "")
    )
