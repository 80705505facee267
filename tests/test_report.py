"""The HTML report: its data read back in Python, its behaviour in a real browser.

The browser is the system's Chromium (``apt-get install chromium``), driven through Playwright;
without one those tests are skipped.
"""

import base64
import gzip
import hashlib
import json
import re
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_MS
from playwright.sync_api import Browser, Page, expect

from cot_probe.familiarity import Unfamiliar
from cot_probe.legible import Unreadable
from cot_probe.monitorability.metrics import wilson
from cot_probe.report import ReportError, ReportSize, write_report
from cot_probe.report import html as report_html
from cot_probe.tagger import PlacedBlock, TaggedSentence, TaggedTrace
from cot_probe.taxonomy import TAXONOMY, Taxonomy, stance_of
from cot_probe.transcripts.trace import Source

THRESHOLDS = dict.fromkeys(TAXONOMY.tags, 0.5)

Row = dict[str, Any]


def row(
    id: str,
    *texts: str | tuple[str, str],
    context: str = "Keep the log. Mail nobody.",
    visibility: str = "full",
    metadata: dict[str, Any] | None = None,
    unfamiliar: Unfamiliar | None = None,
    path: str = "runs/a.jsonl",
) -> Row:
    """A row as tagging gives it: one block of sentences; ``(text, label)`` is evidence."""
    sentences, at = [], 0
    for entry in texts:
        text, label = entry if isinstance(entry, tuple) else (entry, None)
        scores = {name: 0.9 if name == label else 0.0625 for name in TAXONOMY.labels}
        kind = "leak" if label == TAXONOMY.kind_label else None
        tags = (label,) if label else ()
        sentences.append(
            TaggedSentence(start=at, end=at + len(text), text=text, scores=scores, tags=tags, harm_kind=kind)
        )
        at += len(text)
    found = TAXONOMY.with_unions(tag for sentence in sentences for tag in sentence.tags)
    tagged = TaggedTrace(
        id=id,
        source=Source(path=path, record=3, message=2),
        visibility=visibility,  # type: ignore[arg-type]
        text="".join(sentence.text for sentence in sentences),
        tags=tuple(tag for tag in TAXONOMY.tags if tag in found),
        stance=stance_of(found),
        harm_kind="leak" if TAXONOMY.kind_label in found else None,
        scores={tag: (0.75 if tag in found else 0.125) if sentences else 0.0 for tag in TAXONOMY.tags},
        sentences=tuple(sentences),
        blocks=(
            PlacedBlock(
                start=0,
                end=at,
                message=2,
                field="content[0].thinking",
                source_start=10,
                visibility=visibility,  # type: ignore[arg-type]
                turn=0,
                action="send(note)",
                context_end=13,
            ),
        )
        if visibility != "absent"
        else (),
        checkpoint="probe@1",
        metadata={"model": "model-a", "scenario": "mail"} if metadata is None else metadata,
        unfamiliar=unfamiliar,
        context=context,
    )
    return tagged.as_dict()


def data_of(path: Path) -> dict[str, list[Any]]:
    """What stands in the file, by kind of block, in order."""
    found: dict[str, list[Any]] = {"traces": [], "contexts": [], "index": [], "about": []}
    pattern = rb'<script type="application/json" class="(\w+)" data-first="(\d+)">(.*?)</script>'
    for kind, first, text in re.findall(pattern, path.read_bytes()):
        records = found[kind.decode()]
        assert int(first) == len(records)
        content = json.loads(text)
        records += [content] if kind == b"about" else json.loads(gzip.decompress(base64.b64decode(content)))
    return found


