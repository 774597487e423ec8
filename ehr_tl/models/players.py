"""Between whom a transformer's logit is divided: age, gender, single codes, and families of the other codes.

The codes that get a place of their own are chosen while reading a record from its beginning, each at its first
occurrence. So whatever comes after a prediction time changes nothing of that row's explanation, and all rows of a
subject can be explained in the same passes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ehr_tl.schema import AGE, GENDER, GROUP
from ehr_tl.tokens.records import FAMILIES, Records

_DEMOGRAPHIC = (AGE, GENDER)
_FAMILIES = (*(f"{GROUP}//other {family}" for family in FAMILIES[:-1]), f"{GROUP}//everything else")
_ONE_FAMILY = (f"{GROUP}//other events",)  # where there is room for no more


def _groups(count: int) -> tuple[str, ...]:
    """Names of the places that are no single code's, when there are `count` places."""
    families = _FAMILIES if count >= len(_DEMOGRAPHIC) + len(_FAMILIES) else _ONE_FAMILY
    return _DEMOGRAPHIC + families


@dataclass(frozen=True)
class Players:
    """Who is who in one subject's record.

    Attributes:
        of_code: Player of each code that occurs (position in `Records.codes`).
        count: Places, taken or not.
    """

    of_code: dict[int, int]
    count: int

    def parts(self, records: Records, first: int, last: int) -> list[tuple[int, str, str]]:
        """Player, kind and code (as `models.base.PARTS`) of those who have a part in the events `first` to `last`."""
        found: dict[int, Counter[str]] = {}
        for code, count in zip(*np.unique(records.code[first:last], return_counts=True)):
            found.setdefault(self.of_code[int(code)], Counter())[records.codes[code]] += int(count)
        parts = [(place, "demographic", name) for place, name in enumerate(_DEMOGRAPHIC)]
        for player, counts in sorted(found.items()):
            if len(counts) == 1:
                (code, count) = next(iter(counts.items()))
                parts.append((player, "event" if count == 1 else "feature", code))
            else:
                parts.append((player, "feature", _groups(self.count)[player]))
        return parts


def choose_players(records: Records, subject: int, rank: np.ndarray, count: int) -> Players:
    """Divides a subject's codes among at most `count` players.

    Half of the single places are kept for the codes that matter most to the model in general; so an early code of
    middling weight does not take the place of a later one of great weight.

    Args:
        records: The events.
        subject: Position of the subject.
        rank: Place of each code among all that the models know, the one that matters most first, shape (C,). It must
            not depend on `records`.
        count: Upper bound of the players.
    """
    groups = _groups(count)
    families, places = len(groups) - len(_DEMOGRAPHIC), count - len(groups)
    first, last = records.first_event[subject], records.first_event[subject + 1]
    codes, at = np.unique(records.code[first:last], return_index=True)
    of_code: dict[int, int] = {}
    single: dict[str, int] = {}
    for position in np.argsort(at, kind="stable"):
        code = int(codes[position])
        name, taken = records.codes[code], len(single)
        limit = places if rank[code] < 2 * places else places // 2 if rank[code] < 8 * places else 0
        if name not in single and taken < limit:
            single[name] = len(groups) + taken
        family = len(_DEMOGRAPHIC) + int(records.family[first + at[position]]) % families
        of_code[code] = single.get(name, family)
    return Players(of_code, count)
