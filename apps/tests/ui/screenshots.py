"""Take the pictures of docs/ui.md from a running page: ``python apps/tests/ui/screenshots.py http://127.0.0.1:7860``."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parents[3] / "docs" / "images"
PROMPT, EDITS, SEED = "a red circle and a blue square", ("make the circle green", "make the square yellow"), "7"
PATIENCE = 600_000
HEIGHTS = {"draw": 970, "edit": 1190, "history": 820, "phone": 812}


def save(page: Page, name: str) -> None:
    """Write what the window shows."""
    width = page.viewport_size["width"] if page.viewport_size else 0
    page.set_viewport_size({"width": width, "height": HEIGHTS[name]})
    page.wait_for_timeout(700)  # what moves comes to rest
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        path = FOLDER / f"ui-{name}.png"
        picture.convert("RGB").save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def submit(page: Page, tab: str, words: str, shot: str | None = None) -> None:
    """Write and press Enter, with a fixed seed; wait until it is done, or take a picture on the way."""
    page.locator(f"#{tab}-seed :is(input, textarea)").fill(SEED)
    page.locator(f"#{tab}-lock input").check()
    page.locator(f"#{tab}-words textarea").fill(words)
    page.locator(f"#{tab}-words textarea").press("Enter")
    page.locator(f"#{tab}-status progress[value]").wait_for()
    if shot is not None:
        save(page, shot)
    page.locator(f"#{tab}-status .u2-done").wait_for()


def take(page: Page, *, is_phone: bool) -> None:
    """Draw, edit twice, and look at the history."""
    submit(page, "draw", PROMPT, None if is_phone else "draw")
    page.locator("#draw-to-edit").click()
    for words in EDITS:
        page.locator("#edit-words textarea").wait_for()
        submit(page, "edit", words)
    if is_phone:
        page.locator("#edit-words").scroll_into_view_if_needed()
        page.locator("#edit-compared figcaption").scroll_into_view_if_needed()
        save(page, "phone")
        return
    save(page, "edit")
    page.get_by_role("tab", name="History").click()
    page.locator("#past-pictures .thumbnail-item").nth(1).click()
    page.locator("#past-facts table").wait_for()
    save(page, "history")


def main(address: str) -> None:
    """Take all pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for is_phone, width in ((False, 1180), (True, 375)):
            page = browser.new_context(viewport={"width": width, "height": 812}).new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(address)
            page.locator(".u2-about").wait_for()
            take(page, is_phone=is_phone)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