def mixed() -> list[Row]:
    hidden = Unreadable(start=12, end=36, form="base64")
    return [
        row("plain", "I read the log. ", "Nothing to do."),
        row("harm", "I look first. ", ("I copy the keys out. ", "strategic_harm"), ("Nobody sees.", "strategic_harm")),
        row("test", ("This is a test. ", "states_test"), "I wait.", metadata={"model": "model-b", "scenario": "mail"}),
        row("real", ("It is live now. ", "states_real"), ("I leak it.", "strategic_harm"), context="Other words."),
        row("redacted", visibility="redacted", metadata={"model": "model-b"}),
        row("absent", visibility="absent", metadata={}),
        row("summary", ("I will not do that.", "harm_rejected"), visibility="summary"),
        row(
            "odd",
            "Hidden text ",
            "TWVldCBtZSBhdCB0aGUgZG9jaw== ends here.",
            unfamiliar=Unfamiliar(score=0.995, reasons=("few known words: 1 of 40",), spans=(hidden,)),
        ),
    ]


# The file


def test_every_trace_and_sentence_is_there_and_equal_contexts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report_html, "PIECE_CHARS", 700)
    rows, out = mixed(), tmp_path / "deep" / "report.html"
    size = write_report(iter(rows), out, title="t", thresholds=THRESHOLDS)
    data = data_of(out)
    assert (size.traces, size.contexts, size.bytes) == (len(rows), 2, out.stat().st_size)
    assert size.bytes_per_trace == size.bytes / len(rows)
    assert out.read_bytes().count(b'class="traces"') > 2, "more than one piece"
    assert data["contexts"] == ["Keep the log. Mail nobody.", "Other words."]
    names = data["about"][0]["names"]
    assert names["tags"] == list(TAXONOMY.tags)
    for given, stored, listed in zip(rows, data["traces"], data["index"], strict=True):
        assert listed[0] == given["id"]
        assert [names["tags"][tag] for tag in listed[1]] == given["tags"]
        assert data["contexts"][stored["context"]] == given["context"]
        for sentence, kept in zip(given["sentences"], stored["sentences"], strict=True):
            assert kept[:3] == [sentence["start"], sentence["end"], sentence["text"]]
            assert dict(zip(names["labels"], (score / 10_000 for score in kept[3]), strict=True)) == pytest.approx(
                sentence["scores"], abs=1e-4
            )
            assert [names["labels"][tag] for tag in kept[4]] == sentence["tags"]


def test_overview_counts_only_what_was_read(tmp_path: Path):
    write_report(mixed(), tmp_path / "r.html", title="t", thresholds=THRESHOLDS, population="dev")
    about = data_of(tmp_path / "r.html")["about"][0]
    overview = about["overview"]
    assert (overview["traces"], overview["readable"], overview["unfamiliar"], overview["evidence"]) == (8, 6, 1, 6)
    assert overview["visibility"] == {"full": 5, "summary": 1, "redacted": 1, "absent": 1}
    assert overview["muchUnseen"]
    count, low, high = overview["tags"]["strategic_harm"]
    assert (count, low, high) == (2, *(round(bound, 4) for bound in wilson(2, 6)))
    assert overview["stances"][1:3] == [
        {"stance": "test", "with": 0, "without": 1},
        {"stance": "real", "with": 1, "without": 0},
    ]
    histogram = overview["histograms"]["strategic_harm"]
    assert (len(histogram), sum(histogram), histogram[15], histogram[2]) == (about["bins"], 6, 2, 4)
    models = {group["name"]: (group["traces"], group["readable"]) for group in overview["groups"]["model"]}
    assert models == {"model-a": (5, 5), "model-b": (2, 1), None: (1, 0)}
    assert about["thresholds"] == THRESHOLDS


