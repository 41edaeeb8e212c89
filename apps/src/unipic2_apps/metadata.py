"""What is written inside a PNG: the parameters, for people and for ``unipic2 replay``, and that it was made by AI.

========================  ====================================================================================
``unipic2``               the parameters as JSON (iTXt)
``parameters``            the same in the one-line form that picture managers for diffusion models show (iTXt)
``Software``              program and version (tEXt)
``XML:com.adobe.xmp``     XMP with IPTC's digital source type, the label that C2PA and platforms read (iTXt)
========================  ====================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unipic2_apps import __version__

__all__ = ["SOFTWARE", "Kind", "ai_label", "png_info", "read_parameters"]

SOFTWARE = f"unipic2 {__version__}"
KEY, XMP_KEY = "unipic2", "XML:com.adobe.xmp"
Kind = Literal["generate", "edit"]

# IPTC's vocabulary: "created using generative AI", and "edited using generative AI".
SOURCE_TYPES: dict[Kind, str] = {
    "generate": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
    "edit": "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia",
}
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    "xmp:CreatorTool={software} Iptc4xmpExt:DigitalSourceType={source}/>"
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def ai_label(kind: Kind) -> str:
    """Return the XMP packet that says that a picture was made, or edited, by a trained model."""
    return _XMP.format(software=quoteattr(SOFTWARE), source=quoteattr(SOURCE_TYPES[kind]))


def png_info(kind: Kind, parameters: Mapping[str, Any] | None = None, *, label: bool = True) -> PngInfo:
    """Return what to pass to ``image.save(..., pnginfo=)``.

    Args:
        kind: Whether the picture was made from a prompt or is an edit.
        parameters: A record (see ``record``) without what others need not see.
        label: Say that it was made by AI.
    """
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    if parameters is not None:
        info.add_itxt(KEY, json.dumps(parameters, ensure_ascii=False))
        info.add_itxt("parameters", _one_line(parameters))
    if label:
        info.add_itxt(XMP_KEY, ai_label(kind))
    return info


def read_parameters(path: Path) -> dict[str, Any] | None:
    """Return the parameters inside a PNG, or None if there are none of ours.

    Raises:
        OSError: If it can't be read as a picture.
    """
    with Image.open(path) as picture:
        picture.load()  # text may stand behind the pixels
        text = getattr(picture, "text", {}).get(KEY)
    try:
        found = None if text is None else json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _one_line(parameters: Mapping[str, Any]) -> str:
    """Return the parameters in the form that A1111's web page started and that many programs read."""
    picture, result, model = (parameters[key] for key in ("picture", "result", "model"))
    negative = [f"Negative prompt: {picture['negative_prompt']}"] if picture["negative_prompt"] else []
    facts = {
        "Steps": picture["steps"],
        "CFG scale": picture["guidance"],
        "Seed": picture["seed"],
        "Size": f"{result['width']}x{result['height']}",
        "Model hash": str(model["hash"])[:10],
        "Model": Path(model["checkpoint"]).name,
        "Version": SOFTWARE,
    }
    return "\n".join([picture["prompt"], *negative, ", ".join(f"{key}: {value}" for key, value in facts.items())])
