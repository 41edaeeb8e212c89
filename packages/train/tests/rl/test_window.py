import pytest

from unipic2_train.rl.config import WindowConfig
from unipic2_train.rl.window import sde_window


def windows(config, iterations=60, steps=10, seed=0):
    return [sde_window(config, steps, iteration, seed) for iteration in range(iterations)]


def test_all_leaves_out_the_last_step():
    assert set(windows(WindowConfig("all"))) == {range(9)}
    assert set(windows(WindowConfig("none"))) == {range(0)}


def test_a_sliding_window_moves_from_noise_to_data_and_starts_again():
    found = [window.start for window in windows(WindowConfig("sliding", size=3, every=2), 16)]
    assert found == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 0, 0]


def test_a_random_window_visits_every_place_within_its_bounds():
    config = WindowConfig("random", size=3, stop=5)
    found = windows(config)
    assert {(window.start, window.stop) for window in found} == {(0, 3), (1, 4), (2, 5)}
    assert found == windows(config), "a function of iteration and seed"
    assert found != windows(config, seed=1)


@pytest.mark.parametrize("kind", ["sliding", "random"])
def test_the_last_step_is_in_no_window(kind):
    assert max(window.stop for window in windows(WindowConfig(kind, size=4, every=1))) == 9
