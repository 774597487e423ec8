"""What a run hands to people: report.html, MODEL_CARD.md and worklist.csv."""

from ehr_tl.report.context import ReportInputs
from ehr_tl.report.page import write_model_card, write_report
from ehr_tl.report.worklist import worklist, write_worklist

__all__ = ["ReportInputs", "worklist", "write_model_card", "write_report", "write_worklist"]
