"""What clients send, field by field: OpenAI's, and the extensions on which image servers agree.

Fields of OpenAI's that mean nothing here are accepted, so that its clients work unmodified, and named in the response
header ``X-Ignored-Fields``; unknown ones are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ChatBody",
    "ChatReply",
    "EditBody",
    "EditFields",
    "ErrorBody",
    "GenerateBody",
    "ImageUrl",
    "ImagesReply",
    "Message",
    "ModelReply",
    "ModelsReply",
    "PictureFields",
    "ignored_fields",
]

Seed = Annotated[int, Field(ge=0, le=2**63 - 1, description="Picture k is made from seed + k; by default a fresh one.")]
Steps = Annotated[int, Field(ge=1, description="Denoising steps.")]
Guidance = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False, description="Scale of classifier-free guidance.")]
Size = Annotated[str, Field(pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$", description="WIDTHxHEIGHT in px, or auto.")]
NOT_HONOURED = "Accepted and not honoured."
OTHERS = "other URLs are opened only of hosts that the server allows."
Ignored = Annotated[Any, Field(description=NOT_HONOURED)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PictureFields(_Body):
    """What all pictures have in common."""

    prompt: Annotated[str, Field(description="What to make, or how to edit.")]
    model: str | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    size: Size | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100, description="Quality of JPEG and WebP.")] | None = None
    response_format: (
        Annotated[Literal["b64_json", "url"], Field(description="url is a data URI: the server keeps no pictures.")]
        | None
    ) = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3, description="Previews of a stream.")] | None = None
    seed: Seed | None = None
    negative_prompt: Annotated[str, Field(description="What to lead away from.")] | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    background: Ignored = None
    complexity: Ignored = None
    frame_count: Ignored = None
    frame_duration_ms: Ignored = None
    moderation: Ignored = None
    quality: Ignored = None
    safety_identifier: Ignored = None
    svg: Ignored = None
    user: Ignored = None


class GenerateBody(PictureFields):
    """Body of ``/v1/images/generations``."""

    style: Ignored = None


class EditFields(PictureFields):
    """Fields of a form for ``/v1/images/edits``, beside the picture."""

    input_fidelity: Ignored = None
    markup: Ignored = None


class ImageUrl(_Body):
    """A picture inside JSON."""

    image_url: Annotated[str, Field(description=f"A data URI (data:image/png;base64,...); {OTHERS}")]


class EditBody(EditFields):
    """JSON body of ``/v1/images/edits``."""

    images: Annotated[list[ImageUrl], Field(description="The picture to edit; the model takes one.")]
    mask: Annotated[Any, Field(description="Refused: the model edits by words alone.")] = None


class _Url(_Body):
    url: Annotated[str, Field(description=f"A data URI; {OTHERS}")]
    detail: Ignored = None


class TextPart(_Body):
    """Words of a message."""

    type: Literal["text"]
    text: str


class ImagePart(_Body):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: _Url
    seed: Annotated[Any, Field(description="That of a picture of this server's, which may be sent back as it is.")] = (
        None
    )


class Message(_Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] | None = None
    images: Annotated[list[ImagePart], Field(description="Pictures of an earlier answer.")] | None = None
    name: Ignored = None
    refusal: Ignored = None
    annotations: Ignored = None
    audio: Ignored = None
    function_call: Ignored = None
    tool_calls: Ignored = None

    def text(self) -> str:
        """Return the words."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    def urls(self) -> list[str]:
        """Return the pictures."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url.url for part in (*parts, *(self.images or ())) if isinstance(part, ImagePart)]


class StreamOptions(_Body):
    """What a stream brings beside the answer."""

    include_usage: Annotated[bool, Field(description="Count tokens in a last chunk.")] | None = None
    include_obfuscation: Ignored = None


class ChatBody(_Body):
    """Body of ``/v1/chat/completions``."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    modalities: (
        Annotated[
            list[Literal["text", "image"]],
            Field(
                description='["text"] answers; ["image"] draws, or edits the last picture. By default, or with both, '
                "the words of the last message decide, and the reply's choice tells."
            ),
        ]
        | None
    ) = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, description="By default 0, the likeliest answer.")] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Seed | None = None
    size: Size | None = None
    negative_prompt: str | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    audio: Ignored = None
    frequency_penalty: Ignored = None
    function_call: Ignored = None
    functions: Ignored = None
    logit_bias: Ignored = None
    logprobs: Ignored = None
    metadata: Ignored = None
    moderation: Ignored = None
    parallel_tool_calls: Ignored = None
    prediction: Ignored = None
    presence_penalty: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    reasoning_effort: Ignored = None
    response_format: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    stop: Ignored = None
    store: Ignored = None
    tool_choice: Ignored = None
    tools: Ignored = None
    top_logprobs: Ignored = None
    user: Ignored = None
    verbosity: Ignored = None
    web_search_options: Ignored = None


class _Made(BaseModel):
    b64_json: str | None = None
    url: str | None = None
    seed: int


class ImagesReply(BaseModel):
    """Pictures that were made."""

    created: int
    data: list[_Made]
    background: str
    output_format: str
    quality: str
    size: str


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Taken(BaseModel):
    task: Literal["text", "generate", "edit"]
    because: str
    otherwise: Annotated[str, Field(description="How to have it otherwise.")]


class _Choice(BaseModel):
    index: int
    message: dict[str, Any]
    finish_reason: str


class ChatReply(BaseModel):
    """An answer; pictures are in the message's ``images``, as data URIs with their seed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[_Choice]
    choice: Annotated[_Taken, Field(description="What the request was taken for.")]
    usage: Annotated[_Usage, Field(description="Of an answer in words.")] | None = None


class ModelReply(BaseModel):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    facts: dict[str, Any]


class ModelsReply(BaseModel):
    """All models."""

    object: Literal["list"]
    data: list[ModelReply]


class _Problem(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """An error."""

    error: _Problem


def ignored_fields(body: _Body) -> list[str]:
    """Return the fields of a body that were given and are not honoured."""
    return sorted(
        name
        for name in body.model_fields_set
        if getattr(body, name) is not None and type(body).model_fields[name].description == NOT_HONOURED
    )
