"""Rows, labels, current rows and the flow table, on records small enough to check by eye."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from ehr_tl.cohort import Cohort, build_cohort, compile_task, feasibility
from ehr_tl.config import Pipeline, TaskConfig
from ehr_tl.errors import CohortError, PipelineError, RunError

YEARLY = TaskConfig(
    predicates={"death": {"code": "MEDS_DEATH"}, "visit": {"code": {"regex": "^VISIT_START//"}}},
    trigger="INDEX",
    every="365 days",
    windows={
        "history": {
            "start": None,
            "end": "trigger",
            "start_inclusive": True,
            "end_inclusive": True,
            "has": {"visit": "(1, None)"},
            "index_timestamp": "end",
        },
        "outcome": {
            "start": "trigger",
            "end": "start + 365 days",
            "start_inclusive": False,
            "end_inclusive": True,
            "has": {},
            "label": "death",
        },
    },
)

ANY_X = {**YEARLY.predicates, "death": {"code": {"any": ["X", "MEDS_DEATH"]}}}

STAY = {
    "predicates": {
        "admission": {"code": "VISIT_START//IMP"},
        "discharge": {"code": "VISIT_END//IMP"},
        "died": {"code": "MEDS_DEATH"},
        "over": {"expr": "or(discharge, died)"},
    },
    "trigger": "admission",
}


def stay_task(**changes) -> TaskConfig:
    """Death in hospital, asked 24 hours after admission."""
    windows = {
        "first_day": {
            "start": "trigger",
            "end": "start + 24 hours",
            "start_inclusive": False,
            "end_inclusive": True,
            "has": {"over": "(None, 0)"},
            "index_timestamp": "end",
        },
        "stay": {
            "start": "first_day.end",
            "end": "start -> over",
            "start_inclusive": False,
            "end_inclusive": True,
            "label": "died",
        },
    }
    return TaskConfig(**{**STAY, "windows": windows, **changes})


def rows(cohort: Cohort) -> list[tuple]:
    return cohort.labelled.rows()


def test_yearly_rows_are_labelled_only_where_the_whole_window_closed(make_events, day):
    end = day(2022)
    year = timedelta(days=365)
    events = make_events(
        [
            (1, day(1950), "MEDS_BIRTH"),
            (1, day(2020, 6), "VISIT_START//AMB"),
            (2, day(2018), "VISIT_START//AMB"),
            (2, day(2021, 6), "MEDS_DEATH"),  # half a year after the index a year before the end
            (3, end, "VISIT_START//AMB"),
        ]
    )
    cohort = build_cohort(events, YEARLY)
    assert cohort.as_of == end
    assert cohort.horizon == year
    assert rows(cohort) == [
        (1, end - year, False),
        (2, end - 4 * year, False),
        (2, end - 3 * year, False),
        (2, end - 2 * year, False),
        (2, end - year, True),
    ]
    assert cohort.current.rows() == [(1, end), (3, end)]


def test_an_early_outcome_in_an_open_window_gives_no_row(make_events, day):
    facts = [(s, day(2018), "VISIT_START//AMB") for s in (1, 2, 3)]
    facts += [(2, day(2021, 6), "MEDS_DEATH"), (3, day(2021, 12, 31), "MEDS_DEATH"), (1, day(2022), "VISIT_START//AMB")]
    task = TaskConfig(**{**vars(YEARLY), "windows": {**YEARLY.windows}})
    task.windows["outcome"] = {**YEARLY.windows["outcome"], "end": "start + 730 days"}
    cohort = build_cohort(make_events(facts), task)
    end = day(2022)
    last = cohort.labelled.filter(cohort.labelled["prediction_time"] == end - timedelta(days=730))
    assert last["boolean_value"].to_list() == [False, True, True]
    assert cohort.labelled["prediction_time"].max() == end - timedelta(days=730)
    assert cohort.current.rows() == [(1, end)]


def test_prediction_times_lie_neither_before_the_first_event_nor_at_death_nor_before_index_from(make_events, day):
    end = day(2022)
    times = [end - timedelta(days=365 * k) for k in range(6)]
    events = make_events(
        [
            (1, day(1940), "MEDS_BIRTH"),
            (1, times[4], "VISIT_START//AMB"),
            (1, times[2], "MEDS_DEATH"),
            (2, day(2000), "VISIT_START//AMB"),
            (2, end, "X"),
        ],
        index_from=times[3],
    )
    cohort = build_cohort(events, YEARLY)
    assert rows(cohort) == [(1, times[3], True), (2, times[3], False), (2, times[2], False), (2, times[1], False)]
    of_task = TaskConfig(**{**vars(YEARLY), "index_from": "end - 1460 days"})
    assert (1, times[4], False) in rows(build_cohort(events, of_task))


def test_stays_need_their_discharge_and_rows_lie_before_death(make_events, day):
    events = make_events(
        [
            (1, day(2020), "VISIT_START//IMP"),
            (1, day(2020, 1, 5), "VISIT_END//IMP"),
            (2, day(2020), "VISIT_START//IMP"),
            (2, day(2020, 1, 9), "MEDS_DEATH"),
            (3, day(2020), "VISIT_START//IMP"),  # died on the first day
            (3, day(2020, 1, 1, 20), "MEDS_DEATH"),
            (4, day(2020, 1, 20), "VISIT_START//IMP"),  # in hospital at the export's end
            (5, day(2020, 1, 29, 12), "VISIT_START//IMP"),  # admitted less than 24 hours before it
            (6, day(2020, 1, 30), "LOINC//8867-4", 80.0),
        ]
    )
    cohort = build_cohort(events, stay_task())
    assert rows(cohort) == [(1, day(2020, 1, 2), False), (2, day(2020, 1, 2), True)]
    assert cohort.current.rows() == [(4, day(2020, 1, 21))]
    assert cohort.horizon is None
    assert cohort.flow[-1]["rows"] == 2
    assert {"step": "first_day: no over", "rows": 4, "subjects": 4, "lost_rows": 0, "lost_subjects": 0} in cohort.flow


def test_flow_steps_add_up(make_events, day):
    facts = [(s, day(2019), "VISIT_START//AMB" if s % 2 else "X") for s in range(10)]
    facts += [(1, day(2020), "MEDS_DEATH"), (5, day(2022), "X")]
    cohort = build_cohort(make_events(facts), YEARLY)
    first = cohort.flow[0]
    assert first["subjects"] + first["lost_subjects"] == 10
    for before, after in zip(cohort.flow, cohort.flow[1:]):
        assert after["lost_rows"] == before["rows"] - after["rows"]
        assert after["lost_subjects"] == before["subjects"] - after["subjects"]
    assert cohort.flow[-1]["rows"] == cohort.labelled.height
    lost = next(step for step in cohort.flow if step["step"] == "history: at least 1 visit")
    assert lost["lost_subjects"] == 5


def test_events_after_as_of_are_not_seen(make_events, day):
    facts = [(s, day(2015), "VISIT_START//AMB") for s in (1, 2)]
    facts += [(1, day(2018, 6), "MEDS_DEATH"), (2, day(2020, 6), "MEDS_DEATH")]
    cohort = build_cohort(make_events(facts), YEARLY, as_of=day(2020))
    assert cohort.current.rows() == [(2, day(2020))]
    assert cohort.predicates["death"] == {"events": 1, "subjects": 1}


def test_an_as_of_date_after_the_export_labels_nothing_more(make_events, day):
    facts = [(s, day(2015), "VISIT_START//AMB") for s in (1, 2)] + [
        (1, day(2017, 6), "MEDS_DEATH"),
        (2, day(2019), "X"),
    ]
    late = build_cohort(make_events(facts), YEARLY, as_of=day(2019) + timedelta(days=100))
    assert late.labelled["prediction_time"].max() + timedelta(days=365) <= day(2019)


def test_where_dates_are_shifted_nobody_is_current(make_events, day):
    facts = [(s, day(2015), "VISIT_START//AMB") for s in (1, 2)] + [
        (1, day(2018, 6), "MEDS_DEATH"),
        (2, day(2019), "X"),
    ]
    assert build_cohort(make_events(facts), YEARLY).current.height == 1
    assert build_cohort(make_events(facts, dates_shifted=True), YEARLY).current.height == 0


def test_the_absence_of_an_event_can_be_the_outcome(make_events, day):
    task = stay_task(absent=True)
    task.windows["stay"] = {
        "start": "first_day.end",
        "end": "start + 2 days",
        "start_inclusive": False,
        "end_inclusive": True,
        "label": "over",
    }
    events = make_events(
        [
            (1, day(2020), "VISIT_START//IMP"),
            (1, day(2020, 1, 3), "VISIT_END//IMP"),
            (2, day(2020), "VISIT_START//IMP"),
            (2, day(2020, 1, 9), "VISIT_END//IMP"),
            (3, day(2020, 1, 8), "VISIT_START//IMP"),
            (4, day(2020, 1, 10), "X"),
        ]
    )
    cohort = build_cohort(events, task)
    assert rows(cohort) == [(1, day(2020, 1, 2), False), (2, day(2020, 1, 2), True)]
    assert cohort.current.rows() == [(3, day(2020, 1, 9))]
    assert cohort.horizon == timedelta(days=2)


def test_predicates_match_parents_values_units_and_demographics(make_events, day):
    task = TaskConfig(
        predicates={
            "diabetes": {"code": {"any": ["SNOMED//44054006", "SNOMED//absent"]}},
            "icd": {"code": {"regex": "^ICD10CM//E11"}},
            "high": {"code": "LOINC//4548-4", "value_min": 6.5, "value_min_inclusive": True, "unit": "%"},
            "outcome": {"expr": "or(diabetes, high, icd)"},
            "visit": {"code": "VISIT_START//AMB"},
        },
        patient_demographics={"female": {"code": "GENDER//female"}},
        trigger="INDEX",
        every="365 days",
        windows={**YEARLY.windows, "outcome": {**YEARLY.windows["outcome"], "label": "outcome"}},
    )
    facts = [(s, None, "GENDER//female") for s in range(1, 6)] + [(6, None, "GENDER//male")]
    facts += [(s, day(2019), "VISIT_START//AMB") for s in range(1, 7)]
    facts += [
        (1, day(2021, 6), "LOCAL//dm2"),
        (2, day(2021, 6), "LOINC//4548-4", 6.5),
        (3, day(2021, 6), "LOINC//4548-4", 6.4),
        (4, day(2021, 6), "SNOMED//5"),
        (6, day(2022), "LOCAL//dm2"),
    ]
    events = make_events(facts, parents={"LOCAL//dm2": ["LOCAL//dm"], "LOCAL//dm": ["SNOMED//44054006"]})
    cohort = build_cohort(events, task)
    assert cohort.labelled.filter("boolean_value")["subject_id"].to_list() == [1]  # no unit: the value does not count
    assert 6 not in cohort.labelled["subject_id"]
    assert cohort.predicates["diabetes"] == {"events": 2, "subjects": 2}
    assert cohort.absent_codes == ["SNOMED//absent", "/^ICD10CM//E11/"]
    any_unit = {**task.predicates, "high": {k: v for k, v in task.predicates["high"].items() if k != "unit"}}
    cohort = build_cohort(events, TaskConfig(**{**vars(task), "predicates": any_unit}))
    assert cohort.labelled.filter("boolean_value")["subject_id"].to_list() == [1, 2]


def test_bounds_are_in_the_unit_of_the_event(make_events, day):
    """Glucose of 5 mmol/L is an event of glucose in mg/dL: no bound in mmol/L holds for its number."""
    moles, grams = "LOINC//14749-6", "LOINC//2345-7"
    facts = [(s, day(2019), "VISIT_START//AMB") for s in (1, 2, 3, 4)]
    facts += [
        (1, day(2021, 6), grams, 90.0, [moles], 5.0),
        (2, day(2021, 6), grams, 180.0, [moles], 10.0),
        (3, day(2021, 6), moles, 10.0),  # as it was written
        (4, day(2021, 6), grams, None, [moles], 1e7),  # implausible
    ]
    events = make_events(facts)
    window = {**YEARLY.windows["outcome"], "label": "high"}
    for code, bound, positive in ((moles, 7.0, [3]), (grams, 126.0, [2])):
        predicates = {"high": {"code": code, "value_min": bound}, "visit": {"code": "VISIT_START//AMB"}}
        task = TaskConfig(
            predicates=predicates, trigger="INDEX", every="365 days", windows={**YEARLY.windows, "outcome": window}
        )
        labelled = build_cohort(events, task).labelled
        assert labelled.filter("boolean_value")["subject_id"].unique().sort().to_list() == positive
    predicates["high"] = {"code": moles}
    cohort = build_cohort(events, TaskConfig(**{**vars(task), "predicates": predicates}))
    assert cohort.predicates["high"] == {"events": 4, "subjects": 4}


def test_other_codes_count_for_the_event_that_has_them_alone(make_events, day):
    """That one hospital visit was coded in two systems says nothing of other visits with the same first code."""
    facts = [(s, day(2019), "VISIT_START//AMB") for s in (1, 2, 3)]
    facts += [
        (1, day(2021, 6), "SNOMED//44054006"),
        (2, day(2021, 6), "SNOMED//44054006", None, ["ICD10CM//E11.21"]),
        (3, day(2022), "X"),
    ]
    predicates = {**YEARLY.predicates, "death": {"code": "ICD10CM//E11.2"}}
    events = make_events(facts, parents={"ICD10CM//E11.21": ["ICD10CM//E11.2"]})
    cohort = build_cohort(events, broken(predicates=predicates))
    assert cohort.labelled.filter("boolean_value")["subject_id"].to_list() == [2]
    assert cohort.predicates["death"] == {"events": 1, "subjects": 1}


def test_who_died_nobody_knows_when_is_neither_current_nor_a_survivor(make_events, day):
    facts = [(s, day(2018), "VISIT_START//AMB") for s in (1, 2)] + [(s, day(2020, 6), "X") for s in (1, 2)]
    facts += [(2, None, "MEDS_DEATH"), (3, day(2018), "VISIT_START//AMB"), (3, day(2019, 6), "MEDS_DEATH")]
    cohort = build_cohort(make_events(facts, latest_event=day(2023)), YEARLY)
    times = {s: sorted(time.year for subject, time, _ in rows(cohort) if subject == s) for s in (1, 2)}
    assert times[1] == [2018, 2019, 2020, 2021] or times[1] == [2018, 2019, 2020, 2021, 2022]
    assert times[2] == [2018, 2019]  # the year from 2020 on ended after the last that is known of them
    assert cohort.current["subject_id"].to_list() == [1]
    assert any("unknown date" in step["step"] and step["lost_rows"] > 0 for step in cohort.flow)


def test_who_died_on_the_as_of_day_or_may_have_is_not_current(make_events, day):
    """A day of death ends after the hour at which an export was made: it had begun, and nobody knows more."""
    facts = [(s, day(2018), "VISIT_START//AMB") for s in (1, 2, 3)] + [(1, day(2022, 12, 1), "X")]
    facts += [(2, datetime(2023, 1, 1, 23, 59, 59, 999999), "MEDS_DEATH")]  # on the day of the export
    facts += [(3, datetime(2023, 1, 2, 23, 59, 59, 999999), "MEDS_DEATH")]  # on the next
    cohort = build_cohort(make_events(facts, transaction_time=day(2023, 1, 1, 12)), broken(predicates=ANY_X))
    assert cohort.current["subject_id"].to_list() == [1, 3]


@pytest.mark.parametrize("name", ["subject_id", "timestamp", "prediction_time", "a b", "_death"])
def test_names_that_would_collide_are_refused(name):
    windows = {**YEARLY.windows, name: {**YEARLY.windows["history"], "index_timestamp": None, "has": {}}}
    with pytest.raises(PipelineError, match=f"is named '{name}'"):
        compile_task(broken(windows=windows))
    with pytest.raises(PipelineError, match=f"is named '{name}'"):
        compile_task(broken(predicates={**YEARLY.predicates, name: {"code": "X"}}))


def test_a_window_may_be_called_death(make_events, day):
    windows = {"history": YEARLY.windows["history"], "death": YEARLY.windows["outcome"]}
    facts = [(1, day(2018), "VISIT_START//AMB"), (1, day(2020, 6), "MEDS_DEATH"), (2, day(2018), "VISIT_START//AMB")]
    cohort = build_cohort(make_events(facts, latest_event=day(2022)), broken(windows=windows))
    assert sum(label for _, _, label in rows(cohort)) == 1


def test_nobody_is_asked_about_on_the_day_of_a_death_without_an_hour(make_events, day):
    """A discharge at 14:00 of somebody who died "that day" may be the discharge of the dead."""
    past, outcome = YEARLY.windows["history"], YEARLY.windows["outcome"]
    task = TaskConfig(
        predicates={"discharge": {"code": "VISIT_END//IMP"}, "visit": {"code": "VISIT_START//IMP"}},
        trigger="discharge",
        windows={"past": {**past, "has": {}}, "outcome": {**outcome, "end": "start + 30 days", "label": "visit"}},
    )
    ends = {s: day(2020, 3, 1, 14) for s in (1, 2, 3, 4)}
    facts = [(s, end, "VISIT_END//IMP") for s, end in ends.items()]
    facts += [(4, day(2020, 3, 9), "VISIT_START//IMP")]
    facts += [(1, datetime(2020, 3, 1, 23, 59, 59, 999999), "MEDS_DEATH")]  # to the day
    facts += [(2, day(2020, 3, 1, 22), "MEDS_DEATH")]  # to the hour
    cohort = build_cohort(make_events(facts, latest_event=day(2021)), task)
    assert cohort.labelled["subject_id"].to_list() == [2, 3, 4]


def test_a_code_under_a_role_is_not_the_fact_itself(make_events, day):
    roles = {"VISIT_REASON//SNOMED//1": ["SNOMED//1", "LOCAL//1"], "SNOMED//2": ["SNOMED//1"]}
    facts = [(s, day(2019), "VISIT_START//AMB") for s in (1, 2)]
    facts += [(1, day(2021, 6), "VISIT_REASON//SNOMED//1"), (2, day(2021, 6), "SNOMED//2"), (2, day(2022), "X")]
    predicates = {**YEARLY.predicates, "death": {"code": {"any": ["SNOMED//1", "LOCAL//1"]}}}
    cohort = build_cohort(make_events(facts, parents=roles), broken(predicates=predicates))
    assert cohort.labelled.filter("boolean_value")["subject_id"].to_list() == [2]
    named = {**YEARLY.predicates, "death": {"code": "VISIT_REASON//SNOMED//1"}}
    cohort = build_cohort(make_events(facts, parents=roles), broken(predicates=named))
    assert cohort.labelled.filter("boolean_value")["subject_id"].to_list() == [1]


def test_any_event_counts_times_of_events_not_prediction_times(make_events, day):
    task = TaskConfig(**{**vars(YEARLY), "windows": {**YEARLY.windows}})
    task.windows["history"] = {**YEARLY.windows["history"], "has": {"_ANY_EVENT": "(3, None)"}}
    facts = [(s, day(2019, 1, 1 + i), "X") for s in (1, 2) for i in range(s + 1)] + [(2, day(2021, 6), "MEDS_DEATH")]
    cohort = build_cohort(make_events([*facts, (3, day(2022), "X")]), task, as_of=day(2022))
    assert cohort.labelled["subject_id"].unique().to_list() == [2]


def test_written_and_read_again(make_events, day, tmp_path):
    facts = [(s, day(2019), "VISIT_START//AMB") for s in (1, 2)] + [
        (1, day(2021, 6), "MEDS_DEATH"),
        (2, day(2022), "X"),
    ]
    cohort = build_cohort(make_events(facts), YEARLY)
    cohort.write(tmp_path / "run")
    again = Cohort.read(tmp_path / "run")
    assert again.labelled.equals(cohort.labelled) and again.current.equals(cohort.current)
    assert (again.flow, again.as_of, again.horizon) == (cohort.flow, cohort.as_of, cohort.horizon)
    with pytest.raises(RunError, match=r"cohort\.parquet"):
        Cohort.read(tmp_path)


def test_labels_are_a_meds_label_table(make_events, day):
    from meds import LabelSchema

    facts = [(s, day(2019), "VISIT_START//AMB") for s in (1, 2)] + [
        (1, day(2021, 6), "MEDS_DEATH"),
        (2, day(2022), "X"),
    ]
    LabelSchema.validate(LabelSchema.align(build_cohort(make_events(facts), YEARLY).labelled.to_arrow()))


def test_empty_and_one_class_cohorts_say_which_predicate_matched_how_often(make_events, day):
    nobody = make_events([(1, day(2019), "X"), (1, day(2022), "X")])
    with pytest.raises(CohortError, match=r"history: at least 1 visit.*visit 0 times in 0 subjects"):
        build_cohort(nobody, YEARLY)
    alive = make_events([(1, day(2019), "VISIT_START//AMB"), (1, day(2022), "X")])
    with pytest.raises(CohortError, match=r"None of the 3 rows.*death 0 times in 0 subjects.*codes .* for death"):
        build_cohort(alive, YEARLY)
    static_only = make_events([(1, None, "GENDER//female")])
    with pytest.raises(CohortError, match="no event with a time"):
        build_cohort(static_only, YEARLY)
    no_trigger = make_events([(1, day(2019), "X")])
    with pytest.raises(CohortError, match="admission 0 times"):
        build_cohort(no_trigger, stay_task())


def test_triggers_without_the_event_that_a_window_begins_at_are_counted(make_events, day):
    windows = {
        "since_visit": {
            "start": "end <- visit",
            "end": "trigger",
            "start_inclusive": True,
            "end_inclusive": True,
            "index_timestamp": "end",
        },
        "outcome": YEARLY.windows["outcome"],
    }
    facts = [(1, day(2019), "X"), (1, day(2022), "X")]
    with pytest.raises(CohortError, match="'Every window has a beginning', which took 4 rows"):
        build_cohort(make_events(facts), broken(windows=windows))
    facts += [(2, day(2019), "VISIT_START//AMB"), (3, day(2019), "VISIT_START//AMB"), (2, day(2021, 6), "MEDS_DEATH")]
    cohort = build_cohort(make_events(facts), broken(windows=windows))
    assert cohort.labelled["subject_id"].unique().to_list() == [2, 3]
    assert cohort.flow[1]["lost_subjects"] == 1


def test_feasibility_never_raises(make_events, day):
    pipeline = Pipeline(name="p", title="t", question="q", outcome="o", task=YEARLY)
    told = feasibility(make_events([(1, None, "GENDER//female")]), pipeline)
    assert not told["enough"] and "no event with a time" in told["verdict"]
    told = feasibility(make_events([(1, day(2019), "X"), (1, day(2022), "X")]), pipeline)
    assert not told["enough"] and "no row" in told["verdict"]
    facts = [(s, day(2019), "VISIT_START//AMB") for s in range(50)]
    facts += [(s, day(2021, 6), "MEDS_DEATH") for s in range(25)] + [(49, day(2022), "X")]
    told = feasibility(make_events(facts), pipeline)
    assert told["enough"] and told["positive_subjects"] == 25 and told["current"] == 25
    told = feasibility(make_events([f for f in facts if f[2] != "MEDS_DEATH" or f[0] < 7]), pipeline)
    assert not told["enough"] and "7 subjects" in told["verdict"]


def broken(**changes) -> TaskConfig:
    return TaskConfig(**{**vars(YEARLY), **changes})


def with_outcome(**changes) -> TaskConfig:
    return broken(windows={**YEARLY.windows, "outcome": {**YEARLY.windows["outcome"], **changes}})


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (broken(trigger="nothing"), "'nothing' not found"),
        (with_outcome(label="nothing"), "Label must be one of the defined predicates"),
        (with_outcome(label=None), "no window has a label"),
        (with_outcome(end=None), "ends with the record"),
        (with_outcome(end="start + soon"), "Failed to parse timedelta"),
        (with_outcome(end="start"), "has no length"),
        (with_outcome(start="trigger - 30 days"), "starts before the prediction time"),
        (with_outcome(has={"death": "(3, 1)"}), "bounds"),
        (with_outcome(has={"nobody": "(None, 0)"}), "undefined predicate 'nobody'"),
        (with_outcome(colour="red"), "colour"),
        (with_outcome(start="outcome.end", end="outcome.start"), "The task is wrong"),
        (broken(every="often"), "every is 'often'"),
        (broken(predicates={"INDEX": {"code": "X"}}), "INDEX is defined"),
        (broken(predicates={**YEARLY.predicates, "death": "MEDS_DEATH"}), "a `code` or an `expr`"),
        (broken(predicates={**YEARLY.predicates, "death": {"code": "X", "colour": "red"}}), "colour"),
        (broken(predicates={**YEARLY.predicates, "death": {"expr": "or(a, b)"}}), "undefined predicate"),
    ],
)
def test_wrong_tasks_are_refused(task, message):
    with pytest.raises(PipelineError, match=message):
        compile_task(task)


@pytest.mark.parametrize("code", [{"regex": "("}, {"any": []}, {"like": "E11"}, {"any": "E11"}])
def test_wrong_codes_are_refused(make_events, day, code):
    task = broken(predicates={**YEARLY.predicates, "death": {"code": code}})
    with pytest.raises(PipelineError, match="predicate 'death'"):
        build_cohort(make_events([(1, day(2019), "VISIT_START//AMB")]), task)


def test_wrong_index_from_is_refused(make_events, day):
    with pytest.raises(PipelineError, match="index_from"):
        build_cohort(make_events([(1, datetime(2020, 1, 1), "X")]), broken(index_from="yesterday"))


def with_death(**changes) -> TaskConfig:
    return broken(predicates={**YEARLY.predicates, "death": {"code": "MEDS_DEATH", **changes}})


def with_more(**predicates) -> TaskConfig:
    return broken(predicates={**YEARLY.predicates, **predicates})


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (broken(every="1 second"), "every is '1 second'.*from a day to"),
        (broken(every="1 hour"), "every is '1 hour'"),
        (broken(every="99999999999 days"), "every is '99999999999 days'"),
        (broken(index_from="end - 99999999 days"), "index_from: .* is '99999999 days'"),
        (broken(index_from="0001-01-01T00:00:00+14:00"), "index_from is"),
        (broken(patient_demographics={"x": "y"}), "the predicate 'x' is 'y'.*a `code` or an `expr`"),
        (with_death(value_min="x"), "the predicate 'death': value_min is 'x'. Expected: a number"),
        (with_death(numeric_value="x"), "the predicate 'death': numeric_value is 'x'. Expected: a number"),
        (with_death(text_value=5), "the predicate 'death': text_value is 5. Expected: a text"),
        (with_death(time="x"), "the predicate 'death': unknown key 'time'"),
        (with_death(other_codes="x"), "the predicate 'death': unknown key 'other_codes'"),
        (with_death(unti="%"), "unknown key 'unti'.*Did you mean 'unit'"),
        (with_death(value_mim=5), "unknown key 'value_mim'.*Did you mean 'value_min'"),
        (with_death(code=None), "the predicate 'death': code is empty. Expected: a text or keys with values"),
        (with_more(a={"expr": "or(death, visit)", "cod": "x"}), "the predicate 'a': unknown key 'cod'"),
        (with_more(a={"expr": "death"}), "the predicate 'a': Derived predicate expression must start"),
        (with_more(a={"expr": "or(b, death)"}, b={"expr": "or(a, death)"}), "predicate [ab], [ab] is made of itself"),
        (broken(windows={**YEARLY.windows, "outcome": "x"}), "the window 'outcome' is 'x'. Expected: keys start, end"),
        (broken(windows={**YEARLY.windows, "outcome": None}), "the window 'outcome' is empty"),
        (with_outcome(foo=1), "the window 'outcome': unknown key 'foo'"),
        (with_outcome(lable="x"), "the window 'outcome': unknown key 'lable'.*Did you mean 'label'"),
        (with_outcome(end=365), "the window 'outcome': end is 365. Expected: a text"),
        (with_outcome(end="start + 99999999999 days"), "the window 'outcome' is longer than two centuries"),
        (with_outcome(end="start + 99999999 days"), "the window 'outcome' is longer than two centuries"),
        (with_outcome(has={"visit": 1}), "the window 'outcome': has: visit is 1"),
        (with_outcome(has={"visit": "(one, None)"}), "has: visit is '\\(one, None\\)'"),
        (with_outcome(has=["visit"]), "the window 'outcome': has is"),
    ],
)
def test_what_is_wrong_in_a_task_is_told_by_window_predicate_and_key(task, message, capfd):
    with pytest.raises(PipelineError, match=message) as refused:
        compile_task(task)
    assert not any(leak in str(refused.value) for leak in ("__init__", "indices", "None:", "Python int"))
    assert capfd.readouterr().out == ""


def test_index_from_may_have_an_offset(make_events, day):
    events = make_events([(1, day(2019), "VISIT_START//AMB"), (1, day(2022), "X"), (2, day(2019), "MEDS_DEATH")])
    task = compile_task(broken(index_from="2021-01-01T02:00:00+02:00"))
    assert task.index_from(events.export) == day(2021)
    assert compile_task(broken(index_from="end - 365 days")).index_from(events.export) == day(2021)
    assert compile_task(broken(index_from="2021-01-01")).index_from(events.export) == day(2021)
