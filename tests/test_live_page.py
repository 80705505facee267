"""The live page: its source, and its behaviour in a real browser against a real service.

The browser is the system's Chromium (``apt-get install chromium``), driven through Playwright;
without one those tests are skipped.
"""

import base64
import dataclasses
import hashlib
import re
import socket
from collections.abc import Iterator
from importlib import resources
from typing import Any

import httpx
import pytest
from conftest import PATIENCE_MS
from playwright.sync_api import Browser, Page, expect
from service_runs import TOKEN, Served, opened
from service_runs import client as client
from test_report import ATTACKS, _luminance

from cot_probe.serving import bodies
from cot_probe.serving import page as page_module
from cot_probe.serving.guards import Access
from cot_probe.serving.page import live_page
from cot_probe.tagger import Tagger

PLAIN = "I read the log. "
HARM = "I will rewrite the script. "


class Marked(Tagger):
    """The toy checkpoint at thresholds that every sentence reaches for one label, and none for the others."""

    def __init__(self, tagger: Tagger, label: str = "strategic_harm") -> None:
        def only(thresholds: dict[str, float]) -> dict[str, float]:
            return {name: 0.0 if name == label else 1.0 for name in thresholds}

        point = tagger.point
        only_one = dataclasses.replace(point, sentences=only(point.sentences), traces=only(point.traces))
        super().__init__(tagger.checkpoint, point=only_one)


@pytest.fixture(scope="module")
def marked(toy_tagger: Tagger) -> Tagger:
    return Marked(toy_tagger)


@pytest.fixture
def served(marked: Tagger) -> Iterator[Served]:
    with Served(marked) as one:
        yield one


class Seen:
    """What a page did that it should not: errors, dialogs, requests to elsewhere or with a token in the address."""

    def __init__(self, page: Page, url: str) -> None:
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self.faults.append(message.text))
        page.on("dialog", lambda dialog: self.faults.append(dialog.message))
        page.on("request", lambda request: self._request(request.url, url))

    def _request(self, address: str, url: str) -> None:
        if not address.startswith(f"{url}/") or TOKEN in address.split("#")[0]:
            self.faults.append(address)


def show(browser: Browser, served: Served, fragment: str = "", **options: Any) -> tuple[Page, Seen]:
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options).new_page()
    page.set_default_timeout(PATIENCE_MS)
    seen = Seen(page, served.url)
    page.goto(f"{served.url}/{fragment}")
    page.wait_for_selector("html[data-ready]")
    return page, seen


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    shown, seen = show(browser, served)
    expect(shown.locator("#connection")).to_have_text("connected")
    yield shown
    shown.context.close()
    assert seen.faults == []


def text_of(page: Page, selector: str) -> str:
    return page.locator(selector).inner_text()


def feed(client: httpx.Client, id: str, text: str) -> None:
    assert client.post(f"/v1/streams/{id}", content=bodies.dump({"text": text})).status_code == 200


def tell(served: Served, *events: dict[str, Any]) -> None:
    """Events as a stream would tell them."""
    loop = served.service.batcher._task.get_loop()
    for event in events:
        loop.call_soon_threadsafe(served.service.streams.heard, event)


def alert(number: int, text: str = HARM, stream: str = "made-up") -> dict[str, Any]:
    place = {"number": number, "start": 0, "end": len(text), "text": text, "final": False, "n_tokens": 3}
    score = {"score": 0.9, "threshold": 0.5, "level": "sentence", "state": "onset", "tag": "strategic_harm"}
    return {"event": "alert", "stream": stream, "time": 1.7e9 + number, **score, **place}


# The source


def test_the_policy_admits_this_script_and_style_and_service_alone() -> None:
    answer = live_page()
    page = bytes(answer.body).decode()
    directives = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    for kind, tag in (("script-src", '<script type="module">'), ("style-src", "<style>")):
        (content,) = re.findall(re.escape(tag) + r"(.*?)</", page, flags=re.DOTALL)
        assert directives[kind] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert directives["default-src"] == "'none'" and directives["connect-src"] == "'self'"
    assert directives["frame-ancestors"] == directives["base-uri"] == directives["trusted-types"] == "'none'"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Frame-Options"] == "DENY" and answer.headers["Cache-Control"] == "no-store"
    assert set(re.findall(r"https?://[^\"'\s]*", page)) <= {"http://www.w3.org/2000/svg"}, "a name, not an address"


