"""What README and docs/ show is run: commands, the study file, queries, Python; their tables are the code's."""

import contextlib
import re
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from data.public import tissue
from study.config.space import PARAMETERS
from study.history import views
from study.history.views import COLUMNS
from study.storage.door import open_storage
from tests import slides
from tests.conftest import TINY, Shell, shrink, tiny_options

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("data", "studies", "running", "history", "models", "slides", "score", "architecture")
"""The pages under docs/, as they are read after README: commands depend on earlier ones."""
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", *(f"docs/{page}.md" for page in ORDER))
}
SHOWN = "\n".join(PAGES.values())


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SHOWN, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Each once, where it is shown first."""
    lines = "".join(blocks("bash")).splitlines()
    words = [tuple(re.sub(r"\s+#.*|\s+>.*", "", line).split()) for line in lines if line.strip()]
    return [list(one) for one in dict.fromkeys(words)]


SMALLER = ["image_size", "epochs", "min_epochs", "eta", "final_epochs", "batch_size", "final_batch_size"]


def made_small(words: list[str]) -> list[str]:
    """Give a command a budget of seconds; the embedded digits stay as they are."""
    if words[:2] == ["study", "plan"]:
        return [*words, "--hours", "0.02"]
    if words[:2] != ["study", "run"]:
        return words
    extra = ["--set", "image_size=32", "--set", "final_seeds=1", "--trials", "2", "--set", "space.base_filters=2"]
    extra += ["--hours", "0.02", "--set", "limit={}"]  # 3 % of the hours go into measuring
    for name in SMALLER[1:]:
        extra += ["--set", f"{name}={TINY[name]}"]
    return [*words, *extra, "--set", "space.filters_multiplier=1"]


@pytest.mark.long
def test_every_command_works_in_order(shell: Shell, tmp_path: Path, digits_folder: Path) -> None:
    (file,) = blocks("toml")
    (tmp_path / "my_study.toml").write_text(file)
    shrink(digits_folder, tmp_path / "my_images", classes=3, each=30)
    tissue.generate(tmp_path / "tiles", sources=5, copies=2, size=32)
    inside = tmp_path / "lung_colon_image_set"
    for name in tissue.CLASSES:
        organ = "colon" if "colon" in name else "lung"
        shutil.copytree(tmp_path / "tiles" / name, inside / f"{organ}_image_sets" / name)
    (tmp_path / "my_slides").mkdir()
    for seed, name in enumerate(("first", "second", "third", "fourth", "fifth", "sixth", "seventh")):
        slide = slides.slide(tmp_path / "my_slides" / f"{name}.svs", seed=seed)
        if name != "seventh":
            slides.outlined(slide.with_suffix(".geojson"))
    assert shell("run", "--preset", "quick", "--data", "digits")[0] == 0  # as scripts/quickstart.sh
    ran = 0
    for words in commands():
        if words[0] == "study" and words[1] not in ("dashboard", "serve"):
            code, out, err = shell(*made_small(words)[1:])
            assert code == 0, (words, err)
            # How it goes; on what; how the groups are known; what was deleted.
            talks = ("run", "resume", "retrain", "plan", "data", "db", "evaluate", "sql")
            assert not err or words[1] in talks or "--out" in words, words
            assert out or words[1:3] in (["db", "delete"], ["db", "upgrade"], ["data", "clean"])
            ran += 1
    assert ran >= 28
    for query, shown in asked():
        cursor = sqlite3.connect(tmp_path / "optuna.db").execute(query)
        assert [column[0] for column in cursor.description] == shown.splitlines()[0].split()
        assert cursor.fetchall()
    shutil.copy(next((tmp_path / "my_images").glob("*/*.png")), tmp_path / "photo.png")
    small = {name: TINY[name] for name in SMALLER} | {"image_size": 32, "trials": 2, "limit": {}, "final_seeds": 1}
    for block in blocks("python"):
        found: dict[str, Any] = {}
        exec(block.replace("hours=2", f"hours=0.02, name='python', **{small}"), found)
        if "history" in found:
            assert "model" in set(found["history"].frame("models")["path"])
        else:
            assert found["result"].verdict


def asked() -> list[tuple[str, str]]:
    """Queries and the answers that are shown below them."""
    return re.findall(r"^```sql\n(.*?)^```\n+```text\n(.*?)^```", SHOWN, re.MULTILINE | re.DOTALL)


def test_answers_are_those_of_the_kept_history(shell: Shell, tmp_path: Path) -> None:
    assert len(asked()) == len(blocks("sql")) == 7  # README repeats one of the six
    assert len(set(asked())) == 6
    with contextlib.closing(sqlite3.connect(tmp_path / "optuna.db")) as kept:
        kept.executescript((ROOT / "docs" / "history.sql").read_text())
    views.refresh(open_storage(f"sqlite:///{tmp_path}/optuna.db", create=False).engine)  # as the next run does
    for query, shown in asked():
        code, out, _ = shell("sql", query)
        assert code == 0
        assert [line.rstrip() for line in out.splitlines()] == shown.splitlines(), query
        with contextlib.closing(sqlite3.connect(tmp_path / "optuna.db")) as plain:  # the views are in the file
            assert len(plain.execute(query).fetchall()) == len(shown.splitlines()) - 1


def columns_table() -> str:
    head = ["| view | column | type | unit | meaning |", "|---|---|---|---|---|"]
    rows = [
        f"| `{view}` | `{one.name}` | {one.type} | {one.unit} | {one.meaning} |"
        for view, columns in COLUMNS.items()
        for one in columns
    ]
    return "\n".join([*head, *rows, "| `trials_flat` | each parameter by its name | its own | | as it was drawn |"])


def marked(name: str) -> str:
    """What stands between two marks, which are there once."""
    (shown,) = re.findall(rf"^<!-- {name}: begin -->\n(.*?)\n<!-- {name}: end -->$", SHOWN, re.MULTILINE | re.DOTALL)
    return str(shown)


def test_the_table_of_columns_is_the_codes() -> None:
    assert marked("views") == columns_table()


@pytest.mark.slow
def test_the_dashboard_command_serves_a_page(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    assert shell("run", *tiny_options(small_folder, trials=1))[0] == 0
    assert ["study", "dashboard"] in commands()
    command = [sys.executable, "-m", "study", "dashboard", "--port", "0"]
    server = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        address = server.stderr.readline().strip().removesuffix("/dashboard")
        with urllib.request.urlopen(f"{address}/api/studies") as answer:
            assert "quick-four" in answer.read().decode()
    finally:
        server.terminate()
        assert server.wait() == 143


@pytest.mark.long
def test_the_quickstart_works_twice_from_anywhere(tmp_path: Path) -> None:
    """In a copy of the working tree that borrows this environment: installing is not what is tested here."""
    subprocess.run([ROOT / "scripts" / "setup.sh"], check=True)  # or the copy would install itself in there
    copy = tmp_path / "clone"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    for said in ("test accuracy", "is finished, and nothing was added"):
        done = subprocess.run(
            [copy / "scripts" / "quickstart.sh"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert said in done.stdout
        assert re.search(r"0020\.png\s+0\s+(over )?\d", done.stdout)
        known = {"archstudy", "10", "1,798", "study", "trial", "final"}  # classes and files, in numbers
        assert {line.split()[0] for line in done.stderr.splitlines()} <= known
    assert (copy / "runs" / "quick-digits" / "model" / "model.safetensors").exists()


def test_the_scripts_that_are_shown_are_there() -> None:
    for words in commands():
        if words[0].startswith("scripts/"):
            assert (ROOT / words[0]).stat().st_mode & 0o100


def test_all_that_is_shown_is_of_a_kind_that_is_run() -> None:
    """Or an answer, or a picture of a folder: text."""
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages - {"docs/benchmarks-log.md"} == PAGES.keys() - {"README.md"}  # which shows what was run, and when
    for name, page in PAGES.items():
        opening = [line for line in page.splitlines() if line.lstrip().startswith(("```", "~~~"))][::2]
        assert set(opening) <= {"```bash", "```sql", "```toml", "```python", "```text"}, name


def test_pages_are_short() -> None:
    for name, page in PAGES.items():
        assert len(page.splitlines()) <= (150 if name == "README.md" else 250), name


def links(page: str) -> list[str]:
    """Where a page leads to, but for other websites."""
    found = re.findall(r"\]\(([^()\s]+)\)", page) + re.findall(r"^\[[^\]]+\]:\s*(\S+)", page, re.MULTILINE)
    return [link for link in found if "://" not in link]


def headings(page: str) -> set[str]:
    """As a link names them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", [*PAGES, "CONTRIBUTING.md", "BENCHMARKS.md", "docs/benchmarks-log.md"])
