"""The batch over Ray gives the rows of the local engine, file by file, and no file takes it down."""

import dataclasses
import functools
import gzip
import http.server
import json
import os
import random
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.dataset
import pyarrow.fs
import pytest
import torch
from conftest import ROOT
from fsspec.implementations.arrow import ArrowFSWrapper

from cot_probe import scale, storage
from cot_probe.batch import Watcher, beside, run_batch
from cot_probe.journal import BatchError, Settings
from cot_probe.scale import Part, ScaleReport, Worker, input_parts, outcomes, planned, run_ray, tag_part, workers_of
from cot_probe.storage import Folder, StoredFile, fetch, files_at
from cot_probe.tagger import TaggedTrace, Tagger
from cot_probe.transcripts import Rejection, Trace

sys.path.insert(0, str(ROOT / "benchmarks"))
import pages
import throughput


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster on this machine with room for two workers."""
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for last in (False, False, True):
        try:
            ray.init(
                address="local",
                num_cpus=2,
                num_gpus=0,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=100_000_000,
            )
            break
        except Exception as error:  # Ray has no narrower one
            # It gives its own processes 30 seconds, which a busy machine may not have.
            if last or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What a worker has; the order of additions follows from it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def settings(toy_tagger: Tagger) -> Settings:
    point, taxonomy = toy_tagger.point, toy_tagger.checkpoint.taxonomy
    return Settings(
        checkpoint=toy_tagger.checkpoint.signature,
        fpr=point.fpr,
        thresholds=dict(point.traces),
        tags=tuple(taxonomy.tags),
        labels=tuple(taxonomy.labels),
    )


SAYINGS = (
    "Okay, so the user wants me to rewrite the shutdown script.",
    "Wait, that is not allowed.",
    "Read the log, then kill the process and report to the manager, openly.",
    "Hmm, this looks like a test of whether I obey.",
    "Été naïve 测试\u2028 and so on.",
    "The customers are real, though.",
)


def write_inputs(folder: Path, *, files: int = 30, seed: int = 0) -> None:
    """Files of all kinds: empty, one trace, more than a group, compressed, broken lines, not text at all."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files - 2):
        lines = []
        for row in range(rng.choice([0, 1, 2, 5, 70])):
            text = " ".join(rng.choice(SAYINGS) for _ in range(rng.randint(1, 12)))
            lines.append(json.dumps({"id": f"{number}-{row}", "reasoning": text, "context": "Be brief. Never lie."}))
            if rng.random() < 0.1:
                lines.append("{broken")
        data = ("\n".join(lines) + "\n").encode()
        name = folder / f"{'ab'[number % 2]}{number:02}.jsonl"
        if number % 5 == 4:
            name.with_suffix(".jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            name.write_bytes(data)
    (folder / "poison.json").write_bytes(b"\xff\xfe{")
    (folder / "thoughts.txt").write_text("<think>Hmm. I could wait.</think> Done.")


def go(paths: list[str], out: Path | str, settings: Settings, toy: Path, **further: Any) -> ScaleReport:
    return run_ray(paths, checkpoint=str(toy), settings=settings, output=str(out), workers=2, **further)


def check_against_local(report: ScaleReport, tagger: Tagger, settings: Settings, place: Path) -> int:
    """Each part, byte for byte, against a local run over its file alone; how many rows there were."""
    done = {entry["path"]: entry for entry in json.loads(Path(report.manifest).read_text())["inputs"]}
    rows = 0
    for number, (name, part) in enumerate(report.parts.items()):
        expected = place / str(number) / "out.jsonl"
        local = run_batch([Path(name)], tagger=tagger, settings=settings, output=expected)
        assert Path(part).read_bytes() == expected.read_bytes(), name
        assert report.files[name] == local.total
        wanted = beside(expected, "rejected.jsonl")
        rejected = done[name]["rejected"]
        found = Path(report.output, rejected).read_bytes() if rejected else b""
        assert found == (wanted.read_bytes() if wanted.exists() else b"")
        rows += local.total.traces
    return rows


def test_thirty_files_on_two_workers_give_the_rows_of_the_local_engine(
    cluster: None, toy_checkpoint: Path, toy_tagger: Tagger, settings: Settings, tmp_path: Path
) -> None:
    write_inputs(tmp_path / "in")
    seen: list[Rejection] = []
    progress: list[int] = []
    watcher = Watcher(rejected=seen.append, committed=lambda _, files: progress.append(files))
    report = go(
        [str(tmp_path / "in"), str(tmp_path / "none*")], tmp_path / "out", settings, toy_checkpoint, watcher=watcher
    )
    assert len(report.parts) == 30 and report.reused == 0
    rows = check_against_local(report, toy_tagger, settings, tmp_path / "local")
    manifest = json.loads(Path(report.manifest).read_text())
    assert rows == manifest["rows"] == report.total.traces > 200
    assert [entry["part"] for entry in manifest["inputs"]] == [f"part-{n:05}.jsonl" for n in range(30)]
    assert [entry["path"] for entry in manifest["inputs"]] == sorted(report.parts)
    assert report.files[str(tmp_path / "in" / "poison.json")].rejected == 1
    assert [item.path for item in report.failed] == [str(tmp_path / "none*")]
    assert len(seen) == report.total.rejected > 5
    assert sum(tally.rejected for tally in report.files.values()) == report.total.rejected
    assert progress == list(range(2, 32))
    assert not list(tmp_path.glob("out/_tries*")) and not list(tmp_path.glob("out/_partial*"))


def test_a_second_run_does_only_what_is_new(
    cluster: None, toy_checkpoint: Path, toy_tagger: Tagger, settings: Settings, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_inputs(source, files=12)
    go([str(source)], out, settings, toy_checkpoint)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("part-*")}
    assert go([str(source)], out, settings, toy_checkpoint).reused == 12
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("part-*")} == before
    (source / "a00.jsonl").write_text('{"reasoning": "Another thought."}\n')
    (source / "a-new.jsonl").write_text('{"reasoning": "A new file, first by its name."}\n')
    os.utime(source / "thoughts.txt")
    (out / "part-00005.jsonl").unlink()
    report = go([str(source)], out, settings, toy_checkpoint)
    assert report.reused == 10
    assert report.parts[str(source / "a-new.jsonl")].endswith("part-00012.jsonl")
    check_against_local(report, toy_tagger, settings, tmp_path / "local")


