"""What does conditioning by a vision-language model cost beside denoising, and what does keeping it bring?

    python benchmarks/metaquery.py                      # the tiny sizes, one thread of a CPU; a few minutes
    python benchmarks/metaquery.py --preset sd35m       # Qwen2.5-VL-7B, 24-layer connector and 2B DiT; needs a GPU

Weights are random, since they decide nothing about time and memory, and are made where they are used, in the dtype in
which they are used. Conditioning is the VLM's hidden states at the queries and the connector behind it, of prompts and
negative prompts as a call needs them: the empty negative prompt once for all pictures, but once for each picture that
the VLM sees. Three questions. *Sampling*: seconds of each part of a batch, and conditioning over denoising. *Cache*:
seconds of a whole call whose prompts are all new, whose negative prompts are known, and that has been made before.
*Training*: a forward and a backward pass, through VLM and connector to the queries and through the DiT to all of its
weights.

All that is compared runs in turns, and a ratio is the median over the rounds of the ratio within a round. On a CPU the
time is the processor time of one thread, on a GPU the wall clock. Memory of activations is known on a GPU only: the
most that a part had allocated beside all weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from unipic2_connector import MetaQueryConditioner, StableDiffusion3Conditioner
from unipic2_dit import SD3Transformer2DKontextModel, sampling, vae
from unipic2_unified import Job, Request, UniPic2
from unipic2_unified.checkpoint import Parts
from unipic2_unified.encoders import MetaQueryEncoders
from unipic2_vlm import QueryEncoder, QwenVLBackbone
from unipic2_vlm.processor import QwenVLProcessor
from unipic2_vlm.small import SmallVlmConfig, write_small_vlm

PROMPT = "a red circle left of a blue square"
KINDS = ("t2i", "edit")
GIB = 2**30


@dataclass(frozen=True)
class Preset:
    """Sizes of all parts, and how they are used."""

    small_vlm: SmallVlmConfig
    """The VLM, or where a large one has its tokenizer and its patches from."""
    text: dict[str, Any]
    """What a large VLM's language model has otherwise."""
    vision: dict[str, Any]
    """Likewise its vision tower."""
    conditioner: dict[str, Any]
    transformer: dict[str, Any]
    vae: dict[str, Any]
    edge: int
    """Of the pictures, in px."""
    steps: int
    guidance: float
    batch: int
    """Pictures of a call, and rows of a training step."""


