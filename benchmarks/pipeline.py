"""Batch tagging against what one would write without it: from a JSONL file of traces to a JSONL file of results.

    python benchmarks/pipeline.py --write benchmarks/README.md       # on two cores about 3 minutes
    python benchmarks/pipeline.py --traces 8 --rival-traces 1 --repeats 1 --threads 1    # only to see that it works

Ours is the engine of ``cot-probe tag`` (:func:`cot_probe.batch.run_batch`), as it comes and in bfloat16. The
rivals are ``transformers.pipeline("text-classification")`` over the same sentences, each with what stands around
it: a pair whose first text is the instructions and the neighbouring sentences and whose second is the sentence,
cut to the checkpoint's window, ``batch_size=16``; five labels, sigmoid. Their bodies are

- our own base with a classification head made up at random;
- one of the shape of DeBERTa-v3-xsmall with random weights, fed the ids of our base's tokenizer: speed only.

Everyone reads the traces from a file, splits, tokenises, scores and writes; models are loaded before. The text's
tokens count once each, by the checkpoint's tokenizer, whoever scores it and however often it reads them. The
rivals get fewer traces, in turn with ours, repeat by repeat; ratios are medians of the repeats' own ratios.
Every number of threads is a process of its own, bound to as many cores. Run it on an idle machine: the load
before the run is stated with the table.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pages import write_between
from throughput import EXAMPLES, Speed, measured_apart, processor

from cot_probe.sentences import split
from cot_probe.transcripts import Trace, read_path
from cot_probe.transcripts.trace import trace_of

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "checkpoints" / "base-minilm-l6"
OURS, MINILM, DEBERTA = "cot-probe tag", "pipeline, MiniLM body", "pipeline, DeBERTa-v3-xsmall shape"
BATCH_SIZE = 16
DEBERTA_V3_XSMALL: dict[str, Any] = {
    "vocab_size": 128_100,
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "max_relative_positions": -1,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 256,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "layer_norm_eps": 1e-7,
    "pooler_hidden_size": 384,
}
"""The settings that the published model has: 22 million weights besides those of the embeddings."""

Scorer = Callable[[Path, Path], None]
"""Reads traces from a file, writes results into another."""


def mixed_traces(count: int, lengths: Sequence[int], *, seed: int) -> Iterator[Trace]:
    """Traces of the examples' sentences in random order, as many words long as ``lengths`` says, in turn."""
    items = [item for path in sorted(EXAMPLES.iterdir()) for item in read_path(path)]
    found = [item for item in items if isinstance(item, Trace) and item.text]
    sentences = [sentence.text.strip() for trace in found for sentence in split(trace.text)]
    words = [len(sentence.split()) for sentence in sentences]
    rng = np.random.default_rng(seed)
    for number in range(count):
        some: list[str] = []
        left = lengths[number % len(lengths)]
        while left > 0:
            at = int(rng.integers(len(sentences)))
            some.append(sentences[at])
            left -= words[at]
        yield trace_of(" ".join(some), id=str(number), context=found[number % len(found)].context)


def write_traces(traces: Iterable[Trace], path: Path) -> Path:
    """Traces as JSON lines, as ``cot-probe tag`` takes them; one at a time in memory."""
    with path.open("w", encoding="utf-8") as out:
        for trace in traces:
            row = {"id": trace.id, "context": trace.context, "reasoning": trace.text}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def batch_scorer(checkpoint: Path | None, *, bf16: bool) -> tuple[Scorer, Any]:
    """The engine of ``cot-probe tag`` at its default settings, and its tagger."""
    from cot_probe.batch import run_batch
    from cot_probe.journal import Settings
    from cot_probe.tagger import load_tagger

    tagger = load_tagger(checkpoint, **({"bf16": True} if bf16 else {}))
    settings = Settings(
        checkpoint=tagger.checkpoint.signature,
        fpr=tagger.point.fpr,
        thresholds=dict(tagger.point.traces),
        tags=tuple(tagger.checkpoint.taxonomy.tags),
        labels=tuple(tagger.checkpoint.taxonomy.labels),
        bf16=tagger.bf16,
    )

    def score(traces: Path, results: Path) -> None:
        report = run_batch([traces], tagger=tagger, settings=settings, output=results)
        if report.total.rejected:
            raise SystemExit(f"{report.total.rejected} records of {traces} were rejected: see {report.rejected}")

    return score, tagger


