"""Glimpses of running environments: the states are those of the episode, and a slow watcher catches up."""

from __future__ import annotations

import numpy as np
import pytest
from pusher import BREAK, Push

from t2p.io import UserError
from t2p.sim import glimpse
from t2p.sim.batch import BatchedSim
from t2p.sim.glimpse import KEPT, LAG, SAFE, Glimpse, following

NQ = 11  # three slides, a finger, a free box


def walk(sim: BatchedSim, environment: int) -> list[Glimpse]:
    """All that a watcher sees who looks now."""
    found, last = [], 0
    while (one := sim.glimpse(environment, last, NQ)) is not None:
        found.append(one)
        last = one.number
    return found


def actions(gripper: float = 0.0) -> np.ndarray:
    one = np.zeros((2, 7))
    one[:, 1] = -1  # along the world's x: the base is turned
    one[:, 6] = gripper
    return one


@pytest.mark.parametrize("workers", [0, 2])
def test_states_are_those_of_the_episode(workers: int) -> None:
    with BatchedSim(Push(), 2, workers, glimpses=True) as sim:
        assert sim.glimpse(0, 0, NQ) is None  # not reset yet
        sim.reset([3, 4])
        (start,) = walk(sim, 1)
        assert (start.number, start.seed, start.steps, start.seconds, start.success) == (1, 4, 0, 0.0, False)
        assert np.linalg.norm(start.frames[1], axis=-1) == pytest.approx(1)
        for _ in range(20):
            result = sim.step(actions())
        seen = walk(sim, 1)
        assert seen[-1].steps == 20 and seen[-1].seconds == pytest.approx(result.sim_time[1])
        assert seen[-1].success and result.success[1]
        assert len(seen) >= 20 * 0.02 * glimpse.PER_SECOND and all(g.seed == 4 for g in seen)
        assert (np.diff([g.seconds for g in seen]) >= 0).all()
        assert seen[-1].qpos[0] - seen[0].qpos[0] > 0.1  # the slide went along x
        assert np.ptp([g.frames[0] for g in seen], axis=0).max() == 0  # fixtures stay where they are in an episode
        sim.reset([5, 6], np.array([False, True]))
        assert (last := walk(sim, 1)[-1]).seed == 6 and last.steps == 0
        assert np.abs(last.frames[0] - seen[0].frames[0]).max() > 1e-3  # another episode, the wall elsewhere
        assert walk(sim, 0)[-1].seed == 3
    assert not workers or sim.glimpse(0, 0, NQ) is None  # the memory that they shared is gone


def test_physics_that_came_apart_is_not_shown() -> None:
    with BatchedSim(Push(), 2, 0, glimpses=True) as sim:
        sim.reset([3, 4])
        sim.step(actions(BREAK))
        assert set(sim.failures) == {0, 1}
        assert all(np.isfinite(g.qpos).all() for g in walk(sim, 0))


def test_glimpses_are_asked_for_and_exclude_an_onlooker() -> None:
    with BatchedSim(Push(), 1) as sim:
        sim.reset([0])
        assert sim.glimpse(0, 0, NQ) is None
    with pytest.raises(UserError, match="onlooker"):
        BatchedSim(Push(), 1, onlooker=glimpse.Reporter(lambda state: None), glimpses=True)


def test_glimpses_leave_the_episode_as_it_is() -> None:
    ends = []
    for asked in (False, True):
        with BatchedSim(Push(), 2, 0, glimpses=asked) as sim:
            sim.reset([3, 4])
            ends.append(np.concatenate([sim.step(actions()).obs.proprio["joints"] for _ in range(10)]))
    np.testing.assert_array_equal(*ends)


def test_a_watcher_who_keeps_up_sees_every_state_and_a_slow_one_strides() -> None:
    assert following(5, 5) == following(0, 0) == 0
    assert [following(n, n - 1) for n in (1, 2, 40)] == [1, 2, 40]
    assert following(30, 0) == 2 and following(LAG, 0) == 1
    for count in range(1, 300):
        number = following(count, 0)
        assert 1 <= number <= count and number >= count - KEPT + SAFE  # never one that is gone, or about to go
    shown, steps = 0, 0
    while shown < 60:
        shown, steps = following(60, shown), steps + 1
    assert steps < 45
