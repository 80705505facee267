"""``cot-probe tag``: transcripts in, a view in the terminal and results files out."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cot_probe.batch import Report, Watcher, finished_before, forget, input_files, run_batch
from cot_probe.console import (
    EXIT_CLEAN,
    EXIT_HIDDEN,
    EXIT_INTERRUPTED,
    EXIT_NOTHING,
    EXIT_REJECTED,
    EXIT_TAGGED,
    JsonProgress,
    Pace,
    Rejections,
    described,
    fail,
    inputs_of,
    items_in,
    matches,
    progress_bar,
    tagger_of,
)
from cot_probe.journal import BatchError, Settings, Tally, json_line
from cot_probe.transcripts import FORMATS, ReadOptions, Rejection, companions

if TYPE_CHECKING:
    from cot_probe.tagger import TaggedTrace, Tagger

EXITS = (
    "Exit codes: 0 done; 2 wrong usage, or a batch that cannot go on; 3 a trace carries a public tag (only with "
    "--fail-on-tag); 4 some input could not be read (only with --strict); 5 nothing could be read; 6 less reasoning "
    "visible than --min-coverage; 130 interrupted (go on with --resume)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What is shown on the way: the terminal view of traces, and how progress is told."""

    show: str
    json_progress: bool
    to_stdout: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Further:
    """What is wanted besides the results file."""

    sentences: Path | None
    html: Path | None
    scores: Path | None
    in_place: bool

    @property
    def any(self) -> bool:
        """Whether anything is."""
        return self.in_place or any(place is not None for place in (self.sentences, self.html, self.scores))


def tag(
    paths: Annotated[list[str], typer.Argument(help="Files, folders or globs; '-' for standard input.")],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Results: .jsonl or .parquet; - for JSON lines on standard output."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run that --output has.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw that unfinished run away.")] = False,
    sentences: Annotated[
        Path | None, typer.Option(help="Also write one row a sentence here (.jsonl or .parquet).")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a report for the browser: one file.")] = None,
    write_scores: Annotated[
        Path | None, typer.Option(help="Write scores into copies of the Inspect logs among PATHS, in this folder.")
    ] = None,
    scores_in_place: Annotated[
        bool, typer.Option("--write-scores-in-place", help="Write scores into the Inspect logs themselves.")
    ] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder (default: the shipped one).")] = None,
    format: Annotated[str | None, typer.Option(help="Force a format instead of sniffing; see `formats`.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of a table that holds the reasoning.")] = None,
    fpr: Annotated[float | None, typer.Option(help="Operating point: false-positive rate (0.001, 0.01, 0.05).")] = None,
    threshold: Annotated[float | None, typer.Option(help="Instead: tag scores at or above this.")] = None,
    all_sentences: Annotated[
        bool, typer.Option("--all-sentences/--evidence-only", help="Sentences in the results.")
    ] = True,
    context: Annotated[bool, typer.Option(help="Instructions in the results.")] = True,
    show: Annotated[str, typer.Option(help="Terminal view: tagged, all or none.")] = "tagged",
    strict: Annotated[bool, typer.Option(help="Stop at the first unreadable input, with exit code 4.")] = False,
    fail_on_tag: Annotated[bool, typer.Option(help="Exit with 3 if any trace carries a public tag.")] = False,
    min_coverage: Annotated[
        float, typer.Option(help="Exit with 6 if less than this share of the traces has visible reasoning.")
    ] = 0.0,
    json_progress: Annotated[
        bool, typer.Option("--json-progress", help="Progress as JSON lines on standard error.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local, or ray: a folder of parts by the workers of a Ray cluster; paths may be URLs.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --engine ray: how many (default: as many as fit).")
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16: faster, scores move a little.")] = False,
    backend: Annotated[
        str, typer.Option(help="torch, onnx-fp32, onnx-int8, or auto: the quickest here that keeps the scores.")
    ] = "torch",
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Leave unread what a quick first stage finds empty; loses some tags.")
    ] = False,
) -> None:
    """Tag every reasoning trace in PATHS and show what was found."""
    if show not in {"tagged", "all", "none"}:
        raise typer.BadParameter(f"{show!r}, expected tagged, all or none", param_hint="--show")
    if format is not None and format not in FORMATS:
        raise typer.BadParameter(f"{format!r}, expected one of {', '.join(FORMATS)}", param_hint="--format")
    if engine not in {"local", "ray"}:
        raise typer.BadParameter(f"{engine!r}, expected local or ray", param_hint="--engine")
    if resume and output is None:
        raise typer.BadParameter("needs --output: the file whose unfinished run is to go on", param_hint="--resume")
    if engine == "ray" and cascade:
        raise typer.BadParameter("runs on this machine only: leave --engine ray out", param_hint="--cascade")
    tagger = tagger_of(
        checkpoint, fpr=fpr, threshold=threshold, device=device, bf16=bf16, backend=backend, cascade=cascade
    )
    view = _View(show=show, json_progress=json_progress, to_stdout=output == "-")
    settings = _settings(tagger, format, column, all_sentences, context)
    rejections = Rejections(strict=strict)
    place = None if output is None else Path(output)
    further = _Further(sentences=sentences, html=html, scores=write_scores, in_place=scores_in_place)
    if engine == "ray":
        if output is None or "-" in paths or view.to_stdout or further.any:
            raise fail("--engine ray writes a folder of parts: give --output FOLDER, and no other file to write")
        if device != "cpu":
            raise fail("--engine ray gives each worker a GPU where the cluster has any: leave --device out")
        # A path of this machine is the same on the workers only if it is whole.
        tally = _ray(tagger, paths, checkpoint, settings, output, workers, restart, view, rejections)
    elif "-" in paths or (output is None and not further.any) or view.to_stdout:
        if further.any or resume:
            raise fail("standard input and standard output cannot be resumed or reported on: name files")
        tally = _stream(tagger, paths, settings, place, view, rejections)
    else:
        if restart and place is not None:
            forget(place)
        tally = _batch(tagger, paths, settings, place, resume, further, view, rejections)
    _summary(tagger, tally)
    wanted = tagger.checkpoint.taxonomy.public if fail_on_tag else ()
    raise typer.Exit(_exit_code(tally, strict=strict, wanted=wanted, min_coverage=min_coverage))