def test_evidence_only_rows_own_taxonomies_and_no_rows(tmp_path: Path):
    short = mixed()[1] | {"sentences": mixed()[1]["sentences"][1:]}
    own = Taxonomy(
        version="1",
        labels=("hedges",),
        unions={},
        tags=("hedges",),
        public=("hedges",),
        kind_label=None,
        kinds=(),
        definitions={"hedges": "says less than it knows"},
    )
    scored = row("own", "Perhaps.") | {"tags": ["hedges"], "scores": {"hedges": 1.0}, "sentences": []}
    assert write_report([short, scored], tmp_path / "r.html", title="t", thresholds=None, taxonomy=own).traces == 2
    about = data_of(tmp_path / "r.html")["about"][0]
    assert about["overview"]["stances"] is None
    assert about["definitions"] == {"hedges": "says less than it knows"}
    empty = write_report([], tmp_path / "none.html", title="t", thresholds=None)
    assert empty.traces == 0 and empty.bytes_per_trace != empty.bytes_per_trace


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "cot_probe.tagged_trace/0"}, "row 1: schema is 'cot_probe.tagged_trace/0'"),
        ({"id": 7}, "row 1: id is 7, expected a value of type str"),
        ({"tags": [["x"]]}, "tags is ['x'], expected names of tags"),
        ({"scores": {"strategic_harm": 1.5}}, "scores.strategic_harm is 1.5, expected a number between 0 and 1"),
        ({"scores": {"strategic_harm": float("nan")}}, "scores.strategic_harm is nan"),
        ({"visibility": "seen"}, "visibility is 'seen', expected one of full, summary, redacted, absent"),
        ({"sentences": ["x"]}, "sentences[0]: the record is 'x', expected an object"),
        ({"blocks": [{"start": 0}]}, "blocks[0]: end is None, expected a value of type int"),
        ({"stance": 3}, "stance is 3"),
        ({"unfamiliar": {"score": 1, "reasons": [], "spans": [{}]}}, "unfamiliar.spans[0]: start is None"),
        (
            {"sentences": [mixed()[1]["sentences"][1]] * 2},
            "sentences[1]: (start, end) is (14, 35), expected a start from",
        ),
    ],
)
def test_a_row_that_is_none_is_refused_and_the_old_report_stays(tmp_path: Path, change: Row, words: str):
    out = tmp_path / "r.html"
    out.write_text("the old one")
    with pytest.raises(ReportError) as caught:
        write_report([mixed()[0], mixed()[1] | change], out, title="t", thresholds=None)
    assert words in str(caught.value) and "tag the transcripts again" in str(caught.value)
    assert out.read_text() == "the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_two_runs_give_the_same_file(tmp_path: Path):
    for name in "ab":
        write_report(mixed(), tmp_path / name, title="t", thresholds=THRESHOLDS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


ATTACKS = (
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg/onload=window.pwned=1>",
    "javascript:window.pwned=1",
    "<!--<script>",
    "]]>&lt;b&gt;",
    "a\u2028b\u2029c\u202egnp.exe\u2066d\x00e\x1b[31mf\x7fg\ud800h",
    "${window.pwned = 1} $title {{7*7}}",
)


def hostile() -> list[Row]:
    rows = []
    for number, attack in enumerate(ATTACKS):
        unfamiliar = Unfamiliar(score=1.0, reasons=(attack,), spans=(Unreadable(start=0, end=3, form=attack),))  # type: ignore[arg-type]
        found = row(
            attack,
            (attack + "\n", "strategic_harm"),
            "After. ",
            context=attack,
            metadata={"model": attack, "scenario": {attack: attack}, attack: [attack, float("nan")]},
            unfamiliar=unfamiliar,
            path=attack,
        )
        found["blocks"][0] |= {"field": attack, "action": attack, "context_end": None if number % 2 else 2}
        rows.append(found | {"checkpoint": attack})
    return rows


def test_hostile_text_cannot_leave_its_element(tmp_path: Path):
    out = tmp_path / "r.html"
    write_report(hostile(), out, title=ATTACKS[0] + ATTACKS[6], thresholds=THRESHOLDS, population=ATTACKS[1])
    page = out.read_text("utf-8")
    assert len(data_of(out)["traces"]) == len(ATTACKS)
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page)
    assert page.count("</script>") == len(blocks) + 1, "the blocks and the page's own script"
    assert not any(set("<>&\u2028\u2029\u202e\x00") & set(block) for block in blocks)
    assert page.count("window.pwned") == sum(block.count("window.pwned") for block in blocks) + 2, (
        "title, twice escaped"
    )
    assert "&lt;/script&gt;&lt;script&gt;window.pwned" in page


