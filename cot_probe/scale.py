"""The batch on more than one machine: Ray actors tag files into a folder of parts (:mod:`cot_probe.scale_parts`).

Inputs and folder are local paths or URLs (:mod:`cot_probe.storage`); a local path must be on
storage that all machines share. **One file is one task**: it goes through
:func:`cot_probe.batch.run_batch` on its own, so a part holds, byte for byte, what the local
engine gives for that file alone with one thread. A local run over many files puts several of
them through the model together, and other processors and thread counts add up in another order:
either can move a score by 1e-6. A single huge file is read by one worker: split it first.

A remote file is copied to the worker; formats that look for companions beside a file find none
there. A second run into the same folder skips every part whose input has the same SHA-256. A
file that fails, or takes its worker down three times, is reported, and the others go on.
"""

import dataclasses
import json
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cot_probe.batch import TagsTraces, Watcher, run_batch
from cot_probe.journal import BatchError, Settings, Tally, json_line
from cot_probe.scale_parts import DONE, MANIFEST, REJECTED, SCALE_SCHEMA, TRIES, Part, input_parts, planned
from cot_probe.storage import Folder, StoredFile, fetch
from cot_probe.transcripts import Rejection, Trace

if TYPE_CHECKING:
    from cot_probe.tagger import TaggedTrace, Tagger

MAX_TRIES: Final = 3
"""A file that took so many workers down with it is given up."""
TOLD_REJECTIONS: Final = 20
"""So many rejections of a file are told on the way; all are in the folder."""
_WAVE_FILES: Final = 10_000
"""Ray is given so many files at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleReport:
    """A finished run: its folder, what was seen in all and by input, and which inputs failed.

    ``files`` and ``parts`` are by input as it was named; ``reused`` counts the parts that an
    earlier run had done. An input that failed counts as one rejection and has no part: the
    next run into the same folder tries it again.
    """

    output: str
    manifest: str
    total: Tally
    files: Mapping[str, Tally]
    parts: Mapping[str, str]
    failed: tuple[Rejection, ...]
    reused: int


def run_ray(
    paths: Iterable[str],
    *,
    checkpoint: str | None,
    settings: Settings,
    output: str,
    workers: int | None = None,
    restart: bool = False,
    watcher: Watcher | None = None,
) -> ScaleReport:
    """Tag every transcript file that ``paths`` name into the folder ``output``.

    Uses the Ray cluster that this process is connected to, else the one that ``RAY_ADDRESS`` or
    ``ray start`` on this machine gives, else one on this machine, for as long as the run takes.

    Args:
        paths: files, folders and globs, local or as URLs.
        checkpoint: a checkpoint folder that every machine has under this path (None: the shipped one).
        settings: what the rows depend on; a worker whose checkpoint is another stops the run.
        output: the folder of parts; with a name in ``.parquet`` they are Parquet.
        workers: actors that hold the model, each with a GPU where the cluster has any, else
            with a CPU (None: as many as there are).
        restart: remove the parts of an earlier run first.
        watcher: whom to tell, after each file; its ``tagged`` is not called.

    Raises:
        BatchError: if Ray is not installed or stops the run, or the folder holds a run of other
            settings or inputs.
    """
    ray = _ray()
    folder = Folder.at(output)
    try:
        inputs, missing = input_parts(paths)
        parts = planned(folder, inputs, settings, restart=restart)
        run = _Gathering(folder, watcher or Watcher())
        for rejection in missing:
            run.fail(rejection)
        with _connected(ray):
            count, share = workers_of(ray.cluster_resources(), workers)
            device = "cuda" if "num_gpus" in share else "cpu"
            arguments = {"checkpoint": checkpoint, "settings": settings, "output": folder.url, "device": device}
            for outcome in outcomes(parts, Worker, arguments, count=count, share=share):
                run.take(outcome)
        return run.finish(settings)
    except OSError as error:
        raise BatchError(f"{output}: {error}. Parts that are done are safe: run the same command again") from error


class _Gathering:
    """What the driver knows of a run on its way: the files that are done, and those that failed."""

    def __init__(self, folder: Folder, watcher: Watcher) -> None:
        self.folder = folder
        self.watcher = watcher
        self.total = Tally()
        self.done: list[dict[str, Any]] = []
        self.failed: list[Rejection] = []
        self.reused = 0

    def take(self, outcome: Mapping[str, Any]) -> None:
        """Count one file."""
        if "stop" in outcome:
            raise BatchError(outcome["stop"])
        if "failed" in outcome:
            self.fail(Rejection(path=outcome["path"], reason=outcome["failed"]))
        else:
            self.done.append(outcome["entry"])
            self.reused += outcome["reused"]
            self.total.merge(Tally.of(outcome["entry"]["tally"]))
            for rejection in outcome["rejections"]:
                self.watcher.rejected(Rejection(**rejection))
            self.watcher.read_bytes(outcome["entry"]["bytes"])
        self.watcher.committed(self.total, len(self.done) + len(self.failed))

    def fail(self, rejection: Rejection) -> None:
        """Count a file that has no part."""
        self.failed.append(rejection)
        self.total.rejected += 1
        self.watcher.rejected(rejection)

    def finish(self, settings: Settings) -> ScaleReport:
        """Write the manifest, once every part that a worker wrote is seen from here."""
        self.done.sort(key=lambda entry: (len(entry["part"]), entry["part"]))
        unseen = {entry["part"] for entry in self.done} - self.folder.names()
        if unseen:
            raise BatchError(
                f"{min(unseen)} was written by a worker and is not in {self.folder.url} as seen from here: "
                "the output must be on storage that all machines share"
            )
        manifest = {
            "schema": SCALE_SCHEMA,
            "cot_probe": version("cot_probe"),
            "settings": dataclasses.asdict(settings),
            "rows": sum(entry["rows"] for entry in self.done),
            "total": self.total.as_dict(),
            "coverage": self.total.coverage,
            "inputs": self.done,
            "failed": [dataclasses.asdict(rejection) for rejection in self.failed],
        }
        self.folder.write(MANIFEST, manifest)
        self.folder.remove(TRIES)
        files = {entry["path"]: Tally.of(entry["tally"]) for entry in self.done}
        return ScaleReport(
            output=self.folder.url,
            manifest=f"{self.folder.url}/{MANIFEST}",
            total=self.total,
            files=files | {rejection.path: Tally(rejected=1) for rejection in self.failed},
            parts={entry["path"]: f"{self.folder.url}/{entry['part']}" for entry in self.done},
            failed=tuple(self.failed),
            reused=self.reused,
        )


def _ray() -> Any:
    """Ray with its Data library; quiet, and without its reports of use unless they are asked for."""
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BatchError(f"--engine ray needs Ray ({error}): pip install 'cot_probe[ray]'") from error
    return ray


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """A connection to a cluster; closed at the end where it was opened here."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        raise BatchError(f"no connection to the Ray cluster: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def workers_of(resources: Mapping[str, float], asked: int | None) -> tuple[int, dict[str, int]]:
    """How many workers, and what each gets of the cluster: a GPU where it has any, else a CPU."""
    gpus = int(resources.get("GPU", 0))
    count = asked or gpus or int(resources.get("CPU", 0)) or 1
    return count, {"num_gpus": 1} if gpus else {"num_cpus": 1}


