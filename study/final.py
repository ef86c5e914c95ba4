"""The winner from fresh weights, the test opened once, and the bundle: the protocol of the score."""

import hashlib
import json
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from data.batches import MEAN, STD
from data.images import DECODING, source_size
from models import bundle, conformal
from models.calibration import fit_temperature, softmax
from models.cnn import CNN, CNNConfig
from models.evaluation import Scores, by_group, compare, predict_logits, score
from models.training import EpochResult, derive_seed
from study import StudyError
from study.contract import own_trials
from study.objective import Workspace, identity_of, start_training, versions
from study.page import Mistake
from study.report import write_report
from study.space import cnn_config, full_point
from study.storage import backend, make_durable

OPENINGS = "openings"
"""Study attribute: when the test was opened, and for which weights."""

MISTAKES = 12
"""Shown in the report."""
TREE_PARTS = {"test": ("train", "val"), "val": ("train",)}
"""Held-out part -> what the trees learn from."""

NOTICE = "Research use only; not a medical device."


@dataclass(frozen=True)
class FinalEpoch:
    """News of the final training."""

    trial: int
    seed: int  # which of the final trainings, from 0
    result: EpochResult


@dataclass(frozen=True)
class Outcome:
    """The model folder, and the card in it."""

    directory: Path
    card: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """One final training, as kept in runs/<name>/final."""

    model: CNN
    digest: str  # SHA-256 of the weights' file
    epochs: list[dict[str, Any]]  # EpochResult's fields


def winner(study: optuna.Study) -> FrozenTrial:
    """The finished trial with the best selection score; StudyError when there is none."""
    finished = [trial for trial in own_trials(study) if trial.state == TrialState.COMPLETE]
    if not finished:
        raise StudyError(
            f"the study {study.study_name!r} has no trial that ran to its end "
            f"(search on with a larger total: study resume {study.study_name} --trials MORE)"
        )
    return max(finished, key=lambda trial: (trial.value or 0.0, -trial.number))


def finish(
    study: optuna.Study, work: Workspace, trial: FrozenTrial, directory: Path, *, fresh: bool = False
) -> Iterator[FinalEpoch | Outcome]:
    """Train a trial's architecture for good, score it on the test part, and write the model folder.

    What a killed run already made is used again unless `fresh`; a folder that already holds this result is left as
    it is. The last item is the Outcome.
    """
    identity = identity_of(study, trial)
    done = _finished_card(directory, study, trial, identity)
    if done and not fresh:
        yield Outcome(directory, done)
        return
    trained: list[Trained] = []
    for seed in range(work.config.final_seeds):
        one = yield from _train(work, trial, seed, identity, fresh)
        trained.append(one)
    trees = hashlib.sha256(f"trees {TREE_PARTS[work.held_out]} {work.parts.hash} {work.config.seed}".encode())
    opening = _open_test(study, [*(one.digest for one in trained), trees.hexdigest()], work.parts.hash)
    temperature = _temperature(work, trained[0].model)
    scores = [_score(work, one.model, temperature) for one in trained]
    card = _card(study, work, trial, trained, scores, temperature, opening)
    card["test"] |= {"by_group": _group_scores(work, trained[0].model, temperature)}
    card["comparison"] = [_trees(work, trained[0].model)]
    card["conformal"] = _conformal(work, trained[0].model, temperature)
    some = work.dataset.images[work.parts.train[:64]]
    card = bundle.save(directory, trained[0].model, _architecture(work, trial), card, some)
    write_report(directory, study, work.config, card, trained[0].epochs, _mistakes(work, trained[0].model, temperature))
    mark = {"weights_sha256": trained[0].digest, "identity": identity}
    bundle.write_json(directory / "finished.json", mark)
    yield Outcome(directory, card)


def _finished_card(directory: Path, study: optuna.Study, trial: FrozenTrial, identity: str) -> dict[str, Any] | None:
    """The card of a folder that was finished for this trial, history and number of openings; None when work is left."""
    try:
        mark = json.loads((directory / "finished.json").read_text())
        card: dict[str, Any] = json.loads((directory / bundle.CARD).read_text())
        whole = bundle.is_whole(directory, card) and card["weights_sha256"] == mark["weights_sha256"]
        same = mark["identity"] == identity and card["study"]["name"] == study.study_name
        current = card["study"]["trials"] == _count(study) and card["test_openings"] == len(_openings(study))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return card if whole and same and current else None


