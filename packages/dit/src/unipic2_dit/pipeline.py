"""Text-to-image generation and image editing as a diffusers pipeline.

Loads and saves with stock ``DiffusionPipeline.from_pretrained``/``save_pretrained``, with or without text encoders. The
maths is in ``sampling``, ``text`` and ``vae``; this module checks inputs and joins the parts.

Legend: B pictures (prompts times pictures a prompt), H/W height/width in pixels, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import SD3LoraLoaderMixin
from diffusers.pipelines.stable_diffusion_3.pipeline_output import StableDiffusion3PipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from unipic2_dit import sampling, vae
from unipic2_dit.conditioning import Conditioning
from unipic2_dit.flow import MAX_TIMESTEP, sampling_sigmas
from unipic2_dit.pictures import Pictures, as_pictures, own_size, restore_sizes
from unipic2_dit.resolution import Sizes
from unipic2_dit.text import TextConditioner
from unipic2_dit.transformer import SD3Transformer2DKontextModel

__all__ = ["StableDiffusion3KontextPipeline"]

Generator = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[["StableDiffusion3KontextPipeline", int, float, dict[str, Any]], dict[str, Any]]


class StableDiffusion3KontextPipeline(DiffusionPipeline, SD3LoraLoaderMixin):
    """Makes a picture from a prompt, or edits a picture by an instruction.

    Args:
        transformer: The Kontext DiT.
        scheduler: Holds the noise levels' shift.
        vae: Autoencoder between pixels and latents.
        text_encoder: CLIP-L. Without text encoders, pass embeddings.
        tokenizer: CLIP-L's tokenizer.
        text_encoder_2: CLIP-G.
        tokenizer_2: CLIP-G's tokenizer.
        text_encoder_3: T5. Without it, its tokens are zeros.
        tokenizer_3: T5's tokenizer.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->text_encoder_3->transformer->vae"
    _optional_components: ClassVar[list[str]] = [
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "text_encoder_3",
        "tokenizer_3",
    ]
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "prompt_embeds", "pooled_prompt_embeds"]

    def __init__(
        self,
        transformer: SD3Transformer2DKontextModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModelWithProjection | None = None,
        tokenizer: CLIPTokenizer | None = None,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        text_encoder_3: T5EncoderModel | None = None,
        tokenizer_3: T5TokenizerFast | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
        self._interrupt = False

    @property
    def sizes(self) -> Sizes:
        """The sizes that this checkpoint can make."""
        return Sizes.of(self.transformer, self.vae)

    @property
    def interrupt(self) -> bool:
        """Whether to stop after the current step; a callback sets ``pipeline._interrupt = True``."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: Image.Image | Sequence[Image.Image] | Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.5,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: Generator = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        reference_generator: torch.Generator | None = None,
        original_size: bool = False,
        max_sequence_length: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        joint_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:
        """Generate pictures, or edit those in ``image``.

        Args:
            prompt: What to make, or how to edit; one or a list. Or pass embeddings.
            image: What to edit: one picture for all prompts, or one a prompt, of one size. PIL pictures of any mode
                (transparency becomes white), or a tensor (B, 3, H, W) with values in [-1, 1].
            height: Height of the result in px; by default the input's (rounded, see ``resolution``) or the
                checkpoint's own.
            width: Width of the result in px, likewise. An input of another shape keeps its aspect ratio.
            num_inference_steps: Denoising steps.
            guidance_scale: Scale of classifier-free guidance; 1 or less turns it off.
            negative_prompt: What to lead away from; by default the empty prompt.
            num_images_per_prompt: Pictures a prompt.
            generator: Pins the noise; a list has one generator a picture, which makes a picture independent of the
                others.
            latents: Start from this noise (B, C, h, w) instead.
            prompt_embeds: Prompt embeddings (prompts, L, D) instead of prompts.
            pooled_prompt_embeds: Pooled prompt embeddings (prompts, D_pooled).
            negative_prompt_embeds: Negative prompt embeddings, for all prompts or one each.
            negative_pooled_prompt_embeds: Pooled negative prompt embeddings.
            reference_generator: Draw the input's latents from the VAE's posterior with this generator instead of
                taking the posterior's mode.
            original_size: Resize the result to the input's own size (PIL output).
            max_sequence_length: Tokens of T5.
            output_type: ``"pil"``, ``"np"`` or ``"pt"`` (values in [0, 1]), or ``"latent"``.
            return_dict: Return an object with ``images`` instead of a tuple.
            joint_attention_kwargs: ``{"scale": float}`` weighs a LoRA.
            callback_on_step_end: ``(pipeline, step, timestep, tensors) -> tensors``, called after each step; it may
                replace the tensors, and stop by ``pipeline._interrupt = True``.
            callback_on_step_end_tensor_inputs: Tensors that it gets, of ``latents``, ``prompt_embeds`` and
                ``pooled_prompt_embeds``.

        Returns:
            The pictures, prompt by prompt.

        Raises:
            ValueError: If the inputs contradict each other or the checkpoint; the message says how to mend it.
            ImpossibleSizeError: If the checkpoint can't make the size.
        """
        self._check_request(output_type, original_size, image, callback_on_step_end_tensor_inputs)
        self._interrupt = False
        device = self._execution_device
        conditioning, negative = self._encode_prompts(
            _given(prompt, prompt_embeds, pooled_prompt_embeds, "prompt"),
            _given(negative_prompt or "", negative_prompt_embeds, negative_pooled_prompt_embeds, "negative prompt"),
            guidance_scale,
            max_sequence_length,
        )
        pictures = as_pictures(image, num_prompts=len(conditioning.prompt_embeds))
        target_size, reference_size = self._resolve_sizes(pictures, height, width)
        references = self._encode_references(pictures, reference_size, reference_generator)
        if references is not None:
            conditioning, negative, references = _match_rows(conditioning, negative, references)
            references = references.repeat_interleave(num_images_per_prompt, dim=0)
        conditioning = conditioning.repeat(num_images_per_prompt)
        state = sampling.initial_state(
            self._initial_noise(len(conditioning.prompt_embeds), target_size, generator, latents),
            sampling_sigmas(num_inference_steps, self.scheduler, num_tokens=self._num_tokens(target_size)),
            conditioning,
            guidance=guidance_scale,
            negative=None if negative is None else negative.repeat(num_images_per_prompt),
            references=references,
            generators=generator if isinstance(generator, list) else [generator] * len(conditioning.prompt_embeds),
        )
        dynamics = sampling.dynamics_of(self.scheduler)
        with self.progress_bar(total=num_inference_steps) as progress:
            while not (sampling.finished(state) or self._interrupt):
                step = int(state.index[0])
                timestep = float(MAX_TIMESTEP * state.sigma[0])
                velocity = sampling.velocity(self.transformer, state, joint_attention_kwargs)
                state = sampling.advance(state, velocity, dynamics)
                if callback_on_step_end is not None:
                    tensors = _tensors(state, callback_on_step_end_tensor_inputs)
                    state = _replace(state, callback_on_step_end(self, step, timestep, tensors) or {})
                progress.update()
        images = self._finish(state.latents.to(device), output_type)
        self.maybe_free_model_hooks()
        if original_size and pictures is not None:
            images = restore_sizes(images, pictures)
        return StableDiffusion3PipelineOutput(images=images) if return_dict else (images,)

    def encode_prompt(self, prompts: list[str], max_sequence_length: int | None = None) -> Conditioning:
        """Encode prompts with the pipeline's text encoders.

        Args:
            prompts: Prompts; the empty one is valid.
            max_sequence_length: Tokens of T5.

        Raises:
            ValueError: If the pipeline has no text encoders.
        """
        absent = [name for name in self._optional_components[:4] if getattr(self, name) is None]
        if absent:
            msg = (
                f"This pipeline has no {', '.join(absent)}: pass prompt_embeds and pooled_prompt_embeds (and the "
                f"negative ones when guidance_scale is above 1), or load the checkpoint with its text encoders."
            )
            raise ValueError(msg)
        conditioner = TextConditioner(
            self.text_encoder,
            self.tokenizer,
            self.text_encoder_2,
            self.tokenizer_2,
            self.text_encoder_3,
            self.tokenizer_3,
            joint_attention_dim=self.transformer.config.joint_attention_dim,
            t5_length=max_sequence_length,
        )
        return conditioner(prompts, device=self._execution_device)

    def _encode_prompts(
        self,
        prompt: list[str] | Conditioning,
        negative_prompt: list[str] | Conditioning,
        guidance_scale: float,
        max_sequence_length: int | None,
    ) -> tuple[Conditioning, Conditioning | None]:
        """Return the conditioning of the prompts and, under guidance, as many negative rows."""
        device = self._execution_device

        def encode(prompts: list[str] | Conditioning) -> Conditioning:
            if isinstance(prompts, list):
                return self.encode_prompt(prompts, max_sequence_length)
            return prompts.to(device)

        positive = encode(prompt)
        if guidance_scale <= 1:
            return positive, None
        negative = encode(negative_prompt)
        num_prompts, num_negative = len(positive.prompt_embeds), len(negative.prompt_embeds)
        if num_negative not in (1, num_prompts):
            msg = f"{num_negative} negative prompts for {num_prompts} prompts: pass one for all, or one each."
            raise ValueError(msg)
        return positive, negative if num_negative == num_prompts else negative.repeat(num_prompts)

    def _resolve_sizes(
        self, pictures: Pictures | None, height: int | None, width: int | None
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the (height, width) of the result and of the reference, in px."""
        sizes = self.sizes
        if pictures is None:
            default = sizes.default
            target = sizes.check(height or default[0], width or default[1])
            return target, target
        return sizes.of_edit(own_size(pictures), height, width)

    def _encode_references(
        self,
        pictures: Pictures | None,
        size: tuple[int, int],
        generator: torch.Generator | None,
    ) -> Tensor | None:
        """Return the latents of the pictures to edit, resized to ``size`` (height, width), shape (n, C, h, w)."""
        if pictures is None:
            return None
        height, width = size
        processor = VaeImageProcessor(vae_scale_factor=self.sizes.multiple)
        if isinstance(pictures, Tensor):
            pixels = processor.resize(pictures.float(), height, width)
        else:
            pixels = processor.preprocess(pictures, height=height, width=width)
        return vae.encode(self.vae, pixels.to(self._execution_device), generator)

    def _initial_noise(self, rows: int, size: tuple[int, int], generator: Generator, latents: Tensor | None) -> Tensor:
        """Return the noise to start from, float32 whatever the weights are, so that a seed means one picture."""
        factor = vae.spatial_factor(self.vae)
        shape = (rows, self.transformer.config.in_channels, size[0] // factor, size[1] // factor)
        device = self._execution_device
        if latents is None:
            if isinstance(generator, list) and len(generator) != rows:
                msg = f"{len(generator)} generators for {rows} pictures: pass one for all, or one each."
                raise ValueError(msg)
            return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        if latents.shape != shape:
            msg = f"latents have shape {tuple(latents.shape)}, but these pictures need {shape}."
            raise ValueError(msg)
        return latents.to(device, torch.float32)

    def _num_tokens(self, size: tuple[int, int]) -> int:
        multiple = self.sizes.multiple
        return (size[0] // multiple) * (size[1] // multiple)

    def _finish(self, latents: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return latents
        pixels = vae.decode(self.vae, latents)
        return VaeImageProcessor(vae_scale_factor=self.sizes.multiple).postprocess(pixels, output_type=output_type)

    def _check_request(
        self, output_type: str, original_size: bool, image: object, callback_tensors: Sequence[str]
    ) -> None:
        if output_type not in ("pil", "np", "pt", "latent"):
            msg = f"Unknown output_type {output_type!r}: use 'pil', 'np', 'pt' or 'latent'."
            raise ValueError(msg)
        if original_size and (image is None or output_type != "pil"):
            msg = "original_size resizes edited PIL pictures to the input's size: it needs image and output_type 'pil'."
            raise ValueError(msg)
        unknown = sorted(set(callback_tensors) - set(self._callback_tensor_inputs))
        if unknown:
            msg = f"Callbacks can't get {unknown}, only {self._callback_tensor_inputs}."
            raise ValueError(msg)


def _given(
    prompt: str | list[str] | None, embeds: Tensor | None, pooled: Tensor | None, what: str
) -> list[str] | Conditioning:
    """Return the prompts as a list, or the embeddings if they were given."""
    if (embeds is None) != (pooled is None):
        msg = f"The {what}'s embeddings come in pairs: pass both the sequence and the pooled one."
        raise ValueError(msg)
    if embeds is not None and pooled is not None:
        if prompt:
            msg = f"Pass the {what} as text or as embeddings, not both."
            raise ValueError(msg)
        return Conditioning(embeds, pooled)
    if prompt is None:
        msg = f"There is no {what}: pass it as text, or as embeddings."
        raise ValueError(msg)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        msg = f"The list of {what}s is empty."
        raise ValueError(msg)
    return prompts


def _match_rows(
    conditioning: Conditioning, negative: Conditioning | None, references: Tensor
) -> tuple[Conditioning, Conditioning | None, Tensor]:
    """Repeat one prompt for all pictures, or one picture for all prompts."""
    num_prompts, num_pictures = len(conditioning.prompt_embeds), len(references)
    if num_prompts == 1 and num_pictures > 1:
        conditioning = conditioning.repeat(num_pictures)
        negative = None if negative is None else negative.repeat(num_pictures)
    elif num_pictures == 1:
        references = references.expand(num_prompts, -1, -1, -1)
    return conditioning, negative, references


def _tensors(state: sampling.DenoisingState, names: Sequence[str]) -> dict[str, Tensor]:
    tensors = {
        "latents": state.latents,
        "prompt_embeds": state.conditioning.prompt_embeds,
        "pooled_prompt_embeds": state.conditioning.pooled_projections,
    }
    return {name: tensors[name] for name in names}


def _replace(state: sampling.DenoisingState, tensors: dict[str, Any]) -> sampling.DenoisingState:
    embeds, pooled = state.conditioning
    conditioning = Conditioning(tensors.get("prompt_embeds", embeds), tensors.get("pooled_prompt_embeds", pooled))
    return replace(state, latents=tensors.get("latents", state.latents), conditioning=conditioning)
