"""What the tests of the report page do with it in a browser, and how they see what it shows."""

from __future__ import annotations

import re
import time
from typing import Any

LOSS, FEATURES, GRADIENTS = "loss", "feature_cos_between", "grad_cos_within"


def until(page: Any, condition: str) -> None:
    """Wait for it; wait_for_function would need an eval, which the page forbids."""
    deadline = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(20)


def box(page: Any, name: str) -> Any:
    return page.get_by_role("checkbox", name=name, exact=True)


def chart(page: Any, column: str) -> Any:
    return page.locator(f'.chart[data-column="{column}"]')


def columns(page: Any) -> list[str]:
    found: list[str] = page.locator(".chart").evaluate_all("all => all.map(c => c.dataset.column)")
    return found


def label(page: Any, column: str) -> str:
    return str(chart(page, column).get_attribute("aria-label"))


def seen_steps(page: Any, column: str = LOSS) -> tuple[int, int]:
    found = re.search(r"steps ([\d,]+) to ([\d,]+)", label(page, column))
    assert found is not None
    first, last = (int(text.replace(",", "")) for text in found.groups())
    return first, last


def drag(page: Any, column: str, start: float, end: float) -> None:
    """Over a chart with the mouse, from one share of its width to another."""
    area = chart(page, column).locator(".u-over")
    area.scroll_into_view_if_needed()
    place = area.bounding_box()
    page.mouse.move(place["x"] + start * place["width"], place["y"] + 60)
    page.mouse.down()
    page.mouse.move(place["x"] + end * place["width"], place["y"] + 70, steps=3)
    page.mouse.up()


def hover(page: Any, column: str, step: float) -> str:
    """The read-out of a chart, with the mouse at a step."""
    area = chart(page, column).locator(".u-over")
    area.scroll_into_view_if_needed()
    place = area.bounding_box()
    plot = f"app.charts.find((one) => one.column === '{column}').plot"
    left = page.evaluate(f"{plot}.valToPos({step}, 'x')")
    page.mouse.move(place["x"] + left, place["y"] + 30)
    return str(chart(page, column).locator(".readout").inner_text())


# Of a copy, since Chromium advises against reading back a canvas that is drawn on.
_INKED = """(canvas, color) => {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const wanted = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  const { data } = context.getImageData(0, 0, copy.width, copy.height);
  const near = (at) => wanted.every((part, of) => Math.abs(part - data[at + of]) < 12);
  let count = 0;
  for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 200 && near(at)) count++;
  return count;
}"""


def inked(page: Any, column: str, color: str) -> int:
    """Pixels of a colour, about, in the drawing of a chart."""
    return int(chart(page, column).locator("canvas").evaluate(_INKED, color))


# The shade is faint: almost all of its colour is that of the page behind it.
_SHADED = """(canvas) => {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const { data } = context.getImageData(0, 0, copy.width, copy.height);
  let count = 0;
  for (let at = 3; at < data.length; at += 4) if (data[at] > 5 && data[at] < 30) count++;
  return count / (copy.width * copy.height);
}"""


def shaded(page: Any, column: str) -> float:
    """Share of a chart that is shaded as the first phase."""
    return float(chart(page, column).locator("canvas").evaluate(_SHADED))


def color_of(page: Any, site: int, theme: str = "light") -> str:
    return str(page.evaluate(f"app.data.runs[0].colors.{theme}[{site}]"))
