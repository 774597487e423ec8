"""A small drawing kit: axes with linear or log-odds scales, and marks, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

Scale = Callable[[float], float]


def linear(low: float, high: float) -> Scale:
    """Maps [low, high] to [0, 1]."""
    return lambda value: (value - low) / (high - low)


def log_odds(low: float, high: float) -> Scale:
    """Maps probabilities in [low, high] to [0, 1], evenly in log odds; what lies outside goes to the border."""
    bottom, top = logit(low), logit(high)
    return lambda value: (logit(min(max(value, low), high)) - bottom) / (top - bottom)


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


#: Probabilities that make good ticks on a log-odds scale; where there is no room for all, the first ones stay.
_TICKS = (0.01, 0.1, 0.5, 0.9, 0.99, 0.001, 0.0001, 0.999, 0.03, 0.25, 0.75, 0.97, 0.003, 0.0003, 0.02, 0.05)
_TICKS += (0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.95, 0.98, 0.005, 0.002, 0.0005, 0.0002, 0.015, 0.15)


def odds_ticks(low: float, high: float, apart: float = 0.11) -> list[tuple[float, str]]:
    """Round probabilities between `low` and `high` with their labels, at least a share `apart` of the axis apart.

    Examples:
        >>> [text for _, text in odds_ticks(0.005, 0.3)]
        ['0.5%', '1%', '3%', '5%', '10%', '25%']
    """
    gap = apart * (logit(high) - logit(low))
    shown: list[float] = []
    for tick in _TICKS:
        if low <= tick <= high and all(abs(logit(tick) - logit(other)) >= gap for other in shown):
            shown.append(tick)
    return [(tick, f"{100 * tick:g}%") for tick in sorted(shown)]


class Plot:
    """One chart. Coordinates are data; `x` and `y` map them to [0, 1].

    Args:
        title: What a screen reader says.
        x, y: Scales of the axes.
        width, height: In pixels; the picture shrinks with its column.
    """

    left, right, top, bottom = 58, 16, 14, 48

    def __init__(self, title: str, x: Scale, y: Scale, width: int = 450, height: int = 360):
        self.x, self.y, self.width, self.height = x, y, width, height
        self.parts = [f"<title>{escape(title)}</title>"]

    def px(self, value: float) -> float:
        return round(self.left + self.x(value) * (self.width - self.left - self.right), 1)

    def py(self, value: float) -> float:
        return round(self.height - self.bottom - self.y(value) * (self.height - self.top - self.bottom), 1)

    def axes(
        self,
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]],
        x_label: str,
        y_label: str,
    ) -> None:
        """Grid, tick labels and axis titles."""
        floor, wall = self.height - self.bottom, self.width - self.right
        for value, text in x_ticks:
            self.parts.append(f'<path class="grid" d="M{self.px(value)} {self.top}V{floor}"/>')
            self.text(self.px(value), floor + 17, text, "tick", "middle")
        for value, text in y_ticks:
            self.parts.append(f'<path class="grid" d="M{self.left} {self.py(value)}H{wall}"/>')
            self.text(self.left - 8, self.py(value) + 4, text, "tick", "end")
        self.text((self.left + wall) / 2, self.height - 8, x_label, "axis", "middle")
        middle = (self.top + floor) / 2
        turned = f'transform="rotate(-90 14 {middle:.0f})"'
        self.text(14, middle, y_label, "axis", "middle", turned)

    def line(self, points: Sequence[tuple[float, float]], style: str, tip: str = "", more: str = "") -> None:
        """A polyline; `style` is one or more CSS classes, `tip` shows under the pointer, `more` are attributes."""
        self.parts.append(f'<path class="line {style}" d="M{self._path(points)}" {more}>{_tip(tip)}</path>')

    def area(self, outline: Sequence[tuple[float, float]], style: str, tip: str = "", more: str = "") -> None:
        """What an outline encloses."""
        self.parts.append(f'<path class="{style}" d="M{self._path(outline)}Z" {more}>{_tip(tip)}</path>')

    def steps(self, points: Sequence[tuple[float, float]], style: str, tip: str = "") -> None:
        """A line that rises before it goes right."""
        path = f"M{self.px(points[0][0])} {self.py(points[0][1])}"
        path += "".join(f"V{self.py(y)}H{self.px(x)}" for x, y in points[1:])
        self.parts.append(f'<path class="line {style}" d="{path}">{_tip(tip)}</path>')

    def dot(self, x: float, y: float, style: str, radius: float = 4.5, tip: str = "", more: str = "") -> None:
        circle = f'<circle class="dot {style}" {more} cx="{self.px(x)}" cy="{self.py(y)}" r="{radius}">'
        self.parts.append(f"{circle}{_tip(tip)}</circle>")

    def band(self, x0: float, x1: float, y0: float, y1: float, style: str, tip: str = "") -> None:
        """A filled rectangle."""
        left, top = self.px(x0), self.py(y1)
        size = f'width="{self.px(x1) - left:.1f}" height="{self.py(y0) - top:.1f}"'
        self.parts.append(f'<rect class="{style}" x="{left}" y="{top}" {size}>{_tip(tip)}</rect>')

    def label(self, x: float, y: float, text: str, style: str = "note", anchor: str = "start", up: float = 0) -> None:
        """Text at a place of the data, `up` pixels above it."""
        self.text(self.px(x), self.py(y) - up, text, style, anchor)

    def text(self, x: float, y: float, text: str, style: str, anchor: str, more: str = "") -> None:
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}'
        self.parts.append(f'<text class="{style}" {place}>{escape(text)}</text>')

    def _path(self, points: Sequence[tuple[float, float]]) -> str:
        return "L".join(f"{self.px(x)} {self.py(y)}" for x, y in points)

    def svg(self) -> str:
        box = f'viewBox="0 0 {self.width} {self.height}" role="img" xmlns="http://www.w3.org/2000/svg"'
        return f"<svg {box}>{''.join(self.parts)}</svg>"


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
