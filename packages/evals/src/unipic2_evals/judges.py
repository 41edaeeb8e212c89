"""Whom a command line means: a replayed file, an installed detector."""

from importlib.metadata import version

from unipic2_evals.answers import Answers, Asker, JudgeId
from unipic2_evals.pictures import Request
from unipic2_evals.protocols import Detected, Detector, detectors, load_detector

__all__ = ["REPLAY", "detector_asker", "find_judge"]

REPLAY = "replay"


def find_judge(
    name: str, answers: Answers, judge_id: str | None = None, judge_revision: str | None = None
) -> tuple[JudgeId, Asker | None]:
    """Return who judges, and how to ask him.

    Args:
        name: "replay" (only what is in the file), or the name of an installed detector.
        answers: The file.
        judge_id: In replay, whose answers count; needed if the file holds those of several.
        judge_revision: The same for the revision.

    Returns:
        The judge; None in place of the asker in replay.

    Raises:
        ValueError: If nobody, or more than one, is meant.
    """
    if name == REPLAY:
        return answers.choose(judge_id, judge_revision), None
    if judge_id is not None or judge_revision is not None:
        message = f"--judge_id and --judge_revision choose among answers of --judge replay; {name!r} has its own"
        raise ValueError(message)
    if name not in detectors():
        choice = ", ".join([REPLAY, *detectors()])
        message = f"--judge: expected one of {choice}, got {name!r}"
        raise ValueError(message)
    distribution = detectors()[name].dist
    assert distribution is not None
    judge = JudgeId(name, f"{distribution.name} {version(distribution.name)}")
    return judge, detector_asker(load_detector(name), judge)


def detector_asker(detector: Detector, judge: JudgeId) -> Asker:
    """Return how to ask a detector, one image at a time."""

    def ask(request: Request) -> dict[str, object]:
        (seen,) = detector([request.pictures[0].pixels()])
        objects, colors = Detected(*seen)
        return {
            "objects": {name: [[float(n) for n in box] for box in boxes] for name, boxes in objects.items()},
            "colors": {name: list(found) for name, found in colors.items()},
        }

    return Asker(judge, frozenset({"detections"}), ask)