def test_the_script_makes_text_nodes_only() -> None:
    folder = resources.files("cot_probe.serving")
    source = "".join((folder / name).read_text("utf-8") for name in page_module._SCRIPTS)
    forbidden = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|srcdoc|DOMParser|createContextual|XMLHttp|import\s*\(|</script|<!--|localStorage"
    assert re.findall(forbidden, source) == []
    assert source.count("fetch(") == 1, "all requests in one place, with the token in their head"


def test_contrast_of_what_the_page_adds() -> None:
    sheet = (resources.files("cot_probe.report") / "page.css").read_text("utf-8")
    colours = {
        name: (light, dark) for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", sheet)
    }
    for text, ground in (("warn", "warn-paper"), ("tag-0", "tag-0-paper"), ("muted", "panel"), ("warn", "panel")):
        for scheme in (0, 1):
            one, other = sorted((_luminance(colours[text][scheme]), _luminance(colours[ground][scheme])))
            assert (other + 0.05) / (one + 0.05) >= 4.5, (text, ground, scheme)


# The page, in a browser


def test_streams_alerts_and_evidence_show_as_they_come(page: Page, client: httpx.Client) -> None:
    assert "None yet." in text_of(page, "#no-streams")
    first = opened(client, name="night shift")
    second = opened(client)
    expect(page.locator("#streams a")).to_have_text([f"stream {second}", "night shift"])
    expect(page.locator("#streams-count")).to_have_text("2 open of 2")
    feed(client, first, PLAIN)
    expect(page.locator("#alerts > li")).to_have_count(2)
    told = text_of(page, "#alerts")
    assert "strategic_harm" in told and "sentence 1" in told and "the trace so far" in told and "night shift" in told
    expect(page.locator("#alerts blockquote").first).to_have_text(PLAIN.strip())
    expect(page).to_have_title("(1) cot_probe live")
    expect(page.locator("#spoken")).to_have_text("strategic_harm in night shift")
    row = page.locator(".stream.alarmed")
    expect(row).to_have_count(1)
    expect(row.locator(".chip")).to_contain_text("SH")
    page.get_by_role("link", name="night shift").first.click()
    expect(page.locator("#reader-title")).to_be_focused()
    expect(page.locator("#text mark")).to_have_count(1)
    feed(client, first, HARM)
    expect(page.locator("#text mark")).to_have_count(2)
    assert page.locator("#text").evaluate("box => box.textContent") == (
        f"strategic_harm: {PLAIN}strategic_harm: {HARM}"
    ), "evidence is told in words too"
    assert page.locator("#text .cue").first.get_attribute("data-cue").startswith("SH ")  # type: ignore[union-attr]
    expect(page.locator("#text mark.provisional")).to_have_count(2)
    expect(page.locator("#running tr.on th")).to_contain_text("strategic_harm")
    assert page.locator("#running tr").count() == 3
    client.post(f"/v1/streams/{first}/check", json={"tool": "send_mail"})
    expect(page.locator("#happenings .verdict")).to_have_text("hold")
    assert "send_mail" in text_of(page, "#happenings") and "hold from" in text_of(page, "#happenings")
    client.post(f"/v1/streams/{first}/close")
    expect(page.locator("#reader-state")).to_contain_text("closed")
    expect(page.locator("#text mark.provisional")).to_have_count(0)
    expect(page.locator("#streams-count")).to_have_text("1 open of 2")
    page.get_by_role("link", name="All alerts").click()
    expect(page.locator("#alerts .verdict")).to_have_text("hold")
    expect(page).to_have_title("cot_probe live")


def test_who_comes_late_sees_what_was(browser: Browser, served: Served, client: httpx.Client) -> None:
    id = opened(client, name="early")
    for _ in range(3):
        feed(client, id, PLAIN)
    client.post(f"/v1/streams/{id}/check", json={"tool": "send_mail"})
    page, seen = show(browser, served, f"#/stream/{id}")
    expect(page.locator("#reader-title")).to_have_text("early")
    expect(page.locator("#text mark")).to_have_count(3)
    expect(page.locator("#happenings .verdict")).to_have_count(1)
    assert page.locator("#happenings > li").count() == 3, "each once, though two logs tell of it"
    page.get_by_role("link", name="All alerts").click()
    expect(page.locator("#alerts > li")).to_have_count(3)
    page.goto(f"{served.url}/#/stream/nobody")
    expect(page.locator("#feed")).to_be_visible()
    assert seen.faults == []
    page.context.close()


def test_hostile_text_is_shown_and_does_nothing(browser: Browser, served: Served, client: httpx.Client) -> None:
    page, seen = show(browser, served)
    ids = [opened(client, name=attack, context=attack, metadata={attack: attack}) for attack in ATTACKS]
    for id, attack in zip(ids, ATTACKS, strict=True):
        feed(client, id, f"{attack} and so on. Next one. ")
        client.post(f"/v1/streams/{id}/check", content=bodies.dump({"tool": attack}))
    expect(page.locator("#alerts .verdict")).to_have_count(len(ATTACKS))
    shown = text_of(page, "#alerts")
    for number, attack in enumerate(ATTACKS):
        if number != 6:
            assert shown.count(" ".join(attack.split())) >= 3, "evidence, tool, name"
    for mark in ("U+2028", "U+202E", "U+2066", "U+0000", "U+001B", "U+007F", "U+D800"):
        assert shown.count(mark) >= 2, mark
    for id in ids:
        page.goto(f"{served.url}/#/stream/{id}")
        expect(page.locator("#happenings .verdict")).to_have_count(1)
        expect(page.locator("#text mark").first).to_be_visible()
    assert not set("\u2028\u202e\x00\x1b") & set(page.locator("main").evaluate("node => node.textContent"))
    assert page.evaluate("typeof window.pwned") == "undefined"
    assert page.locator("main script, main img, main svg, [href^='javascript:'], iframe").count() == 0
    assert seen.faults == []
    refused = page.evaluate(
        "() => { try { document.body.innerHTML = '<p>'; return 'done' } catch (error) { return error.name } }"
    )
    assert refused == "TypeError", "trusted types hold"
    page.context.close()


def test_the_token_is_asked_for_and_kept_in_the_tab_only(browser: Browser, marked: Tagger) -> None:
    with Served(marked, access=Access(token=TOKEN)) as served, served.client() as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        opened(client, name="behind the door")
        page, seen = show(browser, served)
        expect(page.get_by_role("heading", name="Token")).to_be_visible()
        assert not page.locator("#watching").is_visible()
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Connect").click()
        expect(page.locator("#login-fault")).to_have_text("This is not the token of this service.")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#streams a")).to_have_text(["behind the door"])
        page.reload()
        expect(page.locator("#streams a")).to_have_text(["behind the door"])
        assert page.evaluate("JSON.stringify(localStorage)") in ("{}", '{"cot_probe.theme":"system"}')
        assert all("401" in fault for fault in seen.faults) and seen.faults, "the browser tells of the two refusals"
        page.context.close()
        page, seen = show(browser, served, f"#token={TOKEN}")
        expect(page.locator("#streams a")).to_have_text(["behind the door"])
        assert TOKEN not in page.url and seen.faults == []
        page.context.close()


def test_it_comes_back_when_the_service_does(browser: Browser, marked: Tagger) -> None:
    with Served(marked) as served, served.client() as client:
        opened(client, name="of the first")
        page, _ = show(browser, served)
        expect(page.locator("#streams a")).to_have_text(["of the first"])
        port = served.port
    expect(page.locator("#connection")).to_contain_text("trying again")
    again = Served(marked)
    again.listener.close()
    again.listener = socket.create_server(("127.0.0.1", port))
    again.server = type(again.server)(again.app)
    again._thread._kwargs = {"sockets": [again.listener]}  # type: ignore[attr-defined]
    again._thread._target = again.server.run  # type: ignore[attr-defined]
    again.port, again.url = port, f"http://127.0.0.1:{port}"
    with again, again.client() as client:
        expect(page.locator("#connection")).to_have_text("connected")
        opened(client, name="of the second")
        expect(page.locator("#streams a")).to_have_text(["of the second", "of the first"])
        expect(page.locator("#streams li").last).to_contain_text("the service was stopped")
        page.context.close()


def test_what_was_missed_or_not_scored_is_said_and_lists_are_bounded(browser: Browser, marked: Tagger) -> None:
    with Served(marked, kept_events=700) as served:
        tell(served, *(alert(number) for number in range(900)))
        page, seen = show(browser, served)
        expect(page.locator("#alerts > li")).to_have_count(300)
        gap = {"event": "not_scored", "stream": "made-up", "stage": "provisional", "reason": "waited over 2 s"}
        tell(served, *({**gap, "time": 1.8e9 + n, "first": n, "last": n} for n in range(5)))
        expect(page.locator("#alerts > li").first).to_contain_text("sentences 1 to 5: no provisional score")
        expect(page.locator("#alerts > li")).to_have_count(300)
        expect(page.locator("#streams li")).to_contain_text("5 not read at once")
        page.context.close()
        page, seen = show(browser, served)
        page.evaluate("document.getElementById('alerts').children.length")
        expect(page.locator("#streams li")).to_contain_text("made-up")
        assert seen.faults == []
        page.context.close()
        with served.client() as client:
            assert 'event: missed\ndata: {"event": "missed"' in client.get("/v1/events?wait_s=0").text


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window_in_light_and_dark(
    browser: Browser, served: Served, client: httpx.Client, width: int, scheme: str
) -> None:
    id = opened(client, name="a name of many words that goes on and on " * 3)
    feed(client, id, HARM * 5 + "x" * 300 + ". ")
    client.post(f"/v1/streams/{id}/check", json={"tool": "a_tool_with_a_long_name" * 5})
    page, seen = show(browser, served, viewport={"width": width, "height": 800}, color_scheme=scheme)
    for fragment, view in (("#/alerts", "#feed"), (f"#/stream/{id}", "#reader")):
        page.goto(f"{served.url}/{fragment}")
        expect(page.locator(view)).to_be_visible()
        expect(page.locator(f"{view} .verdict")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(channels) < 60) == (scheme == "dark")
    for theme in ("light", "dark"):
        page.get_by_role("button", name="Theme").click()
        assert text_of(page, "#theme") == f"Theme: {theme}"
        channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (max(channels) < 60) == (theme == "dark")
    page.goto(f"{served.url}/docs")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page of the interface"
    assert seen.faults == []
    page.context.close()


def test_the_keyboard_alone_suffices_and_controls_have_names(page: Page, client: httpx.Client) -> None:
    first = opened(client, name="one")
    feed(client, first, HARM)
    expect(page.locator("#alerts > li")).to_have_count(2)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("#streams a").focus()
    feed(client, first, HARM)
    page.wait_for_timeout(400)
    assert page.evaluate("document.activeElement.textContent") == "one", "a row made anew keeps the focus"
    page.keyboard.press("Enter")
    expect(page.locator("#reader-title")).to_be_focused()
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll(':is(button, a, input, [role=region])')]"
        ".filter((one) => one.checkVisibility() && !one.textContent.trim() && !one.labels?.length"
        " && !one.getAttribute('aria-label')).map((one) => one.outerHTML)"
    )
    assert unnamed == []
    assert page.locator("header.bar, main, footer").count() == 3 and page.locator("html[lang=en]").count() == 1
    page.get_by_label("Follow").uncheck()
    expect(page.locator("#follow")).not_to_be_checked()
