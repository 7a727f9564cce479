"""How pages and tables write numbers and names."""

from typing import Final

NARROW: Final = "\u202f"  # Narrow no-break space, between a number and its unit


def percent(share: float | None) -> str:
    """A share as percent with one decimal and no unit; a dash for None."""
    return "\u2013" if share is None else f"{100 * share:.1f}"


def unit(share: float) -> str:
    """A share as percent with its unit."""
    return f"{percent(share)}{NARROW}%"


def signed(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    text = f"{100 * difference:+.1f}".replace("-", "\u2212")
    return "0.0" if text[1:] == "0.0" else text


def number(value: float | None) -> str:
    """A number with thousands separators; a dash for None."""
    return "\u2013" if value is None else f"{value:,}"


def count(value: int, noun: str) -> str:
    """A number with its noun, such as ``1 face`` or ``2 faces``."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def words(name: str) -> str:
    """An attribute's name with spaces."""
    return name.replace("_", " ")


def capitalized(title: str) -> str:
    """A title with a capital first letter; the others stay, so ``F1`` and ``ROC AUC`` do."""
    return title[:1].upper() + title[1:]


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    if seconds < 60:
        return f"{seconds:.1f}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{NARROW}h {minutes:02d}{NARROW}min"
    return f"{minutes}{NARROW}min {rest:02d}{NARROW}s"
