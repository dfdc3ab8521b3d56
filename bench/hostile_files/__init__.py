"""Files made to hang, crash or exhaust whoever reads them, and real ones damaged by chance.

Every file is made here from a seed: the same number always gives the same files. `attacks` are built by
hand, a function each; `damaged` breaks documents of all types in the ways that disks and networks do.
"""

from bench.hostile_files import (  # noqa: F401 - they register what they make
    data,
    mail,
    office,
    office_parts,
    pdf,
    pdf_objects,
    polyglots,
    texts,
)
from bench.hostile_files.damage import damaged
from bench.hostile_files.files import ATTACKS, HostileFile, attacks

__all__ = ["ATTACKS", "HostileFile", "attacks", "damaged"]