PRESETS = {
    # Recipes home/tiny, vlm/tiny and connector/tiny.
    "tiny": Preset(
        small_vlm=SmallVlmConfig(max_tokens=1024),
        text={},
        vision={},
        conditioner={
            "connector_config": {
                "hidden_size": 128,
                "intermediate_size": 512,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
            },
            "num_queries": 16,
            "llm_hidden_size": 128,
            "pooled_projection_dim": 64,
            "joint_attention_dim": 64,
            "vlm_positions": "mrope",
        },
        transformer={
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 6,
            "attention_head_dim": 32,
            "num_attention_heads": 4,
            "caption_projection_dim": 128,
            "joint_attention_dim": 64,
            "pooled_projection_dim": 64,
            "pos_embed_max_size": 16,
            "dual_attention_layers": (),
            "qk_norm": "rms_norm",
        },
        vae={"block_out_channels": (16, 32, 32), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 8},
        edge=32,
        steps=24,
        guidance=2.0,
        batch=8,
    ),
    # Qwen2.5-VL-7B-Instruct, the released conditioner, Stable Diffusion 3.5 Medium; sampled as the released scripts do.
    "sd35m": Preset(
        small_vlm=SmallVlmConfig(patch_size=14),
        text={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        conditioner={
            "connector_config": {
                "hidden_size": 1536,
                "intermediate_size": 8960,
                "num_hidden_layers": 24,
                "num_attention_heads": 24,
            }
        },
        transformer={
            "sample_size": 128,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
        vae={"block_out_channels": (128, 256, 512, 512), "latent_channels": 16, "layers_per_block": 2},
        edge=512,
        steps=50,
        guidance=3.5,
        batch=1,
    ),
}


@contextmanager
def making(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Have weights made where they are used, so that nothing is ever held twice or in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def make_parts(preset: Preset, device: torch.device, dtype: torch.dtype) -> Parts:
    """Make a MetaQuery model with random weights."""
    torch.manual_seed(0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    with making(device, dtype):
        transformer = SD3Transformer2DKontextModel(**preset.transformer).eval()
        layers = len(preset.vae["block_out_channels"])
        autoencoder = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * layers,
            up_block_types=("UpDecoderBlock2D",) * layers,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=1.5,
            shift_factor=0.06,
            **preset.vae,
        ).eval()
        conditioner = StableDiffusion3Conditioner(**preset.conditioner).eval()
    multiple = vae.spatial_factor(autoencoder) * transformer.config.patch_size
    encoder = make_vlm(preset, multiple, device, dtype)
    encoders = MetaQueryEncoders(MetaQueryConditioner(encoder, conditioner), encoder)
    return Parts("metaquery", transformer, autoencoder.requires_grad_(False), scheduler, encoders, reference="both")


def make_vlm(preset: Preset, multiple: int, device: torch.device, dtype: torch.dtype) -> QueryEncoder:
    """Make the VLM; of a large one, what needs no weights is a small one's."""
    with tempfile.TemporaryDirectory() as folder:
        write_small_vlm(Path(folder), PROMPT.split(), preset.small_vlm)
        processor = QwenVLProcessor.from_pretrained(folder)
        small = Qwen2_5_VLConfig.from_pretrained(folder)
    text, vision = small.text_config.to_dict(), small.vision_config.to_dict()
    text.pop("layer_types", None)  # one for each of the small one's layers
    config = Qwen2_5_VLConfig(
        text_config=text | preset.text,
        vision_config=vision | preset.vision,
        image_token_id=small.image_token_id,
        video_token_id=small.video_token_id,
        vision_start_token_id=small.vision_start_token_id,
        vision_end_token_id=small.vision_end_token_id,
        tie_word_embeddings=not preset.text,
    )
    with making(device, dtype):
        model = Qwen2_5_VLForConditionalGeneration(config)
    return QueryEncoder(QwenVLBackbone(model), processor, multiple)


class Meter:
    """Times calls and, on a GPU, looks at what they allocate."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peaks: dict[str, float] = {}

    def seconds(self, name: str, run: Callable[[], Any]) -> float:
        """Time a call: processor time on a CPU, wall clock on a GPU."""
        if self.device.type == "cpu":
            start = time.process_time()
            run()
            return time.process_time() - start
        torch.cuda.reset_peak_memory_stats(self.device)
        torch.cuda.synchronize(self.device)
        held, start = torch.cuda.memory_allocated(self.device), time.perf_counter()
        run()
        torch.cuda.synchronize(self.device)
        spent = time.perf_counter() - start
        self.peaks[name] = max(self.peaks.get(name, 0.0), torch.cuda.max_memory_allocated(self.device) - held)
        return spent

    def in_turns(self, runs: dict[str, Callable[[], Any]], rounds: int, of: str) -> dict[str, list[float]]:
        """Time all calls in turns, after one round to warm up."""
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 1):
            for name, run in runs.items():
                spent = self.seconds(f"{of}/{name}", run)
                if number:
                    times[name].append(spent)
        return times


def requests_of(kind: str, preset: Preset, prompts: list[str]) -> list[Request]:
    """Return requests for pictures of distinct prompts, and for edits distinct sources."""
    shape = (preset.edge, preset.edge, 3)
    made = []
    for number, prompt in enumerate(prompts):
        pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
        image = None if kind == "t2i" else Image.fromarray(pixels)
        size = (preset.edge, preset.edge)
        made.append(Request(prompt, image, "", size, preset.steps, preset.guidance, seed=number))
    return made


def prompts_of(preset: Preset, number: int = 0) -> list[str]:
    """Return distinct prompts of one length; another number gives others."""
    count = preset.batch
    return [" ".join([PROMPT, *f"{number * count + index:06d}"]) for index in range(count)]


def states_of(parts: Parts, jobs: list[Job], *, negative: bool) -> Callable[[], Tensor]:
    """Return the call that reads the prompts of jobs, and what guidance leads away from, as ``UniPic2`` does."""
    assert isinstance(parts.encoders, MetaQueryEncoders)
    encoders, shown = parts.encoders, [job.picture for job in jobs]
    config, edit = encoders.conditioner.conditioner.config, shown[0] is not None
    texts = [job.request.prompt for job in jobs]
    if negative:
        texts += [""] * (len(jobs) if edit else 1)
        shown += shown
    images = [picture for picture in shown if picture is not None] or None
    return lambda: encoders.vlm(
        texts,
        encoders.conditioner.conditioner.queries(),
        images=images,
        edit=edit,
        positions=config.vlm_positions,
        layers=tuple(config.vlm_layers),
    )


def sampling_times(model: UniPic2, kind: str, preset: Preset, meter: Meter, rounds: int) -> dict[str, Any]:
    """Measure the parts of a call."""
    parts = model.parts
    assert isinstance(parts.encoders, MetaQueryEncoders)
    connector = parts.encoders.conditioner.conditioner
    jobs = [model.prepare(request) for request in requests_of(kind, preset, prompts_of(preset))]
    read, state = states_of(parts, jobs, negative=True), model.start(jobs)
    with torch.no_grad():
        states = read()
        runs: dict[str, Callable[[], Any]] = {"vlm": read, "connector": lambda: connector(states)}
        if kind == "edit":
            pixels = torch.zeros(len(jobs), 3, preset.edge, preset.edge, device=model.device)
            runs["reference"] = lambda: vae.encode(parts.vae, pixels)
        runs |= {"step": lambda: model.step(state), "decode": lambda: model.decode(state.latents)}
        times = meter.in_turns(runs, rounds, kind)
    ratios = [
        (vlm + behind) / (preset.steps * step)
        for vlm, behind, step in zip(times["vlm"], times["connector"], times["step"], strict=True)
    ]
    return {
        "rows_read": len(states),
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "conditioning_over_denoising": statistics.median(ratios),
    }


def cache_times(parts: Parts, kind: str, preset: Preset, meter: Meter, rounds: int) -> dict[str, Any]:
    """Measure whole calls with what they need in the cache, in part, or not at all."""
    never, always = UniPic2(parts, cache_bytes=0), UniPic2(parts)
    same, numbers = requests_of(kind, preset, prompts_of(preset)), itertools.count(1)
    always.run(same)
    runs: dict[str, Callable[[], Any]] = {
        "nothing known": lambda: never.run(same),
        "negative known": lambda: always.run(requests_of(kind, preset, prompts_of(preset, next(numbers)))),
        "all known": lambda: always.run(same),
    }
    times = meter.in_turns(runs, rounds, f"call {kind}")
    gains = [before / after for before, after in zip(times["nothing known"], times["all known"], strict=True)]
    info = always.prompts.info()
    return {
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "gain": statistics.median(gains),
        "bytes_a_prompt": info.bytes // info.rows,
    }


def training_times(model: UniPic2, kind: str, preset: Preset, meter: Meter, rounds: int) -> dict[str, Any]:
    """Measure a forward and a backward pass of conditioning and of the DiT, without negative prompts."""
    parts = model.parts
    assert isinstance(parts.encoders, MetaQueryEncoders)
    connector = parts.encoders.conditioner.conditioner
    jobs = [model.prepare(request) for request in requests_of(kind, preset, prompts_of(preset))]
    read = states_of(parts, jobs, negative=False)
    state = replace(model.start(jobs), guidance=torch.ones(len(jobs)), negative=None)

    def conditioning() -> None:
        sum(part.float().square().mean() for part in connector(read())).backward()
        connector.zero_grad(set_to_none=True)

    def transformer() -> None:
        sampling.velocity(parts.transformer, state).square().mean().backward()
        parts.transformer.zero_grad(set_to_none=True)

    times = meter.in_turns({"conditioning": conditioning, "transformer": transformer}, rounds, f"training {kind}")
    ratios = [one / other for one, other in zip(times["conditioning"], times["transformer"], strict=True)]
    return {
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "conditioning_over_transformer": statistics.median(ratios),
    }


def weights_of(parts: Parts) -> dict[str, dict[str, float]]:
    """Return parameters and GiB of each model."""
    assert isinstance(parts.encoders, MetaQueryEncoders)
    models: dict[str, nn.Module] = {"transformer": parts.transformer, "vae": parts.vae, **parts.encoders.modules()}
    found = {}
    for name, model in models.items():
        values = list(model.parameters())
        found[name] = {
            "parameters": sum(value.numel() for value in values),
            "gib": sum(value.nbytes for value in values) / GIB,
        }
    return found


def tables(result: dict[str, Any]) -> str:
    """Return what was measured as Markdown."""
    preset, peaks = result["preset"], result["peak_gib"]
    lines = [
        "# Conditioning by a VLM beside denoising\n",
        f"`{result['command']}`, {result['date']}, {result['device']}, {result['dtype']}, torch {result['torch']}, "
        f"{result['rounds']} rounds, seed 0. Preset `{preset}` with random weights: {result['edge']} px, "
        f"{result['steps']} steps, guidance {result['guidance']:g}, {result['batch']} pictures a call. "
        f"{'Wall clock' if peaks else 'Processor time of one thread'}; each number is the median of its rounds.\n",
        "| weights | parameters | GiB |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {row['parameters']:,} | {row['gib']:.3f} |" for name, row in result["weights"].items()]

    def shown(name: str, seconds: float) -> str:
        peak = f" ({peaks[name]:.2f} GiB)" if name in peaks else ""
        return f"{1e3 * seconds:.2f}{peak}"

    parts = ("vlm", "connector", "reference", "step", "decode")
    lines += [
        "\n| sampling, ms | rows read | VLM | connector | reference | one step | decode | conditioning / steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, row in result["sampling"].items():
        cells = [shown(f"{kind}/{part}", row["seconds"][part]) if part in row["seconds"] else "" for part in parts]
        cells = [str(row["rows_read"]), *cells, f"{row['conditioning_over_denoising']:.3f}"]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines += [
        "\n| a whole call, ms | nothing known | negative prompts known | all known | gain | bytes a prompt |",
        "|---|---|---|---|---|---|",
    ]
    for kind, row in result["cache"].items():
        cells = [f"{1e3 * value:.1f}" for value in row["seconds"].values()]
        lines.append(f"| {kind} | {' | '.join(cells)} | {row['gain']:.3f} | {row['bytes_a_prompt']:,} |")
    lines += ["\n| training, forward and backward, ms | conditioning | DiT | ratio |", "|---|---|---|---|"]
    for kind, row in result["training"].items():
        cells = [shown(f"training {kind}/{part}", value) for part, value in row["seconds"].items()]
        lines.append(f"| {kind} | {' | '.join(cells)} | {row['conditioning_over_transformer']:.3f} |")
    if peaks:
        lines.append("\nIn brackets: the most that was allocated beside the weights of all parts.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print tables, write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--rounds", type=int, default=9, help="how often each side runs")
    parser.add_argument("--batch", type=int, help="pictures of a call; by default 8 (tiny) or 1 (sd35m)")
    parser.add_argument("--steps", type=int, help="denoising steps; by default 24 (tiny) or 50 (sd35m)")
    parser.add_argument("--out", type=Path, help="JSON file; the Markdown goes beside it")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.preset == "sd35m" and device.type == "cpu":
        parser.error("--preset sd35m has 11 billion parameters and is measured on a GPU, and there is none here")
    if device.type == "cpu":
        torch.set_num_threads(1)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    changes = {name: value for name in ("batch", "steps") if (value := getattr(args, name)) is not None}
    preset = replace(PRESETS[args.preset], **changes)
    parts, meter = make_parts(preset, device, dtype), Meter(device)
    model = UniPic2(parts)
    result: dict[str, Any] = {
        "question": "time and memory of conditioning by VLM and connector against denoising, and what a cache brings",
        "preset": args.preset,
        "edge": preset.edge,
        "steps": preset.steps,
        "guidance": preset.guidance,
        "batch": preset.batch,
        "weights": weights_of(parts),
    }
    measures = (("sampling", sampling_times, model), ("cache", cache_times, parts), ("training", training_times, model))
    for name, measure, subject in measures:
        result[name] = {kind: measure(subject, kind, preset, meter, args.rounds) for kind in KINDS}
    result |= {
        "peak_gib": {name: value / GIB for name, value in meter.peaks.items()},
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", "benchmarks/metaquery.py", *sys.argv[1:]]),
        "seed": 0,
        "rounds": args.rounds,
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU, one thread",
    }
    text = tables(result)
    print(text)
    suffix = "" if args.preset == "tiny" else f"-{args.preset}"
    out = args.out or Path(__file__).parents[1] / "docs" / "results" / f"metaquery-speed{suffix}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
