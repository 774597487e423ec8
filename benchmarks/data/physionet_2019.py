"""Tables of the PhysioNet/CinC Challenge 2019 (hospital system B: 9,271 stays in intensive care), and their events.

    python benchmarks/data/physionet_2019.py training_setB.zip --out TABLES [--events EVENTS]

The set: https://physionet.org/content/challenge-2019 (Reyna, Josef, Jeter et al.: Early prediction of sepsis from
clinical data, Crit Care Med 2020;48:210), Creative Commons Attribution 4.0. The source holds one *.psv for each stay,
with a row for each hour.

- The row of hour k (ICULOS) says what was so in that hour, and is known when it is over: k hours after the beginning of
  intensive care. The stay in hospital began HospAdmTime hours away from that; its end is not in the set.
- SepsisLabel turns 1 six hours *before* the onset of sepsis, for the sake of those who are to foresee it. The event is
  at the onset, six hours after the first hour so labelled, and there is none before. Where already the first row is
  labelled the onset may have been up to six hours earlier: later than it was is honest, earlier is not.
- Records of septic stays stop a few hours after the onset, of whatever length the stay was: the end of intensive care
  is an event only where there was no sepsis. Deaths are not in the set.
- Unit1 is a medical and Unit2 a surgical unit; of three stays in ten neither is told.
"""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
from icu_tables import Tables, born, later, main, members, observations, visits

#: Column -> LOINC code, name, unit. Lactate is given in mg/dL by the set's description, but its values are in mmol/L.
MEASURED = {
    "HR": ("8867-4", "Heart rate", "/min"),
    "O2Sat": ("59408-5", "Oxygen saturation by pulse oximetry", "%"),
    "Temp": ("8310-5", "Body temperature", "Cel"),
    "SBP": ("8480-6", "Systolic blood pressure", "mm[Hg]"),
    "MAP": ("8478-0", "Mean blood pressure", "mm[Hg]"),
    "DBP": ("8462-4", "Diastolic blood pressure", "mm[Hg]"),
    "Resp": ("9279-1", "Respiratory rate", "/min"),
    "EtCO2": ("19889-5", "End-tidal carbon dioxide pressure", "mm[Hg]"),
    "BaseExcess": ("1925-7", "Base excess in arterial blood", "mmol/L"),
    "HCO3": ("1963-8", "Bicarbonate", "mmol/L"),
    "FiO2": ("3150-6", "Inhaled oxygen concentration", "1"),
    "pH": ("2744-1", "pH of arterial blood", "[pH]"),
    "PaCO2": ("2019-8", "Carbon dioxide pressure in arterial blood", "mm[Hg]"),
    "SaO2": ("2708-6", "Oxygen saturation in arterial blood", "%"),
    "AST": ("1920-8", "Aspartate aminotransferase", "U/L"),
    "BUN": ("3094-0", "Urea nitrogen", "mg/dL"),
    "Alkalinephos": ("6768-6", "Alkaline phosphatase", "U/L"),
    "Calcium": ("17861-6", "Calcium", "mg/dL"),
    "Chloride": ("2075-0", "Chloride", "mmol/L"),
    "Creatinine": ("2160-0", "Creatinine", "mg/dL"),
    "Bilirubin_direct": ("1968-7", "Bilirubin, direct", "mg/dL"),
    "Glucose": ("2345-7", "Glucose", "mg/dL"),
    "Lactate": ("2524-7", "Lactate", "mmol/L"),
    "Magnesium": ("19123-9", "Magnesium", "mg/dL"),  # 2601-3 is the same in moles
    "Phosphate": ("2777-1", "Phosphate", "mg/dL"),
    "Potassium": ("2823-3", "Potassium", "mmol/L"),
    "Bilirubin_total": ("1975-2", "Bilirubin, total", "mg/dL"),
    "TroponinI": ("10839-9", "Troponin I", "ng/mL"),
    "Hct": ("4544-3", "Hematocrit", "%"),
    "Hgb": ("718-7", "Hemoglobin", "g/dL"),
    "PTT": ("3173-2", "Partial thromboplastin time", "s"),
    "WBC": ("6690-2", "Leukocytes", "10*3/uL"),
    "Fibrinogen": ("3255-7", "Fibrinogen", "mg/dL"),
    "Platelets": ("777-3", "Platelets", "10*3/uL"),
}
SEPSIS = ("91302008", "Sepsis")
#: Hours from the first row that is labelled to the onset.
FORESIGHT = 6


def read(source: Path) -> Tables:
    """The tables of the set; see `icu_tables`."""
    rows = pl.concat(
        pl.read_csv(io.BytesIO(content), separator="|", infer_schema=False).with_columns(patient_id=pl.lit(name))
        for name, content in members(source, ".psv")
    )
    rows = rows.with_columns(
        pl.col(name).cast(pl.Float64).fill_nan(None) for name in rows.columns if name != "patient_id"
    )
    stay = rows.group_by("patient_id", maintain_order=True).agg(
        pl.col("Age", "Gender", "Unit1", "Unit2", "HospAdmTime").first(),
        last=pl.col("ICULOS").max(),
        onset=pl.col("ICULOS").filter(pl.col("SepsisLabel") == 1).min() + FORESIGHT,
    )
    gender = pl.col("Gender").replace_strict({0.0: "female", 1.0: "male"}, default=None)
    return {
        "patients": stay.select("patient_id", gender=gender, birth_date=born("Age"), death=pl.lit(None, pl.String)),
        "visits": _visits(stay),
        "observations": _observations(rows),
        "conditions": stay.filter(pl.col("onset").is_not_null()).select(
            "patient_id",
            visit_id=pl.col("patient_id") + "-icu",
            time=later("onset"),
            code=pl.lit(SEPSIS[0]),
            name=pl.lit(SEPSIS[1]),
        ),
    }


def _visits(stay: pl.DataFrame) -> pl.DataFrame:
    intensive = {
        "unit": _unit("MICU", "SICU"),
        "unit_name": _unit("Medical intensive care unit", "Surgical intensive care unit"),
        "start": later(pl.lit(0)),
        "end": pl.when(pl.col("onset").is_null()).then(later("last")),
    }
    return visits(stay, {"start": later("HospAdmTime")}, intensive)


def _unit(medical: str, surgical: str) -> pl.Expr:
    return pl.when(pl.col("Unit1") == 1).then(pl.lit(medical)).when(pl.col("Unit2") == 1).then(pl.lit(surgical))


def _observations(rows: pl.DataFrame) -> pl.DataFrame:
    long = rows.unpivot(list(MEASURED), index=["patient_id", "ICULOS"], variable_name="column").drop_nulls("value")
    return observations(long.sort("patient_id", "ICULOS", maintain_order=True), "column", "ICULOS", MEASURED)


if __name__ == "__main__":
    main(__doc__, "physionet_2019_b", read)
