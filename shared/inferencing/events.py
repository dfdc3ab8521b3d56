"""Server-sent events, decoded as bytes arrive."""

from __future__ import annotations

# A chunk of a chat completion is under a kilobyte; only a fault sends a line of this size.
MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventDecoder:
    """Feed it blocks of a body; it gives the ``data`` of every event that is complete."""

    def __init__(self) -> None:
        self._unfinished_line = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, block: bytes) -> list[bytes]:
        """The data of the events that ``block`` completes. Raises ``ValueError`` for an endless event."""
        events: list[bytes] = []
        lines = (self._unfinished_line + block).split(b"\n")
        self._unfinished_line = lines.pop()
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
                self._size += len(line)
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data, self._size = [], 0
        if self._size + len(self._unfinished_line) > MAX_EVENT_BYTES:
            raise ValueError("an event exceeds the limit")
        return events
