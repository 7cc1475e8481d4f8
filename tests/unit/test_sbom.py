"""The bill of materials lists what is installed, by name, version and licence, and is not made of nothing."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from docker.sbom import debian_licences
from tests.stack import REPOSITORY

STATUS = """\
Package: present
Status: install ok installed
Architecture: amd64
Source: origin (2.0)
Version: 1:2.0-1+b1
Maintainer: nobody
Description: is there

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0-1
Maintainer: nobody
Description: is not there

"""
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-2+ or Expat

License: GPL-2+
 The text.
"""


@dataclass(frozen=True, slots=True)
class Image:
    """The parts of an image's file system that are read."""

    root: Path
    site_packages: Path
    npm: Path
    to: Path

    def listed(self) -> "subprocess.CompletedProcess[str]":
        """Run the script as the build does."""
        options = {
            "--root": self.root,
            "--site-packages": self.site_packages,
            "--npm": self.npm,
            "--version": "0.9",
            "--to": self.to,
        }
        words = [str(word) for option in options.items() for word in option]
        return subprocess.run(
            [sys.executable, "docker/sbom.py", *words],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def image(tmp_path: Path) -> Image:
    made = Image(tmp_path / "root", tmp_path / "site", tmp_path / "npm", tmp_path / "to")
    for path, text in {
        made.root / "var/lib/dpkg/status": STATUS,
        made.root / "usr/lib/os-release": "ID=debian\nVERSION_CODENAME=forky\n",
        made.root / "usr/share/doc/present/copyright": COPYRIGHT,
        made.site_packages / "Some_Thing-3.1.dist-info/METADATA": (
            "Metadata-Version: 2.4\nName: Some_Thing\nVersion: 3.1\nLicense-Expression: MIT AND Apache-2.0\n"
        ),
        made.npm / "viewer/package.json": '{"name": "@scope/viewer", "version": "3.0.0", "license": "MIT"}',
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return made


def bill(image: Image) -> dict[str, Any]:
    # They take seconds, which only the process that runs these tests should spend.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    done = image.listed()
    assert done.returncode == 0, done.stderr
    text = (image.to / "sbom.cdx.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    return dict(json.loads(text))


def test_bill_lists_what_is_installed_by_package_url(image: Image) -> None:
    found = bill(image)
    assert found["metadata"]["component"]["version"] == "0.9"
    assert {component["purl"] for component in found["components"]} == {
        "pkg:deb/debian/present@1:2.0-1%2Bb1?arch=amd64&distro=forky&upstream=origin%402.0",
        "pkg:pypi/some-thing@3.1",
        "pkg:npm/%40scope/viewer@3.0.0",
    }


def test_summary_names_every_component_below_its_licences(image: Image) -> None:
    bill(image)
    _, *paragraphs = (image.to / "licences.txt").read_text(encoding="utf-8").strip().split("\n\n")
    assert paragraphs == [
        "GPL-2.0-or-later\n  present 1:2.0-1+b1",
        "MIT\n  present 1:2.0-1+b1\n  viewer 3.0.0",
        "MIT AND Apache-2.0\n  some-thing 3.1",
    ]


def test_package_without_a_copyright_file_is_listed_without_a_licence(image: Image) -> None:
    (image.root / "usr/share/doc/present/copyright").unlink()
    (package,) = [part for part in bill(image)["components"] if part["name"] == "present"]
    assert "licenses" not in package
    assert "no licence named\n  present 1:2.0-1+b1" in (image.to / "licences.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("missing", ["root/var/lib/dpkg/status", "site/Some_Thing-3.1.dist-info/METADATA"])
def test_image_of_which_a_part_cannot_be_listed_is_refused(
    image: Image, tmp_path: Path, missing: str
) -> None:
    (tmp_path / missing).unlink()
    (tmp_path / missing).parent.rmdir()
    done = image.listed()
    assert done.returncode == 1
    assert done.stderr.startswith("sbom: ")
    assert not image.to.exists()


def test_licences_of_an_old_copyright_file_are_those_whose_texts_it_refers_to() -> None:
    text = (
        "On Debian systems see /usr/share/common-licenses/LGPL-2.1, and /usr/share/common-licenses/GPL-3.\n"
    )
    assert debian_licences(text) == ["GPL-3.0-only", "LGPL-2.1-only"]
