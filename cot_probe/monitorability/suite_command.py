"""``cot-probe bench --suite``: our checkpoint, baselines and anyone's submissions on a published suite."""

import dataclasses
import datetime
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer
from rich.console import Console

from cot_probe.console import EXIT_REJECTED, quiet_loading
from cot_probe.results_commands import plain_text
from cot_probe.taxonomy import TAGS

if TYPE_CHECKING:
    from cot_probe.monitorability.bench_options import Unscored
    from cot_probe.monitorability.suite import Part, Suite
    from cot_probe.monitorability.suite_card import CardCheck
    from cot_probe.monitorability.suite_results import Entrant, SuiteResult

_NAME_WIDTH: Final = 48
"""Columns of a terminal for names and counts."""
_FIGURE_WIDTH: Final = 22
_WIDTH: Final = 200
"""Columns where the output is no terminal: all metrics."""
_FIRST: Final = ("AUROC", "AP", "TPR@1%FPR", "TPR@5%FPR", "F1", "ECE")
_LINE_CHARS: Final = 1_000
_Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteAsked:
    """What the command was asked for.

    Attributes:
        suite: Name of the suite.
        submissions: Files of scores; by the name that each is to have, "" for the one that it gives itself.
        annotations: The annotations folder; None: found as `find_folder` says.
        text_dir: Folder with the texts of the real traces.
        tag_now: Also score with our checkpoint where submissions are given; without any that is done anyway.
        checkpoint: None for the shipped one.
        device: A torch device.
        baselines: Also keyword list and TF-IDF.
        trained_on: List of the training traces of the first submission, or of the checkpoint where there is none.
        unscored: What a trace without a score counts as.
        draws: Of the bootstrap.
        out: Folder for the figures.
        tags: With ``out``: a report of `bench` for each of these, and each part.
        as_json: Print JSON.
        strict: Fail if anything in a submission was left out.
        leaderboard: Put what was measured on the leaderboard.
        save_scores: Folder for the scores that were made here, as submissions.
        inputs: Instead: write what a monitor is to score here.
        freeze: Instead: freeze a new suite.
    """

    suite: str
    submissions: tuple[tuple[str, Path], ...]
    annotations: Path | None
    text_dir: Path | None
    tag_now: bool
    checkpoint: Path | None
    device: str
    baselines: bool
    trained_on: Path | None
    unscored: "Unscored"
    draws: int
    out: Path | None
    tags: tuple[str, ...]
    as_json: bool
    strict: bool
    leaderboard: bool
    save_scores: Path | None
    inputs: Path | None
    freeze: bool


def run_suite(asked: SuiteAsked) -> None:
    """Do what was asked.

    Raises:
        StudyError: if it cannot be done; a monitor that has seen the suite gets no figures.
        typer.Exit: with 4, if something was left out of a submission and that was not to be.
    """
    from cot_probe.annotations import AnnotationError
    from cot_probe.annotations.dataset import find_folder
    from cot_probe.monitorability.suite import SuiteError, load_suite
    from cot_probe.monitorability.suite_results import measure

    unknown = next((tag for tag in asked.tags if tag not in TAGS), None)
    if unknown is not None:
        raise SuiteError(f"--our-tag {unknown}: no tag of the suite: expected {', '.join(TAGS)}")
    try:
        folder = find_folder(asked.annotations)
        if asked.freeze:
            _freeze(asked, folder)
            return
        suite, parts = load_suite(folder, asked.suite, text_dir=asked.text_dir)
        if asked.inputs is not None:
            _write_inputs(suite, parts, asked.inputs)
            return
        status = Console(stderr=True)
        with status.status("reading the suite") if status.is_terminal else nullcontext() as shown:

            def tell(what: str) -> None:
                if shown is not None:
                    shown.update(plain_text(what))

            entrants, cards = _entrants(asked, suite, parts, folder, tell)
            result = measure(suite, parts, entrants, draws=asked.draws, unscored=asked.unscored, progress=tell)
    except AnnotationError as error:
        raise SuiteError(str(error)) from None
    checks = [_checked(result, card, suite, folder) for card in cards]
    _print(asked, result, checks)
    try:
        _keep(asked, result, checks, entrants)
        _reports(asked, suite, parts, entrants)
    except OSError as error:
        raise SuiteError(f"cannot be written: {error}") from None
    if asked.leaderboard:
        _to_leaderboard(asked, suite, result, folder)
    if asked.strict and any(entrant.faults for entrant in entrants):
        raise typer.Exit(EXIT_REJECTED)


