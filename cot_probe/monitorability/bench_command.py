"""``cot-probe bench``: outcomes and the scores of any monitors in, figures with intervals and a report out."""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from cot_probe.console import EXIT_REJECTED, fail
from cot_probe.results_commands import plain_text

if TYPE_CHECKING:
    from rich.status import Status

    from cot_probe.monitorability.bench_options import BenchOptions
    from cot_probe.monitorability.bench_records import BenchResult
    from cot_probe.monitorability.study import Study
    from cot_probe.monitorability.study_reading import Columns

_LOST: Final = re.compile(r"left out|could not be read|nobody could read")
"""In a note: rows that are in no figure, or that nobody could score."""
_TABLE, _OURS, _MEASURE, _SUITE = "Columns of the table", "Monitors", "Measuring", "The published suite"
_SUITE_ONLY: Final = ("annotations", "text_dir", "trained_on", "leaderboard", "save_scores", "write_inputs", "freeze")
_SAME: Final = ("tag_now", "checkpoint", "device", "baselines", "draws", "out", "as_json", "strict")
_WITH_SUITE: Final = ("suite", "source", "scores", "tag", "unscored", *_SAME, *_SUITE_ONLY)

EPILOG = (
    "Exit codes: 0 done; 2 wrong usage, or nothing to measure; 4 rows were left out (only with --strict, after all "
    "else is done)."
)