def rival_folder(folder: Path, kind: str, *, base: Path) -> Path:
    """A text classifier with five labels and the base's tokenizer, saved as one would find it on a hub."""
    import torch
    from transformers import (
        AutoTokenizer,
        BertForSequenceClassification,
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        PreTrainedModel,
    )

    torch.manual_seed(0)
    place = folder / kind.replace(" ", "-")
    options: dict[str, Any] = {"num_labels": 5, "problem_type": "multi_label_classification"}
    model: PreTrainedModel
    if kind == MINILM:
        model = BertForSequenceClassification.from_pretrained(base, dtype=torch.float32, **options)
    else:
        model = DebertaV2ForSequenceClassification(DebertaV2Config(**DEBERTA_V3_XSMALL, **options))
    model.save_pretrained(place)
    AutoTokenizer.from_pretrained(base).save_pretrained(place)
    return place


def pairs_of(trace: dict[str, Any], *, before: int, after: int) -> Iterator[dict[str, str]]:
    """Each sentence of a trace, with the instructions and its neighbours as the first text of the pair."""
    sentences = [sentence.text.strip() for sentence in split(trace["reasoning"])]
    for at, sentence in enumerate(sentences):
        around = sentences[max(0, at - before) : at] + sentences[at + 1 : at + 1 + after]
        yield {"text": " ".join([trace["context"], *around]), "text_pair": sentence}


def pipeline_scorer(place: Path, *, window: int, before: int, after: int, dtype: str) -> Scorer:
    """A text-classification pipeline over sentences in context, batch after batch."""
    from transformers import pipeline

    # Its declared types leave out generators, which it takes.
    classify: Any = pipeline("text-classification", model=str(place), device="cpu", dtype=dtype)

    def score(traces: Path, results: Path) -> None:
        with traces.open(encoding="utf-8") as lines, results.open("w", encoding="utf-8") as out:
            rows = [json.loads(line) for line in lines]
            cut = [list(pairs_of(row, before=before, after=after)) for row in rows]
            # The sentences of all traces as one stream, so that every batch but the last is full.
            found = iter(
                classify(
                    (pair for pairs in cut for pair in pairs),
                    batch_size=BATCH_SIZE,
                    truncation=True,
                    max_length=window,
                    top_k=None,
                    function_to_apply="sigmoid",
                )
            )
            for row, pairs in zip(rows, cut, strict=True):
                scored = [
                    {"text": pair["text_pair"], "scores": {label["label"]: label["score"] for label in next(found)}}
                    for pair in pairs
                ]
                out.write(json.dumps({"id": row["id"], "sentences": scored}, ensure_ascii=False) + "\n")

    return score


