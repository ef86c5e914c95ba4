"""Where images come from: the embedded datasets and any folder of class folders, as one uint8 array."""

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from data import DataError, tissue

EMBEDDED = ("digits", "tissue")
"""Datasets that need no download."""

CONTAINERS = {"lung_colon_image_set", "lung_image_sets", "colon_image_sets"}
"""Folders of the LC25000 archive that hold class folders instead of images."""

PART_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing", "dev"}

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Every image of a dataset, decoded at one size."""

    root: Path
    images: NDArray[np.uint8]  # [N, H, W, 3], RGB
    labels: NDArray[np.int64]  # [N], index into classes
    classes: tuple[str, ...]
    paths: tuple[str, ...]  # [N], relative to root, with forward slashes
    groups: NDArray[np.int64]  # [N], images of one source share a number
    groups_from: str  # how the groups are known, for people
    fingerprint: str  # SHA-256 over relative paths and file contents
    skipped: tuple[str, ...]  # files left out on request, with the reason
    synthetic: bool


def load(
    source: str,
    image_size: int,
    cache: Path,
    *,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> ImageSet:
    """Load an embedded dataset by name, or a folder by path; `cache` is where embedded ones are written.

    Raises DataError when the folder cannot be used.
    """
    if source in EMBEDDED:
        return load_folder(embedded(source, cache), image_size, skip_bad=skip_bad, progress=progress)
    root = Path(source).expanduser()
    if not root.exists():
        raise DataError(f"no such folder: {source} (give a folder of class folders, or one of: {', '.join(EMBEDDED)})")
    if not root.is_dir():
        raise DataError(f"not a folder: {source} (give the folder that holds one folder per class)")
    return load_folder(root, image_size, skip_bad=skip_bad, progress=progress)


def embedded(name: str, cache: Path) -> Path:
    """The folder of an embedded dataset, written on first use."""
    folder = cache / name
    if not folder.exists():
        try:
            if name == "digits":
                _write_digits(folder)
            else:
                tissue.generate(folder)
        except OSError as error:
            raise DataError(f"cannot write the embedded images to {folder}: {error.strerror or error}") from error
    return folder


def _write_digits(folder: Path) -> None:
    """scikit-learn's copy of the UCI handwritten digits: 1,797 real images of 8x8 pixels, values 0 to 16."""
    from sklearn.datasets import load_digits  # imported late: a second, and needed once

    digits = load_digits()
    part = folder.with_name(f"{folder.name}.part")
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        path = part / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    part.rename(folder)


def load_folder(root: Path, image_size: int, *, skip_bad: bool = False, progress: Progress | None = None) -> ImageSet:
    """Decode a folder of class folders; groups from its groups.csv where there is one.

    Raises DataError with one line that says what is wrong.
    """
    folders = class_folders(root)
    files = [(path, label) for label, folder in enumerate(folders.values()) for path in _files(folder)]
    decoded, bad = _decode_all([path for path, _ in files], image_size, progress)
    names = [path.relative_to(root).as_posix() for path, _ in files]
    if bad and not skip_bad:
        shown = "; ".join(f"{names[i]}: {why}" for i, why in list(bad.items())[:3])
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise DataError(
            f"{len(bad)} of {len(files)} files cannot be read as images: {shown}{more} "
            "(mend or remove them, or leave them out with --skip-bad)"
        )
    keep = [i for i in range(len(files)) if i not in bad]
    labels = np.array([files[i][1] for i in keep], np.int64)
    counts = np.bincount(labels, minlength=len(folders))
    if 0 in counts:
        raise DataError(f"class folder without images: {list(folders)[int(np.argmin(counts))]} in {root}")
    paths = tuple(names[i] for i in keep)
    pixels = [hashlib.sha256(decoded[i].image.tobytes()).hexdigest() for i in keep]
    groups, groups_from = _groups(root, paths, pixels)
    return ImageSet(
        root=root,
        images=np.stack([decoded[i].image for i in keep]),
        labels=labels,
        classes=tuple(folders),
        paths=paths,
        groups=groups,
        groups_from=groups_from,
        fingerprint=_fingerprint(paths, [decoded[i].content for i in keep]),
        skipped=tuple(f"{names[i]}: {why}" for i, why in bad.items()),
        synthetic=all(name.startswith("synthetic_") for name in folders),
    )


def class_folders(root: Path) -> dict[str, Path]:
    """Class name -> folder, sorted by name; LC25000's archive layout is looked through."""
    found: dict[str, Path] = {}
    queue = [root]
    while queue:
        for folder in sorted(path for path in queue.pop().iterdir() if path.is_dir()):
            if folder.name.startswith((".", "__")):
                continue
            if folder.name in CONTAINERS:
                queue.append(folder)
            elif folder.name in found:
                raise DataError(f"two class folders named {folder.name}: {found[folder.name]} and {folder}")
            else:
                found[folder.name] = folder
    if not found:
        raise DataError(f"no class folders in {root} (one folder per class is needed, with its images inside)")
    if {name.lower() for name in found} <= PART_NAMES:
        raise DataError(
            f"{', '.join(sorted(found))} in {root} look like parts, not classes "
            "(give one folder whose folders are the classes; the parts are made here)"
        )
    if len(found) == 1:
        raise DataError(f"only one class folder in {root}: {next(iter(found))} (at least two are needed)")
    return dict(sorted(found.items()))


