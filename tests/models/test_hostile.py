"""What a stranger's model folder or checkpoint can do: refused before anything large is built."""

import json
import math
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models import ModelError, files
from models.architecture import CNNConfig, plain_blocks
from models.bundle import folder as bundle
from models.bundle.card import Card, Origin
from models.bundle.folder import WEIGHTS, read_card
from models.bundle.predictor import Bundle, Predictor
from models.cnn import build_cnn, fill
from models.cost import check_cost
from models.files import file_hash, write_json
from tests.models.test_training import SMALL

LIMITED = """
import resource, sys
from pathlib import Path
from models import ModelError
from models.bundle.folder import load
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_DATA, (3000 * 2**20,) * 2)
try:
    load(Path(sys.argv[1]))
    print("loaded")
except ModelError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def refused(path: Path) -> str:
    """What is said of a model, in a process with little memory."""
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said, megabytes = done.stdout.splitlines()
    assert int(megabytes) < 400  # torch's own first steps take most of it
    return said


def write_checkpoint(path: Path, **changes: Any) -> None:
    config = {
        **{"num_conv_blocks": 1, "filters_multiplier": 1, "kernel_sizes": [3], "use_batch_norm": False},
        **{"conv_dropout": 0.1, "dense_units": [8], "dense_dropout": 0.1},
        **changes,
    }
    state = {
        "features.0.weight": torch.zeros(32, 3, 3, 3),
        "features.0.bias": torch.zeros(32),
        "classifier.0.weight": torch.zeros(8, 32 * 16),
        "classifier.0.bias": torch.zeros(8),
        "classifier.3.weight": torch.zeros(2, 8),
        "classifier.3.bias": torch.zeros(2),
    }
    torch.save({"model_state_dict": state, "config": config, "class_names": ["a", "b"]}, path)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_conv_blocks": 100_000},
        {"num_conv_blocks": 0},
        {"dense_units": [20_000, 20_000]},
        {"dense_units": [8] * 100_000},
        {"filters_multiplier": 10**9},
        {"kernel_sizes": [4]},
        {"kernel_sizes": [99_999]},
        {"conv_dropout": 7.0},
    ],
)
def test_a_checkpoint_with_an_absurd_architecture_is_refused_unbuilt(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_checkpoint(tmp_path / "good.pth")
    assert bundle.load(tmp_path / "good.pth").image_size == 8
    write_checkpoint(tmp_path / "x.pth", **changes)
    assert "is not a checkpoint in the reference's layout" in refused(tmp_path / "x.pth")


def test_a_tensor_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "x.pth", dense_units=[20_000])
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    wide = {"classifier.0.weight": (20_000, 512), "classifier.0.bias": (20_000,), "classifier.3.weight": (2, 20_000)}
    for name, shape in wide.items():
        content["model_state_dict"][name] = torch.zeros(1).expand(*shape)
    torch.save(content, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < 100_000
    assert "weights are not all there" in refused(tmp_path / "x.pth")


@pytest.mark.parametrize("names", [["a", "a"], [1, 2], "ab"])
def test_class_names_that_are_none_are_refused(tmp_path: Path, names: Any) -> None:
    write_checkpoint(tmp_path / "x.pth")
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    torch.save({**content, "class_names": names}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="class_names are not different names"):
        bundle.load(tmp_path / "x.pth")


def test_a_packed_checkpoint_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / "x.pth", "w") as packed:
        for one in whole.infolist():
            packed.writestr(one.filename, whole.read(one), zipfile.ZIP_DEFLATED)
        packed.writestr("archive/data/99", bytes(2**28), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "x.pth").stat().st_size < 2**20
    assert "its content is compressed" in refused(tmp_path / "x.pth")


@pytest.mark.timeout(20)
def test_a_file_with_a_hole_of_a_terabyte_is_not_read(copied: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = copied
    with (folder / bundle.ONNX).open("r+b") as handle:
        handle.truncate(2**40)
    with pytest.raises(ModelError, match="is not a file of this program"):
        bundle.load(folder)


def test_a_card_that_lists_the_weights_alone_hides_no_other_file(copied: tuple[Path, dict[str, Any]]) -> None:
    folder, card = copied
    card["files"] = {bundle.WEIGHTS: card["files"][bundle.WEIGHTS]}
    rewrite(folder, card)
    with pytest.raises(ModelError, match=r"which card\.json does not list"):
        bundle.load(folder)


@pytest.mark.timeout(20)
def test_what_is_written_beside_follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "a.part").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "b.part")
    for name in "ab":
        files.write(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
    assert (tmp_path / "elsewhere").read_text() == "precious"


def rewrite(folder: Path, card: dict[str, Any], config: dict[str, Any] | None = None) -> None:
    """An altered card whose hashes fit."""
    if config is not None:
        (folder / bundle.CONFIG).write_text(json.dumps(config))
    card["files"] = {name: file_hash(folder / name) for name in card["files"]}
    (folder / bundle.CARD).write_text(json.dumps({**card, "card_sha256": bundle.card_hash(card)}))


def changed(card: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    *tables, last = place.split(".")
    inner = card
    for table in tables:
        inner = inner.setdefault(table, {})
    inner[last] = value
    return card


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 1e-50),
        ("files", {}),
        ("classes", ["a", "a", "b"]),
        ("classes", ["a", "b"]),
        ("classes", []),
        ("preprocessing.size", 0),
        ("preprocessing.std", [0.2, 0.0, 0.2]),
        ("preprocessing.mean", [0.2, math.nan, 0.2]),
        ("preprocessing.views", ["", "x"]),
        ("conformal", {"levels": {"zero": {"refused": "x"}}}),
        ("conformal", {"levels": {"0.1": {"threshold": math.nan, "coverage": 1, "size": 1}}}),
        ("conformal", [1]),
        ("data", {"source_size": ["x", 0]}),
        ("data", 3),
    ],
)
def test_a_card_that_says_nonsense_is_refused(
    copied: tuple[Path, dict[str, Any]],
    place: str,
    value: object,
) -> None:
    folder, card = copied
    rewrite(folder, card)
    bundle.load(folder)
    rewrite(folder, changed(card, place, value))
    with pytest.raises(ModelError, match=r"card|describe different networks"):
        bundle.load(folder)


def test_a_configuration_of_another_size_than_the_cards_is_refused(
    copied: tuple[Path, dict[str, Any]],
) -> None:
    folder, card = copied
    config = json.loads((folder / bundle.CONFIG).read_text())
    rewrite(folder, card, {**config, "image_size": 20_000})
    assert "describe different networks" in refused(folder)
    rewrite(folder, changed(card, "preprocessing.size", 20_000))
    assert "images of 20000 pixels" in refused(folder)


@pytest.mark.parametrize("name", ["numpy/__init__.py", "torch.so", "json.pyc", "PIL.zip"])
def test_what_python_would_import_is_refused(
    copied: tuple[Path, dict[str, Any]],
    name: str,
) -> None:
    folder, _ = copied
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("print('not numpy')")
    with pytest.raises(ModelError, match=r"which card\.json does not list"):
        bundle.load(folder)


@pytest.mark.parametrize("field", ["class_names", "kernel_sizes", "dense_units", "num_conv_blocks", "model_state_dict"])
def test_a_tensor_that_says_it_is_large_is_not_walked_through(tmp_path: Path, field: str) -> None:
    """A few bytes of a file that stand for a billion numbers: refused for their kind, in no time."""
    write_checkpoint(tmp_path / "x.pth")
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    place = content if field in content else content["config"]
    place[field] = torch.zeros(1, dtype=torch.int64).expand(10**9)
    torch.save(content, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < 100_000
    assert "is not a checkpoint in the reference's layout" in refused(tmp_path / "x.pth")


@pytest.mark.parametrize("limit", [math.nan, math.inf, -1.0, 0.0, "many"])
def test_a_limit_that_is_none_limits_as_usual(limit: Any) -> None:
    card = Card.model_construct(study=Origin.model_construct(config={"max_megapixels": limit}))
    model = Bundle(
        predictor=Predictor(build_cnn(SMALL), *([(0.5,) * 3] * 2), 1.0), classes=("a",), image_size=8, card=card
    )
    assert model.setting("max_megapixels", 100.0) == 100.0


def test_what_a_card_allows_is_no_more_than_usual_unless_the_user_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """A stranger's card of a billion megapixels lifts no limit."""
    for asked, allowed, taken in ((1e9, None, 100.0), (20.0, None, 20.0), (1e9, 300.0, 300.0), (20.0, 300.0, 300.0)):
        card = Card.model_construct(study=Origin.model_construct(config={"max_megapixels": asked}))
        predictor = Predictor(build_cnn(SMALL), *([(0.5,) * 3] * 2), 1.0)
        model = Bundle(predictor=predictor, classes=("a",), image_size=8, card=card, allowed=allowed)
        caplog.clear()
        assert model.megapixels(100.0) == taken
        assert bool(caplog.messages) == (asked > 100 and allowed is None)


