"""Splits decoded by an earlier run, on disk: a second run starts at once.

A file is named by a hash of all that its arrays follow from: the files of the split with their sizes and times, what
is kept of an image, and the decoder's version. One that cannot be read is as good as none.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from input_pipeline.sources import Source

VERSION = 2  # of the decoding and of the file; count up where either changes

logger = logging.getLogger(__name__)


def path_of(directory: str, source: Source, decoding: dict[str, Any]) -> Path | None:
    """The file of a split.

    Args:
      directory: of the cache; "" has none.
      source: the split.
      decoding: JSON values, what is kept of an image.

    Returns:
      None where nothing is kept: no directory, or a source whose content cannot be told at a glance.
    """
    content = source.fingerprint()
    if not directory or content is None:
        return None
    key = json.dumps([VERSION, PIL.__version__, content, decoding], sort_keys=True)
    return Path(directory).expanduser() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def read(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Images and labels, or None."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The file is whole or not there, whoever else writes it; where the disk does not take it, the log says so."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = file.name
            np.savez(file, images=images, labels=labels)
        os.replace(temporary, path)
    except OSError as error:
        logger.warning("input_pipeline: data.cache_dir: %s not written: %s", path, error)
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.remove(temporary)
