import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

from unipic2_dit import SD3Transformer2DKontextModel, StableDiffusion3KontextPipeline
from unipic2_dit.checkpoint import load_lora, load_pipeline
from unipic2_dit.resolution import ImpossibleSizeError

TEXT_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")


@pytest.fixture
def bare(parity_folder):
    """The parity checkpoint: a pipeline without text encoders."""
    pipeline = load_pipeline(parity_folder / "checkpoint", use_text=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def embeddings(parity_tensors):
    embeds = parity_tensors["conditioner.prompt_embeds"]
    pooled = parity_tensors["conditioner.pooled_prompt_embeds"]
    return {
        "prompt_embeds": embeds[:1],
        "pooled_prompt_embeds": pooled[:1],
        "negative_prompt_embeds": embeds[1:],
        "negative_pooled_prompt_embeds": pooled[1:],
    }


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(pipeline, prompt="a red circle", **kwargs):
    given = {"num_inference_steps": 2, "height": 16, "width": 16, "generator": seeded(), "output_type": "np"}
    return pipeline(prompt, **{**given, **kwargs}).images


@pytest.mark.parametrize("case", ["t2i", "edit"])
def test_equals_the_released_pipeline(bare, embeddings, parity_tensors, parity_folder, case):
    meta = json.loads((parity_folder / "meta.json").read_text())
    given = {
        **embeddings,
        "height": meta["height"],
        "width": meta["width"],
        "num_inference_steps": meta["steps"],
        "guidance_scale": meta["guidance_scale"],
        "latents": parity_tensors["pipeline.initial_latents"],
    }
    if case == "edit":
        given["image"] = Image.fromarray(parity_tensors["pipeline.image"].numpy())
    latents = bare(**given, output_type="latent").images
    assert (latents - parity_tensors[f"pipeline.{case}_latents"]).abs().max() < 1e-4
    images = torch.from_numpy(bare(**given, output_type="np").images)
    assert (images - parity_tensors[f"pipeline.{case}_image"]).abs().max() < 1e-4


def test_a_seed_makes_the_released_pipelines_latents(bare, embeddings, parity_tensors):
    latents = bare(
        **embeddings, height=16, width=16, num_inference_steps=4, generator=seeded(7), output_type="latent"
    ).images
    assert (latents - parity_tensors["pipeline.seed7_t2i_latents"]).abs().max() < 1e-4


def test_a_seed_pins_an_edit_whatever_the_global_generator_did(pipeline, picture):
    torch.manual_seed(1)
    first = make(pipeline, image=picture)
    torch.manual_seed(2)
    assert np.array_equal(first, make(pipeline, image=picture))
    sampled = [make(pipeline, image=picture, reference_generator=seeded(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(sampled[0], sampled[1])
    assert not np.array_equal(sampled[0], sampled[2])
    assert not np.array_equal(sampled[0], first)


def test_a_seed_pins_a_stochastic_scheduler(pipeline):
    plain = make(pipeline)
    pipeline.scheduler.register_to_config(stochastic_sampling=True)
    torch.manual_seed(1)
    first = make(pipeline)
    torch.manual_seed(2)
    assert np.array_equal(first, make(pipeline))
    assert not np.array_equal(first, plain)
    pair = make(pipeline, num_images_per_prompt=2, generator=[seeded(3), seeded(0)])
    assert np.abs(pair[1] - first[0]).max() < 1e-5


@pytest.mark.parametrize("missing", [(), TEXT_PARTS[4:], TEXT_PARTS])
def test_stock_save_and_load_round_trip(pipeline, embeddings, tmp_path, missing):
    parts = {name: None if name in missing else part for name, part in pipeline.components.items()}
    pipeline = StableDiffusion3KontextPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["transformer"] == ["unipic2_dit.transformer", "SD3Transformer2DKontextModel"]
    again = StableDiffusion3KontextPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    given = {"prompt": "a red circle"} if TEXT_PARTS[0] not in missing else {"prompt": None, **embeddings}
    assert np.array_equal(make(pipeline, **given), make(again, **given))
    assert {name for name, part in again.components.items() if part is None} == set(missing)


def test_each_component_round_trips_by_itself(pipeline, tmp_path):
    for name, loader in (
        ("transformer", SD3Transformer2DKontextModel),
        ("vae", AutoencoderKL),
        ("scheduler", FlowMatchEulerDiscreteScheduler),
    ):
        part = getattr(pipeline, name)
        part.save_pretrained(tmp_path / name)
        again = loader.from_pretrained(tmp_path / name)
        assert dict(again.config).keys() >= {key for key in part.config if not key.startswith("_")}
        if name != "scheduler":
            for key, value in part.state_dict().items():
                assert torch.equal(value, again.state_dict()[key]), key


def test_from_pipe_and_a_dropped_encoder(pipeline):
    stock = StableDiffusion3KontextPipeline.from_pipe(pipeline, text_encoder_3=None)
    stock.set_progress_bar_config(disable=True)
    assert stock.text_encoder_3 is None
    assert make(stock, max_sequence_length=24).shape == (1, 16, 16, 3)


def test_prompts_and_their_embeddings_make_the_same_picture(pipeline):
    positive, negative = pipeline.encode_prompt(["a red circle"]), pipeline.encode_prompt(["ugly"])
    given = {
        "prompt_embeds": positive.prompt_embeds,
        "pooled_prompt_embeds": positive.pooled_projections,
        "negative_prompt_embeds": negative.prompt_embeds,
        "negative_pooled_prompt_embeds": negative.pooled_projections,
    }
    assert np.array_equal(make(pipeline, negative_prompt="ugly"), make(pipeline, None, **given))
    assert not np.array_equal(make(pipeline, negative_prompt="ugly"), make(pipeline))


def test_n_images_are_those_made_alone(pipeline, picture):
    generators = [seeded(seed) for seed in range(4)]
    together = make(
        pipeline, ["a red circle", "a blue square"], image=picture, num_images_per_prompt=2, generator=generators
    )
    assert together.shape == (4, 16, 16, 3)
    alone = make(pipeline, "a blue square", image=picture, generator=[seeded(2)])
    np.testing.assert_allclose(together[2:3], alone, atol=1e-5)


def test_one_prompt_edits_many_pictures_and_one_picture_takes_many_prompts(pipeline, picture):
    other = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    both = make(pipeline, image=[picture, other], generator=[seeded(0), seeded(0)])
    np.testing.assert_allclose(both[1:], make(pipeline, image=other, generator=[seeded(0)]), atol=1e-5)
    assert not np.allclose(both[0], both[1], atol=1e-5)
    assert len(make(pipeline, ["a", "b", "c"], image=picture)) == 3


@pytest.mark.parametrize(("height", "width"), [(16, 32), (40, 8), (20, 28)])
def test_any_aspect_ratio(pipeline, height, width):
    assert make(pipeline, height=height, width=width).shape == (1, height, width, 3)


def test_an_input_keeps_its_size_and_gets_it_back_on_request(pipeline):
    pixels = torch.randint(0, 256, (19, 30, 3), dtype=torch.uint8, generator=seeded()).numpy()
    given = {"image": Image.fromarray(pixels), "height": None, "width": None, "output_type": "pil"}
    assert make(pipeline, **given)[0].size == (32, 20)
    assert make(pipeline, **given, original_size=True)[0].size == (30, 19)


def test_reference_keeps_its_shape_when_another_size_is_asked_for(pipeline, picture):
    wide = picture.resize((32, 16))
    seen = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["ref_hidden_states"].shape[-2:]), with_kwargs=True
    )
    assert make(pipeline, image=wide, height=24, width=24).shape == (1, 24, 24, 3)
    assert make(pipeline, image=wide, height=8, width=16).shape == (1, 8, 16, 3)
    assert tuple(seen[0]) == (8, 16)  # 16 x 32 px, not stretched to a square
    assert tuple(seen[-1]) == (4, 8)  # same shape: follows the size that was asked for


def test_pictures_of_any_mode_are_read(pipeline, picture):
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    white = make(pipeline, image=Image.new("RGB", (16, 16), "white"))
    assert np.array_equal(make(pipeline, image=clear), white)
    for mode in ("L", "P", "LA", "CMYK", "1"):
        assert make(pipeline, image=picture.convert(mode)).shape == (1, 16, 16, 3)


def test_tensor_and_pil_references_agree(pipeline, picture):
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    np.testing.assert_allclose(make(pipeline, image=tensor), make(pipeline, image=picture), atol=1e-4)


def test_callbacks_see_each_step_may_replace_tensors_and_stop(pipeline):
    steps = []

    def zero(_pipeline, step, timestep, tensors):
        steps.append((step, timestep, sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ["latents", "prompt_embeds"]
    latents = make(pipeline, output_type="latent", callback_on_step_end=zero, callback_on_step_end_tensor_inputs=names)
    assert steps == [(0, 1000.0, names), (1, pytest.approx(steps[1][1]), names)]
    assert 0 < steps[1][1] < 1000
    assert latents.abs().max() == 0

    def stop(pipe, _step, _timestep, tensors):
        steps.append("stopped")
        pipe._interrupt = True
        return tensors

    make(pipeline, num_inference_steps=5, callback_on_step_end=stop)
    assert steps.count("stopped") == 1


def lora_of(pipeline, folder):
    """Save a random LoRA of the transformer's attention the way training exports it."""
    network = SD3Transformer2DKontextModel.from_config(pipeline.transformer.config)
    network.add_adapter(
        LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0", "add_q_proj"])
    )
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    StableDiffusion3KontextPipeline.save_lora_weights(
        folder, transformer_lora_layers=get_peft_model_state_dict(network)
    )
    return folder


@pytest.mark.parametrize("as_file", [False, True])
def test_lora_round_trip_by_folder_and_by_file(pipeline, tmp_path, as_file):
    before = make(pipeline)
    folder = lora_of(pipeline, tmp_path / "adapter")
    load_lora(pipeline, folder / "pytorch_lora_weights.safetensors" if as_file else folder)
    with_lora = make(pipeline)
    assert np.abs(with_lora - before).max() > 1e-3
    np.testing.assert_allclose(make(pipeline, joint_attention_kwargs={"scale": 0.0}), before, atol=1e-5)
    pipeline.fuse_lora()
    np.testing.assert_allclose(make(pipeline), with_lora, atol=1e-3)
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    np.testing.assert_allclose(make(pipeline), before, atol=1e-4)


def test_lora_scale_is_kept(pipeline, tmp_path):
    before = make(pipeline)
    load_lora(pipeline, lora_of(pipeline, tmp_path), scale=0.0)
    np.testing.assert_allclose(make(pipeline), before, atol=1e-5)


def test_offload_order_names_every_model(pipeline):
    models = {name for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    assert set(pipeline.model_cpu_offload_seq.split("->")) == models


def test_sequential_offload_hooks_move_every_weight_and_change_nothing(pipeline, picture):
    """With the CPU as execution device: weights live on meta until a module's own forward needs them."""
    from accelerate import cpu_offload

    expected = make(pipeline, image=picture)
    cpu_offload(pipeline.transformer, torch.device("cpu"))
    assert {parameter.device.type for parameter in pipeline.transformer.parameters()} == {"meta"}
    np.testing.assert_allclose(make(pipeline, image=picture), expected, atol=1e-5)


def test_vae_tiling_decodes_large_pictures_in_parts(pipeline):
    tiles = []
    pipeline.vae.decoder.register_forward_pre_hook(lambda _module, args: tiles.append(tuple(args[0].shape[-2:])))
    plain = make(pipeline, height=48, width=48)
    pipeline.vae.tile_latent_min_size, pipeline.vae.tile_sample_min_size = 16, 32
    pipeline.vae.enable_tiling()
    tiled = make(pipeline, height=48, width=48)
    assert tiles[0] == (24, 24)
    assert len(tiles) > 2
    assert tiled.shape == plain.shape
    assert np.abs(tiled - plain).mean() < 0.1


def test_progress_bar_counts_steps(pipeline, capsys):
    pipeline.set_progress_bar_config(disable=False)
    make(pipeline, num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": None}, "There is no prompt"),
        ({"prompt": []}, "list of prompts is empty"),
        ({"prompt_embeds": torch.zeros(1, 2, 40)}, "come in pairs"),
        ({"prompt_embeds": torch.zeros(1, 2, 40), "pooled_prompt_embeds": torch.zeros(1, 24)}, "not both"),
        ({"negative_prompt": ["a", "b", "c"]}, "3 negative prompts for 1 prompts"),
        ({"output_type": "jpeg"}, "Unknown output_type"),
        ({"original_size": True}, "needs image"),
        ({"generator": [seeded(), seeded()]}, "2 generators for 1 pictures"),
        ({"latents": torch.zeros(1, 4, 4, 4)}, "latents have shape"),
        ({"image": torch.full((1, 3, 16, 16), 2.0)}, r"values in \[-1, 1\]"),
        ({"image": []}, "0 pictures for 1 prompts"),
        ({"image": [Image.new("RGB", (16, 16)), Image.new("RGB", (8, 16))]}, "one size"),
        ({"prompt": ["a"] * 3, "image": [Image.new("RGB", (16, 16))] * 2}, "2 pictures for 3 prompts"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "only \\['latents'"),
        ({"num_inference_steps": 0}, "at least 1 step"),
    ],
)
def test_contradictions_are_refused(pipeline, given, message):
    with pytest.raises(ValueError, match=message):
        make(pipeline, **given)


def test_impossible_size_names_the_nearest(pipeline):
    with pytest.raises(ImpossibleSizeError, match="nearest is 20"):
        make(pipeline, height=18)


def test_a_prompt_without_text_encoders_is_refused(bare):
    with pytest.raises(ValueError, match="pass prompt_embeds"):
        make(bare)