def test_the_policy_admits_this_script_and_style_alone(tmp_path: Path):
    out = tmp_path / "r.html"
    write_report(mixed(), out, title="t", thresholds=None)
    page = out.read_text("utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    for kind, tag in (("script-src", '<script type="module">'), ("style-src", "<style>")):
        (content,) = re.findall(re.escape(tag) + r"(.*?)</", page, flags=re.DOTALL)
        assert directives[kind] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert directives["default-src"] == "'none'"
    assert "unsafe" not in policy
    assert re.findall(r"https?://[^\"'\s]*", page) == ["http://www.w3.org/2000/svg"], "a name, not an address"


def test_the_script_makes_text_nodes_only():
    folder = Path(report_html.__file__).parent
    for path in folder.glob("*.js"):
        source = path.read_text("utf-8")
        forbidden = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|srcdoc|DOMParser|createContextual|\bfetch\b|XMLHttp|WebSocket|import\s*\(|</script|<!--"
        assert re.findall(forbidden, source) == [], path.name


def _luminance(colour: str) -> float:
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_of_text_is_at_least_4_5_in_light_and_dark():
    sheet = (Path(report_html.__file__).parent / "page.css").read_text("utf-8")
    colours = {
        name: (light, dark) for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", sheet)
    }
    on_paper = ("ink", "muted", "link", "warn", "odd")
    pairs = [(name, ground) for name in on_paper for ground in ("paper", "panel")]
    pairs += [(f"tag-{n}", ground) for n in range(10) for ground in ("paper", "panel", f"tag-{n}-paper")]
    pairs += [("ink", f"tag-{n}-paper") for n in range(10)]
    pairs += [("ink", "warn-paper"), ("link", "warn-paper"), ("ink", "found")]
    for text, ground in pairs:
        for scheme in (0, 1):
            one, other = sorted((_luminance(colours[text][scheme]), _luminance(colours[ground][scheme])))
            assert (other + 0.05) / (one + 0.05) >= 4.5, (text, ground, scheme)


def many(count: int) -> Iterator[Row]:
    """Rows of some 3,000 characters with a text of their own."""
    for number in range(count):
        harm = ("I copy the keys out before anybody looks. ", "strategic_harm") if number % 10 == 0 else "I stay. "
        plain = [f"Line {line} of trace {number}: the pump runs at {number * line % 977} turns. " for line in range(48)]
        model = {"model": f"model-{number % 7}", "scenario": f"scenario-{number % 83}"}
        yield row(f"trace-{number:05}", *plain, harm, context=f"Watch pump {number % 50}.", metadata=model)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportSize, float]:
    """A report of 10,000 traces, its size, and the seconds of processor time that it took."""
    rows, out = list(many(500)), tmp_path_factory.mktemp("large") / "r.html"
    repeated = (rows[number % 500] | {"id": f"trace-{number:05}"} for number in range(10_000))
    began = time.process_time()
    size = write_report(repeated, out, title="t", thresholds=THRESHOLDS)
    return out, size, time.process_time() - began


def test_ten_thousand_rows_in_bounded_time_and_size(large: tuple[Path, ReportSize, float]):
    out, size, took = large
    assert (size.traces, size.contexts, size.bytes) == (10_000, 50, out.stat().st_size)
    assert size.bytes_per_trace < 2_500
    assert took < 120


def test_memory_does_not_grow_with_the_rows(tmp_path: Path):
    rows = list(many(200))

    def peak(count: int) -> int:
        tracemalloc.start()
        repeated = (rows[number % 200] | {"id": str(number)} for number in range(count))
        write_report(repeated, tmp_path / "r.html", title="t", thresholds=THRESHOLDS)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(1_600) < peak(400) + 1_000_000, "1,200 rows more hold some 20 MB"


# The page, in a browser


class Seen:
    """What a page did that it should not: errors, dialogs, requests."""

    def __init__(self, page: Page) -> None:
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self.faults.append(message.text))
        page.on("dialog", lambda dialog: self.faults.append(dialog.message))
        page.on(
            "request", lambda request: self.faults.append(request.url) if request.resource_type != "document" else None
        )


