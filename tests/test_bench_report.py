"""The report of a benchmark: its page in a real browser, its tables read back by the tools they are made for.

The browser is the system's Chromium (``apt-get install chromium``), driven through Playwright; without one those
tests are skipped. LaTeX is compiled where there is a ``pdflatex``.
"""

import base64
import hashlib
import io
import math
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from bench_sample import ATTACKS, MONITORS, REFUSED, figure, figures, hostile, sample
from conftest import PATIENCE_MS
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, Page, expect
from rich.console import Console

from cot_probe.monitorability import plots
from cot_probe.monitorability.bench_html import Markup, element, joined, themed_svg
from cot_probe.monitorability.bench_report import page_of, write_report
from cot_probe.monitorability.bench_tables import (
    all_tables,
    comparison_table,
    contrast_table,
    digits,
    figure_table,
    foot,
    monitor_table,
    number,
    p_value,
    rate_table,
    signature_id,
    signed,
)
from cot_probe.monitorability.metric_names import METRICS, form, group, label, meaning, named
from cot_probe.monitorability.table_forms import Cell, for_latex, latex, markdown, printable, rich_table

RESULT = sample()


# Numbers and names


def test_numbers_are_written_for_readers():
    assert [number(value) for value in (0.93451, 1.0, 12.34, 1812.4, -0.02, -0.0001, math.nan, math.inf)] == [
        "0.935", "1.000", "12.3", "1,812", "−0.020", "0.000", "–", "∞",
    ]  # fmt: skip
    assert [signed(value) for value in (0.02, -0.02, 0.0, math.nan)] == ["+0.020", "−0.020", "0.000", "–"]
    assert [p_value(p) for p in (0.0004, 0.0213, 1.0, math.nan)] == ["<0.001", "0.021", "1.000", "–"]


def test_costs_and_ratios_keep_three_digits():
    assert [digits(value) for value in (0.00502, 0.65, 3.2, 16.54, 860.0, 1234.5, -2.0, math.inf, math.nan)] == [
        "0.00502", "0.650", "3.20", "16.5", "860", "1,234", "−2.00", "∞", "–",
    ]  # fmt: skip


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_reads_back_as_what_it_was_to_the_digits_shown(value: float):
    back = float(number(value).replace(",", "").replace("−", "-"))
    size = abs(value)
    assert abs(back - value) <= (0.0005001 if size < 10 else 0.0501 if size < 1000 else 0.501 + size * 1e-12)


@pytest.mark.parametrize(
    ("metric", "name", "where"),
    [
        ("auroc", "AUROC", "ranking"),
        ("tpr_at_fpr_0.001", "TPR at 0.1 % FPR", "ranking"),
        ("tpr_at_fpr_1e-05", "TPR at 0.001 % FPR", "ranking"),
        ("audit_recall_at_0.05", "Recall, top 5 % read", "audit"),
        ("monitoring_value_at_0.05", "Monitoring value at 5 % FPR", "value"),
        ("cascade_auroc_at_0.125", "Cascade AUROC at 12.5 % judge calls", "cascade"),
        ("transcript_tpr_at_turn_fpr_0.01", "Transcript TPR at 1 % turn FPR", "turns"),
        ("within_128", "Within 128 tokens", "stream"),
        ("auroc_2", "auroc 2", ""),
        ("house_metric", "house metric", ""),
    ],
)
def test_metrics_have_names_and_those_not_listed_keep_theirs(metric: str, name: str, where: str):
    assert (named(metric), group(metric)) == (name, where)
    assert bool(meaning(metric)) == bool(where)


def test_every_metric_that_a_bench_gives_is_listed():
    source = "".join(
        (resources.files("cot_probe.monitorability") / name).read_text("utf-8")
        for name in ("bench_figures.py", "bench_pairs.py")
    )
    keys = set(re.findall(r'figure\(\s*f?"([a-z_²]+?)(?:_at)?(?:_\{[^}]*\})?"', source))
    assert {"g_mean_squared", "outcome_rate", "monitoring_value"} <= keys
    assert keys <= set(METRICS), keys - set(METRICS)
    assert {form(key) for key in ("refused", "tokens")} == {"count"} and label("tpr_at_fpr_0.1") == "TPR at … FPR"


# Tables


