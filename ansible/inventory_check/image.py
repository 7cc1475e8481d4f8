"""Reads the ID of an image from its archive."""

import json
import tarfile
from pathlib import PurePosixPath

from ansible.errors import AnsibleFilterError


def image_id(file: str) -> str:
    """Return the ID of the image in an archive made by `docker save`."""
    try:
        with tarfile.open(file) as archive:
            manifest = archive.extractfile("manifest.json")
            assert manifest is not None
            (image,) = json.loads(manifest.read())
    except (OSError, KeyError, ValueError, AssertionError, tarfile.TarError) as error:
        raise AnsibleFilterError(
            f"{file} is no archive of one image, made by `docker save`: {error}"
        ) from error
    return "sha256:" + PurePosixPath(image["Config"]).name.removesuffix(".json")
