"""One scale for the values of each code: units are converted, and what cannot be is told from what can.

What becomes of a measurement depends on its code, value and unit and on the table `scales.yaml`, which an adapter may
add to; never on other records.

- A unit that can be converted to the code's own is. Fahrenheit becomes Celsius, and moles become grams where the table
  knows the substance.
- A code that `meets` another becomes that one: glucose in mmol/L becomes glucose in mg/dL, whose code differs in LOINC.
- Of a code that is in no table only the spelling is mended, and Fahrenheit becomes Celsius. No unit is best for all
  codes of one kind: troponin in mg/dL would be as unreadable as glucose in ng/L.
- What was written stays in `source_value` and `source_unit` wherever value or unit are not as they were written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import polars as pl
import yaml

from ehr_tl.concepts import FEWEST_SUBJECTS, TEXT
from ehr_tl.config import Within, build
from ehr_tl.convert.ucum import conversion, is_plain, is_ucum, nameless, spelled, unannotated
from ehr_tl.errors import AdapterError
from ehr_tl.schema import IMPLAUSIBLE, UNIT_MISSING, UNIT_UNKNOWN

if TYPE_CHECKING:
    from ehr_tl.convert.adapter import Manifest
    from ehr_tl.convert.codes import Codes, Concept

_TABLE = Path(__file__).with_name("scales.yaml")

_LARGEST = 3.4e38  # that a 32-bit float holds
#: "x10^3/uL", "10E3/uL", "10 (3)/uL": the power of ten as people write it, before the unit that it counts in.
_POWER_OF_TEN = re.compile(r"^[xX\u00d7]?\s*10\s*(?:(?:\*\*|[\^*EexX])\s*\(?|\()(\d{1,2})\)?\s*(?=/)")
#: What follows in a code is what somebody wrote.
_WORDS = rf"(?s)\b{TEXT}//.*"
#: Under these coverage counts the codes of few people, and units that nobody can read: somebody may have typed them.
_OTHER_CODES, _OTHER_UNITS = "other codes", "other units"
_MICRO = str.maketrans({"µ": "u", "μ": "u"})  # the sign and the Greek letter


@dataclass(frozen=True)
class Scale:
    """The scale of a code's values: a row of `scales.yaml`, or of `scales` in an adapter's manifest.

    Attributes:
        unit: UCUM unit that values get, and that a value without one is taken to have.
        name: What is measured, where the export does not say it of a code that is met.
        low, high: What lies beyond these cannot be.
        molar_mass: g/mol, of the substance that is counted where values come in moles.
        charge: Of the ion that is counted where values come in equivalents.
        meets: The code that these values are brought to, with its unit and bounds. If both have a molar mass, a mole of
            the one is taken for a mole of the other.
        equations: Unit -> slope and intercept to `unit`, where a unit stands for another method of measuring.
    """

    unit: str
    name: str | None = None
    low: float = -_LARGEST
    high: float = _LARGEST
    molar_mass: Annotated[float, Within(1, 10_000_000)] | None = None
    charge: Annotated[int, Within(1, 7)] | None = None
    meets: str | None = None
    equations: dict[str, tuple[float, ...]] = field(default_factory=dict)


class Measured(NamedTuple):
    """A measurement as events have it; `concept` stands for its codes."""

    concept: Concept
    numeric_value: float | None
    unit: str | None
    source_value: float | None = None
    source_unit: str | None = None
    value_flag: str | None = None


class _Way(NamedTuple):
    """From what was written to what events have: one for each concept and unit.

    Attributes:
        kept: Value and unit are as they were written.
    """

    concept: Concept
    unit: str | None
    slope: float = 1.0
    intercept: float = 0.0
    low: float = -_LARGEST
    high: float = _LARGEST
    flag: str | None = None
    kept: bool = False


class Units:
    """Brings measurements to the scales of their codes.

    Args:
        manifest: The adapter's; its rows go before those of the table.
        codes: Gives the concepts of codes that are met.
    """

    def __init__(self, manifest: Manifest, codes: Codes):
        table = _table()
        self._scales = {**table.scales, **manifest.scales}
        self._aliases = {**table.units, **manifest.units}
        self._folded = {text.casefold(): unit for text, unit in reversed(self._aliases.items())}
        self._limit = manifest.plausible.value
        self._codes = codes
        self._ways: dict[tuple[Concept, str | None, str | None], _Way] = {}

    def measured(self, concept: Concept, value: float, unit: str | None, words: str | None = None) -> Measured:
        """A value on the scale of its code, or why it has none.

        Args:
            concept: What was measured.
            value: A finite number.
            unit: As it was written; None if it was not.
            words: The unit in words, where the unit itself is a code: read if nobody understands that.
        """
        key = (concept, unit, words)
        way = self._ways.get(key)
        if way is None:
            way = self._ways[key] = self._way(*key)
        if way.flag == UNIT_UNKNOWN:
            return Measured(way.concept, None, None, value, unit, UNIT_UNKNOWN)
        number = value * way.slope + way.intercept
        if not way.low <= number <= way.high or abs(value) >= self._limit:
            return Measured(way.concept, None, None, value, unit, IMPLAUSIBLE)
        if way.kept:
            return Measured(way.concept, value, way.unit)
        return Measured(way.concept, number, way.unit, value, unit, way.flag)

    def changes(self, data: Path) -> dict[str, dict[str, int]]:
        """`units` of coverage.json: code -> what became of values and units -> number of events.

        A code is named if it has a scale, for that is published or the adapter's, or if at least `FEWEST_SUBJECTS`
        subjects have it; all others are counted together.

        Args:
            data: The folder of the shards. No value gets into the counts, and of a unit nothing that may be free text.
        """
        events = pl.scan_parquet(sorted(data.glob("*.parquet")), glob=False)
        changed = events.filter(pl.col("source_value").is_not_null() | pl.col("value_flag").is_not_null())
        changed = changed.with_columns(pl.col("code").str.replace(_WORDS, TEXT))
        subjects = changed.group_by("code").agg(pl.col("subject_id").n_unique()).collect()
        common = {code for code, number in subjects.iter_rows() if number >= FEWEST_SUBJECTS}
        named = {TEXT, *self._scales, *common}
        groups = changed.group_by("code", "source_unit", "unit", "value_flag").len().collect()
        counts: dict[str, Counter[str]] = {}
        for code, written, unit, flag, number in groups.iter_rows():
            what = flag or f"{self._told(written)} -> {self._told(unit)}"
            counts.setdefault(code if code in named else _OTHER_CODES, Counter())[what] += number
        return {code: dict(sorted(counts[code].items())) for code in sorted(counts)}

    def _told(self, unit: str) -> str:
        """A unit as coverage tells it: without anybody's words."""
        if unit in {scale.unit for scale in self._scales.values()}:
            return unit
        return nameless(unit) if self._readings(unit) else _OTHER_UNITS

    def _way(self, concept: Concept, unit: str | None, words: str | None) -> _Way:
        written = " ".join(unit.split()) if unit else ""
        code = next((each for each in (concept.code, *concept.others) if each in self._scales), None)
        if code is None:
            return self._unlisted(concept, unit, words)
        own = scale = self._scales[code]
        if own.meets:
            scale = self._scales[own.meets]
            concept = self._codes.meeting(concept, own.meets, scale.name) if code == concept.code else concept
        as_is = own is scale and unit == scale.unit
        if as_is or (not written and is_plain(scale.unit)):  # a score has no unit to miss
            return _Way(concept, scale.unit, low=scale.low, high=scale.high, kept=True)
        for reading in self._readings(unit, words) if written else [own.unit]:
            if line := _line(reading, own, scale):
                kept = line == (1.0, 0.0) and unit == scale.unit
                flag = None if written else UNIT_MISSING
                return _Way(concept, scale.unit, *line, scale.low, scale.high, flag, kept)
        return _Way(concept, None, flag=UNIT_UNKNOWN)

    def _unlisted(self, concept: Concept, unit: str | None, words: str | None) -> _Way:
        """The way of a code that has no scale: its unit may be in any spelling, and its numbers stay."""
        reading = next(iter(self._readings(unit, words)), unit)
        if reading == "[degF]":
            return _Way(concept, "Cel", *conversion(reading, "Cel"))
        return _Way(concept, reading, kept=reading == unit)

    def _readings(self, *texts: str | None) -> list[str]:
        """What a unit may mean in UCUM, the likeliest first; empty if nobody knows."""
        meant: dict[str | None, None] = {}
        for written in (" ".join(text.split()) for text in texts if text):
            text = re.sub(r"\bmc(?=[gGlL])", "u", _POWER_OF_TEN.sub(r"10*\1", written.translate(_MICRO)))
            lower = text.casefold()
            exact = self._aliases.get(written) or self._aliases.get(text)
            meant |= dict.fromkeys((exact, text, self._folded.get(lower), lower))
        return [spelled(each) for each in meant if each and is_ucum(each)]


