"""Is our Kontext DiT as fast as diffusers' SD3Transformer2DModel with the same weights and the same number of tokens?

    python benchmarks/dit_forward.py                  # CPU, and the GPU if there is one; a few minutes
    python benchmarks/dit_forward.py --rounds 5       # quicker, noisier

Both networks run in turns, so that whatever else the machine does hits both. A row gives the median times; ``ratio`` is
the median over the rounds of diffusers' time divided by ours (above 1: ours is faster). On the CPU the time is the
processor time of one thread, which is what an idle core would take; on a GPU it is the wall clock. ``peak`` is the
share of the machine's own rate of matrix products, measured just before in the same dtype. ``edit`` rows give ours a
reference of as many tokens as the target and diffusers a picture of the two together: the same tokens, but ours skips
what the last block's reference tokens don't need.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from diffusers.utils import logging
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unipic2_dit import SD3Transformer2DKontextModel

GATE = 0.97
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 128, "head": 32, "layers": 6, "batch": 64, "latent": 8, "channels": 8, "text": 32},
    "base": {"width": 512, "head": 64, "layers": 8, "batch": 2, "latent": 16, "channels": 16, "text": 64},
    "sd35m": {"width": 1536, "head": 64, "layers": 24, "batch": 4, "latent": 64, "channels": 16, "text": 333},
}


def config_of(size: dict[str, int]) -> dict[str, Any]:
    """Config of a network of one of the sizes; half of the layers have dual attention, as in SD3.5-Medium."""
    return {
        "sample_size": size["latent"],
        "in_channels": size["channels"],
        "out_channels": size["channels"],
        "num_layers": size["layers"],
        "attention_head_dim": size["head"],
        "num_attention_heads": size["width"] // size["head"],
        "joint_attention_dim": size["width"],
        "caption_projection_dim": size["width"],
        "pooled_projection_dim": size["width"],
        "pos_embed_max_size": 2 * size["latent"],
        "dual_attention_layers": tuple(range(size["layers"] // 2 + 1)) if size["layers"] > 6 else (),
        "qk_norm": "rms_norm",
    }


def inputs_of(
    size: dict[str, int], kind: str, device: str, dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs of ours and of diffusers, with the same number of tokens."""
    batch, edge, channels, width = size["batch"], size["latent"], size["channels"], size["width"]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    shared = {
        "encoder_hidden_states": normal(batch, size["text"], width),
        "pooled_projections": normal(batch, width),
        "timestep": torch.rand(batch, device=device) * 1000,
        "return_dict": False,
    }
    target = normal(batch, channels, edge, edge)
    if kind == "t2i":
        return {**shared, "hidden_states": target}, {**shared, "hidden_states": target}
    reference = normal(batch, channels, edge, edge)
    both = torch.cat((reference, target), dim=2)
    return {**shared, "hidden_states": target, "ref_hidden_states": reference}, {**shared, "hidden_states": both}


def step(network: nn.Module, inputs: dict[str, Any], train: bool) -> None:
    """Run a forward pass, or a forward and a backward pass."""
    if not train:
        with torch.no_grad():
            network(**inputs)
        return
    network(**inputs)[0].float().square().mean().backward()
    network.zero_grad(set_to_none=True)


def seconds(run: Callable[[], None], device: str) -> float:
    """Time one call: processor time on the CPU, wall clock on a GPU."""
    if device == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """Best rate of a linear layer without bias over a few sizes, in FLOP/s."""
    rates = []
    for edge in (2048, 4096, 8192) if device == "cuda" else (256, 512, 1024):
        a, b = torch.randn(2, edge, edge, device=device).to(dtype)
        rates.append(2 * edge**3 / min(seconds(lambda a=a, b=b: F.linear(a, b), device) for _ in range(8)))
    return max(rates)


