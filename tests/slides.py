"""Small slides for tests: two discs of stained tissue on a white ground, with a hole, a pen's line, and the truth."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate_extended
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

CLASSES = ("pink", "violet")
STAINS = {"pink": (225, 130, 175), "violet": (120, 70, 160)}
MPP = 0.5
SIDE = 2048
FIELD_UM = 64.0
"""What an image of `photographs` shows: 128 pixels of a slide."""


def stained(name: str, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Tissue of a class: its stain, and coarse grains."""
    grains = rng.normal(0, 12, (shape[0] // 8 + 1, shape[1] // 8 + 1, 1)).repeat(8, 0).repeat(8, 1)
    return np.clip(np.array(STAINS[name]) + grains[: shape[0], : shape[1]], 0, 255).astype(np.uint8)


def truth(side: int = SIDE) -> NDArray[np.uint8]:
    """Class of each pixel [side, side]: 0 nothing, 1 pink, 2 violet."""
    found = Image.new("L", (side, side))
    draw = ImageDraw.Draw(found)
    for number, middle in ((1, 0.27), (2, 0.73)):
        draw.circle((middle * side, 0.5 * side), 0.2 * side, fill=number)
    draw.circle((0.27 * side, 0.5 * side), 0.11 * side, fill=0)
    return np.asarray(found)


def pixels(seed: int = 0, side: int = SIDE) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    found = np.full((side, side, 3), 244, np.uint8)
    labels = truth(side)
    for number, name in enumerate(CLASSES, 1):
        found[labels == number] = stained(name, (side, side), rng)[labels == number]
    found[:, int(0.495 * side) : int(0.505 * side)] = (38, 60, 170)  # the line of a felt-tip pen
    return found


def slide(path: Path, image: NDArray[np.uint8] | None = None, *, style: str = "aperio", seed: int = 0) -> Path:
    """Write a tiled pyramid: `aperio` as an SVS, `generic` with a resolution, `bare` without any pixel size."""
    image = pixels(seed) if image is None else image
    height, width = image.shape[:2]
    common: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib", "metadata": None}
    if style == "generic":
        common |= {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
    said = f"Aperio Image Library v12.0.0 \r\n{width}x{height} [0,0 {width}x{height}] (256x256)|AppMag = 20|MPP = {MPP}"
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(image, description=said if style == "aperio" else None, **common)
        if style == "aperio":  # its second page is a thumbnail
            small = np.ascontiguousarray(image[::16, ::16])
            file.write(small, photometric="rgb", rowsperstrip=16, metadata=None, description=said)
        for step in (4, 16):
            wide, high = width // step * step, height // step * step
            blocks = image[:high, :wide].reshape(high // step, step, wide // step, step, 3)
            level = blocks.mean((1, 3), dtype=np.float32).round().astype(np.uint8)
            if style == "generic":
                common |= {"resolution": (1e4 / MPP / step, 1e4 / MPP / step)}
            file.write(level, description=said if style == "aperio" else None, subfiletype=1, **common)
    return path


def photographs(root: Path, each: int = 24) -> Path:
    """A folder of class folders: what a tile of a slide shows."""
    rng = np.random.default_rng(1)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for number in range(each):
            Image.fromarray(stained(name, (128, 128), rng)).save(root / name / f"{number}.png")
    return root


def outlined(file: Path, corner: tuple[int, int] = (0, 0)) -> Path:
    """QuPath's annotations of a test slide: its two discs as squares inside them, and something to be ignored."""

    def square(x: float, y: float, half: float) -> list[list[list[float]]]:
        points = ((x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half))
        ring = [[px * SIDE - corner[0], py * SIDE - corner[1]] for px, py in points]
        return [[*ring, ring[0]]]

    def feature(name: str | None, rings: Any) -> dict[str, Any]:
        said = {} if name is None else {"classification": {"name": name}}
        return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": said}

    found = [
        feature("pink", square(0.27, 0.5, 0.15)),
        feature("violet", square(0.73, 0.5, 0.15)),
        feature("Ignore*", square(0.73, 0.4, 0.02)),
        feature(None, square(0.73, 0.6, 0.02)),
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [1, 2]},
            "properties": {"classification": "x"},
        },
    ]
    file.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
    return file


def dicom(folder: Path, image: NDArray[np.uint8], *, patient: str = "MRN-4711", tile: int = 256) -> Path:
    """Write an image as a DICOM slide: a file for each of two levels, in frames of JPEG."""

    def of(**fields: Any) -> Dataset:
        found = Dataset()
        for name, value in fields.items():
            setattr(found, name, value)
        return found

    folder.mkdir(parents=True)
    study, series, frame, organisation, pyramid = (generate_uid() for _ in range(5))
    for number, step in enumerate((1, 4)):
        level = np.asarray(Image.fromarray(image).reduce(step))
        height, width = level.shape[:2]
        frames = []
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                whole = np.full((tile, tile, 3), 255, np.uint8)
                part = level[top : top + tile, left : left + tile]
                whole[: part.shape[0], : part.shape[1]] = part
                content = io.BytesIO()
                Image.fromarray(whole).save(content, "JPEG", quality=92, subsampling="4:2:2")
                frames.append(content.getvalue())
        mm = MPP * step / 1000
        kind = ["ORIGINAL" if number == 0 else "DERIVED", "PRIMARY", "VOLUME", "NONE" if number == 0 else "RESAMPLED"]
        shared = of(
            PixelMeasuresSequence=Sequence([of(PixelSpacing=[mm, mm], SliceThickness=0.001)]),
            WholeSlideMicroscopyImageFrameTypeSequence=Sequence([of(FrameType=kind)]),
            OpticalPathIdentificationSequence=Sequence([of(OpticalPathIdentifier="0")]),
        )
        light = of(CodeValue="111744", CodingSchemeDesignator="DCM", CodeMeaning="Brightfield illumination")
        colour = of(CodeValue="414298005", CodingSchemeDesignator="SCT", CodeMeaning="Full Spectrum")
        path = of(
            OpticalPathIdentifier="0",
            IlluminationTypeCodeSequence=Sequence([light]),
            IlluminationColorCodeSequence=Sequence([colour]),
        )
        found = of(
            SOPClassUID=VLWholeSlideMicroscopyImageStorage,
            SOPInstanceUID=generate_uid(),
            PatientName=patient,
            PatientID=patient,
            StudyInstanceUID=study,
            SeriesInstanceUID=series,
            FrameOfReferenceUID=frame,
            Modality="SM",
            ImageType=kind,
            InstanceNumber=number + 1,
            VolumetricProperties="VOLUME",
            PyramidUID=pyramid,
            Rows=tile,
            Columns=tile,
            NumberOfFrames=len(frames),
            SamplesPerPixel=3,
            PhotometricInterpretation="YBR_FULL_422",
            PlanarConfiguration=0,
            BitsAllocated=8,
            BitsStored=8,
            HighBit=7,
            PixelRepresentation=0,
            TotalPixelMatrixColumns=width,
            TotalPixelMatrixRows=height,
            TotalPixelMatrixFocalPlanes=1,
            ImagedVolumeWidth=width * mm,
            ImagedVolumeHeight=height * mm,
            ImagedVolumeDepth=1.0,
            ImageOrientationSlide=[0, -1, 0, -1, 0, 0],
            TotalPixelMatrixOriginSequence=Sequence(
                [of(XOffsetInSlideCoordinateSystem=0, YOffsetInSlideCoordinateSystem=0)]
            ),
            DimensionOrganizationType="TILED_FULL",
            DimensionOrganizationSequence=Sequence([of(DimensionOrganizationUID=organisation)]),
            SharedFunctionalGroupsSequence=Sequence([shared]),
            OpticalPathSequence=Sequence([path]),
            NumberOfOpticalPaths=1,
        )
        found.file_meta = FileMetaDataset()
        found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID
        found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
        found.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        found.PixelData, found.ExtendedOffsetTable, found.ExtendedOffsetTableLengths = encapsulate_extended(frames)
        found["PixelData"].is_undefined_length = True
        found["PixelData"].VR = "OB"
        found.save_as(folder / f"level{number}.dcm", enforce_file_format=True, little_endian=True, implicit_vr=False)
    return folder
