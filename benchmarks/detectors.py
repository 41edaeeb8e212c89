"""How well do the two shapes detectors read scenes of both worlds back, clean, noisy and blurred, and how fast?

python benchmarks/detectors.py [--scenes 2000] [--out docs/results]

Prints a table and writes detectors.json and detectors.md. Exact = shape, colour and cell of every object and the
background are right and nothing is left unexplained. Noise is Gaussian, in units of 255; blur is Gaussian, in units of
the world (the quick world is 32 units wide, the full one 64). Cuts and ghosts measure strictness: the share of pictures
with a damaged object that are still read as the whole object (lower is better). A third of the full world's scenes have
five or six objects.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes import detect_hard, detect_soft
from unipic2_data.shapes.detect import same_scene
from unipic2_data.shapes.full.drawing import random_scene as full_scene
from unipic2_data.shapes.full.render import render_batch as full_render
from unipic2_data.shapes.full.scene import BACKGROUNDS as FULL_BACKGROUNDS
from unipic2_data.shapes.look import FULL, QUICK
from unipic2_data.shapes.render import render_batch
from unipic2_data.shapes.scene import BACKGROUNDS, SPLITS, Draws
from unipic2_data.shapes.world import random_scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from unipic2_data.shapes.detect import Detector

LOOKS = {"quick": QUICK, "full": FULL}
GROUNDS = {"quick": BACKGROUNDS, "full": FULL_BACKGROUNDS}
SIZES = (("quick", 32, 1.0), ("quick", 128, 0.25), ("full", 64, 1.0), ("full", 128, 0.25))
"""World, pixels, share of the scenes."""
CHUNK = 256


def noisy(images: np.ndarray, sd: float) -> np.ndarray:
    """Add Gaussian noise of standard deviation `sd` (of 255)."""
    noise = np.random.default_rng(0).standard_normal(images.shape, np.float32)
    return np.clip(images + sd * noise + 0.5, 0, 255).astype(np.uint8)


def blurred(images: np.ndarray, sigma: float, units: int) -> np.ndarray:
    """Blur with a Gaussian of `sigma` world units."""
    sigma = sigma * images.shape[1] / units
    return (ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0)) + 0.5).astype(np.uint8)


CONDITIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "clean": lambda images, _: images,
    "noise 8": lambda images, _: noisy(images, 8),
    "noise 16": lambda images, _: noisy(images, 16),
    "noise 24": lambda images, _: noisy(images, 24),
    "blur 0.6": lambda images, units: blurred(images, 0.6, units),
    "blur 1.0": lambda images, units: blurred(images, 1.0, units),
    "blur 1.5": lambda images, units: blurred(images, 1.5, units),
    "blur 0.8 + noise 12": lambda images, units: noisy(blurred(images, 0.8, units), 12),
}


def draw(world: str, count: int) -> list[Any]:
    """Draw scenes of a world, of all splits."""
    if world == "quick":
        return [random_scene(Draws(keyed_rng(0, f"benchmark-{n}")), SPLITS[n % 4]) for n in range(count)]
    return [full_scene(Draws(keyed_rng(0, f"full-{n}")), None if n % 3 else "many") for n in range(count)]


def damaged(images: np.ndarray, scenes: list[Any], damage: str, world: str) -> np.ndarray:
    """Cut a share off the top of the only object, or fade it."""
    kind, amount = damage.split()
    share, size, units = float(amount), images.shape[1], LOOKS[world].units
    background = np.array([GROUNDS[world][scene.background] for scene in scenes], np.uint8)[:, None, None]
    if kind == "ghost":
        return (background + share * (images.astype(np.float32) - background) + 0.5).astype(np.uint8)
    result = images.copy()
    for image, scene, color in zip(result, scenes, background, strict=True):
        item = scene.items[0]
        image[: round((item.y - item.r + 2 * share * item.r) * size / units)] = color
    return result


def exact(detector: Detector, images: np.ndarray, scenes: list[Any], world: str) -> tuple[float, float]:
    """Return the share of exact scenes, and pictures per second of processor time."""
    start = time.process_time()
    found = [one for n in range(0, len(images), CHUNK) for one in detector.detect_batch(images[n : n + CHUNK])]
    seconds = time.process_time() - start
    right = [same_scene(one, scene, GROUNDS[world]) for one, scene in zip(found, scenes, strict=True)]
    return float(np.mean(right)), len(images) / seconds


def measure(count: int) -> dict[str, Any]:
    """Run every detector under every condition, at two sizes of each world."""
    results: dict[str, Any] = {}
    for world, size, share in SIZES:
        number, look = max(round(count * share), 1), LOOKS[world]
        render = render_batch if world == "quick" else full_render
        scenes = draw(world, number)
        single = [scene for scene in scenes if len(scene.items) == 1]
        images, alone = render(scenes, size), render(single, size)
        for letter, kind in (("A", detect_hard.HardMaskDetector), ("B", detect_soft.SoftAlphaDetector)):
            detector: Detector = kind(look)
            rows = {
                label: exact(detector, change(images, look.units), scenes, world)
                for label, change in CONDITIONS.items()
            }
            kept = {
                label: exact(detector, damaged(alone, single, label, world), single, world)[0]
                for label in ("cut 0.25", "cut 0.35", "cut 0.5", "ghost 0.7", "ghost 0.4")
            }
            results[f"{letter}, {world}, {size} px"] = {
                "scenes": number,
                "exact": {label: round(value, 4) for label, (value, _) in rows.items()},
                "damaged_but_read_as_whole": {label: round(value, 4) for label, value in kept.items()},
                "images_per_second": round(rows["clean"][1]),
            }
    return results


def table(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    names = list(results)
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for part, title in (("exact", "exact: "), ("damaged_but_read_as_whole", "read as whole: ")):
        for label in results[names[0]][part]:
            cells = " | ".join(f"{results[name][part][label]:.4f}" for name in names)
            lines.append(f"| {title}{label} | {cells} |")
    lines.append(
        "| images/s, one core | " + " | ".join(str(results[name]["images_per_second"]) for name in names) + " |"
    )
    lines.append("| scenes | " + " | ".join(str(results[name]["scenes"]) for name in names) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2000, help="scenes at 32 and 64 px; a quarter of them at 128 px")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of detectors.json and .md")
    options = parser.parse_args()
    results = measure(options.scenes)
    text = table(results)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    command = f"python benchmarks/detectors.py --scenes {options.scenes}"
    machine = {"machine": platform.machine(), "python": platform.python_version(), "numpy": np.__version__}
    date = datetime.now(UTC).date().isoformat()
    document = {"command": command, "date": date, "seed": 0, **machine, "results": results}
    (options.out / "detectors.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    where = f"{machine['machine']}; Python {machine['python']}; numpy {machine['numpy']}; {date}. Command: `{command}`."
    page = f"# Shapes detectors\n\n{__doc__.split('Prints')[0].strip()}\n\n{_explanation()}\n\n{where}\n\n{text}\n"
    (options.out / "detectors.md").write_text(page, encoding="utf-8")


def _explanation() -> str:
    return "Exact" + __doc__.split("Exact", 1)[1].rstrip()


if __name__ == "__main__":
    main()
