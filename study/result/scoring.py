"""The test part, opened once: everything that will ever be compared is scored in one step."""

from __future__ import annotations

import hashlib
import logging
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from models.bundle.card import Conformal, LeakyScore, Opening
from models.bundle.export import onnx_bytes, program
from models.bundle.predictor import Predictor
from models.bundle.reference import IMAGENET
from models.cnn import CNN, build_cnn
from models.scores import conformal
from models.scores.calibration import fit_temperature, reliability, softmax
from models.scores.evaluation import (
    Comparison,
    HeldOutScores,
    by_group,
    compare,
    cutoff_at,
    predict_logits,
    score,
    without_images,
)
from models.scores.intervals import accuracy_interval
from models.scores.views import AS_IT_IS
from study.attributes import OPENINGS, kept
from study.budget.measure import PROBES
from study.result.pretrained import FittedRival, NoRivalError
from study.result.refit import TrainedNetwork
from study.search.open_study import OpenStudy
from study.training.mistakes import Mistake, worst_mistakes
from study.training.workspace import Workspace

if TYPE_CHECKING:
    from data.audit import Trees

logger = logging.getLogger(__name__)

MISTAKES = 12
"""Number of mistakes that the report shows."""
TREE_PARTS = {"test": ("train", "val"), "val": ("train",)}
"""Held-out part -> the parts from which the trees learn.

A pretrained network's regression learns from them, too; its strength is chosen on val.
"""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def openings(study: OpenStudy) -> list[Opening]:
    """Return every opening of the test part so far."""
    return study.attribute(OPENINGS, list[Opening]) or []


def trees_digest(work: Workspace) -> str:
    """Return a hash of everything that the trees depend on, in place of a hash of weights."""
    weights = " balanced" if work.config.class_weights == "balanced" else ""
    return hashlib.sha256(
        f"trees {TREE_PARTS[work.held_out]} {work.parts.hash} {work.config.seed}{weights}".encode()
    ).hexdigest()


