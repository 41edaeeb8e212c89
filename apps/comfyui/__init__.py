"""UniPic2 in ComfyUI: nodes that draw, edit and ask through the HTTP API of ``unipic2 serve``.

The folder goes into ComfyUI's ``custom_nodes`` as it is. It needs what ComfyUI has: torch, numpy and Pillow.
"""

from .nodes import UniPic2Ask, UniPic2Edit, UniPic2Generate  # noqa: TID252 - ComfyUI chooses this package's name

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

NODE_CLASS_MAPPINGS = {
    "UniPic2Generate": UniPic2Generate,
    "UniPic2Edit": UniPic2Edit,
    "UniPic2Ask": UniPic2Ask,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "UniPic2Generate": "UniPic2 Text to Image",
    "UniPic2Edit": "UniPic2 Edit",
    "UniPic2Ask": "UniPic2 Ask",
}
