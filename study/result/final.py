"""From a searched study to a model folder: chosen, trained from fresh weights, test opened once, written."""

import json
import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from data.batches import MEAN, STD
from data.images import DECODING, source_size
from data.splits import random_parts
from models.bundle import folder as bundle
from study import StudyError
from study.result.refit import CONFIRMED, FinalEpoch, Job, Trained, architecture, chosen, ranked, train
from study.result.report import write_report
from study.result.scoring import Scored, leaky_row, open_test, openings, score_all, trees_digest
from study.search.members import own_trials
from study.search.trial import identity_of
from study.training.workspace import Workspace, versions

MODELS = "models"
"""Study attribute: the model folders that were written, with their scores; for SQL."""

NOTICE = "Research use only; not a medical device."

logger = logging.getLogger(__name__)

Rivals = list[tuple[str, FrozenTrial]]
"""(role, trial) of what the shipped model is compared with."""


@dataclass(frozen=True)
class Outcome:
    """The model folder, and the card in it."""

    directory: Path
    card: dict[str, Any]


def winner(study: optuna.Study) -> FrozenTrial:
    """The finished trial with the best selection score; StudyError when there is none."""
    return ranked(study)[0]


def finish(
    study: optuna.Study, work: Workspace, trial: FrozenTrial | None, directory: Path, *, fresh: bool = False
) -> Iterator[FinalEpoch | Outcome]:
    """Train a trial's architecture for good, score it on the test part, and write the model folder.

    Without a trial the winner is taken, confirmed first where the study asks for that. What a killed run already made
    is used again unless `fresh`; a folder that already holds this result is left as it is. The last item is the
    Outcome.
    """
    done = _finished_card(directory, study, work, trial)
    if done and not fresh:
        yield Outcome(directory, done)
        return
    rivals: Rivals = []
    if trial is None:
        trial, *others = yield from chosen(study, work, fresh=fresh)
        rivals += [("runner-up", other) for other in others[:1]]
    rivals += _baseline(study, {trial.number, *(other.number for _, other in rivals)})
    seeds = work.config.final_seeds
    shipped: list[Trained] = []
    for seed in range(seeds):
        job = Job("final training", trial, seed, seed, seeds + len(rivals), fresh)
        shipped.append((yield from train(study, work, job)))
    compared: list[tuple[str, int, Trained]] = []
    for place, (role, rival) in enumerate(rivals, start=seeds):
        try:
            made = yield from train(study, work, Job("final training", rival, 0, place, seeds + len(rivals), fresh))
            compared.append((role, rival.number, made))
        except StudyError as error:  # no reason to withhold the model
            logger.warning(f"no comparison with the {role}: {error}")
    trained = [*shipped, *(made for _, _, made in compared)]
    leaky = yield from _leaky(study, work, trial, fresh)
    opening = open_test(study, [*(one.digest for one in trained), trees_digest(work)], work.parts.hash)
    scored = score_all(work, shipped, compared)
    scored.card["leaky_score"] = leaky
    card = _write(study, work, trial, directory, trained, scored, opening)
    yield Outcome(directory, card)


def _baseline(study: optuna.Study, taken: set[int]) -> Rivals:
    """The enqueued baseline, unless it is among the others already."""
    found = [trial for trial in own_trials(study) if trial.user_attrs.get("baseline") and trial.number not in taken]
    return [("baseline", trial) for trial in found[:1]]


def _leaky(
    study: optuna.Study, work: Workspace, trial: FrozenTrial, fresh: bool
) -> Generator[FinalEpoch, None, dict[str, Any] | None]:
    """What the published protocol would report of the architecture: 80 % of the images at random, the rest to score."""
    if not work.config.leaky_score or work.leaky:
        return None
    config = work.config.model_copy(update={"protocol": "random", "final_data": "train"})
    parts = random_parts(len(work.dataset.labels), work.dataset.paths, config.seed)
    other = replace(work, config=config, parts=parts, folder=work.folder / "leaky")
    model = yield from train(study, other, Job("leaky training", trial, 0, 0, 1, fresh))
    return leaky_row(other, model)


