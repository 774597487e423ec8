"""Events as the tokens of the Context Clues family: the format and the rules of hf_ehr's code tokenizers.

`tokenizer_config.json` lists the tokens. Special ones come first, then the entries in the order of the file. An event
gives one token or none; it is never split, and never skipped because it was there before. An entry stands for

- `code`: the code, whatever its value;
- `numerical_range`: the code with a number between `range_start` and `range_end`, both included; the first that fits;
- `categorical`: the code with a text that is one of `categories`; the first that fits.

Where a code has ranges, a number that fits none gives no token, though the code may have one; likewise a text.

Reference: Wornow et al. 2025, "Context Clues: Evaluating Long Context Models for Clinical Prediction Tasks on EHRs",
and `CLMBRTokenizer` and `CookbookTokenizer` of https://github.com/som-shahlab/hf_ehr.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ehr_tl import schema
from ehr_tl.errors import CheckpointError

SPECIAL = ("[BOS]", "[EOS]", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
BOS, EOS, _UNK, _SEP, PAD, CLS, _MASK = range(len(SPECIAL))

#: What an event may give instead of a token: its code is not known, or its code is and its value has no token.
UNKNOWN_CODE, UNKNOWN_VALUE = -1, -2

#: Events that have a code of their own in OMOP. The published vocabularies begin with the birth.
_OMOP = {
    schema.BIRTH: "SNOMED/3950001",
    f"{schema.GENDER}//female": "Gender/F",
    f"{schema.GENDER}//male": "Gender/M",
    f"{schema.VISIT_START}//AMB": "Visit/OP",
    f"{schema.VISIT_START}//EMER": "Visit/ER",
    f"{schema.VISIT_START}//IMP": "Visit/IP",
}

#: The published vocabulary writes this for the unit of every range, and heeds no unit.
_NO_UNIT = (None, "None")


def code_names(codes: Iterable[str]) -> Iterator[str]:
    """What a vocabulary may call an event: each of its codes as it stands (MEDS), then as OMOP writes it.

    Examples:
        >>> list(code_names(["SNOMED//22298006", "GENDER//female"]))
        ['SNOMED//22298006', 'SNOMED/22298006', 'GENDER//female', 'Gender/F']
    """
    for code in codes:
        yield code
        yield _OMOP.get(code) or code.replace("//", "/", 1)


@dataclass
class _Entries:
    """The tokens of one code, each kind in the order of the file."""

    code: list[int] = field(default_factory=list)
    ranges: list[tuple[float, float, str | None, int]] = field(default_factory=list)
    categories: list[tuple[list[str], int]] = field(default_factory=list)


class CodeTokenizer:
    """The tokens of a `tokenizer_config.json`.

    Attributes:
        tokens: The name of every id, as hf_ehr writes it.

    Args:
        entries: Its `tokens`.

    Raises:
        CheckpointError: An entry is not of the format.
    """

    def __init__(self, entries: list[Mapping[str, Any]]):
        self.tokens = SPECIAL + tuple(_token(entry, place) for place, entry in enumerate(entries))
        identifier = {token: i for i, token in enumerate(self.tokens)}  # of tokens of one name the last counts
        self._entries: dict[str, _Entries] = {}
        for entry, token in zip(entries, self.tokens[len(SPECIAL) :]):
            known, of = self._entries.setdefault(entry["code"], _Entries()), entry.get("tokenization") or {}
            if entry["type"] == "code":
                known.code.append(identifier[token])
            elif entry["type"] == "categorical":
                known.categories.append((of["categories"], identifier[token]))
            else:
                known.ranges.append((of["range_start"], of["range_end"], of.get("unit"), identifier[token]))
        ranges = (each for known in self._entries.values() for each in known.ranges)
        self._units = any(unit not in _NO_UNIT for _, _, unit, _ in ranges)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def codes(self) -> frozenset[str]:
        """Codes of events that it knows, as MEDS writes them."""
        ours = {name: code for code, name in _OMOP.items()}
        meds = (ours.get(name) or name.replace("/", "//", 1) for name in self._entries)
        return frozenset([*self._entries, *meds])

    def identify(self, codes: Iterable[str], number: float | None, text: str | None, unit: str | None) -> int:
        """The id of an event, or `UNKNOWN_CODE`, or `UNKNOWN_VALUE`.

        Args:
            codes: Its code, then its other codes. The first that the vocabulary has, under any name, decides.
            number: Its numeric value, None for none.
            text: Its text; only heeded without a number.
            unit: Its unit, heeded only if the vocabulary's ranges have units.
        """
        known = next((self._entries[name] for name in code_names(codes) if name in self._entries), None)
        if known is None:
            return UNKNOWN_CODE
        if known.ranges and number is not None:
            fits = (i for start, end, of, i in known.ranges if start <= number <= end and self._heeds(of, unit))
        elif known.categories and number is None and text:
            fits = (i for categories, i in known.categories if text in categories)
        else:
            fits = iter(known.code)
        return next(fits, UNKNOWN_VALUE)

    def _heeds(self, expected: str | None, unit: str | None) -> bool:
        return not self._units or unit == expected


def _token(entry: Any, place: int) -> str:
    """The name of an entry, which tells it from others."""
    try:
        code, of = entry["code"], entry.get("tokenization") or {}
        if not isinstance(code, str):
            raise TypeError
        if entry["type"] == "code":
            return code
        if entry["type"] == "categorical" and isinstance(of["categories"], list):
            return f"{code} || {','.join(of['categories'])}"
        if entry["type"] == "numerical_range":
            start, end = of["range_start"], of["range_end"]
            start + 0.0, end + 0.0  # are they numbers?
            return f"{code} || {of.get('unit')} || {start} - {end}"
    except (AttributeError, KeyError, TypeError):
        pass
    raise CheckpointError(
        f"tokenizer_config.json: entry {place} of tokens is none of hf_ehr's",
        expected="type code, numerical_range (unit, range_start, range_end) or categorical (categories)",
        fix="take the file that belongs to the weights",
    )
