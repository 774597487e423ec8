import numpy as np
import polars as pl

from ehr_tl.models.base import PARTS, Attribution


def attribution() -> Attribution:
    rows = [(0, "event", "A", 1.0), (0, "missing", "B", -3.0), (2, "demographic", "AGE", 0.5)]
    return Attribution(np.array([1.0, 2.0, 3.0]), pl.DataFrame(rows, schema=PARTS, orient="row"))


def test_logit_is_base_plus_parts():
    assert attribution().logit().tolist() == [-1.0, 2.0, 3.5]
