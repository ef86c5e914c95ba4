"""What a stranger's image files can do: no program started, no waiting for ever, no memory without bound."""

import io
import logging
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data import DataError, images
from data.cache import INDEX, PIXELS, load_decoded
from data.datasets import load, load_folder
from data.formats import jpeg2000
from data.grouping.sources import GROUPS, found_groups
from data.images import decode, source_size
from study.use.predict import find_images
from tests.conftest import random_images
from tests.data.test_datasets import make_folder

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_another_format_in_disguise_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.png").write_bytes(EPS)
    with Image.open(tmp_path / "photo.png") as image:  # or the test would notice nothing
        assert image.format == "EPS"
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(DataError, match="not an image"):
        decode(tmp_path / "photo.png", 8)
    assert source_size([tmp_path / "photo.png"]) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"),
        ("AVIF", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"),
        ("AVIF", b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"),
        ("JPEG XL", b"\xff\x0a\xfa\x7f"),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"),
        (None, b"\0\0\0\x18ftypisom\0\0\0\0isommp42"),  # a film
        (None, b"\0\0\0\x0cftypqt  \0\0\0\0heic"),  # the box ends before
        (None, b"\xff\xff\xff\xffftyp"),
        (None, b""),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path: Path, name: str | None, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content + bytes(300) if content else b"")
    said = f"^{name}, which is not read \\(convert to JPEG or PNG\\)$" if name else "^not an image$"
    for source in (tmp_path / "x.jpg", (tmp_path / "x.jpg").read_bytes()):
        with pytest.raises(DataError, match=said):
            decode(source, 8)


@pytest.mark.timeout(20)
def test_files_that_are_none_are_named_at_once(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {"a": 3, "b": 3})
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "zero.png").symlink_to("/dev/zero")
    (root / "b" / "folder.png").symlink_to(root / "a")
    with pytest.raises(DataError, match=r"2 of 8 files cannot be read as images: a/pipe.png: not a regular file"):
        load_folder(root, 8, tmp_path / "c")
    assert len(load_folder(root, 8, tmp_path / "c", skip_bad=True).skipped) == 2
    assert source_size([root / "a" / "pipe.png", root / "a" / "zero.png"]) is None


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.png").open("wb") as handle:
        handle.truncate(images.MOST_BYTES + 1)  # sparse
    with pytest.raises(DataError, match="256 MB, more than an image may have"):
        decode(tmp_path / "x.png", 8)


BOMB = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from data import DataError
from data.images import decode
def one(_):
    try:
        return decode(sys.argv[1], 8).shape
    except DataError as error:
        return str(error)
