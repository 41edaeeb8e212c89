"""What kinds of checkpoints there are, how a folder shows its kind, and what each kind can do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from unipic2_dit.checkpoint import CheckpointError, has_component, read_config
from unipic2_unified.errors import NotCapableError

__all__ = [
    "Capability",
    "Reference",
    "Variant",
    "capabilities",
    "check_capable",
    "read_reference",
    "read_variant",
    "sees",
]

Variant = Literal["sd3", "kontext", "metaquery"]
"""``sd3``: a plain SD3 text-to-image model; ``kontext``: UniPic2's DiT behind text encoders; ``metaquery``: the same
behind a VLM and the connector."""

Capability = Literal["generate", "edit", "ask"]

Reference = Literal["vlm", "dit", "both"]
"""Who sees the picture that is edited; released MetaQuery checkpoints: both."""

_CAN: dict[Variant, frozenset[Capability]] = {
    "sd3": frozenset({"generate"}),
    "kontext": frozenset({"generate", "edit"}),
    "metaquery": frozenset({"generate", "edit", "ask"}),
}
_IS = {
    "sd3": "a plain SD3 text-to-image checkpoint",
    "kontext": "a Kontext checkpoint (a DiT behind text encoders)",
    "metaquery": "a MetaQuery checkpoint, loaded without its VLM",
}
_NEEDS = {
    "edit": "a checkpoint whose transformer reads a reference: Kontext (as UniPic2-SD3.5M-Kontext) or MetaQuery",
    "ask": "a MetaQuery checkpoint (as UniPic2-Metaquery, with conditioner/) and the VLM that it was trained with",
}


def read_variant(folder: Path) -> Variant:
    """Tell which kind of checkpoint a folder holds.

    Args:
        folder: Checkpoint folder in the official layout.

    Raises:
        CheckpointError: If it has no readable ``transformer/config.json``.
    """
    if has_component(folder, "conditioner"):
        return "metaquery"
    plain = read_config(folder, "transformer").get("_class_name") == "SD3Transformer2DModel"
    return "sd3" if plain else "kontext"


def read_reference(folder: Path, variant: Variant) -> Reference:
    """Tell who sees the picture that is edited: ``reference`` in ``conditioner/config.json``, by default both.

    Raises:
        CheckpointError: If it is something unknown.
    """
    if variant != "metaquery":
        return "dit"
    found = read_config(folder, "conditioner").get("reference", "both")
    if found not in get_args(Reference):
        msg = f"{folder / 'conditioner' / 'config.json'} has reference {found!r}; known are 'vlm', 'dit' and 'both'."
        raise CheckpointError(msg)
    return found


def sees(who: Literal["vlm", "dit"], reference: Reference) -> bool:
    """Tell whether one of the two sees the picture that is edited."""
    return reference in (who, "both")


def capabilities(variant: Variant, *, has_vlm: bool) -> frozenset[Capability]:
    """Return what a model of this kind can do.

    Args:
        variant: The kind.
        has_vlm: Whether its VLM is loaded.
    """
    return _CAN[variant] if has_vlm else _CAN[variant] - {"ask"}


def check_capable(what: Capability, variant: Variant, can: frozenset[Capability]) -> None:
    """Make sure that a model can do something.

    Raises:
        NotCapableError: If it can't.
    """
    if what not in can:
        msg = f"This model can't {what}: it is {_IS[variant]}. To {what} needs {_NEEDS[what]}."
        raise NotCapableError(msg)
