"""Whom a command line means: a replayed file, a served model, local models, an installed detector."""

import importlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from unipic2_evals.answers import Answers, Asker, JudgeId
from unipic2_evals.pictures import Kind, Request
from unipic2_evals.protocols import VQA, Detected, Detector, Judge, detectors, load_detector

if TYPE_CHECKING:
    from unipic2_evals.http import HttpOptions
    from unipic2_evals.local import LocalOptions

__all__ = ["REPLAY", "find_judge", "load_model", "model_asker"]

REPLAY = "replay"


def find_judge(
    name: str,
    answers: Answers,
    judge_id: str | None = None,
    judge_revision: str | None = None,
    http: "HttpOptions | None" = None,
    local: "LocalOptions | None" = None,
) -> tuple[JudgeId, Asker | None]:
    """Return who judges, and how to ask him.

    Args:
        name: "replay" (only what is in the file), "http", "local", the name of an installed
            detector, or ``package.module:function`` of a judge, see `load_model`.
        answers: The file.
        judge_id: In replay, whose answers count; needed if the file holds those of several.
        judge_revision: The same for the revision; needed with ``package.module:function``, which can not tell it.
        http: The server of "http".
        local: The checkpoints of "local".

    Returns:
        The judge; None in place of the asker in replay.

    Raises:
        ValueError: If nobody, or more than one, is meant.
    """
    if name == REPLAY and http is None and local is None:
        return answers.choose(judge_id, judge_revision), None
    if ":" in name and judge_id is None and judge_revision:
        judge = JudgeId(name, judge_revision)
        return judge, model_asker(judge, judge=load_model(name))
    if judge_id is not None or judge_revision is not None:
        message = f"--judge_id and --judge_revision choose among answers of --judge replay; {name!r} has its own"
        raise ValueError(message)
    if http is not None or name == "http":
        return _served(name, http)
    if local is not None or name == "local":
        return _local(name, local)
    if name not in detectors():
        choice = ", ".join([REPLAY, "http", "local", "MODULE:FUNCTION with --judge_revision", *detectors()])
        message = f"--judge: expected one of {choice}, got {name!r}"
        raise ValueError(message)
    distribution = detectors()[name].dist
    assert distribution is not None
    judge = JudgeId(name, f"{distribution.name} {version(distribution.name)}")
    return judge, model_asker(judge, detector=load_detector(name))


def _served(name: str, http: "HttpOptions | None") -> tuple[JudgeId, Asker]:
    if name != "http" or http is None:
        message = f"--judge http and --http.url, --http.model, --http.revision go together, got --judge {name}"
        raise ValueError(message)
    from unipic2_evals.http import http_asker

    asker = http_asker(http)
    return asker.judge, asker


def _local(name: str, local: "LocalOptions | None") -> tuple[JudgeId, Asker]:
    if name != "local" or local is None:
        message = f"--judge local and --local.detector, --local.clip go together, got --judge {name}"
        raise ValueError(message)
    from unipic2_evals.local import local_detector

    detector, judge = local_detector(local)
    return judge, model_asker(judge, detector=detector)


def load_model(path: str) -> Judge:
    """Import and build a model that answers prompts about images.

    Args:
        path: ``package.module:function``; the function takes no arguments and returns the model.

    Returns:
        The model.

    Raises:
        ValueError: If there is no such module or function.
    """
    module, _, function = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        message = f"{path}: expected MODULE:FUNCTION, a function that returns a model: {error}"
        raise ValueError(message) from None
    model: Judge = found()
    return model


def model_asker(
    who: JudgeId,
    *,
    detector: Detector | None = None,
    vqa: VQA | None = None,
    judge: Judge | None = None,
    workers: int = 1,
) -> Asker:
    """Return how to ask models that are at hand.

    Args:
        who: What stands in reports.
        detector: Answers what GenEval asks.
        vqa: Answers what DPG-Bench asks.
        judge: Answers what GEdit-Bench and ImgEdit-Bench ask.
        workers: Calls at a time; more than one needs models that may be called from several threads.

    Returns:
        What `unipic2_evals.answers.ask_all` calls.
    """

    def ask(request: Request) -> Any:
        images = [picture.pixels() for picture in request.pictures]
        if request.kind == "detections":
            assert detector is not None
            (seen,) = detector(images)
            return _plain(Detected(*seen))
        if request.kind == "answer":
            assert vqa is not None
            return vqa(images[0], request.text)
        assert judge is not None
        return judge(images, request.text)

    def detect_many(requests: Sequence[Request]) -> list[Any]:
        assert detector is not None
        images = [request.pictures[0].pixels() for request in requests]
        values: dict[int, object] = {}
        for shape in {image.shape for image in images}:  # a batch of one size is what most detectors are quick at
            chosen = [index for index, image in enumerate(images) if image.shape == shape]
            for index, seen in zip(chosen, detector([images[index] for index in chosen]), strict=True):
                values[index] = _plain(Detected(*seen))
        return [values[index] for index in range(len(images))]

    given: dict[Kind, object] = {"detections": detector, "answer": vqa, "reply": judge}
    kinds = frozenset(kind for kind, model in given.items() if model is not None)
    return Asker(who, kinds, ask, workers, detect_many if kinds == {"detections"} else None)


def _plain(seen: Detected) -> dict[str, object]:
    """Return detections as JSON has them."""
    return {
        "objects": {name: [[float(n) for n in box] for box in boxes] for name, boxes in seen.objects.items()},
        "colors": {name: list(found) for name, found in seen.colors.items()},
    }
