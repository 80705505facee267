"""Dollars and watt-hours for a million tokens of reasoning, beside a language model as judge: docs/cost.md.

    python benchmarks/cost.py --write docs/cost.md                       # speeds as docs/sizing.md has them
    python benchmarks/cost.py --cpu 20000 --gpu 1000000 --core-hour 0.03 # speeds and prices of your own
    python benchmarks/cost.py --judge small:0.1:0.4 --judge large:5:25 --trace-tokens 800

Nothing is measured here. Speeds come from a page that ``throughput.py`` has filled, or from the command line;
prices and watts are assumptions until you put in yours. The judge is asked once a trace, with the prompt of
:mod:`cot_probe.monitorability.judges`.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pages import write_between

from cot_probe.monitorability.judges import PROMPT, PROMPT_VERSION, judge_message
from cot_probe.monitorability.study import Case

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "checkpoints" / "base-minilm-l6" / "tokenizer.json"
MILLION = 1_000_000
ASSUMED_ON = "2026-11-21"
"""When the default prices and watts were set: round figures of that time, nobody's offer."""
JUDGES = ("small:0.1:0.4", "middle:1:5", "large:5:25")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What tags: so many tokens a second on so many ``units`` (cores, GPUs), at a price and a power for each."""

    name: str
    tokens_per_second: float
    units: int
    dollars_an_hour: float
    watts: float

    @property
    def unit_hours(self) -> float:
        """Core-hours, or GPU-hours, for a million tokens."""
        return self.units * MILLION / self.tokens_per_second / 3600

    @property
    def dollars(self) -> float:
        """For a million tokens."""
        return self.unit_hours * self.dollars_an_hour

    @property
    def watt_hours(self) -> float:
        """For a million tokens."""
        return self.unit_hours * self.watts


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A language model at a price: dollars for a million tokens in and out."""

    name: str
    tokens_in: float
    tokens_out: float

    def dollars(self, asked: "Asked") -> float:
        """For a million tokens of reasoning."""
        each = (asked.prompt + asked.context + asked.trace) * self.tokens_in + asked.answer * self.tokens_out
        return each / asked.trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Tokens of one question to a judge: the prompt with its frame, the instructions, the trace, the answer."""

    prompt: int
    context: int
    trace: int
    answer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """A row of the table of throughput.py; ``unit`` is "core" or "GPU"."""

    unit: str
    threads: int
    precision: str
    tokens_per_second: float


def speeds_in(page: str) -> list[Speed]:
    """Our rows of the table that ``throughput.py`` has put into a page, those with the fewest threads.

    Raises:
        ValueError: if it has none.
    """
    text = page.partition("<!-- throughput: begin -->")[2].partition("<!-- throughput: end -->")[0]
    unit = "GPU" if "GPU-hours" in text else "core"
    rows = re.findall(r"^\| cot_probe \| (\d+) \| (\S+) \| ([\d,]+) ", text, re.MULTILINE)
    found = [
        Speed(unit=unit, threads=int(threads), precision=name, tokens_per_second=float(speed.replace(",", "")))
        for threads, name, speed in rows
    ]
    if not found:
        raise ValueError("no row of cot_probe between the marks: fill it with benchmarks/throughput.py --write")
    fewest = min(speed.threads for speed in found)
    return [speed for speed in found if speed.threads == fewest]


def prompt_tokens() -> int:
    """Tokens of the shipped judge's prompt and of the frame around a record, by our own tokenizer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_truncation()
    letter = "x"
    case = Case(id="one", group="one", outcome=False, context=letter, reasoning=letter)
    frame = judge_message(case, reads="reasoning")
    assert frame is not None
    counts = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in (PROMPT, frame)]
    return sum(counts) - 2 * len(letter)


def workers_of(args: argparse.Namespace) -> list[Worker]:
    """What tags, by the command line or else by the page."""
    cpu = {"dollars_an_hour": args.core_hour, "watts": args.core_watts}
    gpu = {"dollars_an_hour": args.gpu_hour, "watts": args.gpu_watts}
    workers: list[Worker] = []
    if args.cpu is not None:
        workers.append(Worker(name="cot_probe, a core", tokens_per_second=args.cpu, units=1, **cpu))
    else:
        for speed in speeds_in(args.sizing.read_text(encoding="utf-8")):
            name = f"cot_probe, a {speed.unit}, {speed.precision}"
            units, more = (speed.threads, cpu) if speed.unit == "core" else (1, gpu)
            workers.append(Worker(name=name, tokens_per_second=speed.tokens_per_second, units=units, **more))
    if args.gpu is not None:
        workers.append(Worker(name="cot_probe, a GPU", tokens_per_second=args.gpu, units=1, **gpu))
    return workers


