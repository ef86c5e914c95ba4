"""Numbers of more than 8 bits: measured once over the folder, kept with cache and model, and never measured again."""

import hashlib
import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
import tifffile
from PIL import Image

from data import DataError
from data.cache import INDEX, load_decoded
from data.datasets import load_folder
from data.formats.ranges import AS_16_BITS
from data.images import DECODING, decode, decoding
from tests.conftest import Shell, random_images, tiny_options

SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # type: ignore[type-arg]
    "8 bits in 16": lambda grey: grey.astype(np.uint16),
    "12 bits in 16": lambda grey: grey.astype(np.uint16) * 16,
    "16 bits": lambda grey: grey.astype(np.uint16) * 257,
    "signed": lambda grey: grey.astype(np.int16) * 16 - 1024,
    "32 bits": lambda grey: grey.astype(np.int32) * 1_000_000,
    "float": lambda grey: grey.astype(np.float32) / 255 - 0.5,
}
WORDS = {
    "8 bits in 16": "whole numbers 0 to 255",
    "12 bits in 16": "whole numbers 0 to 4095",
    "16 bits": "whole numbers 0 to 65535",
    "signed": "whole numbers -1024 to 3056",
    "32 bits": "whole numbers 0 to 2.55e+08",
    "float": "floating-point numbers -0.5 to 0.5",
}


