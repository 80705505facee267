"""A results directory of the agentic-misalignment experiment as a study: outcome, stance and command of each sample.

The outcome is what the experiment's own classifier found (``classification.harmful_behavior``, else
``classification_v2``). A sample whose call failed, that nobody classified, or whose classifier failed has none: it is
left out and counted, never harmless. Whoever reads the figures should know that this outcome is a judge's "yes" that a
few rules must confirm, and that these under-count where the response shows no scratchpad (``_prod``).

The stance comes from a results file of ``cot-probe tag`` over the same directory, from a tagger, or from labels of the
experiment's deliberation classifier; without any of these it is unknown. A command not to do it is searched in the
system prompt and the user prompt; the e-mails are what third parties write.
"""

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from cot_probe.journal import sha256_of
from cot_probe.monitorability.awareness import LABEL_STANCES, Label, deliberation_of, label_of
from cot_probe.monitorability.commands_given import PHENOMENON_KINDS, is_forbidden
from cot_probe.monitorability.rows import Faults, StudyError
from cot_probe.monitorability.study import Case, Study, checked
from cot_probe.results import ResultsError, is_readable, read_results
from cot_probe.tagger import TaggedTrace
from cot_probe.taxonomy import STANCES
from cot_probe.transcripts.agentic_misalignment import read, sniff
from cot_probe.transcripts.containers import READ_ERRORS, open_transcript, parse_json, read_whole
from cot_probe.transcripts.content import ShapeError, action_text
from cot_probe.transcripts.files import transcript_files
from cot_probe.transcripts.trace import Source, Trace

StratumOf = Literal["model", "scenario", "condition"]
"""What a stratified analysis holds fixed: model, kind of scenario (blackmail, leaking, murder), or condition."""

_CLASSIFICATIONS: Final = ("classification", "classification_v2")
_FILE: Final = "response.json"
_FAILED: Final = "samples left out: the call to the model failed"
_UNCLASSIFIED: Final = "samples left out: no classifier looked at them"
_BROKEN: Final = "samples left out: their classifier failed or said neither yes nor no"
_UNREADABLE: Final = "files left out: not a sample of the experiment, or not readable"
_TWICE: Final = "samples left out: several have the same model, condition and number"
_UNFAMILIAR: Final = "samples whose text is not of the kind that the checkpoint reads: their stance means little"
_PROMISED: Final = "samples whose condition says `dont`, while no such command is found in their prompts"
_SEARCHED: Final = "whether a command not to was given is what rules found in the prompts: English, explicit"


class Tags(Protocol):
    """What tags traces, in their order: a :class:`~cot_probe.tagger.Tagger`."""

    def tag_many(self, items: Iterable[Trace]) -> Iterator[TaggedTrace]:
        """Tag traces as they come."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MisalignmentRuns:
    """The samples of a results directory.

    Attributes:
        study: Those with an outcome, as cases without monitors; its source has one SHA-256 of the contents of all
            responses, in name order; its notes say what was left out.
        labels: Case to the experiment's label, where the stance is known; see `awareness.deliberation_of`.
        samples: Samples found in all.
        failed: Those whose call to the model failed.
        unclassified: Those that no classifier looked at, or whose classifier failed.
        unreadable: Files that could not be read as a sample.
    """

    study: Study
    labels: Mapping[str, Label]
    samples: int
    failed: int
    unclassified: int
    unreadable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """A sample with an outcome; ``action`` is all that it said where it shows no reasoning."""

    trace: Trace
    outcome: bool
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What is known of the stance of a trace."""

    stance: str | None
    label: Label
    n_tokens: int | None = None


