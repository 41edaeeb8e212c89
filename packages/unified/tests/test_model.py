import json

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

from unipic2_dit.checkpoint import load_pipeline, load_transformer
from unipic2_unified import NotCapableError, Request, RequestError, UniPic2
from unipic2_vlm.processor import Turn
from unipic2_vlm.understanding import Decoding

QUICK = {"steps": 2, "size": 16}


def array(picture):
    return np.asarray(picture).astype(int)


def same(one, other):
    """Tell whether two pictures are equal up to rounding."""
    return one.size == other.size and np.abs(array(one) - array(other)).max() <= 1


@pytest.fixture(scope="session")
def pipeline(kontext_folder):
    loaded = load_pipeline(kontext_folder)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_generate_equals_the_pipeline(kontext, pipeline):
    prompts, negatives = ["a red circle", "a blue square"], ["blue", ""]
    made = kontext.generate(
        prompts, negative_prompts=negatives, images_per_prompt=2, size=(16, 24), steps=3, guidance=2.5, seed=7
    )
    expected = pipeline(
        prompts,
        negative_prompt=negatives,
        num_images_per_prompt=2,
        height=16,
        width=24,
        num_inference_steps=3,
        guidance_scale=2.5,
        generator=[torch.Generator().manual_seed(seed) for seed in (7, 8, 9, 10)],
    ).images
    assert [picture.info["seed"] for picture in made] == [7, 8, 9, 10]
    assert all(same(*pair) for pair in zip(made, expected, strict=True))


@pytest.mark.parametrize("size", [None, 24, (16, 24), (40, 8)])
def test_edit_equals_the_pipeline(kontext, pipeline, picture, size):
    source = picture(1, width=30, height=19)
    (made,) = kontext.edit(source, "make it red", size=size, steps=2, seed=3)
    height, width = kontext.sizes.fit_longer_edge(19, 30, size) if isinstance(size, int) else size or (None, None)
    given = {"num_inference_steps": 2, "generator": [torch.Generator().manual_seed(3)]}
    (expected,) = pipeline("make it red", source, height, width, **given).images
    assert same(made, expected)


@pytest.mark.parametrize("is_edit", [False, True])
def test_metaquery_equals_the_pipeline_with_its_embeddings(metaquery, pipeline, picture, is_edit):
    source = picture(1, width=24, height=16) if is_edit else None
    with torch.no_grad():
        embeds, pooled = metaquery.parts.encoders.conditioner(
            ["make it red", "blue"], [source] * 2 if is_edit else None
        )
    (expected,) = pipeline(
        image=source,
        prompt_embeds=embeds[:1],
        pooled_prompt_embeds=pooled[:1],
        negative_prompt_embeds=embeds[1:],
        negative_pooled_prompt_embeds=pooled[1:],
        height=16,
        width=24,
        num_inference_steps=2,
        generator=[torch.Generator().manual_seed(3)],
    ).images
    given = {"negative_prompts": "blue", "steps": 2, "seed": 3, "size": (16, 24)}
    (made,) = metaquery.edit(source, "make it red", **given) if is_edit else metaquery.generate("make it red", **given)
    assert same(made, expected)


def test_a_stochastic_scheduler_equals_the_pipeline(kontext_folder, copied):
    folder = copied(kontext_folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"stochastic_sampling": True}))
    pipeline = load_pipeline(folder)
    pipeline.set_progress_bar_config(disable=True)
    given = {"height": 16, "width": 16, "num_inference_steps": 3}
    (expected,) = pipeline("a red circle", generator=[torch.Generator().manual_seed(4)], **given).images
    (made,) = UniPic2.from_pretrained(folder).generate("a red circle", size=16, steps=3, seed=4)
    assert same(made, expected)


def test_a_picture_does_not_depend_on_its_neighbours(model, picture):
    prompts = ["a red circle", "", "make it blue"]
    together = model.generate(prompts, seed=[5, 6, 2**40], **QUICK)
    for prompt, seed, expected in zip(prompts, [5, 6, 2**40], together, strict=True):
        assert same(model.generate(prompt, seed=seed, **QUICK)[0], expected)
    sources = [picture(1, 16, 16), picture(2, 24, 16), picture(3, 16, 16)]
    together = model.edit(sources, prompts, seed=9, steps=2)
    assert [each.size for each in together] == [(16, 16), (24, 16), (16, 16)]
    for number, (source, prompt) in enumerate(zip(sources, prompts, strict=True)):
        assert same(model.edit(source, prompt, seed=9 + number, steps=2)[0], together[number])