def _line(reading: str, own: Scale, scale: Scale) -> tuple[float, float] | None:
    """Slope and intercept from a unit of the one scale to the other; None if they measure different things."""
    for unit, equation in scale.equations.items():
        if unannotated(reading) == unit:
            return equation[0], equation[1]
    line = conversion(reading, scale.unit, own.molar_mass or scale.molar_mass, own.charge or scale.charge)
    if line and own.molar_mass and scale.molar_mass:
        return line[0] * (scale.molar_mass / own.molar_mass), line[1]
    return line


@dataclass(frozen=True)
class _Table:
    """`scales.yaml`: the same keys as in an adapter's manifest."""

    units: dict[str, str]
    scales: dict[str, Scale]


@cache
def _table() -> _Table:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
    return build(_Table, yaml.load(_TABLE.read_text(encoding="utf-8"), loader), _TABLE.name, AdapterError)


def meeting_codes() -> frozenset[str]:
    """Codes of the table whose values become those of another code, and so are never in the unit that they name."""
    return frozenset(code for code, scale in _table().scales.items() if scale.meets)


def check_scales(scales: Mapping[str, Scale], aliases: Mapping[str, str], where: str) -> None:
    """Checks what an adapter's manifest says of scales and units.

    Raises:
        AdapterError: A unit is no UCUM, bounds are the wrong way round, or a code meets one that it cannot meet.
    """
    for text, unit in aliases.items():
        _check_ucum(unit, f"{where}: units.{text}")
    every = {**_table().scales, **scales} if scales else {}
    for code, scale in scales.items():
        at = f"{where}: scales.{code}"
        for unit in (scale.unit, *scale.equations):
            _check_ucum(unit, f"{at}: unit")
        if not scale.low < scale.high:
            raise AdapterError(f"{at}: low is {scale.low:g} and high {scale.high:g}", expected="low below high")
        for unit, equation in scale.equations.items():
            if len(equation) != 2:
                raise AdapterError(
                    f"{at}: equations.{unit} has {len(equation)} numbers", expected="slope and intercept"
                )
        if scale.meets:
            _check_meeting(code, every, at)


def _check_ucum(unit: str, at: str) -> None:
    known = {scale.unit for scale in _table().scales.values()}  # saves loading all of UCUM
    if unit not in known and not is_ucum(unit):
        raise AdapterError(
            f"{at} is {unit!r}, which is no UCUM unit",
            expected="a case-sensitive code of https://ucum.org, such as mg/dL, 10*3/uL or [lb_av]",
        )


def _check_meeting(code: str, every: Mapping[str, Scale], at: str) -> None:
    scale = every[code]
    met = every.get(scale.meets)
    if met is None or met.meets:
        raise AdapterError(
            f"{at}: meets is {scale.meets}, which {'meets another code' if met else 'has no scale'}",
            expected="a code that has a scale of its own, in the manifest or in ehr_tl",
        )
    if meeting := [other for other, each in every.items() if each.meets == code]:
        raise AdapterError(
            f"{at}: meets is {scale.meets}, but {', '.join(meeting)} already meets {code}",
            expected="codes that are met to have a scale of their own",
        )
    if _line(scale.unit, scale, met) is None:
        raise AdapterError(
            f"{at}: {scale.unit} cannot be converted to {met.unit}, the unit of {scale.meets}",
            fix="correct the unit, or name the molar mass of what is counted in moles",
        )
