"""The network of an edit reward: Qwen2.5-VL reads source, result and instruction; a linear head reads its last token.

The VLM is asked in its stock chat template, with both pictures before the text, and the token after which it would
answer holds what it made of them.

Legend: B edits, S tokens of a row, D hidden size, H/W height and width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from unipic2_train.system import initial_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.distributed.device_mesh import DeviceMesh
    from transformers import Qwen2_5_VLModel

    from unipic2_vlm.processor import QwenVLProcessor, VlmInputs

__all__ = ["PROMPT", "EditRewardNetwork", "VlmAdapterConfig", "add_adapter", "asked", "shard"]

PROMPT = "<prompt>"
"""Where the instruction goes in a question."""


@dataclass
class VlmAdapterConfig:
    """A LoRA adapter on the language model's attention."""

    rank: int = 32
    """Rank of the update matrices."""
    alpha: int = 64
    """The update is scaled by alpha / rank."""
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    """Endings of the adapted modules' names."""


class EditRewardNetwork(nn.Module):
    """A VLM without its words, and a head that starts at zero: all edits are average.

    Args:
        model: The VLM's trunk.
    """

    def __init__(self, model: Qwen2_5_VLModel) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(int(model.config.text_config.hidden_size), 1, device=model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: VlmInputs) -> Tensor:
        """Return one standardised score an edit, float32 (B,).

        Args:
            inputs: B rows, padded on the left.
        """
        hidden = self.model(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            pixel_values=inputs.pixel_values,
            image_grid_thw=inputs.image_grid_thw,
            # Without it the positions of pictures would be one-dimensional, silently.
            mm_token_type_ids=(inputs.input_ids == self.model.config.image_token_id).int(),
            use_cache=False,
        ).last_hidden_state  # (B, S, D)
        score: Tensor = self.head(hidden[:, -1]).squeeze(-1)
        return score.float()

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the language model's layers in the backward pass: less memory, more time."""
        language_model = self.model.language_model
        language_model.activation_checkpointing_enable()
        # Layers are checkpointed in training mode only. Qwen2.5-VL has no dropout, so nothing else changes.
        language_model.train()


def asked(
    processor: QwenVLProcessor, question: str, sources: Tensor, edited: Tensor, instructions: Sequence[str]
) -> VlmInputs:
    """Return what the VLM reads of edits.

    Args:
        processor: Of the VLM; it scales the pictures as it does for questions.
        question: With ``<prompt>`` where the instruction goes.
        sources: uint8 (B, H', W', 3).
        edited: uint8 (B, H, W, 3).
        instructions: B.
    """
    pairs = zip(sources.cpu().numpy(), edited.cpu().numpy(), strict=True)
    pictures = [[Image.fromarray(each) for each in pair] for pair in pairs]
    return processor.question(pictures, [question.replace(PROMPT, text) for text in instructions])


def add_adapter(network: EditRewardNetwork, config: VlmAdapterConfig, seed: int) -> None:
    """Freeze the VLM and put a LoRA adapter on it that starts without effect, a function of the seed alone."""
    from peft import LoraConfig

    network.model.requires_grad_(False)
    network.model.add_adapter(
        LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets), init_lora_weights=False)
    )
    for name, parameter in network.model.named_parameters():
        if ".lora_" in name:
            parameter.data.copy_(initial_value(name, parameter.shape, seed))
            parameter.requires_grad_(True)


def shard(network: EditRewardNetwork, mesh: DeviceMesh) -> None:
    """Shard the network in place with FSDP2: each layer of language model and vision tower, then what is left.

    Args:
        network: With its weights, the same on every process.
        mesh: One-dimensional mesh of the processes that share the parameters.
    """
    for layer in (*network.model.visual.blocks, *network.model.language_model.layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
