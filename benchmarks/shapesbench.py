"""How long does ShapesBench take to score 1,200 pictures on one core, and are its sanity rows what they should be?

python benchmarks/shapesbench.py [--noise 6] [--out docs/results]

Makes a suite of the full world at 64 px (300 prompts with 4 pictures each, 270 edits, 120 questions, and 100 items of
each kind that are held out) and a model that returns the right pictures with Gaussian noise (of 255). Time is that of
the processor: from reading the folder to the report, detections by shapes-full-b included, first for the 1,200 pictures
of the 300 prompts alone, then for all that the suite has; "again" is without a detector, from the answers on file.
The pictures that the sanity rows need (the 300 right ones and 16 of noise) are looked at and scored within that time.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from unipic2_data.shapes.full.world import write_full_world
from unipic2_data.shapes.suite import write_suite
from unipic2_data.shapes.world import ShapesConfig
from unipic2_evals.answers import Answers
from unipic2_evals.judges import find_judge
from unipic2_evals.report import markdown_table
from unipic2_evals.runs import Options
from unipic2_evals.runs.shapes import ShapesRun
from unipic2_evals.scoring import score_run
from unipic2_evals.shapesbench import SAMPLES, SUITE, copy_suite, output_path, write_replies
from unipic2_evals.shapesbench.rules import right_letters

if TYPE_CHECKING:
    from unipic2_evals.scoring import Report

COUNTS = {"test": {"t2i": 300, "edit": 270, "qa": 120}, "heldout": {"t2i": 100, "edit": 100, "qa": 100}}
DETECTOR = "shapes-full-b"
SEED = 0


def make(suite: Path, out: Path, noise: float) -> None:
    """Write what the noisy model makes of a suite."""
    rng = np.random.default_rng(SEED)
    for item in copy_suite(suite, out):
        if item.kind == "qa":
            write_replies(out, item, right_letters(item))
            continue
        target = np.asarray(Image.open(out / output_path(item.kind, item.key)["target"]), np.float32)
        for number in range(SAMPLES[item.kind]):
            pixels = np.clip(target + rng.normal(0, noise, target.shape) + 0.5, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(out / output_path(item.kind, item.key, number)["image"])


def timed(folder: Path, answers: Path) -> tuple[Report, float]:
    """Return a report and the processor's seconds."""
    start = time.process_time()
    known = Answers(answers)
    judge, asker = find_judge(DETECTOR, known)
    return score_run(ShapesRun(folder, Options()), known, judge, asker=asker), time.process_time() - start


def prompts_alone(suite: Path, out: Path) -> Path:
    """Write a copy of a suite that has no other items than the prompts of the test split."""
    lines = (suite / SUITE).read_text(encoding="utf-8").splitlines(keepends=True)
    chosen = [line for line in lines if (row := json.loads(line))["kind"] == "t2i" and not row["shapes"]["axis"]]
    copy_suite(suite, out)
    (out / SUITE).write_text("".join(chosen), encoding="utf-8")
    return out


def measure(folder: Path, noise: float) -> dict[str, Any]:
    """Make suites and models in a folder, score them, and return seconds and scores."""
    write_suite(write_full_world(folder / "world", ShapesConfig(64, SEED, COUNTS)), folder / "suite")
    find_judge(DETECTOR, Answers(folder / "none.jsonl"))  # imports are paid once
    seconds, report = {}, None
    for name, suite in (
        ("1,200 pictures of 300 prompts", prompts_alone(folder / "suite", folder / "prompts")),
        ("the whole suite", folder / "suite"),
    ):
        out = folder / f"out {name}"
        make(suite, out, noise)
        report, seconds[name] = timed(out, folder / f"{name}.jsonl")
        _, seconds[f"{name}, again"] = timed(out, folder / f"{name}.jsonl")
    assert report is not None
    scores = {row["name"]: (row["value"], row["low"], row["high"], row["total"]) for row in report["scores"]}
    return {"seconds": seconds, "counts": report["counts"], "scores": scores}


def page(found: dict[str, Any], command: str, where: str) -> str:
    """Return the results as Markdown."""
    seconds = markdown_table(
        ["scored", "seconds"], [[name, f"{value:.1f}"] for name, value in found["seconds"].items()]
    )
    rows = [
        [name, "-" if total == 0 else f"{value:.3f}", "-" if total == 0 else f"{low:.3f} - {high:.3f}", total]
        for name, (value, low, high, total) in found["scores"].items()
    ]
    table = markdown_table(["row", "score", "95 %", "n"], rows)
    return f"# ShapesBench\n\n{__doc__.strip()}\n\n{where}. Command: `{command}`.\n\n{seconds}\n{table}"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", type=float, default=6.0, help="standard deviation of the model's noise, of 255")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of shapesbench.json and .md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.noise)
    command = f"python benchmarks/shapesbench.py --noise {options.noise:g}"
    machine = {"machine": f"{platform.machine()}, one core", "python": platform.python_version()}
    date = datetime.now(UTC).date().isoformat()
    document = {"command": command, "date": date, "seed": SEED, "noise": options.noise, **machine, **found}
    text = page(found, command, f"{machine['machine']}; Python {machine['python']}; numpy {np.__version__}; {date}")
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    finite = json.dumps(document, indent=1).replace("NaN", "null")
    (options.out / "shapesbench.json").write_text(finite + "\n", encoding="utf-8")
    (options.out / "shapesbench.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
