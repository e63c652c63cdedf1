"""The house: who may import whom, what the wheel holds, and how long a file may get."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "onnxprune": "onnxprune",
    "onnxprune.criteria": "onnxprune/criteria",
    "onnxprune.op_rules": "onnxprune/op_rules",
    "onnxprune.gradients": "onnxprune/gradients",
    "onnxprune.low_rank": "onnxprune/low_rank",
    "onnxprune.torch_twin": "onnxprune/torch_twin",
    "onnxprune.torch_twin.ops": "onnxprune/torch_twin/ops",
    "onnxprune.training": "onnxprune/training",
    "onnxprune.sweeping": "onnxprune/sweeping",
    "onnxprune.passes": "passes",
    "onnxprune.calibration": "calibration",
}

# From the ground up. A module imports from its own row and from the rows above it in this table, never from below.
# A folder's name stands for all its modules.
ROWS = {
    "values": "version errors named progress parallel heap native labels graph",
    "models": "atomic serialise cache model_check model_io runtime constants bodies branches pieces trace",
    "twin": "torch_twin.*",
    "operators": "op_rules.*",
    "analysis": "factors units balance conflicts resolve grouping sizes dependency weights layers steady costs "
    "widths plan",
    "sums": "calibration.statistics calibration.least_squares calibration.few_rows",
    "calibration": "calibration.*",
    "passes": "passes.*",
    "criteria": "criteria.*",
    "settings": "checking config report",
    "training": "training.*",
    "stages": "functions inserted distilled sharing prepare gradients.* importance flow final_responses nisp scoring "
    "allocate probe ranks counting together pricing layer_times greedy choose tails heads "
    "verify half_open planning clipping solve low_rank.* pairs descent adjust rebuild bench fidelity resident measure "
    "coding reporting course tuning global_error composing cutting rounds",
    "order": "pipeline replay folding finetuning",
    "sweeps": "sweeping.*",
    "questions": "explain inspection judging doctor single_layers curves",
    "command line": "bars options output picture render render_facts render_sweep showing commands cli __main__ "
    "__init__",
}
GROUND = ("values", "models", "operators", "analysis")
ONLY = {
    "passes": (*GROUND, "twin", "passes"),
    "calibration": (*GROUND, "sums", "calibration"),
    "sums": ("values", "sums"),
    "criteria": ("values", "sums", "criteria"),
}
BLIND = ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "onnx_graphsurgeon", "torch")
"""What a criterion and the sums must not know of: they see matrices."""


@cache
def modules() -> dict[str, Path]:
    """Dotted name (a package's `__init__` by the package's name) → file."""
    files = ((package, path) for package, folder in FOLDERS.items() for path in (ROOT / folder).glob("*.py"))
    return {package if path.stem == "__init__" else f"{package}.{path.stem}": path for package, path in files}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


@cache
def imported(name: str) -> frozenset[str]:
    """Every module that a module imports, lazily or for types alone included."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} uses a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules() else str(node.module))
    return frozenset(found - {name})


def row_of(name: str) -> str | None:
    short = "__init__" if name == "onnxprune" else name.removeprefix("onnxprune.")
    for row, members in ROWS.items():
        if short in members.split():
            return row
    return next((row for row, members in ROWS.items() if f"{short.split('.')[0]}.*" in members.split()), None)


@pytest.mark.parametrize("name", sorted(modules()))
def test_every_module_has_a_row_and_imports_only_what_its_row_may(name: str) -> None:
    order, own = list(ROWS), row_of(name)
    assert own is not None, f"{name} is new: give it a row in the table of this test and a line in the README"
    allowed = ONLY.get(own, tuple(order[: order.index(own) + 1]))
    wrong = {other: row_of(other) for other in imported(name) if other in modules() and row_of(other) not in allowed}
    assert not wrong, f"{name} ({own}) may import from {', '.join(allowed)}"


@pytest.mark.parametrize("name", sorted(n for n in modules() if row_of(n) in ("criteria", "sums")))
def test_a_criterion_sees_matrices_and_never_a_graph(name: str) -> None:
    assert not {other for other in imported(name) if other.split(".")[0] in BLIND}


def test_no_module_imports_itself_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in done:
            for other in imported(name) & modules().keys():
                visit(other, (*path, name))
            done.add(name)

    for name in modules():
        visit(name, ())
    assert done == modules().keys()


def test_every_name_in_the_table_is_a_module() -> None:
    known = {"__init__" if n == "onnxprune" else n.removeprefix("onnxprune.") for n in modules()}
    listed = {name for members in ROWS.values() for name in members.split() if not name.endswith(".*")}
    assert listed <= known


def test_the_wheel_packages_are_the_folders_on_disk() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    tops = {"onnxprune": "onnxprune", "onnxprune.passes": "passes", "onnxprune.calibration": "calibration"}
    found = set(tops)
    for package, folder in tops.items():
        inner = (path.parent for path in (ROOT / folder).rglob("__init__.py") if not path.is_symlink())
        parts = (path.relative_to(ROOT / folder).parts for path in inner)
        found |= {".".join((package, *part)) for part in parts}
    assert set(setuptools["packages"]) == found == set(FOLDERS)
    assert setuptools["package-dir"] == tops


@pytest.mark.parametrize("folder", ["passes", "calibration"])
def test_the_two_folders_are_linked_into_the_package_relatively(folder: str) -> None:
    link = ROOT / "onnxprune" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder


@pytest.mark.parametrize("name", sorted(modules()))
def test_modules_say_what_they_are_for_and_stay_short(name: str) -> None:
    assert ast.get_docstring(tree(name))
    assert len(modules()[name].read_text(encoding="utf-8").splitlines()) <= 350
    functions = [n for n in ast.walk(tree(name)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= 60} == {}


@pytest.mark.parametrize("package", FOLDERS)
def test_the_readme_has_a_line_for_every_file(package: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    folder = FOLDERS[package]
    lines = [line for line in text.splitlines() if line.startswith(f"| `{folder}/")]
    named = {Path(line.split("`")[1]) for line in lines}
    on_disk = {Path(folder) / p.name for p in (ROOT / folder).glob("*.py")}
    assert {path for path in named if path.parent == Path(folder)} == on_disk


def test_there_is_one_version() -> None:
    from onnxprune.version import __version__

    written = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {__version__}" in written or "## Unreleased" in written


def test_the_operator_table_in_the_docs_names_every_rule() -> None:
    from onnxprune.op_rules import RULES

    text = (ROOT / "docs/operators.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    words = set(re.findall(r"\w+", " ".join(cells)))
    assert {op for _, op in RULES} <= words


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")]:
        links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == [], page


def test_the_readme_and_ci_run_the_same_commands() -> None:
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in ci if line.startswith("make ")]
    assert commands == ["make demo", "make test", "make light"]
    assert all(f"\n{command} " in readme for command in commands)
