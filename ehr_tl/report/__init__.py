"""What is handed to people: report.html, coverage.html, MODEL_CARD.md and worklist.csv."""

from ehr_tl.report.context import ReportInputs
from ehr_tl.report.page import write_coverage, write_model_card, write_report
from ehr_tl.report.worklist import worklist, write_worklist

__all__ = ["ReportInputs", "worklist", "write_coverage", "write_model_card", "write_report", "write_worklist"]
