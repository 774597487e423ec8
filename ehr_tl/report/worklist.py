"""`worklist.csv`: the current patients for people, highest risk first."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ehr_tl import schema
from ehr_tl.events import ExportInfo
from ehr_tl.files import whole

_KEY = ["subject_id", "prediction_time"]

WORKLIST = {
    "patient_id": pl.String,
    "prediction_time": schema.TIME,
    "risk": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "reason_1": pl.String,
    "reason_2": pl.String,
    "reason_3": pl.String,
    "abstained": pl.Boolean,
    "abstained_because": pl.String,
    "notice": pl.String,
}


def worklist(scores: pl.DataFrame, reasons: pl.DataFrame, subjects: pl.DataFrame, export: ExportInfo) -> pl.DataFrame:
    """The current, chosen scores with three reasons each; patients without a score below, with the reason for that.

    Args:
        scores: `schema.SCORES`.
        reasons: As `ehr_tl.explain.reasons` gives it for the chosen model.
        subjects: `schema.SUBJECTS`.
        export: What goes into the column `notice`.

    Returns:
        Columns as in `WORKLIST`; the risk of an abstained patient is null.
    """
    rows = scores.filter(pl.col("chosen") & (pl.col("split") == schema.CURRENT_SPLIT))
    answered = ~pl.col("abstained")
    why = [
        pl.when(answered).then(pl.col("reasons").list.get(i, null_on_oob=True)).alias(f"reason_{i + 1}")
        for i in range(3)
    ]
    unsaid = export.synthetic and "synthetic" not in export.notice.lower()
    notice = "; ".join(filter(None, ["synthetic: nobody here exists" if unsaid else "", export.notice]))
    return (
        rows.join(subjects, on="subject_id")
        .join(reasons, on=_KEY, how="left")
        .sort("abstained", "risk", "patient_id", descending=[False, True, False])
        .with_columns(*why, abstained_because=pl.when("abstained").then("reason"), notice=pl.lit(notice))
        .with_columns(pl.when(answered).then(pl.col(name).round(4)).alias(name) for name in ("risk", "lower", "upper"))
        .select(list(WORKLIST))
        .cast(WORKLIST)
    )


def write_worklist(path: str | Path, frame: pl.DataFrame) -> None:
    """Writes CSV that spreadsheets read as it is meant.

    What one would take for a formula gets a leading apostrophe, also behind a semicolon: where the comma is the decimal
    sign, Excel divides there. The mark at the file's beginning says that it is UTF-8 (Python: `utf-8-sig`).
    """
    safe = frame.with_columns(pl.col(pl.String).str.replace_all(r"(^|;\s*)([=+\-@\t\r])", "$1'$2"))
    with whole(path) as temporary:
        safe.write_csv(temporary, datetime_format="%Y-%m-%d %H:%M", include_bom=True, quote_style="non_numeric")