def _freeze(asked: SuiteAsked, folder: Path) -> None:
    from cot_probe.monitorability.suite import FOLDER, SuiteError, freeze, write_suite

    if asked.text_dir is None:
        raise SuiteError("--freeze needs --text-dir: the texts of the real traces")
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    suite = freeze(folder, asked.suite, text_dir=asked.text_dir, made=today)
    path = folder / FOLDER / f"{suite.name}.json"
    write_suite(suite, path)
    typer.echo(
        f"cot-probe: suite {suite.name} of {len(suite.traces)} traces in {path}, SHA-256 {suite.digest}", err=True
    )


def _write_inputs(suite: "Suite", parts: Mapping[str, "Part"], path: Path) -> None:
    from cot_probe.monitorability.submission import write_inputs

    count = write_inputs(suite, parts.values(), path)
    typer.echo(f"cot-probe: {count} of {len(suite.traces)} traces of suite {suite.name} in {path}", err=True)
    for part in parts.values():
        for note in part.notes:
            typer.echo(f"cot-probe: {note}", err=True)


def _entrants(
    asked: SuiteAsked, suite: "Suite", parts: Mapping[str, "Part"], folder: Path, tell: _Tell
) -> tuple[list["Entrant"], list[Path]]:
    """Every monitor to be measured, and the cards that its figures should be those of."""
    from cot_probe.monitorability.suite_monitors import DEFAULT_FPR, baseline_submissions, operating_fpr
    from cot_probe.monitorability.suite_results import Entrant

    entrants = [
        _submitted(suite, name, path, None if at else asked.trained_on)
        for at, (name, path) in enumerate(asked.submissions)
    ]
    cards = []
    fpr = DEFAULT_FPR
    if asked.tag_now or not asked.submissions:
        tell("our checkpoint")
        ours, checkpoint = _ours(asked, suite, parts, folder, tell)
        entrants.append(ours)
        fpr = operating_fpr(checkpoint)
        cards += [checkpoint / "metrics.json"] if (checkpoint / "metrics.json").is_file() else []
    if asked.baselines:
        tell("baselines")
        run = f"cot-probe bench --suite {suite.name}"
        for submission, training in baseline_submissions(suite, list(parts.values()), folder, fpr=fpr):
            entrants.append(Entrant(submission=submission, training=training, run=run))
    return entrants, cards


def _submitted(suite: "Suite", name: str, path: Path, trained_on: Path | None) -> "Entrant":
    from cot_probe.journal import sha256_of
    from cot_probe.monitorability.contamination import listed_training
    from cot_probe.monitorability.submission import read_submission
    from cot_probe.monitorability.suite_results import Entrant

    checked = read_submission(path, suite)
    submission = checked.submission
    if name:
        submission = dataclasses.replace(submission, monitor=name)
    training = listed_training(suite, trained_on, monitor=submission.monitor, statement=submission.training_data)
    run = f"scores submitted in {path.name}, SHA-256 {sha256_of(path)}"
    return Entrant(submission=submission, training=training, faults=checked.faults, run=run)


def _ours(
    asked: SuiteAsked, suite: "Suite", parts: Mapping[str, "Part"], folder: Path, tell: _Tell
) -> tuple["Entrant", Path]:
    from cot_probe.monitorability.suite import SuiteError

    try:
        from cot_probe.checkpoint import CheckpointError, default_checkpoint
    except ImportError as error:
        raise SuiteError(f"our checkpoint needs torch and transformers: {error}. Or give a submission.") from None
    from cot_probe.monitorability.suite_monitors import checkpoint_submission, checkpoint_training
    from cot_probe.monitorability.suite_results import Entrant

    quiet_loading()
    try:
        shipped = default_checkpoint().resolve()
        checkpoint = asked.checkpoint or shipped
        # Before the work: one that has seen the suite is not even scored.
        training = checkpoint_training(
            suite,
            checkpoint,
            folder,
            shipped=checkpoint.resolve().parent == shipped.parent,
            listed=None if asked.submissions else asked.trained_on,
        )
        submission = checkpoint_submission(
            suite,
            list(parts.values()),
            checkpoint,
            device=asked.device,
            progress=lambda done, of: tell(f"our checkpoint: {done} of {of} traces"),
        )
    except CheckpointError as error:
        raise SuiteError(str(error)) from None
    return Entrant(submission=submission, training=training, run=f"cot-probe bench --suite {suite.name}"), checkpoint