def write(root: Path, kind: str = "8 bits", classes: int = 2, each: int = 12, side: int = 24) -> list[str]:
    """Grey images in class folders that reach from black to white, as numbers of a kind; the class shows in them."""
    names = []
    for number, image in enumerate(random_images(classes * each, side)):
        grey = image[..., 0].copy()
        grey[: side // 2 * (number % classes)] //= 4
        grey[0, :2] = 0, 255
        name = f"{number % classes}/{number:03d}.tif"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = SCALES[kind](grey) if kind in SCALES else grey
        Image.fromarray(pixels).save(root / name)
        names.append(name)
    return sorted(names)


@pytest.mark.parametrize("kind", SCALES)
def test_any_range_becomes_what_8_bits_show(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    names = write(tmp_path / "plain")
    write(tmp_path / "deep", kind)
    expected = load_decoded(tmp_path / "plain", names, 8, tmp_path / "c")
    assert not expected.ranges
    assert not caplog.messages
    found = load_decoded(tmp_path / "deep", names, 8, tmp_path / "c")
    assert np.abs(found.images.astype(int) - expected.images).max() <= 2
    assert caplog.messages == [
        f"images of 16 or 32 bits: black to white are {WORDS[kind]} (the least and the most in all of these files)"
    ]
    again = load_decoded(
        tmp_path / "deep", names, 8, tmp_path / "c", progress=pytest.fail
    )  # nothing is read or measured
    assert again.ranges == found.ranges
    assert len(caplog.messages) == 2


def test_folders_of_8_bits_stay_as_they_were(tmp_path: Path) -> None:
    names = write(tmp_path / "plain")
    found = load_decoded(tmp_path / "plain", names, 8, tmp_path / "c")
    (place,) = (tmp_path / "c").iterdir()
    total = hashlib.sha256(f"{DECODING} 8 Pillow {PIL.__version__}\n".encode())
    for name in names:
        stat = (tmp_path / "plain" / name).stat()
        total.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    assert place.name == f"images-{total.hexdigest()[:24]}"  # as versions named it that measured nothing
    assert DECODING == "RGB, EXIF orientation applied, squashed to the square, bilinear, JPEG draft at twice the size"
    assert decoding(found.ranges) == decoding(AS_16_BITS) == json.loads((place / INDEX).read_text())["decoding"]
    for name, image in zip(names, found.images, strict=True):
        with Image.open(tmp_path / "plain" / name) as file:
            plain = file.convert("RGB").resize((8, 8), Image.Resampling.BILINEAR)
        assert np.array_equal(image, np.asarray(plain))
    given = load_decoded(tmp_path / "plain", names, 8, tmp_path / "c", pytest.fail, ranges={"whole": (0.0, 4095.0)})
    assert np.array_equal(given.images, found.images)  # a model's ranges do not concern them


@pytest.mark.parametrize("kind", ["8 bits", "12 bits in 16"])
def test_an_earlier_versions_cache_is_taken_unless_it_needs_ranges(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = write(tmp_path / "photos", kind)
    first = load_decoded(tmp_path / "photos", names, 8, tmp_path / "c")
    (place,) = (tmp_path / "c").iterdir()
    raw = json.loads((place / INDEX).read_text())
    del raw["ranges"]
    (place / INDEX).write_text(json.dumps(raw))
    seen: list[str] = []
    again = load_decoded(tmp_path / "photos", names, 8, tmp_path / "c", lambda what, *_: seen.append(what))
    assert np.array_equal(again.images, first.images)
    assert again.ranges == first.ranges
    assert bool(seen) == ("is an earlier version's" in caplog.text) == (kind != "8 bits")
    load_decoded(tmp_path / "photos", names, 8, tmp_path / "c", pytest.fail)


def test_a_models_ranges_are_used_and_kept_apart(tmp_path: Path) -> None:
    names = write(tmp_path / "deep", "12 bits in 16")
    own = load_decoded(tmp_path / "deep", names, 8, tmp_path / "c")
    assert own.images.max() > 150
    given = load_decoded(tmp_path / "deep", names, 8, tmp_path / "c", ranges=AS_16_BITS)
    assert given.images.max() < 20
    assert np.array_equal(given.images[0], decode(tmp_path / "deep" / names[0], 8))
    assert load_decoded(tmp_path / "deep", names, 8, tmp_path / "c", pytest.fail).ranges == own.ranges
    assert (
        load_decoded(tmp_path / "deep", names, 8, tmp_path / "c", pytest.fail, ranges=AS_16_BITS).ranges == AS_16_BITS
    )
    floats = write(tmp_path / "floats", "float")
    refused = load_decoded(tmp_path / "floats", floats, 8, tmp_path / "c", ranges=AS_16_BITS).bad
    assert set(refused) == set(floats)
    assert "floating-point pixels, whose range is not known" in refused[floats[0]]


def test_one_range_for_all_files_and_numbers_that_are_none(tmp_path: Path) -> None:
    names = write(tmp_path / "mixed", "float", classes=1, each=3)
    values = np.full((8, 8), np.nan, np.float32)
    values[0, 0], values[0, 1], values[1, 1] = 9.5, np.inf, -3.4e38  # the last is a sign for "no data"
    Image.fromarray(values).save(tmp_path / "mixed" / "0" / "odd.tif")
    Image.new("L", (8, 8), 100).save(tmp_path / "mixed" / "0" / "plain.png")
    (tmp_path / "mixed" / "0" / "broken.tif").write_bytes(b"II*\0broken")
    found = load_decoded(tmp_path / "mixed", [*names, "0/broken.tif", "0/odd.tif", "0/plain.png"], 8, tmp_path / "c")
    assert found.ranges == {"float": (-0.5, 9.5)}
    assert found.images[-2][:2, :2, 0].tolist() == [[255, 255], [0, 0]]
    assert (found.images[-1] == 100).all()
    assert list(found.bad) == ["0/broken.tif"]
    assert found.images[0].max() < 30  # half a unit of ten


def test_images_of_one_colour_say_so(tmp_path: Path) -> None:
    for number in range(24):
        (tmp_path / "black" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        dark = Image.new("RGB", (8 + number, 8), (3, 3, 3))  # files that differ
        dark.save(tmp_path / "black" / str(number % 2) / f"{number}.png")
    with pytest.raises(DataError, match=r"all images decode to one colour: \(3, 3, 3\)"):
        load_folder(tmp_path / "black", 8, tmp_path / "c")


@pytest.fixture
def study(shell: Shell, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    """The model folder of a study of 12 bits in 16."""
    write(tmp_path / "deep", "12 bits in 16", each=40)
    code, _, err = shell("run", *tiny_options(tmp_path / "deep", trials=2), "--name", "s")
    assert code == 0, err
    assert "black to white are whole numbers 0 to 4095" in caplog.text
    return tmp_path / "runs" / "s" / "model"


def test_the_model_keeps_the_range_for_all_who_use_it(study: Path, shell: Shell, tmp_path: Path) -> None:
    card = json.loads((study / "card.json").read_text())
    assert card["preprocessing"]["ranges"] == {"whole": [0, 4095]}
    assert card["preprocessing"]["decoding"] == f"{DECODING}; black to white: whole numbers 0 to 4095"
    some = tmp_path / "some"
    write(some, "12 bits in 16", each=3)
    for file in some.glob("*/*"):  # dark ones, which by themselves would be taken for 8 bits
        Image.fromarray(np.asarray(Image.open(file)) // 16).save(file)
    expected = [decode(file, 8, ranges={"whole": (0.0, 4095.0)}) for file in sorted(some.glob("*/*"))]

    from models.bundle.folder import load
    from study.use.evaluate import evaluate
    from study.use.history import Model
    from study.use.predict import predict_files
    from study.use.serve import Network, _read

    bundle = load(study)
    wanted = bundle.predict(np.stack(expected))
    files = sorted(some.glob("*/*"))
    predicted = [list(row["probabilities"].values()) for row in predict_files(bundle, files)]
    assert np.array_equal(predicted, wanted)
    assert np.array_equal(Model(bundle)(files)[list(bundle.classes)].to_numpy(), wanted)
    assert np.array_equal(_read(files[0].read_bytes(), Network(bundle)), expected[0])
    found = evaluate(bundle, some, tmp_path / "c", groups="none")
    right = wanted.argmax(axis=1) == np.array([int(file.parent.name) for file in files])
    assert found.scores.accuracy == pytest.approx(right.mean())


def test_a_study_begun_with_the_earlier_decoding_is_refused(study: Path, shell: Shell, tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(tmp_path / "optuna.db")) as database, database:  # as that version wrote it
        key = "key = 'contract'"
        ((text,),) = database.execute(f"SELECT value_json FROM study_user_attributes WHERE {key}")
        contract = json.loads(text)
        assert contract.pop("pixels") == "whole numbers 0 to 4095"
        database.execute(f"UPDATE study_user_attributes SET value_json = ? WHERE {key}", (json.dumps(contract),))
    code, _, err = shell("resume", "s", "--trials", "3")
    assert code == 2
    assert "an earlier version assumed a range of 0 to 65535" in err.splitlines()[-1]
    assert "--name s-2" in err.splitlines()[-1]


def test_a_study_of_all_16_bits_goes_on(shell: Shell, tmp_path: Path) -> None:
    write(tmp_path / "deep", "16 bits", each=40)
    assert shell("run", *tiny_options(tmp_path / "deep", trials=2), "--name", "s")[0] == 0
    card = json.loads((tmp_path / "runs" / "s" / "model" / "card.json").read_text())
    assert card["preprocessing"]["decoding"] == DECODING
    shutil.rmtree(tmp_path / "runs" / "cache")
    assert shell("resume", "s", "--trials", "3")[0] == 0


def colours(values: np.ndarray, kind: str) -> bytes:  # type: ignore[type-arg]
    """A file of 16 bits a channel: [H, W, 3 or 4] as PNG, or as TIFF of OpenCV's."""
    if kind == "png":
        height, width, channels = values.shape
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
        parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        chunks = (
            struct.pack(">I", len(one)) + name + one + struct.pack(">I", zlib.crc32(name + one)) for name, one in parts
        )
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    compression = cv2.IMWRITE_TIFF_COMPRESSION_NONE if kind == "tiff" else cv2.IMWRITE_TIFF_COMPRESSION_LZW
    turned = cv2.cvtColor(values, cv2.COLOR_RGB2BGR if values.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    return bytes(cv2.imencode(".tiff", turned, [cv2.IMWRITE_TIFF_COMPRESSION, compression])[1])


@pytest.mark.parametrize("kind", ["png", "tiff", "lzw"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_colours_of_16_bits_are_seen_in_their_range(tmp_path: Path, kind: str, bits: int) -> None:
    names = []
    for number, image in enumerate(random_images(6, 24).copy()):
        image[0, 0], image[0, 1] = 0, 255
        values = (image.astype(np.int64) * (2**bits - 1) // 255).astype(np.uint16)
        for root, content in (("deep", colours(values, kind)), ("plain", None)):
            file = tmp_path / root / str(number % 2) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content) if content else Image.fromarray(image).save(file)
        names.append(f"{number % 2}/{number}.png")
    expected = load_decoded(tmp_path / "plain", sorted(names), 8, tmp_path / "c")
    found = load_decoded(tmp_path / "deep", sorted(names), 8, tmp_path / "c")
    assert found.ranges == {"colour": (0.0, 2**bits - 1)}
    assert np.abs(found.images.astype(int) - expected.images).max() <= 2
    one = tmp_path / "deep" / names[0]
    assert (decode(one, 8, ranges=found.ranges) == found.images[0]).all()
    assert (decode(one, 8, ranges=None) == found.images[0]).all()
    usual = decode(one, 8)  # as a model has it that was trained on 8 bits
    assert (usual.max() > 100) == (bits == 16)
    if bits == 16:
        assert (usual == found.images[0]).all()  # as earlier versions decoded it
        assert decoding(found.ranges) == DECODING
    else:
        assert f"colours 0 to {2**bits - 1}" in decoding(found.ranges)


def test_16_bits_that_pillow_misreads_are_refused() -> None:
    """It decodes both without an error, to other pixels: planes as bytes, and the upper byte of greys alone."""
    rows = b"".join(b"\0" + row.tobytes() for row in np.full((4, 8), 3000, ">u2"))
    head = struct.pack(">IIBBBBB", 4, 4, 16, 4, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    png = b"".join(
        struct.pack(">I", len(one)) + name + one + struct.pack(">I", zlib.crc32(name + one)) for name, one in chunks
    )
    with pytest.raises(DataError, match="16 bits with transparency"):
        decode(b"\x89PNG\r\n\x1a\n" + png, 8)
    tags = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 3, 140)]
    tags += [(277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 3, 152), (284, 3, 1, 2)]
    entries = b"".join(struct.pack("<HHII", *one) for one in tags)
    begin = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    assert len(begin) == 134
    planes = struct.pack("<3H", 16, 16, 16) + struct.pack("<3I", 164, 196, 228) + struct.pack("<3I", 32, 32, 32)
    tiff = begin + planes + np.arange(48, dtype="<u2").tobytes()
    with pytest.raises(DataError, match="more than 8 bits lie in separate planes"):
        decode(tiff, 8)
    planar = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    one, many = io.BytesIO(), io.BytesIO()
    planar.save(one, "TIFF", compression="tiff_lzw", tiffinfo={284: 2})  # one channel: no matter
    assert decode(one.getvalue(), 8).max() > 200
    tifffile.imwrite(
        many, np.zeros((3, 8, 8), np.uint16), photometric="rgb", planarconfig="separate", compression="zlib"
    )
    with pytest.raises(DataError, match="more than 8 bits lie in separate planes"):  # only the upper bytes are right
        decode(many.getvalue(), 8)


def test_transparency_and_turns_stay_with_colours_of_16_bits(tmp_path: Path) -> None:
    values = np.zeros((6, 4, 4), np.uint16)
    values[..., 3] = 65535
    values[0, 0] = 4095, 0, 0, 65535
    values[5, 3, 3] = 0  # transparent
    found = decode(colours(values, "png"), 8, ranges={"colour": (0.0, 4095.0)})
    assert found[0, 0].tolist() == [255, 0, 0]
    assert found[7, 7].min() > 150
    image = Image.open(io.BytesIO(colours(values, "png")))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    part = b"eXIf" + exif.tobytes()[6:]
    content = colours(values, "png")
    turned = content[:33] + struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) + content[33:]
    assert image.mode == "RGBA"
    assert decode(turned, 8, ranges={"colour": (0.0, 4095.0)})[7, 7].tolist() == [255, 0, 0]
