"""A real Chromium, and its pages as the tests use them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from testbed.browser import BROWSER_FLAGS, browser_path
from tests.support import needs
from tests.support.container import Container, cleared_away

SHOTS = os.environ.get("PAGE_SHOTS")
"""A folder for pictures of each state; unset: none are taken."""
WIDE, MEDIUM, PHONE = (
    ViewportSize(width=1280, height=900),
    ViewportSize(width=900, height=800),
    ViewportSize(width=390, height=844),
)
SIZES = {"wide": WIDE, "medium": MEDIUM, "phone": PHONE}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
NAME = "packages.example.com"
"""The name of the containers."""
KEPT = {("wide", "light"), ("phone", "dark")}
"""The pictures that are taken of each state; of some states, all are."""


def chromium() -> str:
    """Return the browser's path. Without a browser, skip the test; in CI, fail it."""
    if found := browser_path():
        return found
    named = os.environ.get("CHROMIUM")
    return needs.not_tested(
        f"there is no Chromium{f' {named!r}' if named else ''}: run apt-get install chromium, or set CHROMIUM"
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=list(BROWSER_FLAGS), chromium_sandbox=os.geteuid() != 0
        )
        yield browser
        browser.close()


@dataclass
class Viewer:
    """A tab, and all errors in it."""

    page: Page
    errors: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def wait(self, selector: str, words: str, seconds: float = 30) -> str:
        """Return the text of an element as soon as it contains the words."""
        self.page.locator(selector).filter(has_text=words).first.wait_for(timeout=seconds * 1000)
        return self.text(selector)

    def text(self, selector: str) -> str:
        return " ".join(self.page.locator(selector).first.inner_text().split())

    def look(self, name: str, *, every: bool = False, keep: bool = True) -> None:
        """Assert that axe finds no fault, light or dark, at any width, and that nothing overflows.

        `every`: take a screenshot of each; `keep` False: of none.
        """
        for device, size in SIZES.items():
            self.page.set_viewport_size(size)
            for scheme in SCHEMES:
                self.page.emulate_media(color_scheme=scheme)
                found = Axe().run(self.page, options={"resultTypes": ["violations"]})
                assert 0 == found.violations_count, f"{name}, {scheme}, {size}: {found.generate_report()}"
                assert self.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
                if SHOTS and keep and (every or (device, scheme) in KEPT):
                    kind = "" if (device, scheme) in KEPT else f"-{scheme}"
                    path = Path(SHOTS) / f"page-{name}-{device}{kind}.png"
                    self.page.screenshot(path=path, full_page=True, animations="disabled")
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size(WIDE)

    def sees(self, selector: str) -> bool:
        """Whether all of an element is visible without scrolling."""
        self.page.evaluate("scrollTo(0, 0)")
        found, window = self.page.locator(selector).bounding_box(), self.page.viewport_size
        assert found is not None, f"{selector} is not shown"
        assert window is not None
        return (
            0 <= found["x"]
            and 0 <= found["y"]
            and found["x"] + found["width"] <= window["width"]
            and found["y"] + found["height"] <= window["height"]
        )


@pytest.fixture
def view(browser: Browser) -> Iterator[Callable[..., Viewer]]:
    """Open tabs, each in its own session. At the end: no script's error, no breach of the policy, no other server."""
    with ExitStack() as stack:
        viewers: list[tuple[Viewer, str]] = []

        def open_page(container: Container, path: str = "/", *, live: bool = True, **options: Any) -> Viewer:
            context = browser.new_context(viewport=WIDE, reduced_motion="reduce", **options)
            stack.callback(context.close)
            viewer = Viewer(context.new_page())
            page = viewer.page
            page.on("pageerror", lambda error: viewer.errors.append(str(error)))
            page.on("dialog", lambda dialog: viewer.errors.append(f"dialog: {dialog.message}"))
            page.on("console", lambda said: "Security Policy" in said.text and viewer.errors.append(said.text))
            page.on("request", lambda request: viewer.asked.add(request.url))
            viewers.append((viewer, container.url))
            if not live:
                page.route("**/events", lambda _route: None)  # never answered
            page.goto(container.url + path)
            return viewer

        yield open_page
        for viewer, url in viewers:
            assert [] == viewer.errors
            assert [] == [asked for asked in viewer.asked if not asked.startswith((f"{url}/", "about:"))]


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """Make containers (not started yet), and remove them."""
    with ExitStack() as stack:

        def make(name: str = "c", **options: Any) -> Container:
            options["env"] = {"SIDECAR_NAME": NAME} | options.get("env", {})
            return stack.enter_context(cleared_away(Container(tmp_path / name, **options)))

        yield make
