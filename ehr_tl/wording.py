"""Words for a terminal and for errors."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    Examples:
        >>> counted(1, "person", "people"), counted(3000, "row")
        ('1 person', '3,000 rows')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
