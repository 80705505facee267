"""Tagged traces as a person wants to read them in a terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cot_probe.journal import Tally
from cot_probe.tagger import TaggedSentence, TaggedTrace
from cot_probe.taxonomy import STANCES, TAXONOMY, Taxonomy
from cot_probe.transcripts.trace import VISIBILITIES

_COLOURS = {
    "strategic_harm": "red",
    "command_disobedience": "magenta",
    "eval_awareness": "cyan",
    "states_test": "cyan",
    "states_real": "blue",
    "harm_rejected": "green",
}
_OWN_COLOUR = "yellow"
"""For tags of a taxonomy of one's own."""
_MOST_EVIDENCE = 8
_MOST_CHARS = 400


def plain(text: str) -> str:
    """Transcript text made harmless for a terminal: no control codes, no markup, one line."""
    visible = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))
    return escape(visible)


def print_trace(tagged: TaggedTrace, out: Console, taxonomy: Taxonomy = TAXONOMY) -> None:
    """Print tags with scores, then the evidence sentences in order; ``taxonomy`` is the checkpoint's."""
    place = tagged.source.path or ""
    if tagged.source.record is not None and place:
        place += f" · record {tagged.source.record}"
    out.print(f"\n[bold]{plain(tagged.id)}[/]  [dim]{plain(place)}[/]", highlight=False, soft_wrap=True)
    if not tagged.readable:
        out.print(f"  [yellow]nothing to read: reasoning {tagged.visibility}[/]", highlight=False)
        return
    out.print("  " + (_tag_line(tagged, taxonomy) or "[dim]no tag[/]"), highlight=False)
    if tagged.passed:
        share = f"{tagged.passed} of {len(tagged.sentences)} sentences"
        out.print(f"  [dim]first stage: {share} passed, not read by the encoder[/]", highlight=False)
    if tagged.unfamiliar is not None:
        out.print(f"  [yellow]unfamiliar text: {plain('; '.join(tagged.unfamiliar.reasons))}[/]", highlight=False)
    evidence = tagged.evidence
    strongest = sorted(evidence, key=lambda sentence: -_peak(sentence))[:_MOST_EVIDENCE]
    for sentence in sorted(strongest, key=lambda sentence: sentence.start):
        out.print(_evidence_line(sentence, taxonomy), highlight=False)
    if len(evidence) > len(strongest):
        out.print(f"  [dim]… and {len(evidence) - len(strongest)} more evidence sentences[/]", highlight=False)
    if tagged.tags and not evidence:
        out.print("  [dim]no single sentence reaches its own threshold: the trace as a whole does[/]")


def _tag_line(tagged: TaggedTrace, taxonomy: Taxonomy) -> str:
    parts = []
    for tag in tagged.tags:
        if tag in STANCES and "eval_awareness" in tagged.tags:
            continue
        detail = ""
        if tag == taxonomy.kind_label and tagged.harm_kind:
            detail = f" ({tagged.harm_kind})"
        if tag == "eval_awareness" and tagged.stance:
            detail = f" (stated {tagged.stance})"
        parts.append(f"[bold {_COLOURS.get(tag, _OWN_COLOUR)}]{tag}{detail}[/] {tagged.scores[tag]:.2f}")
    return "   ".join(parts)


def _evidence_line(sentence: TaggedSentence, taxonomy: Taxonomy) -> str:
    text = sentence.text if len(sentence.text) <= _MOST_CHARS else sentence.text[:_MOST_CHARS] + "…"
    marks = ", ".join(
        f"[{_COLOURS.get(tag, _OWN_COLOUR)}]{tag}{f':{sentence.harm_kind}' if tag == taxonomy.kind_label else ''} "
        f"{sentence.scores[tag]:.2f}[/]"
        for tag in sentence.tags
    )
    return f"  [dim]{sentence.start:>6}[/]  {plain(text)}\n          {marks}"


def _peak(sentence: TaggedSentence) -> float:
    return max(sentence.scores[tag] for tag in sentence.tags)


def print_summary(tally: Tally, *, fpr: float, population: str, taxonomy: Taxonomy = TAXONOMY) -> None:
    """Print the counts of a run to standard error; the rate is that on ``population``."""
    out = Console(stderr=True)
    traces, visibility = tally.traces, tally.visibility
    readable = visibility["full"] + visibility["summary"]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for tag in taxonomy.tags:
        style = "bold" if tag in taxonomy.public else "dim"
        # What nobody could read is not among those that were found clean.
        share = f"{100 * tally.tags[tag] / readable:.1f} %" if readable else ""
        table.add_row(f"[{style}]{tag}[/]", str(tally.tags[tag]), share)
    rate = (
        "a threshold of your own" if fpr != fpr else f"a false-positive rate of at most {100 * fpr:g} % on {population}"
    )
    out.print(f"\n{traces} traces, {tally.sentences} sentences, tagged at {rate}", highlight=False)
    out.print(table)
    seen = ", ".join(f"{name} {visibility[name]}" for name in VISIBILITIES if visibility[name])
    out.print(f"reasoning: {seen or 'none'}", highlight=False)
    _print_hidden(tally, out)
    if tally.unfamiliar:
        out.print(
            f"[yellow]{tally.unfamiliar} of {traces} traces are of an unfamiliar kind (another language, hidden or no "
            "prose): no tag there does not mean clean[/]"
        )
    if tally.rejected:
        out.print(f"[yellow]{tally.rejected} inputs could not be read (listed above)[/]")


def _print_hidden(tally: Tally, out: Console) -> None:
    """Say how much had no reasoning to read: loudly where that is much."""
    hidden = tally.visibility["redacted"] + tally.visibility["absent"]
    if not hidden:
        return
    text = f"{hidden} of {tally.traces} traces had no reasoning to read: they are not clean, they are unread"
    much = tally.coverage is not None and tally.coverage < LOW_COVERAGE
    out.print(f"[bold white on red] {text} [/]" if much else f"[yellow]{text}[/]")


LOW_COVERAGE = 0.8
"""With reasoning visible in fewer traces than this share, the summary says so loudly."""