from pathlib import Path
sys.argv[1] = Path(sys.argv[1])
with ThreadPoolExecutor(8) as pool:
    print(set(pool.map(one, range(8))))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_bombs_take_turns(tmp_path: Path) -> None:
    """45 megapixels in 87 kB, by eight threads: one after the other, not a gigabyte for each at once."""
    Image.new("LA", (9000, 5000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 300_000
    done = subprocess.run(
        [sys.executable, "-c", BOMB, tmp_path / "bomb.png"], capture_output=True, text=True, check=True, timeout=120
    )
    shapes, megabytes = done.stdout.splitlines()
    assert shapes == "{(8, 8, 3)}"
    assert int(megabytes) < 2500


def test_more_pixels_than_allowed_are_refused(tmp_path: Path) -> None:
    Image.new("L", (2000, 1000)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"2000 x 1000 pixels, more than the 1\.5 megapixels .* \(max_megapixels can"):
        decode(tmp_path / "x.png", 8, 1.5)
    assert decode(tmp_path / "x.png", 8, 2.0).shape == (8, 8, 3)
    Image.new("RGB", (2000, 1000)).save(tmp_path / "x.jpg")
    assert decode(tmp_path / "x.jpg", 8, 0.1).shape == (8, 8, 3)  # reduced by its own transform
    root = make_folder(tmp_path / "d", {"a": 3, "b": 3}, size=32)
    with pytest.raises(DataError, match="6 of 6 files cannot be read"):
        load_folder(root, 8, tmp_path / "c", max_megapixels=0.001)
    assert len(load_folder(root, 8, tmp_path / "c").labels) == 6  # another limit is another cache


def test_pixels_in_flight_are_bounded() -> None:
    room = images._Room(100)
    inside, most = 0, 0
    lock = threading.Lock()

    def work(count: int) -> None:
        nonlocal inside, most
        with room.taken(count):
            with lock:
                inside += count
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= count

    threads = [threading.Thread(target=work, args=(count,)) for count in (40, 60, 50, 30, 99, 1, 70)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 60 <= most <= 100
    with room.taken(1000):  # more than there is: alone
        pass


def test_several_frames_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (Image.fromarray(pixels) for pixels in random_images(2, 16))
    first.save(tmp_path / "x.tif", save_all=True, append_images=[second])
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second])
    images._say_frames.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(decode(tmp_path / "x.tif", 16), np.asarray(first))
        decode(tmp_path / "x.gif", 16)
    assert [record.message for record in caplog.records] == [
        "some files hold several frames or pages: the first of each is taken"
    ]


def test_a_linked_class_folder_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_folder(tmp_path / "d", {"a": 3, "b": 3})
    (root / "b").rename(tmp_path / "elsewhere")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    assert load_folder(root, 8, tmp_path / "c").classes == ("a", "b")
    assert f"the class b is a link to {tmp_path / 'elsewhere'}" in caplog.text


def as_nobody(look: Callable[[], object]) -> str:
    """What is said when somebody looks who may not read everything, as root may."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            look()
            os.write(theirs, b"nothing")
        except DataError as error:
            os.write(theirs, str(error).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours) as pipe:
        return pipe.read()


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {"a": 3, "b": 3})
    inner = root / "b" / "inner"
    inner.mkdir()
    inner.chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    assert as_nobody(lambda: load_folder(root, 8, tmp_path / "c")) == f"cannot read {inner}: Permission denied"
    assert as_nobody(lambda: find_images([root], list)) == f"cannot read the folder {inner}: Permission denied"


INDICES = {
    "another type": "[1, 2]",
    "no JSON": "{",
    "nested": "[" * 5000 + "]" * 5000,
    "of words": '{"image_size": "x", "paths": [], "contents": [], "bad": {}}',
    "of numbers": '{"image_size": 16, "paths": [1, 2], "contents": [3, 4], "bad": [5]}',
    "of another length": '{"image_size": 16, "paths": ["a"], "contents": [], "bad": {}}',
    "negative": '{"image_size": -16, "paths": ["a"], "contents": ["b"], "bad": {}}',
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", ["empty", "short", "other pixels", "pipe", *INDICES])
def test_a_damaged_cache_is_made_again_and_said(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    root = make_folder(tmp_path / "d", {"a": 30}, size=16)
    names = [f"a/{number}.png" for number in range(30)]
    expected = np.array(load_decoded(root, names, 16, tmp_path / "c").images)
    (place,) = (tmp_path / "c").glob("images-*")
    if damage == "pipe":
        (place / INDEX).unlink()
        os.mkfifo(place / INDEX)
    elif damage in INDICES:
        (place / INDEX).write_text(INDICES[damage])
    else:
        whole = (place / PIXELS).read_bytes()
        bad = {"empty": b"", "short": whole[:-1], "other pixels": bytes(len(whole))}[damage]
        (place / PIXELS).write_bytes(bad)
    assert np.array_equal(load_decoded(root, names, 16, tmp_path / "c").images, expected)
    assert "was altered" in caplog.text
    caplog.clear()
    load_decoded(root, names, 16, tmp_path / "c")
    assert not caplog.text


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"method": 3, "group": ["x"]}', '{"method": "x", "group": [1]}', "[" * 5000]
)
def test_groups_that_somebody_altered_are_found_again(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(tmp_path / "d", {"a": 3, "b": 3}, size=16)
    names = [file.relative_to(root).as_posix() for file in sorted(root.rglob("*.png"))]
    expected = found_groups(root, names, tmp_path / "c", "f" * 24, None)
    (place,) = (tmp_path / "c").glob("groups-*")
    (place / GROUPS).write_text(text)
    assert found_groups(root, names, tmp_path / "c", "f" * 24, None) == expected
    assert "were altered" in caplog.text


@pytest.mark.parametrize("source", ["x\0y", "a/" * 2000, "x" * 300])
def test_paths_that_no_system_takes_end_in_one_line(tmp_path: Path, source: str) -> None:
    with pytest.raises((DataError, OSError)):
        load(source, 8, tmp_path)


def test_a_list_of_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Image.fromarray(random_images(1, 8)[0]).save(tmp_path / name)
    assert find_images([Path("-")], lambda: [f"{tmp_path / name}\n"]) == [tmp_path / name]


def jpeg_that_says(width: int, height: int, *, split: bool, scans: int = 1) -> bytes:
    """A small baseline JPEG whose header names another size; `split`: its first scan holds one component of three."""
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, "JPEG", subsampling=0)
    made = bytearray(content.getvalue())
    frame = made.index(b"\xff\xc0")
    made[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    scan = made.index(b"\xff\xda")
    if split:
        made[scan : scan + 14] = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    made[-2:-2] = bytes(made[scan:-2]) * (scans - 1)
    return bytes(made)


def test_the_coefficients_of_a_jpeg_in_several_scans_count(tmp_path: Path) -> None:
    """libjpeg holds all of them, whatever the image is reduced to: 1.5 GB of a 3 MB file."""
    assert images.jpeg_scans(jpeg_that_says(16, 16, split=False)) == (1, False)
    assert images.jpeg_scans(jpeg_that_says(16, 16, split=True, scans=3)) == (3, True)
    with pytest.raises(DataError, match="16000 x 16000 pixels, more than the 100 megapixels that are allowed"):
        decode(jpeg_that_says(16_000, 16_000, split=True), 8)
    assert decode(jpeg_that_says(16_000, 16_000, split=False), 8).shape == (8, 8, 3)  # reduced as it is read


def test_a_jpeg_of_many_scans_is_refused(tmp_path: Path) -> None:
    for progressive in (False, True):
        Image.new("RGB", (64, 64), "red").save(tmp_path / "x.jpg", progressive=progressive, quality=90)
        assert images.jpeg_scans((tmp_path / "x.jpg").read_bytes()) == (10 if progressive else 1, False)
        assert decode(tmp_path / "x.jpg", 8).shape == (8, 8, 3)
    with pytest.raises(DataError, match=r"a JPEG of 65 scans, more than the 64 that are allowed"):
        decode(jpeg_that_says(16, 16, split=False, scans=65), 8)


@given(st.binary(max_size=300))
def test_no_bytes_keep_the_count_of_scans_busy(content: bytes) -> None:
    scans, _ = images.jpeg_scans(b"\xff\xd8" + content)
    assert 0 <= scans <= len(content)


def test_a_tile_larger_than_its_image_counts(tmp_path: Path) -> None:
    """A TIFF of 16 x 16 pixels in one tile of 16,384 x 16,384."""
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: 16_384, 323: 16_384, 324: 8, 325: 2**28}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(DataError, match="16 x 16 pixels in tiles of 268 megapixels, more than the 100 megapixels"):
        decode(tmp_path / "x.tif", 8)


def test_a_progressive_jpeg_counts_with_all_its_pixels(tmp_path: Path) -> None:
    """Its coefficients are all held at once, whatever it is reduced to."""
    for progressive in (False, True):
        Image.new("L", (2000, 2000)).save(tmp_path / "one.jpg", progressive=progressive)
        if progressive:
            with pytest.raises(DataError, match=r"2000 x 2000 pixels, more than the 1 megapixels"):
                decode(tmp_path / "one.jpg", 16, most=1.0)
        else:
            assert decode(tmp_path / "one.jpg", 16, most=1.0).shape == (16, 16, 3)


@pytest.mark.parametrize("kind", [2, 5, 11, 12])  # text, fraction, and numbers with a point
def test_tiles_whose_size_is_no_number_are_refused_unmultiplied(kind: int) -> None:
    """Text three billion times over is 3 GB."""
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 16, 279: 256}
    tags |= {322: 8, 323: 3_000_000_000}
    entries = b"".join(
        struct.pack("<HHII", tag, kind if tag == 322 else 4, 2 if tag == 322 and kind == 2 else 1, value)
        for tag, value in tags.items()
    )
    content = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(1000)
    with pytest.raises(DataError, match="broken image \\(the size of its tiles is no number\\)"):
        decode(content, 8)


def jp2(
    *segments: bytes, side: int = 16, tile: int = 16, components: int = 3, block: int = 4, layers: int = 1
) -> bytes:
    """A JPEG 2000 of no pixels, whose code blocks have 4 << `block` samples a side, in a file with a box too many."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    def segment(kind: int, content: bytes) -> bytes:
        return struct.pack(">HH", kind, 2 + len(content)) + content

    size = struct.pack(">H8IH", 0, side, side, 0, 0, tile, tile, 0, 0, components) + b"\7\1\1" * components
    style = struct.pack(">BBHB5B", 0, 0, layers, 0, 0, block, block, 0, 1)
    header = segment(0xFF51, size) + segment(0xFF52, style) + segment(0xFF5C, b"\x40\x40") + b"".join(segments)
    part = segment(0xFF90, struct.pack(">HIBB", 0, 0, 0, 1)) + b"\xff\x93" + bytes(64) + b"\xff\xd9"
    about = box(b"ihdr", struct.pack(">IIH4B", side, side, 3, 7, 7, 0, 0)) + box(b"colr", b"\1\0\0\0\0\0\x10")
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + box(b"jp2h", about) + box(b"free", b"1234") + box(b"jp2c", b"\xff\x4f" + header + part)


BLOCKS_OF_ONE = struct.pack(">HH3B5B", 0xFF53, 10, 0, 1, 0, 0, 0, 0, 1, 0)  # of the first component, by precincts
PART_WITHIN_ITSELF = struct.pack(">HHHIBBHHH", 0xFF90, 10, 0, 12, 0, 1, 0xFF64, 2, 0xFF93)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (jp2(components=16_384), "16384 components, more than the 4"),
        (jp2(side=400, tile=2), "40000 tiles, more than the 4096"),
        (jp2(side=3000, tile=3000, block=0), "1687500 code blocks, more than the 1048576"),
        (jp2(BLOCKS_OF_ONE, side=3000, tile=3000), "27000000 code blocks, more than the 1048576"),
        (jp2(struct.pack(">HHBB", 0xFF30, 4, 0, 0)), "the JPEG 2000 header holds ff30"),
        (jp2(PART_WITHIN_ITSELF), "ends before it begins"),
        (jp2(struct.pack(">HH", 0xFF64, 2) * 70_000), "more than 65536 segments"),
        (jp2()[:120], "its JPEG 2000 header ends too early"),
    ],
    ids=["components", "tiles", "blocks", "precincts", "unknown", "endless", "segments", "short"],
)
def test_what_a_jpeg_2000_would_keep_is_counted(content: bytes, said: str) -> None:
    """Its decoder keeps a record of each tile, component and code block: 1.7 GB of a file of 49 kB."""
    with pytest.raises(DataError, match=said):
        decode(content, 8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"no_jp2": True},
        {"tile_size": (64, 64), "codeblock_size": (16, 16)},
        {"precinct_size": (64, 64), "codeblock_size": (32, 32), "plt": True, "comment": "x"},
        {"irreversible": True, "quality_layers": [80, 40, 20]},
        {"num_resolutions": 1},
    ],
    ids=str,
)
def test_usual_jpeg_2000s_are_decoded(mode: str, options: dict[str, object]) -> None:
    content = io.BytesIO()
    Image.fromarray(random_images(1, 200)[0]).convert(mode).save(content, "JPEG2000", **options)
    assert decode(content.getvalue(), 8).shape == (8, 8, 3)