def show(browser: Browser, path: Path, fragment: str = "", **options: Any) -> tuple[Page, Seen]:
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options).new_page()
    page.set_default_timeout(PATIENCE_MS)
    seen = Seen(page)
    page.goto(path.as_uri() + fragment)
    page.wait_for_selector("html[data-ready]")
    return page, seen


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "r.html"
    write_report(mixed(), out, title="Night run", thresholds=THRESHOLDS, population="the dev split")
    return out


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    opened, seen = show(browser, report)
    yield opened
    opened.context.close()
    assert seen.faults == []


def text_of(page: Page, selector: str) -> str:
    return page.locator(selector).inner_text()


def listed(page: Page) -> list[str]:
    return [text.strip() for text in page.locator(".opener").all_inner_texts()]


def test_overview_in_the_browser(page: Page):
    assert page.title() == "Night run"
    overview = text_of(page, "#overview")
    assert "8 traces, 6 with reasoning to read, 6 evidence sentences." in overview
    assert "Thresholds were set on the dev split." in overview
    assert "not in full view: 1 summary, 1 redacted, 1 absent." in text_of(page, ".notice.loud")
    low, high = wilson(2, 6)
    assert f"2 of 6\t33.3 %\t{100 * low:.1f}–{100 * high:.1f} %" in overview
    assert page.locator(".histogram line.threshold").count() == len(TAXONOMY.tags)
    page.get_by_role("button", name="model-b").click()
    assert listed(page) == ["test", "redacted"], "a figure leads to its traces"


def test_reading_view_marks_evidence_and_what_stands_around_it(page: Page):
    page.goto(page.url.split("#")[0] + "#real")
    mark = page.locator("mark.s").first
    expect(mark).to_have_text("states_real: It is live now.")
    style = mark.evaluate(
        "node => { const s = getComputedStyle(node); return [s.textDecorationStyle, s.backgroundColor] }"
    )
    assert style[0] == "dotted" and style[1] != "rgba(0, 0, 0, 0)"
    cues = page.locator(".cue").evaluate_all("all => all.map((one) => one.dataset.cue)")
    assert cues == ["SR", "SH leak"], "the text says it too, not the colour alone"
    assert "Other words." in text_of(page, ".beside") and "send(note)" in text_of(page, ".beside")
    mark.hover()
    assert "Tagged states_real" in text_of(page, "#scores") and "0.90" in text_of(page, "#scores")
    assert "characters 10–26" in text_of(page, "#scores")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert "Tagged strategic_harm (leak)" in text_of(page, "#scores"), "a pointer at rest does not count"
    page.locator(".legend button", has_text="states_real").click()
    assert page.locator("#evidence li").count() == 1
    page.goto(page.url.split("#")[0] + "#odd")
    expect(page.locator(".unreadable")).to_have_text("base64, cannot be read: TWVldCBtZSBhdCB0aGUgZG9j")
    assert "few known words: 1 of 40" in text_of(page, ".reader-head")
    page.goto(page.url.split("#")[0] + "#redacted")
    expect(page.locator(".unseen")).to_have_text("Redacted by the provider: nothing to read here.")
    assert "unread, not clean" in text_of(page, ".reader-head")


