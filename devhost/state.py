"""What listeners must remember over a restart: blob receipts and timer status, in one SQLite file."""

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_SCHEMA = """
create table if not exists blob_receipt (
    function text not null, container text not null, blob text not null,
    etag text not null, attempts integer not null, done integer not null,
    primary key (function, container, blob)
) without rowid;
create table if not exists timer_status (
    function text primary key, last_run text, next_run text, updated text
) without rowid;
"""


@dataclass(frozen=True, slots=True)
class Receipt:
    """How far one function came with one version (ETag) of one blob."""

    etag: str
    attempts: int
    done: bool


@dataclass(frozen=True, slots=True)
class TimerStatus:
    """When a timer ran last, is due next, and when this was written; aware times."""

    last: datetime | None
    next: datetime
    updated: datetime


class ListenerState:
    """Listener state in SQLite; used from the event loop's thread alone, each write is its own commit."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        # NORMAL under WAL survives a killed process; only a power cut may lose the last receipts,
        # and a lost receipt means one more run of an at-least-once trigger.
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=normal")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def receipts(self, function: str, container: str) -> dict[str, Receipt]:
        """Every receipt of `function` in `container`, by blob name."""
        rows = self._db.execute(
            "select blob, etag, attempts, done from blob_receipt where function = ? and container = ?",
            (function, container),
        )
        return {blob: Receipt(etag, attempts, bool(done)) for blob, etag, attempts, done in rows}

    def save_receipt(self, function: str, container: str, blob: str, receipt: Receipt) -> None:
        self._db.execute(
            "insert or replace into blob_receipt values (?, ?, ?, ?, ?, ?)",
            (function, container, blob, receipt.etag, receipt.attempts, receipt.done),
        )

    def forget_receipts(self, function: str, container: str, blobs: list[str]) -> None:
        """Drop the receipts of blobs that are gone, so that the file does not grow for ever."""
        self._db.executemany(
            "delete from blob_receipt where function = ? and container = ? and blob = ?",
            [(function, container, blob) for blob in blobs],
        )

    def timer_status(self, function: str) -> TimerStatus | None:
        row = self._db.execute(
            "select last_run, next_run, updated from timer_status where function = ?", (function,)
        ).fetchone()
        if row is None:
            return None
        last, due, updated = row
        return TimerStatus(
            datetime.fromisoformat(last) if last else None,
            datetime.fromisoformat(due),
            datetime.fromisoformat(updated),
        )

    def save_timer_status(self, function: str, status: TimerStatus) -> None:
        last = status.last.isoformat() if status.last else None
        self._db.execute(
            "insert or replace into timer_status values (?, ?, ?, ?)",
            (function, last, status.next.isoformat(), status.updated.isoformat()),
        )