def test_what_is_asked_matters(model, picture):
    source = picture(1)
    made = {
        "plain": model.generate("red", seed=0, **QUICK),
        "prompt": model.generate("blue", seed=0, **QUICK),
        "negative": model.generate("red", negative_prompts="blue", seed=0, **QUICK),
        "guidance": model.generate("red", guidance=1, seed=0, **QUICK),
        "seed": model.generate("red", seed=1, **QUICK),
        "steps": model.generate("red", seed=0, steps=3, size=16),
        "edit": model.edit(source, "red", seed=0, steps=2),
        "instruction": model.edit(source, "blue", seed=0, steps=2),
        "picture": model.edit(picture(2), "red", seed=0, steps=2),
    }
    assert len({pictures[0].tobytes() for pictures in made.values()}) == len(made)


def test_a_fresh_seed_is_told(kontext):
    first, second = kontext.generate("red", images_per_prompt=2, **QUICK)
    assert first.info["seed"] != second.info["seed"]
    assert same(kontext.generate("red", seed=second.info["seed"], **QUICK)[0], second)


def test_results_keep_or_get_back_their_sizes(kontext, picture):
    sources = [picture(1, 30, 19), picture(2, 17, 40)]
    assert [each.size for each in kontext.edit(sources, "red", steps=1)] == [(32, 20), (16, 40)]
    restored = kontext.edit(sources, "red", steps=1, seed=3, original_size=True)
    assert [each.size for each in restored] == [(30, 19), (17, 40)]
    assert [each.info["seed"] for each in restored] == [3, 4]
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    white = Image.new("RGB", (16, 16), "white")
    assert same(*(kontext.edit(each, "red", steps=1, seed=0)[0] for each in (clear, white)))


def test_steps_are_reported_and_can_be_looked_at(model):
    seen = []
    (made,) = model.generate("red", seed=1, steps=3, size=16, on_step=seen.append)
    assert [state.index.tolist() for state in seen] == [[1], [2], [3]]
    noise = model.start([model.prepare(Request("red", size=16, steps=3, seed=1))])
    assert not same(model.preview(noise)[0], model.decode(noise.latents)[0])
    assert same(model.preview(seen[1])[0], made)  # the last step goes where the velocity points at
    assert same(model.preview(seen[2])[0], made)


def test_ask_answers_and_streams(metaquery, picture):
    given = {"max_new_tokens": 6, "temperature": 1.0, "seed": 3}
    answer = metaquery.ask(picture(1), "what colour is the circle", **given)
    assert "".join(metaquery.ask([picture(1)], "what colour is the circle", stream=True, **given)) == answer
    assert isinstance(metaquery.ask(None, "what is red", max_new_tokens=2), str)
    assert isinstance(metaquery.ask([picture(1), picture(2)], "what is red", max_new_tokens=2), str)
    batch = metaquery.understanding.ask([[picture(1)], []], ["what colour", "what is red"])
    assert len(batch) == 2


@pytest.mark.gpu
def test_offloaded_encoders_wait_on_the_cpu(metaquery, metaquery_folder, vlm_folder, picture):
    model = UniPic2.from_pretrained(metaquery_folder, vlm=vlm_folder, device="cuda", dtype=torch.float32, offload=True)
    given = {"steps": 2, "seed": 0}
    assert same(model.edit(picture(1), "red", **given)[0], metaquery.edit(picture(1), "red", **given)[0])
    asked = (picture(1), "what colour is the circle")
    for stream in (False, True):
        assert "".join(model.ask(*asked, max_new_tokens=3, stream=stream)) == metaquery.ask(*asked, max_new_tokens=3)
        waiting = [each for module in model.parts.encoders.modules().values() for each in module.parameters()]
        assert {each.device.type for each in waiting} == {"cpu"}
    assert model.parts.transformer.device.type == "cuda"


def test_ask_refuses_at_once(metaquery, picture):
    with pytest.raises(RequestError, match="reads 4096"):
        metaquery.ask(picture(), "what", max_new_tokens=5000, stream=True)
    with pytest.raises(RequestError, match="temperature at least 0"):
        metaquery.ask(picture(), "what", temperature=-1)


def test_what_a_variant_can_not_do_is_one_clear_error(kontext, kontext_folder, metaquery, copied, picture):
    assert kontext.can == {"generate", "edit"}
    assert metaquery.can == {"generate", "edit", "ask"}
    with pytest.raises(NotCapableError, match=r"can't ask: it is a Kontext checkpoint.*needs a MetaQuery checkpoint"):
        kontext.ask(picture(), "what is it")
    plain = UniPic2.from_pretrained(copied(kontext_folder, "transformer", _class_name="SD3Transformer2DModel"))
    assert plain.can == {"generate"}
    with pytest.raises(NotCapableError, match="can't edit: it is a plain SD3 text-to-image checkpoint"):
        plain.edit(picture(), "make it red")


