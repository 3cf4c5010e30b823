"""What is installed is known by name, version and hash, and a changed file is found."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ENVS = Path(__file__).resolve().parents[2] / "envs"


def script(name: str) -> ModuleType:
    result = importlib.util.spec_from_file_location(name, ENVS / f"{name}.py")
    assert result and result.loader
    module = importlib.util.module_from_spec(result)
    result.loader.exec_module(module)
    return module


SBOM, LOCK = script("sbom"), script("lock")


def wheel(folder: Path, content: str = "answer = 42\n") -> Path:
    """A package of one module."""
    path = folder / "tiny_thing-1.0-py3-none-any.whl"
    described = "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_thing.py", content)
        archive.writestr("tiny_thing-1.0.dist-info/METADATA", described)
        archive.writestr(
            "tiny_thing-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        total = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest())
        record = f"tiny_thing.py,sha256={total.rstrip(b'=').decode()},{len(content)}\n"
        archive.writestr("tiny_thing-1.0.dist-info/RECORD", record)
    return path


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_pip_takes_what_was_locked_and_refuses_another_wheel(tmp_path: Path) -> None:
    made = wheel(tmp_path)
    report, lock = tmp_path / "report.json", tmp_path / "lock.txt"
    result = ["--find-links", str(tmp_path)]
    done = pip(
        "--dry-run", "--ignore-installed", "--report", str(report), *result, "tiny-thing==1.0"
    )
    assert done.returncode == 0, done.stderr
    lock.write_text(LOCK.locked(json.loads(report.read_text())))
    assert lock.read_text().startswith("tiny-thing==1.0 --hash=sha256:")
    strict = ["--require-hashes", "--target", str(tmp_path / "site"), *result, "-r", str(lock)]
    assert pip(*strict).returncode == 0
    made.unlink()
    wheel(tmp_path, "answer = 43\n")
    refused = pip("--upgrade", *strict)
    assert refused.returncode == 1
    assert "DO NOT MATCH THE HASHES" in refused.stderr


def test_a_changed_file_of_a_package_is_found(tmp_path: Path) -> None:
    assert pip("--target", str(tmp_path), str(wheel(tmp_path))).returncode == 0
    [package] = metadata.distributions(path=[str(tmp_path)])
    assert SBOM.altered(package) == []
    (tmp_path / "tiny_thing.py").write_text("answer = 43\n")
    assert SBOM.altered(package) == ["tiny_thing.py"]
    (tmp_path / "tiny_thing.py").unlink()
    assert SBOM.altered(package) == ["tiny_thing.py"]


def test_a_package_without_a_hash_cannot_be_locked() -> None:
    item: dict[str, Any] = {"metadata": {"name": "a", "version": "1"}, "download_info": {}}
    with pytest.raises(ValueError, match="a 1 comes without a SHA-256"):
        LOCK.locked({"install": [item]})


@pytest.mark.parametrize(
    "archive",
    [
        {"hash": "sha256=ab"},
        {"hashes": {"sha256": "ab"}},
        {"hash": "md5=c", "hashes": {"sha256": "ab"}},
    ],
)
def test_the_hash_is_read_from_reports_of_old_and_new_pips(archive: dict[str, Any]) -> None:
    item = {"metadata": {"name": "A", "version": "1"}, "download_info": {"archive_info": archive}}
    assert LOCK.locked({"install": [item]}) == "a==1 --hash=sha256:ab\n"


def test_the_bill_names_every_package_and_what_it_needs() -> None:
    packages = SBOM.installed()
    result = SBOM.bill(packages)
    assert result == SBOM.bill(SBOM.installed())
    assert (result["bomFormat"], result["specVersion"]) == ("CycloneDX", "1.6")
    named = {each["purl"]: each for each in result["components"]}
    torch = f"pkg:pypi/torch@{metadata.version('torch')}"
    assert named[torch]["licenses"]
    assert len(named) == len(packages) - ("eagle3" in packages)
    edges = {each["ref"]: each["dependsOn"] for each in result["dependencies"]}
    assert (
        f"pkg:pypi/numpy@{metadata.version('numpy')}"
        in edges[f"pkg:pypi/transformers@{metadata.version('transformers')}"]
    )
    known = {*named, *edges}
    assert all(need in known for needs in edges.values() for need in needs)


def test_a_version_beside_the_pin_is_named() -> None:
    packages = {"numpy": metadata.distribution("numpy")}
    assert SBOM.unpinned(packages, f"numpy=={metadata.version('numpy')}\n") == []
    [said] = SBOM.unpinned(packages, "# numpy==9\nnumpy==0.1\n")
    assert said.endswith("pinned 0.1")
