"""Units of measure in UCUM (https://ucum.org): what a text means, and how one unit becomes another.

Parsed by `ucumvert`, converted by `pint`. Both are loaded when the first unit that needs them is met: 0.7 s.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

#: No unit is longer, and none has longer numbers; what is comes from a broken record and may take forever to compute.
_LONGEST, _LONG_NUMBER = 60, re.compile(r"\d{5}")
#: The litre as UCUM's second spelling has it: of "ml", not of "mol" or "[lb_av]".
_LITRE = re.compile(r"(?<![A-Za-z\[{_])([munpfcdk]?)l(?![A-Za-z_])")
_ANNOTATION = re.compile(r"\{[^{}]*\}")
#: UCUM leaves open what an international unit is of; within one code (of an enzyme, mostly) it is the same as U.
_INTERNATIONAL = re.compile(r"\[[iI]U\]")
_EQUIVALENT = re.compile(r"(?<![A-Za-z\[{_])([munpk]?)eq(?![A-Za-z_])")
_DIGITS = 12  # beyond these, factors hold only the noise of their computation


def is_ucum(unit: str) -> bool:
    return _quantity(unit) is not None


def is_plain(unit: str) -> bool:
    """Whether it only says what is counted or scored: {score}, [pH], 1. A percentage is no plain number.

    Examples:
        >>> is_plain("{score}"), is_plain("[pH]"), is_plain("1"), is_plain("%")
        (True, True, True, False)
    """
    return unannotated(unit) in ("", "1", "[pH]")


def unannotated(unit: str) -> str:
    """A unit without what is only remarked in braces: mmol/mol{Hb} is mmol/mol."""
    return _ANNOTATION.sub("", unit)


def spelled(unit: str) -> str:
    """A UCUM unit with the litre as L: of its two spellings the one that laboratories use.

    Examples:
        >>> spelled("mmol/l"), spelled("ml"), spelled("[lb_av]")
        ('mmol/L', 'mL', '[lb_av]')
    """
    return _LITRE.sub(r"\1L", unit)


def nameless(unit: str) -> str:
    """A unit without the words of its annotations, which may be anything that somebody wrote.

    Examples:
        >>> nameless("mg{Mary}/dL")
        'mg{}/dL'
    """
    return _ANNOTATION.sub("{}", unit)


def conversion(
    unit: str, target: str, molar_mass: float | None = None, charge: int | None = None
) -> tuple[float, float] | None:
    """Slope and intercept that bring values from one unit to another; None if they measure different things.

    Args:
        unit, target: UCUM.
        molar_mass: Of the substance that is counted in moles, g/mol: makes mmol/L and mg/dL the same kind.
        charge: Of the ion that is counted in equivalents; without it equivalents are no moles.

    Examples:
        >>> conversion("g/L", "mg/dL"), conversion("mm[Hg]", "kg"), conversion("meq/L", "mmol/L")
        ((100.0, 0.0), None, None)
        >>> conversion("mmol/L", "mg/dL", molar_mass=180.156), conversion("meq/L", "mmol/L", charge=2)
        ((18.0156, 0.0), (0.5, 0.0))
    """
    if is_plain(target):
        return (1.0, 0.0) if _line(unit, "1", None) == (1.0, 0.0) else None
    if is_plain(unit) and unit != "1":  # {percentile} is no hundredfold percentage
        return None
    equivalents = bool(_EQUIVALENT.search(unit))
    if equivalents and not charge:
        return None
    moles = _EQUIVALENT.sub(r"\1mol", unit)
    line = _line(moles, target, molar_mass) or _line(
        _INTERNATIONAL.sub("U", moles), _INTERNATIONAL.sub("U", target), molar_mass
    )
    if line is None or not equivalents:
        return line
    return line[0] / charge, line[1]


def _line(unit: str, target: str, molar_mass: float | None) -> tuple[float, float] | None:
    import pint

    source, aim = _quantity(unit), _quantity(target)
    if source is None or aim is None:
        return None
    for power in (0, 1, -1) if molar_mass else (0,):
        # Of a temperature not even the product with 1 is defined.
        weight = _registry().Quantity(molar_mass, "g/mol") ** power if power else None
        try:
            low, middle, high = (_converted(value, source, weight, aim) for value in (0.0, 1.0, 2.0))
        except (pint.PintError, ArithmeticError, ValueError):
            continue
        slope, intercept = (float(f"{number:.{_DIGITS}g}") for number in (middle - low, low))
        # Decibels and their like are no straight line.
        return (slope, intercept) if abs(high - 2 * middle + low) <= 1e-9 * (1 + abs(high)) else None
    return None


def _converted(value: float, source: Any, weight: Any, aim: Any) -> float:
    quantity = _registry().Quantity(value * source.magnitude, source.units)
    return (quantity if weight is None else quantity * weight).to(aim.units).magnitude / aim.magnitude


@lru_cache(maxsize=10_000)
def _quantity(unit: str) -> Any:
    """A UCUM unit as a pint quantity; None if it is none."""
    if is_plain(unit):
        return _registry().Quantity(1.0, "")
    if len(unit) > _LONGEST or _LONG_NUMBER.search(unit) or not unit.isascii():
        return None
    try:
        found = _registry().from_ucum(unit)
        return _registry().Quantity(float(found.magnitude), found.units)
    except Exception:  # parser, grammar and registry each raise their own, and the text may be anything
        return None


@cache
def _registry() -> Any:
    from ucumvert import PintUcumRegistry

    return PintUcumRegistry()
