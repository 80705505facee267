"""How far each backend's scores lie from those of float32, and how quick it is: on the same windows, in the same run.

    python benchmarks/backends.py --write benchmarks/README.md
    python benchmarks/backends.py --rejected        # also the int8 graphs that go too far and are not offered
    python benchmarks/backends.py --every 100 --groups 2   # only to see that it works

The windows are those of the test split. They are cut into groups of traces, and the backends take each group
in turn; tokens per second (padding not counted) are the median over groups, the ratio to torch in float32 is
the median of the groups' own ratios. Only the encoder and its heads are timed. A backend may move no score by
more than 0.01, and change the tags of at most 0.2 % of the sentences at any operating point. Run it on an idle
machine: the load before the run is stated.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pages import write_between
from throughput import processor

from cot_probe.annotations import load_split
from cot_probe.backends import CHANGED, TOLERANCE, BackendError, Gaps, gaps_between
from cot_probe.encoder import Encoder, States, TraceLogits, encode
from cot_probe.onnx_backend import OnnxBody, open_body
from cot_probe.onnx_graph import BertWeights, bert_weights, onnx_graph
from cot_probe.tagger import Tagger, load_tagger, sentences_of
from cot_probe.transcripts.trace import trace_of
from cot_probe.windows import Window

ROOT = Path(__file__).resolve().parent.parent
FP32 = "torch fp32"
REJECTED = "not offered: "
QUANTILES = (0.5, 0.99, 0.999, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to compute the body."""

    bf16: bool = False
    states: States | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Windows of some traces, and how many sentences each trace has."""

    windows: list[list[Window]]
    lengths: list[int]

    @property
    def tokens(self) -> int:
        """Tokens that the encoder reads."""
        return sum(len(window.ids) for some in self.windows for window in some)


def groups_of(tagger: Tagger, annotations: Path, every: int, count: int) -> list[Group]:
    """Every so-manieth trace of the test split, dealt to so many groups."""
    records = load_split(annotations, "test")[::every]
    made = []
    for at in range(count):
        traces = [trace_of(record.text, id=record.id, context=record.context) for record in records[at::count]]
        sentences = [sentences_of(trace) for trace in traces]
        lengths = [len(some) for some in sentences]
        made.append(Group(windows=tagger.windows(traces, sentences), lengths=lengths))
    return made


def ways_of(encoder: Encoder, rejected: bool) -> dict[str, Way]:
    """What is compared; a backend that cannot be used here is named and left out."""
    found = {FP32: Way(), "torch bf16": Way(bf16=True)}
    try:
        found["onnx-fp32"] = Way(states=open_body(encoder, "fp32"))
        found["onnx-int8"] = Way(states=open_body(encoder, "int8"))
        if rejected:
            weights = bert_weights(encoder)
            every = {"every layer in blocks": OnnxBody(onnx_graph(weights, "int8", int8_from=0))}
            found |= {
                f"{REJECTED}int8, {name}": Way(states=body) for name, body in (every | dynamic_int8(weights)).items()
            }
    except BackendError as error:
        print(f"left out: {error}")
    return found


def dynamic_int8(weights: BertWeights) -> dict[str, States]:
    """ONNX Runtime's dynamic quantisation, all tokens of a pass on one scale: of all matrices, and of some."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx_graph(weights, "fp32")
    products = [node for node in onnx.load_model_from_string(graph).graph.node if node.op_type == "MatMul"]
    matrices = {node.name: node.input[1] for node in products if node.input[1].endswith(".weight")}
    last = f"encoder.layer.{max(weights.layers) - 1}."
    some = {
        "every matrix": list(matrices),
        "attention": [name for name, matrix in matrices.items() if ".attention." in matrix],
        "first of feed-forward": [name for name, matrix in matrices.items() if ".intermediate." in matrix],
        "last layer": [name for name, matrix in matrices.items() if matrix.startswith(last)],
    }
    made: dict[str, States] = {}
    with tempfile.TemporaryDirectory() as folder:
        for which, names in some.items():
            place = Path(folder) / "model.onnx"
            quantize_dynamic(
                onnx.load_model_from_string(graph),
                place,
                per_channel=True,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=names,
            )
            made[f"dynamic, {which}"] = OnnxBody(place.read_bytes())
    return made


