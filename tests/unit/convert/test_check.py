"""Examples are run and compared; what an adapter leaves out of an export is named and counted, without a value."""

import json
import shutil

import pytest

from ehr_tl.convert import load_adapter
from ehr_tl.convert.check import SAMPLE, check_example, check_examples, examples, left_out, run_example, write_example
from ehr_tl.errors import AdapterError, ExportError
from ehr_tl.resources import bundled

CANARY = "Wilhelmina-Canary"


@pytest.fixture
def adapter(tmp_path, fhir):
    """The folder of an adapter with one example, `out` and all."""
    folder = tmp_path / "mine"
    (folder / "examples" / "visit" / "in").mkdir(parents=True)
    (folder / "adapter.yaml").write_text("name: mine\ntitle: Mine\nextends: fhir_r4\n")
    lines = [json.dumps(each) for each in (fhir.mary, fhir.visit(), fhir.condition(), fhir.observation())]
    (folder / "examples" / "visit" / "in" / "all.ndjson").write_text("\n".join(lines))
    write_example(folder / "examples" / "visit")
    return folder


@pytest.fixture
def write_export(tmp_path):
    def write(*resources):
        folder = tmp_path / "export"
        folder.mkdir()
        (folder / "all.ndjson").write_text("\n".join(map(json.dumps, resources)))
        return folder

    return write


def test_what_was_written_is_found_again(adapter):
    (case,) = examples(adapter)
    assert check_example(case) == []
    assert check_examples(adapter) == 1
    assert {path.name for path in (case / "out").iterdir()} == set(run_example(case))


def test_a_difference_names_file_and_line(adapter):
    out = adapter / "examples" / "visit" / "out"
    text = (out / "events.csv").read_text()
    (out / "events.csv").write_text(text.replace("VISIT_START//IMP", "VISIT_START//AMB"))
    (difference,) = check_example(out.parent)
    assert difference.file == out / "events.csv"
    assert "VISIT_START//AMB" in difference.expected and "VISIT_START//IMP" in difference.found
    assert text.split("\n")[difference.line - 1] == difference.found
    (out / "codes.csv").unlink()
    with pytest.raises(AdapterError, match=r"examples/visit/out/events\.csv, line \d.*that differ: .*out/codes\.csv"):
        check_examples(adapter)


@pytest.mark.parametrize(("change", "expected", "found"), [("more\n", "more", ""), (None, None, "patient_id,")])
def test_lines_too_many_and_files_too_few(adapter, change, expected, found):
    file = adapter / "examples" / "visit" / "out" / "events.csv"
    if change is None:
        file.unlink()
    else:
        file.write_text(file.read_text() + change)
    (difference,) = check_example(file.parent.parent)
    assert difference.expected == expected
    assert difference.found.startswith(found)
    with pytest.raises(AdapterError, match="there is no such file" if change is None else r"events\.csv, line \d"):
        check_examples(adapter)


def test_the_adapter_of_the_folder_runs_its_examples(adapter):
    (adapter / "adapter.yaml").write_text("name: mine\ntitle: Mine\nextends: fhir_r4\nevents: {condition: null}\n")
    assert {difference.file.name for difference in check_example(examples(adapter)[0])} >= {"events.csv"}


def test_an_adapter_without_examples(adapter):
    shutil.rmtree(adapter / "examples")
    assert check_examples(adapter) == 0


def test_types_elements_and_systems_that_are_left_out(write_export, fhir):
    local = {"coding": [{"system": "urn:ours", "code": "GLU", "display": CANARY}]}
    export = write_export(
        {**fhir.mary, "name": [{"family": CANARY}], "extension": [{"url": "urn:race", "valueCode": CANARY}]},
        fhir.visit(),
        fhir.observation(),
        fhir.observation("o2", code=local, interpretation=[{"text": CANARY}], valueString=CANARY),
        fhir.observation("o3", component=[{"code": local, "valueRange": {"low": {"value": 1}}}]),
        {"resourceType": "Claim", "id": "k1"},
        {"resourceType": "Claim", "id": "k2"},
        "no resource",
    )
    found = left_out(export, "fhir_r4")
    assert (found.resources, found.sampled) == (7, 5)
    assert found.types == {"Claim": 2}
    assert found.systems == {"urn:ours": 2}
    assert found.elements == {
        "Observation.component.valueRange": 1,
        "Observation.interpretation": 1,
        "Patient.extension('urn:race')": 1,
        "Patient.name": 1,
    }
    assert "Patient.name" in found.text and "urn:ours" in found.text
    assert CANARY not in found.text


