"""The page in a browser: no errors, nothing wider than the window, the answer first, complete with scripts off, hostile text inert.

Needs Playwright's client and a Chromium of the system or of Playwright's own.
"""

from __future__ import annotations

import shutil

import pytest

from grade_lightning.report import main
from tests.reporting.hostile import write_hostile
from tests.reporting.test_page import add
from tests.reporting.test_report import write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
        try:
            started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium starts here: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Several methods and seeds, and runs in which everything a run can say is hostile."""
    folder = tmp_path_factory.mktemp("report")
    for seed in (1, 2, 3):
        add(write_run(folder / "runs", "grade_ste", seed, shift=0.3), judge=0.25)
        add(write_run(folder / "runs", "rloo", seed, shift=0.2), judge=0.1)
    write_hostile(folder / "runs")
    assert main([str(folder / "runs"), "--out", str(folder / "out")]) == 0
    return (folder / "out" / "report.html").as_uri()


def opened(browser, address: str, *, width: int = 1400, scripts: bool = True, scheme: str = "light"):
    """The page, and everything that its console said or that was asked of the network."""
    context = browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=scripts, color_scheme=scheme)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: None if request.url == address else said.append(f"request: {request.url[:80]}"))
    page.goto(address)
    return page, said


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_said_asked_or_wider_than_the_window(browser, address, width, scheme):
    page, said = opened(browser, address, width=width, scheme=scheme)
    assert [line for line in said if not line.startswith("request: data:")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    clipped = page.evaluate(
        """() => [...document.querySelectorAll("table")].filter(table => {
             const box = table.closest(".wide");
             return !box || (box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "auto");
           }).length"""
    )
    assert clipped == 0
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_hostile_text_is_text(browser, address):
    page, _ = opened(browser, address)
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert page.locator("script").count() == 2
    assert page.locator("#hacked").count() == 0
    assert "</script><script>window.hacked=1</script>" in page.locator("#samples").text_content()


@pytest.mark.parametrize("scripts", [True, False])
def test_the_answer_comes_first_and_everything_is_there(browser, address, scripts):
    page, _ = opened(browser, address, scripts=scripts)
    first = page.locator("figure").first
    assert first.locator("#frontier svg").is_visible()
    assert first.bounding_box()["y"] < 300
    places = [page.locator(name).first.bounding_box()["y"] for name in (".answer", ".sentences", "table", "details.warnings", "#scatter")]
    assert places == sorted(places)
    assert page.locator(".sentences li").count() == 3
    assert page.locator("details.warnings").get_attribute("open") is None
    for name in ("#table1", "#figure1_training svg", "#plot circle", "#samples article"):
        assert page.locator(name).first.is_visible(), name
    assert page.locator("#samples .prompt").first.locator(".before").count() == 1
    assert page.locator("#chooser input").first.is_visible() == scripts


def test_units_are_switched_without_scripts(browser, address):
    page, _ = opened(browser, address, scripts=False)
    page.get_by_label("KL per completion").check()
    assert page.locator("#frontier_completion").is_visible()
    assert not page.locator("#frontier").is_visible()


def test_a_method_is_hidden_everywhere(browser, address):
    page, _ = opened(browser, address)
    place = page.locator("#chooser label", has_text="RLOO").locator("input").get_attribute("value")
    marked = page.locator(f"svg [data-v='{place}']")
    assert marked.count() > 5
    page.locator(f"#chooser input[value='{place}']").uncheck()
    assert not any(marked.nth(n).is_visible() for n in range(marked.count()))
    shown = page.locator("#table1 + .wide tr:visible").all_text_contents()
    assert any("GRADE-STE" in row for row in shown)
    assert not any("RLOO" in row for row in shown)


def test_values_beside_the_pointer(browser, address):
    page, _ = opened(browser, address)
    dot = page.locator("#frontier [data-v] use").last.bounding_box()
    page.mouse.move(dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2)
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert "reward 0." in tip.text_content()


def test_two_runs_prompt_by_prompt(browser, address):
    page, _ = opened(browser, address)
    page.locator("#first").select_option(label="initial policy")
    page.locator("#second").select_option(label="GRADE-STE, seed 1")
    assert page.locator("#plot circle").count() == 40
    assert "0.30" in page.locator("#compared").text_content() or "0.29" in page.locator("#compared").text_content()
    assert page.locator("#across").text_content() == "initial policy"
