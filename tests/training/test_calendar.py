"""When evaluations and checkpoints are due."""

import pytest

from policy_gradients.training.calendar import count_updates, due_updates, is_due, until_due


@pytest.mark.parametrize(("total", "updates"), [(1, 1), (64, 1), (65, 2), (640, 10)])
def test_a_run_has_as_many_updates_as_its_steps_need(total, updates):
    assert count_updates(total, 64) == updates


def test_moments_are_evenly_spread_and_the_last_is_the_end():
    assert due_updates(100, 4) == (25, 50, 75, 100)
    assert due_updates(10, 3) == (4, 7, 10)


def test_more_moments_than_updates_are_one_after_each():
    assert due_updates(3, 20) == (1, 2, 3)


@pytest.mark.parametrize("times", [0, 1, 3, 7, 10, 13])
def test_an_update_is_due_exactly_where_it_is_among_the_due_ones(times):
    for updates in range(1, 24):
        assert tuple(u for u in range(1, updates + 1) if is_due(u, updates, times)) == due_updates(updates, times)


@pytest.mark.parametrize("most", [1, 3, 64])
def test_calls_of_several_updates_end_at_every_update_after_which_something_is_due(most):
    for updates in (1, 7, 20, 100):
        ends, update = [], 0
        while update < updates:
            update += until_due(update, updates, (3, 5), most)
            ends.append(update)
        assert {*due_updates(updates, 3), *due_updates(updates, 5)} <= {*ends}
        assert ends[-1] == updates and all(b - a <= most for a, b in zip([0, *ends], ends, strict=False))
        free = [n for n in range(1, updates) if n not in {*due_updates(updates, 3), *due_updates(updates, 5)}]
        assert most == 1 or len(ends) < updates or not free  # nothing due is skipped, and nothing else ends a call
