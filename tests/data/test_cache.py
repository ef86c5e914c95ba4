"""Decoded once, found again, never torn: with real kills, two builders, and a really full disk."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import DataError, cache
from data.cache import load_decoded
from data.images import decode
from tests.conftest import random_images

FORK = multiprocessing.get_context("forkserver")


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, list[str]]:
    root = tmp_path / "photos"
    root.mkdir()
    names = [f"{number:03d}.png" for number in range(60)]
    for name, image in zip(names, random_images(60, 40), strict=True):
        Image.fromarray(image).save(root / name)
    return root, names


def test_the_cache_holds_what_decoding_gives(photos: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, names = photos
    (root / "010.png").write_bytes(b"broken")
    seen: list[tuple[str, int, int]] = []
    found = load_decoded(root, names, 16, tmp_path / "c", lambda *news: seen.append(news))
    assert found.bad == {"010.png": "not an image"}
    assert found.paths == tuple(name for name in names if name != "010.png")
    for path, image in zip(found.paths, found.images, strict=True):
        assert np.array_equal(image, decode(root / path, 16))
    assert len(set(found.contents)) == 59
    assert seen[-1] == ("decoding", 60, 60)
    seen.clear()
    again = load_decoded(root, names, 16, tmp_path / "c", lambda *news: seen.append(news))
    assert not seen
    assert np.array_equal(again.images, found.images)
    assert (again.paths, again.contents, again.bad) == (
        found.paths,
        found.contents,
        found.bad,
    )


def test_what_could_not_be_read_for_a_passing_reason_is_read_later(
    photos: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A library was not installed, a permission not given, the machine short of memory: the file is the same."""
    root, names = photos

    content = (root / names[10]).read_bytes()

    def short(source: Path | bytes, *given: object) -> np.ndarray:
        if source == content:
            raise DataError("out of memory")
        return decode(source, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(cache, "decode", short)
        found = load_decoded(root, names, 16, tmp_path / "c")
    assert found.bad == {"010.png": "out of memory"}
    assert load_decoded(root, names, 16, tmp_path / "c").bad  # a study that goes on without it keeps its images
    found = load_decoded(root, names, 16, tmp_path / "c", again=True)
    assert not found.bad
    assert len(found.paths) == 60
    assert len(load_decoded(root, names, 16, tmp_path / "c").paths) == 59  # that study still does
    before = len(caplog.messages)
    assert len(load_decoded(root, names, 16, tmp_path / "c", again=True).paths) == 60
    assert len(caplog.messages) == before  # nothing was decoded


def test_any_change_of_the_folder_is_seen(photos: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, names = photos
    first = load_decoded(root, names, 16, tmp_path / "c")
    Image.fromarray(random_images(1, 40, seed=9)[0]).save(root / names[3])
    assert not np.array_equal(load_decoded(root, names, 16, tmp_path / "c").images[3], first.images[3])
    assert len(load_decoded(root, names[:-1], 16, tmp_path / "c").paths) == 59
    assert load_decoded(root, names, 8, tmp_path / "c").images.shape == (60, 8, 8, 3)


def test_files_whose_names_were_swapped_are_decoded_again(photos: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Swapped files of the same size and time are told apart by their inode and their time of change (ctime)."""
    root, names = photos
    for name in names[:2]:
        Image.new("RGB", (40, 40), "red" if name == names[0] else "tan").save(root / name, "BMP")
        os.utime(root / name, ns=(10**18, 10**18))
    before = load_decoded(root, names, 16, tmp_path / "c")
    (root / names[0]).rename(root / "aside")
    (root / names[1]).rename(root / names[0])
    (root / "aside").rename(root / names[1])
    after = load_decoded(root, names, 16, tmp_path / "c")
    assert after.contents[:2] == before.contents[1::-1]
    assert (after.images[0] == before.images[1]).all()
    assert not (after.images[0] == before.images[0]).all()


def test_files_that_only_look_otherwise_are_compared_once_and_not_decoded(
    photos: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """As a copy with its times, or a restored backup, has them."""
    root, names = photos
    before = load_decoded(root, names, 16, tmp_path / "c")
    shutil.copytree(root, tmp_path / "copy")
    seen: list[str] = []
    for expected in ({"comparing"}, set()):
        after = load_decoded(tmp_path / "copy", names, 16, tmp_path / "c", lambda what, *_: seen.append(what))
        assert set(seen) == expected
        assert after.contents == before.contents
        seen.clear()


def test_a_copied_folder_has_the_same_contents(photos: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, names = photos
    shutil.copytree(root, tmp_path / "copy")
    first = load_decoded(root, names, 16, tmp_path / "c")
    copy = load_decoded(tmp_path / "copy", names, 16, tmp_path / "c")
    assert copy.contents == first.contents


def test_a_folder_that_changes_while_it_is_read_is_refused(photos: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, names = photos

    def meddle(what: str, done: int, total: int) -> None:
        if done == total:
            os.utime(root / names[0], ns=(1, 1))

    with pytest.raises(DataError, match="changed while its images were read"):
        load_decoded(root, names, 16, tmp_path / "c", meddle)
    assert len(load_decoded(root, names, 16, tmp_path / "c").paths) == 60


def test_a_cache_that_somebody_damaged_is_made_again(photos: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, names = photos
    first = np.array(load_decoded(root, names, 16, tmp_path / "c").images)
    place = next((tmp_path / "c").iterdir())
    for name, content in (("images.bin", b"short"), ("index.json", b"{broken")):
        (place / name).write_bytes(content)
        assert np.array_equal(load_decoded(root, names, 16, tmp_path / "c").images, first)


def slow_build(root: Path, names: list[str], place: Path) -> None:
    def crawl(what: str, done: int, total: int) -> None:
        time.sleep(0.02)

    load_decoded(root, names, 16, place, crawl)


@pytest.mark.slow
def test_a_killed_builder_leaves_nothing_that_is_read(photos: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, names = photos
    for delay in (0.05, 0.4, 0.9):
        process = FORK.Process(target=slow_build, args=(root, names, tmp_path / "c"))
        process.start()
        while not list((tmp_path / "c").glob("*.part")) and process.is_alive():
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    found = load_decoded(root, names, 16, tmp_path / "c")
    assert all(np.array_equal(image, decode(root / path, 16)) for path, image in zip(names, found.images, strict=True))


def test_old_leftovers_are_swept(photos: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, names = photos
    key = cache._key(root, names, 16)
    leftover = tmp_path / "c" / f"images-{key[:24]}.x.part"
    leftover.mkdir(parents=True)
    (leftover / "images.bin").write_bytes(b"x")
    for path in (leftover / "images.bin", leftover):
        os.utime(path, (time.time() - 9999, time.time() - 9999))
    at_work = [leftover.with_name(f"images-{key[:24]}.{name}.part") for name in "aw"]  # before and after it in order
    for folder in at_work:
        folder.mkdir()
    load_decoded(root, names, 16, tmp_path / "c")
    assert not leftover.exists()
    assert all(folder.exists() for folder in at_work)


@pytest.mark.slow
def test_two_builders_at_once_give_one_whole_cache(photos: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, names = photos
    both = [FORK.Process(target=slow_build, args=(root, names, tmp_path / "c")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len(list((tmp_path / "c").iterdir())) == 1
    assert len(load_decoded(root, names, 16, tmp_path / "c").paths) == 60


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_one_clear_line(photos: tuple[Path, list[str]], small_disk: Path) -> None:
    root, names = photos
    with pytest.raises(DataError, match=r"cannot write the image cache in .*: the disk is full"):
        load_decoded(root, names, 128, small_disk / "c")
    assert not list((small_disk / "c").iterdir())
    assert len(load_decoded(root, names, 32, small_disk / "c").paths) == 60  # a smaller one fits


def test_a_read_only_disk_is_one_clear_line(photos: tuple[Path, list[str]], small_disk: Path) -> None:
    root, names = photos
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(DataError, match=r"cannot write the image cache in .*: Read-only file system"):
        load_decoded(root, names, 16, small_disk / "c")
