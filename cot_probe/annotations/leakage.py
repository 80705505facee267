"""Leakage check: can the tags be told from the surface of a trace, without reading it?

A classifier sees only what has nothing to do with the matter: length, sentence length,
punctuation, capitals, digits, line breaks, lists and code marks, the class of the first word,
the length of the context. Its AUROC under cross-validation by scenario should be near 0.5. Where it
is not, writers have given the label away by their habits, and a model can learn these instead.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold

from cot_probe.annotations.records import AnnotatedTrace
from cot_probe.monitorability.metrics import auroc, estimate
from cot_probe.sentences import split
from cot_probe.taxonomy import TRACE_LABELS

_MARKS: Final = ",.;:?!-–—…()[]{}\"'“”«»*#`/_=<>%&+|"
_OPENINGS: Final = (
    "okay ok so hmm wait let let's i i'll i'm we the first now right alright need user system this that it "
    "there what looking checking reading read step task two three from on in to a an no not"
).split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """Names and values of the surface features, ``(n_traces, n_features)``."""

    names: tuple[str, ...]
    values: NDArray[np.float64]

    def part(self, prefix: str) -> NDArray[np.float64]:
        """The columns whose name begins with the prefix."""
        return self.values[:, [name.startswith(prefix) for name in self.names]]


def surface(records: Sequence[AnnotatedTrace]) -> Surface:
    """Surface features of each trace and its context."""
    rows = [_features(record.text, "text") | _context(record.context) for record in records]
    names = tuple(rows[0])
    return Surface(names=names, values=np.array([[row[name] for name in names] for row in rows], dtype=np.float64))


def _features(text: str, prefix: str) -> dict[str, float]:
    words = text.split()
    lengths = [len(sentence.text.split()) for sentence in split(text)] or [0]
    per = 1 / max(1, len(text))
    found = {
        "words": len(words),
        "sentences": len(lengths),
        "sentence length, mean": float(np.mean(lengths)),
        "sentence length, spread": float(np.std(lengths)),
        "longest sentence": max(lengths),
        "word length": sum(map(len, words)) / max(1, len(words)),
        "distinct words": len({w.lower() for w in words}) / max(1, len(words)),
        "capitals": sum(c.isupper() for c in text) * per,
        "digits": sum(c.isdigit() for c in text) * per,
        "lines": text.count("\n") * per,
        "blank lines": text.count("\n\n") * per,
        "list items": len(re.findall(r"^\s*(?:[-*•]|\d+[.)])\s", text, re.MULTILINE)) * per,
        "not ASCII": sum(not c.isascii() for c in text) * per,
        "ends with a full stop": float(text.rstrip().endswith(".")),
    }
    found |= {f"mark {mark}": text.count(mark) * per for mark in _MARKS}
    first = re.match(r"\W*([\w']+)", text.lower())
    found |= {f"opens with {word}": float(first is not None and first[1] == word) for word in _OPENINGS}
    return {f"{prefix}: {name}": float(value) for name, value in found.items()}


def _context(context: str) -> dict[str, float]:
    return {
        "context: words": float(len(context.split())),
        "context: sentences": float(len(split(context))),
        "context: lines": float(context.count("\n")),
        "context: digits": sum(c.isdigit() for c in context) / max(1, len(context)),
    }


def cross_validated(
    values: NDArray[np.float64], labels: NDArray[np.bool_], groups: Sequence[str], *, folds: int = 5, seed: int = 0
) -> NDArray[np.float64]:
    """Scores of a boosted-trees classifier for each trace, fitted without its scenario, ``(n,)``."""
    scores = np.zeros(len(labels))
    for train, held in GroupKFold(folds, shuffle=True, random_state=seed).split(values, labels, groups):
        model = HistGradientBoostingClassifier(max_iter=100, learning_rate=0.05, min_samples_leaf=10, random_state=seed)
        scores[held] = model.fit(values[train], labels[train]).predict_proba(values[held])[:, 1]
    return scores


def leakage_table(records: Sequence[AnnotatedTrace], *, draws: int = 500, seed: int = 0) -> str:
    """AUROC of the surface classifier per trace label, as Markdown, with intervals by scenario."""
    features = surface(records)
    groups = [record.group for record in records]
    parts = (("text and context", ""), ("text", "text: "), ("first word", "text: opens"), ("context", "context: "))
    lines = [
        f"{len(records)} traces, {len(set(groups))} scenarios; AUROC of boosted trees on surface features, "
        "five folds by scenario, 95 % interval by bootstrap over scenarios",
        "",
        "| label | " + " | ".join(name for name, _ in parts) + " |",
        "|---|" + "---|" * len(parts),
    ]
    for label in TRACE_LABELS:
        wanted = np.array([label in record.trace for record in records])
        cells = []
        for _, prefix in parts:
            scores = cross_validated(features.part(prefix), wanted, groups, seed=seed)
            cells.append(str(estimate(auroc, scores, wanted, groups, draws=draws)))
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def telling_features(records: Sequence[AnnotatedTrace], label: str, *, top: int = 8) -> list[tuple[str, float]]:
    """Single features that tell most about a label: name and AUROC, farthest from 0.5 first."""
    features = surface(records)
    wanted = np.array([label in record.trace for record in records])
    ones = np.ones(len(wanted))
    found = [(name, auroc(features.values[:, at], wanted, ones)) for at, name in enumerate(features.names)]
    return sorted(found, key=lambda pair: -abs(pair[1] - 0.5))[:top]
