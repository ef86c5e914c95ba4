"""`study data clean` removes what no study needs, and nothing else."""

import os
import shutil
import time
from pathlib import Path

import pytest

from data.grouping.settings import BEFORE, version
from study.search.unneeded import size_of
from tests.conftest import Shell, tiny_options


def age(place: Path, seconds: float) -> None:
    """Let a folder and what is in it be older."""
    then = time.time() - seconds
    for file in (place, *place.rglob("*")):
        os.utime(file, (then, then))


@pytest.fixture
def cache(shell: Shell, small_folder: Path, tmp_path: Path) -> Path:
    """The cache of a study whose groups were found, hours ago; its images lie beside."""
    shutil.copytree(small_folder, tmp_path / "photos")
    assert shell("run", *tiny_options(tmp_path / "photos", trials=2), "--name", "s")[0] == 0
    place = tmp_path / "runs" / "cache"
    age(place, 7200)
    return place


def left(cache: Path) -> set[str]:
    """The names in the cache; a hidden one is a lock's."""
    return {place.name for place in cache.iterdir() if not place.name.startswith(".")}


def test_what_no_study_needs_is_named_and_removed(cache: Path, shell: Shell, tmp_path: Path) -> None:
    needed = left(cache)
    (content,) = [name.split("-")[1] for name in needed if name.startswith("groups-")]
    assert {name.split("-")[0] for name in needed} == {"groups", "images"}
    shell("data", "split", "photos")  # at another size
    (other,) = left(cache) - needed
    for name in (f"groups-{content}-{BEFORE}", f"groups-{'0' * 24}-{version()}", "images-x.part", "groups-y.work"):
        (cache / name / "inside").mkdir(parents=True)
        (cache / name / "inside" / "file").write_bytes(bytes(9000))
    (cache / "fashion-mnist").mkdir()
    age(cache, 7200)
    unneeded = {other, f"groups-{content}-{BEFORE}", f"groups-{'0' * 24}-{version()}"}

    before = left(cache)
    code, out, err = shell("data", "clean", "--dry-run")
    assert (code, left(cache)) == (0, before)
    assert {line.split()[0].rpartition("/")[2] for line in out.splitlines()[1:]} == unneeded
    assert "would remove 3 folders" in err
    assert "decoded images" in out
    assert "found groups" in out

    code, again, err = shell("data", "clean")
    assert (code, again) == (0, out)
    assert "removed 3 folders" in err
    assert left(cache) == before - unneeded

    age(cache, 3 * 86400)
    assert "unfinished, last written 3 days ago" in shell("data", "clean")[1]
    assert left(cache) == needed | {"fashion-mnist"}
    code, out, err = shell("data", "clean")
    assert (code, out) == (0, "")
    assert "removed 0 folders, 0 bytes" in err
    code, _, err = shell("resume", "s", "--trials", "3")
    assert code == 0
    assert "decoding" not in err


def test_what_may_be_in_use_stays(cache: Path, shell: Shell) -> None:
    before = left(cache)
    shell("data", "split", "photos")
    (cache / "images-z.part").mkdir()
    assert "removed 0 folders" in shell("data", "clean")[2]
    assert left(cache) > before


def test_groups_of_a_study_that_does_not_say_its_version_stay(cache: Path, shell: Shell) -> None:
    import sqlite3
    from contextlib import closing

    (groups,) = cache.glob("groups-*")
    old = groups.rename(groups.with_name(groups.name.replace(version(), BEFORE)))
    with closing(sqlite3.connect("optuna.db")) as database, database:
        database.execute("DELETE FROM study_user_attributes WHERE key = 'groups_found_by'")
    assert "removed 0 folders" in shell("data", "clean")[2]
    assert old.is_dir()


def test_groups_stay_beside_studies_of_another_database(cache: Path, shell: Shell) -> None:
    assert shell("db", "delete", "s", "--yes")[0] == 0
    (cache.parent / "theirs").mkdir()
    (cache.parent / "theirs" / "owner.json").write_text("{}")
    assert "removed 1 folder," in shell("data", "clean")[2]
    assert [name.split("-")[0] for name in left(cache)] == ["groups"]
    shutil.rmtree(cache.parent / "theirs")
    assert "removed 1 folder," in shell("data", "clean")[2]
    assert not left(cache)


def test_a_mistake_is_one_line(shell: Shell) -> None:
    code, out, err = shell("data", "clean")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no database at optuna.db" in err


def test_status_says_what_the_files_take(cache: Path, shell: Shell) -> None:
    (cache / "large").mkdir()
    (cache / "large" / "file").write_bytes(bytes(3_000_000))
    err = shell("status")[2]
    assert f"runs takes {size_of(cache.parent) / 1e6:.1f} MB, {size_of(cache) / 1e6:.1f} MB of it the cache" in err
    assert "study data clean" in err