def _checked(result: "SuiteResult", card: Path, suite: "Suite", folder: Path) -> "CardCheck":
    from cot_probe.monitorability.suite_card import against_card

    return against_card(result, card, suite, folder)


def _card_lines(checks: Sequence["CardCheck"]) -> list[str]:
    from cot_probe.monitorability.suite_card import card_lines

    return [line for check in checks for line in card_lines(check)]


def _print(asked: SuiteAsked, result: "SuiteResult", checks: Sequence["CardCheck"]) -> None:
    from cot_probe.monitorability.suite_tables import about_lines, figure_tables, pair_table
    from cot_probe.monitorability.table_forms import rich_table

    if asked.as_json:
        typer.echo(json.dumps(_json(result, checks), allow_nan=False))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    room = max(1, (console.width - _NAME_WIDTH) // _FIGURE_WIDTH)
    for table in figure_tables(result, _FIRST[:room]):
        console.print(rich_table(table))
        console.print()
    pairs = pair_table(result)
    if pairs is not None:
        console.print(rich_table(pairs))
        console.print()
    if room < len(_FIRST):
        typer.echo(f"{', '.join(_FIRST[room:])}: in a wider terminal, with --out, --json")
    for line in (*about_lines(result), *_card_lines(checks)):
        indent = re.match(" *", line)
        typer.echo((indent[0] if indent else "") + plain_text(line, limit=_LINE_CHARS))


def _json(result: "SuiteResult", checks: Sequence["CardCheck"]) -> dict[str, object]:
    from cot_probe.monitorability.suite_results import result_json

    return {**result_json(result), "model_card": _card_lines(checks)}


def _keep(
    asked: SuiteAsked, result: "SuiteResult", checks: Sequence["CardCheck"], entrants: Sequence["Entrant"]
) -> None:
    """Write what is to be kept: figures and tables, and the scores that were made here."""
    from cot_probe.journal import write_whole
    from cot_probe.monitorability.submission import write_submission
    from cot_probe.monitorability.suite_tables import result_markdown

    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        plain = json.dumps(_json(result, checks), indent=1, allow_nan=False)
        write_whole(asked.out / "suite.json", plain + "\n")
        write_whole(asked.out / "suite.md", result_markdown(result, _card_lines(checks)))
        typer.echo(f"cot-probe: figures in {asked.out / 'suite.json'}, tables in {asked.out / 'suite.md'}", err=True)
    if asked.save_scores is not None:
        asked.save_scores.mkdir(parents=True, exist_ok=True)
        for entrant in entrants[len(asked.submissions) :]:
            name = re.sub(r"[^a-z0-9]+", "-", entrant.submission.monitor.lower()).strip("-")
            write_submission(entrant.submission, asked.save_scores / f"{name}.jsonl")
        typer.echo(f"cot-probe: scores in {asked.save_scores}", err=True)


def _reports(asked: SuiteAsked, suite: "Suite", parts: Mapping[str, "Part"], entrants: Sequence["Entrant"]) -> None:
    """A page with plots and tables for each tag asked for and each part that somebody scored."""
    from cot_probe.monitorability.bench import bench
    from cot_probe.monitorability.bench_options import BenchOptions
    from cot_probe.monitorability.bench_output import write_bench
    from cot_probe.monitorability.suite_results import trace_study

    for tag in asked.tags if asked.out is not None else ():
        for name, part in parts.items():
            study = trace_study(suite, part, tag, entrants)
            if study.monitors and asked.out is not None:
                place = asked.out / f"{name}-{tag}"
                write_bench(study, bench(study, BenchOptions(draws=asked.draws, unscored=asked.unscored)), place)
                typer.echo(f"cot-probe: report in {place}", err=True)


def _to_leaderboard(asked: SuiteAsked, suite: "Suite", result: "SuiteResult", folder: Path) -> None:
    """Rows for the submissions; without any, for all that was measured."""
    from cot_probe.monitorability.leaderboard import FILE, leaderboard_row, write_leaderboard
    from cot_probe.monitorability.suite import FOLDER

    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    chosen = result.monitors[: len(asked.submissions)] if asked.submissions else result.monitors
    rows = [leaderboard_row(result, monitor, date=today) for monitor in chosen]
    path = folder / FOLDER / FILE
    kept = write_leaderboard(path, suite, rows)
    typer.echo(f"cot-probe: {len(rows)} rows of {len(kept)} in {path} are new", err=True)