def test_links_lead_somewhere(name: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    for link in links(page):
        path, _, heading = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not heading or heading in headings(target.read_text(encoding="utf-8")), link


def test_readme_leads_to_every_page() -> None:
    assert PAGES.keys() - {"README.md"} <= set(links(PAGES["README.md"]))


def parameter_table() -> str:
    rows = ["| parameter | default | allowed | meaning |", "|---|---|---|---|"]
    for name, parameter in PARAMETERS.items():
        default = str(parameter.default).lower() if isinstance(parameter.default, bool) else parameter.default
        rows.append(f"| `{name}` | {default} | {parameter.allowed} | {parameter.meaning} |")
    return "\n".join(rows)


def test_the_table_of_parameters_is_the_codes() -> None:
    assert marked("parameters") == parameter_table()


def test_the_map_has_a_row_for_every_package() -> None:
    _, shown = SHOWN.split("## Map of the code")
    shown = shown.split("##")[0]
    named = set(re.findall(r"`((?:study|models|data)/[\w./]*)`", shown))
    packages = {f"{path.parent.relative_to(ROOT)}/" for room in ("study", "models", "data") for path in _inits(room)}
    loose = {path.relative_to(ROOT).as_posix() for path in (ROOT / "study").glob("[!_]*.py")}
    assert named - {"study/"} == (packages - {"study/"}) | loose  # its prose names the whole room


def _inits(room: str) -> list[Path]:
    return list((ROOT / room).rglob("__init__.py"))


@pytest.mark.long
def test_the_recipe_runs_and_goes_on(tmp_path: Path, tissue_folder: Path) -> None:
    small = made_small(["study", "run"])[2:]
    command = [str(ROOT / "scripts" / "lc25000.sh"), str(tissue_folder), *small]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert [line.split(" (")[0] for line in first.stderr.splitlines() if line.startswith("==")] == [
        "== audit",
        "== parts",
        "== search, final training, score, export",
        "== standing",
        "== predict",
    ]
    assert (tmp_path / "audit.html").exists()
    assert "test accuracy" in first.stdout
    weights = (tmp_path / "runs/lc25000/model/model.safetensors").stat().st_mtime_ns
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    assert (tmp_path / "runs/lc25000/model/model.safetensors").stat().st_mtime_ns == weights
    wrong = subprocess.run([command[0], "nowhere"], cwd=tmp_path, capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
