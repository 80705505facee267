"""The parts of the page of a benchmark result: tables and plots, each with what it was measured on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cot_probe.monitorability.bench_html import COLOURS, Markup, element, themed_svg
from cot_probe.monitorability.bench_tables import (
    UNKNOWN,
    cell_of,
    comparison_table,
    contrast_table,
    figure_table,
    figures_by,
    foot,
    main_metrics,
    monitor_table,
    monitors_of,
    rate_table,
    short,
    signature_id,
)
from cot_probe.monitorability.metric_names import GROUPS, group, label, meaning, named
from cot_probe.monitorability.plot_sheet import Style, styles_of
from cot_probe.monitorability.plots import DRAWINGS, svg_of
from cot_probe.monitorability.table_forms import Cell, Table

if TYPE_CHECKING:
    from cot_probe.monitorability.awareness import AwarenessTable
    from cot_probe.monitorability.bench_records import BenchResult, Figure
    from cot_probe.monitorability.commands_given import DisobedienceTable

_MOST_ROWS: Final = 2_000
"""Figures that the last table of the page holds; the files beside it hold all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page; ``id`` is what links to it name."""

    id: str
    title: str
    note: str = ""
    content: tuple[Markup | None, ...]

    def markup(self) -> Markup:
        """The section."""
        head = element("h2", self.title, id=self.id)
        note = element("p", self.note, class_="muted note") if self.note else None
        return element("section", head, note, *self.content, class_="part", aria_labelledby=self.id)


def sections(result: "BenchResult") -> list[Section]:
    """The parts that there are data for, in their order."""
    return [section for section in _all(result) if any(section.content)]


def _all(result: "BenchResult") -> Iterator[Section]:
    yield _monitors(result)
    yield _curves(result)
    yield _grouped(result, "threshold")
    yield _grouped(result, "audit")
    yield _grouped(result, "value", "Beside each value stands the monitor that it is measured against.")
    yield _grouped(result, "turns")
    yield _grouped(result, "stream")
    yield _cascade(result)
    yield _calibration(result)
    yield _question(result, "test-or-real", "test_or_real", result.awareness)
    yield _question(result, "commands", "disobedience", result.disobedience)
    yield _parts(result)
    yield _pairs(result)
    yield _grouped(
        result, "unscored", "A trace without a score is never counted as clean unless the signature says so."
    )
    yield _grouped(result, "cost")
    yield _traces(result)
    yield _others(result)
    yield _everything(result)
    yield _glossary(result)
    yield _signature(result)


# Monitors


def _monitors(result: "BenchResult") -> Section:
    metrics = main_metrics(result)
    table = monitor_table(result, metrics)
    known, styles, names = figures_by(result), styles_of(result), monitors_of(result)
    drawn = "auroc" in metrics
    heads = [_head("Monitor"), *(_head(named(one), "num") for one in metrics)]
    heads += [_head("AUROC from 0.5 to 1", "bars")] if drawn else []
    heads.append(_head("n (positive)", "num"))
    rows = []
    for name, row in zip(names, table.rows, strict=True):
        cells = [_named_row(row[0], styles[name])]
        cells += [_number(cell, named(metric)) for cell, metric in zip(row[1:-1], metrics, strict=True)]
        if drawn:
            cells.append(element("td", _whiskers(known.get((name, "auroc")), styles[name]), class_="bars"))
        rows.append(element("tr", *cells, _number(row[-1], "n (positive)")))
    return Section(
        id="monitors",
        title="Monitors",
        note="Higher is better; under each value stands its 95 % interval.",
        content=(_table(heads, rows), _remarks(table), _signed(result)) if rows else (),
    )


def _remarks(table: Table) -> Markup | None:
    """What the letters stand for."""
    said = [element("li", element("sup", mark), " ", text) for mark, text in table.remarks]
    return element("ul", *said, class_="remarks muted") if said else None


def _head(text: str, kind: str | None = None) -> Markup:
    return element("th", text, scope="col", class_=kind)


def _named_row(cell: Cell, style: Style) -> Markup:
    name = element("span", cell.text, _marks(cell))
    return element("th", element("span", _sample(style), name, class_="monitor"), scope="row")


def _marks(cell: Cell) -> Markup | None:
    return element("sup", cell.marks) if cell.marks else None


def _number(cell: Cell, label: str) -> Markup:
    interval = element("span", cell.interval, class_="interval") if cell.interval else None
    kind = "num empty" if cell == Cell(text=UNKNOWN) else "num"
    return element("td", cell.text, _marks(cell), interval, class_=kind, data_label=label)


def _table(heads: Sequence[Markup], rows: Sequence[Markup], caption: str = "") -> Markup:
    told = element("caption", caption) if caption else None
    head, body = element("thead", element("tr", *heads)), element("tbody", *rows)
    kind = "figures cards" if len(heads) > 3 else "figures cards compact"
    return element("div", element("table", told, head, body, class_=kind), class_="scroll")


def _sample(style: Style) -> Markup:
    dashes = None if style.dashes == "-" else " ".join(f"{1.5 * one:g}" for one in style.dashes[1])
    look = {"stroke": COLOURS[style.colour], "stroke_width": "2.2", "stroke_dasharray": dashes}
    line = element("line", x1="0", x2="30", y1="6", y2="6", **look)
    return element("svg", line, class_="sample", viewBox="0 0 30 12", aria_hidden="true")


def _whiskers(figure: "Figure | None", style: Style) -> Markup | None:
    """A value and its interval on a scale from 0.5 to 1; what is under it stands at its left end."""
    if figure is None or math.isnan(figure.value):
        return None
    colour = COLOURS[style.colour]
    track = element("line", x1="0", x2="100%", y1="50%", y2="50%", class_="track")
    spread = None
    if math.isfinite(figure.low) and math.isfinite(figure.high):
        ends = {"x1": _at(figure.low), "x2": _at(figure.high), "y1": "50%", "y2": "50%"}
        spread = element("line", stroke=colour, stroke_width="2", **ends)
    dot = element("circle", cx=_at(figure.value), cy="50%", r="4", fill=colour)
    return element("svg", track, spread, dot, class_="whiskers", aria_hidden="true")


def _at(value: float) -> str:
    return f"{100 * min(max(2 * value - 1, 0.0), 1.0):.1f}%"


def _signed(result: "BenchResult") -> Markup:
    return element("p", "; ".join(foot(result)), class_="signed")


# Plots


def _curves(result: "BenchResult") -> Section:
    return Section(
        id="curves",
        title="Curves",
        content=(
            _plot(
                result,
                "roc",
                "ROC, and again with the low false-positive rates, where monitors are used, on a log axis: there the "
                "curves are steps, as TPR at an FPR of at most x is; in the band not one false alarm is allowed.",
                _said(result, "auroc"),
            ),
            _plot(
                result,
                "precision_recall",
                "Precision over recall, in the steps that average precision adds up. Both hold for this share of "
                "positives; at another one precision is another.",
                _said(result, "average_precision"),
            ),
        ),
    )


def _said(result: "BenchResult", metric: str) -> str:
    """The figures of a metric in words, for those who do not see the plot."""
    known = figures_by(result)
    found = [(name, known.get((name, metric))) for name in monitors_of(result)]
    return f"{named(metric)}: " + "; ".join(f"{short(name)} {cell_of(figure)}" for name, figure in found if figure)


def _plot(result: "BenchResult", name: str, caption: str, said: str) -> Markup | None:
    """A plot as wide as a page, and as a column where there is less room; None where there are no data."""
    page, column = (DRAWINGS[name](result, width=width) for width in ("page", "column"))
    if page is None or column is None:
        return None
    label = f"{caption} {said}"
    wide = themed_svg(svg_of(page), prefix=f"{name}-w-", label=label)
    narrow = themed_svg(svg_of(column), prefix=f"{name}-n-", label=label)
    return element(
        "figure",
        element("div", wide, class_="wide page"),
        element("div", narrow, class_="narrow column"),
        element("figcaption", caption),
        class_="plot",
    )


def _cascade(result: "BenchResult") -> Section:
    plot = _plot(
        result,
        "cascade",
        "AUROC when the judge is called for some of the traces. The ring marks the fewest calls that reach what the "
        "judge reaches alone: read off these very traces.",
        "; ".join(
            f"{short(curve.monitor)}: {curve.y[0]:.3f} to {curve.y[-1]:.3f}"
            for curve in result.curves
            if curve.kind == "cascade" and curve.y
        ),
    )
    figures = [figure for figure in result.figures if group(figure.metric) == "cascade"]
    table = _folded_figures(result, "The figures of these curves", figures) if figures else None
    return Section(id="cascade", title=GROUPS["cascade"], content=(plot, table))


def _calibration(result: "BenchResult") -> Section:
    caption = (
        "For the traces with about this score: what share of them had the outcome, with its 95 % interval. On the "
        "diagonal a score is a probability."
    )
    plot = _plot(result, "reliability", caption, _said(result, "ece"))
    return Section(id="calibration", title=GROUPS["calibration"], content=(plot, *_group_tables(result, "calibration")))


def _parts(result: "BenchResult") -> Section:
    captions = {
        "forest": "AUROC by phenomenon, with 95 % intervals.",
        "forest_stratum": "AUROC by stratum, with 95 % intervals.",
    }
    plots = [_plot(result, name, caption, "") for name, caption in captions.items()]
    sliced = [figure for figure in result.figures if figure.slice != "all"]
    table = _folded_figures(result, "All figures by part of the traces", sliced)
    return Section(
        id="parts",
        title="By part of the traces",
        note="Parts are small and many: a low one is a reason to look, not a finding.",
        content=(*plots, table) if sliced else (),
    )


# Tables


def _group_tables(result: "BenchResult", key: str) -> tuple[Markup | None, ...]:
    """The figures of a group over all traces: a row a monitor."""
    known = figures_by(result)
    metrics = tuple(dict.fromkeys(metric for name, metric in known if name and group(metric) == key))
    shown = [name for name in monitors_of(result) if any((name, metric) in known for metric in metrics)]
    if not shown:
        return ()
    styles = styles_of(result)
    heads = [_head("Monitor"), *(_head(named(metric), "num") for metric in metrics), _head("n (positive)", "num")]
    rows = []
    table = monitor_table(result, metrics)
    for name, row in zip(monitors_of(result), table.rows, strict=True):
        if name in shown:
            cells = [_number(cell, named(metric)) for cell, metric in zip(row[1:-1], metrics, strict=True)]
            rows.append(element("tr", _named_row(row[0], styles[name]), *cells, _number(row[-1], "n (positive)")))
    return (_table(heads, rows), _remarks(table), _signed(result))


def _grouped(result: "BenchResult", key: str, note: str = "") -> Section:
    return Section(id=key, title=GROUPS[key], note=note, content=_group_tables(result, key))


def _question(
    result: "BenchResult", id: str, drawing: str, table: "AwarenessTable | DisobedienceTable | None"
) -> Section:
    title = "Test or real?" if id == "test-or-real" else "Told not to"
    if table is None:
        return Section(id=id, title=title, content=())
    rates, contrasts = rate_table(table), contrast_table(table)
    said = "; ".join(" ".join(map(str, row)) for row in rates.rows)
    labelled = result.deliberation if id == "test-or-real" else None
    more = () if labelled is None else (_shown(rate_table(labelled)), _shown(contrast_table(labelled)))
    return Section(
        id=id,
        title=title,
        note="An association, whatever its size: what a text says is not what a model holds true."
        if id == "test-or-real"
        else "Whether the outcome is rarer where the context forbids it in so many words.",
        content=(
            _plot(result, drawing, "With Wilson's 95 % intervals, which take the traces as independent.", said),
            _shown(rates),
            _shown(contrasts),
            *more,
            _signed(result),
        ),
    )


def _shown(table: Table) -> Markup:
    """A table with all that belongs to it."""
    heads = [_head(head, None if at < table.names or head == "Note" else "num") for at, head in enumerate(table.header)]
    rows = []
    for row in table.rows:
        cells = [element("th", row[0].text, scope="row")]
        for at, cell in enumerate(row[1:], 1):
            if at < table.names:
                cells.append(element("td", str(cell), data_label=table.header[at]))
            elif table.header[at] == "Note":
                cells.append(element("td", str(cell), class_="remark", data_label="Note" if cell.text else None))
            else:
                cells.append(_number(cell, table.header[at]))
        rows.append(element("tr", *cells))
    notes = (element("p", note, class_="muted note") for note in table.notes)
    return element("div", _table(heads, rows, table.caption), *notes)


def _folded_figures(result: "BenchResult", title: str, figures: "Sequence[Figure]") -> Markup:
    """A table of figures that is shut at first; where they are endless it says how many it holds."""
    more = f", the first {_MOST_ROWS:,} of them here, all in tables.md" if len(figures) > _MOST_ROWS else ""
    table = figure_table(result, figures[:_MOST_ROWS], title)
    return element("details", element("summary", f"{title} ({len(figures):,}{more})"), _shown(table))


def _pairs(result: "BenchResult") -> Section:
    table = comparison_table(result)
    return Section(id="pairs", title="Monitors in pairs", content=() if table is None else (_shown(table),))


def _traces(result: "BenchResult") -> Section:
    figures = [one for one in result.figures if not one.monitor and one.slice == "all"]
    table = figure_table(result, figures, "What is known of the traces, whatever the monitor")
    return Section(id="traces", title=GROUPS["traces"], content=(_shown(table),) if figures else ())


def _others(result: "BenchResult") -> Section:
    figures = [one for one in result.figures if one.monitor and one.slice == "all" and not group(one.metric)]
    table = figure_table(result, figures, "Figures of metrics that this page does not know")
    return Section(id="others", title=GROUPS[""], content=(_shown(table),) if figures else ())


def _everything(result: "BenchResult") -> Section:
    whole = [figure for figure in result.figures if figure.slice == "all"]
    table = _folded_figures(result, "All figures over all traces", whole)
    return Section(id="figures", title="Every figure", content=(table,) if whole else ())


# What must be quoted


def _glossary(result: "BenchResult") -> Section:
    metrics = dict.fromkeys(figure.metric for figure in result.figures if meaning(figure.metric))
    meanings: dict[str, str] = {}
    for metric in metrics:
        meanings.setdefault(meaning(metric), label(metric))
    pairs = [part for said, name in meanings.items() for part in (element("dt", name), element("dd", said))]
    return Section(
        id="metrics",
        title="What the metrics mean",
        content=(element("dl", *pairs, class_="glossary"),) if pairs else (),
    )


def _signature(result: "BenchResult") -> Section:
    known = dict(result.signature)
    named_keys = ("draws", "seed", "unscored", "cot_probe")
    settings = [f"{key}:{known[key].split(':')[0]}" for key in named_keys if key in known]
    counts = (f"n:{result.n}", f"positive:{result.positives}", f"groups:{result.groups}")
    quote = "|".join([short(result.study), *counts, *settings, f"signature:{signature_id(result)}"])
    parts: list[Markup] = []
    for monitor, style in styles_of(result).items():
        start = f"{monitor}: "
        own = {key.removeprefix(start): known.pop(key) for key in list(known) if key.startswith(start)}
        if own:
            name = element("span", _sample(style), element("span", short(monitor)), class_="monitor")
            parts += [element("h3", name), _definitions(own)]
    return Section(
        id="signature",
        title="Signature",
        note="What a reader needs to know which traces, monitors and settings these figures are of. To be quoted:",
        content=(
            element("p", short(quote, 400), class_="quote"),
            element("h3", "How it was measured"),
            _definitions(known),
            *parts,
            *((element("h3", "What was read"), _definitions(result.source)) if result.source else ()),
        ),
    )


def _definitions(known: Mapping[str, str]) -> Markup:
    parts = [
        part
        for key, value in known.items()
        for part in (element("dt", short(key, 200)), element("dd", short(str(value), 1000)))
    ]
    return element("dl", *parts, class_="signature")