def outcomes(
    parts: Sequence[Part], worker: type, arguments: Mapping[str, Any], *, count: int, share: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """What became of every part, as the workers get done with them; the largest are begun first.

    Raises:
        BatchError: if Ray stops the run.
    """
    ray = _ray()
    ordered = iter(sorted(parts, key=lambda part: (-part.file.size, part.number)))
    while wave := {part.number: part for part in islice(ordered, _WAVE_FILES)}:
        rows = [{"part": json.dumps(dataclasses.asdict(part))} for part in wave.values()]
        data = ray.data.from_items(rows, override_num_blocks=len(rows))
        # An error that a worker did not expect costs its file, not the run.
        data.context.max_errored_blocks = -1
        data.context.enable_progress_bars = False
        # One task at a time: a worker that goes down takes no file with it but its own.
        pool = ray.data.ActorPoolStrategy(size=min(count, len(rows)), max_tasks_in_flight_per_actor=1)
        tagged = data.map_batches(worker, fn_constructor_kwargs=dict(arguments), batch_size=1, compute=pool, **share)
        try:
            for row in tagged.iter_rows():
                del wave[row["number"]]
                yield json.loads(row["outcome"])
        except ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()[-1]
            raise BatchError(f"Ray stopped the run: {said}. Run the same command again to go on") from error
        for part in wave.values():
            yield {"path": part.file.name, "failed": "its worker failed: Ray's log says why. The next run tries again"}


class Worker:
    """An actor: holds the model and tags one file after another."""

    def __init__(self, *, checkpoint: str | None, settings: Settings, output: str, device: str) -> None:
        self.settings = settings
        self.folder = Folder.at(output)
        self.tagger: TagsTraces | None = None
        self.refusal = ""
        try:
            self.tagger = worker_tagger(checkpoint, settings, device)
        except (OSError, ValueError, BatchError) as error:
            # Told with the first file: of an actor that dies in its beginning, Ray shows little but tracebacks.
            self.refusal = f"{socket.gethostname()} cannot tag: {error}"

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Tag the file of each row: ``part`` (JSON) in, ``number`` and ``outcome`` (JSON) out."""
        records = [json.loads(text) for text in batch["part"]]
        parts = [Part(number=record["number"], file=StoredFile(**record["file"])) for record in records]
        return {"number": [part.number for part in parts], "outcome": [json.dumps(self.tag(part)) for part in parts]}

    def tag(self, part: Part) -> dict[str, Any]:
        """Tag one file, or say why not."""
        if self.tagger is None:
            return {"stop": self.refusal}
        tries = f"{TRIES}/{part.stem}.json"
        try:
            before = self.folder.read(tries) or 0
            if before >= MAX_TRIES:
                return {"path": part.file.name, "failed": f"its worker went down {before} times: out of memory?"}
            self.folder.write(tries, before + 1)
            return tag_part(part, tagger=self.tagger, settings=self.settings, folder=self.folder)
        except (OSError, ValueError, BatchError) as error:
            return {"path": part.file.name, "failed": str(error.__cause__ or error) or type(error).__name__}


def worker_tagger(checkpoint: str | None, settings: Settings, device: str) -> "Tagger":
    """The tagger that ``settings`` describe.

    Raises:
        BatchError: if the checkpoint on this machine is another.
    """
    from cot_probe.tagger import load_tagger

    threshold = None if settings.fpr is not None else next(iter(settings.thresholds.values()))
    tagger = load_tagger(
        checkpoint,
        fpr=settings.fpr,
        threshold=threshold,
        device=device,
        bf16=settings.bf16,
        backend=settings.backend,
    )
    found, wanted = tagger.checkpoint.signature, settings.checkpoint
    if found != wanted or dict(tagger.point.traces) != dict(settings.thresholds):
        raise BatchError(f"has checkpoint {found}, expected {wanted} and its thresholds: install the same everywhere")
    return tagger


def tag_part(part: Part, *, tagger: TagsTraces, settings: Settings, folder: Folder) -> dict[str, Any]:
    """Tag one file into its part, unless that is there already for the same content.

    Raises:
        OSError: if the file cannot be read or the part cannot be written.
        UnreadableError: if the file is too large to be copied.
        BatchError: if this machine has no room for the part.
    """
    done, rejected = f"{DONE}/{part.stem}.json", f"{REJECTED}/{part.stem}.jsonl"
    name = part.stem + (".parquet" if folder.url.endswith(".parquet") else ".jsonl")
    with tempfile.TemporaryDirectory(prefix="cot_probe-") as temp:
        local, digest = fetch(part.file.place, Path(temp) / "in")
        entry = folder.read(done)
        if entry is not None and entry["sha256"] == digest and folder.has(name):
            return {"entry": entry, "reused": True, "rejections": []}
        # What commits the old part must be gone before another takes its place.
        folder.remove(done)
        naming = _Naming(tagger, str(local), part.file.name)
        report = run_batch([local], tagger=naming, settings=settings, output=Path(temp) / name)
        folder.publish(report.output, name)
        told = naming.renamed(report.rejected) if report.rejected else []
        if report.rejected:
            folder.publish(report.rejected, rejected)
        else:
            folder.remove(rejected)
    entry = {
        "part": name,
        "path": part.file.name,
        "bytes": part.file.size,
        "sha256": digest,
        "rows": report.total.traces,
        "rejected": rejected if report.rejected else None,
        "coverage": report.total.coverage,
        "tally": report.total.as_dict(),
    }
    folder.write(done, entry)
    return {"entry": entry, "reused": False, "rejections": told}


class _Naming:
    """Tags a file on this machine under the name that it has for the user."""

    def __init__(self, tagger: TagsTraces, local: str, name: str) -> None:
        self._tagger = tagger
        self._local = local
        self._name = name

    def tag_many(self, items: Iterable[Trace]) -> Iterator["TaggedTrace"]:
        """Tag traces in order."""
        yield from self._tagger.tag_many(
            dataclasses.replace(trace, source=dataclasses.replace(trace.source, path=self._named(trace.source.path)))
            for trace in items
        )

    def renamed(self, rejections: Path) -> list[dict[str, Any]]:
        """Rewrite a file of rejections, and give its first ones."""
        first: list[dict[str, Any]] = []
        renamed = rejections.with_name("renamed.jsonl")
        with rejections.open("rb") as lines, renamed.open("wb") as stream:
            for line in lines:
                record = json.loads(line)
                record["path"] = self._named(record["path"])
                stream.write(json_line(record))
                if len(first) < TOLD_REJECTIONS:
                    first.append(record)
        renamed.replace(rejections)
        return first

    def _named(self, path: str | None) -> str | None:
        # A path can go on behind the file's, into an archive.
        return self._name + path[len(self._local) :] if path and path.startswith(self._local) else path
