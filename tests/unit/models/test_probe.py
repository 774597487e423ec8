import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_tl.models.calibration import sigmoid
from ehr_tl.models.probe import FREE, Head, fit_probe

WIDTH = 12


def cases(seed: int, rows: int, positives: int, drift: float = 0.0):
    """Vectors, labels with so many positives, subjects, and a head that ranks well; `drift`: what it does not know."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, WIDTH))
    anchor = Head(rng.normal(size=WIDTH) / 3, -1.0)
    logit = anchor(vectors) + drift * vectors[:, 0] + rng.logistic(size=rows)
    label = np.zeros(rows)
    label[np.argsort(-logit)[:positives]] = 1
    return vectors, label, np.arange(rows), anchor


def auroc(label, score):
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(label, score)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), positives=st.integers(1, FREE - 1), turned=st.booleans())
def test_with_few_positives_it_ranks_as_the_anchor_whatever_the_labels_say(seed, positives, turned):
    vectors, label, subject, anchor = cases(seed, 60, positives)
    if turned:  # labels that contradict the anchor
        label = np.zeros(60)
        label[np.argsort(anchor(vectors))[:positives]] = 1
    found = fit_probe(vectors, label, subject, anchor, seed)(vectors)
    assert np.array_equal(np.argsort(found), np.argsort(anchor(vectors)))
    assert sigmoid(found).mean() == pytest.approx(positives / 60, abs=1e-4)  # as many are expected as there were


@pytest.mark.parametrize(("drift", "learned"), [(3.0, True), (0.0, False)])
def test_with_many_it_learns_what_the_anchor_misses_and_else_stays(drift, learned):
    vectors, label, subject, anchor = cases(1, 600, 150, drift)
    head = fit_probe(vectors[:400], label[:400], subject[:400], anchor, 0)
    gain = auroc(label[400:], head(vectors[400:])) - auroc(label[400:], anchor(vectors[400:]))
    assert (gain > 0.05) == learned
    assert gain > -0.01


def test_a_subject_with_many_positive_rows_counts_once():
    vectors, label, _, anchor = cases(2, 300, 80, 3.0)
    subject = np.where(label == 1, np.cumsum(label) % (FREE - 1), np.arange(300) + 100)
    found = fit_probe(vectors, label, subject, anchor, 0)(vectors)
    assert np.array_equal(np.argsort(found), np.argsort(anchor(vectors)))


@pytest.mark.parametrize(("positives", "least"), [(3, 0.5), (80, 0.75)])
def test_without_an_anchor_it_is_a_ridge_regression(positives, least):
    vectors, label, subject, _ = cases(3, 400, positives)
    head = fit_probe(vectors, label, subject, None, 0)
    assert auroc(label, head(vectors)) > least


def test_the_head_is_the_maximum_of_its_posterior():
    """Against scikit-learn, which knows no slope: with the anchor as one more feature of its own penalty."""
    from sklearn.linear_model import LogisticRegression

    vectors, label, subject, _ = cases(4, 60, 6)
    head = fit_probe(vectors, label, subject, None, 0)
    scaled = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    expected = LogisticRegression(C=0.25**2 / WIDTH, tol=1e-10, max_iter=1000).fit(scaled, label)
    assert np.allclose(head(vectors), expected.decision_function(scaled), atol=1e-4)