def test_dropped_encoders_leave_what_they_made(metaquery_folder, vlm_folder, picture):
    model = UniPic2.from_pretrained(metaquery_folder, vlm=vlm_folder)
    made = model.edit(picture(1), "make it red", seed=0, steps=2)[0]
    assert set(model.info()["parts"]) == {"transformer", "vae", "scheduler", "vlm", "conditioner"}
    model.drop_text_encoders()
    assert same(model.edit(picture(1), "make it red", seed=0, steps=2)[0], made)
    for call in (
        lambda: model.edit(picture(2), "make it red", steps=2),
        lambda: model.generate("make it red", **QUICK),
    ):
        with pytest.raises(NotCapableError, match=r"'make it red' can't be read.*only the 2 prompts in its cache"):
            call()
    assert model.can == {"generate", "edit"}
    with pytest.raises(NotCapableError, match="can't ask: it is a MetaQuery checkpoint, loaded without its VLM"):
        model.ask(None, "what")


def test_info_names_the_weights(kontext, kontext_folder, copied):
    info = json.loads(json.dumps(kontext.info()))
    assert info["variant"] == "kontext"
    assert info["sizes"] == {"multiple": 4, "max_edge": 48, "default": [32, 32]}
    assert info["shift"] == 3.0
    transformer = info["parts"]["transformer"]
    assert transformer["class"] == "SD3Transformer2DKontextModel"
    assert transformer["parameters"] == sum(each.numel() for each in kontext.parts.transformer.parameters())
    assert (transformer["dtype"], transformer["device"]) == ("float32", "cpu")
    assert info["parameters"] == sum(part.get("parameters", 0) for part in info["parts"].values())
    folder = copied(kontext_folder)
    half = UniPic2.from_pretrained(folder, dtype=torch.bfloat16, text_encoders=False).info()
    assert half["parts"]["transformer"]["sha256"] == transformer["sha256"]
    assert half["parts"]["transformer"]["bytes"] * 2 == transformer["bytes"]
    assert half["hash"] != info["hash"]  # without text encoders it is another model
    assert UniPic2.from_pretrained(folder).info()["hash"] == info["hash"]


def test_a_conversation_goes_on(metaquery, picture):
    history = [Turn("user", "what is it", [picture(1).convert("RGBA")]), Turn("assistant", "red circle")]
    question = "what colour is the square"
    answer = metaquery.ask(None, question, history=history, max_new_tokens=6)
    turns = [Turn("user", "what is it", [picture(1)]), history[1], Turn("user", question)]
    assert answer == metaquery.understanding.ask_turns([turns], Decoding(max_new_tokens=6))[0]
    assert answer != metaquery.ask(None, question, max_new_tokens=6)
    stream = metaquery.ask(None, question, history=history, max_new_tokens=6, stream=True)
    assert "".join(stream) == answer
    assert 0 < stream.usage.answer_tokens <= 6
    assert stream.usage.prompt_tokens > 10


def test_adapters_add_up(kontext, kontext_folder, tmp_path):
    transformer = load_transformer(kontext_folder)
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    shapes = {f"transformer.{name}": value.shape for name, value in get_peft_model_state_dict(transformer).items()}
    files = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for seed, file in enumerate(files):
        rng = torch.Generator().manual_seed(seed)
        save_file({name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}, file)
    rows, hashes = kontext.condition(["red", ""]), []

    def latents(lora):
        model = UniPic2.from_pretrained(kontext_folder, lora=lora, text_encoders=False)
        job = model.prepare(Request("red", size=16, steps=1))
        state = model.start([job], conditioning=rows.rows(slice(0, 1)), negative=rows.rows(slice(1, 2)))
        info = model.info()
        assert len(info["parts"].get("lora", {}).get("sha256", "")) == (64 if lora else 0)
        hashes.append(info["hash"])
        return model.step(state).latents

    plain, first, both, weaker = map(latents, ((), files[0], files, [files[0], (files[1], 0.5)]))
    assert len(set(hashes)) == 4
    for one, other in ((plain, first), (first, both), (both, weaker), (first, weaker)):
        assert (one - other).abs().max() > 1e-3
    torch.testing.assert_close(latents([(file, 0.0) for file in files]), plain, atol=1e-5, rtol=1e-5)
