"""Small parts of a page: numbers, words and tables as HTML, and the page around them."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from common.page.style import STYLE

NARROW: Final = "\u202f"
"""Narrow no-break space, between a number and its unit."""


def percent(value: float | None) -> str:
    """A share as percent with one decimal and no unit; a dash for None."""
    return "\u2013" if value is None else f"{100 * value:.1f}"


def signed(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    text = f"{100 * value:+.1f}".replace("-", "\u2212")
    return "0.0" if text[1:] == "0.0" else text


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts whose first column names the row."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def section(name: str, title: str, body: str) -> str:
    """A section with a heading; `body` is HTML."""
    return f'<section id="{name}"><h2>{title}</h2>{body}</section>'


def scroll(table: str) -> str:
    """A box in which a wide table scrolls sideways."""
    return f'<div class="scroll" tabindex="0">{table}</div>'


def words(name: str) -> str:
    """An attribute's name with spaces, escaped."""
    return escape(name.replace("_", " "))


def count(number: int, noun: str) -> str:
    """A number with its noun, such as ``1 face`` or ``2 faces``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def unit(share: float) -> str:
    """A share as percent with its unit."""
    return f"{percent(share)}{NARROW}%"


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    if seconds < 60:
        return f"{seconds:.1f}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}{NARROW}h {minutes:02d}{NARROW}min" if hours else f"{minutes}{NARROW}min {rest:02d}{NARROW}s"
    )


def document(title: str, header: str, sections: Iterable[str]) -> str:
    """A whole page that loads nothing.

    Args:
        title: text.
        header, sections: HTML; empty sections are left out.
    """
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>"
    )
    return "\n".join([head, header, "<main>", *filter(None, sections), "</main></body></html>\n"])
