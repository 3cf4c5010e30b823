"""Write what is installed as CycloneDX 1.6 JSON, and check it against the pins and its own records.

    python envs/sbom.py OUT.json

Every file of every package is compared with the SHA-256 that its wheel's RECORD gives. Ends with
code 1 and one line for each package that is not the pinned version, or has another file. Scanners
such as `grype sbom:OUT.json` or `osv-scanner` read the result.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from packaging.requirements import Requirement

PINS = Path(__file__).with_name("constraints.txt")
OURS = "eagle3"


def plain(name: str) -> str:
    """The name of a package as indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def reference(name: str, version: str) -> str:
    """Package URL."""
    return f"pkg:pypi/{plain(name)}@{version}"


def installed() -> dict[str, metadata.Distribution]:
    """Distributions by name; of two copies on the path the first, which is imported."""
    found: dict[str, metadata.Distribution] = {}
    for each in metadata.distributions():
        found.setdefault(plain(each.metadata["Name"]), each)
    return dict(sorted(found.items()))


def bill(packages: dict[str, metadata.Distribution]) -> dict[str, Any]:
    """The bill of materials; equal environments give equal bytes."""
    references = {name: reference(name, each.version) for name, each in packages.items()}
    needs = {
        name: sorted(references[n] for n in needed(each, packages))
        for name, each in packages.items()
    }
    root = references.get(OURS, "")
    identity = uuid5(NAMESPACE_URL, json.dumps(references, sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{identity}",
        "version": 1,
        "metadata": {"component": component(OURS, packages[OURS], "application")} if root else {},
        "components": [
            component(name, each, "library") for name, each in packages.items() if name != OURS
        ],
        "dependencies": [{"ref": references[name], "dependsOn": needs[name]} for name in packages],
    }


def component(name: str, package: metadata.Distribution, kind: str) -> dict[str, Any]:
    licence = package.metadata.get("License-Expression")
    stated = package.metadata.get("License") or ""
    made: dict[str, Any] = {
        "type": kind,
        "bom-ref": reference(name, package.version),
        "name": name,
        "version": package.version,
        "purl": reference(name, package.version),
    }
    if licence:
        made["licenses"] = [{"expression": licence}]
    elif stated and "\n" not in stated:
        made["licenses"] = [{"license": {"name": stated}}]
    return made


def needed(package: metadata.Distribution, packages: dict[str, Any]) -> set[str]:
    """Installed packages that a package asks for, its extras left out."""
    found = set()
    for requirement in map(Requirement, package.requires or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.add(plain(requirement.name))
    return found & set(packages)


def altered(package: metadata.Distribution) -> list[str]:
    """Files that are missing or have other content than when they were installed."""
    found = []
    for file in package.files or []:
        if file.hash is None or file.suffix == ".pyc":
            continue
        path = Path(str(file.locate()))
        total = hashlib.new(file.hash.mode)
        try:
            with open(path, "rb") as handle:
                while part := handle.read(2**20):
                    total.update(part)
            same = base64.urlsafe_b64encode(total.digest()).rstrip(b"=").decode() == file.hash.value
        except OSError:
            same = False
        if not same:
            found.append(str(file))
    return found


def unpinned(packages: dict[str, metadata.Distribution], pins: str) -> list[str]:
    """Packages of other versions than the pins say; a build such as +cpu is the same version."""
    lines = [line.split("==") for line in pins.splitlines() if "==" in line and line[0] != "#"]
    wanted = {plain(name): version.strip() for name, version in lines}
    return [
        f"{name} is {each.version}, pinned {wanted[name]}"
        for name, each in packages.items()
        if name in wanted and each.version.split("+")[0] != wanted[name].split("+")[0]
    ]


def main() -> None:
    packages = installed()
    faults = unpinned(packages, PINS.read_text(encoding="utf-8"))
    for name, package in packages.items():
        faults += [f"{name}: {file} is not what was installed" for file in altered(package)]
    text = json.dumps(bill(packages), indent=1) + "\n"
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
    print(f"{len(packages)} packages in {sys.argv[1]}, {len(faults)} faults")
    sys.exit("\n".join(faults) if faults else 0)


if __name__ == "__main__":
    main()
