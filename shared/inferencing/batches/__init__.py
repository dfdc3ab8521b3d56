"""Batches of requests: a file of them in, files of answers and of errors out."""

from .execution import WINDOWS, Asked, Batches, Counts
from .lines import ENDPOINTS, full_endpoint
from .records import Batch
from .runs import call_of

__all__ = ["ENDPOINTS", "WINDOWS", "Asked", "Batch", "Batches", "Counts", "call_of", "full_endpoint"]