def measure(
    name: str, kind: str, train: bool, device: str, dtype: torch.dtype, peak: float, rounds: int
) -> dict[str, Any]:
    """Compare both networks in one setting."""
    size = SIZES[name]
    torch.manual_seed(0)
    ours = SD3Transformer2DKontextModel(**config_of(size)).to(device, dtype)
    theirs = SD3Transformer2DModel(**config_of(size)).to(device, dtype)
    theirs.load_state_dict(ours.state_dict())
    our_inputs, their_inputs = inputs_of(size, kind, device, dtype)
    with FlopCounterMode(display=False) as counter:
        step(ours, our_inputs, train)
    step(theirs, their_inputs, train)
    times: tuple[list[float], list[float]] = ([], [])
    pairs = ((0, ours, our_inputs), (1, theirs, their_inputs))
    for index in range(rounds):
        for which, network, inputs in pairs if index % 2 else pairs[::-1]:
            times[which].append(seconds(lambda n=network, i=inputs: step(n, i, train), device))
    our_time, their_time = (statistics.median(each) for each in times)
    image_tokens = (size["latent"] // 2) ** 2 * (2 if kind == "edit" else 1)
    return {
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "size": name,
        "kind": kind,
        "pass": "train" if train else "forward",
        "batch": size["batch"],
        "tokens_per_row": image_tokens + size["text"],
        "ours_ms": round(our_time * 1e3, 2),
        "diffusers_ms": round(their_time * 1e3, 2),
        "ratio": round(statistics.median(b / a for a, b in zip(*times, strict=True)), 3),
        "ours_tokens_per_s": round(size["batch"] * (image_tokens + size["text"]) / our_time),
        "share_of_matmul_peak": round(counter.get_total_flops() / our_time / peak, 3),
    }


def processor() -> str:
    """Name of the CPU and what matters of its instruction set."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    text = info.read_text(encoding="utf-8")
    model = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "CPU")
    found = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in text]
    return f"{model} ({', '.join(found)})"


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often each network runs in each setting")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "results" / "dit_forward.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()

    settings = [("cpu", torch.float32, ("tiny", "base")), ("cpu", torch.bfloat16, ("tiny",))]
    if torch.cuda.is_available():
        settings += [("cuda", torch.bfloat16, ("tiny", "base", "sd35m"))]
    rows, peaks = [], {}
    print(f"{'device dtype':<15} {'size':<6} {'kind':<5} {'pass':<8} {'ours ms':>9} {'diffusers':>9} {'ratio':>6} "
          f"{'tokens/s':>9} {'peak':>6}")  # fmt: skip
    for device, dtype, names in settings:
        peak = matmul_peak(device, dtype)
        peaks[f"{device} {dtype}".replace("torch.", "")] = round(peak / 1e9, 1)
        # A CPU without bfloat16 instructions is tens of times slower in it: only the forward pass is worth the wait.
        passes = (False, True) if device == "cuda" or dtype == torch.float32 or peak > 2e10 else (False,)
        for name in names:
            for kind in ("t2i", "edit"):
                for train in passes:
                    row = measure(name, kind, train, device, dtype, peak, args.rounds)
                    rows.append(row)
                    print(f"{device + ' ' + row['dtype']:<15} {name:<6} {kind:<5} {row['pass']:<8} {row['ours_ms']:>9} "
                          f"{row['diffusers_ms']:>9} {row['ratio']:>6} {row['ours_tokens_per_s']:>9} "
                          f"{row['share_of_matmul_peak']:>6.1%}", flush=True)  # fmt: skip
    forward = [row["ratio"] for row in rows if row["pass"] == "forward"]
    result = {
        "question": "speed of our Kontext DiT relative to diffusers' SD3Transformer2DModel",
        "gate": f"ratio >= {GATE} in each forward row",
        "met": min(forward) >= GATE,
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", "benchmarks/dit_forward.py", *sys.argv[1:]]),
        "torch": torch.__version__,
        "cpu": processor(),
        "cpu_threads": 1,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "matmul_peak_gflops": peaks,
        "rounds": args.rounds,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"forward ratios from {min(forward)} to {max(forward)}; gate {GATE} {'met' if result['met'] else 'MISSED'}")
    print(args.out)


if __name__ == "__main__":
    main()
