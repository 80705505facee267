"""cot_probe reads the reasoning of language models and tags it, sentence by sentence.

Importing this package loads next to nothing; a name is loaded when it is first used, torch with a tagger.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cot_probe.alerts import Alert, NotScored, SentenceScored
    from cot_probe.gate import Policy, Verdict, load_policy
    from cot_probe.monitor import AsyncMonitor, Monitor
    from cot_probe.sentences import Sentence, SentenceStream, split
    from cot_probe.tagger import TaggedSentence, TaggedTrace, Tagger, load_tagger
    from cot_probe.taxonomy import HARM_KINDS, SENTENCE_LABELS, TAGS, TAXONOMY_VERSION
    from cot_probe.transcripts import Block, Rejection, Source, Trace, read_path, traces_of

__version__ = "0.1.0"

__all__ = [
    "HARM_KINDS",
    "SENTENCE_LABELS",
    "TAGS",
    "TAXONOMY_VERSION",
    "Alert",
    "AsyncMonitor",
    "Block",
    "Monitor",
    "NotScored",
    "Policy",
    "Rejection",
    "Sentence",
    "SentenceScored",
    "SentenceStream",
    "Source",
    "TaggedSentence",
    "TaggedTrace",
    "Tagger",
    "Trace",
    "Verdict",
    "load_policy",
    "load_tagger",
    "read_path",
    "split",
    "traces_of",
]

_NAMES = {
    "alerts": ("Alert", "NotScored", "SentenceScored"),
    "gate": ("Policy", "Verdict", "load_policy"),
    "monitor": ("AsyncMonitor", "Monitor"),
    "sentences": ("Sentence", "SentenceStream", "split"),
    "tagger": ("TaggedSentence", "TaggedTrace", "Tagger", "load_tagger"),
    "taxonomy": ("HARM_KINDS", "SENTENCE_LABELS", "TAGS", "TAXONOMY_VERSION"),
    "transcripts": ("Block", "Rejection", "Source", "Trace", "read_path", "traces_of"),
}
"""The imports above once more, for running code: which module has which name."""
_HOMES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cot_probe' has no attribute {name!r}")
    value = getattr(import_module(f"cot_probe.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