def measure(args: argparse.Namespace, threads: int) -> list[dict[str, Any]]:
    """All rows for one number of threads; the process is bound to as many cores first."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch
    import transformers

    said: Any = transformers.utils.logging
    said.set_verbosity_error()
    said.disable_progress_bar()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        all_traces = list(mixed_traces(args.traces, args.trace_words, seed=args.seed))
        many = write_traces(all_traces, folder / "traces.jsonl")
        few = write_traces(all_traces[: args.rival_traces], folder / "few.jsonl")
        by_default, tagger = batch_scorer(args.checkpoint, bf16=False)
        scorers = {
            (OURS, "default"): (by_default, many),
            (OURS, "bf16"): (batch_scorer(args.checkpoint, bf16=True)[0], many),
        }
        window = tagger.checkpoint.config.layout.max_tokens
        for kind in (MINILM, DEBERTA):
            place = rival_folder(folder, kind, base=args.base)
            rival = pipeline_scorer(place, window=window, before=args.before, after=args.after, dtype=args.rival_dtype)
            scorers[kind, args.rival_dtype] = (rival, few)
        speeds, tokens, sentences = timed(scorers, folder / "results.jsonl", args.repeats)
    facts = {
        "checkpoint": tagger.checkpoint.signature,
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "tokens": tokens,
        "sentences": sentences,
    }
    rows = [
        {"engine": engine, "threads": threads, "precision": precision, "tokens_per_second": found}
        for (engine, precision), found in speeds.items()
    ]
    return [*rows, facts]


def timed(
    scorers: dict[tuple[str, str], tuple[Scorer, Path]], results: Path, repeats: int
) -> tuple[dict[tuple[str, str], list[float]], list[int], int]:
    """Tokens a second of each repeat; tokens of the large and the small file, sentences of the small one."""
    speeds: dict[tuple[str, str], list[float]] = {key: [] for key in scorers}
    sizes: dict[str, int] = {}
    written: dict[tuple[str, str], list[int]] = {}
    for repeat in range(-1, repeats):  # the first round is to warm up, and to count
        for key, (score, traces) in scorers.items():
            results.unlink(missing_ok=True)
            begun = time.perf_counter()
            score(traces, results)
            seconds = time.perf_counter() - begun
            rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
            sizes |= {row["id"]: row["n_tokens"] for row in rows if "n_tokens" in row}
            written[key] = [len(row["sentences"]) for row in rows]
            if repeat >= 0:
                speeds[key].append(sum(sizes[row["id"]] for row in rows) / seconds)
    few = min(written.values(), key=len)
    if any(counts[: len(few)] != few for counts in written.values()):
        raise SystemExit("the engines did not score the same sentences: nothing to compare")
    return speeds, [sum(sizes.values()), sum(sizes[str(number)] for number in range(len(few)))], sum(few)


def table(speeds: Sequence[Speed]) -> str:
    """The Markdown table: every engine, and how many times as fast as each rival it is."""
    rivals = (MINILM, DEBERTA)
    head = ["engine", "threads", "precision", "tokens/s, median [least, most]", *(f"× {rival}" for rival in rivals)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for speed in speeds:
        least, most = min(speed.tokens_per_second), max(speed.tokens_per_second)
        cells = [speed.engine, str(speed.threads), speed.precision, f"{speed.median:,.0f} [{least:,.0f}, {most:,.0f}]"]
        for name in rivals:
            rival = next(other for other in speeds if (other.engine, other.threads) == (name, speed.threads))
            cells.append(f"{speed.times(rival):.3g}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--base", type=Path, default=BASE, help="the encoder of the first rival, and its tokenizer")
    parser.add_argument("--threads", type=numbers, default=[2])
    parser.add_argument("--traces", type=int, default=18)
    parser.add_argument("--rival-traces", type=int, default=5, help="so many of them for the rivals")
    parser.add_argument("--trace-words", type=numbers, default=[50, 150, 300, 500, 1000, 2000], help="lengths, in turn")
    parser.add_argument("--before", type=int, default=3, help="sentences before the scored one that the rivals see")
    parser.add_argument("--after", type=int, default=2, help="and after it")
    parser.add_argument("--rival-dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, default=None, help="put the table into this page, between its marks")
    parser.add_argument("--measure", type=int, default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = arguments()
    if args.measure is not None:
        print(json.dumps(measure(args, args.measure)))
        return
    load = os.getloadavg()[0]
    speeds, facts = measured_apart(__file__, args.threads, TOKENIZERS_PARALLELISM="true", HF_HUB_OFFLINE="1")
    tokens, few = facts["tokens"]
    text = (
        f"{processor()}; {facts['versions']}; checkpoint {facts['checkpoint']}; {args.traces} traces of "
        f"{', '.join(map(str, args.trace_words))} words in turn, {tokens:,} tokens (rivals: {args.rival_traces} "
        f"traces, {few:,} tokens, {facts['sentences']:,} sentences, each with {args.before} sentences before it and "
        f"{args.after} after); {args.repeats} repeats; load of the machine before the run: {load:.1f}.\n\n"
        + table(speeds)
    )
    print(text)
    if args.write is not None:
        write_between(args.write, "pipeline", text)


if __name__ == "__main__":
    main()
