"""The command ``cot-probe calibrate``: a checkpoint's calibration, refitted on one's own traces."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from cot_probe.calibration import FPRS, blank_calibration
from cot_probe.console import EXIT_NOTHING, Rejections, fail, inputs_of, items_in, progress_bar, quiet_loading
from cot_probe.recalibrate import (
    LabelledLogits,
    Recalibration,
    RecalibrationError,
    join_labels,
    rates_held,
    read_labels,
    recalibrate,
    report,
)
from cot_probe.taxonomy import Taxonomy
from cot_probe.transcripts import FORMATS, Trace

if TYPE_CHECKING:
    from cot_probe.checkpoint import Checkpoint
    from cot_probe.tagger import Tagger

_GROUP_TRACES = 64


def calibrate(
    paths: Annotated[list[str], typer.Argument(help="Files, folders or globs; '-' for standard input.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint folder to write: new or empty.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder (default: the shipped one).")] = None,
    labels: Annotated[
        Path | None, typer.Option(help='JSONL, one {"id": …, "tags": […]} a trace, ids as `tag` writes them.')
    ] = None,
    all_benign: Annotated[bool, typer.Option("--all-benign", help="Instead: no trace carries any tag.")] = False,
    fpr: Annotated[
        list[float] | None, typer.Option(help="A false-positive rate to store; repeatable (0.001, 0.01, 0.05).")
    ] = None,
    allow_short: Annotated[
        bool, typer.Option("--allow-short", help="Leave out the rates that the traces are too few for.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name in results (default: the old checkpoint's).")] = None,
    format: Annotated[str | None, typer.Option(help="Force a format instead of sniffing; see `formats`.")] = None,
    strict: Annotated[bool, typer.Option(help="Stop at the first unreadable input, with exit code 4.")] = False,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
) -> None:
    """Refit calibration and thresholds on your own labelled or all-benign traces in PATHS.

    Exit codes: 0 done; 2 wrong usage, faulty labels or too few traces for a rate; 4 some input
    could not be read (only with --strict); 5 nothing could be read.
    """
    if (labels is None) != all_benign:
        raise typer.BadParameter("give exactly one of --labels and --all-benign")
    if format is not None and format not in FORMATS:
        raise typer.BadParameter(f"{format!r}, expected one of {', '.join(FORMATS)}", param_hint="--format")
    from cot_probe.checkpoint import check_new_folder, checkpoint_taxonomy, default_checkpoint, save_recalibrated
    from cot_probe.manifest import CheckpointError

    try:
        source = checkpoint if checkpoint is not None else default_checkpoint()
        check_new_folder(source, out)
        taxonomy = checkpoint_taxonomy(source)
        readable, tags, about = _labelled(paths, labels, format, strict, taxonomy)
        fprs = tuple(fpr or FPRS)
        rates_held(tags, fprs, allow_short=allow_short, taxonomy=taxonomy)  # before the minutes that scoring takes
        loaded, tagger = _load_for_logits(source, device)
        scored = list(_scored(tagger, readable, tags))
        about["recalibrated_from"] = loaded.signature
        result = recalibrate(scored, loaded.calibration, fprs=fprs, allow_short=allow_short, about=about)
        note = _note(loaded.signature, result)
        digest = save_recalibrated(source, out, calibration=result.calibration, note=note, name=name)
    except (CheckpointError, RecalibrationError, OSError) as error:
        _fail(str(error))
    typer.echo(report(result))
    typer.echo(f"\nrecalibrated from {loaded.signature}; new checkpoint in {out}, digest {digest[:12]}")
    if (source / "metrics.json").is_file():
        typer.echo("metrics.json was not copied: its figures are of other thresholds")


def _labelled(
    paths: list[str], labels: Path | None, format: str | None, strict: bool, taxonomy: Taxonomy
) -> tuple[list[Trace], list[frozenset[str]], dict[str, object]]:
    """The traces with something to read, the tags of each, and what they were, for the record."""
    by_id = read_labels(labels, taxonomy) if labels is not None else {}
    traces, rejected = _read(paths, format, strict)
    tags = join_labels(traces, by_id, labels) if labels is not None else [frozenset[str]()] * len(traces)
    readable = [trace for trace in traces if trace.readable]
    unread = len(traces) - len(readable)
    if unread:
        typer.echo(f"cot-probe: {unread} of {len(traces)} traces have no reasoning to read: left out", err=True)
    if rejected:
        typer.echo(f"cot-probe: {rejected} inputs could not be read (listed above)", err=True)
    if not readable:
        typer.echo("cot-probe: nothing to calibrate on", err=True)
        raise typer.Exit(EXIT_NOTHING)
    repeats = len(readable) - len({trace.text for trace in readable})
    if repeats:
        typer.echo(
            f"cot-probe: {repeats} traces repeat the text of another word for word: where they are copies and not "
            "runs of their own, the guarantee does not hold; give each run once",
            err=True,
        )
    about: dict[str, object] = {
        "labels": "all benign"
        if labels is None
        else f"file with SHA-256 {hashlib.sha256(labels.read_bytes()).hexdigest()}",
        "nothing_to_read": unread,
        "not_read": rejected,
    }
    return readable, [own for trace, own in zip(traces, tags, strict=True) if trace.readable], about


def _read(paths: list[str], format: str | None, strict: bool) -> tuple[list[Trace], int]:
    """All traces, and how many inputs could not be read: reported as `cot-probe tag` does."""
    files = Counter(file.resolve() for file in inputs_of(paths))
    twice = [file for file, count in files.items() if count > 1]
    if twice:
        raise RecalibrationError(f"{twice[0]} is given twice: its traces would count as twice as many, give it once")
    rejections = Rejections(strict=strict)
    return list(rejections.kept(items_in(paths, format=format))), rejections.count


def _load_for_logits(source: Path, device: str) -> "tuple[Checkpoint, Tagger]":
    from cot_probe.checkpoint import load_checkpoint
    from cot_probe.tagger import Tagger

    quiet_loading()
    loaded = load_checkpoint(source, device=device)
    blank = blank_calibration(loaded.taxonomy)
    return loaded, Tagger(dataclasses.replace(loaded, calibration=blank), point=blank.points[0])


def _scored(tagger: "Tagger", traces: Sequence[Trace], tags: Sequence[frozenset[str]]) -> Iterator[LabelledLogits]:
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(traces))
        for at in range(0, len(traces), _GROUP_TRACES):
            some = traces[at : at + _GROUP_TRACES]
            _, logits = tagger.logits(some)
            for raw, own in zip(logits, tags[at : at + _GROUP_TRACES], strict=True):
                yield LabelledLogits(sentences=raw.sentences, trace=raw.trace, tags=own)
            progress.update(task, advance=len(some), description=f"{at + len(some)} traces")


def _note(signature: str, result: Recalibration) -> str:
    rates = ", ".join(f"{point.fpr:g}" for point in result.calibration.points)
    return (
        f"> Recalibrated with `cot-probe calibrate` from {signature} on {result.traces} traces, at false-positive "
        f"rates {rates}: see `fitted_on` in `calibration.json`. What follows is the original card; its figures are "
        "of the original calibration and thresholds."
    )


def _fail(reason: str) -> NoReturn:
    raise fail(reason) from None
