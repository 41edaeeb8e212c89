import pytest

from unipic2_dit.resolution import ImpossibleSizeError, Sizes

SIZES = Sizes(multiple=16, max_edge=6144, default_edge=1024)


def test_sizes_come_from_the_configs(pipeline):
    assert pipeline.sizes == Sizes(multiple=4, max_edge=48, default_edge=32)
    assert pipeline.sizes.default == (32, 32)


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        ((512, 512), (512, 512)),
        ((500, 333), (496, 336)),
        ((858, 1024), (864, 1024)),
        ((10, 10), (16, 16)),
        ((4000, 3000), (1184, 880)),
    ],
)
def test_an_input_keeps_its_size_rounded(size, kept):
    assert SIZES.keep(*size) == kept


def test_large_inputs_are_scaled_to_the_checkpoints_pixels():
    for height, width in ((3000, 4000), (5000, 500), (1100, 1100)):
        kept = SIZES.keep(height, width)
        assert kept[0] * kept[1] <= 1.02 * 1024**2
        assert abs(kept[0] / kept[1] / (height / width) - 1) < 0.04


def test_longer_edge_is_exact_and_aspect_ratio_is_kept():
    assert SIZES.fit_longer_edge(3000, 4000, 512) == (384, 512)
    assert SIZES.fit_longer_edge(400, 300, 1024) == (1024, 768)


@pytest.mark.parametrize(
    ("asked", "target", "reference"),
    [
        ((), (496, 336), (496, 336)),
        ((None, 512), (496, 512), (496, 336)),
        ((1024, 688), (1024, 688), (1024, 688)),
        ((128, 128), (128, 128), (160, 112)),
    ],
)
def test_the_reference_of_an_edit_keeps_its_shape(asked, target, reference):
    assert SIZES.of_edit((500, 333), *asked) == (target, reference)


@pytest.mark.parametrize(("height", "width"), [(500, 512), (512, 0), (8, 512), (512, 6160), (-16, 512)])
def test_impossible_sizes_name_the_nearest(height, width):
    with pytest.raises(ImpossibleSizeError, match=r"makes multiples of 16 from 16 to 6144. The nearest is \d+"):
        SIZES.check(height, width)


def test_an_edge_that_would_vanish_is_refused():
    with pytest.raises(ImpossibleSizeError, match="too elongated"):
        SIZES.keep(100_000, 4)
    with pytest.raises(ImpossibleSizeError, match="too elongated"):
        SIZES.fit_longer_edge(4000, 10, 512)
