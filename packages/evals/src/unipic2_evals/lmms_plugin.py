"""A model for lmms-eval's own tasks (``mmmu_val``, ``mmbench_en_dev``, ...); extra ``[lmms]``.

lmms-eval finds it by the entry-point group ``lmms_eval.models`` under the name ``unipic2``::

    python -m lmms_eval --model unipic2 --model_args url=http://127.0.0.1:8000/v1,model=NAME,revision=R --tasks mmmu_val
    python -m lmms_eval --model unipic2 --model_args factory=package.module:build --tasks mmmu_val

``factory`` names a function without arguments that returns a `unipic2_evals.protocols.Judge`. It answers
``generate_until`` from images and a question; tasks that want likelihoods or several rounds are refused. What the model
says goes to lmms-eval word for word: its editing tasks (``gedit_bench``, ``imgedit``; ``--process_with_media``) expect
JSON, ``{"text": ..., "images": [paths]}``.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from unipic2_evals.http import ChatModel, HttpOptions
from unipic2_evals.judges import load_model
from unipic2_evals.protocols import Judge

__all__ = ["Answerer", "manifest"]


class Answerer:
    """What lmms-eval's requests are answered with.

    Args:
        factory: ``package.module:function``, a function without arguments that returns a `Judge`.
        url: Base address of an OpenAI-compatible server, instead of the factory.
        model: The model's name there.
        revision: Which version is served.

    Raises:
        ValueError: If neither a factory nor a server is given, or both.
    """

    def __init__(self, factory: str = "", url: str = "", model: str = "", revision: str = "") -> None:
        if bool(factory) == bool(url) or bool(url) != bool(model and revision):
            message = "unipic2: expected model_args factory=MODULE:FUNCTION, or url=..., model=..., revision=..."
            raise ValueError(message)
        self._judge: Judge | None = load_model(factory) if factory else None
        self._http = HttpOptions(url, model, revision) if url else None
        self._served = cache(self._serve)

    def __call__(self, images: Sequence[Any], question: str, max_tokens: int) -> str:
        """Return the reply; a factory's model decides itself how long it may be."""
        pixels = [np.asarray(image.convert("RGB")) for image in images]
        judge = self._judge or self._served(max_tokens)
        return judge(pixels, question)

    def _serve(self, max_tokens: int) -> ChatModel:
        assert self._http is not None
        return ChatModel(replace(self._http, max_tokens=max_tokens))


def manifest() -> Any:
    """Return what lmms-eval registers; called by lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found, unused-ignore]

    return ModelManifest(model_id="unipic2", simple_class_path=f"{__name__}.UniPic2")


def __getattr__(name: str) -> Any:
    """Build the class ``UniPic2`` when lmms-eval asks for it: its base exists only there."""
    if name == "UniPic2":
        return _model_class()
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


@cache
def _model_class() -> type:
    from lmms_eval.api.model import lmms  # type: ignore[import-not-found, unused-ignore]

    class UniPic2(lmms):  # type: ignore[misc, valid-type, unused-ignore]
        """Answers lmms-eval's requests; see the top of the module.

        Args:
            factory: See `Answerer`.
            url: See `Answerer`.
            model: See `Answerer`.
            revision: See `Answerer`.
            batch_size: 1; lmms-eval always passes it.
            device: Not used; lmms-eval always passes it.
        """

        is_simple = True

        def __init__(
            self,
            factory: str = "",
            url: str = "",
            model: str = "",
            revision: str = "",
            batch_size: int | str = 1,
            device: str | None = None,  # noqa: ARG002 - lmms-eval passes it
        ) -> None:
            super().__init__()
            self.batch_size = int(batch_size)
            self.answerer = Answerer(factory, url, model, revision)

        def generate_until(self, requests: list[Any]) -> list[str]:
            """Answer each request."""
            replies = []
            for request in requests:
                context, settings, doc_to_visual, doc_id, task, split = request.args
                visuals = doc_to_visual(self.task_dict[task][split][doc_id]) or []
                replies.append(self.answerer(visuals, context, int(settings.get("max_new_tokens", 1024))))
            return replies

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            """Refuse: one question, one answer."""
            message = "unipic2 answers single questions; choose a task without rounds"
            raise NotImplementedError(message)

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            """Refuse: a served model gives no likelihoods."""
            message = "unipic2 gives no likelihoods; choose a generate_until task"
            raise NotImplementedError(message)

    return UniPic2
