"""The house's floors: imports only go down, models and data do not know each other, Optuna stays in study/."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# From the top floor to the ground; a module may import only from floors below its own.
FLOORS = [
    ["study.__main__"],
    ["study.cli"],
    ["study.cli.data", "study.cli.db", "study.cli.model", "study.cli.sql"],
    ["study.cli.display"],
    ["study.launch"],
    ["study.crew"],
    ["study.evaluate"],
    ["study.worker", "study.final", "study.predict", "study.audit_page", "study.opening"],
    ["study.scoring", "study.dashboard"],
    ["study.refit"],
    ["study.report", "study.objective"],
    ["study.page"],
    ["study.contract", "study.leases", "study.query"],
    ["study.sampling", "study.storage"],
    ["study.rdb", "study.views"],
    ["study.dialect", "study.recipes"],
    ["study.sqlite", "study.signals", "study.server"],
    ["study.config", "study.figures"],
    ["study.presets", "study.space"],
    ["models.bundle"],
    ["models.explain"],
    ["models.predictor", "models.reference", "models.checkpoint"],
    ["models.evaluation"],
    ["models.training", "models.calibration", "models.intervals", "models.conformal"],
    ["models.export", "models.model_card", "models.example"],
    ["models.memory"],
    ["models.cnn"],
    ["data.audit"],
    ["data.datasets", "data.splits", "data.batches", "data.leak"],
    ["data.sources", "data.cache", "data.known"],
    ["data.groups"],
    ["data.candidates"],
    ["data.registration"],
    ["data.images", "data.tissue"],
    ["study", "models", "data"],
]
HEIGHT = {module: len(FLOORS) - level for level, floor in enumerate(FLOORS) for module in floor}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("study", "models", "data"):
        for path in sorted((ROOT / package).glob("**/*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    """Every module imported anywhere in a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in HEIGHT else node.module for name in names}
    return found


def test_every_module_has_a_floor() -> None:
    assert set(modules()) == set(HEIGHT)


def test_imports_only_go_down() -> None:
    for name, path in modules().items():
        for imported in imports(path) & set(HEIGHT):
            assert HEIGHT[imported] < HEIGHT[name], f"{name} imports {imported}, which is not below it"


def test_models_and_data_do_not_know_each_other_or_the_study() -> None:
    for name, path in modules().items():
        room = name.partition(".")[0]
        others = {"models": ("data", "study"), "data": ("models", "study"), "study": ()}[room]
        for imported in imports(path):
            assert imported.partition(".")[0] not in others, f"{name} imports {imported}"


def test_optuna_stays_in_study() -> None:
    for name, path in modules().items():
        if not name.startswith("study"):
            assert not [one for one in imports(path) if one.partition(".")[0] == "optuna"], name
