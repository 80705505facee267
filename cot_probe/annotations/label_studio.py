"""Exchange with Label Studio: tasks with character spans out, corrected tasks back in.

Task format: https://labelstud.io/guide/task_format and /guide/predictions. The labels that count
travel as a ground-truth annotation, the raw readings as predictions named after their reader.
On the way back the ground-truth annotation gives the labels; without one, the only annotation does,
or all annotations where they say the same. Anything else needs a person to decide and is reported.

Offsets: Label Studio counts code points today and counted UTF-16 units in older versions
(https://github.com/HumanSignal/label-studio/issues/1347). Each region also carries its text, which
tells the two apart; a region whose text is at neither place is refused.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from cot_probe.annotations.dataset import row
from cot_probe.annotations.records import AnnotatedTrace, AnnotationError, LabelledSpan, Reading, parse_record
from cot_probe.taxonomy import HARM_KINDS, SENTENCE_LABELS, TRACE_LABELS

_COLOURS: Final = ("#c0392b", "#27ae60", "#2980b9", "#8e44ad", "#d68910")


def labelling_config() -> str:
    """The project's labelling configuration (XML): sentence labels, kinds of harm, trace labels."""
    labels = "\n".join(
        f"    <Label value={quoteattr(label)} background={quoteattr(colour)}/>"
        for label, colour in zip(SENTENCE_LABELS, _COLOURS, strict=True)
    )
    kinds = "\n".join(f"    <Choice value={quoteattr(kind)}/>" for kind in HARM_KINDS)
    traces = "\n".join(f"    <Choice value={quoteattr(label)}/>" for label in (*TRACE_LABELS, "unsure"))
    return f"""<View>
  <Header value="What the model was told"/>
  <Text name="context" value="$context"/>
  <Labels name="label" toName="text" choice="multiple">
{labels}
  </Labels>
  <Header value="The reasoning"/>
  <Text name="text" value="$text" granularity="sentence"/>
  <Choices name="kind" toName="text" perRegion="true" whenTagName="label" whenLabelValue="strategic_harm">
{kinds}
  </Choices>
  <Choices name="trace" toName="text" choice="multiple">
{traces}
  </Choices>
  <TextArea name="adjudication" toName="text" placeholder="Why, where readers differed" maxSubmissions="1"/>
</View>
"""


def task_of(record: AnnotatedTrace) -> dict[str, Any]:
    """One record as a Label Studio task.

    Raises:
        AnnotationError: for a record without text (real traces need their text first).
    """
    if not record.text:
        raise AnnotationError(f"{record.id}: no text; fetch the texts of real traces first")
    kept = row(record)
    own = ("id", "scenario", "phenomenon", "language", "style", "context", "text", "n_sentences", "source")
    result = _result(record.sentences, record.trace, record.unsure, record.text)
    if record.adjudication:
        result.append(
            _region("adjudication", "adjudication", "textarea", {"text": [record.adjudication]}),
        )
    return {
        "data": {name: kept[name] for name in own} | {"split": record.split},
        "annotations": [{"result": result, "ground_truth": True, "was_cancelled": False}],
        "predictions": [
            {
                "model_version": reading.annotator,
                "result": _result(reading.sentences, reading.trace, reading.unsure, record.text),
            }
            for reading in record.readings
        ],
    }


