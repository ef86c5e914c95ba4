"""Groups found from pixels, on small pictures drawn here."""

import csv
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from data.grouping import belief, candidates, description, find
from data.grouping.find import Groups, find_groups
from data.grouping.leak import share_with_sibling
from data.public import tissue


def draw(seed: int, side: int = 160) -> Image.Image:
    """A picture with corners and blobs that no other seed has."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(int(v) for v in rng.integers(150, 255, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(70):
        x, y = rng.uniform(0, side, 2)
        corners = rng.uniform(-side / 12, side / 12, (5, 2)) + np.array([x, y])
        pen.polygon([(float(a), float(b)) for a, b in corners], fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    return image.filter(ImageFilter.GaussianBlur(0.8))


def turn(image: Image.Image, degrees: float) -> Image.Image:
    """Rotated, the inner square scaled back: what Augmentor does."""
    radians = math.radians(abs(degrees))
    inner = image.width / (math.cos(radians) + math.sin(radians))
    edge = (image.width - inner) / 2
    box = (edge, edge, image.width - edge, image.width - edge)
    return image.rotate(degrees, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC, box)


def mirror(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def save(image: Image.Image, path: Path, quality: int = 90) -> Path:
    path.parent.mkdir(exist_ok=True)
    image.save(path, quality=quality)
    return path


def partition(found: Groups, paths: list[Path]) -> set[frozenset[str]]:
    return {frozenset(str(paths[i]) for i in np.flatnonzero(found.group == g)) for g in np.unique(found.group)}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], np.ndarray]:
    """14 sources, 5 copies each: turned both ways, mirrored, upside down, re-encoded; siblings in two
    folders."""
    folder = tmp_path_factory.mktemp("copies")
    paths, truth = [], []
    for source in range(14):
        image = draw(source)
        for k, copy in enumerate(
            (
                image,
                turn(image, 25),
                mirror(turn(image, -22)),
                turn(image, 9).transpose(Image.Transpose.FLIP_TOP_BOTTOM),
                image.crop((20, 10, 140, 130)).resize(image.size),
            )
        ):
            paths.append(save(copy, folder / f"class{k % 2}" / f"{source}-{k}.jpeg", 95 - 12 * k))
            truth.append(source)
    return paths, np.array(truth)


def test_copies_are_found_and_sources_are_not_merged(copies: tuple[list[Path], np.ndarray]) -> None:
    paths, truth = copies
    seen: list[tuple[int, int]] = []
    found = find_groups(paths, processes=1, progress=lambda done, total: seen.append((done, total)))
    assert np.array_equal(found.group, truth)  # numbered by first member
    assert found.group.dtype == np.int64
    assert "registration" in found.method
    assert found.told
    assert found.duplicates == ()
    done = [a for a, _ in seen]
    assert done == sorted(done)
    assert seen[-1] == (2 * len(paths), 2 * len(paths))


@pytest.mark.slow
def test_processes_and_order_change_nothing(copies: tuple[list[Path], np.ndarray]) -> None:
    paths, _ = copies
    one = find_groups(paths, processes=1)
    two = find_groups(paths, processes=2)
    assert np.array_equal(one.group, two.group)
    assert one.method == two.method
    shuffled = [paths[i] for i in np.random.default_rng(1).permutation(len(paths))]
    assert partition(find_groups(shuffled, processes=1), shuffled) == partition(one, paths)


def test_the_second_detector_sees_a_leak_and_its_absence(copies: tuple[list[Path], np.ndarray]) -> None:
    paths, truth = copies
    leaky = np.arange(len(paths)) % 5 == 1
    assert (share_with_sibling(paths, leaky, processes=1).share or 0) >= 0.8
    assert share_with_sibling(paths, truth < 3, processes=1).share == 0.0
    assert share_with_sibling(paths, np.zeros(len(paths), bool)).share == 0.0


@pytest.mark.parametrize("turned", [Image.Transpose.ROTATE_90, Image.Transpose.TRANSPOSE])
def test_the_second_detector_sees_quarter_turns(turned: Image.Transpose, tmp_path: Path) -> None:
    paths = []
    for source in range(12):
        image = draw(source)
        paths += [save(image, tmp_path / f"{source}.png"), save(image.transpose(turned), tmp_path / f"{source}t.png")]
    held = np.arange(24) % 2 == 1
    assert (share_with_sibling(paths, held, processes=1).share or 0) >= 0.8


def test_exact_duplicates_across_folders_and_formats(tmp_path: Path) -> None:
    image = draw(1)
    paths = [
        save(image, tmp_path / "a" / "one.png"),
        save(draw(2), tmp_path / "a" / "two.png"),
        save(image, tmp_path / "b" / "again.bmp"),
    ]
    found = find_groups(paths, processes=1)
    assert found.group.tolist() == [0, 1, 0]
    assert found.duplicates == ((0, 2),)


def test_blank_images_join_only_their_like(tmp_path: Path) -> None:
    colours: list[str | tuple[int, int, int]] = ["white", "black", "white", (250, 240, 240), (128, 128, 128)]
    paths = [save(Image.new("RGB", (96, 96), c), tmp_path / f"{i}.png") for i, c in enumerate(colours)]
    paths += [save(draw(3), tmp_path / "p.png"), save(turn(draw(3), 15), tmp_path / "q.png")]
    found = find_groups(paths, processes=1)
    assert found.group.tolist() == [0, 1, 0, 2, 3, 4, 4]
    assert "without structure" in found.method


def test_small_things_on_an_even_ground_are_seen(tmp_path: Path) -> None:
    """Bacteria, spots, scratches: thumbnails of such images are all alike."""
    paths, rng = [], np.random.default_rng(0)
    for number in range(8):
        image = Image.new("L", (1024, 1024), 235)
        pen = ImageDraw.Draw(image)
        for x, y in rng.integers(8, 1016, (30, 2)).tolist():
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), 60)
        noisy = np.asarray(image) + rng.normal(0, 3, (1024, 1024))
        image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        paths += [save(image, tmp_path / f"{number}.png"), save(mirror(image), tmp_path / f"{number}-again.jpeg", 60)]
    assert find_groups(paths, processes=1).group.tolist() == [number // 2 for number in range(16)]


def test_sizes_shapes_and_modes_may_differ(tmp_path: Path) -> None:
    image = draw(4, 320)
    paths = [
        save(image, tmp_path / "big.jpeg"),
        save(mirror(image).resize((120, 120), Image.Resampling.LANCZOS), tmp_path / "small.jpeg"),
        save(image.crop((0, 30, 320, 270)), tmp_path / "wide.png"),
        save(image.convert("L"), tmp_path / "grey.png"),
        save(draw(5, 200).crop((0, 0, 200, 90)), tmp_path / "other.png"),
    ]
    assert find_groups(paths, processes=1).group.tolist() == [0, 0, 0, 0, 1]


def test_small_images_fall_back_to_near_duplicates(tmp_path: Path) -> None:
    paths = []
    for seed in range(20):
        image = draw(seed).resize((32, 32), Image.Resampling.LANCZOS)
        paths += [save(image, tmp_path / f"{seed}.png"), save(mirror(image), tmp_path / f"{seed}.jpeg", 92)]
    found = find_groups(paths, processes=1)
    assert found.group.tolist() == [i // 2 for i in range(40)]
    assert "only exact and near duplicates for 40 of 40" in found.method
    assert found.tried == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images(tmp_path: Path, count: int) -> None:
    paths = [save(draw(i), tmp_path / f"{i}.png") for i in range(count)]
    assert find_groups(paths).group.tolist() == list(range(count))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpeg"
    broken.write_bytes(b"\xff\xd8 no")
    with pytest.raises(OSError, match=r"broken\.jpeg: cannot be read"):
        find_groups([broken], processes=1)


def test_votes_are_added_up_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    votes = [(rng.integers(0, 500, 200), rng.random(200).astype(np.float32)) for _ in range(20)]
    results = []
    for limit in (10_000_000, 700):
        monkeypatch.setattr(candidates, "MAX_PAIRS", limit)
        tally = candidates._Tally()
        for keys, weights in votes:
            tally.add(keys, weights)
        results.append(tally.often())
    assert np.array_equal(results[0][0], results[1][0])
    assert np.allclose(results[0][1], results[1][1])
    monkeypatch.setattr(candidates, "MAX_PAIRS", 100)  # and never more than are allowed
    tally = candidates._Tally()
    for keys, weights in votes:
        tally.add(keys, weights)
    assert len(tally.often()[0]) <= 100


def cover(image: Image.Image, seed: int, kind: str) -> Image.Image:
    """The image with what all images of a folder share: a background around it, a frame, or a stamp."""
    side = image.width
    if kind == "stamp":
        pen = ImageDraw.Draw(image)
        pen.rectangle((6, 6, side * 0.6, side * 0.3), fill="white")
        for line in range(3):
            pen.text((10, 8 + 12 * line), f"Ward {seed} / lens {7 - line}", fill="black")
        return image
    shared = draw(seed, side)
    part = 0.72
    inner = image.resize((round(side * part),) * 2, Image.Resampling.BICUBIC)
    mask = Image.new("L", inner.size, 255 if kind == "frame" else 0)
    if kind == "background":
        ImageDraw.Draw(mask).ellipse((0, 0, *inner.size), fill=255)
    shared.paste(inner, ((side - inner.width) // 2,) * 2, mask)
    return shared


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["plain", "stamp", "frame", "background"]))
def test_what_all_images_share_makes_no_group_and_copies_are_found(seed: int, kind: str) -> None:
    """24 unrelated images, and copies of 8 of them: turned, cropped and brightened."""
    with tempfile.TemporaryDirectory() as folder:
        paths, truth = [], []
        for source in range(24):
            image = draw(seed + 1 + source)
            image = image if kind == "plain" else cover(image, seed, kind)
            paths.append(save(image, Path(folder) / f"{source}.jpeg"))
            truth.append(source)
            if source % 3 == 0:
                copy = turn(image, 18 if source % 2 else -11).crop((9, 4, 155, 150)).resize(image.size)
                paths.append(
                    save(ImageEnhance.Brightness(mirror(copy)).enhance(1.2), Path(folder) / f"{source}c.jpeg", 80)
                )
                truth.append(source)
        found = find_groups(paths, processes=1).group
    pairs = {(int(a), int(b)) for a, b in zip(*np.triu_indices(len(truth), 1), strict=True)}
    joined = {(a, b) for a, b in pairs if found[a] == found[b]}
    true = {(a, b) for a, b in pairs if truth[a] == truth[b]}
    assert joined <= true
    assert len(joined) >= 6


def test_another_exposure_is_a_copy(tmp_path: Path) -> None:
    """Dark and bright, as OpenCV's own limit of contrast would not see them."""
    paths = []
    for seed in range(6):
        grey = draw(seed).convert("L").convert("RGB")
        for k, factor in enumerate((0.15, 0.4, 0.9)):
            dim = ImageEnhance.Contrast(ImageEnhance.Brightness(grey).enhance(factor)).enhance(0.8)
            paths.append(save(dim, tmp_path / f"{seed}-{k}.png"))
    assert find_groups(paths, processes=1).group.tolist() == [i // 3 for i in range(18)]


def test_what_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description, "BLOCK", 16)
    monkeypatch.setattr(find, "KEPT", 128)
    paths = [save(draw(seed // 2), tmp_path / f"{seed}.jpeg", 70 + seed) for seed in range(40)]
    whole = find_groups(paths, processes=1)

    class StopError(Exception):
        """As a kill would."""

    def stop(after: int) -> Callable[[int, int], None]:
        def tell(done: int, total: int) -> None:
            if done >= after:
                raise StopError

        return tell

    for after in (20, 60):  # among the descriptions, and among the pairs
        with pytest.raises(StopError):
            find_groups(paths, processes=1, keep=tmp_path / "kept", progress=stop(after))
    there = sorted(place.name for place in (tmp_path / "kept").iterdir())
    assert "block-00001" in there
    assert any(name.startswith("batch-0") for name in there)
    blocks = (tmp_path / "kept" / "block-00000").stat().st_mtime_ns
    again = find_groups(paths, processes=1, keep=tmp_path / "kept")
    assert np.array_equal(again.group, whole.group)
    assert again.close == whole.close
    assert (tmp_path / "kept" / "block-00000").stat().st_mtime_ns == blocks


def test_chance_is_measured_and_what_hangs_by_a_thread_is_cut() -> None:
    rng = np.random.default_rng(0)
    tried, drawn = belief.ComparedPairs(100), belief.random_pairs(100)
    nothing = belief.reached_by_chance(tried, drawn, np.zeros(len(drawn), np.float32))
    assert nothing == 0
    alike = belief.reached_by_chance(tried, drawn, rng.exponential(0.06, len(drawn)).astype(np.float32))
    assert 0.35 < alike < 0.65  # 0.06 * log(4950) = 0.51
    # Two triples that agree among themselves, and one weak pair across: asked for more, then cut.
    inner = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
    tried.add(np.array([*inner, (2, 3)]), np.array([0.5] * 6 + [0.35], np.float32))
    labels, wanted = belief.group_by_evidence(tried, np.arange(100), 0.1)
    assert labels[:6].tolist() == [0, 0, 0, 3, 3, 3]
    assert wanted
    assert all((a < 3) != (b < 3) for a, b in wanted)
    tried.add(np.array(wanted), np.full(len(wanted), 0.32, np.float32))  # they do agree
    assert belief.group_by_evidence(tried, np.arange(100), 0.1)[0][:6].tolist() == [0] * 6
    # A pair of two single images that is not sure: believed alone where chance reaches little.
    pair = belief.ComparedPairs(2)
    pair.add(np.array([[0, 1]]), np.array([0.35], np.float32))
    assert belief.group_by_evidence(pair, np.arange(2), 0.0)[0].tolist() == [0, 0]
    assert belief.group_by_evidence(pair, np.arange(2), 0.16)[0].tolist() == [0, 1]


@pytest.mark.slow
def test_a_folder_in_which_all_look_alike_says_so(tmp_path: Path) -> None:
    paths = []
    for seed in range(40):  # one picture with a small dot in another place
        image = draw(77)
        x, y = np.random.default_rng(seed).integers(10, 140, 2).tolist()
        ImageDraw.Draw(image).ellipse((x, y, x + 9, y + 9), fill="black")
        paths.append(save(ImageEnhance.Brightness(image).enhance(0.6 + 0.02 * seed), tmp_path / f"{seed}.png"))
    assert share_with_sibling(paths, np.arange(40) < 10, processes=1).share is None
    found = find_groups(paths, processes=1)
    assert not found.told
    assert "it is not known which images share a source" in found.method


def children(pid: int) -> set[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return {int(line) for line in listed.split()}


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.5, 1.5])
def test_nobody_outlives_a_killed_search(tmp_path: Path, delay: float) -> None:
    for seed in range(80):
        save(draw(seed), tmp_path / "images" / f"{seed}.png")
    script = tmp_path / "search.py"
    script.write_text(
        "from pathlib import Path\nfrom data.grouping.find import find_groups\n"
        "if __name__ == '__main__':\n"
        f"    paths = sorted(Path({str(tmp_path / 'images')!r}).iterdir())\n"
        "    while True:\n        find_groups(paths, processes=2)\n"
    )
    process = subprocess.Popen([sys.executable, script])
    while len(children(process.pid)) < 3:  # two workers and multiprocessing's own tracker
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(delay)
    workers = children(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "size", "copies"), [(11, 96, 3), (12, 128, 8), (13, 224, 4)])
def test_synthetic_tissue_never_leaks(tmp_path: Path, seed: int, size: int, copies: int) -> None:
    """Judged against the generator's truth: no source in two groups, and hardly two sources in one."""
    root = tissue.generate(tmp_path / "t", sources=8, copies=copies, size=size, seed=seed)
    with (root / "groups.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    found = find_groups([root / row["path"] for row in rows], processes=1).group
    truth = np.array([row["group"] for row in rows])
    assert all(len(set(found[truth == source].tolist())) == 1 for source in set(truth.tolist()))
    assert found.max() + 1 >= len(set(truth.tolist())) - 1
