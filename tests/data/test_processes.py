"""Children of any program: nothing of the current folder is imported, and nothing of the program a second time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SPAWNED = """
from data.processes import pool
print("begun")
with pool(1) as children:
    print(children.submit(len, [1, 2, 3]).result())
"""
FORKED = """
from data.processes import FORK_SERVER
from study.forkserver import gather
print("begun")
gather()
child = FORK_SERVER.Process(target=print, args=("3",))
child.start()
child.join()
"""


@pytest.mark.parametrize(
    "script", [SPAWNED, pytest.param(FORKED, marks=pytest.mark.slow)], ids=["spawn", "fork server"]
)
@pytest.mark.parametrize("how", ["script", "-c"])
def test_children_import_no_file_of_the_folder_and_no_script_again(tmp_path: Path, script: str, how: str) -> None:
    """The script has no `if __name__ == "__main__"`, and its folder files that are called like modules."""
    here, elsewhere = tmp_path / "images", tmp_path / "scripts"
    for folder in (here, elsewhere):
        folder.mkdir()
    file = elsewhere / "loads.py"
    file.write_text(script)
    for name in ("signal", "pickle", "struct", "random", "cv2", "numpy", "torch", "sitecustomize_", "copyreg"):
        (here / f"{name}.py").write_text(f"open({str(tmp_path / 'RUN')!r}, 'a').write('{name}\\n')\n")
    words = [str(file)] if how == "script" else ["-P", "-c", f"import sys\nsys.path.append('')\n{script}"]
    done = subprocess.run([sys.executable, *words], cwd=here, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["begun", "3"]), done.stderr
    assert not (tmp_path / "RUN").exists()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")],
    ids=["nothing set", "spins", "policy"],
)
def test_threads_wait_briefly_unless_the_user_says_otherwise(given: dict[str, str], wanted: str) -> None:
    """It is set before torch is loaded, by the package's first import, and children have it."""
    clean = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    script = (
        "import os, sys; from study.__main__ import main; import subprocess; assert 'torch' not in sys.modules; "
        "subprocess.run([sys.executable, '-c', 'import os; print(os.environ.get(\"GOMP_SPINCOUNT\"))'], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", script], env={**clean, **given}, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, wanted), done.stderr


@pytest.mark.parametrize("name", ["data.py", "models.py", "data/__init__.py", "models/"])
def test_what_hides_our_packages_is_named_in_a_line(tmp_path: Path, name: str) -> None:
    """A person's own file, in the folder in which a notebook or `python -m study` is started."""
    place = tmp_path / name
    if name.endswith("/"):
        place.mkdir()
        (place / "x.py").touch()
    else:
        place.parent.mkdir(exist_ok=True)
        place.write_text("print('mine')\n")
    hidden = subprocess.run([sys.executable, "-m", "study", "--version"], cwd=tmp_path, capture_output=True, text=True)
    room = name[:4] if name.startswith("data") else "models"
    if name == "models/":  # a folder that is no package hides nothing
        assert (hidden.returncode, hidden.stderr) == (0, "")
        return
    assert (hidden.returncode, hidden.stdout) == (2, "")
    assert hidden.stderr.startswith(f"study: {tmp_path / room}")
    assert f"hides the package '{room}' of this program (rename it" in hidden.stderr
    script = "import sys; sys.path.insert(0, ''); import study"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith("ImportError: ")
