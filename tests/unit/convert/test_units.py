"""Values on the scale of their code: against textbooks, and so that nothing that cannot be becomes a number."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ehr_tl.concepts import FEWEST_SUBJECTS
from ehr_tl.convert.adapter import load_adapter
from ehr_tl.convert.codes import Codes, Concept
from ehr_tl.convert.ucum import conversion, is_ucum
from ehr_tl.convert.units import _TABLE, Units
from ehr_tl.errors import AdapterError
from ehr_tl.fhir.export import open_export
from ehr_tl.resources import sample_export

LOINC = "http://loinc.org"
TABLE = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
BASE = load_adapter("fhir_r4")


@pytest.fixture(scope="module")
def units():
    return Units(BASE.manifest, Codes(BASE))


def measured(units, code, value, unit):
    return units.measured(Concept(code, None, (), ()), value, unit)


def coded(code, **value):
    return {"code": {"coding": [{"system": LOINC, "code": code, "display": "As the hospital says"}]}, **value}


def quantity(value, unit=None, **more):
    return {"valueQuantity": {"value": value, **({"code": unit} if unit else {}), **more}}


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", TABLE["scales"])
def test_every_row_is_sound(code):
    row = TABLE["scales"][code]
    assert is_ucum(row["unit"])
    assert "eq" not in row["unit"]
    if met := row.get("meets"):
        assert row.keys() <= {"unit", "meets", "molar_mass"}  # name and bounds are those of what is met
        scale = TABLE["scales"][met]
        assert "meets" not in scale
        mass = row.get("molar_mass", scale.get("molar_mass"))
        assert row["unit"] in scale.get("equations", {}) or conversion(row["unit"], scale["unit"], mass)
    else:
        assert row["low"] < row["high"] and row["name"]


def test_every_alias_is_sound():
    assert all(is_ucum(unit) for unit in TABLE["units"].values())


#: The variables of the PhysioNet challenges of 2012 and 2019, and the vital signs of MIMIC-IV.
# fmt: off
CRITICAL_CARE = [
    "8867-4", "8480-6", "8462-4", "8478-0", "9279-1", "8310-5", "59408-5", "2708-6", "3150-6", "9269-2", "29463-7",
    "8302-2", "2744-1", "2703-7", "2019-8", "1963-8", "1925-7", "3094-0", "2160-0", "2345-7", "2524-7", "2951-2",
    "2823-3", "2601-3", "17861-6", "2075-0", "2777-1", "4544-3", "718-7", "6690-2", "777-3", "3173-2", "3255-7",
    "1742-6", "1920-8", "6768-6", "1975-2", "1968-7", "1751-7", "2093-3", "10839-9", "6598-7", "9187-6",
]
# fmt: on


def test_the_table_has_what_is_measured_most():
    assert not {f"LOINC//{code}" for code in CRITICAL_CARE} - TABLE["scales"].keys()
    [file] = (file for file in open_export(sample_export()).files if file.name.startswith("Observation"))
    measured = {
        code["code"]
        for piece in file.pieces()
        for read in piece.reads()
        for part in [read.resource, *read.resource.get("component", [])]
        if "valueQuantity" in part
        for code in part["code"]["coding"]
        if code["system"] == LOINC
    }
    invented = {code for code in measured if "99999-" in code or "X9999-" in code}  # no LOINC codes at all
    assert len(measured) > 100
    assert not {f"LOINC//{code}" for code in measured - invented} - TABLE["scales"].keys()


#: Molar masses from the formulas, with standard atomic weights (IUPAC 2021, abridged).
H, C, N, OXYGEN, P = 1.008, 12.011, 14.007, 15.999, 30.974
COBALT, IODINE, IRON = 58.933, 126.904, 55.845
FORMULAS = {
    "2345-7": 6 * C + 12 * H + 6 * OXYGEN,
    "2160-0": 4 * C + 7 * H + 3 * N + OXYGEN,
    "3094-0": 2 * N,
    "3091-6": C + 4 * H + 2 * N + OXYGEN,
    "1975-2": 33 * C + 36 * H + 4 * N + 6 * OXYGEN,
    "2093-3": 27 * C + 46 * H + OXYGEN,
    "2571-8": 57 * C + 104 * H + 6 * OXYGEN,
    "3084-1": 5 * C + 4 * H + 4 * N + 3 * OXYGEN,
    "2524-7": 3 * C + 6 * H + 3 * OXYGEN,
    "2777-1": P,
    "17861-6": 40.078,
    "19123-9": 24.305,
    "2498-4": IRON,
    "16362-6": N + 3 * H,
    "2132-9": 63 * C + 88 * H + COBALT + 14 * N + 14 * OXYGEN + P,
    "2284-8": 19 * C + 19 * H + 7 * N + 6 * OXYGEN,
    "1989-3": 27 * C + 44 * H + 2 * OXYGEN,
    "3024-7": 15 * C + 11 * H + 4 * IODINE + N + 4 * OXYGEN,
    "3051-0": 15 * C + 12 * H + 3 * IODINE + N + 4 * OXYGEN,
    "2143-6": 21 * C + 30 * H + 5 * OXYGEN,
    "2986-8": 19 * C + 28 * H + 2 * OXYGEN,
    "10535-3": 41 * C + 64 * H + 14 * OXYGEN,
}


@pytest.mark.parametrize("code", FORMULAS)
def test_molar_masses_are_those_of_the_formulas(code):
    assert TABLE["scales"][f"LOINC//{code}"]["molar_mass"] == pytest.approx(FORMULAS[code], rel=1e-4)


#: Factors that laboratories print: from the first unit to the second (AMA Manual of Style, SI conversions).
PRINTED = [
    ("14749-6", "mmol/L", "2345-7", "mg/dL", 1 / 0.0555),
    ("14682-9", "umol/L", "2160-0", "mg/dL", 1 / 88.4),
    ("22664-7", "mmol/L", "3094-0", "mg/dL", 1 / 0.357),
    ("14647-2", "mmol/L", "2093-3", "mg/dL", 1 / 0.0259),
    ("14646-4", "mmol/L", "2085-9", "mg/dL", 1 / 0.0259),
    ("14927-8", "mmol/L", "2571-8", "mg/dL", 1 / 0.0113),
    ("14631-6", "umol/L", "1975-2", "mg/dL", 1 / 17.104),
    ("2000-8", "mmol/L", "17861-6", "mg/dL", 1 / 0.25),
    ("2601-3", "mmol/L", "19123-9", "mg/dL", 1 / 0.411),
    ("14879-1", "mmol/L", "2777-1", "mg/dL", 1 / 0.323),
    ("14933-6", "umol/L", "3084-1", "mg/dL", 1 / 59.485),
    ("14798-3", "umol/L", "2498-4", "ug/dL", 1 / 0.179),
    ("59260-0", "mmol/L", "718-7", "g/dL", 1 / 0.6206),
    ("14685-2", "pmol/L", "2132-9", "pg/mL", 1 / 0.7378),
    ("14920-3", "pmol/L", "3024-7", "ng/dL", 1 / 12.871),
    ("14921-1", "nmol/L", "3026-2", "ug/dL", 1 / 12.871),
    ("14928-6", "pmol/L", "3051-0", "pg/mL", 1 / 1.536),
    ("14675-3", "nmol/L", "2143-6", "ug/dL", 1 / 27.588),
    ("14913-8", "nmol/L", "2986-8", "ng/dL", 1 / 0.0347),
    ("14635-7", "nmol/L", "1989-3", "ng/mL", 1 / 2.496),
    ("14698-5", "nmol/L", "10535-3", "ng/mL", 1 / 1.281),
]


@pytest.mark.parametrize(("code", "unit", "met", "target", "factor"), PRINTED)
def test_codes_in_moles_meet_those_in_grams(units, code, unit, met, target, factor):
    found = measured(units, f"LOINC//{code}", 2.0, unit)
    assert (found.concept.code, found.unit, found.value_flag) == (f"LOINC//{met}", target, None)
    assert found.numeric_value == pytest.approx(2 * factor, rel=0.01)
    assert (found.source_value, found.source_unit) == (2.0, unit)


# --- one measurement --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "value", "unit", "expected", "target"),
    [
        ("2345-7", 5.55, "mmol/L", 100, "mg/dL"),  # a code in grams, reported in moles all the same
        ("14749-6", 100, "mg/dL", 100, "mg/dL"),  # and the other way round
        ("3091-6", 30, "mg/dL", 14, "mg/dL"),  # urea to urea nitrogen
        ("3091-6", 0.3, "g/L", 14, "mg/dL"),
        ("3091-6", 5, "mmol/L", 14, "mg/dL"),
        ("59261-8", 53, "mmol/mol", 7.0, "%"),
        ("4548-4", 53, "mmol/mol{Hb}", 7.0, "%"),
        ("4548-4", 48, "mmol/mol Hb", 6.5, "%"),
        ("8310-5", 98.6, "degF", 37, "Cel"),
        ("8310-5", 98.6, "F", 37, "Cel"),
        ("8310-5", 36.6, "°C", 36.6, "Cel"),
        ("29463-7", 154.3, "lbs", 69.99, "kg"),
        ("29463-7", 70000, "g", 70, "kg"),
        ("6690-2", 6.1, "K/uL", 6.1, "10*3/uL"),
        ("6690-2", 6.1, "x10^9/L", 6.1, "10*3/uL"),
        ("6690-2", 6.1, "10E3/µL", 6.1, "10*3/uL"),
        ("6690-2", 6100, "cells/uL", 6.1, "10*3/uL"),
        ("6690-2", 6.1, "10^3/mm^3", 6.1, "10*3/uL"),
        ("6690-2", 6.1, "x10^3/mm³", 6.1, "10*3/uL"),
        ("6690-2", 6.1, "10³/µL", 6.1, "10*3/uL"),
        ("6690-2", 6.1, "10^3/mcL", 6.1, "10*3/uL"),
        ("6690-2", 6.1, "K/mm^3", 6.1, "10*3/uL"),
        ("6690-2", 6100, "/mm^3", 6.1, "10*3/uL"),
        ("789-8", 4.7, "T/l", 4.7, "10*6/uL"),
        ("789-8", 4.7, "10^6/mm^3", 4.7, "10*6/uL"),
        ("789-8", 4.7, "10⁶/mm³", 4.7, "10*6/uL"),
        ("2823-3", 4.1, "mEq/L", 4.1, "mmol/L"),
        ("17861-6", 5, "meq/L", 10.02, "mg/dL"),
        ("2160-0", 1.1, "MG/DL", 1.1, "mg/dL"),
        ("2276-4", 80, "ng/mL", 80, "ug/L"),
        ("20578-1", 15, "mcg/mL", 15, "ug/mL"),
        ("1742-6", 30, "IU/L", 30, "U/L"),
        ("1742-6", 30, "u/l", 30, "U/L"),
        ("1742-6", 0.03, "u/ml", 30, "U/L"),
        ("1742-6", 30, "mu/ml", 30, "U/L"),
        ("3016-3", 2.5, "mu/l", 2.5, "m[IU]/L"),
        ("3016-3", 2.5, "µu/ml", 2.5, "m[IU]/L"),
        ("3016-3", 2.5, "uIU/mL", 2.5, "m[IU]/L"),
        ("8867-4", 72, "bpm", 72, "/min"),
        ("4544-3", 0.42, "L/L", 42, "%"),
        ("4544-3", 0.42, "{ratio}", 42, "%"),
        ("59576-9", 65, "{percentile}", 65, "%"),
        ("14959-1", 3.39, "mg/mmol", 30, "mg/g"),
        ("33914-3", 58, "mL/min/1.73 m2", 58, "mL/min/{1.73_m2}"),
        ("33914-3", 58, "  mL/min/1.73m² ", 58, "mL/min/{1.73_m2}"),
    ],
)
def test_units_are_brought_to_that_of_the_code(units, code, value, unit, expected, target):
    found = measured(units, f"LOINC//{code}", value, unit)
    assert found.numeric_value == pytest.approx(expected, rel=1e-2)
    assert (found.unit, found.value_flag) == (target, None)
    if unit != target:
        assert (found.source_value, found.source_unit) == (value, unit)


def test_what_is_on_its_scale_stays_as_it_is(units):
    assert measured(units, "LOINC//2345-7", 95.5, "mg/dL")[1:] == (95.5, "mg/dL", None, None, None)


@pytest.mark.parametrize(
    ("code", "value", "unit", "flag"),
    [
        ("8310-5", 370, "Cel", "implausible"),
        ("8310-5", 37, "[degF]", "implausible"),  # degrees Celsius under the wrong name
        ("8867-4", 401, "/min", "implausible"),
        ("2708-6", 101, "%", "implausible"),
        ("2345-7", 0.0555, "mmol/mol", "unit_unknown"),
        ("29463-7", 11, "stone", "unit_unknown"),
        ("29463-7", 70, "cm", "unit_unknown"),
        ("2777-1", 2, "meq/L", "unit_unknown"),  # whose charge depends on pH
        ("9269-2", 80, "%", "unit_unknown"),
        ("4544-3", 42, "{score}", "unit_unknown"),
        ("8310-5", 3.7, None, "implausible"),
    ],
)
def test_no_number_on_an_unknown_scale_or_that_cannot_be(units, code, value, unit, flag):
    assert measured(units, f"LOINC//{code}", value, unit)[1:] == (None, None, value, unit, flag)


@pytest.mark.parametrize("code", ["8867-4", "8310-5", "2160-0", "2951-2", "6301-6"])
def test_bounds_themselves_are_plausible(units, code):
    row = TABLE["scales"][f"LOINC//{code}"]
    for bound, beyond in ((row["low"], row["low"] - 0.01), (row["high"], row["high"] + 0.01)):
        assert measured(units, f"LOINC//{code}", bound, row["unit"]).numeric_value == bound
        assert measured(units, f"LOINC//{code}", beyond, row["unit"]).value_flag == "implausible"


def test_without_a_unit_a_plausible_value_is_on_the_scale_of_what_was_written(units):
    assert measured(units, "LOINC//8310-5", 37.0, None)[1:] == (37.0, "Cel", 37.0, None, "unit_missing")
    found = measured(units, "LOINC//14749-6", 5.55, "")
    assert found.numeric_value == pytest.approx(100, rel=1e-3)
    assert (found.concept.code, found.unit, found.value_flag) == ("LOINC//2345-7", "mg/dL", "unit_missing")


def test_scores_have_no_unit_to_miss(units):
    assert measured(units, "LOINC//9269-2", 15, None)[1:] == (15, "{score}", None, None, None)
    assert measured(units, "LOINC//2744-1", 7.4, "pH")[1:3] == (7.4, "[pH]")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("ml", "mL"), ("mg/dl", "mg/dL"), ("beats/min", "/min"), ("as before", "as before"), (None, None), ("g", "g")],
)
def test_of_other_codes_only_the_spelling_changes(units, unit, expected):
    found = measured(units, "LOCAL//X", 3.5, unit)
    assert (found.numeric_value, found.unit, found.value_flag) == (3.5, expected, None)
    assert (found.source_value, found.source_unit) == ((None, None) if unit == expected else (3.5, unit))


def test_of_other_codes_fahrenheit_is_celsius(units):
    found = measured(units, "LOCAL//X", 98.6, "°F")
    assert (found.numeric_value, found.unit) == (pytest.approx(37), "Cel")


@pytest.mark.parametrize("code", ["LOINC//29463-7", "LOCAL//X"])
def test_words_are_read_where_nobody_understands_the_code(units, code):
    found = units.measured(Concept(code, None, (), ()), 70.5, "258683005", "kilogram")
    assert (found.numeric_value, found.unit) == (70.5, "kg")
    assert (found.source_value, found.source_unit) == (70.5, "258683005")


def test_a_code_beside_it_gives_the_scale(units):
    both = Concept("SNOMED//27113001", None, ("LOINC//29463-7",), ())
    found = units.measured(both, 154.3, "[lb_av]")
    assert found.concept is both
    assert (found.numeric_value, found.unit) == (pytest.approx(69.99, rel=1e-3), "kg")


@given(st.sampled_from(sorted(TABLE["scales"])), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=9))
def test_numbers_are_plausible_and_on_the_scale_or_there_are_none(units, code, value, unit):
    found = measured(units, code, value, unit)
    row = TABLE["scales"][found.concept.code]
    if found.numeric_value is None:
        assert (found.source_value, found.source_unit) == (value, unit)
        assert found.value_flag in ("implausible", "unit_unknown")
    else:
        assert row["low"] <= found.numeric_value <= row["high"]
        assert found.unit == row["unit"]


@given(st.lists(st.tuples(st.sampled_from(["2345-7", "14749-6"]), st.floats(1, 30), st.sampled_from(["mmol/L", None]))))
def test_nothing_depends_on_what_came_before(units, records):
    alone = [measured(Units(BASE.manifest, Codes(BASE)), f"LOINC//{code}", *rest) for code, *rest in records]
    together = [measured(units, f"LOINC//{code}", *rest) for code, *rest in reversed(records)]
    assert [(each.concept.code, *each[1:]) for each in alone] == [
        (each.concept.code, *each[1:]) for each in reversed(together)
    ]


# --- exports ----------------------------------------------------------------------------------------------------------


def test_an_event_says_what_was_written(converted, fhir):
    found = converted(
        fhir.mary,
        fhir.observation("moles", **coded("14749-6"), **quantity(5.55, "mmol/L")),
        fhir.observation("grams", **coded("2345-7"), **quantity(100, "mg/dL")),
        fhir.observation("below", **coded("14682-9"), **quantity(8.84, "umol/L", comparator="<")),
        fhir.observation("fever", **coded("8310-5"), **quantity(370, "Cel")),
    )
    [moles], [grams] = found.of("Observation/moles"), found.of("Observation/grams")
    assert moles["code"] == grams["code"] == "LOINC//2345-7"
    assert moles["numeric_value"] == pytest.approx(grams["numeric_value"], rel=1e-3)
    assert (moles["source_code"], moles["other_codes"]) == ("LOINC//14749-6", ["LOINC//14749-6"])
    assert (moles["source_value"], moles["source_unit"]) == (5.55, "mmol/L")
    [below] = found.of("Observation/below")
    assert (below["numeric_value"], below["text_value"]) == (pytest.approx(0.1, rel=1e-3), "<8.84")
    [fever] = found.of("Observation/fever")
    assert (fever["code"], fever["numeric_value"], fever["value_flag"]) == ("LOINC//8310-5", None, "implausible")
    assert found.coverage["Observation"]["used"] == 4
    assert found.events.coverage["units"] == {
        "LOINC//2160-0": {"umol/L -> mg/dL": 1},
        "LOINC//2345-7": {"mmol/L -> mg/dL": 1},
        "LOINC//8310-5": {"implausible": 1},
    }
    described = dict(found.events.codes.select("code", "description").rows())
    assert described["LOINC//14749-6"] == "As the hospital says"
    assert described["LOINC//2160-0"] == "Creatinine in serum or plasma"


def test_a_value_too_large_for_any_code_is_flagged(converted, fhir):
    found = converted(fhir.mary, fhir.observation(**coded("600-7"), **quantity(1e300, "kg")))
    [event] = found.of("Observation/o1")
    assert (event["numeric_value"], event["source_value"], event["value_flag"]) == (None, 1e300, "implausible")


def test_coverage_counts_units_without_anybodys_words(converted, fhir):
    canary = "Mary Smith"
    found = converted(
        fhir.mary,
        fhir.observation("a", **coded("29463-7"), **quantity(70, canary)),
        fhir.observation("b", **coded("600-7"), **quantity(70, f"ml{{{canary}}}".replace(" ", "_"))),
        fhir.observation("c", **coded("29463-7"), **quantity(70000, f"g{{{canary}}}".replace(" ", "_"))),
        fhir.observation("d", code={"text": f"{canary}\nher weight"}, **quantity(70, "lbs")),
    )
    assert found.events.coverage["units"] == {
        "LOINC//29463-7": {"g{} -> kg": 1, "unit_unknown": 1},
        "TEXT": {"lbs -> [lb_av]": 1},
        "other codes": {"ml{} -> mL{}": 1},
    }


def test_coverage_names_no_code_of_few_people_and_no_unit_that_nobody_reads(converted, fhir):
    def weight(patient, system, code, written="lbs"):
        named = {"coding": [{"system": system, "code": code}]}
        about = {"subject": {"reference": f"Patient/{patient}"}}
        return fhir.observation(f"{patient}-{code}", code=named, **about, **quantity(70, written))

    told = {"value": 70, "code": "Mary-Smith", "unit": "kg"}
    people = [f"p{n}" for n in range(FEWEST_SUBJECTS)]
    found = converted(
        *({"resourceType": "Patient", "id": patient} for patient in people),
        *(weight(patient, "urn:ours", "W") for patient in people),
        *(weight(patient, "urn:ours", "MRN-4711-DOE") for patient in people[1:]),
        weight("p0", LOINC, "MRN-4712-DOE", "[degF]"),
        weight("p0", LOINC, "29463-7"),
        fhir.observation("o", **coded("3141-9"), subject={"reference": "Patient/p0"}, valueQuantity=told),
    )
    assert found.events.coverage["units"] == {
        "LOINC//29463-7": {"lbs -> kg": 1},
        "LOINC//3141-9": {"other units -> kg": 1},
        "other codes": {"[degF] -> Cel": 1, "lbs -> [lb_av]": FEWEST_SUBJECTS - 1},
        "ours//W": {"lbs -> [lb_av]": FEWEST_SUBJECTS},
    }


def write_adapter(folder, text):
    folder.mkdir()
    (folder / "adapter.yaml").write_text(f"name: {folder.name}\ntitle: Mine\nextends: fhir_r4\n{text}")
    return folder


def test_an_adapter_has_scales_and_units_of_its_own(converted, fhir, tmp_path):
    adapter = write_adapter(
        tmp_path / "mine",
        "units: {stone: '[stone_av]'}\n"
        "scales:\n"
        "  LOINC//29463-7: {unit: g, low: 100, high: 700000}\n"
        "  ours//GLU: {unit: mmol/L, meets: LOINC//2345-7}\n",
    )
    ours = {"coding": [{"system": "https://hospital.example/ours", "code": "GLU"}]}
    found = converted(
        fhir.mary,
        fhir.observation("heavy", **coded("29463-7"), **quantity(11, "stone")),
        fhir.observation("sweet", code=ours, **quantity(5.55)),
        adapter=adapter,
    )
    [heavy], [sweet] = found.of("Observation/heavy"), found.of("Observation/sweet")
    assert (heavy["numeric_value"], heavy["unit"]) == (pytest.approx(69_853, rel=1e-3), "g")
    assert (sweet["code"], sweet["source_code"]) == ("LOINC//2345-7", "ours//GLU")
    assert (sweet["numeric_value"], sweet["value_flag"]) == (pytest.approx(100, rel=1e-3), "unit_missing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scales: {X: {unit: furlongs}}", r"scales\.X: unit is 'furlongs', which is no UCUM unit"),
        ("scales: {X: {unit: kg, low: 3, high: 3}}", r"scales\.X: low is 3 and high 3.*low below high"),
        ("scales: {X: {low: 3}}", "unit missing"),
        ("scales: {X: {unit: kg, hihg: 3}}", "unknown key 'hihg'.*Did you mean 'high'"),
        ("scales: {X: {unit: mmol/L, meets: Y}}", r"scales\.X: meets is Y, which has no scale"),
        ("scales: {X: {unit: mmol/L, meets: LOINC//14749-6}}", "meets another code"),
        ("scales: {LOINC//2345-7: {unit: g/L, meets: LOINC//2339-0}}", "LOINC//14749-6 already meets LOINC//2345-7"),
        ("scales: {X: {unit: cm, meets: LOINC//2345-7}}", "cm cannot be converted to mg/dL"),
        ("scales: {X: {unit: kg, molar_mass: 0}}", "molar_mass is 0"),
        ("scales: {X: {unit: '%', equations: {mmol/mol: [1]}}}", "equations.mmol/mol has 1 numbers"),
        ("units: {stones: stone}", r"units\.stones is 'stone', which is no UCUM unit"),
    ],
)
def test_mistakes_in_an_adapter_are_named(tmp_path, text, message):
    with pytest.raises(AdapterError, match=rf"adapter\.yaml.*{message}"):
        load_adapter(write_adapter(tmp_path / "mine", text))