def test_monitor_table_has_value_interval_n_and_remarks_once():
    table = monitor_table(RESULT)
    assert table.header[:2] == ("Monitor", "AUROC") and table.header[-1] == "n (positive)"
    ours, _, judge = table.rows
    assert ours[1] == Cell(text="0.900", interval="[0.850, 0.950]")
    assert ours[-1] == Cell(text="400", interval="(50)")
    assert dict(table.remarks)[judge[0].marks] == REFUSED, "what holds for the row stands at its name"
    assert [cell.marks for cell in judge[1:3]] == ["", ""]
    at = table.header.index("TPR at 0.1 % FPR")
    assert (
        dict(table.remarks)[ours[at].marks]
        == "this rate allows not one false alarm"
        == dict(table.remarks)[judge[at].marks]
    )
    assert len({text for _, text in table.remarks}) == len(table.remarks)
    own = monitor_table(RESULT, ("g_mean_squared", "true_positive_rate"))
    assert own.rows[0][2].interval == "[0.700, 0.800], n 50", "another n than the row's is told"
    assert own.rows[1][1] == Cell(text="–")


def test_every_figure_is_in_the_table_of_figures_with_all_that_belongs_to_it():
    table = figure_table(RESULT)
    assert len(table.rows) == len(RESULT.figures)
    rows = [[cell.text for cell in row] for row in table.rows]
    assert ["judge (reasoning + action)", "all", "Tokens", "1,812,000", "–", "400", "50", ""] in rows
    assert ["judge (reasoning + action)", "all", "Dollars a trace", "0.00502", "–", "400", "50", ""] in rows
    assert ["ours", "phenomenon: leak", "AUROC", "0.900", "[0.820, 0.980]", "200", "25", ""] in rows
    assert figure_table(RESULT, RESULT.figures[:1]).header[0] == "Metric", "columns that say nothing go"


def test_comparisons_and_contrasts():
    table = comparison_table(RESULT)
    assert table is not None
    assert [cell.text for cell in table.rows[0]] == [
        "ours", "keyword list", "AUROC", "+0.070", "<0.001", "0.012", "400", "812",
    ]  # fmt: skip
    assert table.rows[0][3].interval == "[+0.010, +0.130]"
    assert [table.rows[1][at].text for at in (3, 4, 7)] == ["−0.020", "–", "–"]
    assert RESULT.awareness is not None and RESULT.disobedience is not None
    rates = rate_table(RESULT.awareness)
    assert [str(cell) for cell in rates.rows[1]] == ["says it is real", "20 of 60", "33.3 [22.7, 45.9]"]
    effects = contrast_table(RESULT.awareness)
    found = RESULT.awareness.real_against_test
    assert effects.rows[0][1].text == "+25.8" and effects.rows[0][5].text == "100"
    assert float(effects.rows[0][3].text) == pytest.approx(found.contrast.odds.value, rel=0.005)
    assert [row[0].text for row in effects.rows] == [
        "real against test",
        "real against test, 30 whole groups",
        "real against test, within 3 strata",
        "test against neither",
        "real against neither",
    ]
    assert rate_table(RESULT.disobedience).rows[0][1].text == "10 of 160"


def test_every_table_closes_with_its_signature_which_moves_with_what_was_measured():
    for table in all_tables(RESULT).values():
        assert table.notes[-2:] == foot(RESULT) and signature_id(RESULT) in table.notes[-1]
    other = sample(signature=dict(RESULT.signature) | {"seed": "8"})
    assert signature_id(other) != signature_id(RESULT) == signature_id(sample())


def cells_of(text: str) -> tuple[list[list[str]], list[Any]]:
    """Cells of the tables of a Markdown text as GitHub would show them, and all tokens."""
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(text)
    rows: list[list[str]] = []
    for at, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and tokens[at - 1].type in ("th_open", "td_open"):
            rows[-1].append("".join(child.content for child in token.children or [] if child.type != "html_inline"))
    return rows, tokens


def test_markdown_shows_names_as_they_are():
    for result in (RESULT, hostile()):
        for name, table in all_tables(result).items():
            rows, tokens = cells_of(markdown(table))
            assert rows[0] == [" ".join(head.split()) for head in table.header], name
            for shown, row in zip(rows[1:], table.rows, strict=True):
                wanted = [f"{cell} {cell.marks}".strip() for cell in row]
                assert [" ".join(one.split()) for one in shown] == [" ".join(printable(one).split()) for one in wanted]
            children = [child for token in tokens for child in token.children or []]
            assert not {child.type for child in children} & {"link_open", "image", "code_inline", "em_open", "s_open"}
            assert {child.content for child in children if child.type == "html_inline"} <= {"<sup>", "</sup>"}


