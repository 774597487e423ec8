"""Nothing of a record's later state gets into an earlier event.

An export is rewritten as it stood at a time T: what came later is removed, what was said later of earlier resources is
taken back. The events up to T must be the same. The rewriting knows FHIR, and nothing of adapters.
"""

import json
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ehr_tl.convert import convert
from ehr_tl.fhir.export import open_export
from ehr_tl.resources import bundled, sample_export

ACTIVE = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}
COLUMNS = [
    *("subject_id", "time", "code", "numeric_value", "text_value", "unit"),
    *("visit_id", "resource_id", "source_code", "other_codes"),
]


def moment(text: str | None) -> datetime | None:
    """A FHIR time as naive UTC; a date at its end."""
    if text is None:
        return None
    if len(text) <= 10:
        parts = [int(part) for part in text.split("-")]
        year, month, day = (*parts, 12, 28)[:3] if len(parts) < 3 else parts
        return datetime(year, month, day, 23, 59, 59)
    time = datetime.fromisoformat(text)
    return (time - (time.utcoffset() or timedelta(0))).replace(tzinfo=None)


class AsItStood:
    """Rewrites resources to their state at a time, by what FHIR says of each field."""

    def __init__(self, time: datetime, visit_ends: dict[str, datetime | None]):
        self.time, self.visit_ends = time, visit_ends

    def later(self, text: str | None) -> bool:
        return text is not None and moment(text) > self.time

    def __call__(self, resource: dict) -> dict | None:
        resource = json.loads(json.dumps(resource))
        return getattr(self, resource["resourceType"], self.as_is)(resource)

    def as_is(self, resource):
        return resource

    def Patient(self, patient):
        if self.later(patient.get("deceasedDateTime")):
            del patient["deceasedDateTime"]
        patient["address"] = [{"city": "Elsewhere"}]
        patient["maritalStatus"] = {"text": "as it was"}
        patient.pop("extension", None)
        return patient

    def Encounter(self, visit):
        if self.later(visit["period"]["start"]):
            return None
        if self.later(visit["period"].get("end")):
            visit["period"]["end"] = f"{self.time.isoformat()}Z"  # as it was planned
            visit["status"] = "in-progress"
            visit.get("hospitalization", {}).pop("dischargeDisposition", None)  # the source of admission stays
            for key in ("reasonCode", "length", "diagnosis"):
                visit.pop(key, None)
        return visit

    def Condition(self, condition):
        written = condition.get("recordedDate")
        if written is None and "encounter" in condition:
            end = self.visit_ends.get(condition["encounter"]["reference"])
            if end is None or end > self.time:
                return None
        if self.later(written) or self.later(condition.get("onsetDateTime")):
            return None
        condition["clinicalStatus"] = ACTIVE
        condition.pop("abatementDateTime", None)
        condition.pop("note", None)
        return condition

    def Observation(self, observation):
        times = [observation.get(key) for key in ("issued", "effectiveDateTime")]
        return None if any(map(self.later, times)) else observation

    def DiagnosticReport(self, report):
        return self.Observation(report)

    def Procedure(self, procedure):
        period = procedure.get("performedPeriod", {})
        if self.later(procedure.get("performedDateTime")) or self.later(period.get("start")):
            return None
        if self.later(period.get("end")):
            del period["end"]
            procedure["status"] = "in-progress"
        procedure.pop("outcome", None)
        return procedure

    def MedicationRequest(self, request):
        if self.later(request["authoredOn"]):
            return None
        return {**request, "status": "active"}

    def MedicationAdministration(self, given):
        period = given.get("effectivePeriod", {})
        if self.later(given.get("effectiveDateTime")) or self.later(period.get("start")):
            return None
        if self.later(period.get("end")):
            del period["end"]
            given["status"] = "in-progress"
            given.pop("dosage", None)
        return given

    def Immunization(self, vaccination):
        return None if self.later(vaccination.get("recorded", vaccination["occurrenceDateTime"])) else vaccination

    def AllergyIntolerance(self, allergy):
        return None if self.later(allergy.get("recordedDate")) else {**allergy, "clinicalStatus": ACTIVE}

    def ImagingStudy(self, study):
        return None if self.later(study["started"]) else {**study, "numberOfSeries": 0}


