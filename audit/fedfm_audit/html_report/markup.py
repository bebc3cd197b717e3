"""HTML and SVG built from pieces that escape whatever they are given.

Names, labels and reasons in a bundle are chosen by whoever made it.  Only :class:`Markup` passes
through; every other text is escaped here, and characters that do not print (controls, bidirectional
overrides, zero-width ones) become visible escapes, so that no text can pose as another.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from fedfm_audit.report import printable

_VOID = frozenset({"meta", "br"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = Markup | str | int


def escape(text: Child) -> Markup:
    """``text`` as HTML; what is Markup stays as it is."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(printable(str(text)), quote=True))


def join(parts: Iterable[Child]) -> Markup:
    """All parts, one after the other."""
    return Markup("".join(escape(part) for part in parts))


def element(tag: str, /, *children: Child, **attributes: str | int | float | None) -> Markup:
    """One element.  In attribute names a trailing underscore falls away (``class_``) and others
    become hyphens; numbers are written with at most two decimals; None leaves one out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(children)}</{tag}>")


def table(
    caption: Child,
    head: Iterable[Child],
    rows: Iterable[Iterable[Child]],
    *,
    numeric: Iterable[int] = (),
) -> Markup:
    """A table with a caption; the first cell of a row is its header, ``numeric`` columns are set
    flush right."""
    right = frozenset(numeric)

    def css(column: int) -> str | None:
        return "number" if column in right else None

    heads = [
        element("th", cell, scope="col", class_=css(column)) for column, cell in enumerate(head)
    ]
    body = []
    for row in rows:
        first, *rest = row
        cells = [element("th", first, scope="row")]
        cells += [
            element("td", cell, class_=css(column)) for column, cell in enumerate(rest, start=1)
        ]
        body.append(element("tr", *cells))
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
    )


def definitions(rows: Iterable[tuple[Child, Child]]) -> Markup:
    """A list of names and what they mean."""
    return element(
        "dl", *(join((element("dt", name), element("dd", value))) for name, value in rows)
    )


def bullets(items: Iterable[Child]) -> Markup:
    """An unordered list."""
    return element("ul", *(element("li", item) for item in items))


def paragraph(*parts: Child, class_: str | None = None) -> Markup:
    """A paragraph."""
    return element("p", *parts, class_=class_)


def code(text: Child) -> Markup:
    """A hash, a key or a command inside a line."""
    return element("code", text)


def _number(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
