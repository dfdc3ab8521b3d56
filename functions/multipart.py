"""A form with one file, read as it comes in: the file's bytes go on at once, the fields are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from shared.errors import InvalidRequest, UnsupportedMediaType

# A field is a name or a number; what is longer is no field.
MAX_FIELD_BYTES = 8 * 1024
MAX_FIELDS = 32


@dataclass
class Form:
    """What came besides the bytes of the file. ``filename`` is None where there was no file."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


class _Parts:
    """Takes the parser's calls: fields are gathered, pieces of the file laid ready in ``pieces``."""

    def __init__(self, file_field: str) -> None:
        self.form = Form()
        self.pieces: list[bytes] = []
        self.ended = False
        self._file_field = file_field
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._name = ""
        self._is_file = False
        self._text = bytearray()

    def callbacks(self) -> dict[str, Callable[..., None]]:
        named = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        return {f"on_{name}": getattr(self, name) for name in (*named, "headers_finished", "end")}

    def part_begin(self) -> None:
        self._disposition = b""
        self._is_file = False
        self._text.clear()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def headers_finished(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options and self._name != self._file_field:
            return
        if self._name != self._file_field or self.form.filename is not None:
            raise InvalidRequest(f"The form takes one file, in the field {self._file_field!r}.")
        self._is_file = True
        self.form.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.pieces.append(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > MAX_FIELD_BYTES:
            raise InvalidRequest(f"A field of the form has more than {MAX_FIELD_BYTES} bytes.")

    def part_end(self) -> None:
        if self._is_file:
            return
        if len(self.form.fields) == MAX_FIELDS:
            raise InvalidRequest(f"The form has more than {MAX_FIELDS} fields.")
        self.form.fields[self._name] = self._text.decode("utf-8", "replace")

    def end(self) -> None:
        self.ended = True


async def read_form(
    content_type: str,
    stream: AsyncIterator[bytes],
    write: Callable[[bytes], Awaitable[None]],
    file_field: str = "file",
) -> Form:
    """Read a multipart form, passing the bytes of its file to ``write``.

    Raises `UnsupportedMediaType`, and `InvalidRequest` for a form that is malformed or broken off.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise UnsupportedMediaType("The body must be a form: multipart/form-data with a boundary.")
    parts = _Parts(file_field)
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())  # pyright: ignore[reportArgumentType]
        async for data in stream:
            parser.write(data)
            for piece in parts.pieces:
                await write(piece)
            parts.pieces.clear()
    except FormParserError:
        raise InvalidRequest("The form is malformed.") from None
    if not parts.ended:
        raise InvalidRequest("The form breaks off.")
    return parts.form
