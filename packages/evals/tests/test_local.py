"""Mask2Former and CLIP with small random weights: boxes, names and colours go where they belong.

Nothing here says that the real checkpoints see well. The detector's last bias is set so that it finds something.
"""

import shutil

import numpy as np
import pytest

from unipic2_evals.answers import Answers
from unipic2_evals.geneval_suite import COLORS, OBJECT_NAMES
from unipic2_evals.judges import find_judge
from unipic2_evals.local import GREY, LocalOptions, local_detector

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)


def _detector(folder, labels=80):
    swin = transformers.SwinConfig(
        **{"image_size": 32, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 2},
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    small = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_attention_heads": 2}
    layers = {"encoder_feedforward_dim": 16, "dim_feedforward": 16, "encoder_layers": 1, "decoder_layers": 2}
    config = transformers.Mask2FormerConfig(backbone_config=swin, num_queries=20, num_labels=labels, **small, **layers)
    torch.manual_seed(0)
    model = transformers.Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        model.class_predictor.bias[OBJECT_NAMES.index("computer mouse") % labels] = 20.0
    model.save_pretrained(folder)
    transformers.Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def _clip(folder):
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = {**small, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    torch.manual_seed(1)
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=12
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    _detector(folder / "m2f")
    _clip(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def detector(folder):
    return local_detector(LocalOptions(str(folder / "m2f"), str(folder / "clip")))


@pytest.fixture
def commits(folder, tmp_path, monkeypatch):
    """The hub's local cache without a connection, where both models have a branch and a tag; their commits."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    made = {}
    for number, (name, ref) in enumerate((name, ref) for name in ("m2f", "clip") for ref in ("main", "v1")):
        cached, commit = tmp_path / f"models--acme--{name}", f"{number:x}" * 40
        shutil.copytree(folder / name, cached / "snapshots" / commit)
        (cached / "refs").mkdir(exist_ok=True)
        (cached / "refs" / ref).write_text(commit)
        made[name, ref] = commit
    return made


def test_who_it_is(detector):
    _, judge = detector
    assert judge.id == "m2f + clip"
    hashes = judge.revision.split(" + ")
    assert [len(text) for text in hashes] == [12, 12]
    assert hashes[0] != hashes[1]


def test_the_revision_that_is_asked_for_is_loaded_and_recorded(commits, tmp_path):
    options = LocalOptions("acme/m2f", "acme/clip", detector_revision="v1")
    judge, asker = find_judge("local", Answers(tmp_path / "answers.jsonl"), local=options)
    assert asker.judge == judge == ("m2f + clip", f"{commits['m2f', 'v1']} + {commits['clip', 'main']}")
    pinned = LocalOptions("acme/m2f", "acme/clip", clip_revision=commits["clip", "v1"])
    assert local_detector(pinned)[1].revision == f"{commits['m2f', 'main']} + {commits['clip', 'v1']}"


@pytest.mark.parametrize("name", ["detector", "clip"])
def test_a_folder_has_no_revision(folder, name):
    folders = {"detector": str(folder / "m2f"), "clip": str(folder / "clip")}
    with pytest.raises(ValueError, match=f"revision v1 belongs to a hub id, but {folders[name]} is a folder"):
        LocalOptions(**folders, **{f"{name}_revision": "v1"})


def test_boxes_and_names(detector):
    (seen,) = detector[0]([IMAGE])
    assert list(seen.objects) == ["computer mouse"]
    boxes = np.array(seen.objects["computer mouse"])
    assert 1 <= len(boxes) <= 16
    assert len(seen.colors["computer mouse"]) == len(boxes)
    assert set(seen.colors["computer mouse"]) <= set(COLORS)
    assert (np.diff(boxes[:, 4]) <= 0).all()
    assert (boxes[:, 4] > 0.3).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] < boxes[:, 2:4]).all()
    assert (boxes[:, 2:4] <= [56, 40]).all()


def test_images_do_not_influence_each_other(detector):
    other = 255 - IMAGE[:32]
    assert detector[0]([IMAGE, other]) == [*detector[0]([IMAGE]), *detector[0]([other])]


def test_colour_is_that_of_the_object_alone(detector):
    mask = np.zeros((40, 56), dtype=bool)
    mask[10:20, 5:30] = True
    box = [5.0, 10.0, 30.0, 20.0, 0.9]
    elsewhere = np.where(mask[..., None], IMAGE, 0).astype(np.uint8)
    model = detector[0]
    assert model._color("dog", IMAGE, box, mask) == model._color("dog", elsewhere, box, mask)

    crop = np.where(mask[..., None], IMAGE, GREY).astype(np.uint8)[10:20, 5:30]
    pixels = model.clip_processor(images=crop, return_tensors="pt")
    likeness = []
    for color in COLORS:
        texts = [f"a photo of a {color} dog", f"a photo of a {color}-colored dog", f"a photo of a {color} object"]
        with torch.inference_mode():
            found = model.clip(**model.tokenizer(texts, padding=True, return_tensors="pt"), **pixels)
        mean = found.text_embeds.mean(dim=0)
        likeness.append(float(found.image_embeds[0] @ (mean / mean.norm())))
    assert model._color("dog", IMAGE, box, mask) == COLORS[int(np.argmax(likeness))]


def test_other_classes_are_refused(tmp_path):
    _detector(tmp_path, labels=5)
    with pytest.raises(ValueError, match=r"expected 80 classes \(COCO instances\), got 5"):
        local_detector(LocalOptions(str(tmp_path), str(tmp_path)))