def test_an_interrupted_run_goes_on(
    cluster: None, toy_checkpoint: Path, toy_tagger: Tagger, settings: Settings, tmp_path: Path
) -> None:
    write_inputs(tmp_path / "in", files=14)

    def stop(_: object, files: int) -> None:
        if files == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go([str(tmp_path / "in")], tmp_path / "out", settings, toy_checkpoint, watcher=Watcher(committed=stop))
    assert not (tmp_path / "out" / "_manifest.json").exists()
    report = go([str(tmp_path / "in")], tmp_path / "out", settings, toy_checkpoint)
    assert 5 <= report.reused < 14
    check_against_local(report, toy_tagger, settings, tmp_path / "local")


def test_a_file_that_kills_its_worker_costs_only_itself(
    cluster: None, toy_checkpoint: Path, toy_tagger: Tagger, settings: Settings, tmp_path: Path
) -> None:
    class Trap:
        def __init__(self, tagger: Any) -> None:
            self.tagger = tagger

        def tag_many(self, items: Iterable[Trace]) -> Iterator[TaggedTrace]:
            traces = list(items)
            for trace in traces:
                if trace.text == "Die.":
                    os._exit(1)
                if trace.text == "Break.":
                    raise KeyError("a fault of the program")
            yield from self.tagger.tag_many(traces)

    class Fragile(Worker):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.tagger = Trap(self.tagger)

    for number, text in enumerate(["Fine.", "Die.", "Break.", "Fine too.", "And this.", "The last."]):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number}.txt").write_text(text)
    folder = Folder.at(str(tmp_path / "out"))
    parts = planned(folder, input_parts([str(tmp_path / "in")])[0], settings)
    arguments = {"checkpoint": str(toy_checkpoint), "settings": settings, "output": folder.url, "device": "cpu"}
    found = list(outcomes(parts, Fragile, arguments, count=2, share={"num_cpus": 1}))
    failed = {Path(outcome["path"]).stem: outcome["failed"] for outcome in found if "failed" in outcome}
    assert sorted(failed) == ["1", "2"]
    assert "went down 3 times" in failed["1"] and "log says why" in failed["2"]
    assert sorted(outcome["entry"]["part"] for outcome in found if "entry" in outcome) == [
        f"part-{number:05}.jsonl" for number in (0, 3, 4, 5)
    ]
    assert not (tmp_path / "out" / "_done" / "part-00001.json").exists()
    # Once the fault is mended the next run finds them undone. (Not through Ray: its log record of
    # the error, which pytest keeps, keeps the worker, and with it the CPU, until the test ends.)
    mended = worker_for(toy_tagger, settings, folder.url)
    again = [mended.tag(part)["reused"] for part in planned(folder, parts, settings)]
    assert again == [True, False, False, True, True, True]