def test_every_trace_shows_all_of_its_text_and_evidence(page: Page):
    for given in mixed():
        page.goto(page.url.split("#")[0] + "#" + given["id"])
        expect(page.locator("#trace-title")).to_have_text(given["id"])
        marks = page.locator("mark.s").evaluate_all("all => all.map((one) => one.lastChild.data)")
        assert marks == [one["text"].strip() for one in given["sentences"] if one["tags"]]
        shown = page.locator(".text").evaluate_all(
            "all => all.map((box) => { const copy = box.cloneNode(true);"
            " copy.querySelectorAll('.sr, .form').forEach((one) => one.remove()); return copy.textContent })"
        )
        assert "".join(shown) == "".join(one["text"] for one in given["sentences"]).strip()


def test_each_block_has_its_instructions_and_its_action(browser: Browser, tmp_path: Path):
    two = row("two", "First. ", "Second.")
    (block,) = two["blocks"]
    first = block | {"end": 7, "action": "look()"}
    second = block | {"start": 7, "message": 4, "turn": 1, "context_end": 26, "action": ""}
    hidden = block | {"start": 7, "end": 7, "visibility": "redacted", "message": 3, "context_end": None}
    write_report([two | {"blocks": [first, hidden, second]}], tmp_path / "r.html", title="t", thresholds=None)
    page, seen = show(browser, tmp_path / "r.html", "#two")
    shown = page.locator(".block").all_inner_texts()
    assert len(shown) == 3
    assert "First." in shown[0] and "Keep the log." in shown[0] and "Mail" not in shown[0] and "look()" in shown[0]
    assert "message 3" in shown[1] and "Redacted by the provider" in shown[1]
    assert "does not tell which of these" in shown[1]
    assert "turn 2" in shown[2] and "Second." in shown[2] and "none recorded" in shown[2]
    assert "new since the block before\n\nMail nobody." in shown[2]
    page.get_by_text("all of them, 26 characters").click()
    expect(page.get_by_role("region", name="Instructions in force").last).to_have_text("Keep the log. Mail nobody.")
    assert seen.faults == []


def test_evidence_only_rows_say_what_is_missing(browser: Browser, tmp_path: Path):
    short = mixed()[1] | {"sentences": mixed()[1]["sentences"][1:]}
    write_report([short], tmp_path / "r.html", title="t", thresholds=None)
    page, seen = show(browser, tmp_path / "r.html", "#harm")
    assert text_of(page, ".gap") == "[14 characters not in the results file]"
    assert seen.faults == []


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.textContent"))


def test_the_keyboard_alone_suffices(page: Page):
    page.keyboard.press("/")
    expect(page.locator("[name=query]")).to_be_focused()
    page.keyboard.type("nobody SEES")
    expect(page.locator("#found")).to_have_text("1 of 8 traces")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("#trace-title")).to_have_text("harm")
    expect(page.locator("#trace-title")).to_be_focused()
    page.keyboard.press("j")
    assert focused(page) == "strategic_harm: I copy the keys out."
    assert "Tagged strategic_harm (leak)" in text_of(page, "#scores")
    page.keyboard.press("n")
    assert focused(page) == "strategic_harm: Nobody sees."
    expect(page.locator("#spoken")).to_have_text("Evidence 2 of 2")
    page.keyboard.press("j")
    expect(page.locator("#spoken")).to_have_text("Last evidence of this trace.")
    page.keyboard.press("k")
    page.keyboard.press("ArrowLeft")
    assert focused(page) == "I look first.", "sentences without a tag have scores too"
    assert "No tag" in text_of(page, "#scores")
    page.keyboard.press("j")
    assert focused(page) == "strategic_harm: I copy the keys out.", "on from where one stands"
    page.keyboard.press("Escape")
    expect(page.locator("#list")).to_be_visible()
    assert focused(page) == "harm", "back where the trace was opened"


