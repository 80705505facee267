"""Many traces through ``cot-probe tag``: time, memory, size of what comes out.

    python benchmarks/many_traces.py --traces 10000 100000 [--checkpoint FOLDER] [--bf16] [--parquet]
    python benchmarks/many_traces.py --traces 1000 25000 --short --bf16       # up to a million sentences

The input is made of the shipped example traces, repeated with noise (numbers changed, sentences
dropped), spread over files of 1,000 lines; with ``--short`` of short sentences of the written training
traces, drawn at random, 40 to a trace. For each size the table gives the wall time, tokens a second,
and the greatest memory that the process held at any time: a batch whose memory is bounded
shows about the same figure for every size.
"""

import argparse
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cot_probe.sentences import split
from cot_probe.transcripts import Trace, read_path

EXAMPLES = Path(__file__).resolve().parent.parent / "tests" / "data" / "examples"
WRITTEN = EXAMPLES.parents[2] / "annotations" / "data" / "train.jsonl"
LINES_A_FILE = 1000
SHORT = 20
"""Most characters of a short sentence."""
SENTENCES_A_TRACE = 40


def noisy(text: str, rng: random.Random) -> str:
    """The text with other numbers and without some of its sentences."""
    kept = [part for part in re.split(r"(?<=[.!?])\s+", text) if rng.random() > 0.1]
    return re.sub(r"\d", lambda _: str(rng.randrange(10)), " ".join(kept)) or text


def repeated(rng: random.Random) -> Iterator[dict[str, Any]]:
    """The example traces with noise, again and again."""
    originals = [item for item in read_path(EXAMPLES) if isinstance(item, Trace) and item.text]
    for number, trace in enumerate(itertools.cycle(originals)):
        yield {"id": f"{trace.id}-{number}", "reasoning": noisy(trace.text, rng), "context": trace.context}


def of_short_sentences(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Traces of 40 short sentences, a line each."""
    texts = [json.loads(line)["text"] for line in WRITTEN.read_text(encoding="utf-8").splitlines()]
    parts = (text[sentence.start : sentence.end].strip() for text in texts for sentence in split(text))
    short = sorted(
        {part for part in parts if len(part) <= SHORT and part.endswith((".", "?", "!")) and "\n" not in part}
    )
    for number in itertools.count():
        yield {"id": f"short-{number}", "reasoning": "\n".join(rng.choices(short, k=SENTENCES_A_TRACE))}


def write_inputs(folder: Path, count: int, rows: Iterator[dict[str, Any]]) -> int:
    """Write ``count`` traces; returns their characters."""
    size = 0
    for begin in range(0, count, LINES_A_FILE):
        with (folder / f"{begin:09}.jsonl").open("w", encoding="utf-8") as out:
            for row in itertools.islice(rows, min(LINES_A_FILE, count - begin)):
                size += len(row["reasoning"])
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return size


def run(folder: Path, out: Path, arguments: argparse.Namespace) -> tuple[float, int]:
    """Run the command as a process of its own; seconds and greatest resident memory in bytes."""
    code = "from cot_probe.cli import main; main()"
    command = [sys.executable, "-c", code, "tag", str(folder), "-o", str(out), "--show", "none"]
    command += ["--checkpoint", str(arguments.checkpoint)] if arguments.checkpoint else []
    command += ["--bf16"] if arguments.bf16 else []
    begun = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"cot-probe tag ended with status {status}")
    return time.monotonic() - begun, usage.ru_maxrss * 1024


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--parquet", action="store_true")
    parser.add_argument("--short", action="store_true", help="traces of short sentences")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| traces | sentences | input | seconds | tokens | tokens/s | peak memory | results |")
    print("|---|---|---|---|---|---|---|---|")
    for count in arguments.traces:
        with tempfile.TemporaryDirectory() as folder:
            rng = random.Random(arguments.seed)
            rows = of_short_sentences(rng) if arguments.short else repeated(rng)
            inputs = Path(folder) / "in"
            inputs.mkdir()
            size = write_inputs(inputs, count, rows)
            out = Path(folder) / ("results.parquet" if arguments.parquet else "results.jsonl")
            seconds, memory = run(inputs, out, arguments)
            total = json.loads((out.with_name(out.name + ".manifest.json")).read_text())["total"]
            if total["traces"] != count:
                raise SystemExit(f"{total['traces']} traces came out of {count}")
            print(
                f"| {count:,} | {total['sentences']:,} | {size / 2**20:.1f} MiB | {seconds:.0f} | {total['tokens']:,} | "
                f"{total['tokens'] / seconds:,.0f} | {memory / 2**20:.0f} MiB | {out.stat().st_size / 2**20:.1f} MiB |"
            )


if __name__ == "__main__":
    main()