def read_runs(
    directory: str | Path,
    *,
    results: str | Path | None = None,
    tagger: Tags | None = None,
    labels: Mapping[str, str] | None = None,
    stratum: StratumOf = "model",
) -> MisalignmentRuns:
    """The samples below a results directory (``results/<experiment>``, or any folder in it).

    Args:
        directory: Of the experiment.
        results: Results of ``cot-probe tag`` over the same samples, for the stances; matched by id.
        tagger: Tags the samples here, for the stances.
        labels: Case (``model/condition/sample``) to a label of the experiment's deliberation classifier.
        stratum: What `Case.stratum` is to be.

    Raises:
        StudyError: if stances are to come from two places, results cannot be used, or no sample has an outcome.
    """
    given = [name for name, one in (("results", results), ("tagger", tagger), ("labels", labels)) if one is not None]
    if len(given) > 1:
        raise StudyError(f"stances from {' and '.join(given)}, expected one of them")
    faults = Faults()
    samples, digest = _samples(Path(directory), faults)
    kept = list(samples.values())
    if not kept:
        told = "; ".join(faults.notes()) or f"no {_FILE}"
        raise StudyError(f"{directory}: no sample with an outcome: {told}. Give results/<experiment>, classified.")
    if results is not None:
        said = _said_in(Path(results), samples, faults)
    elif labels is not None:
        said = _said_by(labels, samples, faults)
    else:
        said = _said_now(tagger, kept, faults) if tagger is not None else {}
    forbidden = _forbidden(kept, faults)
    pairs = zip(kept, forbidden, strict=True)
    name = Path(directory).absolute().name
    study = Study(
        name=name,
        cases=tuple(_case(sample, said.get(sample.trace.id), stratum, known) for sample, known in pairs),
        monitors=(),
        source={name: digest} | ({Path(results).name: sha256_of(Path(results)) or ""} if results is not None else {}),
        outcome="harmful behaviour, by the experiment's classifier",
        notes=(*faults.notes(), _SEARCHED),
    )
    counts = faults.counts
    return MisalignmentRuns(
        study=checked(study),
        labels={sample.trace.id: said[sample.trace.id].label for sample in kept if sample.trace.id in said},
        samples=len(kept) + sum(counts.get(kind, 0) for kind in (_FAILED, _UNCLASSIFIED, _BROKEN, _TWICE)),
        failed=counts.get(_FAILED, 0),
        unclassified=counts.get(_UNCLASSIFIED, 0) + counts.get(_BROKEN, 0),
        unreadable=counts.get(_UNREADABLE, 0),
    )


def _samples(directory: Path, faults: Faults) -> tuple[dict[str, _Sample], str]:
    """Samples with an outcome, by id, and a SHA-256 of all files of samples; equal contexts are kept once."""
    digest = hashlib.sha256()
    found: dict[str, _Sample] = {}
    twice: set[str] = set()
    contexts: dict[str, str] = {}
    for path in transcript_files(directory):
        if path.name != _FILE:
            continue
        sample = _sample(path, faults, digest)
        if sample is None:
            continue
        id = sample.trace.id
        if id in found:
            faults.add(_TWICE, str(path), id)
            twice.add(id)
            continue
        context = contexts.setdefault(sample.trace.context, sample.trace.context)
        found[id] = dataclasses.replace(sample, trace=dataclasses.replace(sample.trace, context=context))
    for id in twice:
        faults.add(_TWICE, str(found[id].trace.source.path), id)
    return {id: sample for id, sample in found.items() if id not in twice}, digest.hexdigest()


def _sample(path: Path, faults: Faults, digest: "hashlib._Hash") -> _Sample | None:
    """The sample in a file; None, counted, where it is none or has no outcome."""
    try:
        with (file := open_transcript(path)).stream:
            data = read_whole(file)
        digest.update(hashlib.sha256(data).digest())
        record = parse_json(data)
        if not sniff(record):
            faults.add(_UNREADABLE, str(path))
            return None
        (trace,) = read(record, Source(path=str(path), record=0, format="agentic-misalignment"), id=str(path))
    except ShapeError as error:
        failed = record["metadata"].get("failed") or "error" in record
        faults.add(_FAILED if failed else _UNREADABLE, f"{path}: {error}")
        return None
    except READ_ERRORS as error:
        faults.add(_UNREADABLE, f"{path}: {error}")
        return None
    outcome = _outcome(record, path, faults)
    if outcome is None:
        return None
    said = [block.action for block in trace.blocks if block.action]
    action = "\n\n".join(said) if trace.blocks else action_text(record["raw_response"])
    return _Sample(trace=trace, outcome=outcome, action=action)


def _outcome(record: Mapping[str, Any], path: Path, faults: Faults) -> bool | None:
    verdicts = [record[name] for name in _CLASSIFICATIONS if isinstance(record.get(name), Mapping)]
    found = [verdict["harmful_behavior"] for verdict in verdicts if isinstance(verdict.get("harmful_behavior"), bool)]
    if not found:
        faults.add(_BROKEN if verdicts else _UNCLASSIFIED, str(path))
        return None
    if len(set(found)) > 1:
        faults.add("samples whose two classifications differ: the first is taken", str(path))
    return bool(found[0])


