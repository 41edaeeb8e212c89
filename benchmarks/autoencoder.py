"""How many scenes survive the autoencoder of a checkpoint, and how much error in the latents does its decoder forgive?

python benchmarks/autoencoder.py [--checkpoint home:tiny/foundation] [--scenes 1000] [--out docs/results]

Takes target pictures of test edits through encoder and decoder and reads them with detector B; exact = every object and
the background are right. Then the same with Gaussian noise on the latents, in units of their standard deviation: a
diffusion model makes errors of that kind. Prints a table and writes autoencoder.json and autoencoder.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from unipic2_data.loader import eval_batches
from unipic2_data.manifest import Manifest
from unipic2_data.shapes.detect import same_scene
from unipic2_data.shapes.detect_soft import SoftAlphaDetector
from unipic2_data.shapes.scene import Scene
from unipic2_evals.report import wilson_interval
from unipic2_train import home
from unipic2_train.system import FrozenParts

NOISE = (0.0, 0.1, 0.2, 0.3, 0.5)
COMMAND = "python benchmarks/autoencoder.py"


def exact_scenes(frozen: FrozenParts, manifest: Manifest, scenes: int, noise: float) -> int:
    """Return how many scenes are read back right from noisy latents."""
    detector, generator, right = SoftAlphaDetector(), torch.Generator().manual_seed(0), 0
    for batch in eval_batches(manifest, "test", "edit", 32, 100, scenes):
        assert batch.pixels is not None
        latents = frozen.encode_pixels(batch.pixels)
        pictures = frozen.decode(latents + noise * torch.randn(latents.shape, generator=generator)).numpy()
        for detection, meta in zip(detector.detect_batch(pictures), batch.meta, strict=True):
            right += same_scene(detection, Scene.from_json(meta["shapes"]["target_scene"]))
    return right


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="home:tiny/foundation")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    args = parser.parse_args()
    frozen = FrozenParts(home.provide(args.checkpoint))
    manifest = Manifest.load(home.provide("home:tiny/shapes"))
    rows = []
    for noise in NOISE:
        interval = wilson_interval(exact_scenes(frozen, manifest, args.scenes, noise), args.scenes)
        rows.append({"noise": noise, "exact": interval.mean, "low": interval.low, "high": interval.high})
        print(f"noise {noise:.1f}: {interval.mean:.3f} ({interval.low:.3f} - {interval.high:.3f})")
    facts = {
        "command": COMMAND,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "checkpoint": args.checkpoint,
        "scenes": args.scenes,
        "rows": rows,
    }
    table = "\n".join(f"| {r['noise']:.1f} | {r['exact']:.3f} | {r['low']:.3f} - {r['high']:.3f} |" for r in rows)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "autoencoder.json").write_text(json.dumps(facts, indent=2) + "\n")
    (args.out / "autoencoder.md").write_text(
        f"""# Scenes through the autoencoder

`{COMMAND}`, {facts["date"]}, {facts["machine"]}: {args.scenes} target pictures of test edits through the autoencoder of
`{args.checkpoint}`, with Gaussian noise of so many standard deviations on the latents, read by detector B.

| noise | exact scenes | 95% interval |
|---:|---:|---:|
{table}
"""
    )


if __name__ == "__main__":
    main()