class Made:
    """What a pickle makes of a few bytes."""

    def __init__(self, *how: Any) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return self.how


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_checkpoint_that_makes_bytes_of_a_number_is_refused(tmp_path: Path, packed: bool, protocol: int) -> None:
    """torch allows a bytearray: 4 GB of a file of 460 bytes."""
    content = pickle.dumps({"model_state_dict": Made(bytearray, (4_000_000_000,))}, protocol)
    if packed:
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as file:
            file.writestr("archive/data.pkl", content)
            file.writestr("archive/version", "3\n")
            file.writestr("archive/byteorder", "little")
    else:
        first = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
        (tmp_path / "x.pth").write_bytes(b"".join(pickle.dumps(one, 2) for one in first) + content)
    assert "it holds more than tensors and plain containers" in refused(tmp_path / "x.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_either_layout_and_any_kind_of_numbers_are_read(tmp_path: Path, zipped: bool) -> None:
    write_checkpoint(tmp_path / "x.pth")
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        content["model_state_dict"]["features.0.bias"] = torch.nn.Parameter(torch.zeros(32, dtype=kind))
        torch.save(content, tmp_path / "y.pth", _use_new_zipfile_serialization=zipped)
        assert bundle.load(tmp_path / "y.pth").classes == ("a", "b")


def test_two_files_of_one_name_in_a_checkpoint_are_refused(tmp_path: Path) -> None:
    """torch may read another one than the one that was looked at."""
    write_checkpoint(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "a") as packed:
        (name,) = (one for one in packed.namelist() if one.endswith("data.pkl"))
        packed.writestr(name.upper(), packed.read(name))
    with pytest.raises(ModelError, match="its content is compressed"):
        bundle.load(tmp_path / "x.pth")


def test_a_card_of_many_small_things_is_not_read(copied: tuple[Path, dict[str, Any]]) -> None:
    """60 MB of them take 2 GB."""
    folder, _ = copied
    (folder / bundle.CARD).write_text("[" + "{}," * 10_000_000 + "{}]")
    assert "is not a file of this program" in refused(folder)


def test_a_network_that_no_machine_can_run_and_weights_that_are_no_numbers_are_refused() -> None:
    """Each width, depth and size is allowed, and all of them together would take all memory."""
    rest: dict[str, Any] = {"batch_norm": False, "conv_dropout": 0.0, "dense_units": (), "dense_dropout": 0.0}
    wide = CNNConfig(num_classes=2, image_size=1024, blocks=plain_blocks((20_000,), (1,)), head="gap", **rest)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build_cnn(wide).state_dict().items()}
    assert sum(shape.numel() for shape in shapes.values()) < 500_000
    with pytest.raises(ModelError, match=r"its network's layers take [0-9]+ GB for one image"):
        check_cost(wide)
    check_cost(replace(wide, blocks=plain_blocks((256, 256), (3, 3))))  # which a study may search
    small = CNNConfig(num_classes=2, image_size=8, blocks=plain_blocks((4,), (3,)), head="gap", **rest)
    state = build_cnn(small).state_dict()
    next(iter(state.values())).view(-1)[0] = math.nan
    with pytest.raises(ModelError, match="its weights are not all numbers"):
        fill(small, state, 10**9)


def test_a_card_names_files_of_its_own_folder_alone(tmp_path: Path) -> None:
    """Some files elsewhere have no end, and others are nobody's business."""
    for name in ("/proc/self/pagemap", "../secret", "a/b"):
        write_json(tmp_path / "card.json", {"files": {name: "0" * 64, WEIGHTS: "0" * 64}})
        with pytest.raises(ModelError, match="is no name of a file in this folder"):
            read_card(tmp_path, Card)
