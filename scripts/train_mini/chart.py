"""Precision against compression as an SVG of 800 by 500, written by hand: no library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 800, 500
LEFT, RIGHT, TOP, BOTTOM = 72, 560, 56, 430
"""Edges of the plot; the legend stands right of it."""

X_TICKS = (0.25, 0.5, 1, 2, 4, 8, 16)
X_RANGE = (0.22, 22.0)
Y_TICKS = range(0, 101, 20)

INK, SOFT, GRID = "#222222", "#666666", "#e3e3e3"
_LEGEND_STEP = 24


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one kind.

    Attributes:
        name: in the legend.
        points: (text tokens per vision token, precision from 0 to 1), by the first.
        colour: as SVG writes it.
        dashed: drawn with dashes and square marks: somebody else's figures.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


def precision_chart(curves: Sequence[Curve], *, title: str) -> str:
    """Draw curves; points outside the axes are drawn at their edge."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 30, title, size=17, colour=INK),
        *_axes(),
    ]
    for row, curve in enumerate(curves):
        parts += _drawn(curve)
        parts += _legend(curve, TOP + 14 + row * _LEGEND_STEP)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes() -> list[str]:
    parts = []
    for tick in X_TICKS:
        x = _x(tick)
        parts.append(_line(x, TOP, x, BOTTOM, GRID))
        parts.append(_text(x, BOTTOM + 20, f"{tick:g}", anchor="middle"))
    for tick in Y_TICKS:
        y = _y(tick / 100)
        parts.append(_line(LEFT, y, RIGHT, y, GRID))
        parts.append(_text(LEFT - 10, y + 4, f"{tick}", anchor="end"))
    parts.append(_line(LEFT, BOTTOM, RIGHT, BOTTOM, SOFT))
    parts.append(_line(LEFT, TOP, LEFT, BOTTOM, SOFT))
    middle = (LEFT + RIGHT) / 2
    label = "compression: text tokens per vision token (log scale)"
    parts.append(_text(middle, BOTTOM + 48, label, anchor="middle"))
    label, x, y = "precision, %", 26, (TOP + BOTTOM) / 2
    turned = _text(0, 0, label, anchor="middle")
    parts.append(f'<g transform="translate({x} {y:g}) rotate(-90)">{turned}</g>')
    return parts


def _drawn(curve: Curve) -> list[str]:
    places = [(_x(x), _y(y)) for x, y in curve.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return [
        f'<polyline points="{path}" fill="none" {_stroke(curve)}/>',
        *(_mark(curve, x, y) for x, y in places),
    ]


def _legend(curve: Curve, y: float) -> list[str]:
    x = RIGHT + 20
    return [
        f'<path d="M{x} {y}h28" fill="none" {_stroke(curve)}/>',
        _mark(curve, x + 14, y),
        _text(x + 36, y + 4, curve.name),
    ]


def _stroke(curve: Curve) -> str:
    dashes = ' stroke-dasharray="6 4"' if curve.dashed else ""
    return f'stroke="{curve.colour}" stroke-width="2"{dashes}'


def _mark(curve: Curve, x: float, y: float) -> str:
    if curve.dashed:
        return (
            f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" '
            f'fill="{curve.colour}"/>'
        )
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{curve.colour}"/>'


def _line(x0: float, y0: float, x1: float, y1: float, colour: str) -> str:
    return f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="{colour}" fill="none"/>'


def _text(
    x: float, y: float, text: str, *, size: int = 13, anchor: str = "start", colour: str = INK
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def _x(compression: float) -> float:
    low, high = map(math.log, X_RANGE)
    share = (math.log(max(compression, X_RANGE[0])) - low) / (high - low)
    return LEFT + min(share, 1.0) * (RIGHT - LEFT)


def _y(precision: float) -> float:
    return BOTTOM - min(max(precision, 0.0), 1.0) * (BOTTOM - TOP)
