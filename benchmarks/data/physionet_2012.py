"""Tables of the PhysioNet/CinC Challenge 2012 (sets A and B: 8,000 adult stays in intensive care), and their events.

    python benchmarks/data/physionet_2012.py set-a-b.zip --out TABLES [--events EVENTS]

The set: https://physionet.org/content/challenge-2012 (Silva, Moody, Scott, Celi, Mark: Predicting in-hospital mortality
of ICU patients, 2012), Open Data Commons Attribution 1.0. The source holds set-a/*.txt, set-b/*.txt and their
Outcomes-?.txt.

- Intensive care begins at 00:00; of the stay in hospital before nothing is told, so it begins then too. It ends
  Length_of_stay days later; where that is -1 the end is not told. The end of intensive care is not in the set.
- A death in hospital is one at the end of the stay, as MEDS_DEATH and as the disposition "exp". Deaths after the stay
  (Survival) are left out: of the others it is not told how long they were followed.
- SAPS-I and SOFA of the outcomes are no events: they are made of a day's values, and known to nobody before.
- -1 means missing. The weight is written with every set of values; only changes of it are kept.
- Invasive and other blood pressures have one code each: what is measured is the same.
- Artefacts (a temperature below 25, a pressure of 5 or less) are left to the adapter, whose bounds take them for what
  they are and count them.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
from icu_tables import Tables, born, later, main, members, observations, visits

#: Parameter -> LOINC code, name, unit.
MEASURED = {
    "Albumin": ("1751-7", "Albumin", "g/dL"),
    "ALP": ("6768-6", "Alkaline phosphatase", "U/L"),
    "ALT": ("1742-6", "Alanine aminotransferase", "U/L"),
    "AST": ("1920-8", "Aspartate aminotransferase", "U/L"),
    "Bilirubin": ("1975-2", "Bilirubin, total", "mg/dL"),
    "BUN": ("3094-0", "Urea nitrogen", "mg/dL"),
    "Cholesterol": ("2093-3", "Cholesterol", "mg/dL"),
    "Creatinine": ("2160-0", "Creatinine", "mg/dL"),
    "DiasABP": ("8462-4", "Diastolic blood pressure", "mm[Hg]"),
    "FiO2": ("3150-6", "Inhaled oxygen concentration", "1"),
    "GCS": ("9269-2", "Glasgow coma score", "{score}"),
    "Glucose": ("2345-7", "Glucose", "mg/dL"),
    "HCO3": ("1963-8", "Bicarbonate", "mmol/L"),
    "HCT": ("4544-3", "Hematocrit", "%"),
    "Height": ("8302-2", "Body height", "cm"),
    "HR": ("8867-4", "Heart rate", "/min"),
    "K": ("2823-3", "Potassium", "mmol/L"),
    "Lactate": ("2524-7", "Lactate", "mmol/L"),
    "MAP": ("8478-0", "Mean blood pressure", "mm[Hg]"),
    "Mg": ("19123-9", "Magnesium", "mg/dL"),  # 2601-3 is the same in moles
    "Na": ("2951-2", "Sodium", "mmol/L"),
    "NIDiasABP": ("8462-4", "Diastolic blood pressure", "mm[Hg]"),
    "NIMAP": ("8478-0", "Mean blood pressure", "mm[Hg]"),
    "NISysABP": ("8480-6", "Systolic blood pressure", "mm[Hg]"),
    "PaCO2": ("2019-8", "Carbon dioxide pressure in arterial blood", "mm[Hg]"),
    "PaO2": ("2703-7", "Oxygen pressure in arterial blood", "mm[Hg]"),
    "pH": ("2744-1", "pH of arterial blood", "[pH]"),
    "Platelets": ("777-3", "Platelets", "10*3/uL"),
    "RespRate": ("9279-1", "Respiratory rate", "/min"),
    "SaO2": ("2708-6", "Oxygen saturation in arterial blood", "%"),
    "SysABP": ("8480-6", "Systolic blood pressure", "mm[Hg]"),
    "Temp": ("8310-5", "Body temperature", "Cel"),
    "TroponinI": ("10839-9", "Troponin I", "ng/mL"),
    "TroponinT": ("6598-7", "Troponin T", "ng/mL"),
    "Urine": ("9187-6", "Urine output", "mL"),
    "WBC": ("6690-2", "Leukocytes", "10*3/uL"),
    "Weight": ("29463-7", "Body weight", "kg"),
}
#: ICUType -> code and name of the unit.
UNITS = {
    1: ("CCU", "Coronary care unit"),
    2: ("CSRU", "Cardiac surgery recovery unit"),
    3: ("MICU", "Medical intensive care unit"),
    4: ("SICU", "Surgical intensive care unit"),
}
VENTILATION = ("40617009", "Mechanical ventilation")


def read(source: Path) -> Tables:
    """The tables of the set; see `icu_tables`."""
    stays, outcomes = [], []
    for name, content in members(source, ".txt"):
        rows = pl.read_csv(content, infer_schema=False)
        if name.startswith("Outcomes"):
            outcomes.append(rows)
        else:
            stays.append(rows.with_columns(patient_id=pl.lit(name)))
    facts = _facts(pl.concat(stays))
    stay = _stays(facts, pl.concat(outcomes))
    return {
        "patients": stay.select(
            "patient_id", "gender", birth_date=born("Age"), death=pl.when("died").then(later("until"))
        ),
        "visits": _visits(stay),
        "observations": observations(facts, "Parameter", "hours", MEASURED),
        "procedures": facts.filter((pl.col("Parameter") == "MechVent") & (pl.col("value") == 1)).select(
            "patient_id",
            visit_id=pl.col("patient_id") + "-icu",
            time=later("hours"),
            code=pl.lit(VENTILATION[0]),
            name=pl.lit(VENTILATION[1]),
        ),
    }


def _facts(rows: pl.DataFrame) -> pl.DataFrame:
    """`patient_id`, `Parameter`, `hours`, `value`: what is not missing, in the order of the files."""
    clock = pl.col("Time").str.split_exact(":", 1).struct
    hours = clock.field("field_0").cast(pl.Float64) + clock.field("field_1").cast(pl.Float64) / 60
    facts = rows.select("patient_id", "Parameter", hours=hours, value=pl.col("Value").cast(pl.Float64))
    # Of temperatures some are below zero, which the adapter's bounds take for artefacts; nothing else can be.
    facts = facts.filter((pl.col("value") >= 0) | (pl.col("Parameter") == "Temp"))
    weight = pl.col("Parameter") == "Weight"
    changed = facts.filter(weight & (pl.col("value") > 0)).filter(
        (pl.col("value") != pl.col("value").shift().over("patient_id")).fill_null(True)
    )
    return pl.concat([facts.filter(~weight), changed])


def _stays(facts: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """A row for each stay: its facts at admission, and how and when it ended (`until`, in hours)."""
    at_admission = facts.filter(pl.col("Parameter").is_in(["Age", "Gender", "ICUType"]))
    stay = at_admission.pivot("Parameter", index="patient_id", values="value", aggregate_function="first")
    last = facts.group_by("patient_id").agg(last=pl.col("hours").max())
    told = outcomes.select(
        patient_id="RecordID",
        days=pl.col("Length_of_stay").cast(pl.Float64),
        died=pl.col("In-hospital_death") == "1",
    )
    stay = stay.join(last, on="patient_id").join(told, on="patient_id", how="left").sort("patient_id")
    until = pl.when(pl.col("days") >= 0).then(pl.max_horizontal(pl.col("days") * 24, "last"))
    gender = pl.col("Gender").replace_strict({0.0: "female", 1.0: "male"}, default=None)
    return stay.with_columns(until=until, gender=gender, died=pl.col("died").fill_null(False))


def _visits(stay: pl.DataFrame) -> pl.DataFrame:
    kind = pl.col("ICUType").cast(pl.Int64)
    hospital = {
        "start": later(pl.lit(0)),
        "end": later("until"),
        "discharged_to": pl.when(pl.col("died") & pl.col("until").is_not_null()).then(pl.lit("exp")),
    }
    intensive = {
        "unit": kind.replace_strict({key: code for key, (code, _) in UNITS.items()}, default=None),
        "unit_name": kind.replace_strict({key: name for key, (_, name) in UNITS.items()}, default=None),
        "start": later(pl.lit(0)),
    }
    return visits(stay, hospital, intensive)


if __name__ == "__main__":
    main(__doc__, "physionet_2012", read)
