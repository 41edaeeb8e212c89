"""The steps that every call consists of, for schedulers and samplers of one's own.

::

    jobs = [model.prepare(request) for request in requests]  # of one group
    state = model.start(jobs)
    while not sampling.finished(state):
        state = model.step(state)  # between steps rows may join (sampling.cat) and leave (sampling.select)
    pictures = model.decode(state.latents)

An engine has no state that a call leaves behind, but a cache of prompts. One thread at a time uses it.

Legend: B rows, C latent channels, h/w latent height/width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from unipic2_dit import flow, sampling, vae
from unipic2_dit.conditioning import Conditioning
from unipic2_dit.pictures import upright_rgb
from unipic2_dit.resolution import Sizes
from unipic2_dit.sampling import DenoisingState
from unipic2_unified import variants
from unipic2_unified.checkpoint import Parts
from unipic2_unified.denoising import Conditions, begin, latent_shape
from unipic2_unified.encoders import MetaQueryEncoders, Prompt
from unipic2_unified.errors import RequestError
from unipic2_unified.prompts import CACHE_BYTES, PromptCache
from unipic2_unified.requests import Job, Request, edit_sizes, picture_digest, target_size
from unipic2_unified.variants import Capability, Reference, Variant
from unipic2_vlm.understanding import Understanding

__all__ = ["Engine", "StepCallback", "tagged"]

StepCallback = Callable[[DenoisingState], None]


class Engine:
    """Takes requests from prompts to pictures, one step at a time.

    Args:
        parts: What the model is made of.
        offload: What reads prompts waits on the CPU and is on the model's device only while it works.
        cache_bytes: The most memory that encoded prompts are kept in.

    Raises:
        RequestError: If encoders should be off-loaded from a CPU to itself.
    """

    def __init__(self, parts: Parts, *, offload: bool = False, cache_bytes: int = CACHE_BYTES) -> None:
        self.parts = parts
        self.device: torch.device = parts.vae.device
        self.sizes = Sizes.of(parts.transformer, parts.vae)
        self.prompts = PromptCache(parts.encoders, self.device, offload=offload, max_bytes=cache_bytes)
        self._dynamics = sampling.dynamics_of(parts.scheduler)
        self._pixels = VaeImageProcessor(vae_scale_factor=self.sizes.multiple)

    @property
    def variant(self) -> Variant:
        """What kind of checkpoint the model is from."""
        return self.parts.variant

    @property
    def reference(self) -> Reference:
        """Who sees the picture that is edited."""
        return self.parts.reference

    @property
    def can(self) -> frozenset[Capability]:
        """What the model can do: some of ``generate``, ``edit`` and ``ask``."""
        return variants.capabilities(self.variant, has_vlm=isinstance(self.prompts.encoders, MetaQueryEncoders))

    @property
    def understanding(self) -> Understanding:
        """The VLM for questions, in batches too; off-loaded, it works inside ``prompts.awake()``.

        Raises:
            NotCapableError: If there is none.
        """
        self.check_capable("ask")
        assert isinstance(self.prompts.encoders, MetaQueryEncoders)  # ``can`` looks at it.
        return self.prompts.encoders.understanding

    def check_capable(self, what: Capability) -> None:
        """Make sure that the model can do something.

        Raises:
            NotCapableError: If it can't.
        """
        variants.check_capable(what, self.variant, self.can)

    def condition(
        self, prompts: Sequence[str], images: Sequence[Image.Image] | None = None, *, edit: bool | None = None
    ) -> Conditioning:
        """Return what the transformer reads of prompts, from the cache if it is there.

        Args:
            prompts: Prompts or instructions, one a row. The empty one is valid.
            images: One picture a row, for instructions.
            edit: The prompts are instructions; by default if there are images.

        Raises:
            NotCapableError: If there are no encoders and a prompt isn't in the cache.
            RequestError: If the encoders can't read a prompt or picture.
        """
        if images is not None and len(images) != len(prompts):
            msg = f"{len(images)} images for {len(prompts)} prompts: pass one each."
            raise RequestError(msg)
        is_edit = images is not None if edit is None else edit
        seen = [None] * len(prompts) if images is None else [self._as_seen(upright_rgb(each)) for each in images]
        return self.prompts([self._prompt(*row, edit=is_edit) for row in zip(prompts, seen, strict=True)])

    def prepare(self, request: Request) -> Job:
        """Check a request and settle its sizes.

        Raises:
            NotCapableError: If the model can't do it.
            ImpossibleSizeError: If the checkpoint can't make the size.
        """
        if request.image is None:
            self.check_capable("generate")
            return Job(request, target_size(self.sizes, request.size))
        self.check_capable("edit")
        picture = upright_rgb(request.image)
        size, reference_size = edit_sizes(self.sizes, (picture.height, picture.width), request.size)
        seen = self._as_seen(picture, reference_size)
        in_transformer = reference_size if variants.sees("dit", self.reference) else None
        return Job(request, size, seen, picture_digest(seen), in_transformer)

    @torch.no_grad()
    def start(
        self,
        jobs: Sequence[Job],
        *,
        conditioning: Conditioning | None = None,
        negative: Conditioning | None = None,
    ) -> DenoisingState:
        """Return the state at the start of denoising, one row a job.

        Args:
            jobs: Prepared requests of one group.
            conditioning: What the transformer reads, B rows, instead of the prompts.
            negative: What guidance leads away from, B rows or 1, instead of the negative prompts.

        Raises:
            NotCapableError: If a prompt can't be read, because there are no encoders.
            RequestError: If the jobs are of different groups, or the encoders can't read a prompt or picture.
        """
        groups = {job.group for job in jobs}
        if len(groups) != 1:
            msg = f"Rows of one state are of one group (size, size of the reference), not {sorted(map(str, groups))}."
            raise RequestError(msg)
        if conditioning is None:
            conditioning, negative = self._conditioning(jobs)
        requests = [job.request for job in jobs]
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        return begin(
            self.parts.transformer,
            self.parts.scheduler,
            sampling.draw_noise(latent_shape(self.parts.vae, jobs[0].size), generators, self.device),
            Conditions(conditioning, negative, self._references(jobs)),
            steps=[request.steps for request in requests],
            guidance=[request.guidance for request in requests],
            generators=generators,
        )

    @torch.no_grad()
    def step(self, state: DenoisingState) -> DenoisingState:
        """Take one denoising step of the rows that have one left."""
        return sampling.step(self.parts.transformer, state, self._dynamics)

    @torch.no_grad()
    def preview(self, state: DenoisingState) -> list[Image.Image]:
        """Return what the rows would become if their velocity stayed as it is; costs as much as a step."""
        velocity = sampling.velocity(self.parts.transformer, state)
        return self.decode(flow.denoised_from_velocity(state.latents, velocity, state.sigma))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Return the pictures of clean latents (B, C, h, w)."""
        pixels = vae.decode(self.parts.vae, latents.to(self.device))
        return list(self._pixels.postprocess(pixels, output_type="pil"))

    def run(self, requests: Sequence[Request], *, on_step: StepCallback | None = None) -> list[Image.Image]:
        """Carry out requests of any kinds, sizes and steps.

        Args:
            requests: One a picture.
            on_step: Called with the state after each step, group by group.

        Returns:
            The pictures in the order of the requests, with their seeds in ``picture.info``.

        Raises:
            NotCapableError: If the model can't do one of them.
            ValueError: If one of them does not fit the checkpoint.
        """
        jobs = [self.prepare(request) for request in requests]
        places: dict[object, list[int]] = {}
        for place, job in enumerate(jobs):
            places.setdefault(job.group, []).append(place)
        made: dict[int, Image.Image] = {}
        for rows in places.values():
            state = self.start([jobs[place] for place in rows])
            while not sampling.finished(state):
                state = self.step(state)
                if on_step is not None:
                    on_step(state)
            made.update(zip(rows, self.decode(state.latents), strict=True))
        return [tagged(made[place], request) for place, request in enumerate(requests)]

    def _as_seen(self, picture: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
        """Return a picture at the size (height, width) at which the model sees it."""
        height, width = size or self.sizes.keep(picture.height, picture.width)
        seen: Image.Image = self._pixels.resize(picture, height, width)
        return seen

    def _prompt(self, text: str, picture: Image.Image | None, digest: str = "", *, edit: bool) -> Prompt:
        """Return a prompt as the encoders tell it from others."""
        if self.variant != "metaquery":
            return Prompt(text)
        if picture is None or not variants.sees("vlm", self.reference):
            return Prompt(text, edit)
        return Prompt(text, edit, picture, digest or picture_digest(picture))

    def _conditioning(self, jobs: Sequence[Job]) -> tuple[Conditioning, Conditioning | None]:
        """Encode prompts and negative prompts together, so that they are one batch."""

        def prompt(job: Job, text: str) -> Prompt:
            return self._prompt(text, job.picture, job.digest, edit=job.request.image is not None)

        positive = [prompt(job, job.request.prompt) for job in jobs]
        if all(job.request.guidance <= 1 for job in jobs):
            return self.prompts(positive), None
        # Rows without guidance need some row there, which nothing looks at: their own prompt costs nothing.
        negative = [
            prompt(job, job.request.negative_prompt if job.request.guidance > 1 else job.request.prompt) for job in jobs
        ]
        both = self.prompts(positive + negative)
        return both.rows(slice(None, len(jobs))), both.rows(slice(len(jobs), None))

    def _references(self, jobs: Sequence[Job]) -> Tensor | None:
        """Return the latents of the pictures to edit, each distinct one encoded once, shape (B, C, h', w')."""
        if jobs[0].reference_size is None:
            return None
        height, width = jobs[0].reference_size
        distinct = {job.digest: job.picture for job in jobs}
        pixels = self._pixels.preprocess(list(distinct.values()), height=height, width=width)
        latents = vae.encode(self.parts.vae, pixels.to(self.device))
        places = {digest: place for place, digest in enumerate(distinct)}
        return latents[[places[job.digest] for job in jobs]]


def tagged(picture: Image.Image, request: Request) -> Image.Image:
    """Return a picture that knows its seed."""
    picture.info["seed"] = request.seed
    return picture
