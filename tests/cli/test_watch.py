"""`study status --watch`: a real study is followed from another process's eyes, to its end."""

import re
from pathlib import Path

import pytest

from study.cli import watch
from study.cli.watch import glance
from tests import killer
from tests.conftest import Shell
from tests.killer import options


@pytest.mark.slow
def test_a_running_study_is_followed_to_its_end(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    running = killer.start([*options(small_folder), "--set", "workers=2"], tmp_path)
    killer.when_reported(running, tmp_path, 2)
    seen = glance("s", f"sqlite:///{tmp_path}/optuna.db")
    assert seen.stage != "finished"
    assert seen.wanted == 12
    for row in seen.running:
        assert 0 <= row.epoch <= row.epochs
        assert row.worker
    code, out, _ = shell("status", "s", "--watch")
    running.join(60)
    assert (code, running.exitcode) == (0, 0)
    lines = out[: out.index("\ns is finished")].splitlines()
    assert re.match(r"s: finished; 12 of 12 trials done, \d+ pruned; best [\d.]+ % \(trial \d+\)$", lines[-1])
    assert any(re.search(r"s: (search|final stage); \d+ of 12 trials done", line) for line in lines)
    assert len(lines) == len(set(lines))
    assert "  study predict runs/s/model IMAGE\n" in out.replace(f"{tmp_path}/", "")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_study_that_was_killed_is_not_followed_for_ever(
    shell: Shell, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = killer.start(options(small_folder), tmp_path)
    killer.when_reported(running, tmp_path, 1)
    running.kill()
    running.join(60)
    monkeypatch.setattr(watch, "REFRESH_SECONDS", 0.01)
    code, out, err = shell("status", "s", "--watch")
    assert code == 0
    assert out.startswith("s: search; ")
    assert "nobody works on s; go on with: study resume s\n" in err


def test_what_watch_takes(shell: Shell, tmp_path: Path) -> None:
    for words in (["status", "--watch"], ["status", "s", "--watch", "--json"]):
        code, _, err = shell(*words)
        assert (code, "--watch takes the name of one study" in err) == (2, True)
    code, _, err = shell("status", "s", "--watch")
    assert (code, err.count("\n")) == (2, 1)
