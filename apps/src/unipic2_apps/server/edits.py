"""Bodies of ``/v1/images/edits``: a form with files, or JSON with data URIs."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from fastapi import Request
from PIL import Image
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from unipic2_apps.server.errors import ApiError, explain
from unipic2_apps.server.pictures import read_picture
from unipic2_apps.server.schemas import EditBody, EditFields
from unipic2_apps.server.service import Service

__all__ = ["EDIT_BODIES", "read_edit"]

PICTURES = ("image", "image[]")
MOST_FILES = 16
MOST_FIELDS = 64
FIELD_BYTES = 2**20

Body = TypeVar("Body", bound=BaseModel)


async def read_edit(request: Request, service: Service) -> tuple[EditFields, list[Image.Image]]:
    """Return the fields and pictures of a request to edit.

    Raises:
        ApiError: If they can't be read, or a mask is among them.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return await _read_json(request, service)
    if kind == "multipart/form-data":
        return await _read_form(request, service)
    msg = f"the content type is {kind[:100]!r}; send multipart/form-data or application/json."
    raise ApiError(400, "invalid_content_type", msg)


async def _read_json(request: Request, service: Service) -> tuple[EditFields, list[Image.Image]]:
    try:
        values = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise ApiError(400, "invalid_json", "the body is no valid JSON.") from None
    body = _validate(EditBody, values)
    if body.mask is not None:
        raise _mask_refused()
    if not body.images:
        raise _missing()
    service.check_edited(len(body.images))
    return body, [await service.picture(each.image_url, "images") for each in body.images]


async def _read_form(request: Request, service: Service) -> tuple[EditFields, list[Image.Image]]:
    try:
        form = await request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=FIELD_BYTES)
    except ApiError:
        raise
    except HTTPException as error:
        raise ApiError(400, "invalid_form", f"the form can't be read: {error.detail}") from None
    except (ValueError, LookupError) as error:  # what the parser lets through, such as header bytes of no encoding
        raise ApiError(400, "invalid_form", f"the form can't be read ({type(error).__name__}).") from None
    try:
        return await _from_form(form, service)
    finally:
        await form.close()


async def _from_form(form: FormData, service: Service) -> tuple[EditFields, list[Image.Image]]:
    values: dict[str, Any] = {}
    pictures: list[Image.Image] = []
    for name, value in form.multi_items():
        if name == "mask":
            raise _mask_refused()
        if name in PICTURES:
            service.check_edited(len(pictures) + 1)
            pictures.append(await _from_part(value, service))
        elif not isinstance(value, str):
            raise ApiError(400, "invalid_value", "a file was sent where text is expected.", param=name[:100])
        elif name in values:
            raise ApiError(400, "invalid_value", "the field was sent twice.", param=name[:100])
        else:
            values[name] = value
    fields = _validate(EditFields, values)
    if not pictures:
        raise _missing()
    return fields, pictures


async def _from_part(value: UploadFile | str, service: Service) -> Image.Image:
    if isinstance(value, str):
        return await service.picture(value, "image")
    data = await value.read()
    mime = (value.content_type or "application/octet-stream").partition(";")[0].strip().lower()
    return await asyncio.to_thread(read_picture, data, max_pixels=service.limits.max_input_pixels, mime=mime)


def _validate(kind: type[Body], values: Any) -> Body:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise explain(error.errors(include_url=False, include_context=False, include_input=False)) from None


def _missing() -> ApiError:
    return ApiError(400, "missing_image", "there is no picture to edit: send one as image.", param="image")


def _mask_refused() -> ApiError:
    msg = "this model has no masks: it edits by words alone. Leave the mask out and name what to change."
    return ApiError(400, "mask_not_supported", msg, param="mask")


def _inlined(kind: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema without references, which would lead out of their place."""
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, list):
            return [resolved(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return resolved(definitions[value["$ref"].rpartition("/")[2]])
        return {key: resolved(each) for key, each in value.items()}

    result: dict[str, Any] = resolved(schema)
    return result


def _bodies() -> dict[str, Any]:
    form = _inlined(EditFields)
    file = {"type": "string", "format": "binary", "description": "The picture to edit: PNG, JPEG or WebP."}
    form["properties"] |= {"image": file, "image[]": {"type": "array", "items": file, "maxItems": 1}}
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": _inlined(EditBody)}}
    return {"requestBody": {"required": True, "content": content}}


EDIT_BODIES = _bodies()
"""The two bodies, for the OpenAPI document."""