def write(folder: Path, resources) -> Path:
    folder.mkdir()
    (folder / "export.ndjson").write_text("".join(json.dumps(resource) + "\n" for resource in resources))
    return folder


def up_to(events, time: datetime) -> pl.DataFrame:
    known = events.scan().filter(pl.col("time").is_null() | (pl.col("time") <= time)).select(COLUMNS)
    return known.with_columns(pl.col("other_codes").list.join(" ")).collect().sort(COLUMNS, nulls_last=True)


def check(resources: list[dict], adapter: str, times: list[datetime], folder: Path) -> None:
    ends = {
        f"Encounter/{resource['id']}": moment(resource["period"].get("end"))
        for resource in resources
        if resource["resourceType"] == "Encounter"
    }
    full = convert(write(folder / "full", resources), adapter, folder / "full_events")
    for number, time in enumerate(times):
        stood = filter(None, map(AsItStood(time, ends), resources))
        early = convert(write(folder / f"{number}", stood), adapter, folder / f"{number}_events")
        known = up_to(full, time)
        assert known.rows() == up_to(early, time).rows()
        assert 0 < known.height < full.scan().collect().height


def some_patients(number: int) -> list[dict]:
    """Resources of the first patients of the sample, and all Medications (they name no patient)."""
    wanted = {f"Patient/p{n}" for n in range(1, number + 1)}
    found = []
    for read in open_export(sample_export()).read():
        resource = read.resource
        about = (resource.get("subject") or resource.get("patient") or {}).get("reference")
        if about in wanted or f"{read.type}/{resource['id']}" in wanted or read.type == "Medication":
            found.append(resource)
    return found


def test_sample(tmp_path):
    times = [datetime(2016, 3, 4, 5), datetime(2022, 7, 1), datetime(2025, 11, 1, 12, 30)]
    check(some_patients(12), "synthea", times, tmp_path)


@pytest.mark.parametrize(
    ("case", "adapter", "times"),
    [
        # During the stay, during the procedure and the infusion, between writing and onset, after discharge.
        (
            "fhir_r4/examples/ward",
            "fhir_r4",
            [
                datetime(2021, 3, 1, 7, 45),
                datetime(2021, 3, 1, 9, 30),
                datetime(2021, 3, 2, 12),
                datetime(2021, 3, 5, 10),
                datetime(2021, 4, 1),
            ],
        ),
        (
            "mimic_iv/examples/stay",
            "mimic_iv",
            [datetime(2150, 3, 2, 23), datetime(2150, 3, 3, 10), datetime(2150, 3, 9, 16), datetime(2150, 3, 9, 20)],
        ),
    ],
)
def test_examples(tmp_path, case, adapter, times):
    resources = [read.resource for read in open_export(bundled("adapters") / case / "in").read()]
    check(resources, adapter, times, tmp_path)


def test_mimic_demo(data, tmp_path):
    """Stays of real patients, cut in their middle."""
    export = open_export(data / "mimic_iv_demo_fhir" / "fhir")
    visits = [read.resource for read in export.read() if read.type == "Encounter"]
    patient = visits[0]["subject"]["reference"]
    resources = [
        read.resource
        for read in export.read()
        if read.type == "Medication"
        or f"{read.type}/{read.resource['id']}" == patient
        or read.resource.get("subject", {}).get("reference") == patient
    ]
    stays = [
        visit["period"] for visit in visits if visit["subject"]["reference"] == patient and "end" in visit["period"]
    ]
    middles = sorted(moment(stay["start"]) + (moment(stay["end"]) - moment(stay["start"])) / 2 for stay in stays)
    check(resources, "mimic_iv", middles[::4], tmp_path)
