import shutil

import pytest
import torch

from unipic2_dit.checkpoint import CheckpointError
from unipic2_unified import RequestError, UniPic2
from unipic2_unified.checkpoint import part_hashes
from unipic2_unified.encoders import MetaQueryEncoders


def test_the_kind_is_read_from_the_folder(kontext, metaquery):
    assert (kontext.variant, kontext.reference) == ("kontext", "dit")
    assert (metaquery.variant, metaquery.reference) == ("metaquery", "both")


def test_a_vlm_inside_the_checkpoint_is_found(metaquery_folder, vlm_folder, copied, metaquery):
    folder = copied(metaquery_folder)
    (folder / "vlm").symlink_to(vlm_folder)
    model = UniPic2.from_pretrained(folder)
    assert isinstance(model.prompts.encoders, MetaQueryEncoders)
    assert torch.equal(model.condition(["red"]).prompt_embeds, metaquery.condition(["red"]).prompt_embeds)


def test_t5_and_encoders_may_stay_away(kontext_folder, metaquery_folder):
    small = UniPic2.from_pretrained(kontext_folder, use_t5=False, dtype=torch.bfloat16)
    assert set(small.parts.encoders.modules()) == {"text_encoder", "text_encoder_2"}
    assert small.condition(["red"]).prompt_embeds[:, 24:].abs().max() == 0
    assert small.condition(["red"]).prompt_embeds.dtype == torch.bfloat16
    assert UniPic2.from_pretrained(metaquery_folder, text_encoders=False).parts.encoders is None


def test_a_vlm_that_is_missing_or_does_not_fit(metaquery_folder, kontext_folder, vlm_folder, other_vlm_folder):
    with pytest.raises(CheckpointError, match=r"is a MetaQuery checkpoint.*hidden size 48.*Name its folder"):
        UniPic2.from_pretrained(metaquery_folder)
    with pytest.raises(CheckpointError, match=r"does not fit.*hidden size 48, but this one's is 32"):
        UniPic2.from_pretrained(metaquery_folder, vlm=other_vlm_folder)
    with pytest.raises(CheckpointError, match="no folder /nowhere/at/all"):
        UniPic2.from_pretrained(metaquery_folder, vlm="/nowhere/at/all")
    with pytest.raises(CheckpointError, match="is no MetaQuery checkpoint"):
        UniPic2.from_pretrained(kontext_folder, vlm=vlm_folder)


def test_parts_that_do_not_fit(kontext_folder, metaquery_folder, vlm_folder, copied):
    folder = copied(metaquery_folder, "conditioner", reference="nobody")
    with pytest.raises(CheckpointError, match=r"reference 'nobody'; known are 'vlm', 'dit' and 'both'"):
        UniPic2.from_pretrained(folder, vlm=vlm_folder)
    (folder / "conditioner" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "conditioner" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds a None"):
        UniPic2.from_pretrained(folder, vlm=vlm_folder)
    folder = copied(kontext_folder)
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(CheckpointError, match="neither text_encoder/"):
        UniPic2.from_pretrained(folder)
    assert UniPic2.from_pretrained(folder, text_encoders=False).can == {"generate", "edit"}
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="are missing"):
        UniPic2.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        UniPic2.from_pretrained("/nowhere/at/all")


def test_a_conditioner_for_another_transformer(metaquery_folder, vlm_folder, copied):
    from unipic2_connector import StableDiffusion3Conditioner

    folder = copied(metaquery_folder)
    shutil.rmtree(folder / "conditioner")
    encoder = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    other = StableDiffusion3Conditioner(encoder, 4, 48, pooled_projection_dim=24, joint_attention_dim=16)
    other.save_pretrained(folder / "conditioner")
    with pytest.raises(CheckpointError, match=r"has joint_attention_dim 16, but its transformer/ has 40"):
        UniPic2.from_pretrained(folder, vlm=vlm_folder)


def test_impossible_ways_to_load(metaquery_folder, vlm_folder):
    with pytest.raises(RequestError, match="this runs on the CPU"):
        UniPic2.from_pretrained(metaquery_folder, vlm=vlm_folder, device="cpu", offload=True)
    with pytest.raises(RequestError, match="does not move encoders in nf4"):
        UniPic2.from_pretrained(metaquery_folder, device="cuda", offload=True, encoder_quantization="nf4")


def test_a_hash_is_that_of_names_and_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "weights").write_bytes(b"12")
    sources = {"one": [tmp_path / "one"], "two": [tmp_path / "two"], "file": [tmp_path / "one" / "inner" / "weights"]}
    before = part_hashes(sources)
    (tmp_path / "one" / ".notes").write_text("of a downloader")
    assert part_hashes(sources) == before
    assert before["one"] == before["two"] != before["file"]
    (tmp_path / "two" / "inner" / "weights").write_bytes(b"13")
    after = part_hashes(sources)
    assert after["one"] == before["one"]
    assert after["two"] != before["two"]
    (tmp_path / "one" / "inner" / "weights").rename(tmp_path / "one" / "inner" / "other")
    assert part_hashes({"one": [tmp_path / "one"]})["one"] != before["one"]


def test_the_hash_of_adapters_covers_their_weights(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(name.encode())
    sources = {"vae": [tmp_path / "first"], "lora": [tmp_path / "first", tmp_path / "second"]}
    found = [part_hashes(sources, weights) for weights in ((1, 1), (1.0, 1.0), (1, 0.5), (0.5, 1))]
    assert found[0] == found[1]
    assert len({each["lora"] for each in found}) == 3
    assert len({each["vae"] for each in found}) == 1
