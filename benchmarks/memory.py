"""How much memory does each recipe of serving take, what does it cost, and what does it change?

    python benchmarks/memory.py                     # memory, and pictures of `make demo`'s model; some minutes
    python benchmarks/memory.py --timing 5          # and seconds a step, over 5 rounds; on a quiet machine
    python benchmarks/memory.py --pictures DIR      # pictures of another trained checkpoint

*Memory*: a Kontext checkpoint of middling size (245 million parameters of the DiT, 102 of T5, random weights) is loaded
by the options of `unipic2 serve` and makes one picture, each recipe in a process of its own. ``weights`` is what the
process says of itself; ``loading`` and ``making`` are the highest use of memory beyond that of the imports: on the CPU
of the process, pages of mapped files included (float32 is read when it is used first), on a GPU of its allocator. Rows
without a dtype have that of `--dtype auto`: bfloat16 on a GPU, else float32. *Cost*: a denoising step of that
checkpoint, as the median over the rounds of the ratio to float32; on the CPU processor time of one thread, on a GPU the
wall clock. CPUs without bfloat16 instructions take minutes for a step in bfloat16, and only load it.
*Pictures*: how far those of a trained checkpoint are from its float32 ones of the same seeds, in levels of 255, beside
how far those of other seeds are. *Released*: what the weights of the released sizes take, counted on the meta device by
an arithmetic that is checked against what the processes said.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SIZE = 512  # of the picture that is measured, in px
EACH = 3  # pictures of each prompt that are compared
PROMPTS = ["a red circle", "a blue square", "a green triangle and a red square", "two yellow circles"]
RECIPES: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8", "encoder_quantization": "int8"},
    "nf4": {"quantization": "nf4", "encoder_quantization": "nf4"},
    "nf4, no T5": {"quantization": "nf4", "t5": False},
    "nf4, no T5, tiling": {"quantization": "nf4", "t5": False, "tiling": True},
}
DIT = {
    "sample_size": 32,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 6,
    "attention_head_dim": 64,
    "num_attention_heads": 16,
    "joint_attention_dim": 1024,
    "caption_projection_dim": 1024,
    "pooled_projection_dim": 64,
    "pos_embed_max_size": 64,
    "dual_attention_layers": (0, 1, 2),
    "qk_norm": "rms_norm",
}
RELEASED_DIT = {
    **DIT,
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
}
T5 = {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 8, "num_heads": 16, "feed_forward_proj": "gated-gelu"}
RELEASED_T5 = {**T5, "d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128}


def write_checkpoint(folder: Path) -> None:
    """Write a complete Kontext checkpoint with random weights."""
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        T5Config,
        T5EncoderModel,
        T5Tokenizer,
    )

    from unipic2_dit import SD3Transformer2DKontextModel

    torch.manual_seed(0)
    SD3Transformer2DKontextModel(**DIT).save_pretrained(folder / "transformer")
    channels = (64, 128, 256, 256)
    AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=2,
        latent_channels=16,
        sample_size=SIZE // 2,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    for number in ("", "_2"):
        tokenizer = CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])
        tokenizer.model_max_length = 77
        tokenizer.save_pretrained(folder / f"tokenizer{number}")
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            projection_dim=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        CLIPTextModelWithProjection(config).save_pretrained(folder / f"text_encoder{number}")
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    words = T5Tokenizer(vocab=[(piece, -float(index)) for index, piece in enumerate(pieces)], extra_ids=0)
    words.save_pretrained(folder / "tokenizer_3")
    T5EncoderModel(T5Config(vocab_size=len(words), **T5)).save_pretrained(folder / "text_encoder_3")


class Meter:
    """The highest use of memory since ``start``, beyond what was used when it was made; in bytes."""

    def __init__(self) -> None:
        import torch

        self.on_gpu = torch.cuda.is_available()
        self.start()
        self.base = self.peak()

    def start(self) -> None:
        """Forget the highest use so far."""
        import torch

        gc.collect()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """Return the highest use."""
        import torch

        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    def beyond(self) -> int:
        """Return the highest use beyond the first one."""
        return self.peak() - self.base


def measure(recipe: str, folder: str, steps: int) -> dict[str, Any]:
    """Load a recipe, make a picture, time some steps; runs in a process of its own."""
    import torch

    from unipic2_apps.loading import load
    from unipic2_apps.options import ModelOptions
    from unipic2_unified import Request

    torch.set_num_threads(1)
    import peft  # noqa: F401 - which loading imports

    meter = Meter()
    model = load(ModelOptions(checkpoint=folder, **RECIPES[recipe]))
    found: dict[str, Any] = {"loading": meter.beyond()}
    parts = model.info()["parts"]
    found["weights"] = {name: part["bytes"] for name, part in parts.items() if "bytes" in part}
    if RECIPES[recipe].get("dtype") == "bfloat16" and not has_bfloat16():
        return {**found, "making": None, "step_s": None}
    meter.start()
    request = Request(PROMPTS[0], size=SIZE, steps=1, guidance=1.0, seed=0)
    model.run([request])
    found["making"] = meter.beyond()
    state = model.start([model.prepare(Request(PROMPTS[0], size=SIZE, steps=steps + 1, guidance=1.0, seed=0))])
    times = []
    for _ in range(steps):
        begin = time.perf_counter() if meter.on_gpu else time.process_time()
        state = model.step(state)
        if meter.on_gpu:
            torch.cuda.synchronize()
        times.append((time.perf_counter() if meter.on_gpu else time.process_time()) - begin)
    found["step_s"] = statistics.median(times) if times else None
    return found


def has_bfloat16() -> bool:
    """Tell whether there is a GPU, or a CPU that computes in bfloat16."""
    import torch

    return torch.cuda.is_available() or "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def in_process(*arguments: str) -> dict[str, Any]:
    """Run this script in a process of its own and return what it printed."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"error: {' '.join(command)} failed:\n{done.stderr[-2000:]}"
        raise SystemExit(msg)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def differences(checkpoint: str) -> dict[str, dict[str, float]]:
    """Compare pictures of a trained checkpoint with its float32 ones of the same seeds."""
    import numpy as np

    from unipic2_apps.loading import load
    from unipic2_apps.options import ModelOptions

    def pictures(recipe: str, seed: int = 0) -> Any:
        model = load(ModelOptions(checkpoint=checkpoint, **RECIPES[recipe]))
        made = model.generate(PROMPTS, images_per_prompt=EACH, steps=20, guidance=3.5, seed=seed)
        return np.stack([np.asarray(each).astype(float) for each in made])

    exact = pictures("float32")
    rows = {"float32, other seeds": pictures("float32", seed=1000)}
    rows |= {name: pictures(name) for name in RECIPES if name != "float32" and "tiling" not in name}
    found = {}
    for name, made in rows.items():
        wrong = np.abs(made - exact)
        psnr = 10 * np.log10(255**2 / np.maximum(((made - exact) ** 2).mean(axis=(1, 2, 3)), 1e-9))
        found[name] = {
            "mean_levels": round(float(wrong.mean()), 2),
            "pixels_off_by_more_than_16": round(float((wrong.max(axis=-1) > 16).mean()), 4),
            "median_psnr_db": round(float(np.median(psnr)), 1),
        }
    return found