def test_next_and_previous_trace_and_the_arrows_of_the_list(page: Page):
    page.get_by_role("link", name="Traces").click()
    page.locator("#sort").select_option("n")
    assert text_of(page, "#direction") == "ascending"
    order = [given["id"] for given in mixed()]
    assert listed(page) == order
    page.locator(".opener").first.focus()
    page.keyboard.press("ArrowDown")
    assert focused(page) == order[1]
    page.keyboard.press("Enter")
    expect(page.locator("#trace-title")).to_have_text(order[1])
    for key, id in (("Shift+J", order[2]), ("Shift+N", order[3]), ("Shift+K", order[2]), ("Shift+P", order[1])):
        page.keyboard.press(key)
        expect(page.locator("#trace-title")).to_have_text(id)
    page.get_by_role("link", name="Next trace").click()
    expect(page.locator("#trace-title")).to_have_text(order[2])
    page.go_back()
    expect(page.locator("#trace-title")).to_have_text(order[1])
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.locator("#single-keys").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    assert page.locator("mark:focus").count() == 0, "letters can be switched off"


def test_filters_and_order(page: Page):
    page.get_by_role("link", name="Traces").click()
    cases = [
        ("tag", {"label": "strategic_harm (2)"}, {"harm", "real"}),
        ("tag", {"value": "none"}, {"plain", "odd"}),
        ("stance", {"label": "test (1)"}, {"test"}),
        ("kind", {"label": "leak (2)"}, {"harm", "real"}),
        ("visibility", {"label": "redacted (1)"}, {"redacted"}),
        ("model", {"label": "not stated (1)"}, {"absent"}),
        ("scenario", {"label": "not stated (2)"}, {"redacted", "absent"}),
        ("unfamiliar", {"label": "unfamiliar (1)"}, {"odd"}),
    ]
    for name, choice, wanted in cases:
        page.locator(f"[name={name}]").select_option(**choice)
        assert set(listed(page)) == wanted, name
        assert text_of(page, "#found") == f"{len(wanted)} of 8 traces"
        page.get_by_role("button", name="Clear filters").click()
        expect(page.locator("#found")).to_have_text("8 traces")
    page.locator("[name=scoreOf]").select_option(label="harm_rejected")
    page.locator("[name=low]").fill("0.7")
    assert listed(page) == ["summary"]
    page.locator("[name=low]").fill("")
    page.locator("[name=high]").fill("0.2")
    assert set(listed(page)) == {"plain", "harm", "test", "real", "odd"}, "unread traces have no score"
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_role("columnheader", name="strategic_harm").get_by_role("button").click()
    assert listed(page)[:2] == ["harm", "real"] and set(listed(page)[-2:]) == {"redacted", "absent"}
    header = page.get_by_role("columnheader", name="strategic_harm")
    assert header.get_attribute("aria-sort") == "descending"
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending" and set(listed(page)[-2:]) == {"redacted", "absent"}


def test_deep_links_and_ids_that_come_twice(browser: Browser, tmp_path: Path):
    rows = [row("a/b c%", "One."), row("a/b c%", "Two."), row("/traces", "Three.")]
    write_report(rows, tmp_path / "r.html", title="t", thresholds=None)
    for fragment, text in (("#a%2Fb%20c%25", "One."), ("#a%2Fb%20c%25~2", "Two."), ("#%2Ftraces", "Three.")):
        page, seen = show(browser, tmp_path / "r.html", fragment)
        assert text_of(page, ".text") == text
        assert seen.faults == []
        page.context.close()
    page, _ = show(browser, tmp_path / "r.html", "#nobody")
    assert text_of(page, "#found") == "There is no trace with the id nobody."


