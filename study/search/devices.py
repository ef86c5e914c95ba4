"""Devices of the workers: pure functions of --device and of the devices that the machine has."""

import re
from collections.abc import Mapping, Sequence

from study import StudyError

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable by which CUDA sees only some of a machine's devices, numbered from 0."""


def named(asked: str, there: int, *, mps: bool = False) -> tuple[str, ...]:
    """Return the devices that --device names, in order: ("cpu",), ("cuda:0", "cuda:2").

    `there`: number of visible CUDA devices. "auto" means all of them, or the processor if there are none; "cuda" means
    all of them. `mps`: whether Apple's GPU is there; nobody has tried it with this program, so "auto" does not choose
    it. Raises StudyError if a device is unknown, absent, or named twice.
    """
    if asked == "mps" and not mps:
        raise StudyError("--device mps: no Apple GPU was found (use --device cpu, or auto)")
    if asked == "mps":
        return ("mps",)
    every = tuple(f"cuda:{index}" for index in range(there))
    if asked == "auto":
        return every or ("cpu",)
    if asked == "cpu":
        return ("cpu",)
    chosen = every or ("cuda",) if asked == "cuda" else tuple(part.strip() for part in asked.split(","))
    if strange := [one for one in chosen if not re.fullmatch(r"cuda(:\d{1,4})?", one)]:
        raise StudyError(f"--device {asked}: {strange[0]!r} is unknown (use auto, cpu, cuda, cuda:0,cuda:2, or mps)")
    if not there:
        raise StudyError(f"--device {asked}: no CUDA device was found (use --device cpu, or auto)")
    chosen = tuple("cuda:0" if one == "cuda" else f"cuda:{int(one[5:])}" for one in chosen)
    if absent := [one for one in chosen if one not in every]:
        raise StudyError(f"--device {asked}: there is no {absent[0]} (there are: {', '.join(every)})")
    if len(set(chosen)) < len(chosen):
        raise StudyError(
            f"--device {asked}: name each device only once (for several workers on one device use --workers)"
        )
    return chosen


def spread(devices: Sequence[str], workers: int) -> tuple[str, ...]:
    """Return the device of each worker, in turn: the numbers of workers per device differ by at most one."""
    return tuple(devices[worker % len(devices)] for worker in range(workers))


def environment_for_device(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables with which a new process sees only this device, as cuda:0.

    The number in `device` counts the devices that the parent sees, which VISIBLE lists by number or by UUID.
    """
    if not device.startswith("cuda:"):
        return {}
    index = int(device[5:])
    parents = [one.strip() for one in environment.get(VISIBLE, "").split(",") if one.strip()]
    return {VISIBLE: parents[index] if parents else str(index)}