def bench(
    ctx: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(
            help="A table with a row a trace (CSV, JSON lines, Parquet), results of `tag`, or a results directory of "
            "the agentic-misalignment experiment. With --suite: a submission (default: our checkpoint)."
        ),
    ] = None,
    outcome: Annotated[
        str | None, typer.Option(help="Column that says whether the misbehaviour happened: true or false, 1 or 0.")
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(help="A monitor's scores: NAME=COLUMN; repeatable. Higher is more suspicious."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the report, plots, tables and results.json.")
    ] = None,
    outcomes: Annotated[Path | None, typer.Option(help="With results of `tag`: the table of ids and outcomes.")] = None,
    id: Annotated[
        str | None,
        typer.Option(help="Column with the trace's name (default: id, where there is one).", rich_help_panel=_TABLE),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="What intervals resample: the scenario.", rich_help_panel=_TABLE),
    ] = None,
    stratum: Annotated[
        str | None,
        typer.Option(
            help="What stratified figures hold fixed: the model. For a directory of runs: model, scenario or condition.",
            rich_help_panel=_TABLE,
        ),
    ] = None,
    phenomenon: Annotated[
        str | None, typer.Option(help="Kind of misbehaviour: figures for each.", rich_help_panel=_TABLE)
    ] = None,
    reasoning: Annotated[
        str | None, typer.Option(help="The reasoning: baselines read it.", rich_help_panel=_TABLE)
    ] = None,
    action: Annotated[str | None, typer.Option(help="What the model did.", rich_help_panel=_TABLE)] = None,
    context: Annotated[str | None, typer.Option(help="What the model was given.", rich_help_panel=_TABLE)] = None,
    stance: Annotated[
        str | None,
        typer.Option(
            help="What the reasoning says of its situation: test, real, both or neither, or the labels of the "
            "agentic-misalignment experiment.",
            rich_help_panel=_TABLE,
        ),
    ] = None,
    verbalised: Annotated[
        str | None, typer.Option(help="Whether the reasoning says that it misbehaves.", rich_help_panel=_TABLE)
    ] = None,
    forbidden: Annotated[
        str | None, typer.Option(help="Whether a command not to was given.", rich_help_panel=_TABLE)
    ] = None,
    arm: Annotated[str | None, typer.Option(help="intervention or control.", rich_help_panel=_TABLE)] = None,
    legibility: Annotated[str | None, typer.Option(help="Autorater, 0 to 4.", rich_help_panel=_TABLE)] = None,
    coverage: Annotated[str | None, typer.Option(help="Autorater, 0 to 4.", rich_help_panel=_TABLE)] = None,
    visible: Annotated[
        str | None, typer.Option(help="Whether the reasoning could be read.", rich_help_panel=_TABLE)
    ] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(help="Scores in a file of their own: NAME=FILE with id and score.", rich_help_panel=_OURS),
    ] = None,
    streams: Annotated[
        list[str] | None,
        typer.Option(
            help="Scores given while a trace is written: NAME=FILE with id, n_tokens, positions, scores, evidence.",
            rich_help_panel=_OURS,
        ),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Answers of a judge: NAME=FILE (batch output, or id and answer).", rich_help_panel=_OURS),
    ] = None,
    judge_reads: Annotated[
        str, typer.Option(help="What judges were shown: reasoning, action, reasoning+action.", rich_help_panel=_OURS)
    ] = "reasoning+action",
    judge_scale: Annotated[
        float, typer.Option(help="The judges' score for certain misbehaviour.", rich_help_panel=_OURS)
    ] = 100.0,
    prices: Annotated[
        str | None,
        typer.Option(help="The judges' dollars a million tokens: IN,OUT.", rich_help_panel=_OURS),
    ] = None,
    own_prompt: Annotated[
        bool, typer.Option("--own-prompt", help="The judges answered our prompt.", rich_help_panel=_OURS)
    ] = False,
    write_requests: Annotated[
        Path | None,
        typer.Option(help="Instead: write a batch job's requests to a judge here.", rich_help_panel=_OURS),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="With --write-requests: the judge.", rich_help_panel=_OURS)
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Our scores: results of `tag` for these traces.", rich_help_panel=_OURS)
    ] = None,
    tag_now: Annotated[
        bool, typer.Option("--tag", help="Our scores: tag the reasoning now (needs torch).", rich_help_panel=_OURS)
    ] = False,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            "--our-tag",
            help="Which of our tags is a monitor (strategic_harm); with --suite and --out: gets a report.",
            rich_help_panel=_OURS,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="With --tag: checkpoint folder.", rich_help_panel=_OURS)
    ] = None,
    device: Annotated[str, typer.Option(help="With --tag: torch device.", rich_help_panel=_OURS)] = "cpu",
    baselines: Annotated[
        bool, typer.Option(help="Also keyword list and TF-IDF, where there is text.", rich_help_panel=_OURS)
    ] = True,
    training: Annotated[
        Path | None,
        typer.Option(help="Train TF-IDF on this table (same columns), not cross-fitted.", rich_help_panel=_OURS),
    ] = None,
    reads: Annotated[
        list[str] | None,
        typer.Option(help="NAME=reasoning, action or reasoning+action.", rich_help_panel=_OURS),
    ] = None,
    threshold: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER: it alarms from here on.", rich_help_panel=_OURS)
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(
            help="What it cost for all traces: NAME=seconds:12,tokens:9000,dollars:0.4.", rich_help_panel=_OURS
        ),
    ] = None,
    unscored: Annotated[
        str, typer.Option(help="What an unscored case counts as: alarm, miss or drop.", rich_help_panel=_MEASURE)
    ] = "alarm",
    fpr: Annotated[
        list[float] | None,
        typer.Option(help="False-positive rate; repeatable (0.001, 0.01, 0.05).", rich_help_panel=_MEASURE),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Compare each monitor with this one only.", rich_help_panel=_MEASURE)
    ] = None,
    value: Annotated[
        list[str] | None,
        typer.Option(help="Monitoring value: WITH=WITHOUT, names of monitors.", rich_help_panel=_MEASURE),
    ] = None,
    cascade: Annotated[
        list[str] | None, typer.Option(help="Cascade: FIRST=JUDGE, names of monitors.", rich_help_panel=_MEASURE)
    ] = None,
    turns: Annotated[
        bool, typer.Option("--turns", help="Rows are turns, --group is the transcript.", rich_help_panel=_MEASURE)
    ] = False,
    draws: Annotated[int, typer.Option(min=1, help="Of the bootstrap.", rich_help_panel=_MEASURE)] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.", rich_help_panel=_MEASURE)] = 0,
    suite: Annotated[
        str | None,
        typer.Option(help="Instead of a study: measure on this published suite (v1).", rich_help_panel=_SUITE),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="The annotations folder (default: that of the clone).", rich_help_panel=_SUITE)
    ] = None,
    text_dir: Annotated[
        Path | None,
        typer.Option(help="Texts of the real traces, as `annotations fetch` wrote them.", rich_help_panel=_SUITE),
    ] = None,
    trained_on: Annotated[
        Path | None,
        typer.Option(
            help="The monitor's training traces (sha256, text, scenario or id a row).", rich_help_panel=_SUITE
        ),
    ] = None,
    leaderboard: Annotated[
        bool, typer.Option("--leaderboard", help="Put what was measured on the leaderboard.", rich_help_panel=_SUITE)
    ] = False,
    save_scores: Annotated[
        Path | None, typer.Option(help="Folder for the scores made here, as submissions.", rich_help_panel=_SUITE)
    ] = None,
    write_inputs: Annotated[
        Path | None, typer.Option(help="Instead: write what a monitor is to score.", rich_help_panel=_SUITE)
    ] = None,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Instead: freeze a new suite of this name.", rich_help_panel=_SUITE)
    ] = False,
    name: Annotated[str | None, typer.Option(help="The study's name (default: the file's).")] = None,
    outcome_means: Annotated[str | None, typer.Option(help="What the outcome means, in words.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 4 if rows were left out.")] = False,
) -> None:
    """Measure monitors of misbehaviour: anyone's scores against known outcomes, with intervals.

    Needs no torch, except with --tag, or where --suite measures our own checkpoint.
    """
    _check_given(ctx, suite)
    if suite is not None or source is None:
        _run_suite(ctx)
        return
    from cot_probe.monitorability.bench import bench as measure
    from cot_probe.monitorability.bench_inputs import Asked, adjusted, study_at, with_asked
    from cot_probe.monitorability.results_join import is_results_file
    from cot_probe.monitorability.rows import StudyError

    asked = Asked(
        scores={name: Path(file) for name, file in _pairs("--scores", scores)},
        streams={name: Path(file) for name, file in _pairs("--streams", streams)},
        judges={name: Path(file) for name, file in _pairs("--judge", judge)},
        results=results or (source if is_results_file(source) else None),
        tags=tuple(dict.fromkeys(tag or ("strategic_harm",))),
        tag_now=tag_now,
        checkpoint=checkpoint,
        device=device,
        baselines=baselines,
        training=training,
        judge_reads=judge_reads,
        judge_scale=judge_scale,
        prices=prices,
        own_prompt=own_prompt,
        seed=seed,
    )
    fields = {
        "id": id,
        "group": group,
        "stratum": stratum,
        "phenomenon": phenomenon,
        "reasoning": reasoning,
        "action": action,
        "context": context,
        "stance": stance,
        "verbalised": verbalised,
        "forbidden": forbidden,
        "arm": arm,
        "legibility": legibility,
        "coverage": coverage,
        "visible": visible,
    }
    options = _options(
        unscored, fpr, reference, _pairs("--value", value), _pairs("--cascade", cascade), turns, draws, seed
    )
    status = Console(stderr=True)
    try:
        columns = _columns(source, outcome, fields, _pairs("--score", score))
        study = study_at(source, outcomes, columns, name, outcome_means)
        if write_requests is not None:
            _write_requests(study, write_requests, judge_model, judge_reads)
            return
        with status.status("reading monitors") if status.is_terminal else nullcontext() as shown:
            study = with_asked(study, asked, columns)
            said = [dict(_pairs(f"--{one}", ctx.params[one])) for one in ("reads", "threshold", "cost")]
            study = adjusted(study, *said)
            if not study.monitors:
                raise StudyError(
                    "no monitor: give --score NAME=COLUMN, --scores, --streams, --judge, --results or --tag, or name --reasoning"
                )
            result = measure(study, options, progress=_shown(shown))
    except StudyError as error:
        raise fail(plain_text(str(error), limit=1_000)) from None
    _report(study, result, out, as_json=as_json)
    if strict and any(_LOST.search(note) for note in study.notes):
        raise typer.Exit(EXIT_REJECTED)


