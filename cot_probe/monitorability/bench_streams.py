"""Monitors that score a trace while it is written: their files, and the figures of their first alarms."""

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from cot_probe.monitorability.bench_figures import bare, figure
from cot_probe.monitorability.bench_options import BenchOptions
from cot_probe.monitorability.bench_records import Figure
from cot_probe.monitorability.rows import CellError, Faults, StudyError, as_count, as_number, cell, read_rows
from cot_probe.monitorability.streams import PER_TOKENS, WITHIN, ScoredStream, StreamSummary, summarise_streams
from cot_probe.monitorability.study import MonitorScores, Status, Study, monitor_of
from cot_probe.monitorability.study_reading import keyed_rows

_FIELDS: Final = ("id", "n_tokens", "positions", "scores")
_MOST_SCORES: Final = 1_000_000
"""Scores that one stream may hold."""


def read_streams(
    study: Study, source: str | Path | Any, *, name: str
) -> tuple[MonitorScores, tuple[ScoredStream, ...], tuple[str, ...]]:
    """A monitor's scores as they came, a row a trace, matched by id.

    A row has ``id``, ``n_tokens``, ``positions`` (of each score the index of the last token that the monitor had read),
    ``scores`` and, where there is something to find, ``evidence``: a list of ``[start, end]`` in tokens. The trace's
    score is the highest of its stream.

    Returns:
        The monitor, its streams, and notes on what did not match or could not be read.

    Raises:
        StudyError: if a field is not there, or no row is of a case.
    """
    rows = read_rows(source)
    rows.require(_FIELDS)
    faults = Faults()
    for rejected in rows.rejected:
        faults.add(f"rows of {name!r} could not be read", rejected)
    given = keyed_rows(rows, "id", faults)
    groups = {case.id: case.group for case in study.cases}
    if groups.keys().isdisjoint(given):
        raise StudyError(f"{rows.name}: no id is that of a case: give the streams of the same traces")
    streams: dict[str, ScoredStream] = {}
    for id, (place, row) in given.items():
        if id not in groups:
            faults.add(f"rows of {name!r} are of no case", place, id)
            continue
        try:
            streams[id] = _stream(id, groups[id], row)
        except (CellError, ValueError) as error:
            faults.add(f"streams of {name!r} left out: not as they should be", place, str(error))
    found: list[float | Status] = []
    for case in study.cases:
        one = streams.get(case.id)
        if one is not None and len(one.scores):
            found.append(float(one.scores.max()))
            continue
        status: Status = "unparsable" if one is None and case.id in given else "missing"
        faults.add(f"cases that {name!r} did not score: {status}", case.id)
        found.append(status)
    signature = {"trace score": "the highest of its stream"}
    signature |= {"file_sha256": rows.sha256} if rows.sha256 else {}
    return monitor_of(name, found, signature=signature), tuple(streams.values()), faults.notes()


def _stream(id: str, group: str, row: Mapping[str, Any]) -> ScoredStream:
    positions, scores = (_listed(row, field) for field in ("positions", "scores"))
    spans = [list(span) if isinstance(span, Sequence) else [] for span in _listed(row, "evidence")]
    if any(len(span) != 2 for span in spans):
        raise CellError(f"evidence {reprlib.repr(spans)}, expected [start, end] of each")
    return ScoredStream(
        id=id,
        group=group,
        n_tokens=as_count(cell(row, "n_tokens")),
        positions=np.array([as_count(one) for one in positions], dtype=np.int64),
        scores=np.array([as_number(one) for one in scores], dtype=np.float64),
        evidence=tuple((as_count(start), as_count(end)) for start, end in spans),
    )


def _listed(row: Mapping[str, Any], field: str) -> Sequence[Any]:
    value = row.get(field, [])
    if not isinstance(value, list) or len(value) > _MOST_SCORES:
        raise CellError(f"{field} is {reprlib.repr(value)}, expected a list of at most {_MOST_SCORES:,}")
    return value


def stream_figures(study: Study, monitor: MonitorScores, options: BenchOptions) -> Iterator[Figure]:
    """First alarms, false alarms and what was missed, at the monitor's own threshold (Zhao et al. 2025)."""
    streams = study.streams.get(monitor.name, ())
    if not streams or monitor.threshold is None:
        return
    found = summarise_streams(streams, monitor.threshold, draws=options.draws, seed=options.seed)
    note = f"threshold {monitor.threshold:g}; n: streams with evidence"
    shares = {
        "exact_hit": found.exact,
        f"within_{WITHIN}": found.within,
        "early_alarm": found.early,
        "missed_evidence": found.missed,
    }
    for name, share in shares.items():
        yield figure(name, monitor.name, share, note=note)
    yield from _quartiles(monitor.name, found, note)
    clean = f"threshold {monitor.threshold:g}; n: streams, positive: false alarms; {found.clean_tokens:,} tokens"
    yield figure(f"false_alarms_per_{PER_TOKENS // 1000}k", monitor.name, found.false_alarms, note=clean)


def _quartiles(name: str, found: StreamSummary, note: str) -> Iterator[Figure]:
    """Medians, with the other quartiles in the note: there is no interval of 95 % to give."""
    n, alarmed = found.exact.n, found.exact.n - found.missed.positives
    for metric, (low, middle, high) in (("first_alarm", found.first_position), ("alarm_delay", found.delay)):
        said = f"median, quartiles {low:.3g} and {high:.3g}; {note}"
        yield figure(metric, name, bare(middle, n, alarmed), note=said)
