from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

from unipic2_dit import sampling, vae
from unipic2_dit.conditioning import Conditioning
from unipic2_dit.flow import sampling_sigmas


@pytest.fixture
def schedule(parity_folder):
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(parity_folder / "checkpoint" / "scheduler")
    return lambda steps: sampling_sigmas(steps, scheduler)


@pytest.fixture
def prompts(parity_tensors):
    embeds = parity_tensors["conditioner.prompt_embeds"]
    pooled = parity_tensors["conditioner.pooled_prompt_embeds"]
    return Conditioning(embeds[:1], pooled[:1]), Conditioning(embeds[1:], pooled[1:])


@pytest.mark.parametrize("case", ["t2i", "edit"])
def test_equals_the_released_pipeline(transformer, schedule, prompts, parity_tensors, parity_folder, case):
    autoencoder = AutoencoderKL.from_pretrained(parity_folder / "checkpoint" / "vae").eval()
    references = None
    if case == "edit":
        pixels = parity_tensors["pipeline.image"].permute(2, 0, 1)[None] / 127.5 - 1
        references = vae.encode(autoencoder, pixels)
    state = sampling.initial_state(
        parity_tensors["pipeline.initial_latents"],
        schedule(4),
        prompts[0],
        guidance=3.5,
        negative=prompts[1],
        references=references,
    )
    latents = sampling.denoise(transformer, state)
    assert (latents - parity_tensors[f"pipeline.{case}_latents"]).abs().max() < 1e-4
    image = (vae.decode(autoencoder, latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert (image - parity_tensors[f"pipeline.{case}_image"]).abs().max() < 1e-4


def test_a_row_does_not_depend_on_its_neighbours(transformer, schedule, prompts):
    """Rows with other steps, guidance, prompts, references and starting points end where they end alone."""
    steps, guidance = [4, 2, 7, 4], [3.5, 1.0, 6.0, 0.0]
    noise = sampling.draw_noise((4, 8, 8), [torch.Generator().manual_seed(seed) for seed in range(4)])
    references = torch.randn(4, 4, 6, 8, generator=torch.Generator().manual_seed(9))
    conditioning = Conditioning.cat([prompts[0], prompts[1], prompts[1], prompts[0]])
    negative = Conditioning.cat([prompts[1], prompts[0], prompts[0], prompts[1]])

    def state(rows):
        return sampling.initial_state(
            noise[rows],
            [schedule(steps[row]) for row in rows],
            conditioning.rows(torch.tensor(rows)),
            guidance=torch.tensor([guidance[row] for row in rows]),
            negative=negative.rows(torch.tensor(rows)),
            references=references[rows],
        )

    together = sampling.denoise(transformer, state([0, 1, 2, 3]))
    for row in range(4):
        alone = sampling.denoise(transformer, state([row]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_rows_at_different_positions_advance_together(transformer, schedule, prompts):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    both = Conditioning.cat([prompts[0], prompts[0]])
    state = sampling.initial_state(noise, schedule(3), both)
    first = sampling.select(state, torch.tensor([0]))
    first = sampling.advance(first, sampling.velocity(transformer, first))
    joined = sampling.DenoisingState(
        latents=torch.cat((first.latents, noise[1:])),
        sigmas=state.sigmas,
        index=torch.tensor([1, 0]),
        conditioning=both,
        guidance=state.guidance,
    )
    expected = sampling.denoise(transformer, state)
    torch.testing.assert_close(sampling.denoise(transformer, joined), expected, atol=1e-5, rtol=1e-5)


def test_rows_join_and_leave_between_steps(transformer, schedule, prompts):
    """A row that joins others later, and loses one of them on the way, ends where it ends alone."""
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def state(row, steps, guidance, negative=None):
        return sampling.initial_state(
            noise[row : row + 1],
            schedule(steps),
            prompts[0],
            guidance=guidance,
            negative=negative,
            generators=[torch.Generator().manual_seed(row)] if row else (),
        )

    alone = [state(0, 2, 1.0), state(1, 4, 3.5, prompts[1]), state(2, 3, 1.0)]
    with torch.no_grad():
        joined = sampling.step(transformer, sampling.cat(alone[:2]))
        joined = sampling.cat([joined, alone[2]])
        assert joined.index.tolist() == [1, 1, 0]
        assert [each is None for each in joined.generators] == [True, False, False]
        joined = sampling.step(transformer, joined)
        assert joined.done.tolist() == [True, False, False]
        left = sampling.denoise(transformer, sampling.select(joined, torch.tensor([1, 2])))
    expected = torch.cat([sampling.denoise(transformer, each) for each in alone])
    torch.testing.assert_close(torch.cat((joined.latents[:1], left)), expected, atol=1e-5, rtol=1e-5)


def test_what_has_other_shapes_does_not_join(schedule, prompts):
    def state(edge, references=None):
        return sampling.initial_state(torch.zeros(1, 4, edge, edge), schedule(2), prompts[0], references=references)

    with pytest.raises(ValueError, match=r"\(4, 6, 6\) with references None, \(4, 8, 8\) with references None"):
        sampling.cat([state(8), state(6)])
    with pytest.raises(ValueError, match="all or none have references"):
        sampling.cat([state(8), state(8, torch.zeros(1, 4, 8, 8))])
    both = sampling.cat([state(8, torch.zeros(1, 4, 6, 8)), state(8, torch.ones(1, 4, 6, 8))])
    assert both.references.mean((1, 2, 3)).tolist() == [0, 1]
    assert both.negative is None
    assert both.generators == ()


def test_a_finished_state_stays(transformer, schedule, prompts):
    done = replace(sampling.initial_state(torch.ones(1, 4, 8, 8), schedule(1), prompts[0]), index=torch.tensor([1]))
    assert sampling.step(transformer, done) is done


def test_plain_loop_equals_denoise_and_done_rows_stay(transformer, schedule, prompts):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    state = sampling.initial_state(
        noise, [schedule(1), schedule(3)], Conditioning.cat([prompts[0]] * 2), guidance=2.0, negative=prompts[1]
    )
    expected = sampling.denoise(transformer, state)
    with torch.no_grad():
        state = sampling.advance(state, sampling.velocity(transformer, state))
        after_one = state.latents[0].clone()
        assert state.done.tolist() == [True, False]
        while not sampling.finished(state):
            state = sampling.advance(state, sampling.velocity(transformer, state))
    assert torch.equal(state.latents[0], after_one)
    assert state.index.tolist() == [1, 3]
    torch.testing.assert_close(state.latents, expected, atol=1e-5, rtol=1e-5)


def test_guidance_costs_only_the_rows_that_use_it(transformer, schedule, prompts):
    batches = []
    transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: batches.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    state = sampling.initial_state(
        torch.zeros(3, 4, 8, 8),
        schedule(2),
        Conditioning.cat([prompts[0]] * 3),
        guidance=torch.tensor([1.0, 3.0, 0.5]),
        negative=prompts[1],
    )
    with torch.no_grad():
        sampling.velocity(transformer, state)
    assert batches == [4]


def test_dynamics_get_each_rows_generator(transformer, schedule, prompts):
    def noisy(latents, velocity, sigma, next_sigma, generators):
        noise = sampling.draw_noise(latents.shape[1:], generators)
        return sampling.euler(latents, velocity, sigma, next_sigma) + 0.1 * noise

    def run(seeds, steps):
        state = sampling.initial_state(
            torch.zeros(len(seeds), 4, 8, 8),
            [schedule(each) for each in steps],
            Conditioning.cat([prompts[0]] * len(seeds)),
            generators=[torch.Generator().manual_seed(seed) for seed in seeds],
        )
        return sampling.denoise(transformer, state, dynamics=noisy)

    together = run([1, 2], steps=[2, 4])
    torch.testing.assert_close(together[1:], run([2], steps=[4]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[:1], run([1], steps=[2]), atol=1e-5, rtol=1e-5)


def test_a_stochastic_scheduler_steps_as_diffusers_does(parity_folder):
    folder = parity_folder / "checkpoint" / "scheduler"
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, stochastic_sampling=True)
    assert sampling.dynamics_of(scheduler) is sampling.renoise
    assert sampling.dynamics_of(FlowMatchEulerDiscreteScheduler.from_pretrained(folder)) is sampling.euler
    sigmas = sampling_sigmas(4, scheduler)
    scheduler.set_timesteps(4)
    ours = theirs = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    for step, timestep in enumerate(scheduler.timesteps):
        velocity = ours.tanh()
        ours = sampling.renoise(ours, velocity, sigmas[step], sigmas[step + 1], (seeds[0],))
        theirs = scheduler.step(velocity, timestep, theirs, generator=seeds[1]).prev_sample
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_noise_on_the_way_needs_a_generator_a_row():
    latents = torch.zeros(2, 4, 8, 8)
    with pytest.raises(ValueError, match="1 generators for 2 rows"):
        sampling.renoise(latents, latents, torch.tensor(1.0), torch.tensor(0.5), (torch.Generator(),))


def test_callback_sees_and_may_replace_each_state(transformer, schedule, prompts):
    seen = []
    state = sampling.initial_state(torch.ones(1, 4, 8, 8), schedule(3), prompts[0])
    sampling.denoise(transformer, state, callback=lambda state: seen.append(int(state.index[0])))
    assert seen == [1, 2, 3]


def test_parts_of_other_lengths_are_refused(schedule, prompts):
    noise = torch.zeros(2, 4, 8, 8)
    with pytest.raises(ValueError, match="'conditioning': 1"):
        sampling.initial_state(noise, schedule(2), prompts[0])
    with pytest.raises(ValueError, match="needs a negative prompt"):
        sampling.initial_state(noise, schedule(2), prompts[0].repeat(2), guidance=2.0)
