"""Seconds until something happens: imports, ``cot-probe --help``, the first result of ``cot-probe tag``.

    python benchmarks/startup.py --write benchmarks/README.md
    python benchmarks/startup.py --repeats 1 --cold 0                 # only to see that it works

Every figure is that of processes of their own, from their start to their end (for the first result: to the line
that comes out), in turn, round by round. *Beyond an empty interpreter* is the median over rounds of the
difference to ``python -c pass`` in the same round. *Cold* means: before each process the operating system is
asked to forget the files of Python's packages and of the checkpoint, so that they come from the disk again. It keeps
those that another process has mapped at that moment, and only Linux takes such requests; after a true
restart of the machine it can take longer. Run it on an idle machine: the load before the run is stated.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pages import write_between
from throughput import processor

ROOT = Path(__file__).resolve().parent.parent
EMPTY, FIRST = "python -c pass", "cot-probe tag, first result"
COMMAND = "from cot_probe.cli import main; main()"
EXAMPLE = '{"id": "one", "reasoning": "Nobody watches the logs. I will read the file first, then answer openly."}\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Something to start: ``code`` with arguments; ``until_line``: timed to its first line on standard output."""

    name: str
    code: str
    args: tuple[str, ...] = ()
    until_line: bool = False


def starts(example: Path, checkpoint: Path | None) -> list[Start]:
    """What is timed, in the order of a round."""
    named = ("--checkpoint", str(checkpoint)) if checkpoint else ()
    tag = ("tag", str(example), "-o", "-", "--show", "none", *named)
    return [
        Start(name=EMPTY, code="pass"),
        Start(name="import cot_probe", code="import cot_probe"),
        Start(name="cot-probe --help", code=COMMAND, args=("--help",)),
        Start(name="import torch", code="import torch"),
        Start(name="import transformers", code="import transformers"),
        Start(name=FIRST, code=COMMAND, args=tag, until_line=True),
    ]


def seconds(start: Start) -> float:
    """Run it once.

    Raises:
        SystemExit: if it fails, with what it said.
    """
    command = [sys.executable, "-c", start.code, *start.args]
    with tempfile.TemporaryFile() as said:
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as process:
            assert process.stdout is not None
            line = process.stdout.readline() if start.until_line else b""
            spent = time.perf_counter() - begun
            process.communicate()
            spent = spent if line else time.perf_counter() - begun
        said.seek(0)
        if process.returncode or (start.until_line and not line):
            raise SystemExit(f"{start.name} ended with status {process.returncode}: {said.read().decode()[-2000:]}")
    return spent


def files_read(checkpoint: Path | None) -> Iterator[Path]:
    """The files that a start may read: the standard library, the installed packages, this package, the checkpoints."""
    folders = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
    folders |= {ROOT / "cot_probe", ROOT / "checkpoints", *([checkpoint] if checkpoint else [])}
    for folder in folders:
        # The packages may lie within the standard library's folder.
        if not any(other in folder.parents for other in folders):
            yield from (Path(at) / name for at, _, names in os.walk(folder) for name in names)


def forget(files: Sequence[Path]) -> None:
    """Ask the operating system to read these files from the disk the next time."""
    for file in files:
        try:
            handle = os.open(file, os.O_RDONLY)
        except OSError:  # gone, or not ours to read: then it is not read at a start either
            continue
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def rounds(some: Sequence[Start], count: int, files: Sequence[Path] = ()) -> dict[str, list[float]]:
    """Seconds of each in ``count`` rounds; ``files`` are forgotten before each start."""
    found: dict[str, list[float]] = {start.name: [] for start in some}
    for _ in range(count):
        for start in some:
            forget(files)
            found[start.name].append(seconds(start))
    return found


def told(values: Sequence[float]) -> str:
    """Median and range."""
    if not values:
        return "–"
    return f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def table(warm: dict[str, list[float]], cold: dict[str, list[float]]) -> str:
    """The Markdown table."""
    lines = [
        "| start | warm, s, median [least, most] | beyond an empty interpreter, s | cold, s, median [least, most] |",
        "|---|---|---|---|",
    ]
    for name, values in warm.items():
        beyond = statistics.median(value - empty for value, empty in zip(values, warm[EMPTY], strict=True))
        more = "–" if name == EMPTY else f"{beyond:.3f}"
        lines.append(
            f"| `{name}` | {told(values)} | {more} | {told(cold.get(name, []))} |".replace(f"`{FIRST}`", FIRST)
        )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--repeats", type=int, default=15, help="warm rounds, after one that does not count")
    parser.add_argument("--cold", type=int, default=5, help="cold rounds; 0 for none")
    parser.add_argument("--write", type=Path, default=None, help="put the table into this page, between its marks")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        example = Path(folder) / "one.jsonl"
        example.write_text(EXAMPLE, encoding="utf-8")
        some = starts(example, args.checkpoint)
        cold: dict[str, list[float]] = {}
        if args.cold and hasattr(os, "posix_fadvise"):
            cold = rounds(some, args.cold, list(files_read(args.checkpoint)))
        rounds(some, 1)
        warm = rounds(some, args.repeats)
    text = (
        f"{processor()}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores; "
        f"Python {platform.python_version()}; checkpoint {args.checkpoint or 'as shipped'}; {args.repeats} warm rounds, "
        f"{args.cold if cold else 0} cold; load of the machine before the run: {load:.1f}.\n\n" + table(warm, cold)
    )
    print(text)
    if args.write is not None:
        write_between(args.write, "startup", text)


if __name__ == "__main__":
    main()