def test_systems_that_are_named_or_mapped_or_beside_one_are_not_left_out(tmp_path, write_export, fhir):
    def coded(key, *systems):
        return fhir.observation(key, code={"coding": [{"system": system, "code": "GLU"} for system in systems]})

    folder = tmp_path / "mine"
    (folder / "concept_maps").mkdir(parents=True)
    (folder / "adapter.yaml").write_text(
        "name: mine\ntitle: Mine\nextends: fhir_r4\nlocal_systems: {urn:named: NAMED}\n"
    )
    target = {"code": "2345-7", "equivalence": "equivalent"}
    group = {"source": "urn:mapped", "target": "http://loinc.org", "element": [{"code": "GLU", "target": [target]}]}
    (folder / "concept_maps" / "map.json").write_text(json.dumps({"resourceType": "ConceptMap", "group": [group]}))
    found = left_out(
        write_export(
            fhir.mary,
            coded("o1", "urn:mapped"),
            coded("o2", "urn:named"),
            coded("o3", "urn:other", "http://loinc.org"),
            coded("o4", "urn:other"),
            coded("o5", CANARY),
            coded("o6", None),
        ),
        folder,
    )
    assert found.systems == {"urn:other": 1, "(not a URI)": 1, "(no system)": 1}


def test_only_the_first_of_each_type_are_looked_into(write_export, fhir):
    more = [
        fhir.observation(f"o{number}", issued="2020-01-01", note=[{"text": CANARY}]) for number in range(SAMPLE + 9)
    ]
    found = left_out(write_export(fhir.mary, *more, fhir.condition(note=[])), "fhir_r4")
    assert found.resources == SAMPLE + 11
    assert found.sampled == SAMPLE + 2
    assert found.elements == {"Condition.note": 1, "Observation.note": SAMPLE}


def test_whatever_the_json_holds(write_export, fhir):
    odd = {CANARY: 1, "code": 3, "subject": [[]], "extension": [{"url": CANARY}, 7], "valueQuantity": "x"}
    found = left_out(
        write_export(fhir.mary, fhir.observation("o1", **odd), fhir.condition(code={"coding": "x"})), "fhir_r4"
    )
    assert found.elements == {"Observation.?": 1, "Observation.extension('?')": 1}


def test_every_way_in_which_a_view_names_elements(tmp_path, write_export):
    folder = tmp_path / "mine"
    (folder / "views").mkdir(parents=True)
    (folder / "adapter.yaml").write_text(
        "name: mine\ntitle: Mine\nextends: fhir_r4\nevents: {form: {code: FORM, time: [authored]}}\n"
    )
    view = {
        "resourceType": "ViewDefinition",
        "resource": "Composition",
        "where": [{"path": "status = 'completed'"}],
        "select": [
            {
                "column": [
                    {"name": "patient", "path": "subject.getReferenceKey(Patient)"},
                    {"name": "authored", "path": "Composition.authored"},
                    {"name": "absent", "path": "author.exists()"},
                    {"name": "score", "path": "extension('urn:score').value.ofType(integer)"},
                    {"name": "who", "path": "source[0].display"},
                ]
            },
            {
                "repeat": ["item", "answer.item"],
                "column": [
                    {"name": "answers", "path": "answer.where(value.empty().not()).first().value.ofType(string)"}
                ],
                "unionAll": [{"column": [{"name": "link", "path": "linkId"}]}],
            },
        ],
    }
    (folder / "views" / "form.json").write_text(json.dumps(view))
    export = write_export(
        {"resourceType": "Patient", "id": "mary"},
        {
            "resourceType": "Composition",
            "id": "q",
            "status": "completed",
            "subject": {"reference": "Patient/mary", "display": CANARY},
            "authored": "2020-01-01",
            "author": {"reference": "Practitioner/1"},
            "source": {"display": "x"},
            "extension": [{"url": "urn:score", "valueInteger": 3}, {"url": "urn:other", "valueInteger": 3}],
            "item": [
                {
                    "linkId": "1",
                    "text": CANARY,
                    "item": [{"linkId": "1.1", "answer": [{"valueString": "x", "item": [{"linkId": "1.1.1"}]}]}],
                }
            ],
            "basedOn": [],
        },
    )
    assert left_out(export, folder).elements == {
        f"Composition.{name}": 1 for name in ("basedOn", "extension('urn:other')", "item.text", "subject.display")
    }


@pytest.mark.parametrize("name", ["fhir_r4", "mimic_iv", "synthea"])
def test_what_views_name_is_understood_for_shipped_adapters(name):
    """What an example shows is read: patient, code and time of every type are named."""
    for case in examples(bundled("adapters") / name):
        found = left_out(case / "in", load_adapter(name))
        assert not {"Observation.code", "Condition.code", "Patient.birthDate", "Encounter.period"} & set(found.elements)


def test_another_version_is_refused(write_export, fhir):
    with pytest.raises(ExportError, match="looks like FHIR R5"):
        left_out(
            write_export(fhir.mary, fhir.visit(**{"class": [{"coding": [{"code": "IMP"}]}], "period": None})), "fhir_r4"
        )
