"""Who is tested on and whose cases are local: fixed by the seed, the subjects, their labels and sites alone."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ehr_tl.errors import CohortError
from ehr_tl.transfer.study.config import ALL, Study
from ehr_tl.wording import counted

log = logging.getLogger("ehr_tl")

#: Subjects of each class that there must be to cross-validate, among local cases and among those tested on.
FEWEST = 2

#: Divisions of sites that are tried.
_TRIALS = 1000


@dataclass(frozen=True)
class Draw:
    """The local cases of one repeat and size.

    Attributes:
        repeat: Its number.
        size: As the study names it: cases, or shots (subjects of each class), or "all".
        subjects: Ids, sorted, shape (n,).
        events: How many of them have the outcome.
    """

    repeat: int
    size: int | str
    subjects: np.ndarray
    events: int

    @property
    def name(self) -> str:
        return f"{self.repeat}-{self.size}"


@dataclass(frozen=True)
class Draws:
    """The test part, and all draws from the rest.

    Attributes:
        test: Ids of the subjects who are tested on, sorted.
        test_events: How many of them have the outcome.
        test_sites: How many whole sites the test part is; None: it is drawn by subject.
        each: The draws, repeat by repeat, sizes ascending. Within a repeat, a smaller one is part of a larger one.
    """

    test: np.ndarray
    test_events: int
    test_sites: int | None
    each: tuple[Draw, ...]

    def to_json(self) -> dict[str, Any]:
        """Counts, and digests by which a committed copy can be checked without telling anybody's id."""
        return {
            "test": _told(self.test, self.test_events),
            "draws": [
                {"repeat": draw.repeat, "size": draw.size, **_told(draw.subjects, draw.events)} for draw in self.each
            ],
        }


def draw_cases(study: Study, labelled: pl.DataFrame, sites: pl.DataFrame | None = None) -> Draws:
    """Sets the test part aside, and draws local cases from the rest.

    The test part has the cohort's share of subjects with the outcome, and so has each number of `cases`, with at least
    `FEWEST` of either class. Of `shots` there are as many of each class, or all where there are fewer. Sizes beyond
    those who are left are passed over. `all` is drawn once for each seed of pretraining: it is the same every time.
    With `sites` the test part is all subjects of some sites, which together come as near to these shares as they can.

    Args:
        study: Seed, sizes and repeats.
        labelled: The target's labelled rows (`schema.COHORT`). A subject has the outcome when any row has.
        sites: `subject_id` and `site` of all subjects, where sites are tested on whole.

    Raises:
        CohortError: There are too few subjects of a class, or too few sites, or no size can be drawn.
    """
    people = labelled.group_by("subject_id").agg(pl.col("boolean_value").any()).sort("subject_id")
    ids, ill = people["subject_id"].to_numpy(), people["boolean_value"].to_numpy()
    groups = [np.random.default_rng((study.seed, number)).permutation(ids[ill == bool(number)]) for number in (1, 0)]
    if sites is None:
        number, tested = None, [np.arange(len(group)) < round(study.test_share * len(group)) for group in groups]
    else:
        site = people.join(sites, on="subject_id", how="left", maintain_order="left")["site"].to_numpy()
        chosen = _test_sites(study, site, ill)
        number, tested = len(chosen), [np.isin(group, ids[np.isin(site, chosen)]) for group in groups]
    pools = [group[~mine] for group, mine in zip(groups, tested)]
    _check([int(mine.sum()) for mine in tested], pools)
    test = np.sort(np.concatenate([group[mine] for group, mine in zip(groups, tested)]))
    each = [draw for repeat in range(study.repeats) for draw in _repeat(study, repeat, pools)]
    if not each:
        raise CohortError(
            f"{sum(map(len, pools))} subjects are left beside the test part, fewer than any size of the study",
            expected=f"one that can be drawn, or {ALL!r}",
        )
    if beyond := [str(size) for size in study.sizes if size not in {draw.size for draw in each}]:
        there = f"{sum(map(len, pools)):,} subjects are left beside the test part, {len(pools[0]):,} with the outcome"
        log.info("Passed over: %s. Only %s", ", ".join(beyond), there)
    return Draws(test, int(tested[0].sum()), number, tuple(each))


def _test_sites(study: Study, site: np.ndarray, ill: np.ndarray) -> np.ndarray:
    """The sites that are tested on: of many random divisions the one whose share of either class is nearest to right.

    Args:
        study: Seed and share.
        site, ill: Of each subject, shape (n,).
    """
    sites, home = np.unique(site, return_inverse=True)
    there = np.column_stack([np.bincount(home[ill == whether], minlength=len(sites)) for whether in (True, False)])
    random = np.random.default_rng((study.seed, 2))
    order = random.permuted(np.tile(np.arange(len(sites)), (_TRIALS, 1)), axis=1)
    taken = there[order].cumsum(axis=1)[:, :-1]  # of the first site of each order, the first two, and so on
    enough = (np.minimum(taken, there.sum(axis=0) - taken) >= FEWEST).all(axis=2)
    if not enough.any():
        raise CohortError(
            f"The target's subjects are from {counted(len(sites), 'site')}: no division of whole sites leaves "
            f"{FEWEST} subjects with and {FEWEST} without the outcome both in the test part and outside of it",
            expected="two sites or more with subjects of both kinds",
            fix="leave evaluation.sites out of the pipeline, so that subjects are set aside and not sites",
        )
    away = ((taken / there.sum(axis=0) - study.test_share) ** 2).sum(axis=2)
    trial, last = np.unravel_index(np.argmin(np.where(enough, away, np.inf)), away.shape)
    return sites[order[trial, : last + 1]]


def _repeat(study: Study, repeat: int, pools: list[np.ndarray]) -> list[Draw]:
    order = [np.random.default_rng((study.seed, repeat, number)).permutation(pool) for number, pool in enumerate(pools)]
    found = []
    for size in study.sizes:
        numbers = _numbers(size, [len(pool) for pool in pools], study.shots is not None)
        if numbers is None or (size == ALL and repeat >= len(study.seeds)):
            continue
        subjects = np.sort(np.concatenate([part[:number] for part, number in zip(order, numbers)]))
        found.append(Draw(repeat, size, subjects, numbers[0]))
    return found


def _numbers(size: int | str, there: list[int], each_class: bool) -> tuple[int, int] | None:
    """How many with and without the outcome; None where there are not so many."""
    positive, negative = there
    if size == ALL:
        return positive, negative
    if each_class:
        return None if size > max(there) else (min(size, positive), min(size, negative))
    if size > positive + negative:
        return None
    share = int(size * positive / (positive + negative) + 0.5)
    drawn = min(max(share, FEWEST), size - FEWEST)
    return drawn, size - drawn


def _check(tested: list[int], pools: list[np.ndarray]) -> None:
    if min(*tested, *map(len, pools)) < FEWEST:
        with_outcome, without = (number + len(pool) for number, pool in zip(tested, pools))
        raise CohortError(
            f"The target has {counted(with_outcome, 'subject')} with the outcome and {without} without it: too few to "
            "set a test part aside",
            expected=f"at least {FEWEST} of each in the test part and outside of it",
            fix="use more records, a longer outcome window or a broader outcome",
        )


def _told(subjects: np.ndarray, events: int) -> dict[str, Any]:
    digest = hashlib.blake2b(",".join(map(str, subjects.tolist())).encode(), digest_size=8).hexdigest()
    return {"subjects": len(subjects), "events": int(events), "digest": digest}
