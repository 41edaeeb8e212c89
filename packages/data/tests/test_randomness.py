import numpy as np
import torch

from unipic2_data.randomness import keyed_hash, keyed_normal, keyed_rng, keyed_uniform

KEYS = [f"sample-{i}" for i in range(64)]


def test_rows_do_not_depend_on_the_batch():
    visits = list(range(64))
    whole = keyed_normal(3, KEYS, visits, "noise", (2, 5))
    part = keyed_normal(3, KEYS[10:13], torch.tensor(visits[10:13]), "noise", (2, 5))
    assert whole.shape == (64, 2, 5)
    assert whole.dtype == torch.float32
    assert torch.equal(whole[10:13], part)


def test_every_part_of_the_name_matters():
    base = keyed_uniform(0, ["a"], [0], "noise").item()
    others = [
        keyed_uniform(1, ["a"], [0], "noise"),
        keyed_uniform(0, ["b"], [0], "noise"),
        keyed_uniform(0, ["a"], [1], "noise"),
        keyed_uniform(0, ["a"], [0], "sigma"),
        keyed_uniform(0, ["a"], [0], ""),
    ]
    assert len({base, *(value.item() for value in others)}) == 6


def test_numbers_are_pinned():
    # Written down once: a change would break the resumption of runs and the bytes of data sets.
    assert keyed_rng(0, "key", 1, "noise").integers(0, 1000, 5).tolist() == [29, 290, 259, 872, 375]
    assert np.allclose(keyed_normal(7, ["key"], [0], "noise", (3,)), [[-1.34723, 1.18916, -0.50143]], atol=1e-5)


def test_half_a_character_is_a_name_too():
    assert keyed_hash("\ud83d") != keyed_hash("\ud83e")


def test_distribution():
    values = keyed_normal(0, KEYS, [0] * 64, "noise", (512,))
    assert abs(values.mean()) < 0.03
    assert abs(values.std() - 1) < 0.03
    uniform = keyed_uniform(0, [str(i) for i in range(2000)], [0] * 2000, "sigma")
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.03


def test_global_generators_are_not_touched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    keyed_normal(0, KEYS, [0] * 64, "noise", (8,))
    assert torch.equal(before, torch.get_rng_state())