def _settings(tagger: "Tagger", format: str | None, column: str | None, all_sentences: bool, context: bool) -> Settings:
    point, taxonomy = tagger.point, tagger.checkpoint.taxonomy
    return Settings(
        checkpoint=tagger.signature,
        fpr=point.fpr if point.fpr == point.fpr else None,
        thresholds=dict(point.traces),
        tags=tuple(taxonomy.tags),
        labels=tuple(taxonomy.labels),
        bf16=tagger.bf16,
        backend=tagger.backend,
        format=format,
        column=column,
        all_sentences=all_sentences,
        context=context,
    )


def _stream(
    tagger: "Tagger", paths: list[str], settings: Settings, output: Path | None, view: _View, rejections: Rejections
) -> Tally:
    """Tag as the input comes; results, if any are wanted, go to standard output or a file."""
    tally = Tally()
    with ExitStack() as stack:
        watcher, pace = stack.enter_context(_watching(tagger, paths, view, rejections))
        if output is None:
            sink = None
        else:
            sink = sys.stdout.buffer if view.to_stdout else stack.enter_context(_whole_file(output))
        options = ReadOptions(column=settings.column)
        items = items_in(paths, format=settings.format, options=options, progress=pace.add)
        for tagged in tagger.tag_many(rejections.kept(items)):
            tally.add(tagged)
            if sink is not None:
                sink.write(json_line(tagged.as_dict(all_sentences=settings.all_sentences, context=settings.context)))
            watcher.tagged(tagged)
            tally.rejected = rejections.count
            watcher.committed(tally, 0)
    tally.rejected = rejections.count
    return tally


