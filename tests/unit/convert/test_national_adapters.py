"""What the adapters of countries and systems decide otherwise than `fhir_r4`."""

import json

import pytest

from ehr_tl.convert import convert
from ehr_tl.convert.adapter import load_adapter

ACT, KONTAKT, ART = (
    "http://terminology.hl7.org/CodeSystem/v3-ActCode",
    "http://fhir.de/CodeSystem/Kontaktebene",
    "http://fhir.de/CodeSystem/kontaktart-de",
)
GRUND = "http://fhir.de/CodeSystem/dkgev/EntlassungsgrundErsteUndZweiteStelle"
CERTAINTY = "http://fhir.de/StructureDefinition/icd-10-gm-diagnosesicherheit"
MARY = {"reference": "Patient/mary"}


@pytest.fixture
def codes(tmp_path):
    """Converts resources with an adapter; the codes of each, in the order of time."""

    def run(adapter, *resources):
        lines = [json.dumps(one) for one in ({"resourceType": "Patient", "id": "mary"}, *resources)]
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "all.ndjson").write_text("\n".join(lines))
        frame = convert(tmp_path / "in", adapter, tmp_path / "out").scan().collect()
        rows = frame.sort("time", "code").select("code", "time", "other_codes", "resource_id").to_dicts()
        return [row["code"] for row in rows], rows

    return run


def contact(key="e1", levels=(), kinds=(), **more):
    return {
        "resourceType": "Encounter",
        "id": key,
        "status": "finished",
        "class": {"system": ACT, "code": "IMP"},
        "type": [{"coding": [{"system": KONTAKT, "code": level}]} for level in levels]
        + [{"coding": [{"system": ART, "code": kind}]} for kind in kinds],
        "subject": MARY,
        "period": {"start": "2023-01-01T10:00:00Z", "end": "2023-01-05T10:00:00Z"},
    } | more


@pytest.mark.parametrize("level", ["abteilungskontakt", "versorgungsstellenkontakt"])
@pytest.mark.parametrize("linked", [{}, {"partOf": {"reference": "Encounter/e0"}}])
def test_mii_departments_and_wards_are_no_stays(codes, level, linked):
    assert codes("mii", contact(levels=[level], **linked))[0] == []


@pytest.mark.parametrize(
    ("levels", "linked", "stays"),
    [
        ([], {}, True),
        ([], {"partOf": {"reference": "Encounter/e0"}}, False),
        (["einrichtungskontakt"], {"partOf": {"reference": "Encounter/e0"}}, True),
    ],
)
def test_mii_the_level_counts_before_part_of(codes, levels, linked, stays):
    assert codes("mii", contact(levels=levels, **linked))[0] == ["VISIT_START//IMP", "VISIT_END//IMP"] * stays


def test_mii_level_and_kind_in_one_type(codes):
    both = [
        {"coding": [{"system": KONTAKT, "code": "einrichtungskontakt"}, {"system": ART, "code": "normalstationaer"}]}
    ]
    assert "VISIT_TYPE//KONTAKTART//normalstationaer" in codes("mii", contact(type=both))[0]


def test_mii_who_comes_along_has_no_stay_and_a_day_clinic_is_none(codes):
    found, _ = codes(
        "mii",
        contact("e1", ["einrichtungskontakt"], ["begleitperson"]),
        contact("e2", ["einrichtungskontakt"], ["tagesklinik"]),
    )
    assert found == ["VISIT_START//SS", "VISIT_TYPE//KONTAKTART//tagesklinik", "VISIT_END//SS"]


@pytest.mark.parametrize(
    "disposition",
    [
        {
            "extension": [
                {
                    "url": "http://fhir.de/StructureDefinition/Entlassungsgrund",
                    "extension": [{"url": "ErsteUndZweiteStelle", "valueCoding": {"system": GRUND, "code": "07"}}],
                }
            ]
        },
        {
            "extension": [
                {
                    "url": "http://fhir.de/StructureDefinition/Entlassungsgrund",
                    "valueCoding": {"system": "http://fhir.de/CodeSystem/dgkev/Entlassungsgrund", "code": "079"},
                }
            ]
        },
        {"coding": [{"system": GRUND, "code": "07"}]},
        {
            "coding": [
                {
                    "system": "https://www.medizininformatik-initiative.de/fhir/core/modul-fall/CodeSystem/Entlassungsgrund",
                    "code": "079",
                }
            ]
        },
    ],
)
def test_mii_death_is_the_same_wherever_it_is_written(codes, disposition):
    found, _ = codes("mii", contact(hospitalization={"dischargeDisposition": disposition}))
    assert [code for code in found if code.startswith("DISCHARGE")] == ["DISCHARGE//exp"]


