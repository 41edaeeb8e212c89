"""The folder of a trained edit reward, written whole and loaded strictly.

::

    edit_reward.json     the question, the scores' mean and std, the judge, the VLM, and facts of the run
    head.safetensors     weight (1, D) and bias (1,)
    vlm/                 the trained VLM in the layout of Hugging Face, an adapter merged; not there if it was frozen

A frozen VLM keeps its own folder: it is named, and told by the hash of its weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from unipic2_train import export, home
from unipic2_train.edit_reward.network import EditRewardNetwork
from unipic2_train.rewards.pretrained import load_tensors, weights_hash
from unipic2_vlm.checkpoint import load_model, resolve_folder
from unipic2_vlm.processor import QwenVLProcessor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["EditRewardRecord", "load_edit_reward", "read_record", "reward_hash", "save_edit_reward", "vlm_hash"]

FORMAT = 1
RECORD, HEAD, VLM = "edit_reward.json", "head.safetensors", "vlm"


@dataclass(frozen=True)
class EditRewardRecord:
    """What a reward is beside its weights."""

    question: str
    """What the VLM is asked, with ``<prompt>`` where the instruction goes."""
    mean: float
    """Of the scores that it learnt from, in the judge's unit."""
    std: float
    """Their standard deviation."""
    judge: dict[str, str]
    """Who scored: ``id`` and ``revision``."""
    vlm: str | None
    """Folder or hub id of a frozen VLM; ``None``: the folder holds its own."""
    vlm_hash: str
    """Hash over the weights of the VLM that belongs to the head."""


def save_edit_reward(
    folder: Path,
    start: Path,
    trunk: dict[str, Tensor] | None,
    head: dict[str, Tensor],
    record: dict[str, Any],
    facts: dict[str, Any],
) -> None:
    """Write a reward's folder; an older one of that name is replaced when the new one is complete.

    Args:
        folder: Where.
        start: Folder of the VLM that training started from.
        trunk: All parameters of the trained VLM, by their names in its trunk; ``None`` if it was frozen.
        head: Parameters of the head.
        record: What ``EditRewardRecord`` has beside the VLM's hash.
        facts: What is known of the run.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = start
    if trunk is not None:
        model = load_model(start)  # for what the trunk lacks: the head of words, which nothing has changed
        model.model.load_state_dict(trunk)
        weights = partial / VLM
        export.save_vlm(weights, model, start, facts)
    save_file({name: value.contiguous() for name, value in head.items()}, partial / HEAD)
    whole = EditRewardRecord(**record, vlm_hash=vlm_hash(weights))
    text = json.dumps({"format": FORMAT, **asdict(whole), "facts": facts}, indent=2, default=str)
    (partial / RECORD).write_text(text + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def load_edit_reward(
    folder: Path, device: torch.device | str
) -> tuple[EditRewardNetwork, QwenVLProcessor, EditRewardRecord]:
    """Load a reward's folder.

    Args:
        folder: As ``save_edit_reward`` writes it.
        device: Where it goes.

    Returns:
        The network in evaluation mode, what it reads with, and what it is.

    Raises:
        ValueError: Something is missing or damaged, or the VLM is not the one that the head belongs to.
    """
    record = read_record(folder)
    source = resolve_folder(folder / VLM if record.vlm is None else home.path(record.vlm))
    found = vlm_hash(source)
    if found != record.vlm_hash:
        msg = (
            f"the head in {folder} belongs to a VLM with weights {record.vlm_hash}, but those in {source} are {found}: "
            "put that VLM back, or train the reward again"
        )
        raise ValueError(msg)
    network = EditRewardNetwork(load_model(source, device=device).model)
    head = load_tensors(folder / HEAD)
    expected = {name: tuple(value.shape) for name, value in network.head.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in head.items()}
    if shapes != expected:
        msg = f"{folder / HEAD} holds {shapes}, but a head of this VLM is {expected}: copy the folder again"
        raise ValueError(msg)
    network.head.load_state_dict(head)
    return network.requires_grad_(False).eval(), QwenVLProcessor.from_pretrained(source), record


def vlm_hash(folder: Path) -> str:
    """Return the hash over the weights of a VLM's folder."""
    return weights_hash(sorted(folder.glob("*.safetensors")))


def reward_hash(folder: Path, record: EditRewardRecord) -> str:
    """Return 12 digits that change with anything that a score depends on."""
    parts = [weights_hash([folder / HEAD]), record.vlm_hash, record.question, repr(record.mean), repr(record.std)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def read_record(folder: Path) -> EditRewardRecord:
    """Read what a reward is beside its weights.

    Raises:
        ValueError: The folder is no edit reward, or its record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        msg = (
            f"{folder} is no edit reward: it has no {RECORD}. Pass the `export` of a run of `lightning run edit-reward`"
        )
        raise ValueError(msg)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version, _ = found.pop("format"), found.pop("facts")
        if version != FORMAT:
            msg = f"format {version!r}, and this version reads {FORMAT}"
            raise ValueError(msg)
        return EditRewardRecord(**found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} can't be read: {error}. Copy the folder again, or train the reward again"
        raise ValueError(msg) from error