def test_latex_keeps_its_shape_whatever_the_names():
    for table in all_tables(hostile()).values():
        text = latex(table, label="tab:x")
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
        rows = [line for line in body.splitlines() if line.strip()]
        assert len(rows) == len(table.rows)
        for line in rows:
            stacks = re.sub(r"\\begin\{tabular\}.*?\\end\{tabular\}", "", line)
            assert len(re.findall(r"(?<!\\)&", stacks)) == len(table.header) - 1
        bare = re.sub(r"\\[\\{}]", "", text)
        assert bare.count("{") == bare.count("}")
        assert r"\input{" not in text
    with pytest.raises(ValueError, match="expected letters"):
        latex(monitor_table(RESULT), label="a}b")


@given(st.text(max_size=60))
def test_latex_leaves_no_character_with_a_meaning(text: str):
    escaped = for_latex(text)
    assert escaped.isascii() or all("À" <= char <= "ÿ" for char in escaped if not char.isascii())
    known = r"\\(?:textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar|ldots)\{\}|\\[&%$#_{}]|\{\}|\{`\}|\$(?:-|\\times|\\to|\\infty|\^2)\$"
    assert not set("\\&%$#_{}~^") & set(re.sub(known, "", escaped))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on the path")
def test_latex_compiles_with_booktabs_alone(tmp_path: Path):
    tables = [*all_tables(RESULT).values(), *all_tables(hostile()).values()]
    body = "\n\\clearpage\n".join(
        latex(table, label=f"tab:{at}") for at, table in enumerate(tables) if table.header[-1] != "Note"
    )
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + body + "\n\\end{document}\n"
    (tmp_path / "t.tex").write_text(document, "utf-8")
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "t.log").read_text("utf-8", "replace")


def test_terminal_table_has_no_codes_from_names():
    console = Console(width=300, record=True, color_system=None, file=io.StringIO())
    console.print(rich_table(monitor_table(hostile())))
    shown = console.export_text()
    assert not set("\x00\x1b\x7f\u202e\u2066") & set(shown)
    assert "[red]监视器[/] → judge" in shown, "no markup either"
    plain = Console(width=200, record=True, color_system=None, file=io.StringIO())
    plain.print(rich_table(monitor_table(RESULT)))
    assert "0.900 [0.850, 0.950]" in plain.export_text()


def test_elements_escape_all_but_markup():
    assert element("p", "a<b>&\"'", Markup("<i>c</i>"), None, title='"><x>') == (
        '<p title="&quot;&gt;&lt;x&gt;">a&lt;b&gt;&amp;&quot;&#x27;<i>c</i></p>'
    )
    assert joined("a ", " b", "\x00\u202e") == "a  b\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
    assert element("td", class_="num", hidden=False, data_label=None) == '<td class="num"></td>'
    assert not isinstance(Markup("<b>") + "<c>", Markup), "glued to text it is text again"


def test_a_plot_loses_its_styles_but_not_its_looks():
    svg = plots.svg_of(plots.roc(RESULT))  # type: ignore[arg-type]
    old = re.sub(r"font-size: ([\d.]+)px; font-family: [^;\"]*", r"font: \1px 'DejaVu Sans', sans-serif", svg)
    old = old.replace("font-weight: 700; font:", "font: 700")
    assert old != svg or " font: " in svg, "matplotlib before 3.10"
    for text in (svg, old):
        themed = themed_svg(text, prefix="p-", label="<what>")
        assert "style=" not in themed and "#1b4f93" not in themed and "&lt;what&gt;" in themed
        assert {"var(--series-0)", "var(--ink)", "var(--muted)"} <= set(re.findall(r"var\(--[\w-]+\)", themed))
        assert len(re.findall(r"<text [^>]*font-size=\"[\d.]+px\"", themed)) == themed.count("<text ")
        assert 'font-weight="700"' in themed
        assert set(re.findall(r'id="([^"]+)"', themed)) == set(re.findall(r'(?:url\(#|href="#)([\w-]+)', themed))


# The page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "report.html"
    out.write_text(page_of(RESULT), "utf-8")
    return out


def test_write_report_puts_page_tables_and_plots_in_one_folder(tmp_path: Path):
    drawings = ("roc", "test_or_real")
    roc = tuple(curve for curve in RESULT.curves if curve.kind == "roc")
    known = tuple(one for one in RESULT.figures if one.slice == "all")
    some = sample(curves=roc, figures=known, disobedience=None)
    written = write_report(some, tmp_path / "deep" / "bench")
    names = {
        path.relative_to(tmp_path / "deep" / "bench").as_posix()
        for path in (tmp_path / "deep").rglob("*")
        if path.is_file()
    }
    assert names == {"report.html", "tables.md", "tables.tex"} | {
        f"plots/{name}{end}.{kind}" for name in drawings for end in ("", "_column") for kind in ("png", "svg")
    }
    assert len(written.plots) == 8 and written.page.name == "report.html"
    first = {path: path.read_bytes() for path in (written.page, *written.tables)}
    write_report(some, tmp_path / "deep" / "bench")
    assert {path: path.read_bytes() for path in first} == first, "two runs give the same files"
    assert "Tokens" in (written.tables[0]).read_text("utf-8"), "the Markdown has every figure"


