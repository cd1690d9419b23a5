"""A demo with tiny random models in this process, and a browser that walks through it like a person."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from gradio_client.client import Job
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from epalm import EPALM, EPALMError
from epalm.config import ConfidenceConfig
from epalm.demo.models import Models, described
from epalm.demo.page import page
from epalm.demo.server import launch
from epalm.demo.service import Service

AXE = Path(sys.prefix) / "axe-core" / "package" / "axe.min.js"  # `make test` puts it there
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
START = 120  # seconds; a server starts in this time
PATIENCE = 90_000  # milliseconds; a busy machine is slow


def until(there: Callable[[], object], what: str, job: Job | None = None) -> None:
    """Wait until something is there; a failure if it does not come, or its job ends before."""
    end = time.monotonic() + START
    while not there():
        if job is not None and job.done() and not there():
            pytest.fail(f"{what}: {job.exception() or 'it ended without'}")
        assert time.monotonic() < end, what
        time.sleep(0.02)


def need(there: bool, what: str) -> None:
    """Skip a test if a tool is missing; in CI that is a failure (tests/conftest.py)."""
    if not there:
        pytest.skip(f"{what} is not installed")


@dataclass
class Site:
    """A running demo.

    Fields:
        slow: holds the second model's loading until it is set.
    """

    url: str
    service: Service
    model: EPALM
    slow: threading.Event


@pytest.fixture(scope="session")
def site(tiny_senses_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three models: "tiny" with all tabs, "slow" to load, and "broken", which cannot be."""
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
    model, slow = EPALM.from_pretrained(tiny_senses_dir, device="cpu"), threading.Event()
    adapters: dict[str, Any] = dict(model.adapters.items())
    captions = adapters["image-caption"]  # the one whose confidence was measured
    captions.config = dataclasses.replace(captions.config, confidence=ConfidenceConfig(0.0, 1.0))
    configs = {name: adapter.config for name, adapter in adapters.items()}

    def load(name: str, say: Callable[[str], None]) -> EPALM:
        if name == "broken":
            raise EPALMError("The weights of <b>broken</b> are damaged; fetch them again.")
        if name == "slow":
            say("Fetching weights: 40 % of 10 MB")
            slow.wait(60)
        return model

    offers = [described(name, configs, "Licences stand here.") for name in ("tiny", "slow", "broken")]
    service = Service(Models(offers, load, most=3))
    service.models.begin(None).done.wait()
    blocks = page(service)
    yield Site(launch(blocks, "127.0.0.1", None, service), service, model, slow)
    blocks.close(verbose=False)
    patch.undo()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium with a fake camera and a fake microphone."""
    need(CHROMIUM is not None, "Chromium")
    fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *fake])
        yield browser
        browser.close()


@dataclass
class Visitor:
    """A page in the browser, and what happened on it."""

    page: Page
    site: Site
    asked: list[str] = field(default_factory=list)  # addresses of other hosts
    errors: list[str] = field(default_factory=list)  # of the page's scripts

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def give(self, path: Path) -> None:
        """Upload a file in the tab that is shown."""
        self.page.locator(".tabitem:visible input[type=file]").first.set_input_files(path)

    def button(self, name: str) -> Any:
        return self.page.locator(f"button:visible:text-is('{name}')")

    def panel(self, name: str) -> None:
        """Open a closed panel of the tab that is shown, or of the page."""
        self.page.locator(f"button.label-wrap:visible:has-text('{name}')").click()

    def answer(self) -> str:
        """The answer, once it is final."""
        self.page.locator(".block.status:visible", has_text="Took ").first.wait_for(timeout=PATIENCE)
        return self.page.locator(".answer:visible textarea").input_value()

    def is_told(self, text: str) -> None:
        """Wait for this answer; a character that its length cuts is not shown."""
        box = self.page.locator(".answer:visible textarea")
        expect(box).to_have_value(text.rstrip("\ufffd"), timeout=PATIENCE)

    def violations(self) -> list[str]:
        """What axe-core finds wrong for people who see, hear or move differently (WCAG 2.1 A and AA)."""
        need(AXE.exists(), "axe-core")
        self.page.evaluate(AXE.read_text(encoding="utf-8"))  # a script tag would need the page's consent
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
        found = self.page.evaluate("tags => axe.run(document, {runOnly: tags})", tags)["violations"]
        return [
            f"{v['id']}: {v['help']}: {node['html'][:160]} {node['failureSummary'][:300]}"
            for v in found
            for node in v["nodes"]
        ]


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Callable[..., Visitor]]:
    """Opens the page; afterwards nothing was asked of another host, and no script failed."""
    contexts, visitors = [], []

    def open_page(**options: Any) -> Visitor:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 1000}, **options})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        visitor = Visitor(context.new_page(), site)
        visitors.append(visitor)
        here = (site.url, "data:", "blob:")
        visitor.page.on("request", lambda r: r.url.startswith(here) or visitor.asked.append(r.url))
        visitor.page.on("pageerror", lambda error: visitor.errors.append(str(error)))
        visitor.page.goto(site.url)
        visitor.button("Describe it").wait_for()
        return visitor

    yield open_page
    for context in contexts:
        context.close()
    for visitor in visitors:
        assert visitor.asked == []
        assert visitor.errors == []


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return str(path)
