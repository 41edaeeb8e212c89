"""The page in a real browser, over `unipic2 ui` as people start it: with a server of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
from playwright.sync_api import sync_playwright

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 300_000
"""Milliseconds; only a busy machine needs more than a few thousand."""
SAID = ".u2-done, .u2-failed"


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        msg = f"none of {', '.join(BROWSERS)} is installed; on Debian: apt-get install --no-install-recommends chromium"
        if os.environ.get("UNIPIC2_REQUIRE_BROWSER") == "1":
            pytest.fail(msg)
        pytest.skip(msg)
    with sync_playwright() as playwright:
        # Root, as in a container, has no sandbox; nothing but our own page is opened.
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def started(metaquery_folder):
    """The addresses of the page and of its server; both are gone in the end."""
    command = [sys.executable, "-m", "unipic2_apps", "ui", "--checkpoint", str(metaquery_folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("the page is at"):
                break
        rest = threading.Thread(target=process.stderr.read)
        rest.start()
        page, server = re.findall(r"http://127.0.0.1:\d+", lines[-1])
        yield page, server
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        rest.join(60)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server}/health")


@pytest.fixture
def visit(browser, started):
    """Open the page, in a browser that has never seen it."""
    address, _ = started
    contexts = []

    def open_page(width=1280, height=900):
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        page.locator(".u2-about").wait_for()
        return page

    yield open_page
    for context in contexts:
        asked = [url for page in context.pages for url in page.asked]
        assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
        context.close()


def field(page, name):
    return page.locator(f"#{name} :is(textarea, input:not([type=range]))").first


def few_steps(page, tab):
    page.locator(f"#{tab}-more button").click()
    field(page, f"{tab}-steps").fill("4")
    field(page, f"{tab}-steps").press("Tab")


def submit(page, tab, words):
    """Write and press Enter; return what is said in the end."""
    page.locator(f"#{tab}-status .u2-status").evaluate("(each) => each.classList.add('old')")
    field(page, f"{tab}-words").fill(words)
    field(page, f"{tab}-words").press("Enter")
    said = page.locator(f"#{tab}-status :is({SAID}):not(.old)")
    said.wait_for()
    return said.inner_text()


def seen(page, what):
    return page.locator(what).evaluate_all("(all) => all.filter((each) => each.complete && each.naturalWidth).length")


def test_draw_edit_ask_and_do_it_again(visit):
    page = visit()
    few_steps(page, "draw")
    said = submit(page, "draw", "a red circle")
    seed = re.search(r"Seed (\d+)", said)[1]
    assert field(page, "draw-seed").input_value() == seed
    page.locator("#draw-to-edit").click()

    page.wait_for_function("document.activeElement.closest('#edit-words')")  # the keyboard is where it is needed
    few_steps(page, "edit")
    assert "The next edit goes on from here" in submit(page, "edit", "make it green")
    page.locator("#edit-versions .thumbnail-item").nth(1).wait_for()
    assert page.locator("#edit-compared .u2-before").get_attribute("alt") == "Before"
    assert page.locator("#edit-compared .u2-after").get_attribute("alt") == "After: make it green"
    page.locator("#edit-compared input").press("ArrowLeft")
    assert page.locator("#edit-compared figure").evaluate("(each) => each.style.getPropertyValue('--cut')") == "49%"
    page.locator("#edit-undo").click()
    page.get_by_text("now: opened").wait_for()
    submit(page, "edit", "make it blue")
    page.get_by_text("now: 2. make it blue").wait_for()  # a branch: the undone edit is still there
    assert page.locator("#edit-versions .thumbnail-item").count() == 3

    page.locator("#edit-to-ask").click()
    page.wait_for_function("document.activeElement.closest('#ask-words')")
    submit(page, "ask", "what is it?")
    assert page.locator("#ask-talk .u2-asked").inner_text().endswith("what is it?")
    assert len(page.locator("#ask-talk .u2-answered").inner_text()) > len("Answer: ")

    page.get_by_role("tab", name="History").click()
    page.locator("#past-pictures .thumbnail-item").nth(2).click()  # the oldest
    page.locator("#past-facts").get_by_text(seed).wait_for()
    page.locator("#past-reuse").click()
    page.wait_for_function("document.activeElement.closest('#draw-words')")
    assert field(page, "draw-words").input_value() == "a red circle"
    assert page.locator("#draw-lock input").is_checked()
    assert f"Seed {seed}." in submit(page, "draw", "a blue square")
    page.locator("#draw-lock input").uncheck()
    field(page, "draw-seed").fill("123")  # whoever writes one means it
    assert "Seed 123." in submit(page, "draw", "a blue square")
    assert "Seed 123." not in submit(page, "draw", "a blue square")
    assert seen(page, "#draw-pictures img") == 1


def test_errors_are_the_servers_words(visit, picture, tmp_path):
    page = visit()
    assert "it is empty; say what is wanted" in submit(page, "draw", " ")
    page.locator("#draw-more button").click()
    field(page, "draw-size").fill("17x16")
    said = submit(page, "draw", "a red circle")
    assert "multiple" in said
    assert page.locator("#draw-status [role=alert]").count() == 1
    page.get_by_role("tab", name="Edit").click()
    assert "There is no picture yet" in submit(page, "edit", "make it green")
    moving = tmp_path / "moving.gif"  # a browser shows it, and the server takes no such files
    picture().save(moving)
    page.locator("#edit-source input[type=file]").set_input_files(moving)
    page.get_by_text("now: opened").wait_for()
    assert "neither PNG, JPEG nor WebP" in submit(page, "edit", "make it green")


def test_stop_leaves_the_server(visit, started):
    page = visit()
    page.locator("#draw-more button").click()
    field(page, "draw-steps").fill("100")
    field(page, "draw-count").fill("4")
    field(page, "draw-count").press("Tab")
    field(page, "draw-words").fill("a red circle")
    field(page, "draw-words").press("Enter")
    page.locator("#draw-stop:enabled").click()
    page.get_by_text("Stopped.").wait_for()
    while httpx.get(f"{started[1]}/health").json()["queue"]:
        time.sleep(0.05)
    assert page.locator("#draw-run").is_enabled()


def test_a_phone_shows_all_of_it(visit):
    page = visit(375, 812)
    few_steps(page, "draw")
    submit(page, "draw", "a red circle and a blue square, and a very-long-word-that-no-line-can-hold-" + "x" * 60)
    page.locator("#draw-to-edit").click()
    few_steps(page, "edit")
    submit(page, "edit", "make it green")
    for name in ("Draw", "Edit", "Ask", "History"):
        page.get_by_role("tab", name=name).click()
        page.wait_for_function(
            "(name) => document.querySelector('[role=tab][aria-selected=true]').innerText === name", arg=name
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, name
        small = page.evaluate(
            "[...document.querySelectorAll('main *')].filter((each) => each.offsetParent && each.innerText"
            " && parseFloat(getComputedStyle(each).fontSize) < 11).map((each) => each.innerText)"
        )
        assert small == [], name


def test_the_keyboard_is_enough(visit):
    page = visit()

    def tab_to(what, most=40):
        for _ in range(most):
            if page.evaluate("(what) => document.activeElement.matches(what)", what):
                return
            page.keyboard.press("Tab")
        pytest.fail(f"{most} times Tab did not reach {what}")

    page.wait_for_function("document.activeElement.closest('#draw-words')")  # one writes at once
    page.keyboard.type("a red circle")
    page.keyboard.press("Enter")
    page.locator("#draw-status .u2-done").wait_for()
    tab_to("#draw-to-edit")
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.closest('#edit-words')")
    page.keyboard.type("make it green")
    page.keyboard.press("Enter")
    page.locator("#edit-status .u2-done").wait_for()
    tab_to("#edit-compared input")
    page.keyboard.press("End")
    assert page.locator("#edit-compared input").input_value() == "100"
    tab_to("#edit-versions .thumbnail-item")
    page.keyboard.press("Enter")
    page.get_by_text("now: opened").wait_for()
    unnamed = page.evaluate(
        "[...document.querySelectorAll('main :is(input, textarea, button)')].filter((each) => each.offsetParent"
        " && !(each.innerText || each.ariaLabel || each.title || each.labels?.length"
        " || each.querySelector('img[alt]'))).map((each) => each.outerHTML.slice(0, 200))"
    )
    assert unnamed == []
