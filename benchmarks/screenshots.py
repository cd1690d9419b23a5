"""Screenshots of the demo for the README, taken in headless Chromium from a running server.

python app.py &
python -m benchmarks.screenshots            # writes assets/screenshots/*.jpg
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

OUT = Path(__file__).parents[1] / "assets" / "screenshots"
PATIENCE = 180_000  # milliseconds


def shoot(page: Page, name: str) -> None:
    page.wait_for_timeout(800)
    page.screenshot(path=OUT / f"{name}.jpg", type="jpeg", quality=80)
    print(OUT / f"{name}.jpg")


def example(page: Page, tab: str, name: str) -> None:
    """Choose an example in a tab, and wait until it is there and described."""
    page.get_by_role("tab", name=tab, exact=True).click()
    item = ".gallery-item:visible"
    page.locator(f"{item}[aria-label='Example: {name}'], {item}:has-text('{name}')").first.click()
    shown = {"Image": "[aria-label='Remove Image']", "Video": ".frames img", "Audio": "text=Time runs"}
    page.locator(f"{shown[tab]} >> visible=true").first.wait_for()
    page.locator(".block.status:visible", has_text="Took ").first.wait_for(timeout=PATIENCE)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:7860")
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        desktop = browser.new_context(viewport={"width": 1120, "height": 900})
        page = desktop.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(args.url)
        example(page, "Image", "cat")
        shoot(page, "image")
        page.locator("button.label-wrap:visible:has-text('See how it sees')").click()
        page.locator("button:visible:text-is('Explain the answer')").click()
        page.locator(".explanation img").first.wait_for()
        page.locator(".explanation").scroll_into_view_if_needed()
        shoot(page, "explain")
        example(page, "Audio", "drums")
        shoot(page, "audio")
        desktop.close()
        dark = browser.new_context(viewport={"width": 1120, "height": 900}, color_scheme="dark")
        page = dark.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(args.url)
        example(page, "Video", "earth")
        shoot(page, "video-dark")
        dark.close()
        phone = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
        page = phone.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(args.url)
        example(page, "Image", "coffee")
        shoot(page, "phone")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