def test_mii_a_discharge_is_known_at_the_end_only(codes):
    disposition = {"coding": [{"system": GRUND, "code": "07"}]}
    found, _ = codes("mii", contact(status="in-progress", hospitalization={"dischargeDisposition": disposition}))
    assert found == ["VISIT_START//IMP"]


@pytest.mark.parametrize(
    ("certainty", "verification", "code"),
    [
        ("G", None, "ICD10GM//I21.9"),
        (None, "confirmed", "ICD10GM//I21.9"),
        ("V", None, "SUSPECTED//ICD10GM//I21.9"),
        (None, "provisional", "SUSPECTED//ICD10GM//I21.9"),
        ("Z", "confirmed", "HISTORY//ICD10GM//I21.9"),
        ("Z", "provisional", "HISTORY//ICD10GM//I21.9"),
        ("A", None, None),
        ("A", "provisional", None),
        ("V", "refuted", None),
        ("Z", "entered-in-error", None),
    ],
)
def test_mii_certainty(codes, certainty, verification, code):
    coding = {"system": "http://fhir.de/CodeSystem/bfarm/icd-10-gm", "code": "I21.9"}
    if certainty:
        coding["extension"] = [{"url": CERTAINTY, "valueCoding": {"code": certainty}}]
    status = {"verificationStatus": {"coding": [{"code": verification}]}} if verification else {}
    condition = {"resourceType": "Condition", "id": "c", "subject": MARY, "recordedDate": "2023-01-01"}
    found, _ = codes("mii", condition | {"code": {"coding": [coding]}} | status)
    assert found == ([code] if code else [])


def test_mii_refutes_what_the_base_refutes():
    base, mii = load_adapter("fhir_r4").manifest.events, load_adapter("mii").manifest.events
    for view in ("condition", "condition_suspected", "condition_past"):
        for column, values in base["condition"].exclude.items():
            assert set(values) <= set(mii[view].exclude[column])
        assert mii[view].time == base["condition"].time


@pytest.mark.parametrize("adapter", ["mii", "au_core", "openmrs"])
def test_views_that_stand_in_for_the_bases_keep_its_columns(adapter):
    base, own = load_adapter("fhir_r4").views, load_adapter(adapter).views
    for name in base.keys() & own.keys():
        assert set(base[name].columns) <= set(own[name].columns), name


def test_au_core_unbranded_before_branded(codes):
    def product(code, kind):
        url = "http://hl7.org.au/fhir/StructureDefinition/medication-type"
        return {
            "extension": [{"url": url, "valueCoding": {"code": kind}}],
            "system": "http://snomed.info/sct",
            "code": code,
        }

    order = {"resourceType": "MedicationRequest", "id": "r", "subject": MARY, "authoredOn": "2023-01-01"}
    drug = {"coding": [product("1", "BPD"), product("2", "UPDSF"), product("3", "UPD"), {"code": "4"}]}
    found, (row,) = codes("au_core", order | {"intent": "order", "medicationCodeableConcept": drug})
    assert found == ["SNOMED//3"]
    assert row["other_codes"] == ["SNOMED//2", "SNOMED//1", "LOCAL//4"]


@pytest.mark.parametrize(
    ("codings", "code"),
    [
        ([], "LOCAL//uuid"),
        ([("https://cielterminology.org", "5089")], "CIEL//5089"),
        ([("https://api.openconceptlab.org/orgs/CIEL/sources/CIEL", "5089")], "CIEL//5089"),
        ([("https://cielterminology.org", "5089"), ("http://snomed.info/sct", "27113001")], "SNOMED//27113001"),
        ([("http://snomed.info/sct", "27113001"), ("http://loinc.org", "3141-9")], "LOINC//3141-9"),
    ],
)
def test_openmrs_order_of_codings(codes, codings, code):
    written = [{"code": "uuid", "display": "Weight"}] + [{"system": system, "code": one} for system, one in codings]
    observation = {"resourceType": "Observation", "id": "o", "status": "final", "subject": MARY}
    found, _ = codes("openmrs", observation | {"code": {"coding": written}, "issued": "2023-01-01T00:00:00Z"})
    assert found == [code]


@pytest.mark.parametrize(
    ("kind", "linked", "visits"),
    [("visit", False, True), ("encounter", True, False), ("encounter", False, True)],
)
def test_openmrs_only_visits_are_visits(codes, kind, linked, visits):
    coding = {"system": f"http://fhir.openmrs.org/code-system/{kind}-type", "code": "u"}
    part_of = {"partOf": {"reference": "Encounter/v"}} if linked else {}
    found, _ = codes("openmrs", contact(status="unknown", type=[{"coding": [coding]}], **part_of))
    assert ("VISIT_START//IMP" in found, "VISIT_END//IMP" in found) == (visits, visits)
    assert f"VISIT_TYPE//OPENMRS_{kind.upper()}//u" in found
