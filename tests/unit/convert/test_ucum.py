"""UCUM units, against conversions from textbooks and properties that any conversion has."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_tl.convert.ucum import conversion, is_plain, is_ucum, nameless, spelled


def converted(value, unit, target, **substance):
    slope, intercept = conversion(unit, target, **substance)
    return value * slope + intercept


@pytest.mark.parametrize(
    ("value", "unit", "expected", "target"),
    [
        (98.6, "[degF]", 37.0, "Cel"),
        (310.15, "K", 37.0, "Cel"),
        (150, "[lb_av]", 68.0389, "kg"),
        (70, "[in_i]", 177.8, "cm"),
        (16, "kPa", 120.01, "mm[Hg]"),
        (13.2, "g/dL", 132, "g/L"),
        (0.42, "L/L", 42, "%"),
        (6.1, "10*9/L", 6.1, "10*3/uL"),
        (4700, "/uL", 4.7, "10*3/uL"),
        (1, "ukat/L", 60, "U/L"),
        (90, "mL/min", 90, "mL/min/{1.73_m2}"),
        (30, "[iU]/L", 30, "U/L"),
        (2.5, "mU/L", 2.5, "m[IU]/L"),
        (1.02, "{nominal}", 1.02, "{SG}"),
    ],
)
def test_textbook(value, unit, expected, target):
    assert converted(value, unit, target) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("value", "unit", "expected", "target", "molar_mass"),
    [
        (5.55, "mmol/L", 100, "mg/dL", 180.156),  # glucose
        (88.4, "umol/L", 1, "mg/dL", 113.12),  # creatinine
        (1, "mg/mmol", 8.84, "mg/g", 113.12),  # albumin by creatinine
        (17.1, "umol/L", 1, "mg/dL", 584.67),  # bilirubin
        (200, "mg/dL", 5.17, "mmol/L", 386.66),  # cholesterol
    ],
)
def test_moles_of_a_substance(value, unit, expected, target, molar_mass):
    assert converted(value, unit, target, molar_mass=molar_mass) == pytest.approx(expected, rel=2e-3)
    assert conversion(unit, target) is None


def test_equivalents_need_a_charge():
    assert conversion("meq/L", "mmol/L") is None
    assert converted(140, "meq/L", "mmol/L", charge=1) == 140
    assert converted(5, "meq/L", "mg/dL", charge=2, molar_mass=40.078) == pytest.approx(10.0, rel=0.01)  # calcium


@pytest.mark.parametrize(
    ("unit", "target"),
    [
        ("kg", "cm"),
        ("%", "{score}"),  # the same dimension, another kind
        ("mmol/L", "mg/dL"),
        ("dB", "1"),  # no straight line
        ("Cel/min", "Cel"),
        ("10*99999999/L", "/L"),  # would take for ever
        ("k" * 100, "kg"),
        ("mg/dL; see note", "mg/dL"),
        ("ungekannt", "mg/dL"),
        ("m\ng", "mg"),
    ],
)
def test_what_cannot_be_converted(unit, target):
    assert conversion(unit, target) is None


KINDS = [
    ["mg/dL", "g/L", "ug/mL", "ng/mL", "kg/m3"],
    ["Cel", "[degF]", "K"],
    ["mm[Hg]", "kPa", "cm[H2O]", "mbar"],
    ["10*3/uL", "10*9/L", "/uL", "/nL", "10*6/mL"],
    ["s", "min", "h", "d"],
]


@given(st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(*[st.sampled_from(kind)] * 3)), st.floats(-1e6, 1e6))
def test_there_and_back_and_by_a_detour(units, value):
    first, second, third = units
    there = converted(value, first, second)
    assert converted(there, second, first) == pytest.approx(value, rel=1e-9, abs=1e-6)
    detour = converted(there, second, third)
    assert detour == pytest.approx(converted(value, first, third), rel=1e-9, abs=1e-6)


@given(st.text(max_size=70))
def test_any_text_is_a_unit_or_none(text):
    if not is_ucum(text):
        assert conversion(text, "mg/dL") is None
    assert not re.search(r"\{[^{}]+\}", nameless(text))


def test_spelling_changes_no_meaning():
    for unit in ("mmol/l", "ml", "10*9/l", "mg/dl", "g/l", "ml/min", "u[IU]/ml"):
        assert spelled(unit) != unit
        assert conversion(unit, spelled(unit)) == (1.0, 0.0)
    for unit in ("mol", "[lb_av]", "cal", "lm", "mg/g", "Cel", "%", "{nominal}"):
        assert spelled(unit) == unit
    assert is_plain("") and not is_plain("mg")