def _files(folder: Path) -> list[Path]:
    """Every file below `folder`, but for hidden ones; links to folders are not followed (they may loop)."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in files if not name.startswith(".") and name.lower() != "thumbs.db"]
    return sorted(found)


@dataclass(frozen=True)
class _Decoded:
    image: NDArray[np.uint8]
    content: str  # SHA-256 of the file


def _decode_all(
    paths: Sequence[Path], image_size: int, progress: Progress | None
) -> tuple[dict[int, _Decoded], dict[int, str]]:
    """Decode in threads (Pillow lets go of the interpreter lock). Returns (index -> image, index -> why not)."""
    good: dict[int, _Decoded] = {}
    bad: dict[int, str] = {}

    def one(path: Path) -> _Decoded | str:
        try:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            return _Decoded(decode(path, image_size), content)
        except DataError as error:
            return str(error)
        except OSError as error:
            return error.strerror or str(error)

    with ThreadPoolExecutor() as pool:
        for index, result in enumerate(pool.map(one, paths)):
            if isinstance(result, str):
                bad[index] = result
            else:
                good[index] = result
            if progress:
                progress(index + 1, len(paths))
    return good, bad


def decode(path: Path, image_size: int) -> NDArray[np.uint8]:
    """One image file as RGB uint8 [S, S, 3]: squashed to the square, bilinear with antialiasing.

    JPEGs are first reduced by their own transform to no less than twice the size wanted (Pillow's draft mode: on
    768-pixel tiles four times as fast, mean difference below one grey level). Raises DataError when it is no image.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * image_size, 2 * image_size))
            rgb = to_rgb(ImageOps.exif_transpose(image))
            return np.asarray(rgb.resize((image_size, image_size), Image.Resampling.BILINEAR))
    except Image.DecompressionBombError as error:
        raise DataError("too many pixels for an image (possible decompression bomb)") from error
    except UnidentifiedImageError as error:
        raise DataError("not an image") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises for broken files
        raise DataError(f"broken image ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB from any mode: 16-bit greys scaled to 8 bits, transparency laid on white."""
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.clip(np.asarray(image, np.int64) // 257, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _groups(root: Path, paths: Sequence[str], pixels: Sequence[str]) -> tuple[NDArray[np.int64], str]:
    """Source groups [N]: groups.csv where there is one, else each image its own; identical images always together."""
    listed = root / "groups.csv"
    if listed.is_file():
        names, origin = read_groups(listed, paths), "groups.csv"
    else:
        names, origin = list(paths), "exact duplicates only (no groups.csv)"
    return join(zip(names, pixels, strict=True)), origin


def read_groups(listed: Path, paths: Sequence[str]) -> list[str]:
    """The group of each path from a CSV file with the columns path and group (or group_id).

    Where there is a `label` column too, group ids count per label (LC25000-clean's format). Raises DataError when
    columns or images are missing.
    """
    with listed.open(newline="", encoding="utf-8-sig") as handle:
        rows = csv.DictReader(handle)
        columns = rows.fieldnames or []
        key = next((name for name in ("group", "group_id") if name in columns), None)
        if key is None or "path" not in columns:
            raise DataError(f"{listed} needs the columns path and group; it has: {', '.join(columns) or 'none'}")
        found = {row["path"]: f"{row.get('label') or ''}/{row[key]}" for row in rows}
    missing = [path for path in paths if path not in found]
    if missing:
        raise DataError(
            f"{listed} lacks {len(missing)} of {len(paths)} images: {', '.join(missing[:3])} "
            "(add their rows, or remove the file)"
        )
    return [found[path] for path in paths]


def join(keys: Iterable[tuple[str, str]]) -> NDArray[np.int64]:
    """Group numbers [N] where two rows share a group when they share either key, directly or through others."""
    parent: dict[tuple[int, str], tuple[int, str]] = {}

    def find(node: tuple[int, str]) -> tuple[int, str]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    rows = [((0, first), (1, second)) for first, second in keys]
    for first, second in rows:
        parent[find(first)] = find(second)
    numbers: dict[tuple[int, str], int] = {}
    return np.array([numbers.setdefault(find(first), len(numbers)) for first, _ in rows], np.int64)


def _fingerprint(paths: Sequence[str], contents: Sequence[str]) -> str:
    total = hashlib.sha256()
    for path, content in zip(paths, contents, strict=True):
        total.update(f"{path}\0{content}\n".encode())
    return total.hexdigest()