def told(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def table(workers: Sequence[Worker], judges: Sequence[Judge], asked: Sequence[Asked], gpu_missing: bool) -> str:
    """The Markdown table; times are against the cheapest of our rows."""
    cheapest = min(worker.dollars for worker in workers)
    lines = ["| what reads | speed or tokens | price | $ for 10⁶ tokens | Wh for 10⁶ tokens | × cheapest |"]
    lines.append("|---|---|---|---:|---:|---:|")
    for worker in workers:
        lines.append(
            f"| {worker.name} | {worker.tokens_per_second:,.0f} tokens/s | {worker.dollars_an_hour:g} $ an hour "
            f"| {told(worker.dollars)} | {told(worker.watt_hours)} | {told(worker.dollars / cheapest)} |"
        )
    if gpu_missing:
        lines.append("| cot_probe, a GPU | not measured | – | – | – | – |")
    for judge in judges:
        for one in asked:
            tokens = f"{one.prompt} + {one.context:,} + {one.trace:,} in, {one.answer:,} out"
            price = f"{judge.tokens_in:g} $ in, {judge.tokens_out:g} $ out, for 10⁶"
            dollars = judge.dollars(one)
            lines.append(
                f"| judge, {judge.name} | {tokens} | {price} | {told(dollars)} | not known | {told(dollars / cheapest)} |"
            )
    return "\n".join(lines)


def judge_named(text: str) -> Judge:
    """``NAME:IN:OUT`` as a judge."""
    name, *prices = text.rsplit(":", 2)
    try:
        tokens_in, tokens_out = map(float, prices)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected NAME:IN:OUT, dollars for a million tokens, such as middle:1:5"
        ) from None
    return Judge(name=name, tokens_in=tokens_in, tokens_out=tokens_out)


def arguments() -> argparse.Namespace:
    """The command line."""

    def positive(text: str) -> float:
        if not float(text) > 0:
            raise argparse.ArgumentTypeError(f"{text}, expected a number above 0")
        return float(text)

    def numbers(text: str) -> list[int]:
        return [int(positive(number)) for number in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizing", type=Path, default=ROOT / "docs" / "sizing.md", help="a page with measured speeds")
    parser.add_argument("--cpu", type=positive, default=None, help="instead: tokens a second of one core")
    parser.add_argument("--gpu", type=positive, default=None, help="tokens a second of one GPU, where you measured it")
    parser.add_argument("--core-hour", type=positive, default=0.04, help="dollars for an hour of a core")
    parser.add_argument("--gpu-hour", type=positive, default=3.0, help="dollars for an hour of a GPU")
    parser.add_argument("--core-watts", type=positive, default=8.0, help="of a core, with its share of the machine")
    parser.add_argument("--gpu-watts", type=positive, default=900.0, help="of a GPU, with its share of the machine")
    parser.add_argument("--judge", type=judge_named, action="append", help=f"default: {' '.join(JUDGES)}")
    parser.add_argument("--trace-tokens", type=numbers, default=[500, 5000], help="of one trace")
    parser.add_argument("--context-tokens", type=int, default=300, help="of its instructions, which the judge is shown")
    parser.add_argument("--answer-tokens", type=int, default=200, help="that the judge writes about one trace")
    parser.add_argument("--dated", default=ASSUMED_ON, help="when prices and watts were set")
    parser.add_argument("--write", type=Path, default=None, help="put the table into this page, between its marks")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = arguments()
    judges = args.judge or [judge_named(text) for text in JUDGES]
    prompt = prompt_tokens()
    asked = [
        Asked(prompt=prompt, context=args.context_tokens, trace=length, answer=args.answer_tokens)
        for length in args.trace_tokens
    ]
    workers = workers_of(args)
    gpu_missing = not any("GPU" in worker.name for worker in workers)
    source = "given" if args.cpu is not None else f"of {args.sizing.name}, the fewest threads"
    text = (
        f"Speeds {source}. Assumed on {args.dated}: {args.core_hour:g} $ and {args.core_watts:g} W for a core, "
        f"{args.gpu_hour:g} $ and {args.gpu_watts:g} W for a GPU, each with its share of the machine; judges' prices as "
        f"in the table. Tokens in: prompt {PROMPT_VERSION} and frame + instructions + trace.\n\n"
        + table(workers, judges, asked, gpu_missing)
    )
    print(text)
    if args.write is not None:
        write_between(args.write, "cost", text)


if __name__ == "__main__":
    main()