def open_test(study: OpenStudy, digests: list[str], split_hash: str) -> Opening:
    """Record that the test part is about to be scored by these weights, the shipped ones first.

    No new opening is recorded if an earlier one of this study, of the same parts, shipped the same weights and scored
    all of these. It is one step of the database: of two processes that both believe that they alone do this, each is
    counted.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    opening = Opening(number=1, time=now, weights_sha256=digests, parts=split_hash)

    def recorded(found: JsonValue) -> JsonValue:
        nonlocal opening
        before = [] if found is None else kept({OPENINGS: found}, OPENINGS, list[Opening]) or []
        for one in before:
            known = one.weights_sha256
            if not one.study and digests[0] == known[0] and set(digests) <= set(known) and one.parts == split_hash:
                opening = one
                return None
        opening = opening.model_copy(update={"number": len(before) + 1})
        return [one.model_dump() for one in (*before, opening)]

    study.storage.change_study_attribute(study.study._study_id, OPENINGS, recorded)
    study.storage.backend.flush(study.storage.engine)  # a power cut must not make a second look at the test the first
    return opening


@dataclass(frozen=True, kw_only=True)
class FinalScores:
    """Scores on the held-out part of everything that was scored, and the worst mistakes of the shipped model."""

    temperature: float
    test: HeldOutScores
    accuracy_of_seeds: list[float]
    comparison: list[Comparison]
    conformal: Conformal | None
    mistakes: list[Mistake]
    not_compared: dict[str, str]  # name of a model -> why it was not compared after all


LATE = ("data.audit", "sklearn.metrics", "scipy.optimize", "onnxscript", "onnxruntime", "torch.onnx")
"""Modules that the end of a study needs and nothing before it; importing them takes seconds."""


def warm_up() -> None:
    """Import what the end of a study needs, and export a small network, since the first export takes longer.

    A study with hours does so before it searches, so that its end is short even on a busy machine.
    """
    for name in (*LATE, "sklearn.ensemble", "study.result.report"):
        with suppress(ImportError):  # a missing module is reported where it is needed
            import_module(name)
    network = build_cnn(PROBES[0])
    onnx_bytes(program(Predictor(network, IMAGENET["mean"], IMAGENET["std"], 1.0).eval().requires_grad_(False), 32))


def grow_trees(work: Workspace) -> Future[Trees]:
    """Fit trees on colour and gradient histograms, in a thread beside the final training.

    A network is worth what it adds to them. Modules that are needed later are imported first, in this thread: if two
    threads import modules that import each other, one may see a half-loaded module.
    """
    grown: Future[Trees] = Future()

    def grow() -> None:
        try:
            for name in LATE:
                with suppress(ImportError):  # a missing module is reported where it is needed
                    import_module(name)
            from data.audit import fit_trees

            train = np.concatenate([getattr(work.parts, name) for name in TREE_PARTS[work.held_out]])
            balanced = work.config.class_weights == "balanced"
            grown.set_result(fit_trees(work.dataset, train, work.config.seed, balanced=balanced))
        except BaseException as error:  # raised where the trees are asked for
            grown.set_exception(error)

    threading.Thread(target=grow, daemon=True, name="trees").start()
    return grown


def score_all(
    work: Workspace,
    shipped: list[TrainedNetwork],
    rivals: list[tuple[str, int, TrainedNetwork]],
    trees: Trees | None,
    pretrained: FittedRival | None = None,
) -> FinalScores:
    """Score the shipped model (the first seed), its other seeds, and the rivals (role, trial, network) beside it."""
    labels, groups = _truth(work, work.held_out)
    logits = _logits(work, shipped[0].model, work.held_out)
    cal = _logits(work, shipped[0].model, "cal") if len(work.parts.cal) else None
    temperature = 1.0 if cal is None else fit_temperature(cal, *_truth(work, "cal"))
    named = softmax(logits, temperature).argmax(axis=1)
    held_out = getattr(work.parts, work.held_out)
    answers: list[tuple[str, int | None, Ints]] = []
    if trees:
        answers.append(("trees", None, trees.labels(held_out)))
    lost: dict[str, str] = {}
    if pretrained:
        try:
            answers.append((pretrained.name, None, pretrained.labels(held_out)))
        except NoRivalError as error:  # no reason to withhold the model
            lost["pretrained"] = str(error)
            logger.warning(f"no comparison with a pretrained network: {error}")
    if work.views != AS_IT_IS:
        answers.append(("one view", None, logits[0].argmax(axis=1)))
    answers += [(role, trial, _named(work, one)) for role, trial, one in rivals]
    every = [named, *(_named(work, one) for one in shipped[1:])]
    return FinalScores(
        temperature=temperature,
        test=_scores(work, logits, cal, temperature),
        accuracy_of_seeds=[float((one == labels).mean()) for one in every],
        comparison=[
            compare(named, other, labels, groups, name=role, trial=trial, leaky=work.leaky)
            for role, trial, other in answers
        ],
        conformal=None if cal is None else _conformal(work, cal, logits, temperature),
        mistakes=worst_mistakes(work, work.held_out, softmax(logits, temperature), MISTAKES),
        not_compared=lost,
    )


def leaky_row(work: Workspace, one: TrainedNetwork) -> LeakyScore:
    """Return the accuracy on the held-out images of the published split, marked as leaky."""
    labels, groups = _truth(work, work.held_out)
    right = _named(work, one) == labels
    interval = accuracy_interval(right, labels, groups)
    return LeakyScore(leaky=True, accuracy=float(right.mean()), accuracy_interval=interval, images=len(labels))


def _truth(work: Workspace, part: str) -> tuple[Ints, Ints]:
    """Return the labels and groups of a part."""
    index = getattr(work.parts, part)
    return work.dataset.labels[index], work.dataset.groups[index]


def _logits(work: Workspace, model: CNN, part: str) -> Floats:
    return predict_logits(model.to(work.device), work.eval_batches(part), work.views)


def _named(work: Workspace, one: TrainedNetwork) -> Ints:
    """Return the classes [N] that a network predicts on the held-out part.

    With several views the prediction depends on the temperature, so one is fitted on cal.
    """
    temperature = 1.0
    if work.views != AS_IT_IS and len(work.parts.cal):
        temperature = fit_temperature(_logits(work, one.model, "cal"), *_truth(work, "cal"))
    return np.asarray(softmax(_logits(work, one.model, work.held_out), temperature).argmax(axis=1))


def _scores(work: Workspace, logits: Floats, cal: Floats | None, temperature: float) -> HeldOutScores:
    """Compute the scores by image, and with one vote per group, since a patient or a slide gets one answer."""
    classes, positive = work.dataset.classes, work.config.positive
    labels, groups = _truth(work, work.held_out)
    cutoff = None
    if positive and cal is not None:
        cutoff = cutoff_at(softmax(cal, temperature), _truth(work, "cal")[0], classes, positive)
    images = score(logits, labels, groups, classes, temperature, positive, cutoff)
    votes = score(*by_group(logits, labels, groups, temperature), classes, 1.0, positive)
    bins = reliability(softmax(logits, temperature), labels)
    mixed = int((np.bincount(np.unique(np.stack([groups, labels]), axis=1)[0]) > 1).sum())
    return HeldOutScores(**vars(images), by_group=without_images(votes), reliability=bins, mixed_groups=mixed)


def _conformal(work: Workspace, cal: Floats, logits: Floats, temperature: float) -> Conformal:
    """Return the thresholds of prediction sets from cal, by level, and the scores of the sets on the held-out part."""
    parts = [(softmax(one, temperature), *_truth(work, part)) for part, one in (("cal", cal), (work.held_out, logits))]
    groups = len(np.unique(parts[0][2]))
    return Conformal(method="1 - probability", groups=groups, levels=conformal.describe(parts[0], parts[1]))
