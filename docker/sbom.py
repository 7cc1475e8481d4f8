#!/usr/bin/env python3
"""Writes the image's bill of materials (CycloneDX JSON) and a summary of its licences.

It lists the packages that dpkg, the Python environment and the npm manifests name; nothing is guessed.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageMetadata, distributions
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.exception import CycloneDxException
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import fixup_id
from packageurl import PackageURL

UNNAMED = "no licence named"
_DPKG_FIELDS = (
    "db:Status-Abbrev",
    "Package",
    "Version",
    "Architecture",
    "source:Package",
    "source:Version",
)
_GNU = re.compile(r"(?P<name>(?:A|L)?GPL|GFDL)-(?P<version>\d(?:\.\d)?)(?P<later>\+?)", re.IGNORECASE)
_SPDX = {
    "expat": "MIT",
    "mit license": "MIT",
    "apache software license": "Apache-2.0",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
}
"""SPDX identifiers of licences that Debian or Python's classifiers name otherwise; keys in lower case."""

_FACTORY = LicenseFactory()


class MaterialsError(Exception):
    """A part of the image cannot be listed."""


def debian_components(root: Path) -> Iterator[Component]:
    """Yield every package that dpkg has installed below `root`; raise MaterialsError if there is none."""
    form = "\t".join(f"${{{field}}}" for field in _DPKG_FIELDS) + "\n"
    command = ["dpkg-query", f"--admindir={root / 'var/lib/dpkg'}", "--show", f"--showformat={form}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode != 0 or not listed.stdout:
        raise MaterialsError(f"{root}: dpkg knows no package there {listed.stderr.strip()}")
    release = (root / "usr/lib/os-release").read_text()
    suite = re.search(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)
    for line in listed.stdout.splitlines():
        status, name, version, architecture, source, source_version = line.split("\t")
        if not status.startswith("ii"):
            continue
        qualifiers = {"arch": architecture, "upstream": f"{source}@{source_version}"}
        if suite:
            qualifiers["distro"] = suite[1]
        copyright_file = root / "usr/share/doc" / name / "copyright"
        text = copyright_file.read_text(errors="replace") if copyright_file.is_file() else ""
        licences = [_licence(named) for named in debian_licences(text)]
        yield _component(PackageURL("deb", "debian", name, version, qualifiers), licences)


def debian_licences(text: str) -> list[str]:
    """Return the names of all licences in a Debian copyright file, as SPDX identifiers if they have one.

    The result does not say which file of the package has which licence, or whether "and" or "or" joins them.
    """
    if re.match(r"Format(?:-Specification)?:", text):
        lines = re.findall(r"^License: *(\S.*)$", text, re.MULTILINE)
        names = [name for line in lines for name in re.split(r",? +(?:and|or|and/or) +|, *| *\| *", line)]
    else:
        names = re.findall(r"/usr/share/common-licenses/([A-Za-z][\w.+-]*\w)", text)
    return sorted({_spdx(name) for name in names if name})


def python_components(site_packages: Path) -> Iterator[Component]:
    """Yield every installed Python distribution; raise MaterialsError if there is none."""
    found = list(distributions(path=[str(site_packages)]))
    if not found:
        raise MaterialsError(f"{site_packages}: no Python package is installed there")
    for distribution in found:
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        purl = PackageURL("pypi", None, name, distribution.version)
        yield _component(purl, _python_licences(distribution.metadata))


def npm_components(folder: Path) -> Iterator[Component]:
    """Yield every npm package, each in a folder of its own; raise MaterialsError if there is none."""
    manifests = sorted(folder.glob("*/package.json"))
    if not manifests:
        raise MaterialsError(f"{folder}: no npm package was unpacked there")
    for manifest in manifests:
        package = json.loads(manifest.read_text())
        namespace, _, name = package["name"].rpartition("/")
        purl = PackageURL("npm", namespace or None, name, package["version"])
        yield _component(purl, [_FACTORY.make_from_string(package["license"])])


def bill(components: Iterable[Component], version: str) -> str:
    """Return the bill of materials as CycloneDX JSON."""
    appliance = Component(
        name="understudy",
        version=version,
        type=ComponentType.CONTAINER,
        licenses=[_licence("AGPL-3.0-or-later")],
        bom_ref="understudy",
    )
    bom = Bom(components=components, metadata=BomMetaData(component=appliance))
    bom.register_dependency(appliance, bom.components)
    return JsonV1Dot6(bom).output_as_string(indent=1)


def summary(components: Iterable[Component]) -> str:
    """Return the licences, each with the components that name it."""
    by_licence = defaultdict(list)
    for component in components:
        for licence in map(_name, component.licenses) if component.licenses else [UNNAMED]:
            by_licence[licence].append(f"{component.name} {component.version}")
    paragraphs = [
        f"{licence}\n  " + "\n  ".join(sorted(by_licence[licence])) for licence in sorted(by_licence)
    ]
    head = "Licences that the parts of this image name. Texts: /usr/share/doc/*/copyright and LICENSE files."
    return "\n\n".join([head, *paragraphs]) + "\n"


def _name(licence: License) -> str:
    return licence.value if isinstance(licence, LicenseExpression) else str(licence.id or licence.name)


def _component(purl: PackageURL, licences: list[License]) -> Component:
    return Component(
        name=purl.name,
        group=purl.namespace,
        version=purl.version,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=licences,
    )


def _licence(name: str) -> License:
    spdx = fixup_id(name)
    return _FACTORY.make_with_id(spdx) if spdx else _FACTORY.make_with_name(name)


def _python_licences(metadata: PackageMetadata) -> list[License]:
    if "License-Expression" in metadata:
        return [_FACTORY.make_from_string(metadata["License-Expression"])]
    classified = [
        entry.rpartition(" :: ")[2]
        for entry in metadata.get_all("Classifier", [])
        if entry.startswith("License :: ") and entry != "License :: OSI Approved"
    ]
    # Some packages have the whole licence text in this field.
    free = [text for text in metadata.get_all("License", []) if "\n" not in text]
    return [_licence(_spdx(name)) for name in classified or free]


def _spdx(name: str) -> str:
    """Return the SPDX identifier, or the unchanged name if SPDX has none."""
    gnu = _GNU.fullmatch(name)
    if gnu:
        version = gnu["version"] if "." in gnu["version"] else gnu["version"] + ".0"
        return f"{gnu['name'].upper()}-{version}-{'or-later' if gnu['later'] else 'only'}"
    return _SPDX.get(name.lower()) or fixup_id(name) or name


def main() -> int:
    """Write the two files and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the image's file system")
    parser.add_argument("--site-packages", type=Path, required=True, help="the image's Python environment")
    parser.add_argument("--npm", type=Path, required=True, help="the folder of the unpacked npm packages")
    parser.add_argument("--version", required=True, help="the appliance's version")
    parser.add_argument("--to", type=Path, required=True, help="the folder to write to")
    given = parser.parse_args()
    try:
        components = [
            *debian_components(given.root),
            *python_components(given.site_packages),
            *npm_components(given.npm),
        ]
        text = bill(components, given.version)
    except (MaterialsError, CycloneDxException, OSError, ValueError, KeyError) as error:
        print(f"sbom: {error}", file=sys.stderr)
        return 1
    given.to.mkdir(parents=True, exist_ok=True)
    (given.to / "sbom.cdx.json").write_text(text)
    (given.to / "licences.txt").write_text(summary(components))
    print(f"sbom: {len(components)} components")
    return 0


if __name__ == "__main__":
    sys.exit(main())