def counted(model: Any, blocks: str, dtype_bytes: int, quantization: str | None, whole: tuple[str, ...] = ()) -> float:
    """Return the bytes of a model on the meta device under a recipe.

    Args:
        model: The model.
        blocks: Name of the module whose linear layers are quantised.
        dtype_bytes: Of a number that is kept whole.
        quantization: How matrices are kept.
        whole: Ends of names of linear layers inside that are never quantised.
    """
    from torch import nn

    total = 0.0
    for name, module in model.named_modules():
        for key, each in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            chosen = isinstance(module, nn.Linear) and key == "weight" and name.startswith(blocks)
            if not chosen or quantization is None or name.endswith(whole or "-"):
                total += each.numel() * dtype_bytes
            elif quantization == "int8":  # a float and a zero each row
                total += each.numel() + 5 * each.shape[0]
            else:  # four bits each number, eight each 64 for the scale, and a scale of 256 of those
                total += each.numel() * (1 / 2 + 1 / 64 + 1 / 4096) + 1200
    return total


def released() -> dict[str, dict[str, float]]:
    """Return the gigabytes of the released sizes under each recipe, by part."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, T5Config, T5EncoderModel

    from unipic2_dit import SD3Transformer2DKontextModel

    text = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    }
    with torch.device("meta"):
        dit = SD3Transformer2DKontextModel(**RELEASED_DIT)
        t5 = T5EncoderModel(T5Config(**RELEASED_T5))
        config = Qwen2_5_VLConfig(text_config=text, vision_config={"out_hidden_size": 3584, "hidden_size": 1280})
        vlm = Qwen2_5_VLForConditionalGeneration(config)
    found = {}
    for name, size, kind in (
        ("float32", 4, None),
        ("bfloat16", 2, None),
        ("bfloat16, int8", 2, "int8"),
        ("bfloat16, nf4", 2, "nf4"),
    ):
        rows = {
            "DiT": counted(dit, "transformer_blocks", size, kind),
            "T5-XXL": counted(t5, "encoder.block", size, kind),
            "Qwen2.5-VL-7B": counted(vlm, "model.", size, kind),
        }
        found[name] = {part: round(each / 1e9, 2) for part, each in rows.items()}
    return found


def check_arithmetic(measured: Mapping[str, Any]) -> None:
    """Make sure that what is counted on the meta device is what processes said of themselves, within two percent."""
    import torch

    from unipic2_dit import SD3Transformer2DKontextModel

    with torch.device("meta"):
        model = SD3Transformer2DKontextModel(**DIT)
    for name, recipe in RECIPES.items():
        auto = "bfloat16" if torch.cuda.is_available() else "float32"
        size = 4 if recipe.get("dtype", auto) == "float32" else 2
        expected = counted(model, "transformer_blocks", size, recipe.get("quantization"))
        found = measured[name]["weights"]["transformer"]
        if abs(found / expected - 1) > 0.02:
            msg = f"error: {name}: the transformer takes {found} bytes, counted are {expected:.0f}."
            raise SystemExit(msg)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(result: Mapping[str, Any]) -> str:
    """Return all tables in Markdown."""
    shown = [
        [name]
        + [f"{row[key] / 1e6:.0f}" if row[key] else "-" for key in ("total", "loading", "making")]
        + ([f"{row['ratio']:.2f}" if row["ratio"] else "-"] if "ratio" in row else [])
        for name, row in result["memory"].items()
    ]
    head = ["recipe", "weights, MB", "loading, MB", "making, MB"] + (["step, of float32"] if result["rounds"] else [])
    parts = [table(head, shown)]
    if result["pictures"]:
        keys = list(next(iter(result["pictures"].values())))
        rows = [[name, *(str(row[key]) for key in keys)] for name, row in result["pictures"].items()]
        parts.append(table(["pictures", *(key.replace("_", " ") for key in keys)], rows))
    names = list(next(iter(result["released"].values())))
    rows = [[name, *(f"{row[key]:.2f}" for key in names)] for name, row in result["released"].items()]
    parts.append(table(["released sizes, GB", *names], rows))
    return "\n\n".join(parts)


def write(result: Mapping[str, Any], folder: Path) -> None:
    """Print the tables, and write them beside the numbers."""
    text = report(result)
    about = (
        f"{result['date']}, {result['machine']} (load average {result['load_average']:.1f}), torch {result['torch']}, "
        f"seed 0, `{result['command']}`."
    )
    title = (__doc__ or "").strip().split("\n\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    whole = "\n\n".join(["# Memory recipes", title[0], *title[2:], about, text])
    (folder / "memory.md").write_text(whole + "\n", encoding="utf-8")
    print(text)
    print(folder / "memory.md")


def main() -> None:
    """Measure, print tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timing", type=int, default=0, metavar="ROUNDS", help="time steps too, in so many rounds")
    parser.add_argument("--pictures", help="a trained checkpoint, by default the model of `make demo` if it is there")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "results")
    parser.add_argument("--recipe", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.recipe:
        print(json.dumps(measure(args.recipe, args.folder, args.steps)))
        return

    from unipic2_apps.loading import default_checkpoint

    trained = args.pictures or (str(default_checkpoint()) if default_checkpoint().is_dir() else None)
    memory: dict[str, Any] = {}
    times: dict[str, list[Any]] = {name: [] for name in RECIPES}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        for turn in range(max(1, args.timing)):
            for name in RECIPES:
                steps = str(3 if args.timing else 0)
                found = in_process("--recipe", name, "--folder", folder, "--steps", steps)
                times[name].append(found.pop("step_s"))
                if turn == 0:
                    memory[name] = {"total": sum(found["weights"].values()), **found}
                    print(f"{name:<30} {memory[name]['total'] / 1e6:>6.0f} MB", file=sys.stderr, flush=True)
    check_arithmetic(memory)
    if args.timing:
        for name, row in memory.items():
            pairs = list(zip(times[name], times["float32"], strict=True))
            timed = all(mine for mine, _ in pairs)
            row["ratio"] = round(statistics.median(mine / exact for mine, exact in pairs), 3) if timed else None
    import torch

    result = {
        "question": "what each memory recipe takes, costs and changes",
        "memory": memory,
        "rounds": args.timing,
        "pictures": differences(trained) if trained else {},
        "released": released(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", "benchmarks/memory.py", *sys.argv[1:]]),
        "seed": 0,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"),
        "load_average": os.getloadavg()[0],
    }
    write(result, args.out)


if __name__ == "__main__":
    main()
