"""The commands ``cot-probe annotations ...``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer

from cot_probe.annotations.checks import check
from cot_probe.annotations.passages import load_passages
from cot_probe.annotations.records import (
    SPLITS,
    AnnotatedTrace,
    AnnotationError,
    load_real,
    load_split,
    taxonomy_in,
)

app = typer.Typer(
    no_args_is_help=True, help="The annotation set: check, count, agreement, duplicates, leakage, exchange."
)

T = TypeVar("T")
Folder = Annotated[Path, typer.Argument(help="The annotations folder of a clone.")]
HERE = Path("annotations")


@app.command("check")
def check_command(folder: Folder = HERE) -> None:
    """Validate every record; print problems with file and line. Exit code 1 if there are any."""
    problems = check(folder)
    for problem in problems:
        typer.echo(str(problem))
    typer.echo(f"{len(problems)} problems" if problems else "all records are valid")
    raise typer.Exit(1 if problems else 0)


@app.command()
def agreement(
    folder: Folder = HERE,
    real: Annotated[
        str | None, typer.Option("--real", help="A file of annotations/real instead, by name: dev or pool.")
    ] = None,
    passages: Annotated[bool, typer.Option("--passages", help="The passages in real traces instead.")] = False,
    split: Annotated[str | None, typer.Option(help="Only this split of the written traces.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Agreement of the two readers: Krippendorff's alpha and Cohen's kappa per label."""
    from cot_probe.annotations.agreement import agreement_table

    _built_in(folder)
    if passages:
        records = _or_exit(lambda: load_passages(folder))
    else:
        records = _written(folder, split) if real is None else _or_exit(lambda: load_real(folder, real))
    typer.echo(agreement_table(records, seed=seed))


@app.command()
def counts(folder: Folder = HERE) -> None:
    """Traces by split, label, combination, language, length, phenomenon and hard-negative type."""
    from cot_probe.annotations.counts import counts_table, passages_table

    _built_in(folder)
    typer.echo(_or_exit(lambda: counts_table(folder)))
    passages = _or_exit(lambda: passages_table(folder))
    if passages:
        typer.echo(f"\n{passages}")


@app.command()
def duplicates(
    folder: Folder = HERE,
    top: Annotated[int, typer.Option(min=1, help="How many of the closest pairs to print.")] = 5,
) -> None:
    """The most similar pairs of traces. Exit code 1 if a pair is over its bound."""
    from cot_probe.annotations.duplicates import duplicates_table

    table, over = duplicates_table(_every(folder, None), top=top)
    typer.echo(table)
    raise typer.Exit(1 if over else 0)


@app.command()
def leakage(
    folder: Folder = HERE,
    telling: Annotated[int, typer.Option(help="Also print so many of the most telling features per label.")] = 0,
    draws: Annotated[int, typer.Option(help="Bootstrap draws.")] = 500,
) -> None:
    """How well surface features alone predict the labels: AUROC, 0.5 is chance."""
    from cot_probe.annotations.leakage import leakage_table, telling_features
    from cot_probe.taxonomy import TRACE_LABELS

    records = _written(folder, None)
    typer.echo(leakage_table(records, draws=draws))
    for label in TRACE_LABELS if telling else ():
        found = ", ".join(f"{name} {value:.3f}" for name, value in telling_features(records, label, top=telling))
        typer.echo(f"\n{label}, single features: {found}")


@app.command()
def fetch(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the texts, one JSONL file a source file.")],
    folder: Folder = HERE,
    source: Annotated[
        str, typer.Option("--from", help="Address, or folder with owner/name/commit/path below it.")
    ] = "https://raw.githubusercontent.com",
) -> None:
    """Fetch the texts of the real traces at their pinned commits; check their hashes.

    Texts are other people's, under the licence that each record names. Exit code 1 if some
    could not be had; those that could are written all the same.
    """
    from cot_probe.annotations.references import Missed, ReferenceError, fetch, references

    missed = 0
    for path in sorted((folder / "real").glob("*.jsonl")):
        try:
            wanted = references(path)
        except ReferenceError as error:
            _fail(str(error))
        out.mkdir(parents=True, exist_ok=True)
        had = 0
        with (out / path.name).open("w", encoding="utf-8") as sink:
            for item in fetch(wanted, source):
                if isinstance(item, Missed):
                    missed += 1
                    typer.echo(f"cot-probe: not had: {item}", err=True)
                else:
                    had += 1
                    sink.write(json.dumps(item) + "\n")
        typer.echo(f"{path.name}: {had} of {len(wanted)} texts, hashes right, in {out / path.name}")
    raise typer.Exit(1 if missed else 0)


@app.command("export")
def export_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="The task file (JSON).")],
    folder: Folder = HERE,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    config: Annotated[Path | None, typer.Option(help="Also write the labelling configuration (XML) here.")] = None,
) -> None:
    """Write Label Studio tasks: import them into a project that has the labelling configuration."""
    from cot_probe.annotations.label_studio import labelling_config, task_of

    tasks = [task_of(record) for record in _written(folder, split)]
    out.write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")
    typer.echo(f"{len(tasks)} tasks in {out}")
    if config is not None:
        config.write_text(labelling_config(), encoding="utf-8")
        typer.echo(f"labelling configuration in {config}")


@app.command("import")
def import_command(
    tasks: Annotated[Path, typer.Argument(help="A Label Studio export in the format JSON.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The annotation file (JSONL).")],
) -> None:
    """Turn a Label Studio export into records. Exit code 1 if some tasks were refused."""
    from cot_probe.annotations.label_studio import read_tasks, record_line

    records, refused = _or_exit(lambda: read_tasks(tasks))
    out.write_text("".join(record_line(record) for record in records), encoding="utf-8")
    for task in refused:
        typer.echo(f"cot-probe: refused: {task}", err=True)
    typer.echo(f"{len(records)} records in {out}, {len(refused)} tasks refused")
    raise typer.Exit(1 if refused else 0)


def _written(folder: Path, split: str | None) -> list[AnnotatedTrace]:
    """The traces of a folder of the built-in taxonomy."""
    _built_in(folder)
    return _every(folder, split)


def _every(folder: Path, split: str | None) -> list[AnnotatedTrace]:
    """The traces of any folder; one with a taxonomy of its own need not have a test split."""
    own = _or_exit(lambda: taxonomy_in(folder)) is not None
    names = [name for name in SPLITS if not own or (folder / "data" / f"{name}.jsonl").is_file()]
    return _or_exit(
        lambda: [record for name in (names if split is None else [split]) for record in load_split(folder, name)]
    )


def _built_in(folder: Path) -> None:
    """Refuse a folder with a taxonomy of its own, for a report that goes by the built-in labels."""
    if _or_exit(lambda: taxonomy_in(folder)) is not None:
        _fail(f"{folder} has a taxonomy of its own, this report is for the built-in one: use check or duplicates")


def _or_exit(load: Callable[[], T]) -> T:
    """The value, or a message and exit code 2 where the annotation files are faulty."""
    try:
        return load()
    except (AnnotationError, OSError) as error:
        _fail(str(error))


def _fail(reason: str) -> NoReturn:
    typer.echo(f"cot-probe: {reason}", err=True)
    raise typer.Exit(2) from None