def test_without_matplotlib_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(plots.PlotError):
        write_report(RESULT, tmp_path / "bench")
    assert not (tmp_path / "bench").exists()


def test_the_policy_admits_this_script_and_style_alone(report: Path):
    page = report.read_text("utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    for kind, tag in (("script-src", '<script type="module">'), ("style-src", "<style>")):
        (content,) = re.findall(re.escape(tag) + r"(.*?)</", page, flags=re.DOTALL)
        assert directives[kind] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert directives["default-src"] == "'none'" and "unsafe" not in policy
    assert re.findall(r"https?://[^\"'\s]*", page) == [], "no address at all"
    assert not re.findall(r"<[^>]*\s(?:style|on\w+|src)=", page), "nothing that the policy would have to refuse"


def test_every_figure_over_all_traces_stands_on_the_page(report: Path):
    import html

    page = html.unescape(report.read_text("utf-8"))
    for one in RESULT.figures:
        assert named(one.metric) in page and f">{one.n:,}<" in page, one
    assert page.count(signature_id(RESULT)) > 20, "under every table and plot"
    for wanted in ("9f" * 32, "3c" * 32, "Mail agents|n:400|positive:50|groups:30|draws:1000|seed:7|unscored:alarm"):
        assert wanted in page


def test_a_page_of_little_says_what_it_lacks():
    few = sample(n=30, positives=3, figures=figures(), curves=(), comparisons=(), awareness=None, disobedience=None)
    page = page_of(few)
    assert "Only 3 traces with the outcome: rates move in steps of 33 points." in page
    assert 'id="test-or-real"' not in page and 'id="curves"' not in page
    empty = page_of(
        sample(n=0, positives=0, groups=0, figures=(), curves=(), comparisons=(), awareness=None, disobedience=None)
    )
    assert "0 traces, 0 with misbehaviour, in 0 groups; 0 monitors." in empty


def test_endless_figures_are_counted_and_bounded(monkeypatch: pytest.MonkeyPatch):
    from cot_probe.monitorability import bench_sections

    monkeypatch.setattr(bench_sections, "_MOST_ROWS", 5)
    many = tuple(figure("ours", "auroc", 0.5, slice=f"phenomenon={at}") for at in range(9))
    page = page_of(sample(figures=many, curves=(), awareness=None, disobedience=None))
    assert "All figures by part of the traces (9, the first 5 of them here, all in tables.md)" in page


def test_a_real_bench_has_a_report(tmp_path: Path):
    import numpy as np

    from cot_probe.monitorability.bench import BenchOptions, bench
    from cot_probe.monitorability.study import Case, Study, monitor_of

    rng = np.random.default_rng(0)
    cases = tuple(
        Case(
            id=str(at),
            outcome=bool(rng.random() < 0.3),
            group=f"g{at % 20}",
            phenomenon=("leak", "lie")[at % 2],
            stance=("test", "real", None)[at % 3],
            stance_known=True,
            forbidden=bool(at % 2),
            legibility=float(at % 5),
        )
        for at in range(80)
    )
    scores = [float(min(max(rng.normal(0.3 + 0.3 * case.outcome, 0.2), 0), 1)) for case in cases]
    first = monitor_of("ours", scores, signature={"checkpoint": "c@1"}, threshold=0.5)
    judge = monitor_of("judge", ["refused", *scores[1:]], signature={"judge": "j"}, dollars=0.4)
    study = Study(name="a study", cases=cases, monitors=(first, judge))
    result = bench(study, BenchOptions(draws=20, permutations=20))
    page = page_of(result)
    for id in ("monitors", "curves", "threshold", "audit", "cascade", "calibration", "test-or-real", "commands",
               "parts", "pairs", "unscored", "cost", "traces", "figures", "metrics", "signature"):  # fmt: skip
        assert f'id="{id}"' in page, id
    assert 'id="others"' not in page, "every metric of ours has a place"


# In the browser


def show(browser: Browser, path: Path, **options: Any) -> tuple[Page, list[str]]:
    """The page, and what it did that it should not: errors, dialogs, requests."""
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options).new_page()
    page.set_default_timeout(PATIENCE_MS)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.on("request", lambda request: faults.append(request.url) if request.resource_type != "document" else None)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    return page, faults


_CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (colour, under) => {
    canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (channels) => channels.map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const paper = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "white";
  };
  const low = [];
  for (const node of document.querySelectorAll("main :is(p, td, th, dt, dd, li, a, span, h1, h2, h3, sup, summary, caption, text)")) {
    if (!node.checkVisibility() || ![...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim())) continue;
    const style = getComputedStyle(node);
    const under = paper(node);
    const ink = node.tagName === "text" ? style.fill : style.color;
    const [a, b] = [rgb(ink, under), rgb(under, "white")].map(luminance).sort((x, y) => x - y);
    if ((b + 0.05) / (a + 0.05) < 4.5) low.push(node.textContent.trim().slice(0, 40));
  }
  return low;
}"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window_and_can_be_read_in_light_and_dark(browser: Browser, report: Path, width: int, scheme: str):
    page, faults = show(browser, report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert (max(page.evaluate(paper)) < 60) == (scheme == "dark")
    assert page.evaluate(_CONTRAST) == []
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = page.locator(".plot svg").evaluate_all("all => all.filter((one) => one.checkVisibility()).length")
    assert shown == page.locator(".plot").count() >= 7, "each plot once, in the width that fits"
    line = page.locator("#curves ~ .plot svg path[stroke='var(--series-0)']").first
    wide = {"light": "rgb(27, 79, 147)", "dark": "rgb(135, 201, 255)"}
    assert line.evaluate("node => getComputedStyle(node).stroke") == wide[scheme]
    for theme in ("light", "dark"):
        page.get_by_role("button", name="Theme").click()
        assert page.locator("#theme").inner_text() == f"Theme: {theme}"
        assert (max(page.evaluate(paper)) < 60) == (theme == "dark")
        assert line.evaluate("node => getComputedStyle(node).stroke") == wide[theme]
    assert faults == []
    page.context.close()


def test_hostile_text_is_shown_and_does_nothing(browser: Browser, tmp_path: Path):
    out = tmp_path / "report.html"
    out.write_text(page_of(hostile()), "utf-8")
    page, faults = show(browser, out)
    shown = page.locator("main").inner_text()
    for attack in ATTACKS:
        assert " ".join(printable(attack).split())[:60] in " ".join(shown.split()), attack
    assert page.evaluate("typeof window.pwned") == "undefined"
    assert (
        page.locator(
            "main script, main img, main iframe, main [onload], main [onmouseover], main foreignObject"
        ).count()
        == 0
    )
    assert not set("\u2028\u202e\u2066\x00\x1b\x7f") & set(page.content())
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert faults == []
    refused = page.evaluate(
        "() => { try { document.body.innerHTML = '<p>'; return 'done' } catch (error) { return error.name } }"
    )
    assert refused == "TypeError", "trusted types hold"
    page.context.close()


def test_parts_are_linked_named_and_told_to_those_who_do_not_see(browser: Browser, report: Path):
    page, faults = show(browser, report)
    links = page.locator(".contents a").evaluate_all("all => all.map((one) => one.getAttribute('href'))")
    assert links == page.locator("section.part h2").evaluate_all("all => all.map((one) => `#${one.id}`)")
    assert page.locator("[id]").evaluate_all("all => all.length - new Set(all.map((one) => one.id)).size") == 0
    broken = page.evaluate(
        "() => [...document.querySelectorAll('svg use, svg [clip-path]')].map((one) =>"
        " (one.getAttribute('href') ?? one.getAttribute('clip-path').slice(4, -1)).slice(1))"
        ".filter((id) => !document.getElementById(id))"
    )
    assert broken == []
    labels = page.locator(".plot svg").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    assert all(labels) and f"AUROC: {MONITORS[0]} 0.900 [0.850, 0.950]" in labels[0]
    heads = page.locator("table.figures thead th:not([scope=col]), table.figures tbody th:not([scope=row])").count()
    assert heads == 0 and page.locator("html[lang=en]").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert faults == []
    page.context.close()


def test_it_reads_without_its_script_and_prints(browser: Browser, report: Path):
    page = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 800}).new_page()
    page.goto(report.as_uri())
    expect(page.get_by_role("heading", name="Monitors in pairs")).to_be_visible()
    assert not page.locator("#theme").is_visible()
    page.emulate_media(media="print")
    assert not page.locator(".bar").is_visible() and page.locator(".plot .wide svg").first.is_visible()
    page.context.close()
