"""Discrimination, calibration, intervals, subgroups and net benefit of the models, on people they had not seen."""

from ehr_tl.evaluate.evaluation import ENOUGH, FROM_SCRATCH, evaluate
from ehr_tl.evaluate.subgroups import age_years, demographics

__all__ = ["ENOUGH", "FROM_SCRATCH", "age_years", "demographics", "evaluate"]
