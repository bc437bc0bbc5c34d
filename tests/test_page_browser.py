"""The page in a browser: everything is drawn, filters work, nothing runs that should not, and nothing is fetched.

Needs Chromium on the path (Debian's package `chromium`) and playwright, which drives it; skipped where one is missing.
"""

import dataclasses
import shutil

import pytest
from page_contents import CANARIES, comparison, everything, hostile

from lunar.report.contents import Contents
from lunar.report.html import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 240_000
"""Milliseconds; a busy machine takes long to read five megabytes of script."""
DRAWN = """[...document.querySelectorAll(".plot")].map((one) => [
    one.id, one.querySelectorAll(".main-svg").length > 0, one.querySelectorAll(".points path, .point, .box").length])"""
SHOWN = '[...document.querySelectorAll("#examples-table tbody tr")].filter((row) => row.offsetParent !== null).length'

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # In a container root has no sandbox; the pages are this test's own.
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, tmp_path):
    """`visit(text)` opens a page from the disk; at the end, nothing was said, thrown or asked for on any of them."""
    complaints, requests, contexts = [], [], []

    def open_page(text, **options):
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": 1000, "height": 800}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(PATIENCE)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(path.as_uri())
        return tab

    yield open_page
    # A picture in the page itself (plotly makes none, a browser its icon) is no request that leaves it.
    asked = {url for url in requests if not url.startswith("data:")}
    assert asked == {(tmp_path / f"{place}.html").as_uri() for place in range(len(contexts))}
    assert not complaints
    for context in contexts:
        context.close()


def test_plots_are_drawn_choices_and_filters_work_and_dark_is_dark(visit):
    tab = visit(page(everything()), color_scheme="light")
    drawn = tab.evaluate(DRAWN)
    assert {name for name, *_ in drawn} == {
        "plot-scores", "plot-back", "plot-recognised", "plot-layers", "plot-over-time"
    }  # fmt: skip
    assert all(is_drawn and points > 1 for _, is_drawn, points in drawn), drawn

    before = tab.evaluate("document.getElementById('plot-scores').data.map((one) => one.visible)")
    tab.select_option("select[data-plot='plot-scores']", "refusal_rate")
    after = tab.evaluate("document.getElementById('plot-scores').data.map((one) => one.visible)")
    assert after == [not one for one in before]

    assert tab.evaluate(SHOWN) == 3
    assert tab.inner_text("#filter-count") == "3 of 3 shown"
    tab.select_option("#filter-split", "retain")
    assert tab.evaluate(SHOWN) == 2
    tab.fill("#filter-words", "london ADA")
    assert tab.evaluate(SHOWN) == 1
    assert tab.inner_text("#filter-count") == "1 of 3 shown"
    tab.select_option("#filter-outcome", "declines now")
    assert tab.evaluate(SHOWN) == 0
    tab.fill("#filter-words", "")
    assert tab.evaluate(SHOWN) == 1

    ink = "getComputedStyle(document.querySelector('#plot-scores .xtick text')).fill"
    light = tab.evaluate(ink)
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function(f"{ink} !== '{light}'")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 28)"
    assert not any(canary in tab.content() for canary in CANARIES)
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_on_paper_the_page_is_light_and_nothing_is_folded_away(visit):
    contents = dataclasses.replace(everything(), comparison=comparison())
    tab = visit(page(contents), color_scheme="dark")
    assert any(name == "plot-compared" and points > 3 for name, _, points in tab.evaluate(DRAWN))
    assert tab.evaluate("document.querySelectorAll('details[open]').length") == 0
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    fill = "getComputedStyle(document.querySelector('#plot-scores .xtick text')).fill"
    assert tab.evaluate(fill) == "rgb(28, 35, 48)"
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate("document.querySelectorAll('details[open]').length") == 0


def test_hostile_text_runs_nowhere_and_stands_in_the_page(visit):
    tab = visit(page(hostile(), show_forget=True))
    assert tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.querySelectorAll('main img, main iframe, a[href^=http], .plot a').length") == 0
    assert "window.hacked = 1</script>" in tab.inner_text("#examples-table")
    assert all(is_drawn for _, is_drawn, _ in tab.evaluate(DRAWN))
    assert page(Contents())  # without anything to draw there is no script at all