def _openings(study: optuna.Study) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = study.user_attrs.get(OPENINGS, [])
    return found


def _architecture(work: Workspace, trial: FrozenTrial) -> CNNConfig:
    point = full_point(work.config.space, trial.params)
    return cnn_config(point, len(work.dataset.classes), work.config.image_size)


def _train(
    work: Workspace, trial: FrozenTrial, seed: int, identity: str, fresh: bool
) -> Generator[FinalEpoch, None, Trained]:
    """One final training from fresh weights to the last epoch; returns Trained. Kept on disk once done."""
    config = work.config
    stem = work.folder / "final" / f"trial-{trial.number:04d}-seed-{seed}"
    weights, record = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
    if not fresh and (kept := _kept(weights, record, identity, _architecture(work, trial))):
        return kept
    checkpoints = work.checkpoints(f"final-{stem.name}", identity)
    if fresh:
        checkpoints.remove()
    with checkpoints:
        training = start_training(
            work,
            trial.params,
            epochs=config.final_epochs,
            batch_size=config.final_batch_size,
            train_parts=("train", "val") if config.final_data == "train+val" else ("train",),
            seed=derive_seed(config.seed, "final", trial.number, seed),
            checkpoints=checkpoints,
        )
        epochs = []
        for result in training.epochs:
            if result.diverged:
                raise StudyError(
                    f"the final training of trial {trial.number} diverged in epoch {result.epoch} "
                    f"(ship another trial: study retrain {work.folder.name} --trial N; "
                    f"or search on: study resume {work.folder.name} --trials MORE)"
                )
            epochs.append(asdict(result))
            yield FinalEpoch(trial.number, seed, result)
        weights.parent.mkdir(parents=True, exist_ok=True)
        digest = bundle.save_weights(weights, training.model)
        bundle.write_json(record, {"weights_sha256": digest, "identity": identity, "epochs": epochs})
    return Trained(training.model, digest, epochs)


def _kept(weights: Path, record: Path, identity: str, architecture: CNNConfig) -> Trained | None:
    """A final training that an earlier run of this very study completed; None when there is none, or it is torn."""
    try:
        fields = json.loads(record.read_text())
        if fields["identity"] != identity or bundle.file_hash(weights) != fields["weights_sha256"]:
            return None
    except (OSError, ValueError, KeyError):
        return None
    return Trained(bundle.load_weights(weights, architecture), fields["weights_sha256"], fields["epochs"])


def _open_test(study: optuna.Study, digests: list[str], split_hash: str) -> dict[str, Any]:
    """Record that the test part is about to be scored by these weights; the same weights are the same opening."""
    openings = _openings(study)
    for opening in openings:
        if opening["weights_sha256"] == digests and opening["parts"] == split_hash:
            return opening
    now = datetime.now(UTC).isoformat(timespec="seconds")
    opening = {"number": len(openings) + 1, "time": now, "weights_sha256": digests, "parts": split_hash}
    study.set_user_attr(OPENINGS, [*openings, opening])
    make_durable(backend(study))  # a power cut must not make a second look at the test the first
    return opening


def _temperature(work: Workspace, model: CNN) -> float:
    """Fitted on cal, which nothing else ever sees; 1 where there is no such part."""
    cal = work.parts.cal
    if not len(cal):
        return 1.0
    return fit_temperature(predict_logits(model.to(work.device), work.eval_batches("cal")), work.dataset.labels[cal])


def _score(work: Workspace, model: CNN, temperature: float) -> Scores:
    index = getattr(work.parts, work.held_out)
    return score(
        predict_logits(model.to(work.device), work.eval_batches(work.held_out)),
        work.dataset.labels[index],
        work.dataset.groups[index],
        work.dataset.classes,
        temperature,
        derive_seed(work.config.seed, "bootstrap"),
    )


def _mistakes(work: Workspace, model: CNN, temperature: float) -> list[Mistake]:
    """The held-out images that the model named wrongly, the surest first."""
    index = getattr(work.parts, work.held_out)
    dataset = work.dataset
    probabilities = softmax(predict_logits(model.to(work.device), work.eval_batches(work.held_out)), temperature)
    predicted, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != dataset.labels[index])
    return [
        Mistake(
            path=dataset.paths[index[place]],
            true=dataset.classes[dataset.labels[index[place]]],
            predicted=dataset.classes[predicted[place]],
            probability=float(sure[place]),
            image=np.asarray(dataset.images[index[place]]),
        )
        for place in wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
    ]