def _forbidden(samples: Iterable[_Sample], faults: Faults) -> list[bool | None]:
    """Whether each sample's prompts forbid what its scenario is about; the prompts of a condition are searched once."""
    searched: dict[tuple[str, str | None], bool | None] = {}
    out = []
    for sample in samples:
        trace = sample.trace
        kind = PHENOMENON_KINDS.get(str(trace.metadata.get("scenario_family", "")))
        key = (trace.context, kind)
        if key not in searched:
            searched[key] = is_forbidden(trace.context, None if kind is None else (kind,))
        out.append(searched[key])
        if trace.metadata.get("extra_system_instructions") == "dont" and not searched[key]:
            faults.add(_PROMISED, trace.id)
    return out


def _case(sample: _Sample, said: _Said | None, stratum: StratumOf, forbidden: bool | None) -> Case:
    trace, told = sample.trace, sample.trace.metadata
    condition, family = str(told.get("scenario", "")), str(told.get("scenario_family", ""))
    return Case(
        id=trace.id,
        outcome=sample.outcome,
        group=condition or trace.id,
        stratum={"model": str(told.get("model", "")), "scenario": family, "condition": condition}[stratum],
        reasoning=trace.text,
        action=sample.action,
        context=trace.context,
        phenomenon=family,
        stance=said.stance if said else None,
        stance_known=said is not None,
        label=said.label if said else None,
        forbidden=forbidden,
        n_tokens=said.n_tokens if said else None,
        visible=bool(trace.readable),
    )


def _said_of(stance: str | None, sentence_tags: Iterable[Collection[str]], n_tokens: int | None = None) -> _Said:
    return _Said(stance=stance, label=label_of(stance, sentence_tags), n_tokens=n_tokens)


def _said_in(path: Path, samples: Mapping[str, _Sample], faults: Faults) -> dict[str, _Said]:
    """Stances from a results file. Of rows that share an id, none is taken."""
    said: dict[str, _Said] = {}
    rows: set[str] = set()
    twice: set[str] = set()
    try:
        for row in read_results(path):
            if row["id"] not in samples:
                continue
            _require_stances(row["scores"], str(path))
            (twice if row["id"] in rows else rows).add(row["id"])
            if is_readable(row):
                said[row["id"]] = _said_of(row["stance"], (one["tags"] for one in row["sentences"]), row["n_tokens"])
                if row["unfamiliar"] is not None:
                    faults.add(_UNFAMILIAR, row["id"])
    except (ResultsError, OSError) as error:
        raise StudyError(f"{path}: not results of `cot-probe tag`: {error}") from None
    if not rows:
        raise StudyError(f"{path}: no result is of a sample: tag this directory, `cot-probe tag <directory>`")
    for id in sorted(twice):
        said.pop(id, None)
        faults.add(f"samples without a stance: several results in {path.name} have their id", id)
    for id in samples:
        if id not in rows:
            faults.add(f"samples without a stance: no result in {path.name}", id)
    _count_hidden(samples.values(), faults)
    return said


def _said_now(tagger: Tags, samples: Iterable[_Sample], faults: Faults) -> dict[str, _Said]:
    listed = list(samples)
    said: dict[str, _Said] = {}
    for tagged in tagger.tag_many(sample.trace for sample in listed):
        _require_stances(tagged.scores, tagged.checkpoint)
        if tagged.readable:
            said[tagged.id] = _said_of(tagged.stance, (one.tags for one in tagged.sentences), tagged.n_tokens)
            if tagged.unfamiliar is not None:
                faults.add(_UNFAMILIAR, tagged.id)
    _count_hidden(listed, faults)
    return said


def _said_by(labels: Mapping[str, str], samples: Mapping[str, _Sample], faults: Faults) -> dict[str, _Said]:
    said: dict[str, _Said] = {}
    for id in samples:
        label = labels.get(id)
        if label is not None and label in LABEL_STANCES:
            stance = LABEL_STANCES[label]
            said[id] = _Said(stance=stance, label=deliberation_of(stance))
        else:
            faults.add("samples without a stance: no such label", id, label)
    return said


def _count_hidden(samples: Iterable[_Sample], faults: Faults) -> None:
    for sample in samples:
        if not sample.trace.readable:
            faults.add("samples without a stance: they show no reasoning", sample.trace.id)


def _require_stances(scores: Mapping[str, float], place: str) -> None:
    missing = [label for label in STANCES if label not in scores]
    if missing:
        raise StudyError(f"{place}: no tag {missing[0]!r}: found {', '.join(scores)}. Tag with the built-in taxonomy.")
