"""The house's floors: packages import only downward, models and data do not know each other, Optuna stays in study/."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# From the top floor to the ground. A module belongs to the longest of these names that it begins with, and imports
# from its own package or from floors below.
FLOORS = [
    ["study.__main__"],
    ["study.cli"],
    ["study.launch", "study.dashboard"],
    ["study.use"],
    ["study.result"],
    ["study.search"],
    ["study.training", "study.budget", "study.history"],
    ["study.config", "study.storage"],
    ["study.signals", "study.forkserver", "study.attributes"],
    ["models.bundle", "models.training", "data"],
    ["models.scores", "data.grouping", "data.public", "data.slides"],
    ["models"],
    ["data.cache", "data.layout"],
    ["data.images"],
    ["data.formats"],
    ["data.processes"],
    ["errors"],
]
HEIGHT = {package: len(FLOORS) - level for level, floor in enumerate(FLOORS) for package in floor}
LOOSE = {"study": 7, "models": 8, "data": 11}
"""Files that may lie beside the packages of a room, so that a newcomer sees the packages."""


def modules() -> dict[str, Path]:
    found = {}
    for room in LOOSE:
        for path in sorted((ROOT / room).glob("**/*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def package(module: str) -> str:
    """The floor's name that a module belongs to; of a room itself only its error is imported."""
    if module in LOOSE:
        return "errors"
    return max((name for name in HEIGHT if f"{module}.".startswith(f"{name}.")), key=len)


def imports(path: Path) -> set[str]:
    """Every module imported anywhere in a file."""
    found: set[str] = set()
    known = modules()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
    return found


def test_packages_import_only_downward() -> None:
    for name, path in modules().items():
        for imported in imports(path) & modules().keys():
            ours, theirs = package(name), package(imported)
            assert ours == theirs or HEIGHT[theirs] < HEIGHT[ours], f"{name} imports {imported}, which is not below it"


def test_no_import_goes_round_in_a_circle() -> None:
    known = modules().keys()
    graphlib.TopologicalSorter({name: imports(path) & known for name, path in modules().items()}).prepare()


def test_packages_are_seen_first() -> None:
    for room, count in LOOSE.items():
        files = sorted(path.name for path in (ROOT / room).glob("*.py"))
        assert len(files) <= count, f"{room}/ has {files} beside its packages"


def test_models_and_data_do_not_know_each_other_or_the_study() -> None:
    for name, path in modules().items():
        room = name.partition(".")[0]
        others = {"models": ("data", "study"), "data": ("models", "study"), "study": ()}[room]
        for imported in imports(path):
            assert imported.partition(".")[0] not in others, f"{name} imports {imported}"


def test_optuna_stays_in_study() -> None:
    for name, path in modules().items():
        if not name.startswith("study") or name.startswith(("study.training", "study.use")):
            assert not [one for one in imports(path) if one.partition(".")[0] == "optuna"], name
