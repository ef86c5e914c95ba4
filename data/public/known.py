"""Known public datasets: classes, counts, licence, citation, how to get them, and how a split of them can leak."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.error import URLError

from PIL import Image

from data import DataError
from data.cache import publish
from data.public import FETCHED


class Split(Protocol):
    """The interface of a part (train or test) of one of torchvision's datasets."""

    classes: list[str]

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        """Yield the images with their class numbers."""


@dataclass(frozen=True, kw_only=True)
class KnownDataset:
    """The facts about a known public dataset."""

    title: str
    classes: tuple[tuple[str, ...], ...]  # the folder names in use, one tuple for each convention
    images: int
    side: int  # pixels, width and height
    licence: str
    citation: str
    get: str  # how to get it
    leak: str  # how a split can leak


KNOWN = {
    "lc25000": KnownDataset(
        title="LC25000, lung and colon cancer histopathology",
        classes=(
            ("colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc"),
            (
                "colon_adenocarcinoma",
                "colon_benign_tissue",
                "lung_adenocarcinoma",
                "lung_benign_tissue",
                "lung_squamous_cell_carcinoma",
            ),
        ),
        images=25_000,
        side=768,
        licence="free for research, as its authors state",
        citation="Borkowski et al., Lung and Colon Cancer Histopathological Image Dataset, arXiv:1912.12142, 2019",
        get="download the archive lung_colon_image_set from its authors and give the folder: study run --data FOLDER",
        leak="about 20 rotated and flipped copies of each of about 1,250 source tiles; a random split puts a copy of "
        "99.9 % of the held-out images into training. Patients and slides are not published.",
    ),
    "fashion-mnist": KnownDataset(
        title="Fashion-MNIST, articles of clothing",
        classes=(
            (
                "ankle_boot",
                "bag",
                "coat",
                "dress",
                "pullover",
                "sandal",
                "shirt",
                "sneaker",
                "t_shirt_top",
                "trouser",
            ),
        ),
        images=70_000,
        side=28,
        licence="MIT",
        citation="Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017",
        get="study data fetch fashion-mnist",
        leak="none known but a few near duplicates",
    ),
    "cifar10": KnownDataset(
        title="CIFAR-10, small photographs",
        classes=(("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),),
        images=60_000,
        side=32,
        licence="none stated; free for research by custom",
        citation="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        get="study data fetch cifar10",
        leak="3.3 % of the published test images have a near duplicate in training (Barz and Denzler 2020)",
    ),
}


def normalise_class_name(name: str) -> str:
    """Normalise a class name for comparison: lower case, words joined by single underscores."""
    return "_".join(part for part in "".join(c if c.isalnum() else " " for c in name.lower()).split())


def recognise(classes: Iterable[str], images: int, size: tuple[int, int] | None) -> tuple[str, KnownDataset] | None:
    """Return the known dataset that some images belong to, if any, by class names, number, and size (width, height).

    Either all of its classes are there, with at most as many images as it has, or some of them, with exactly their
    share of its images.
    """
    names = {normalise_class_name(name) for name in classes}
    for key, known in KNOWN.items():
        whole = next((convention for convention in known.classes if names <= set(convention)), None)
        if whole is None or len(names) < 2 or size != (known.side, known.side):
            continue
        most = known.images * len(names) // len(whole)
        if images == most or (images < most and len(names) == len(whole)):
            return key, known
    return None


def fetch(name: str, cache: Path) -> Path:
    """Download a dataset, unless it is there already, and write it as a folder of class folders; return that folder.

    Raises DataError if the name is unknown or the download fails.
    """
    if name not in FETCHED:
        hint = f": {KNOWN[name].get}" if name in KNOWN else f" (there are: {', '.join(FETCHED)})"
        raise DataError(f"{name!r} cannot be fetched{hint}")
    folder = cache / name
    if folder.is_dir():
        return folder
    raw = cache / "downloads"
    try:
        images = [image for split in _downloaded(name, raw) for image in _labelled(split)]
        if len(images) != KNOWN[name].images:
            raise DataError(
                f"{name} should have {KNOWN[name].images} images and has {len(images)} "
                f"(remove {raw} and fetch it again)"
            )
        publish(folder, lambda part: write_folder(images, part))
    except (URLError, RuntimeError, OSError) as error:  # torchvision raises RuntimeError when all mirrors fail
        raise DataError(f"could not fetch {name}: {error} (is there a network?)") from error
    return folder


def _downloaded(name: str, raw: Path) -> Sequence["Split"]:
    """Download both parts with torchvision's dataset classes, which check the checksums of archives before opening."""
    import torchvision.datasets  # imported late: most runs never need it

    kind = torchvision.datasets.FashionMNIST if name == "fashion-mnist" else torchvision.datasets.CIFAR10
    return [kind(str(raw), train=train, download=True) for train in (True, False)]


def _labelled(split: "Split") -> list[tuple[Image.Image, str]]:
    return [(image, normalise_class_name(split.classes[label])) for image, label in split]


def write_folder(images: Iterable[tuple[Image.Image, str]], folder: Path) -> None:
    """Write (Pillow image, class name) pairs as PNG files in class folders."""
    for number, (image, name) in enumerate(images):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{number:05d}.png")
