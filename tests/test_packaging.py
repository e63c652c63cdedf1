"""What a user installs: the wheel's contents, and what a checkout that lost its links says."""

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = (
    "onnxprune",
    "onnxprune/criteria",
    "onnxprune/op_rules",
    "onnxprune/gradients",
    "onnxprune/low_rank",
    "onnxprune/torch_twin",
    "onnxprune/torch_twin/ops",
    "onnxprune/training",
    "onnxprune/sweeping",
    "passes",
    "calibration",
)
BUILD = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"


def installed_as(part: str) -> str:
    return part if part.startswith("onnxprune") else f"onnxprune/{part}"


def checkout(folder: Path) -> Path:
    """A copy of what a build reads, without the links."""
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
        for path in [*(ROOT / part).glob("*.py"), *(ROOT / part).glob("py.typed")]:
            shutil.copy(path, folder / part)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a checkout that lost its links: with them it cannot hold less."""
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("setuptools 77 reads this pyproject.toml; an older one is installed")
    folder = checkout(tmp_path_factory.mktemp("checkout"))
    built = subprocess.run([sys.executable, "-c", BUILD], cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(next((folder / "dist").glob("*.whl")))


def test_the_wheel_holds_every_module_once_under_one_name(wheel: zipfile.ZipFile) -> None:
    expected = {f"{installed_as(part)}/{path.name}" for part in PARTS for path in (ROOT / part).glob("*.py")}
    code = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert sorted(code) == sorted(expected | {"onnxprune/py.typed"})


def test_the_wheel_carries_licence_version_and_command(wheel: zipfile.ZipFile) -> None:
    from onnxprune.version import __version__

    info = f"onnxprune-{__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert "onnxprune = onnxprune.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_the_wheel_asks_for_no_onnxruntime_and_no_torch_unless_told(wheel: zipfile.ZipFile) -> None:
    metadata = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/METADATA"))
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert needed
    assert not [line for line in needed if "onnxruntime" in line or "torch" in line]


def test_every_direct_dependency_is_pinned_within_its_bounds() -> None:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line[:60]]
    pinned = {canonicalize_name(p.name): str(p.specifier).removeprefix("==") for p in pins}
    asked = [*project["dependencies"], *(line for name in extras if name != "gpu" for line in extras[name])]
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_a_checkout_whose_links_became_text_files_says_so(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    for name in ("passes", "calibration"):
        (folder / "onnxprune" / name).write_text(f"../{name}", encoding="utf-8")
    code = "import onnxprune; onnxprune.compress"
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "symbolic link" in ran.stderr.splitlines()[-1]