def _write(
    study: optuna.Study,
    work: Workspace,
    trial: FrozenTrial,
    directory: Path,
    trained: list[Trained],
    scored: Scored,
    opening: dict[str, Any],
) -> dict[str, Any]:
    """The bundle and the report; the mark that all is done goes last."""
    some = work.dataset.images[work.parts.train[:64]]
    card = _card(study, work, trial, trained, opening) | scored.card
    card = bundle.save(directory, trained[0].model, architecture(work, trial), card, some)
    write_report(directory, study, work.config, card, trained[0].epochs, scored.mistakes)
    _remember(study, work, directory, card)
    mark = {"weights_sha256": trained[0].digest, "identity": identity_of(study, trial)}
    bundle.write_json(directory / "finished.json", mark)
    return card


def _remember(study: optuna.Study, work: Workspace, directory: Path, card: dict[str, Any]) -> None:
    """What SQL shows of the model folders of a study: the last model in each."""
    low, high = card["test"]["accuracy_interval"]
    row = {
        "trial": card["study"]["trial"],
        "weights_sha256": card["weights_sha256"],
        "accuracy": card["test"]["accuracy"],
        "low": low,
        "high": high,
        "path": str(directory.relative_to(work.folder) if directory.is_relative_to(work.folder) else directory),
        "opening": card["test_opening"]["number"],
        "leaky": card["leaky"],
    }
    kept = [one for one in study.user_attrs.get(MODELS, []) if one["path"] != row["path"]]
    if study.user_attrs.get(MODELS) != [*kept, row]:
        study.set_user_attr(MODELS, [*kept, row])


def _finished_card(
    directory: Path, study: optuna.Study, work: Workspace, trial: FrozenTrial | None
) -> dict[str, Any] | None:
    """The card of a folder that was finished for this trial, history and number of openings; None when work is left."""
    try:
        mark = json.loads((directory / "finished.json").read_text())
        card: dict[str, Any] = json.loads((directory / bundle.CARD).read_text())
        whole = bundle.is_whole(directory, card) and card["weights_sha256"] == mark["weights_sha256"]
        best = winner(study)
        wanted = card["study"]["trial"] if trial is None else trial.number
        shipped = next(one for one in own_trials(study) if one.number == wanted)
        same = mark["identity"] == identity_of(study, shipped) and card["study"]["name"] == study.study_name
        current = (
            card["study"]["trials"] == len(own_trials(study))
            and card["study"]["winner"] == best.number
            and card["test_openings"] == len(openings(study))
            and tuple(card["study"]["config"]["positive"]) == work.config.positive
            and card["study"]["config"]["leaky_score"] == work.config.leaky_score
        )
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None
    return card if whole and same and current else None


def _card(
    study: optuna.Study, work: Workspace, trial: FrozenTrial, trained: list[Trained], opening: dict[str, Any]
) -> dict[str, Any]:
    """Everything but the scores that a reader of the model must know, as JSON."""
    config, dataset = work.config, work.dataset
    return {
        "format": 1,
        "notice": NOTICE,
        "synthetic_data": dataset.synthetic,
        "protocol": config.protocol,
        "leaky": work.leaky,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "classes": list(dataset.classes),
        "preprocessing": {
            "size": config.image_size,
            "decoding": DECODING,
            "mean": list(MEAN),
            "std": list(STD),
        },
        "test_opening": opening,
        "test_openings": len(openings(study)),
        "study": {
            "name": study.study_name,
            "trial": trial.number,
            "winner": winner(study).number,
            "confirmed": study.user_attrs.get(CONFIRMED) if config.confirm > 1 else None,
            "params": trial.params,
            "metric": config.metric,
            "selection_score": trial.value,
            "trials": len(own_trials(study)),
            "config": config.model_dump(mode="json"),
        },
        "final": {
            "data": config.final_data,
            "epochs": config.final_epochs,
            "trainings": len(trained),
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
