"""Images, audio and files inside messages: base64 that is none is refused before it is sent anywhere."""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping
from typing import Any

from shared.errors import InvalidParameter


def check_media(messages: Any) -> None:
    """Raise `InvalidParameter` that names the message whose inline data is not base64."""
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and not all(map(_is_base64, _inline_data(part))):
                where = f"messages[{index}]"
                raise InvalidParameter(f"{where} holds data that is not valid base64.", parameter=where)


def _inline_data(part: Mapping[str, Any]) -> Iterator[Any]:
    match part:
        case {"type": "image_url", "image_url": {"url": str(url)}} if url.startswith("data:"):
            yield url.partition(",")[2]
        case {"type": "input_audio", "input_audio": {"data": data}}:
            yield data
        case {"type": "file", "file": {"file_data": str(data)}}:
            yield data.partition(",")[2] if data.startswith("data:") else data


def _is_base64(data: Any) -> bool:
    if not isinstance(data, str) or not data:
        return False
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        return False
    return True
