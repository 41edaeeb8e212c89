"""UniPic2 as one model: ``generate``, ``edit`` and ``ask``, whatever kind of checkpoint it is from."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import torch
from PIL import Image

from unipic2_dit.pictures import restore_sizes, upright_rgb
from unipic2_dit.quantization import Quantization
from unipic2_unified.checkpoint import Lora, VlmSource, load_parts, part_hashes
from unipic2_unified.engine import Engine, StepCallback, tagged
from unipic2_unified.errors import RequestError, refusals
from unipic2_unified.info import part_facts, total_hash
from unipic2_unified.prompts import CACHE_BYTES, check_offload
from unipic2_unified.requests import Size, build_requests
from unipic2_vlm.processor import Turn
from unipic2_vlm.understanding import Answer, Decoding

__all__ = ["UniPic2"]

Pictures = Image.Image | Sequence[Image.Image]


class UniPic2(Engine):
    """A model that makes pictures, edits them and, with a VLM, answers questions about them.

    Args:
        parts: What it is made of.
        offload: What reads prompts waits on the CPU and is on the model's device only while it works.
        cache_bytes: The most memory that encoded prompts are kept in.
    """

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        vlm: str | Path | None = None,
        vlm_revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        text_encoders: bool = True,
        use_t5: bool = True,
        lora: str | Path | Sequence[Lora] = (),
        quantization: Quantization | None = None,
        encoder_quantization: Quantization | None = None,
        offload: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> UniPic2:
        """Load a checkpoint, strictly.

        Args:
            source: Folder in the official layout, or a hub id. Its kind is read from it.
            revision: Revision of a hub id.
            vlm: Folder or hub id of the VLM of a MetaQuery checkpoint; by default ``vlm/`` inside the checkpoint.
            vlm_revision: Revision of that hub id.
            dtype: Dtype of all models; by default bfloat16 on a GPU and float32 on a CPU.
            device: Where they go; by default a GPU if there is one.
            text_encoders: Load what reads prompts, text encoders or VLM and connector; without it ``start`` takes
                embeddings.
            use_t5: Load T5, if the folder has it. It is the largest encoder by far.
            lora: LoRA adapter of the transformer, or several, which add up: a file or folder, or (file or folder,
                weight).
            quantization: Keep the transformer's matrices in 8 bits (``"int8"``) or 4 (``"nf4"``); ``dtype`` is then
                that of the rest, and of all computation.
            encoder_quantization: The same for what reads prompts and is large: the VLM, or T5.
            offload: What reads prompts waits on the CPU and is on the GPU only while it works.
            cache_bytes: The most memory that encoded prompts are kept in.

        Raises:
            CheckpointError: If a part is missing, damaged, or does not fit the others, or can't be quantised here.
            RequestError: If encoders should be off-loaded from a CPU to itself, or are in 4 bits.
        """
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if offload:
            check_offload(where)
        if offload and encoder_quantization == "nf4":
            msg = "offload does not move encoders in nf4: keep them in int8, or leave offload out."
            raise RequestError(msg)
        parts = load_parts(
            source,
            revision=revision,
            vlm=VlmSource(vlm, vlm_revision),
            dtype=dtype or (torch.bfloat16 if where.type == "cuda" else torch.float32),
            device=where,
            encoder_device="cpu" if offload else where,
            text_encoders=text_encoders,
            use_t5=use_t5,
            lora=[lora] if isinstance(lora, str | Path) else lora,
            quantization=quantization,
            encoder_quantization=encoder_quantization,
        )
        return cls(parts, offload=offload, cache_bytes=cache_bytes)

    def info(self) -> dict[str, Any]:
        """Return facts for people and for files beside pictures; all values are plain JSON.

        ``hash`` names the weights: it is that of all files that were loaded, and of how much each adapter counts. The
        first call reads them, which takes some seconds for large ones. A model that was not loaded from files has none.
        """
        facts = part_facts(self.parts)
        for name, value in self._hashes.items():
            facts.setdefault(name, {})["sha256"] = value
        return {
            "variant": self.variant,
            "can": sorted(self.can),
            "reference": self.reference,
            "parameters": sum(part.get("parameters", 0) for part in facts.values()),
            "bytes": sum(part.get("bytes", 0) for part in facts.values()),
            "shift": float(self.parts.scheduler.config.shift),
            "sizes": {
                "multiple": self.sizes.multiple,
                "max_edge": self.sizes.max_edge,
                "default": list(self.sizes.default),
            },
            "parts": facts,
            "hash": total_hash(self._hashes) if self._hashes else None,
        }

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        negative_prompts: str | Sequence[str] | None = None,
        images_per_prompt: int = 1,
        size: Size = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | Sequence[int] | None = None,
        on_step: StepCallback | None = None,
    ) -> list[Image.Image]:
        """Make pictures from prompts.

        Args:
            prompts: One or several.
            negative_prompts: What to lead away from: one for all or one each; by default the empty prompt.
            images_per_prompt: Pictures of each prompt.
            size: One edge in px (a square) or (height, width); by default the checkpoint's own.
            steps: Denoising steps, by default 50.
            guidance: Scale of classifier-free guidance, by default 3.5; 1 or less turns it off.
            seed: Picture k of the call is made from seed + k; or one seed a picture; by default fresh ones.
            on_step: Called with the state after each step; ``preview`` makes pictures of it.

        Returns:
            The pictures, prompt by prompt. ``picture.info["seed"]`` makes it again, alone or among others.

        Raises:
            NotCapableError: If the prompts can't be read, because there are no encoders.
            ValueError: If the inputs contradict each other or the checkpoint; the message says how to mend it.
        """
        requests = build_requests(
            prompts,
            [None],
            negative_prompts=negative_prompts,
            images_per_prompt=images_per_prompt,
            size=size,
            steps=steps,
            guidance=guidance,
            seed=seed,
        )
        return self.run(requests, on_step=on_step)

    def edit(
        self,
        images: Pictures,
        instructions: str | Sequence[str],
        *,
        negative_prompts: str | Sequence[str] | None = None,
        images_per_prompt: int = 1,
        size: Size = None,
        original_size: bool = False,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | Sequence[int] | None = None,
        on_step: StepCallback | None = None,
    ) -> list[Image.Image]:
        """Edit pictures by instructions.

        Args:
            images: One or several, of any sizes and modes (transparency becomes white).
            instructions: One for all pictures or one each; one picture may have several.
            negative_prompts: What to lead away from: one for all or one each; by default the empty prompt.
            images_per_prompt: Results of each instruction.
            size: One edge in px (the longer one, aspect ratio kept) or (height, width); by default the picture's own,
                rounded to what the checkpoint can make. Nothing is ever cropped.
            original_size: Resize results to exactly their pictures' own sizes.
            steps: Denoising steps, by default 50.
            guidance: Scale of classifier-free guidance, by default 3.5; 1 or less turns it off.
            seed: Result k of the call is made from seed + k; or one seed a result; by default fresh ones.
            on_step: Called with the state after each step; ``preview`` makes pictures of it. Pictures of different
                sizes are states of their own.

        Returns:
            The results, instruction by instruction. ``picture.info["seed"]`` makes it again, alone or among others.

        Raises:
            NotCapableError: If the checkpoint does not edit, or the instructions can't be read.
            ValueError: If the inputs contradict each other or the checkpoint; the message says how to mend it.
        """
        self.check_capable("edit")
        requests = build_requests(
            instructions,
            [images] if isinstance(images, Image.Image) else list(images),
            negative_prompts=negative_prompts,
            images_per_prompt=images_per_prompt,
            size=size,
            steps=steps,
            guidance=guidance,
            seed=seed,
        )
        results = self.run(requests, on_step=on_step)
        if not original_size:
            return results
        originals = [upright_rgb(request.image) for request in requests if request.image is not None]
        return [
            tagged(restore_sizes([result], [original])[0], request)
            for result, original, request in zip(results, originals, requests, strict=True)
        ]

    @overload
    def ask(
        self,
        images: Pictures | None,
        question: str,
        *,
        history: Sequence[Turn] = ...,
        max_new_tokens: int = ...,
        stream: Literal[False] = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int = ...,
    ) -> str: ...

    @overload
    def ask(
        self,
        images: Pictures | None,
        question: str,
        *,
        history: Sequence[Turn] = ...,
        max_new_tokens: int = ...,
        stream: Literal[True],
        temperature: float = ...,
        top_p: float = ...,
        seed: int = ...,
    ) -> Answer: ...

    def ask(
        self,
        images: Pictures | None,
        question: str,
        *,
        history: Sequence[Turn] = (),
        max_new_tokens: int = 128,
        stream: bool = False,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str | Answer:
        """Answer a question, about pictures or not.

        Args:
            images: None, one or several; the question is about all of them.
            question: The question.
            history: Turns before it, with pictures of their own.
            max_new_tokens: The longest answer.
            stream: Return an iterator over pieces of the answer, as they come; closing it ends the work. Its ``usage``
                counts tokens.
            temperature: 0 takes the likeliest token each time; more is more varied.
            top_p: Sample among the likeliest tokens that together have this probability.
            seed: Of the sampling.

        Raises:
            NotCapableError: If the checkpoint has no VLM.
            RequestError: If a number is out of its range, or question and answer are longer than the VLM reads.
        """
        vlm = self.understanding
        pictures = [] if images is None else [images] if isinstance(images, Image.Image) else list(images)
        turns = [
            turn._replace(images=[upright_rgb(picture) for picture in turn.images])
            for turn in (*history, Turn("user", question, pictures))
        ]
        with self.prompts.awake(), refusals():
            decoding = Decoding(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
            if not stream:
                return vlm.ask_turns([turns], decoding)[0]
            answer = vlm.stream_turns(turns, decoding)
        return Answer(self._while_awake(answer), answer.usage)

    def drop_text_encoders(self) -> None:
        """Let go of what reads prompts, text encoders or VLM and connector, and of its memory.

        Prompts that were encoded before still work; new ones, and questions, are an error.
        """
        self.prompts.drop()
        self.parts.encoders = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return part_hashes(self.parts.sources, self.parts.lora_weights)

    def _while_awake(self, pieces: Iterator[str]) -> Generator[str]:
        with self.prompts.awake():
            yield from pieces
