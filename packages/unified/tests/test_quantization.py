"""Quantised checkpoints of both kinds as whole models."""

import numpy as np
import pytest

from unipic2_dit.checkpoint import CheckpointError
from unipic2_unified import UniPic2

LIBRARIES = {"int8": "torchao", "nf4": "bitsandbytes"}
LARGE = {"kontext": "text_encoder_3", "metaquery": "vlm"}


@pytest.fixture(params=["int8", "nf4"])
def kind(request):
    """A quantization whose library is here."""
    pytest.importorskip(LIBRARIES[request.param])
    return request.param


def pixels(picture):
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("variant", ["kontext", "metaquery"])
def test_smaller_and_nearly_the_same(request, variant, kind, vlm_folder):
    folder, exact = request.getfixturevalue(f"{variant}_folder"), request.getfixturevalue(variant)
    vlm = vlm_folder if variant == "metaquery" else None
    model = UniPic2.from_pretrained(folder, vlm=vlm, quantization=kind, encoder_quantization=kind)
    whole, small = exact.info(), model.info()
    assert (small["parameters"], small["hash"]) == (whole["parameters"], whole["hash"])
    models = {name: part for name, part in small["parts"].items() if "class" in part}
    for name, part in models.items():
        before = whole["parts"][name]
        quantised = name in ("transformer", LARGE[variant])
        assert part["quantization"] == (kind if quantised else None)
        assert part["bytes"] < before["bytes"] if quantised else part["bytes"] == before["bytes"]
        assert part["dtype"] == before["dtype"]

    call = {"size": 16, "steps": 4, "guidance": 2.0}
    prompts, seeds = ["a red circle", "a blue square", "what is it"], [3, 4, 5]
    alone = model.generate(prompts[1], seed=4, **call)[0]
    among = model.generate(prompts, seed=seeds, **call)[1]
    assert np.abs(pixels(alone) - pixels(among)).max() <= 1
    far = np.abs(pixels(alone) - pixels(exact.generate(prompts[1], seed=9, **call)[0])).mean()
    near = np.abs(pixels(alone) - pixels(exact.generate(prompts[1], seed=4, **call)[0])).mean()
    assert near < far / 4  # the same picture, not another one


def test_nothing_to_quantise_is_said(kontext_folder, copied):
    with pytest.raises(CheckpointError, match=r"is used without T5: leave encoder_quantization"):
        UniPic2.from_pretrained(kontext_folder, use_t5=False, encoder_quantization="int8")
    folder = copied(kontext_folder)
    (folder / "text_encoder_3").rename(folder / "elsewhere")
    with pytest.raises(CheckpointError, match=r"has neither: leave encoder_quantization"):
        UniPic2.from_pretrained(folder, encoder_quantization="int8")