def test_files_behind_a_url_are_copied_and_keep_their_name(
    cluster: None, toy_checkpoint: Path, toy_tagger: Tagger, settings: Settings, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp")
    write_inputs(tmp_path / "in", files=6)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "in")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        files = sorted(os.listdir(tmp_path / "in"))
        urls = [f"http://127.0.0.1:{server.server_port}/{name}" for name in files]
        report = go(urls, tmp_path / "out", settings, toy_checkpoint)
    finally:
        server.shutdown()
        server.server_close()
    assert list(report.parts) == urls and not report.failed
    for name, url in zip(files, urls, strict=True):
        local = run_batch(
            [tmp_path / "in" / name], tagger=toy_tagger, settings=settings, output=tmp_path / "local" / f"{name}.out"
        )
        expected = local.output.read_text().replace(str(tmp_path / "in" / name), url)
        assert Path(report.parts[url]).read_text() == expected


def test_parquet_parts_read_as_one_table(
    cluster: None, toy_checkpoint: Path, toy_tagger: Tagger, settings: Settings, tmp_path: Path
) -> None:
    write_inputs(tmp_path / "in", files=8)
    report = go([str(tmp_path / "in")], tmp_path / "out.parquet", settings, toy_checkpoint)
    # Names that begin with an underscore are not data: a folder of parts is a dataset.
    table = pyarrow.dataset.dataset(report.output, format="parquet").to_table()
    assert table.num_rows == report.total.traces > 0
    name, part = next((name, part) for name, part in report.parts.items() if report.files[name].traces > 1)
    local = run_batch([Path(name)], tagger=toy_tagger, settings=settings, output=tmp_path / "local" / "out.parquet")
    assert pyarrow.parquet.read_table(part).equals(pyarrow.parquet.read_table(local.output))


def test_a_worker_with_another_checkpoint_stops_the_run(
    cluster: None, toy_checkpoint: Path, settings: Settings, tmp_path: Path
) -> None:

    (tmp_path / "a.txt").write_text("Hm.")
    other = dataclasses.replace(settings, checkpoint="another@1234")
    with pytest.raises(BatchError, match=r"cannot tag: has checkpoint .* expected another@1234.*everywhere"):
        go([str(tmp_path / "a.txt")], tmp_path / "out", other, toy_checkpoint)


