"""Work in several processes."""

from __future__ import annotations

import os

import pytest

from ehr_tl.errors import RunError
from ehr_tl.workers import work


def test_a_worker_that_ends_at_once_is_told_without_a_cause_that_nobody_knows():
    with pytest.raises(RunError, match="ended before its work was done; most often memory ran out"):
        list(work(os._exit, [1], 2))
