"""DICOM images wherever images are read: grey levels, colours, limits, groups by patient, and no patient's tag kept."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)

from data import DataError
from data.datasets import load_folder
from data.formats.dicom import size_inside
from data.formats.dicom_folder import count_facts, grey_level_rule
from data.images import decode, source_size
from tests.conftest import Shell, random_images, tiny_options
from tests.use.test_serve import Server

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"


def made(
    pixels: NDArray[Any], *, syntax: str = ExplicitVRLittleEndian, frame: bytes | None = None, **tags: Any
) -> bytes:
    """A DICOM file of these pixels [H, W] or [H, W, 3]; `tags`: others, and those to change."""
    found = Dataset()
    found.SOPClassUID, found.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    found.Rows, found.Columns = pixels.shape[:2]
    found.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    found.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    found.BitsAllocated = found.BitsStored = 8 * pixels.dtype.itemsize
    found.HighBit = found.BitsStored - 1
    found.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        found.PlanarConfiguration = 0
    found.file_meta = FileMetaDataset()
    found.file_meta.MediaStorageSOPClassUID, found.file_meta.MediaStorageSOPInstanceUID = (
        found.SOPClassUID,
        found.SOPInstanceUID,
    )
    found.file_meta.TransferSyntaxUID = syntax
    found.PixelData = pixels.tobytes() if frame is None else encapsulate([frame])
    found["PixelData"].VR = "OB" if frame is not None or pixels.dtype.itemsize == 1 else "OW"
    if frame is not None:
        found["PixelData"].is_undefined_length = True
    for name, value in tags.items():
        setattr(found, name, value)
    content = io.BytesIO()
    found.save_as(content, enforce_file_format=True)
    return content.getvalue()


def grey(content: bytes, side: int = 8) -> NDArray[np.uint8]:
    """What is decoded of a grey file: one channel."""
    found = decode(content, side)
    assert (found == found[..., :1]).all()
    return found[..., 0]


RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def test_grey_levels_of_8_bits_stay_and_monochrome1_is_inverted_once() -> None:
    assert (grey(made(RAMP)) == RAMP).all()
    assert (grey(made(RAMP, PhotometricInterpretation="MONOCHROME1")) == 255 - RAMP).all()
    assert (grey(made(RAMP, PresentationLUTShape="INVERSE")) == 255 - RAMP).all()


def test_8_bits_that_a_rescale_changes_are_not_cut_off_at_255() -> None:
    dim = RAMP // 4 + 100
    assert (grey(made(dim, RescaleSlope=1, RescaleIntercept=0)) == dim).all()  # nothing is changed
    table, group = Dataset(), Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], (np.arange(256, dtype="<u2") * 200).tobytes()
    table.ModalityLUTType = "US"
    group.RescaleSlope, group.RescaleIntercept, group.RescaleType = 4, -512, "US"
    shared = Dataset()
    shared.PixelValueTransformationSequence = [group]
    for tags in (
        {"RescaleSlope": 4, "RescaleIntercept": -512},
        {"ModalityLUTSequence": [table]},
        {"SharedFunctionalGroupsSequence": [shared]},
    ):
        found = grey(made(RAMP, **tags))
        assert (found[0, 0], found[-1, -1]) == (0, 255)  # by the image's own range
        assert len(np.unique(found)) == 64
        header = pydicom.dcmread(io.BytesIO(made(RAMP, **tags)))
        assert grey_level_rule(header) == "by each image's own range"
    assert grey_level_rule(pydicom.dcmread(io.BytesIO(made(RAMP)))) == "as they are"


def test_colours_stay_in_any_order_of_planes() -> None:
    colours = random_images(1, 8, seed=0)[0]
    assert (decode(made(colours), 8) == colours).all()
    planes = np.ascontiguousarray(np.moveaxis(colours, 2, 0))
    assert (decode(made(colours, PixelData=planes.tobytes(), PlanarConfiguration=1), 8) == colours).all()


@given(
    middle=st.integers(-500, 5000),
    width=st.integers(2, 4000),
    slope=st.sampled_from([1, 2]),
    intercept=st.sampled_from([0, -1024]),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    inverted=st.booleans(),
)
def test_a_window_is_the_standards_own_formula(
    middle: int, width: int, slope: int, intercept: int, function: str, inverted: bool
) -> None:
    """DICOM PS3.3 C.11.2.1, written out for one pixel."""
    stored = (np.arange(64, dtype=np.uint16) * 65).reshape(8, 8)
    content = made(
        stored,
        BitsStored=12,
        HighBit=11,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=middle,
        WindowWidth=width,
        VOILUTFunction=function,
        PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
    )

    def shown(number: int) -> float:
        x = number * slope + intercept
        if function == "SIGMOID":
            return 255 / (1 + math.exp(min(700.0, max(-700.0, -4 * (x - middle) / width))))
        c, w = (middle - 0.5, width - 1) if function == "LINEAR" else (middle, width)
        return min(255.0, max(0.0, ((x - c) / w + 0.5) * 255))

    wanted = np.array([[shown(int(number)) for number in row] for row in stored])
    wanted = 255 - wanted if inverted else wanted
    assert np.abs(grey(content).astype(float) - wanted).max() <= 0.51


def test_without_a_window_the_image_s_own_range_counts_and_padding_is_black() -> None:
    stored = np.full((8, 8), -2000, np.int16)
    stored[:, 2:] = np.linspace(-100, 900, 6).astype(np.int16)
    found = grey(made(stored, PixelPaddingValue=-2000))
    assert (found[:, :2] == 0).all()
    assert (found[0, 2], found[0, 7]) == (0, 255)
    assert (grey(made(np.full((8, 8), 7, np.uint16))) == 0).all()
    found = grey(made(stored, PixelPaddingValue=-2001, PixelPaddingRangeLimit=-1999))
    assert (found[0, 0], found[0, 2], found[0, 7]) == (0, 0, 255)


def test_a_lookup_table_is_applied() -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 8], np.arange(255, -1, -1, dtype=np.uint16).tobytes()
    assert (grey(made(RAMP, VOILUTSequence=Sequence([table]))) == 255 - RAMP).all()


def test_a_jpeg_inside_must_be_of_the_size_that_is_said(tmp_path: Path) -> None:
    def jpeg(width: int, height: int) -> bytes:
        content = io.BytesIO()
        Image.new("L", (width, height), 200).save(content, "JPEG")
        return content.getvalue()

    assert size_inside(jpeg(30, 20)) == (30, 20)
    assert abs(int(grey(made(RAMP, syntax=JPEGBaseline8Bit, frame=jpeg(8, 8)))[0, 0]) - 200) < 3
    with pytest.raises(DataError, match="DICOM of 8 x 8 pixels whose picture is 12000 x 12000"):
        decode(made(RAMP, syntax=JPEGBaseline8Bit, frame=jpeg(12000, 12000)), 8)


def test_what_is_no_picture_is_refused_by_name() -> None:
    for content, why in (
        (made(RAMP, SOPClassUID=SegmentationStorage), "DICOM, but a segmentation"),
        (made(RAMP, Rows=0), "DICOM without a picture"),
        (made(RAMP, PixelData=RAMP.tobytes()[:-9]), "pixels are cut off"),
        (made(RAMP, SamplesPerPixel=4), "DICOM with 4 samples a pixel"),
        (made(RAMP, WindowCenter=1, WindowWidth=0), "a window of width 0"),
        (made(RAMP)[:400], "DICOM"),
        (made(np.zeros((8, 8), np.uint8), syntax=DeflatedExplicitVRLittleEndian, Rows=8)[:140] + b"x" * 50, "DICOM"),
    ):
        with pytest.raises(DataError, match=why) as raised:
            decode(content, 8)
        assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="megapixels that are allowed"):
        decode(made(RAMP), 8, most=0.00001)


def test_a_deflated_file_that_grows_beyond_measure_is_refused() -> None:
    zeros = np.zeros((8, 8), np.uint8)
    small = made(zeros, syntax=DeflatedExplicitVRLittleEndian)
    assert (grey(small) == 0).all()
    bomb = made(zeros, syntax=DeflatedExplicitVRLittleEndian, PixelData=bytes(150 << 20))
    assert len(bomb) < 1 << 20
    with pytest.raises(DataError, match="a deflated DICOM of more than 128 MB"):
        decode(bomb, 8)


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=40))
def test_damaged_files_end_in_a_line(at: int, junk: bytes) -> None:
    content = made(RAMP, PhotometricInterpretation="MONOCHROME2")
    place = at % len(content)
    for mutant in (content[:place], content[:place] + junk + content[place + len(junk) :]):
        try:
            assert decode(mutant, 8).shape == (8, 8, 3)
        except DataError as error:
            said = str(error)
            assert "\n" not in said
            assert len(said) < 250


def test_a_picture_that_ends_the_process_of_its_decoder_costs_a_line() -> None:
    """gdcm, which reads what Pillow does not, raises a C++ exception for these that nothing in Python can catch."""
    lossless = (BUNDLED / "MR_small_jpeg_ls_lossless.dcm").read_bytes()  # read by gdcm alone
    jpeg = (BUNDLED / "SC_rgb_dcmtk_+eb+cy+n1.dcm").read_bytes()
    at = jpeg.find(b"\xe0\x7f\x10\x00") + 70
    for _ in range(2):
        with pytest.raises(DataError, match=r"crashed or hung|cannot be decoded"):
            decode(jpeg[:at] + jpeg[at + 24 :], 8)
        assert decode(lossless, 8).shape == (8, 8, 3)


def folder_of(digits: Path, root: Path) -> Path:
    """Digits as DICOM: 12 bits, MONOCHROME1, six patients; some names without an ending."""
    for label in ("0", "1"):
        (root / label).mkdir(parents=True)
        for number, file in enumerate(sorted((digits / label).iterdir())[:36]):
            pixels = np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 16
            content = made(
                4095 - pixels,
                BitsStored=12,
                HighBit=11,
                PhotometricInterpretation="MONOCHROME1",
                PatientID=f"MRN-4711-{number % 6}",
                PatientName=f"DOE^JANE{number % 6}",
                BurnedInAnnotation="YES" if number == 0 else "NO",
            )
            (root / label / (f"{number:02d}.dcm" if number % 2 else f"{number:02d}")).write_bytes(content)
    (root / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    return root


def test_a_folder_of_dicom_is_loaded_and_grouped_by_patient(digits_folder: Path, tmp_path: Path) -> None:
    root = folder_of(digits_folder, tmp_path / "scans")
    found = load_folder(root, 8, tmp_path / "cache", groups="dicom")
    assert len(found.labels) == 72
    assert len(set(found.groups.tolist())) == 6
    assert found.groups_from.startswith("PatientID in the DICOM files")
    assert "72 DICOM files: 72 shown by each image's own range" in found.account
    assert "2 DICOM files with writing burned into the picture, by their own word" in found.account
    first = sorted((digits_folder / "0").iterdir())[0]
    wanted = np.asarray(Image.open(first).convert("RGB")).astype(int)
    shown = found.images[found.paths.index("0/00")].astype(int)
    assert np.corrcoef(wanted.ravel(), shown.ravel())[0, 1] > 0.99  # not inverted
    assert source_size([root / "0" / "00"]) == (8, 8)
    (root / "0" / "00").write_bytes(made(RAMP))
    with pytest.raises(DataError, match="groups = 'dicom': 00 has no PatientID"):
        load_folder(root, 8, tmp_path / "cache", groups="dicom")
    (root / "0" / "00").write_bytes(made(RAMP, PatientID="mrn-4711-1"))
    with pytest.raises(
        DataError, match=r"PatientIDs of 0/00 and 0/01\.dcm differ in upper and lower case only"
    ) as error:
        load_folder(root, 8, tmp_path / "cache", groups="dicom")
    assert "4711" not in str(error.value)


@pytest.mark.slow
def test_the_whole_way_and_no_number_of_a_patient_is_written(shell: Shell, digits_folder: Path, tmp_path: Path) -> None:
    root = folder_of(digits_folder, tmp_path / "scans")
    code, _, err = shell("run", "--name", "s", *tiny_options(root, trials=2), "--set", "groups=dicom")
    assert code == 0, err
    code, out, _ = shell("predict", "s", root / "0", "--json")
    assert (code, len(json.loads(out))) == (0, 36)
    code, _, err = shell("evaluate", "s", root, "--groups", "dicom", "--json")
    decoding = json.loads((tmp_path / "runs" / "s" / "model" / "card.json").read_bytes())["preprocessing"]["decoding"]
    assert decoding.endswith("; 72 DICOM files: 72 shown by each image's own range")
    server = Server(tmp_path / "runs" / "s" / "model")
    status, served = server.predict(("x", (root / "0" / "00").read_bytes()))
    server.process.terminate()
    assert (status, server.process.wait(10)) == (200, 143)
    assert served["images"][0]["label"] == next(one["label"] for one in json.loads(out) if one["path"].endswith("/00"))
    written = [one for one in tmp_path.rglob("*") if one.is_file() and root not in one.parents]
    assert len(written) > 10
    for one in written:
        content = one.read_bytes()
        assert b"MRN-4711" not in content, one
        assert b"DOE^JANE" not in content, one
    assert "MRN" not in err


def test_a_patient_s_number_in_a_path_is_warned_of(tmp_path: Path) -> None:
    for place, number in (("a/mrn-4711-2.dcm", "MRN-4711"), ("a/x.dcm", "12"), ("b/0012.dcm", "12")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(made(RAMP, PatientID=number))
    facts = count_facts(tmp_path, ["a/mrn-4711-2.dcm", "a/x.dcm", "b/0012.dcm"])
    assert (facts.files, facts.named) == (3, 1)
    assert "1 DICOM file with the patient's number in the path" in facts.lines()[1]


def test_the_files_that_pydicom_brings_are_read_or_refused_in_a_line() -> None:
    read, refused = 0, []
    for file in sorted(BUNDLED.glob("*.dcm")):
        try:
            assert decode(file, 32).shape == (32, 32, 3)
            read += 1
        except DataError as error:
            refused.append(f"{file.name}: {error}")
    assert not [line for line in refused if "\n" in line]
    by_name = ("not an image", "DICOM without a picture", "DICOM, but a", "DICOM whose pixels are cut off")
    others = [line for line in refused if not any(reason in line for reason in by_name)]
    assert read >= 45
    assert "JPGExtended.dcm: DICOM that cannot be decoded (JPEG Extended (Process 2 and 4), 12 bits)" in others
    # JPEG of 12 bits, which no free codec reads; and one whose stream was written to look like the end of a sequence.
    assert len(others) <= 3, others
