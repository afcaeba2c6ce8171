"""A real Chromium, and what the tests look at in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from bench.looking import BROWSER_FLAGS, browser_path
from tests import needs
from tests.integration.container import Container, cleared_away

SHOTS = os.environ.get("PAGE_SHOTS")
"""A folder for pictures of each state; unset: they are looked at by nobody, and not made."""
WIDE, PHONE = {"width": 1040, "height": 720}, {"width": 390, "height": 780}


def chromium() -> str:
    """The browser's path. Without one: a skip that says so, and in CI a failure."""
    if found := browser_path():
        return found
    named = os.environ.get("CHROMIUM")
    return needs.not_tested(
        f"there is no Chromium{f' {named!r}' if named else ''}: apt-get install chromium, or name one in CHROMIUM"
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
    """Somebody's tab, and everything that went wrong in it."""

    page: Page
    errors: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def wait(self, selector: str, words: str, seconds: float = 30) -> str:
        """The text of an element, once it has the words."""
        self.page.locator(selector).filter(has_text=words).first.wait_for(timeout=seconds * 1000)
        return self.text(selector)

    def text(self, selector: str) -> str:
        return " ".join(self.page.locator(selector).first.inner_text().split())

    def look(self, name: str) -> None:
        """Nothing that axe finds is wrong with it, light or dark, wide or on a phone, where nothing sticks out."""
        for scheme, size in (("light", WIDE), ("dark", WIDE), ("light", PHONE), ("dark", PHONE)):
            self.page.emulate_media(color_scheme=scheme)
            self.page.set_viewport_size(size)
            found = Axe().run(self.page, options={"resultTypes": ["violations"]})
            assert 0 == found.violations_count, f"{name}, {scheme}, {size}: {found.generate_report()}"
            assert self.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
            if SHOTS and (scheme == "light") == (size is WIDE):
                device = "wide" if size is WIDE else "phone"
                self.page.screenshot(
                    path=Path(SHOTS) / f"page-{name}-{device}.png", full_page=True, animations="disabled"
                )
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size(WIDE)


@pytest.fixture
def view(browser: Browser) -> Iterator[Callable[..., Viewer]]:
    """Opens tabs, each of another person. At the end: no script's error, no breach of the policy, no other server."""
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
                page.route("**/events", lambda _route: None)  # no answer ever comes
            page.goto(container.url + path)
            return viewer

        yield open_page
        for viewer, url in viewers:
            assert [] == viewer.errors
            assert [] == [asked for asked in viewer.asked if not asked.startswith((f"{url}/", "about:"))]


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """Makes containers (not started yet), and clears them away."""
    with ExitStack() as stack:

        def make(name: str = "c", **options: Any) -> Container:
            return stack.enter_context(cleared_away(Container(tmp_path / name, **options)))

        yield make