def measured(
    tagger: Tagger, groups: Sequence[Group], ways: dict[str, Way]
) -> tuple[dict[str, list[TraceLogits]], dict[str, list[float]]]:
    """Logits of all traces and tokens per second of each group, by the name of the way."""
    logits: dict[str, list[TraceLogits]] = {name: [] for name in ways}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number, group in enumerate([groups[0], *groups]):  # the first round is to warm up
        for name, way in ways.items():
            begun = time.perf_counter()
            found = encode(
                tagger.checkpoint.encoder,
                group.windows,
                group.lengths,
                padding=tagger.special.padding,
                bf16=way.bf16,
                states=way.states,
            )
            if number:
                speeds[name].append(group.tokens / (time.perf_counter() - begun))
                logits[name] += found
    return logits, speeds


def main_table(gaps: dict[str, Gaps], speeds: dict[str, list[float]]) -> str:
    """A row for each backend."""
    head = ["backend", "tokens/s, median [least, most]", f"× {FP32}", "largest difference: sentences", "traces"]
    head += ["sentences with other tags, at each rate", "traces with other tags", "may be used"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, found in speeds.items():
        ratio = np.median(np.divide(found, speeds[FP32]))
        cells = [name, f"{np.median(found):,.0f} [{min(found):,.0f}, {max(found):,.0f}]", f"{ratio:.2f}"]
        gap = gaps.get(name)
        if gap is None:
            cells += ["–"] * 4 + ["is the measure"]
        else:
            cells += [f"{gap.sentences.max():.5f}", f"{gap.traces.max():.5f}"]
            cells += [shares(gap.sentences_changed, len(gap.sentences)), shares(gap.traces_changed, len(gap.traces))]
            cells += ["yes" if gap.tolerable else "no"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shares(changed: dict[float, int], count: int) -> str:
    """So many of so many, at each operating point."""
    return ", ".join(f"{rate:g}: {number / count:.3%}" for rate, number in sorted(changed.items()))


def quantile_table(gaps: dict[str, Gaps], names: Sequence[str], level: str) -> str:
    """Differences of the scores of one level, a row for each backend and label."""
    head = [
        "backend",
        "label" if level == "sentences" else "tag",
        *(f"{q:.1%} below" for q in QUANTILES[:-1]),
        "largest",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for backend, gap in gaps.items():
        columns: NDArray[np.float64] = getattr(gap, level)
        for at, name in enumerate(names):
            cells = [f"{value:.5f}" for value in np.quantile(columns[:, at], QUANTILES)]
            lines.append("| " + " | ".join([backend, name, *cells]) + " |")
    return "\n".join(lines)


def report(tagger: Tagger, groups: Sequence[Group], ways: dict[str, Way], load: float) -> str:
    """Measure, and say it in Markdown."""
    logits, speeds = measured(tagger, groups, ways)
    gaps = {
        name: gaps_between(tagger.checkpoint, logits[FP32], found) for name, found in logits.items() if name != FP32
    }
    taxonomy = tagger.checkpoint.taxonomy
    offered = {name: gap for name, gap in gaps.items() if not name.startswith(REJECTED)}
    about = (
        f"{processor()}, {torch.get_num_threads()} threads; torch {torch.__version__}; checkpoint "
        f"{tagger.checkpoint.signature}; test split, {sum(len(g.lengths) for g in groups):,} traces, "
        f"{sum(sum(g.lengths) for g in groups):,} sentences, {sum(g.tokens for g in groups):,} tokens encoded in "
        f"{len(groups)} groups; allowed: {TOLERANCE:g} of a score, {CHANGED:.1%} of the sentences; load of the "
        f"machine before the run: {load:.1f}."
    )
    parts = [about, main_table(gaps, speeds), "Differences of sentence scores"]
    parts += [quantile_table(offered, taxonomy.labels, "sentences"), "Differences of trace scores"]
    return "\n\n".join([*parts, quantile_table(offered, taxonomy.tags, "traces")])


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--annotations", type=Path, default=ROOT / "annotations")
    parser.add_argument("--every", type=int, default=1, help="every so-manieth trace of the test split")
    parser.add_argument("--groups", type=int, default=12)
    parser.add_argument("--threads", type=int, default=None, help="default: what torch takes")
    parser.add_argument("--rejected", action="store_true", help="also int8 graphs that are not offered")
    parser.add_argument("--write", type=Path, default=None, help="put the tables into this page, between its marks")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = arguments()
    load = os.getloadavg()[0]
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    tagger = load_tagger(args.checkpoint)
    groups = groups_of(tagger, args.annotations, args.every, args.groups)
    text = report(tagger, groups, ways_of(tagger.checkpoint.encoder, args.rejected), load)
    print(text)
    if args.write is not None:
        write_between(args.write, "backends", text)


if __name__ == "__main__":
    main()