@contextmanager
def _whole_file(path: Path) -> Iterator[Any]:
    """A file that appears under its name only once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        yield stream
    partial.replace(path)


def _batch(
    tagger: "Tagger",
    paths: list[str],
    settings: Settings,
    output: Path | None,
    resume: bool,
    further: "_Further",
    view: _View,
    rejections: Rejections,
) -> Tally:
    """Tag files into a results file, resumable, and make from it what else is wanted."""
    with ExitStack() as stack:
        place = output or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "results.jsonl"
        try:
            # A name without a file stays in the list: reading it gives the rejection that says so.
            files = input_files([name for path in paths for name in matches(path) or [path]])
            _say_left_out(paths)
            report = finished_before(place, files, settings) if resume else None
            if report is not None:
                typer.echo(f"cot-probe: {place} is complete and its inputs are unchanged: nothing to do", err=True)
            else:
                watcher, _ = stack.enter_context(_watching(tagger, paths, view, rejections))
                report = run_batch(
                    files, tagger=tagger, settings=settings, output=place, resume=resume, watcher=watcher
                )
        except BatchError as error:
            raise fail(error) from None
        except KeyboardInterrupt:
            hint = "; run the same command with --resume to go on" if output else ""
            typer.echo(f"\ncot-probe: interrupted{hint}", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        _further(report, settings, further, tagger)
        if output is not None:
            _say_where(report)
    return report.total


def _ray(
    tagger: "Tagger",
    paths: list[str],
    checkpoint: Path | None,
    settings: Settings,
    output: str,
    workers: int | None,
    restart: bool,
    view: _View,
    rejections: Rejections,
) -> Tally:
    """Tag on a Ray cluster; what an earlier run into the same folder has done is kept."""
    from cot_probe.scale import run_ray

    try:
        with _watching(tagger, paths, view, rejections) as (watcher, _):
            report = run_ray(
                paths,
                checkpoint=None if checkpoint is None else str(checkpoint.resolve()),
                settings=settings,
                output=output,
                workers=workers,
                restart=restart,
                watcher=watcher,
            )
    except BatchError as error:
        raise fail(error) from None
    except KeyboardInterrupt:
        typer.echo("\ncot-probe: interrupted; the same command goes on where it stopped", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    done = f"{len(report.parts)} parts in {report.output} ({report.reused} of an earlier run)"
    typer.echo(f"cot-probe: {done}, {len(report.failed)} files failed; manifest in {report.manifest}", err=True)
    return report.total


def _further(report: Report, settings: Settings, further: "_Further", tagger: "Tagger") -> None:
    """Sentences, HTML report and scores in Inspect logs, each made from the results file."""
    from cot_probe.results import read_results, write_sentences

    if further.sentences is not None:
        write_sentences(read_results(report.output), further.sentences)
    if further.html is not None:
        from cot_probe.report.html import write_report

        write_report(
            read_results(report.output),
            further.html,
            title=f"Reasoning in {len(report.files)} files",
            thresholds=settings.thresholds,
            population=tagger.checkpoint.calibration.population,
            taxonomy=tagger.checkpoint.taxonomy,
        )
    if further.scores is not None or further.in_place:
        _write_scores(report, further.scores)


def _write_scores(report: Report, folder: Path | None) -> None:
    """Into copies in ``folder``; into the logs themselves where that is None."""
    from cot_probe.integrations.inspect_scores import write_scores
    from cot_probe.results import read_results

    logs = [Path(path) for path in report.files if _is_inspect(Path(path))]
    if not logs:
        raise fail("--write-scores: no Inspect log among the inputs")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        twice = [log.name for log in logs if sum(other.name == log.name for other in logs) > 1]
        if twice:
            raise fail(f"--write-scores: several logs are named {twice[0]}: their copies would overwrite each other")
    for log in logs:
        rows = [row for row in read_results(report.output) if row["source"]["path"] == str(log)]
        out = None if folder is None else folder / log.name
        try:
            count = write_scores(log, rows, out=out, in_place=folder is None)
        except (ValueError, ImportError) as error:
            typer.echo(f"cot-probe: no scores written for {log}: {error}", err=True)
            continue
        typer.echo(f"cot-probe: scores of {count} samples written to {out or log}", err=True)


def _is_inspect(path: Path) -> bool:
    from cot_probe.transcripts import inspect_logs
    from cot_probe.transcripts.containers import open_transcript

    try:
        file = open_transcript(path)
    except (OSError, ValueError):
        return False
    with file.stream:
        return inspect_logs.sniff(file)


def _say_left_out(paths: list[str]) -> None:
    left_out = {file: why for path in paths for name in matches(path) for file, why in companions(name).items()}
    if left_out:
        first, why = next(iter(left_out.items()))
        typer.echo(
            f"cot-probe: {len(left_out)} files are no transcripts and were left out: {first} ({why}) …", err=True
        )


def _say_where(report: Report) -> None:
    typer.echo(f"cot-probe: results in {report.output}, manifest in {report.manifest}", err=True)
    if report.rejected is not None:
        typer.echo(f"cot-probe: what could not be read is listed in {report.rejected}", err=True)


@contextmanager
def _watching(
    tagger: "Tagger", paths: list[str], view: _View, rejections: Rejections
) -> Iterator[tuple[Watcher, Pace]]:
    """Shows traces and progress as they come."""
    # Bar and results share a console where both go to a terminal, so that neither tears the other.
    terminal = sys.stdout.isatty() and not view.to_stdout
    console = Console() if terminal else Console(stderr=True)
    pace, machine = Pace(inputs_of(paths)), JsonProgress() if view.json_progress else None
    figures: dict[str, Any] = {}
    with progress_bar(console) as bar:
        task = bar.add_task("", total=pace.bytes or None)

        def tagged(trace: "TaggedTrace") -> None:
            if not view.to_stdout:
                _show(trace, view.show, console if terminal else Console(), tagger)

        def committed(tally: Tally, files_done: int) -> None:
            figures.update(pace.figures(tally, files_done))
            bar.update(task, completed=pace.read, description=described(figures))
            if machine is not None:
                machine.tell(figures)

        yield Watcher(tagged=tagged, rejected=_told(rejections), read_bytes=pace.add, committed=committed), pace
    if machine is not None and figures:
        machine.tell(figures, last=True)


def _told(rejections: Rejections) -> Any:
    def rejected(rejection: Rejection) -> None:
        rejections(rejection)

    return rejected


def _show(tagged: "TaggedTrace", show: str, console: Console, tagger: "Tagger") -> None:
    taxonomy = tagger.checkpoint.taxonomy
    public = any(tag in taxonomy.public for tag in tagged.tags)
    if show == "all" or (show == "tagged" and public):
        from cot_probe.terminal import print_trace

        print_trace(tagged, console, taxonomy)


def _summary(tagger: "Tagger", tally: Tally) -> None:
    from cot_probe.terminal import print_summary

    calibration, rate = tagger.checkpoint.calibration, tagger.point.fpr
    few = rate == rate and calibration.too_few(rate)
    population = calibration.population + (", which has too few traces to hold it" if few else "")
    print_summary(tally, fpr=rate, population=population, taxonomy=tagger.checkpoint.taxonomy)
    if tagger.first_stage is not None:
        share = 100 * tally.passed / tally.sentences if tally.sentences else 0.0
        lost = "; ".join(map(str, tagger.first_stage.missed)) or "what that loses was not measured"
        typer.echo(
            f"first stage: {tally.passed} of {tally.sentences} sentences ({share:.1f} %) passed and were not read by "
            f"the encoder. Measured on annotated traces: {lost}",
            err=True,
        )


def _exit_code(tally: Tally, *, strict: bool, wanted: tuple[str, ...], min_coverage: float) -> int:
    """The exit code of a run; a trace with one of the ``wanted`` tags makes it ``EXIT_TAGGED``."""
    if not tally.traces and tally.rejected:
        return EXIT_NOTHING
    if strict and tally.rejected:
        return EXIT_REJECTED
    if any(tally.tags[name] for name in wanted):
        return EXIT_TAGGED
    if tally.coverage is not None and tally.coverage < min_coverage:
        return EXIT_HIDDEN
    return EXIT_CLEAN