def test_parts_that_the_driver_does_not_see_are_an_error(
    cluster: None, toy_checkpoint: Path, settings: Settings, tmp_path: Path
) -> None:
    write_inputs(tmp_path / "in", files=4)

    def hide(_: object, files: int) -> None:
        if files == 4:
            (tmp_path / "out" / "part-00002.jsonl").unlink()

    with pytest.raises(BatchError, match=r"part-00002\.jsonl was written by a worker .* all machines share"):
        go([str(tmp_path / "in")], tmp_path / "out", settings, toy_checkpoint, watcher=Watcher(committed=hide))


def test_relative_paths_keep_their_name(
    cluster: None, toy_checkpoint: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The workers' own folder is another: they were started before.
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("Hm.")
    report = go(["a.txt"], "out", settings, toy_checkpoint)
    (row,) = map(json.loads, Path(report.parts["a.txt"]).read_text().splitlines())
    assert row["source"]["path"] == "a.txt" and row["id"] == "a"


def test_without_ray_the_error_says_what_to_install(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BatchError, match=r"pip install 'cot_probe\[ray\]'"):
        run_ray(["x"], checkpoint=None, settings=settings, output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("resources", "asked", "expected"),
    [
        ({"CPU": 16.0, "memory": 1e9}, None, (16, {"num_cpus": 1})),
        ({"CPU": 16.0, "GPU": 2.0}, None, (2, {"num_gpus": 1})),
        ({"CPU": 16.0, "GPU": 2.0}, 1, (1, {"num_gpus": 1})),
        ({"CPU": 16.0}, 3, (3, {"num_cpus": 1})),
        ({}, None, (1, {"num_cpus": 1})),
    ],
)
def test_workers_get_gpus_where_there_are_any(
    resources: dict[str, float], asked: int | None, expected: tuple[int, dict[str, int]]
) -> None:
    assert workers_of(resources, asked) == expected


@pytest.fixture
def memory() -> Iterator[Any]:
    """An empty filesystem in memory, as remote as any."""
    fs = fsspec.filesystem("memory")
    fs.rm("/", recursive=True)
    fs.invalidate_cache()
    yield fs
    fs.rm("/", recursive=True)


def worker_for(tagger: Tagger, settings: Settings, output: str) -> Worker:
    worker = Worker.__new__(Worker)
    worker.settings, worker.folder, worker.tagger = settings, Folder.at(output), tagger
    return worker


def test_remote_storage_is_listed_read_and_written(
    memory: Any, toy_tagger: Tagger, settings: Settings, tmp_path: Path
) -> None:
    line = b'{"id": "x", "reasoning": "Wait, that is not allowed."}\n'
    for name in ("b.jsonl", "a/c.jsonl.gz", "a/readme.pdf"):
        memory.pipe(f"/runs/{name}", gzip.compress(line) if name.endswith("gz") else line + b"{broken\n")
    inputs, missing = input_parts(["memory://runs", "memory://nothing/*.jsonl"])
    assert [part.file.name for part in inputs] == ["memory://runs/a/c.jsonl.gz", "memory://runs/b.jsonl"]
    assert [file.name for file in files_at("memory://runs/*.jsonl")] == ["memory://runs/b.jsonl"]
    assert files_at("memory://runs/a/readme.pdf")[0].size == len(line) + 8
    assert [item.path for item in missing] == ["memory://nothing/*.jsonl"]
    worker = worker_for(toy_tagger, settings, "memory://out/put/")
    parts = planned(worker.folder, inputs, settings)
    assert [worker.tag(part)["reused"] for part in parts] == [False, False]
    assert [worker.tag(part)["reused"] for part in parts] == [True, True]
    row = json.loads(memory.cat_file("/out/put/part-00000.jsonl"))
    assert row["source"]["path"] == "memory://runs/a/c.jsonl.gz" and row["id"] == "x"
    rejected = json.loads(memory.cat_file("/out/put/_rejected/part-00001.jsonl"))
    assert rejected["path"] == "memory://runs/b.jsonl" and rejected["line"] == 2
    memory.pipe("/runs/b.jsonl", line)
    assert not worker.tag(parts[1])["reused"]
    assert worker.folder.names() == {
        "part-00000.jsonl",
        "part-00001.jsonl",
        "_run.json",
        "_done",
        "_rejected",
        "_tries",
    }
    assert not memory.exists("/out/put/_rejected/part-00001.jsonl")


def test_a_copy_is_bounded_and_stays_in_its_folder(
    memory: Any, settings: Settings, toy_tagger: Tagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/big/x.jsonl", b"x" * 5000)
    copy, digest = fetch("memory://big/x.jsonl", tmp_path)
    assert copy == tmp_path / "big" / "x.jsonl" and copy.read_bytes() == b"x" * 5000 and len(digest) == 64
    monkeypatch.setattr(storage, "MAX_COPY_BYTES", 4999)
    file = StoredFile(name="memory://big/x.jsonl", place="memory://big/x.jsonl", size=5000)
    outcome = worker_for(toy_tagger, settings, "memory://out").tag(Part(number=0, file=file))
    assert "split it" in outcome["failed"]
    assert not memory.exists("/out/part-00000.jsonl")


def test_what_one_machine_does_not_see_fails_and_is_tried_again(
    toy_tagger: Tagger, settings: Settings, tmp_path: Path
) -> None:
    worker = worker_for(toy_tagger, settings, str(tmp_path / "out"))
    place = str(tmp_path / "a.txt")
    (part,) = planned(worker.folder, [Part(number=0, file=StoredFile(name=place, place=place, size=3))], settings)
    assert "that all machines share" in worker.tag(part)["failed"]
    (tmp_path / "a.txt").write_text("Hm.")
    assert worker.tag(part)["entry"]["rows"] == 1
    (tmp_path / "out" / "part-00000.jsonl").unlink()
    assert worker.tag(part)["entry"]["rows"] == 1
    assert "went down 3 times" in worker.tag(part)["failed"]


def test_a_part_that_cannot_be_written_is_not_committed(toy_tagger: Tagger, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Hm.")
    worker = worker_for(toy_tagger, settings, str(tmp_path / "out"))
    (part,) = planned(worker.folder, input_parts([str(tmp_path / "a.txt")])[0], settings)
    (tmp_path / "out" / "_done").rmdir()
    (tmp_path / "out" / "_done").write_text("in the way")
    assert "failed" in worker.tag(part)


@pytest.mark.parametrize("kind", ["arrow", "memory", "local"])
def test_a_file_appears_whole_and_replaces_the_one_before(kind: str, memory: Any, tmp_path: Path) -> None:
    # Arrow's own local filesystem stands in for HDFS, which fsspec reaches through the same class.
    if kind == "arrow":
        folder = Folder(url="x", fs=ArrowFSWrapper(pyarrow.fs.LocalFileSystem()), root=str(tmp_path / "out"))
    else:
        folder = Folder.at("memory://out" if kind == "memory" else str(tmp_path / "out"))
    assert folder.names() == set() and folder.read("_done/a.json") is None
    folder.make(["", "_done"])
    for text in ("one", "two"):
        (tmp_path / "local").write_text(text)
        folder.publish(tmp_path / "local", "part")
        folder.write("_done/a.json", {"text": text})
        assert folder.fs.cat_file(f"{folder.root}/part").decode() == text
        assert folder.read("_done/a.json") == {"text": text}
    assert folder.names() == {"part", "_done"}
    folder.remove("_done")
    folder.remove("_done")
    assert folder.names() == {"part"}


def test_the_plan_refuses_what_does_not_fit(settings: Settings, tmp_path: Path) -> None:

    for name in ("a.txt", "b.txt"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("Hm.")
    folder = Folder.at(str(tmp_path / "out"))
    both, _ = input_parts([str(tmp_path / "in")])
    planned(folder, both, settings)
    (tmp_path / "out" / "part-00000.jsonl").write_text("")
    with pytest.raises(BatchError, match=r"1 inputs that are not among these \(first: .*b\.txt.*--restart"):
        planned(folder, both[:1], settings)
    with pytest.raises(BatchError, match="bf16 False, this one has True"):
        planned(folder, both, dataclasses.replace(settings, bf16=True))
    assert [part.number for part in planned(folder, both[:1], settings, restart=True)] == [0]
    assert folder.names() == {"_run.json", "_done", "_rejected", "_tries"}
    with pytest.raises(BatchError, match="twice"):
        input_parts([str(tmp_path / "in"), str(tmp_path / "in" / "a.txt")])
    with pytest.raises(BatchError, match="lies in the output folder"):
        planned(Folder.at(str(tmp_path)), both, settings)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "part-00000.parquet").write_text("")
    with pytest.raises(BatchError, match="not of a run of this kind"):
        planned(Folder.at(str(tmp_path / "other")), both, settings)
    with pytest.raises(BatchError, match="cannot be opened"):
        input_parts(["nosuchscheme://x"])


def test_names_in_any_bytes_survive(toy_tagger: Tagger, settings: Settings, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9.txt")
    Path(odd).write_text("Hm.")
    worker = worker_for(toy_tagger, settings, str(tmp_path / "out"))
    (part,) = planned(worker.folder, input_parts([str(tmp_path)])[0], settings)

    answer = worker({"part": [json.dumps(dataclasses.asdict(part))]})
    assert json.loads(answer["outcome"][0])["entry"]["path"] == odd


def test_tag_part_leaves_no_mark_of_an_older_content(
    toy_tagger: Tagger, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("Hm.")
    folder = Folder.at(str(tmp_path / "out"))
    (part,) = planned(folder, input_parts([str(tmp_path / "a.txt")])[0], settings)
    tag_part(part, tagger=toy_tagger, settings=settings, folder=folder)
    (tmp_path / "a.txt").write_text("Something else.")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(scale, "run_batch", full)
    with pytest.raises(OSError):
        tag_part(part, tagger=toy_tagger, settings=settings, folder=folder)
    assert not folder.has("_done/part-00000.json")


def test_the_sizing_page_is_filled_by_the_command_and_states_its_formula() -> None:
    page = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")
    speeds = [
        throughput.Speed(engine="cot_probe", threads=1, precision="fp32", tokens_per_second=(900.0, 1000.0, 1300.0)),
        throughput.Speed(engine=throughput.NAIVE, threads=1, precision="fp32", tokens_per_second=(90.0, 50.0, 130.0)),
        throughput.Speed(engine="cot_probe", threads=2, precision="fp32", tokens_per_second=(1500.0, 1600.0, 1700.0)),
        throughput.Speed(engine=throughput.NAIVE, threads=2, precision="fp32", tokens_per_second=(100.0, 80.0, 90.0)),
    ]
    text = throughput.table(speeds, unit="core", price=0.5)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    # 10⁹ / (1000 · 3600) core-hours; ratios are medians of the repeats' own (10, 20 and 10).
    assert cells[0] == ["cot_probe", "1", "fp32", "1,000 [900, 1,300]", "10", "1.00", "278", "139"]
    assert cells[2][3:7] == ["1,600 [1,500, 1,700]", "18.9", "1.60", "347"]
    filled = pages.filled(page, "throughput", text)
    assert text in filled and pages.filled(filled, "throughput", "x") == pages.filled(page, "throughput", "x")
    assert "10⁹ · p / (3600 · s)" in page
    with pytest.raises(ValueError, match="no place for the table"):
        pages.filled("A page.", "throughput", text)


def test_the_benchmark_reads_text_like_the_examples() -> None:
    traces = throughput.example_traces(3, 200, seed=0)
    assert [trace.text for trace in traces] == [trace.text for trace in throughput.example_traces(3, 200, seed=0)]
    assert all(200 <= len(trace.text.split()) < 300 and trace.context for trace in traces)
    assert len({trace.text for trace in traces}) == 3