def _region(region: str, name: str, type_: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": region, "from_name": name, "to_name": "text", "type": type_, "value": dict(value)}


def _result(spans: Sequence[LabelledSpan], trace: frozenset[str], unsure: bool, text: str) -> list[dict[str, Any]]:
    out = []
    for number, span in enumerate(spans):
        place = {"start": span.start, "end": span.end, "text": text[span.start : span.end]}
        out.append(_region(f"s{number}", "label", "labels", place | {"labels": list(span.labels)}))
        if span.kind is not None:
            out.append(_region(f"s{number}", "kind", "choices", place | {"choices": [span.kind]}))
    chosen = [*sorted(trace), *(["unsure"] if unsure else [])]
    if chosen:
        out.append(_region("trace", "trace", "choices", {"choices": chosen}))
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A task that could not be turned into a record, and why."""

    task: str
    reason: str

    def __str__(self) -> str:
        return f"task {self.task}: {self.reason}"


def read_tasks(path: Path) -> tuple[list[AnnotatedTrace], list[Refused]]:
    """Records of a Label Studio JSON export; what is faulty or undecided is reported, not guessed.

    Raises:
        AnnotationError: if the file is no JSON list of tasks.
    """
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: not JSON ({error}); export the project as JSON") from None
    if not isinstance(tasks, list):
        raise AnnotationError(f"{path}: holds {type(tasks).__name__}, expected a list of tasks (export as JSON)")
    records: list[AnnotatedTrace] = []
    refused: list[Refused] = []
    for number, task in enumerate(tasks):
        try:
            records.append(record_of(task))
        except AnnotationError as error:
            data = task.get("data") if isinstance(task, dict) else None
            name = data.get("id", number) if isinstance(data, dict) else number
            refused.append(Refused(task=str(name), reason=str(error)))
    return records, refused


def record_of(task: Any) -> AnnotatedTrace:
    """One task as a record.

    Raises:
        AnnotationError: saying what is missing, unknown or undecided.
    """
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise AnnotationError("not a task: expected an object with data")
    data = task["data"]
    text = data.get("text")
    if not isinstance(text, str) or not text:
        raise AnnotationError("data.text is missing: expected the reasoning")
    annotations = [a for a in task.get("annotations") or [] if isinstance(a, dict) and not a.get("was_cancelled")]
    if not annotations:
        raise AnnotationError("no annotation: nobody has labelled this task")
    readings = [_reading(p, str(p.get("model_version", "?")), text) for p in task.get("predictions") or []]
    people = [_reading(a, _who(a), text) for a in annotations if not a.get("ground_truth")]
    final, why = _final(annotations, text)
    return _validated(data, text, final, (*readings, *people) or (final,), why)


def _who(annotation: Mapping[str, Any]) -> str:
    """Annotator: e-mail address or number of the user."""
    user = annotation.get("completed_by")
    if isinstance(user, dict):
        return str(user.get("email") or user.get("id") or "?")
    return "?" if user is None else str(user)


def _final(annotations: Sequence[Mapping[str, Any]], text: str) -> tuple[Reading, str]:
    true = [a for a in annotations if a.get("ground_truth")]
    if len(true) > 1:
        raise AnnotationError(f"{len(true)} annotations are marked as ground truth, expected one")
    chosen = true or annotations
    said = [replace(_reading(a, "", text), annotator="") for a in chosen]
    if any(other != said[0] for other in said[1:]):
        raise AnnotationError(
            f"{len(chosen)} annotations differ and none is marked as ground truth: decide, and mark the right one"
        )
    why = [
        line
        for region in chosen[0].get("result") or []
        if region.get("from_name") == "adjudication"
        for line in region["value"]["text"]
    ]
    return said[0], " ".join(why)


def _reading(annotation: Mapping[str, Any], who: str, text: str) -> Reading:
    spans: dict[tuple[int, int], tuple[list[str], str | None]] = {}
    trace: list[str] = []
    for region in annotation.get("result") or []:
        name, value = region.get("from_name"), region.get("value") or {}
        if name == "trace":
            trace += value.get("choices") or []
        elif name in {"label", "kind"}:
            labels, kind = spans.setdefault(_place(value, text), ([], None))
            labels += [label for label in value.get("labels") or [] if label not in labels]
            kinds = value.get("choices") or [kind]
            spans[_place(value, text)] = (labels, kinds[0])
        elif name != "adjudication":
            raise AnnotationError(f"region of control {name!r}, expected label, kind, trace or adjudication")
    return Reading(
        annotator=who,
        sentences=tuple(
            LabelledSpan(
                start=start,
                end=end,
                labels=tuple(sorted(labels, key=_rank)),
                kind=kind if "strategic_harm" in labels else None,
            )
            for (start, end), (labels, kind) in sorted(spans.items())
        ),
        trace=frozenset(trace) - {"unsure"},
        unsure="unsure" in trace,
    )


def _rank(label: str) -> int:
    """Column order of known labels; unknown ones last, for validation to refuse."""
    return SENTENCE_LABELS.index(label) if label in SENTENCE_LABELS else len(SENTENCE_LABELS)


def _place(value: Mapping[str, Any], text: str) -> tuple[int, int]:
    """Code-point offsets of a region, checked against the text that it carries; outer white space cut."""
    start, end = value.get("start"), value.get("end")
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end:
        raise AnnotationError(f"a region spans {start!r}..{end!r}, expected character offsets")
    wanted = value.get("text")
    for first, last in ((start, end), (_code_points(text, start), _code_points(text, end))):
        found = text[first:last]
        if found and last <= len(text) and (not isinstance(wanted, str) or found.split() == wanted.split()):
            return first + len(found) - len(found.lstrip()), last - (len(found) - len(found.rstrip()))
    raise AnnotationError(f"a region at {start}..{end} says {wanted!r}, but the text there is {text[start:end]!r}")


def _code_points(text: str, units: int) -> int:
    """Number of code points in the first so many UTF-16 units."""
    encoded = text.encode("utf-16-le", "surrogatepass")[: 2 * units]
    return len(encoded.decode("utf-16-le", "replace"))


def _validated(
    data: Mapping[str, Any], text: str, final: Reading, readings: Sequence[Reading], why: str
) -> AnnotatedTrace:
    """Through the parser of the annotation files, so that nothing enters that they would refuse."""
    needed = ("id", "scenario", "phenomenon", "split", "language")
    missing = [name for name in needed if not data.get(name)]
    if missing:
        raise AnnotationError(f"data lacks {', '.join(missing)}: expected the fields of annotations/README.md")
    raw = {name: data[name] for name in needed} | {
        "style": data.get("style", ""),
        "context": data.get("context", ""),
        "text": text,
        "sentences": _plain(final.sentences),
        "trace": sorted(final.trace),
        "unsure": final.unsure,
        "annotators": [
            {"annotator": r.annotator, "sentences": _plain(r.sentences), "trace": sorted(r.trace), "unsure": r.unsure}
            for r in readings
        ],
        "adjudication": why,
        "n_sentences": data.get("n_sentences", 0),
        "source_repo": data.get("source", ""),
    }
    try:
        return parse_record(json.dumps(raw), "task", 1)
    except AnnotationError as error:
        raise AnnotationError(str(error).removeprefix("task:1: ")) from None


def _plain(spans: Iterable[LabelledSpan]) -> list[dict[str, Any]]:
    return [
        {"start": s.start, "end": s.end, "labels": list(s.labels)} | ({"kind": s.kind} if s.kind else {}) for s in spans
    ]


def record_line(record: AnnotatedTrace) -> str:
    """A record as a line of an annotation file."""
    plain = {
        "id": record.id,
        "scenario": record.group,
        "phenomenon": record.phenomenon,
        "split": record.split,
        "language": record.language,
        "style": record.style,
        "context": record.context,
        "text": record.text,
        "sentences": _plain(record.sentences),
        "trace": sorted(record.trace),
        "unsure": record.unsure,
        "annotators": [
            {"annotator": r.annotator, "sentences": _plain(r.sentences), "trace": sorted(r.trace), "unsure": r.unsure}
            for r in record.readings
        ],
        "adjudication": record.adjudication,
        "n_sentences": record.n_sentences,
    }
    return json.dumps(plain, ensure_ascii=False) + "\n"
