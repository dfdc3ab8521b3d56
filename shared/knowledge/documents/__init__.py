"""Documents: what was accepted, which version is visible, and what became of each."""

from .records import Accepted, Document, DocumentState, Stamp, Upload, check_id
from .store import FIRST_KEY, PROBED, RECORDS_AT_ONCE, Documents

__all__ = [
    "FIRST_KEY",
    "PROBED",
    "RECORDS_AT_ONCE",
    "Accepted",
    "Document",
    "DocumentState",
    "Documents",
    "Stamp",
    "Upload",
    "check_id",
]