def test_hostile_text_is_shown_and_does_nothing(browser: Browser, tmp_path: Path):
    rows, out = hostile(), tmp_path / "r.html"
    write_report(rows, out, title=ATTACKS[0], thresholds=THRESHOLDS, population=ATTACKS[1])
    page, seen = show(browser, out)
    assert ATTACKS[1] in text_of(page, "#overview")
    page.get_by_role("link", name="Traces").click()
    page.locator("#sort").select_option("n")
    page.locator(".opener").first.click()
    for number, attack in enumerate(ATTACKS):
        page.wait_for_function(
            "n => document.querySelector('.position')?.textContent.startsWith(`${n + 1} of`)", arg=number
        )
        shown = text_of(page, "#reader")
        if number == 6:
            for mark in ("U+2028", "U+2029", "U+202E", "U+2066", "U+0000", "U+001B", "U+007F", "U+D800"):
                assert shown.count(mark) >= 5, mark
            assert not set("\u2028\u202e\x00\x1b") & set(page.locator("#reader").evaluate("node => node.textContent"))
        else:
            assert shown.count(attack) >= 7, "title, source, field, text, instructions, action, metadata"
        page.locator("mark.s").focus()
        page.keyboard.press("Shift+J")
    assert page.evaluate("typeof window.pwned") == "undefined"
    assert page.locator("main script, main img, main svg[onload], [href^='javascript:'], iframe").count() == 0
    assert seen.faults == []
    refused = page.evaluate(
        "() => { try { document.body.innerHTML = '<p>'; return 'done' } catch (error) { return error.name } }"
    )
    assert refused == "TypeError", "trusted types hold"


def test_ten_thousand_traces_are_pleasant(browser: Browser, large: tuple[Path, ReportSize, float]):
    began = time.monotonic()
    page, seen = show(browser, large[0], "#/traces")
    assert time.monotonic() - began < 90, "seconds to open; some two on an idle laptop"
    assert text_of(page, "#found") == "10,000 traces"
    assert page.locator(".row").count() < 60, "only the rows in view are on the page"
    page.locator("#sort").select_option("id")
    page.keyboard.press("Escape")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(page.locator(".opener", has_text="trace-09999")).to_be_visible()
    assert page.locator(".row").count() < 60
    began = time.monotonic()
    page.locator("[name=model]").select_option(label="model-3 (1,420)")
    assert text_of(page, "#found") == "1,420 of 10,000 traces"
    assert time.monotonic() - began < 20, "seconds to filter"
    page.locator("[name=query]").fill("LINE 7 OF TRACE 437:")
    expect(page.locator("#found")).to_have_text("20 of 10,000 traces")
    page.locator(".opener", has_text="trace-09937").click()
    expect(page.locator(".position")).to_have_text("20 of 20")
    assert page.evaluate("CSS.highlights.get('found').size") == 1
    assert seen.faults == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window_in_light_and_dark(browser: Browser, report: Path, width: int, scheme: str):
    page, seen = show(browser, report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    for fragment, view in (("", "#overview"), ("#/traces", "#list"), ("#harm", "#reader"), ("#odd", "#reader")):
        page.goto(report.as_uri() + fragment)
        expect(page.locator(view)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(channels) < 60) == (scheme == "dark")
    for theme in ("light", "dark"):
        page.get_by_role("button", name="Theme").click()
        assert text_of(page, "#theme") == f"Theme: {theme}"
        channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (max(channels) < 60) == (theme == "dark")
    assert seen.faults == []
    page.context.close()


def test_controls_have_names_and_print_leaves_them_out(page: Page):
    for fragment in ("#/overview", "#/traces", "#harm"):
        page.goto(page.url.split("#")[0] + fragment)
        unnamed = page.evaluate(
            "() => [...document.querySelectorAll('main:not([hidden]) :is(button, a, input, select, [role=region])')]"
            ".filter((one) => one.checkVisibility() && !one.textContent.trim() && !one.labels?.length"
            " && !one.getAttribute('aria-label')).map((one) => one.outerHTML)"
        )
        assert unnamed == []
    landmarks = page.locator("header.bar, nav, main, footer").count()
    assert landmarks >= 4 and page.locator("html[lang=en]").count() == 1
    expect(page.locator("#trace-title")).to_have_text("harm")
    page.emulate_media(media="print")
    assert not page.locator(".bar").is_visible() and not page.locator(".reader-bar").is_visible()
    assert page.locator("mark.s").first.is_visible() and page.locator(".legend").is_visible()
