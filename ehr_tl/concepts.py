"""What an event may be called: its code, the hospital's other codes for the same fact, and everything above these.

A *concept* is a code together with the other codes of the event. Two events of one code may differ in them: a hospital
that writes SNOMED and ICD-10 side by side does not always write the same pair. So other codes belong to the event, and
only what is true of a code wherever it stands belongs to the code (`parent_codes` of `metadata/codes.parquet`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import polars as pl

#: System of concepts that have a text and no coding: what somebody typed.
TEXT = "TEXT"

#: A code that fewer subjects have is counted, and named nowhere but in the events themselves: it may point at somebody.
FEWEST_SUBJECTS = 5

#: Code systems of fewer subjects, counted together: of a system that only records name, the URL may be somebody's name.
OTHER_SYSTEMS = "other systems"

_BETWEEN = "\n"


def concept() -> pl.Expr:
    """The concept of each event as one text: its code, and below it the other codes, if it has any."""
    others = pl.col("other_codes").list.join(_BETWEEN)
    return pl.concat_str("code", others, separator=_BETWEEN, ignore_nulls=True)


def names_of(concept: str) -> list[str]:
    """Code and other codes of a concept.

    Examples:
        >>> names_of("SNOMED//22298006"), names_of("SNOMED//22298006\\nICD10GM//I21.4")
        (['SNOMED//22298006'], ['SNOMED//22298006', 'ICD10GM//I21.4'])
    """
    return concept.split(_BETWEEN)


def parts(code: str, systems: Collection[str]) -> list[str]:
    """The parts of an event's code that have a system of their own; what stands before the first is left out.

    Args:
        code: The code of an event.
        systems: Names of all systems that may occur.

    Examples:
        >>> parts("VISIT_TYPE//SNOMED//185349003", {"SNOMED"}), parts("GENDER//female", {"SNOMED"})
        (['SNOMED//185349003'], [])
        >>> parts("LOINC//72166-2//LOCAL//S//1", {"LOINC", "LOCAL"})
        ['LOINC//72166-2', 'LOCAL//S//1']
    """
    words = code.split("//")
    starts: list[int] = []
    for place in range(len(words) - 1):  # a system is followed by a code, which may bear the name of one
        if words[place] in systems and (not starts or place > starts[-1] + 1):
            starts.append(place)
    return ["//".join(words[start:end]) for start, end in zip(starts, [*starts[1:], len(words)])]


def system(code: str, systems: Collection[str]) -> str:
    """The system that an event's code counts for: that of its first part, else what stands first.

    Examples:
        >>> system("VISIT_TYPE//SNOMED//185349003", {"SNOMED"}), system("GENDER//female", {"SNOMED"})
        ('SNOMED', 'GENDER')
    """
    return next(iter(parts(code, systems)), code).partition("//")[0]


@dataclass(frozen=True)
class Hierarchy:
    """Which codes lie above which.

    Attributes:
        parents: Code -> more general codes, for every code that has any.
    """

    parents: Mapping[str, tuple[str, ...]]

    def names(self, concept: str) -> Iterator[str]:
        """Everything that a concept may be called: its code, its other codes, all above them."""
        return self.above(*names_of(concept))

    def above(self, *codes: str) -> Iterator[str]:
        """`codes`, then their parents, then theirs, each once; a circle ends where it closes.

        Examples:
            >>> list(Hierarchy({"E11.9": ("E11",), "E11": ("E",), "E": ("E11",)}).above("E11.9"))
            ['E11.9', 'E11', 'E']
        """
        seen, queue = set(codes), list(dict.fromkeys(codes))
        for code in queue:
            yield code
            for parent in self.parents.get(code, ()):
                if parent not in seen:
                    seen.add(parent)
                    queue.append(parent)