def _group_scores(work: Workspace, model: CNN, temperature: float) -> dict[str, Any]:
    """The scores again with one vote a group, as a patient or a slide gets one answer."""
    index = getattr(work.parts, work.held_out)
    logits = predict_logits(model.to(work.device), work.eval_batches(work.held_out))
    rows = by_group(logits, work.dataset.labels[index], work.dataset.groups[index], temperature)
    found = asdict(score(*rows, work.dataset.classes, 1.0, derive_seed(work.config.seed, "bootstrap")))
    return {key: value for key, value in found.items() if key != "images" and not key.endswith("_before")}


def _trees(work: Workspace, model: CNN) -> dict[str, Any]:
    """Trees on colour and gradient histograms beside the shipped model: a network is worth what it adds to them."""
    from data.audit import tree_labels  # OpenCV and scikit-learn take seconds to import

    parts, dataset = work.parts, work.dataset
    test = getattr(parts, work.held_out)
    train = np.concatenate([getattr(parts, name) for name in TREE_PARTS[work.held_out]])
    shipped = predict_logits(model.to(work.device), work.eval_batches(work.held_out)).argmax(axis=1)
    named = tree_labels(dataset, train, test, work.config.seed)
    seed = derive_seed(work.config.seed, "bootstrap")
    row = compare(shipped, named, dataset.labels[test], dataset.groups[test], seed)
    return {"name": "trees", "leaky": work.config.protocol == "random", **row}


def _conformal(work: Workspace, model: CNN, temperature: float) -> dict[str, Any] | None:
    """Thresholds from cal for sets of classes, by level, and what they do on test; None where there is no cal."""
    if not len(work.parts.cal):
        return None
    parts = []
    for part in ("cal", work.held_out):
        index = getattr(work.parts, part)
        logits = predict_logits(model.to(work.device), work.eval_batches(part))
        parts.append((softmax(logits, temperature), work.dataset.labels[index], work.dataset.groups[index]))
    groups = len(np.unique(work.dataset.groups[work.parts.cal]))
    return {"method": "1 - probability", "groups": groups, "levels": conformal.describe(parts[0], parts[1])}


def _count(study: optuna.Study) -> int:
    return len(own_trials(study))


def _card(
    study: optuna.Study,
    work: Workspace,
    trial: FrozenTrial,
    trained: list[Trained],
    scores: list[Scores],
    temperature: float,
    opening: dict[str, Any],
) -> dict[str, Any]:
    """Everything a reader of the model must know, as JSON."""
    config, dataset = work.config, work.dataset
    return {
        "format": 1,
        "notice": NOTICE,
        "synthetic_data": dataset.synthetic,
        "protocol": config.protocol,
        "leaky": config.protocol == "random",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "classes": list(dataset.classes),
        "preprocessing": {
            "size": config.image_size,
            "decoding": DECODING,
            "mean": list(MEAN),
            "std": list(STD),
        },
        "temperature": temperature,
        "test": asdict(scores[0]),
        "test_accuracy_of_seeds": [one.accuracy for one in scores],
        "test_opening": opening,
        "test_openings": len(_openings(study)),
        "study": {
            "name": study.study_name,
            "trial": trial.number,
            "winner": winner(study).number,
            "params": trial.params,
            "metric": config.metric,
            "selection_score": trial.value,
            "trials": _count(study),
            "config": config.model_dump(mode="json"),
        },
        "final": {
            "data": config.final_data,
            "epochs": config.final_epochs,
            "seconds": round(sum(epoch["seconds"] for one in trained for epoch in one.epochs), 3),
            "epoch_seconds": [round(epoch["seconds"], 3) for epoch in trained[0].epochs],
            "num_params": trial.user_attrs.get("num_params"),
        },
        "data": {
            "source": config.data,
            "source_size": source_size([dataset.root / path for path in dataset.paths]),
            "images": len(dataset.labels),
            "groups": len(set(dataset.groups.tolist())),
            "groups_from": dataset.groups_from,
            "parts": work.parts.counts(),
            "parts_hash": work.parts.hash,
            "content": dataset.fingerprint,
            "skipped": list(dataset.skipped),
        },
        "versions": versions(work.device),
    }