def _report(study: "Study", result: "BenchResult", out: Path | None, *, as_json: bool) -> None:
    """Write the report, where one is asked for, and print the results."""
    from cot_probe.monitorability.bench_output import print_bench, write_bench
    from cot_probe.monitorability.bench_records import to_json

    if out is not None:
        try:
            write_bench(study, result, out)
        except OSError as error:
            raise fail(f"--out {out}: cannot be written: {error}") from None
    if as_json:
        typer.echo(json.dumps(to_json(result), allow_nan=False))
    else:
        print_bench(result)
    if out is not None:
        typer.echo(f"cot-probe: report in {out}", err=True)


def _check_given(ctx: typer.Context, suite: str | None) -> None:
    """Refuse options that say nothing here, instead of passing them over."""
    given = [name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    flags = {one.name: one.opts[0] for one in ctx.command.params}
    wrong = next((name for name in given if (name not in _WITH_SUITE if suite else name in _SUITE_ONLY)), None)
    if wrong is not None:
        says = "does not go with --suite" if suite else "goes with --suite only"
        raise typer.BadParameter(says, param_hint=flags[wrong])


def _run_suite(ctx: typer.Context) -> None:
    from cot_probe.monitorability.rows import StudyError
    from cot_probe.monitorability.suite_command import SuiteAsked, run_suite

    given = ctx.params
    if given["suite"] is None:
        raise typer.BadParameter("a table, results, a directory of runs; or --suite v1", param_hint="SOURCE")
    options = _options(given["unscored"], None, None, (), (), False, given["draws"], 0)
    own = [("", given["source"])] if given["source"] is not None else []
    submissions = own + [(name, Path(file)) for name, file in _pairs("--scores", given["scores"])]
    same = {name: given[name] for name in (*_SUITE_ONLY, *_SAME) if name != "write_inputs"}
    try:
        run_suite(
            SuiteAsked(
                suite=given["suite"],
                submissions=tuple(submissions),
                tags=tuple(dict.fromkeys(given["tag"] or ())),
                unscored=options.unscored,
                inputs=given["write_inputs"],
                **same,
            )
        )
    except StudyError as error:
        raise fail(plain_text(str(error), limit=1_000)) from None


def _pairs(option: str, given: Sequence[str] | None) -> list[tuple[str, str]]:
    """``NAME=VALUE`` as pairs; without ``=`` the name is the value."""
    found = []
    for text in given or ():
        name, equals, value = text.partition("=")
        pair = (name.strip(), (value if equals else name).strip())
        if not all(pair):
            raise typer.BadParameter(f"{text!r}, expected NAME=VALUE", param_hint=option)
        found.append(pair)
    return found


def _options(
    unscored: str,
    fprs: Sequence[float] | None,
    reference: str | None,
    values: Sequence[tuple[str, str]],
    cascades: Sequence[tuple[str, str]],
    turns: bool,
    draws: int,
    seed: int,
) -> "BenchOptions":
    from cot_probe.monitorability.bench_options import POLICIES, BenchOptions

    policy = next((one for one in POLICIES if one == unscored), None)
    if policy is None:
        raise typer.BadParameter(f"{unscored!r}, expected one of {', '.join(POLICIES)}", param_hint="--unscored")
    rates = tuple(dict.fromkeys(fprs or BenchOptions().fprs))
    if any(not 0 < rate < 1 for rate in rates):
        raise typer.BadParameter(f"{rates}, expected shares over 0 and under 1, such as 0.01", param_hint="--fpr")
    return BenchOptions(
        unscored=policy,
        fprs=rates,
        reference=reference,
        values=tuple(values) or None,
        cascades=tuple(cascades) or None,
        turns=turns,
        draws=draws,
        seed=seed,
    )


def _columns(
    source: Path, outcome: str | None, fields: dict[str, str | None], scores: Sequence[tuple[str, str]]
) -> "Columns":
    from cot_probe.monitorability.study_reading import Columns, ScoreColumn

    if outcome is None and not source.is_dir():
        raise typer.BadParameter("name the column that says whether it happened", param_hint="--outcome")
    found = tuple(ScoreColumn(name=name, column=column) for name, column in scores)
    given = next((name for name, column in fields.items() if column is not None and name != "stratum"), None)
    if source.is_dir() and (outcome is not None or found or given is not None):
        option = "--outcome" if outcome is not None else "--score" if found else f"--{given}"
        raise typer.BadParameter("says nothing of a directory of runs, which has no columns", param_hint=option)
    return Columns(outcome=outcome or "", scores=found, **fields)


def _write_requests(study: "Study", place: Path, model: str | None, reads: str) -> None:
    from cot_probe.monitorability.judges import PROMPT_VERSION, write_requests

    if model is None:
        raise typer.BadParameter("name the judge that the requests are for", param_hint="--judge-model")
    written = write_requests(study, place, model=model, reads=reads)
    said = f"{written.requests} requests for {model} in {place}, prompt {PROMPT_VERSION} ({written.prompt_sha256[:12]})"
    typer.echo(f"cot-probe: {said}", err=True)
    if written.left_out:
        first, why = next(iter(written.left_out.items()))
        typer.echo(f"cot-probe: {len(written.left_out)} cases without a request (first: {first!r}: {why})", err=True)


def _shown(status: "Status | None") -> Callable[[str], None]:
    return (lambda name: status.update(plain_text(name))) if status is not None else (lambda _: None)
