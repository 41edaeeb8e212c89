import numpy as np
import pytest
import torch
from PIL import Image

from unipic2_connector import load_conditioner
from unipic2_dit import sampling
from unipic2_dit.checkpoint import load_pipeline
from unipic2_dit.resolution import ImpossibleSizeError
from unipic2_unified import NotCapableError, Request, RequestError, UniPic2
from unipic2_unified.requests import edit_sizes


def finish(model, state):
    while not sampling.finished(state):
        state = model.step(state)
    return state.latents


def test_rows_join_and_leave_between_steps(model, picture):
    """Requests that join a running state at different times end where they end alone."""
    source = picture(1)
    requests = [
        Request("make it red", source, size=16, steps=2, guidance=3.5, seed=1),
        Request("make it blue", source, size=16, steps=4, guidance=1.0, seed=2),
        Request("the circle", picture(2), "blue", size=16, steps=3, guidance=6.0, seed=3),
    ]
    jobs = [model.prepare(request) for request in requests]
    state = model.step(model.start(jobs[:2]))
    state = model.step(sampling.cat([state, model.start(jobs[2:])]))
    assert state.index.tolist() == [2, 2, 1]
    first, state = state.latents[:1], sampling.select(state, (~state.done).nonzero().squeeze(1))
    together = torch.cat((first, finish(model, state)))
    alone = torch.cat([finish(model, model.start([job])) for job in jobs])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_a_picture_is_read_once_for_all_its_rows(kontext, picture, monkeypatch):
    encoded = []
    encode = kontext.parts.vae.encode
    monkeypatch.setattr(kontext.parts.vae, "encode", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    requests = [Request(text, picture(number), steps=1) for text, number in (("a", 1), ("b", 2), ("c", 1))]
    state = kontext.start([kontext.prepare(request) for request in requests])
    assert encoded == [2]
    assert torch.equal(state.references[0], state.references[2])
    assert not torch.equal(state.references[0], state.references[1])


def test_groups_do_not_mix(kontext, picture):
    jobs = [
        kontext.prepare(Request("x", size=16)),
        kontext.prepare(Request("x", size=(16, 24))),
        kontext.prepare(Request("x", picture())),
        kontext.prepare(Request("x", picture(0, 24, 16), size=(16, 16))),
    ]
    assert len({job.group for job in jobs}) == 4
    assert kontext.prepare(Request("y", picture(3), steps=7, guidance=1.0)).group == jobs[2].group
    with pytest.raises(RequestError, match="Rows of one state are of one group"):
        kontext.start(jobs[:2])
    with pytest.raises(RequestError, match="Rows of one state are of one group"):
        kontext.start([])


def test_a_run_may_mix_everything(model, picture):
    requests = [
        Request("a red circle", size=16, steps=2, seed=1),
        Request("make it red", picture(1), steps=1, seed=2),
        Request("a blue square", size=(16, 24), steps=3, guidance=1.0, seed=3),
        Request("a blue circle", size=16, steps=1, seed=4),
    ]
    made = model.run(requests)
    assert [each.size for each in made] == [(16, 16), (16, 16), (24, 16), (16, 16)]
    for request, expected in zip(requests, made, strict=True):
        alone = model.run([request])[0]
        assert alone.info["seed"] == request.seed
        assert np.abs(np.asarray(alone).astype(int) - np.asarray(expected)).max() <= 1


def test_embeddings_may_come_from_elsewhere(kontext, kontext_folder):
    bare = UniPic2.from_pretrained(kontext_folder, text_encoders=False)
    job = bare.prepare(Request("whatever", size=16, steps=2, seed=5))
    with pytest.raises(NotCapableError, match=r"'whatever' can't be read.*loaded without"):
        bare.start([job])
    rows = kontext.condition(["a red circle", ""])
    state = bare.start([job], conditioning=rows.rows(slice(0, 1)), negative=rows.rows(slice(1, 2)))
    expected = kontext.start([kontext.prepare(Request("a red circle", size=16, steps=2, seed=5))])
    torch.testing.assert_close(finish(bare, state), finish(kontext, expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("reference", "in_vlm", "in_dit"), [("vlm", True, False), ("dit", False, True)])
def test_the_config_says_who_sees_the_picture(
    metaquery, metaquery_folder, vlm_folder, copied, picture, reference, in_vlm, in_dit
):
    folder = copied(metaquery_folder)
    conditioner = load_conditioner(folder)
    conditioner.register_to_config(reference=reference)
    conditioner.save_pretrained(folder / "conditioner")  # as training exports it
    model = UniPic2.from_pretrained(folder, vlm=vlm_folder)
    assert model.reference == reference
    states = [model.start([model.prepare(Request("make it red", picture(seed)))]) for seed in (1, 2)]
    assert (states[0].references is not None) == in_dit
    embeds = [state.conditioning.prompt_embeds for state in states]
    assert torch.equal(*embeds) != in_vlm
    both = metaquery.start([metaquery.prepare(Request("make it red", picture(1)))])
    assert both.references is not None
    assert torch.allclose(both.conditioning.prompt_embeds, embeds[0], atol=1e-5) == in_vlm
    if not in_dit:  # then edits and drawings may share a state
        drawing = model.start([model.prepare(Request("red", size=16))])
        assert len(sampling.cat([states[0], drawing]).latents) == 2


def test_condition_is_what_start_reads(model, picture):
    state = model.start([model.prepare(Request("make it red", picture(1, 30, 19), "blue"))])
    rows = model.condition(["make it red", "blue"], [picture(1, 30, 19)] * 2)
    assert torch.equal(state.conditioning.prompt_embeds, rows.prompt_embeds[:1])
    assert torch.equal(state.negative.pooled_projections, rows.pooled_projections[1:])
    with pytest.raises(RequestError, match="1 images for 2 prompts"):
        model.condition(["a", "b"], [picture()])


def test_instructions_without_pictures_are_read_as_such(metaquery, kontext):
    for model, differs in ((metaquery, True), (kontext, False)):
        drawn, edited = model.condition(["make it red"]), model.condition(["make it red"], edit=True)
        assert torch.equal(drawn.prompt_embeds, edited.prompt_embeds) != differs


def test_impossible_requests_are_refused_before_they_start(kontext, picture):
    with pytest.raises(ImpossibleSizeError, match="nearest is 20"):
        kontext.prepare(Request("x", size=18))
    with pytest.raises(ImpossibleSizeError, match="too elongated"):
        kontext.prepare(Request("x", Image.new("RGB", (400, 1))))
    with pytest.raises(ImpossibleSizeError, match="from 4 to 48"):
        kontext.prepare(Request("x", picture(), size=4096))


def test_sizes_of_edits_are_those_of_the_pipeline(kontext, kontext_folder, picture):
    pipeline = load_pipeline(kontext_folder, use_text=False)
    for width, height in ((16, 16), (30, 19), (100, 60), (7, 40)):
        source = [picture(0, width, height)]
        for size in (None, (16, 16), (24, 16), (32, 20), (16, 48)):
            expected = pipeline._resolve_sizes(source, *(size or (None, None)))
            assert edit_sizes(kontext.sizes, (height, width), size) == expected
