"""The report's plots: SVG drawn by hand, with a title and a description for who cannot see them.

Shapes carry classes that the page's style sheet colours (light, dark and print); no meaning hangs
on colour alone.  Lengths are user units of a view 720 wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedfm_audit.html_report.markup import Child, Markup, element, join
from fedfm_audit.html_report.overview import LedgerView, RoundView
from fedfm_audit.messages import KEYS

MAX_ROUNDS = 500
"""Rounds that a plot shows, the latest ones."""
MAX_LINES = 12
_WIDTH, _LEFT, _RIGHT, _TOP, _HEIGHT = 720, 48, 16, 34, 190
_BOTTOM = 36


@dataclass(frozen=True, slots=True)
class _Frame:
    """Axes of a plot: ``slots`` places side by side, values from 0 to ``top``."""

    slots: int
    top: float

    @property
    def slot(self) -> float:
        return (_WIDTH - _LEFT - _RIGHT) / max(self.slots, 1)

    def x(self, position: float) -> float:
        return _LEFT + self.slot * position

    def y(self, value: float) -> float:
        return _TOP + _HEIGHT * (1 - min(value, self.top) / self.top)

    def axes(self, labels: Sequence[str], x_title: str, y_title: str) -> Markup:
        base = self.y(0)
        parts: list[Child] = []
        for tick in _ticks(self.top):
            height = self.y(tick)
            parts.append(_line(_LEFT, height, _WIDTH - _RIGHT, height, "grid"))
            parts.append(_text(_LEFT - 6, height + 4, f"{tick:g}", "tick", "end"))
        every = max(1, math.ceil(len(labels) / 20))
        for position, label in enumerate(labels):
            if position % every == 0:
                parts.append(_text(self.x(position + 0.5), base + 15, label, "tick", "middle"))
        parts.append(_line(_LEFT, base, _WIDTH - _RIGHT, base, "axis"))
        parts.append(_text((_LEFT + _WIDTH) / 2, base + 31, x_title, "tick", "middle"))
        parts.append(_text(_LEFT - 6, 12, y_title, "tick", "start"))
        return join(parts)


def participation_chart(rounds: Sequence[RoundView], min_accepted: int) -> Markup:
    """Per round: updates accepted, clients removed, and those invited that are neither.  In rounds
    that make a key, those who dealt it stand for the accepted."""
    shown = rounds[-MAX_ROUNDS:]
    invited = max((view.predicate.counts.invited for view in shown), default=0)
    frame = _Frame(len(shown), max(invited, min_accepted, 1) * 1.12)
    parts: list[Child] = [
        frame.axes([str(view.predicate.round) for view in shown], "round", "institutions")
    ]
    for position, view in enumerate(shown):
        parts += _bar(frame, position, view)
    if any(view.predicate.kind != KEYS for view in shown):
        height = frame.y(min_accepted)
        parts.append(_line(_LEFT, height, _WIDTH - _RIGHT, height, "limit"))
    legend = (
        ("accepted", "accepted (dealt, in rounds that make a key)"),
        ("removed", "removed"),
        ("missing", "invited, no part in the end"),
    )
    parts.append(_swatches(legend))
    outcomes = [view.predicate.outcome for view in shown]
    ended = ", ".join(
        f"{outcomes.count(name)} {name}"
        for name in ("completed", "void", "aborted")
        if name in outcomes
    )
    return _figure(
        "participation",
        "Participation in each round",
        f"Stacked bars, one for each of {len(shown)} rounds ({ended}), of at most {invited} "
        f"institutions invited. The dashed line is the fewest updates a sum may have, "
        f"{min_accepted}. A cross marks a round that did not complete. The table of rounds has the "
        "numbers.",
        parts,
    )


def epsilon_chart(ledgers: Sequence[LedgerView], budget: float, rounds: int) -> Markup:
    """Epsilon spent after each round, one line for institutions that spent alike, and the budget.

    An infinite epsilon ends at the upper edge.
    """
    last = max([rounds, *(number for view in ledgers for number, _ in view.points)])
    spent = [epsilon for view in ledgers for _, epsilon in view.points if math.isfinite(epsilon)]
    frame = _Frame(max(last, 1), max([budget, *spent]) * 1.12)
    labels = [str(number) for number in range(1, last + 1)]
    parts: list[Child] = [frame.axes(labels, "round", "epsilon")]
    alike: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for view in ledgers:
        alike.setdefault(view.points, []).append(view.institution)
    ranked = sorted(alike.items(), key=lambda item: -(item[0][-1][1] if item[0] else 0.0))
    legend = []
    for number, (points, names) in enumerate(ranked[:MAX_LINES]):
        who = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more alike"
        legend.append((f"series s{number % 6} d{number // 6}", who))
        parts.append(_steps(frame, points, last, f"series s{number % 6} d{number // 6}", who))
    height = frame.y(budget)
    parts.append(_line(_LEFT, height, _WIDTH - _RIGHT, height, "limit"))
    parts.append(_text(_WIDTH - _RIGHT, height - 5, f"budget {budget:g}", "tick", "end"))
    rows = join(
        join(
            (
                _line(_LEFT, _full_height() + 16 * row, _LEFT + 24, _full_height() + 16 * row, css),
                _text(_LEFT + 32, _full_height() + 16 * row + 4, who, "tick", "start"),
            )
        )
        for row, (css, who) in enumerate(legend)
    )
    parts.append(rows)
    omitted = len(ranked) - len(legend)
    highest = max((view.epsilon for view in ledgers), default=0.0)
    return _figure(
        "epsilon",
        "Privacy spent by each institution",
        f"Lines of epsilon over rounds, recomputed from the ledgers of {len(ledgers)} "
        f"institutions; the highest ends at {_epsilon(highest)}, the dashed line is the budget, "
        f"{budget:g}." + (f" {omitted} lines below these are left out." if omitted else ""),
        parts,
        extra=16 * len(legend),
    )


def _bar(frame: _Frame, position: int, view: RoundView) -> list[Child]:
    counts, keys = view.predicate.counts, view.predicate.kind == KEYS
    good = counts.dealers if keys else counts.accepted
    width = max(min(frame.slot * 0.72, 72.0), 0.4)
    left = frame.x(position + 0.5) - width / 2
    parts: list[Child] = []
    below = 0
    rest = max(0, counts.invited - good - counts.removed)
    for css, count in (("accepted", good), ("removed", counts.removed), ("missing", rest)):
        if count:
            top = frame.y(below + count)
            height = frame.y(below) - top
            parts.append(
                element("rect", class_=css, x=left, y=top, width=width, height=max(height, 0.0))
            )
        below += count
    said = (
        f"round {view.predicate.round} ({view.predicate.kind}), {view.predicate.outcome}: {good} "
        f"{'dealt' if keys else 'accepted'}, {counts.removed} removed of {counts.invited} invited"
    )
    if view.predicate.outcome != "completed":
        parts.append(
            _text(frame.x(position + 0.5), frame.y(below) - 4, "\N{MULTIPLICATION SIGN}", "cross")
        )
    return [element("g", element("title", said), *parts)]


def _steps(
    frame: _Frame, points: Sequence[tuple[int, float]], last: int, css: str, who: str
) -> Markup:
    """A line that rises where a round was charged and runs level to the end."""
    base = frame.y(0)
    path = [f"M{frame.x(0):.2f} {base:.2f}"]
    for number, epsilon in points:
        path.append(f"H{frame.x(max(0, number - 0.5)):.2f}")
        path.append(f"V{frame.y(epsilon):.2f}")
    path.append(f"H{frame.x(last):.2f}")
    end = _epsilon(points[-1][1]) if points else "0"
    return element(
        "path", element("title", f"{who}: epsilon {end}"), class_=css, d=" ".join(path), fill="none"
    )


def _swatches(legend: Sequence[tuple[str, str]]) -> Markup:
    parts: list[Child] = []
    left = float(_LEFT + 90)
    for css, label in legend:
        parts.append(element("rect", class_=css, x=left, y=4, width=11, height=11))
        parts.append(_text(left + 16, 13, label, "tick", "start"))
        left += 30 + 6.2 * len(label)
    return join(parts)


def _figure(
    name: str, title: str, description: str, parts: Sequence[Child], *, extra: int = 0
) -> Markup:
    svg = element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *parts,
        viewBox=f"0 0 {_WIDTH} {_full_height() + extra}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_="plot",
    )
    return element("figure", svg, element("figcaption", f"{title}. {description}"), id=name)


def _full_height() -> int:
    return _TOP + _HEIGHT + _BOTTOM + 8


def _ticks(top: float) -> list[float]:
    """Round numbers from 0 up to ``top``, about five of them."""
    raw = top / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    if top >= 5:
        step = max(1.0, step)
    return [step * count for count in range(math.floor(top / step) + 1)]


def _epsilon(value: float) -> str:
    return "infinity" if math.isinf(value) else f"{value:.4g}"


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    return element("line", class_=css, x1=x1, y1=y1, x2=x2, y2=y2)


def _text(x: float, y: float, text: str, css: str, anchor: str = "middle") -> Markup:
    return element("text", text, class_=css, x=x, y=y, text_anchor=anchor)