@given(st.binary(max_size=200))
def test_no_bytes_keep_the_count_of_a_jpeg_2000_busy(content: bytes) -> None:
    for start in (b"\xff\x4f\xff\x51", jp2()[:-100], jp2()[:-70]):
        with suppress(DataError):
            jpeg2000.check(start + content)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("between", [b"", b"\xff\xd8", b"\xff\xff", b"x"])
def test_a_jpeg_of_many_segments_is_refused_unread(tmp_path: Path, between: bytes) -> None:
    """Pillow copies all Exif data once more for each piece of it: 24 seconds of a file of 4 MB."""
    usual = jpeg_that_says(16, 16, split=False)
    piece = between + b"\xff\xe1\x00\x09Exif\0\0A"
    for count, refused in ((0, False), (400, False), (400_000, True)):
        (tmp_path / "x.jpg").write_bytes(usual[:2] + b"\xff\xe1\x00\x0aExif\0\0AB" + piece * count + usual[2:])
        if refused:
            with pytest.raises(DataError, match="a JPEG with more than 512 segments"):
                decode(tmp_path / "x.jpg", 8)
            assert source_size([tmp_path / "x.jpg"]) is None
        elif not count or between != b"\xff\xd8":  # libjpeg takes no second beginning
            assert decode(tmp_path / "x.jpg", 8).shape == (8, 8, 3)
