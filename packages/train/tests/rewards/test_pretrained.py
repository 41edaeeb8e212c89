"""CLIP with small random weights in the official layout: what is compared with what, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from unipic2_train.rewards.aesthetic import AestheticReward, head_of
from unipic2_train.rewards.base import RewardRequest, scores_of
from unipic2_train.rewards.clip import ClipReward
from unipic2_train.rewards.pickscore import PickScoreReward
from unipic2_train.rewards.pretrained import load_folder, load_tensors

WIDTH = 12
PROMPTS = ["a red circle", "a blue square above a red circle", "a red circle"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small CLIP, saved by transformers."""
    import transformers

    from unipic2_data.shapes.grammar import vocabulary
    from unipic2_train.workflows.text import TextConfig, make_text_encoders

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = make_text_encoders(vocabulary(), TextConfig(max_tokens=20)).clip_tokenizer
    tokenizer.save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={**small, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 20},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=WIDTH,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)
    return folder


@pytest.fixture
def request_of_three():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    return RewardRequest("t2i", torch.from_numpy(pictures), PROMPTS, ["row"] * 3, [{}] * 3)


@pytest.fixture
def logits(folder, request_of_three):
    """What transformers' own forward says of each picture and its prompt."""
    import transformers

    model = transformers.CLIPModel.from_pretrained(folder).eval()
    images = transformers.AutoImageProcessor.from_pretrained(folder)(
        images=list(request_of_three.pictures.numpy()), return_tensors="pt"
    )
    texts = transformers.AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        out = model(pixel_values=images["pixel_values"], **{k: texts[k] for k in ("input_ids", "attention_mask")})
    return out.logits_per_image.diagonal().double(), model.logit_scale.exp().item()


def test_clip_and_pickscore_are_clip_s_own_logits(folder, request_of_three, logits):
    expected, scale = logits
    assert expected.unique().numel() == 3
    clip = scores_of("clip", ClipReward(str(folder)), request_of_three)
    torch.testing.assert_close(clip, expected / scale, rtol=0, atol=1e-6)
    pickscore = scores_of("pickscore", PickScoreReward(str(folder)), request_of_three)
    torch.testing.assert_close(pickscore, expected / 26, rtol=0, atol=1e-6)


def test_a_picture_does_not_depend_on_its_batch(folder, request_of_three):
    reward = ClipReward(str(folder))
    alone = [reward(request_of_three.rows(torch.arange(3) == row)) for row in range(3)]
    torch.testing.assert_close(torch.cat(alone), reward(request_of_three), rtol=0, atol=1e-6)


def head(*widths, prefix="layers.{}."):
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for number, (before, after) in enumerate(pairwise(widths)):
        name = prefix.format((0, 2, 4, 6, 7)[number])  # dropout stands between LAION's layers, and has no weights
        tensors[f"{name}weight"] = torch.randn(after, before, generator=generator)
        tensors[f"{name}bias"] = torch.randn(after, generator=generator)
    return tensors


@pytest.mark.parametrize("tensors", [head(WIDTH, 8, 6, 4, 2, 1), head(WIDTH, 1, prefix="")], ids=["mlp", "linear"])
def test_aesthetic(folder, request_of_three, tensors, tmp_path):
    save_file(tensors, tmp_path / "head.safetensors")
    reward = AestheticReward(str(folder), str(tmp_path / "head.safetensors"))
    values = ClipReward(str(folder)).clip.pictures(request_of_three.pictures)
    for name in [name for name in tensors if name.endswith("weight")]:
        values = F.linear(values, tensors[name], tensors[name.replace("weight", "bias")])
    torch.testing.assert_close(reward(request_of_three), values[:, 0] / 10, rtol=0, atol=1e-5)
    name, revision = reward.prepare()
    assert name.endswith(" + head.safetensors")
    assert [len(part) for part in revision.split(" + ")] == [12, 12]


@pytest.mark.parametrize(
    "tensors",
    [
        head(WIDTH + 1, 1),
        head(WIDTH, 4, 2),
        head(WIDTH, 4, 1) | {"layers.9.weight": torch.zeros(1, 1)},
        head(WIDTH, 1) | {"scale": torch.zeros(1)},
        {"layers.0.weight": torch.zeros(1, WIDTH)},
        {},
    ],
    ids=["other CLIP", "no scalar", "half a layer", "something else", "no bias", "nothing"],
)
def test_heads_that_are_none(tensors, tmp_path):
    with pytest.raises(ValueError, match=r"head: expected linear layers from 12 to 1"):
        head_of(tensors, WIDTH, tmp_path / "head")


def test_no_pickle(tmp_path, folder):
    torch.save(head(WIDTH, 1), tmp_path / "head.pth")
    with pytest.raises(ValueError, match="never read from pickle; convert them once"):
        load_tensors(tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"absent\.safetensors can't be read"):
        AestheticReward(str(folder), str(tmp_path / "absent.safetensors")).prepare()


@pytest.fixture
def copied(folder, tmp_path):
    import shutil

    return shutil.copytree(folder, tmp_path / "copy")


def test_strict_weights(copied):
    tensors = load_file(copied / "model.safetensors")
    tensors.pop("visual_projection.weight")
    save_file(tensors | {"extra": torch.zeros(1)}, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing visual_projection\.weight; unexpected extra"):
        ClipReward(str(copied)).prepare()


def test_weights_as_pickle_are_not_loaded(copied):
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"can't be loaded as CLIPModel: .*safetensors"):
        ClipReward(str(copied)).prepare()


def test_no_tokenizer(copied):
    for path in copied.glob("*token*"):
        path.unlink()
    for name in ("vocab.json", "merges.txt"):
        (copied / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="lacks a tokenizer"):
        ClipReward(str(copied)).prepare()


def test_no_image_processor(copied):
    for path in copied.glob("*processor*"):
        path.unlink()
    with pytest.raises(ValueError, match="lacks a tokenizer or an image processor"):
        ClipReward(str(copied)).prepare()


def test_who_it_is(folder, copied):
    name, revision = ClipReward(str(folder)).prepare()
    assert (name, len(revision)) == (str(folder), 12)
    tensors = load_file(copied / "model.safetensors")
    tensors["logit_scale"] += 1
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    assert ClipReward(str(copied)).prepare().revision != revision


@pytest.mark.parametrize(
    ("source", "revision", "says"),
    [
        ("nowhere", None, "there is no folder nowhere"),
        ("owner/name", None, "a hub id needs its revision"),
        ("owner/name", "0" * 40, r"can't be downloaded here \(\w+\): .* `hf download owner/name --revision 0000"),
    ],
)
def test_what_is_not_there(source, revision, says, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=says):
        load_folder(source, revision)


def test_a_folder_has_no_revision(folder):
    with pytest.raises(ValueError, match=r"belongs to a hub id, but .* is a folder"):
        load_folder(str(folder), "main")
