"""Tasks become cohorts: who is asked about, when, what became of them; and who can be acted on now."""

from ehr_tl.cohort.cohort import Cohort, build_cohort, current_cohort, feasibility
from ehr_tl.cohort.task import Task, compile_task

__all__ = ["Cohort", "Task", "build_cohort", "compile_task", "current_cohort", "feasibility"]
