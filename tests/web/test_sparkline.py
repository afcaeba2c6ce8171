"""A check's quarter of an hour as a drawing: readable without colours, and not flattened by an outlier."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from sidecar.core.check import FAIL, PASS, WARN, Check, CheckStatus
from sidecar.core.history import SAMPLES, CheckHistory, Reading
from sidecar.web.page import assets
from sidecar.web.page.checklist import checklist
from sidecar.web.page.rendering import section


def trend(*samples: Reading | None) -> CheckHistory:
    """Return a history that ends with these samples."""
    return CheckHistory("http", (*[None] * (SAMPLES - len(samples)), *samples))


def sparkline(history: CheckHistory) -> str:
    """The drawing, on the page."""
    checks = (Check("process", PASS, datetime.now(UTC), True), Check("http", PASS, datetime.now(UTC), True))
    page = section("checks", **checklist(checks, (CheckHistory("process", ()), history)))
    return page.partition('<th scope="row">http')[2]


def steps(drawn: str) -> list[tuple[str, float, float]]:
    """Return class, width and height of each rectangle; all end at the bottom."""
    found = re.findall(r'<rect class="(\w+)" x="[\d.]+" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/>', drawn)
    assert {32.0} == {float(y) + float(height) for _, y, _, height in found}
    return [(name, float(width), float(height)) for name, _, width, height in found]


def heights(drawn: str) -> list[float]:
    """Return the y of each point of the line; 0 is the top."""
    line = re.search(r'<path d="([^"]+)"', drawn)
    assert line is not None
    return [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", line[1])]


def of(status: CheckStatus, value: float | None = None, unit: str | None = "seconds") -> Reading:
    return Reading(status, value, None if value is None else unit)


def test_a_verdict_is_told_by_its_height() -> None:
    """A failure is higher than a warning, and that is higher than a pass, for readers who see no red and green."""
    drawn = steps(sparkline(trend(of(PASS), of(PASS), of(WARN), of(FAIL), of(PASS))))
    assert [("pass", 4), ("warn", 2), ("fail", 2), ("pass", 2)] == [(name, width) for name, width, _ in drawn]
    tall = {name: height for name, _, height in drawn}
    assert tall["fail"] >= 1.5 * tall["warn"] >= 2.25 * tall["pass"]


def test_where_nobody_looked_is_nothing() -> None:
    """A gap has no rectangle, and none spans it."""
    assert 2 == len(steps(sparkline(trend(of(PASS), None, of(PASS)))))
    assert "no data yet" in sparkline(trend())


def test_one_outlier_leaves_the_others_their_shape() -> None:
    """It is cut, marked, and shown as a figure; the usual values still vary visibly."""
    usual = [of(PASS, 0.003), of(PASS, 0.006)] * 25
    drawn = sparkline(trend(*usual, of(FAIL, 31.0), *usual[:4]))
    assert 1 == drawn.count('class="cut"')
    assert "max 31.0 s</span>" in drawn
    assert "3.0 ms to 31.0 s, the highest are cut off</title>" in drawn
    shape = heights(drawn)
    assert min(shape) == shape[50] == 3.0
    assert shape[0] - shape[1] > 1.5
    whole = sparkline(trend(*usual, of(WARN, 0.02)))
    assert 'class="cut"' not in whole
    assert "cut" not in whole


def test_what_is_free_is_told_by_its_least() -> None:
    """Free space shows its minimum."""
    assert "min 2.0 GB</span>" in sparkline(trend(of(PASS, 2e9, "bytes"), of(PASS, 9e9, "bytes")))


def test_what_is_measured_in_another_unit_is_left_out() -> None:
    """Seconds of silence are not drawn among serials."""
    drawn = sparkline(trend(of(FAIL, 300.0), of(PASS, 2, "serials"), of(PASS, 4, "serials"), of(FAIL)))
    assert "max 4 serials</span>" in drawn
    assert 2 == len(heights(drawn))


def test_nothing_needs_no_figure() -> None:
    """If all values are 0, no extreme is shown."""
    assert "<span></span>" in sparkline(trend(of(PASS, 0, "serials"), of(PASS, 0, "serials")))


def luminance(color: str) -> float:
    digits = color.lstrip("#")
    digits = "".join(2 * c for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["strip-good", "strip-warn", "strip-bad", "soft", "ink"])
def test_it_is_seen_against_its_card(scheme: int, name: str) -> None:
    """The contrast is at least 3:1, as WCAG 1.4.11 requires."""
    colors = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", block))
        for block in re.findall(r":root \{(.*?)\}", assets.read("page.css").decode(), re.DOTALL)
    ][scheme]
    lighter, darker = sorted([luminance(colors["card"]), luminance(colors[name])], reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 3
