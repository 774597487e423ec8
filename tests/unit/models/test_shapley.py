from itertools import combinations, permutations
from math import comb

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_tl.models.shapley import antithetic_permutations, shapley_values


def exact(value, players):
    """Shapley values by their definition, over all coalitions."""
    shares = []
    for player in range(players):
        others = [p for p in range(players) if p != player]
        share = 0.0
        for size in range(players):
            for some in combinations(others, size):
                mask = np.zeros((2, players), dtype=bool)
                mask[:, list(some)] = True
                mask[1, player] = True
                without, with_ = value(mask)
                share = share + (with_ - without) / (players * comb(players - 1, size))
        shares.append(share)
    return np.array(shares)


def game(players, outputs, seed):
    """A value for every coalition, drawn at random."""
    table = np.random.default_rng(seed).normal(size=(2**players, outputs))
    return lambda masks: table[masks @ (1 << np.arange(players))]


@settings(max_examples=25, deadline=None)
@given(players=st.integers(1, 6), pairs=st.integers(1, 3), seed=st.integers(0, 999))
def test_base_and_shares_add_up_to_the_value_of_all(players, pairs, seed):
    value = game(players, 3, seed)
    present = np.ones(players, dtype=bool)
    base, shares = shapley_values(value, antithetic_permutations(players, pairs, seed), present)
    assert np.allclose(base + shares.sum(axis=0), value(np.ones((1, players), dtype=bool))[0], atol=1e-12)
    assert np.array_equal(base, value(np.zeros((1, players), dtype=bool))[0])


def test_all_permutations_give_the_exact_values():
    value = game(5, 2, 0)
    _, shares = shapley_values(value, np.array(list(permutations(range(5)))), np.ones(5, dtype=bool))
    assert np.allclose(shares, exact(value, 5))


def test_more_permutations_come_nearer_to_the_exact_values():
    value, present = game(6, 1, 1), np.ones(6, dtype=bool)
    truth = exact(value, 6)
    error = {
        pairs: np.mean(
            [
                np.abs(shapley_values(value, antithetic_permutations(6, pairs, seed), present)[1] - truth).mean()
                for seed in range(10)
            ]
        )
        for pairs in (1, 100)
    }
    assert error[100] < 0.2 * error[1]


def test_pairwise_interactions_are_divided_exactly_by_one_antithetic_pair():
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(6, 6))
    value = lambda masks: np.einsum("mi,ij,mj->m", masks * 1.0, weights, masks * 1.0)[:, None]
    _, shares = shapley_values(value, antithetic_permutations(6, 1), np.ones(6, dtype=bool))
    assert np.allclose(shares, exact(value, 6))


def test_players_who_are_not_there_cost_nothing_and_get_nothing():
    weights = np.array([1.0, 0.0, 2.0, 0.0])
    calls = []

    def value(masks):
        calls.append(len(masks))
        return (masks @ weights)[:, None]

    base, shares = shapley_values(value, antithetic_permutations(4, 2), np.array([True, False, True, False]))
    assert shares[:, 0].tolist() == [1.0, 0.0, 2.0, 0.0] and base.tolist() == [0.0]
    assert sum(calls) <= 4


def test_half_of_the_permutations_are_the_reverse_of_the_others():
    orders = antithetic_permutations(7, 3, seed=5)
    assert np.array_equal(orders[:3, ::-1], orders[3:])
    assert all(sorted(order) == list(range(7)) for order in orders.tolist())
    assert not np.array_equal(orders, antithetic_permutations(7, 3, seed=6))
