"""Readable history of studies: SQL views over Optuna's tables, in SQLite and in PostgreSQL.

Optuna keeps a categorical choice as an index, infinity as NULL with a type beside it, and a row for each parameter.
The views show words, numbers and columns. They hold no data, so they are never behind, except that a parameter seen
for the first time becomes a column of trials_flat with the next call of `refresh`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution, json_to_distribution
from sqlalchemy import Connection, Engine

from study import attributes as names
from study.storage.backend import VIEWS, Backend, Expressions, backend_of, drop_views, ignore_failure
from study.storage.lean import UNREADABLE
from study.storage.trouble import repeated

MOST_COLUMNS = 1000
"""Number of parameters that become columns of trials_flat at most; PostgreSQL allows 1,600 columns in all."""
LONGEST_NAME = 63
"""Bytes of a column's name in PostgreSQL at most."""


@dataclass(frozen=True)
class Column:
    """A column of a view, as docs/history.md and `study sql --schema` describe it."""

    name: str
    type: str
    unit: str
    meaning: str


def _columns(text: str) -> tuple[Column, ...]:
    return tuple(Column(*(part.strip() for part in line.split("|"))) for line in text.strip().splitlines())


COLUMNS: dict[str, tuple[Column, ...]] = {
    "trials_flat": _columns(
        """
        study | text | | name of the study
        number | integer | | number of the trial in its study, from 0
        trial_id | integer | | id of the trial, unique in the database: join the views by it
        state | text | | COMPLETE, PRUNED, RUNNING, WAITING or FAIL
        value | real | fraction | selection score: the metric on val after the last epoch
        best_accuracy | real | fraction | highest value of any epoch
        best_epoch | integer | epochs | where that was reached
        epochs_trained | integer | epochs | reported so far
        seconds | real | seconds | of training and validation
        bracket | integer | | of Hyperband, 0 is judged earliest; NULL without Hyperband
        why | text | | not_promoted, diverged, out_of_memory, worker_died, above_limit or not_of_this_study
        pruned_because | text | | the same as a sentence
        failed_because | text | | why it does not count at all
        num_params | integer | weights | trainable numbers in the network
        train_accuracy | real | fraction | in the last epoch, on augmented images
        images_per_second | real | images/s | of training and validation
        leaky | boolean | | the parts shared sources (protocol random, allow_leaks): no score to believe
        baseline | boolean | | enqueued by the configuration instead of drawn
        started | timestamp | UTC | NULL while it waits
        ended | timestamp | UTC | NULL until it has ended
        """
    ),
    "epochs": _columns(
        """
        study | text | | name of the study
        number | integer | | of the trial
        trial_id | integer | | id of the trial, unique in the database: join the views by it
        epoch | integer | epochs | completed, from 1
        accuracy | real | fraction | what was reported: the metric on val; NULL where it is not a number
        rung | boolean | | Hyperband judges the trial here
        """
    ),
    "params": _columns(
        """
        study | text | | name of the study
        number | integer | | of the trial
        trial_id | integer | | id of the trial, unique in the database: join the views by it
        name | text | | of the parameter
        value | text | | as it reads
        value_number | real | | the same as a number; NULL for a word
        distribution | text | | float, int or categorical
        log | boolean | | drawn on a logarithmic scale
        """
    ),
    "rungs": _columns(
        """
        study | text | | name of the study
        bracket | integer | | of Hyperband
        rung | integer | epochs | after which trials are judged
        entered | integer | trials | that were trained so far
        promoted | integer | trials | that continued past this rung
        threshold | real | fraction | lowest value with which one was; later trials may need more
        """
    ),
    "studies_overview": _columns(
        """
        study | text | | name of the study
        protocol | text | | grouped, or random (leaky); NULL for a study of another program
        data | text | | the images
        trials | integer | trials | of any state
        complete | integer | trials | trained to the end
        pruned | integer | trials | ended early
        running | integer | trials | begun and not ended
        waiting | integer | trials | enqueued
        failed | integer | trials | that do not count
        best_trial | integer | | number of the best complete trial
        best_value | real | fraction | its selection score
        epochs_spent | integer | epochs | trained in all trials
        epochs_saved | integer | epochs | that trials were spared which Hyperband stopped
        seconds | real | seconds | of training, added up over all trials and workers
        wall_seconds | real | seconds | with an ended trial open; a pause inside a trial counts
        hours | real | hours | given for everything; NULL without
        clock_seconds | real | seconds | in which a process worked on it, what follows the search included
        first_start | timestamp | UTC | of any trial
        last_end | timestamp | UTC | of any trial
        """
    ),
    "models": _columns(
        """
        study | text | | name of the study
        trial | integer | | whose architecture it is
        accuracy | real | fraction | on the test part
        low | real | fraction | lower end of its 95 % interval
        high | real | fraction | upper end
        leaky | boolean | | the test part shared sources with training: no score to believe
        path | text | | folder of its files, from runs/NAME
        opening | integer | | which opening of the test part scored it, from 1
        openings | integer | | of the test part in all, by now
        opened | text | UTC | when it was scored
        weights_sha256 | text | | of its weights
        """
    ),
}
"""Columns of each view in order; trials_flat ends with one more column for each parameter."""

INSTEAD = {
    "trials": "trials_flat",
    "trial_params": "params, or trials_flat with a column for each",
    "trial_values": "trials_flat, column value",
    "trial_intermediate_values": "epochs",
    "trial_user_attributes": "trials_flat",
    "trial_system_attributes": "trials_flat",
    "studies": "studies_overview",
    "study_directions": "studies_overview",
    "study_user_attributes": "studies_overview, or models",
    "study_system_attributes": "studies_overview",
}
"""Views that show the content of each of Optuna's tables."""


@repeated
def refresh(engine: Engine, searched: Mapping[str, BaseDistribution] | None = None) -> None:
    """Create the views, or create them anew where they differ from what this version and these parameters need.

    `searched`: parameters of a study that is about to begin.
    """
    backend = backend_of(engine.url)
    with engine.connect().execution_options(reads=True) as connection:
        wanted = definitions(connection, searched or {})
        if _present(backend, connection) == wanted:
            return
    with engine.begin() as connection:
        backend.in_turn(connection)
        wanted = definitions(connection, searched or {})
        if _present(backend, connection) == wanted:
            return
        drop_views(connection)
        for name, text in wanted.items():
            with ignore_failure(connection):  # a table of that name, or a view that somebody built upon
                backend.make_view(connection, name, text)


def _present(backend: Backend, connection: Connection) -> dict[str, str]:
    """Return the text of each of our views as it was created."""
    return {name: text for name, text in backend.views(connection).items() if name in VIEWS}


def definitions(connection: Connection, searched: Mapping[str, BaseDistribution]) -> dict[str, str]:
    """Return the SELECT behind each view; trials_flat depends on the parameters that occur in the database."""
    query = "SELECT DISTINCT param_name, distribution_json FROM trial_params"
    kinds: dict[str, list[BaseDistribution]] = {name: [one] for name, one in searched.items()}
    for name, text in connection.exec_driver_sql(query).all():
        with suppress(*UNREADABLE):  # a distribution of a later version, or another program's text
            kinds.setdefault(name, []).append(json_to_distribution(text))
    expressions = backend_of(connection.engine.url).expressions
    types = {name: _type(kinds[name]) for name in sorted(kinds)[:MOST_COLUMNS]}
    return _texts(expressions, "".join(f",\n  {text}" for text in _parameters(types, expressions)))


def _type(kinds: Sequence[BaseDistribution]) -> str:
    """Return the SQL type that holds all values of a parameter, over all studies."""
    values: list[object] = []
    for kind in kinds:
        if isinstance(kind, CategoricalDistribution):
            values += [choice for choice in kind.choices if choice is not None]
        else:
            values.append(0 if isinstance(kind, IntDistribution) else 0.5)
    found = {type(value) for value in values}
    if found == {bool}:
        return "boolean"
    if found == {int}:
        return "bigint"
    return "double precision" if found <= {int, float} else "text"


def _parameters(types: Mapping[str, str], expressions: Expressions) -> Iterator[str]:
    """Yield the SQL of one column for each parameter; a name that is taken gets `param_` before it, or a number too."""
    taken = {column.name for column in COLUMNS["trials_flat"]}
    for name, kind in types.items():
        column, number = _shortened(name), 1
        while column.lower() in taken or not column:
            ending = "" if number == 1 else f"_{number}"
            column = _shortened(f"param_{name}", len(ending)) + ending
            number += 1
        taken.add(column.lower())
        literal, quoted = name.replace("'", "''"), column.replace('"', '""')
        yield (
            f"(SELECT {expressions.param(kind)} FROM trial_params p WHERE p.trial_id = t.trial_id "
            f"AND p.param_name = '{literal}') AS \"{quoted}\""
        )


def _shortened(name: str, spared: int = 0) -> str:
    return name.encode()[: LONGEST_NAME - spared].decode(errors="ignore")


def _texts(d: Expressions, parameters: str) -> dict[str, str]:
    """Write the SELECT of each view; t: trial, s: study, p: parameter, i: report, v: value, c: configuration."""
    value = (
        f"(SELECT {d.value('v.value', 'v.value_type')} FROM trial_values v "
        "WHERE v.trial_id = t.trial_id AND v.objective = 0)"
    )
    configs = f"""SELECT u.study_id, {d.field("u.value_json", "min_epochs", "int")} AS min_epochs,
    {d.field("u.value_json", "epochs", "int")} AS epochs, {d.field("u.value_json", "eta", "int")} AS eta,
    {d.field("u.value_json", "pruner", "text")} AS pruner, {d.field("u.value_json", "protocol", "text")} AS protocol,
    {d.field("u.value_json", "data", "text")} AS data, {d.field("u.value_json", "hours", "real")} AS hours,
    (SELECT {d.field("k.value_json", "seconds", "real")} FROM study_user_attributes k
      WHERE k.study_id = u.study_id AND k.key = '{names.CLOCK}') AS clock
    FROM study_user_attributes u JOIN study_user_attributes o ON o.study_id = u.study_id AND o.key = '{names.CONTRACT}'
    WHERE u.key = '{names.CONFIG}'"""
    return {
        "trials_flat": f"""SELECT s.study_name AS study, t.number AS number, t.trial_id AS trial_id,
  CAST(t.state AS TEXT) AS state,
  {value} AS value,
  {d.user(names.BEST_ACCURACY, "real")} AS best_accuracy,
  {d.user(names.BEST_EPOCH, "int")} AS best_epoch,
  (SELECT count(*) FROM trial_intermediate_values i WHERE i.trial_id = t.trial_id) AS epochs_trained,
  {d.user(names.SECONDS, "real")} AS seconds,
  {d.user(names.BRACKET, "int")} AS bracket,
  {d.user(names.WHY, "text")} AS why,
  {d.user(names.PRUNED_BECAUSE, "text")} AS pruned_because,
  {d.user(names.FAILED_BECAUSE, "text")} AS failed_because,
  {d.user(names.NUM_PARAMS, "int")} AS num_params,
  {d.user(names.TRAIN_ACCURACY, "real")} AS train_accuracy,
  {d.user(names.IMAGES_PER_SECOND, "real")} AS images_per_second,
  {d.user(names.LEAKY, "bool")} AS leaky,
  {d.user(names.BASELINE, "bool")} AS baseline,
  t.datetime_start AS started, t.datetime_complete AS ended{parameters}
FROM trials t JOIN studies s ON s.study_id = t.study_id""",
        "epochs": f"""WITH RECURSIVE c AS ({configs}),
  r(study_id, place, epoch) AS (
    SELECT study_id, 0, min_epochs FROM c WHERE pruner = 'hyperband'
    UNION ALL SELECT c.study_id, r.place + 1, r.epoch * c.eta FROM r JOIN c ON c.study_id = r.study_id
      WHERE r.epoch * c.eta < c.epochs)
SELECT s.study_name AS study, t.number AS number, t.trial_id AS trial_id, i.step AS epoch,
  {d.value("i.intermediate_value", "i.intermediate_value_type")} AS accuracy,
  EXISTS (SELECT 1 FROM r JOIN c ON c.study_id = r.study_id
    WHERE r.study_id = t.study_id AND r.epoch = i.step AND i.step < c.epochs
      AND r.place >= {d.user(names.BRACKET, "int")}) AS rung
FROM trial_intermediate_values i JOIN trials t ON t.trial_id = i.trial_id JOIN studies s ON s.study_id = t.study_id""",
        "params": f"""SELECT s.study_name AS study, t.number AS number, t.trial_id AS trial_id,
  CAST(p.param_name AS TEXT) AS name,
  {d.param_text} AS value,
  {d.param_number} AS value_number,
  CASE WHEN p.distribution_json LIKE '{{"name": "Cat%' THEN 'categorical'
    WHEN p.distribution_json LIKE '{{"name": "Int%' THEN 'int' ELSE 'float' END AS distribution,
  (p.distribution_json LIKE '{{"name": "LogUniform%'
    OR p.distribution_json LIKE '{{"name": "IntLog%' OR (p.distribution_json NOT LIKE '{{"name": "Cat%'
    AND p.distribution_json LIKE '%"log": true%')) AS log
FROM trial_params p JOIN trials t ON t.trial_id = p.trial_id JOIN studies s ON s.study_id = t.study_id""",
        "rungs": f"""WITH RECURSIVE c AS ({configs}),
  r(study_id, place, epoch) AS (
    SELECT study_id, 0, min_epochs FROM c WHERE pruner = 'hyperband' AND min_epochs < epochs
    UNION ALL SELECT c.study_id, r.place + 1, r.epoch * c.eta FROM r JOIN c ON c.study_id = r.study_id
      WHERE r.epoch * c.eta < c.epochs),
  n AS (SELECT t.trial_id, t.study_id, {d.user(names.BRACKET, "int")} AS bracket,
    (SELECT count(*) FROM trial_intermediate_values i WHERE i.trial_id = t.trial_id) AS trained FROM trials t)
SELECT s.study_name AS study, n.bracket AS bracket, r.epoch AS rung, count(*) AS entered,
  count(CASE WHEN n.trained > r.epoch THEN 1 END) AS promoted,
  min(CASE WHEN n.trained > r.epoch THEN (SELECT {d.value("i.intermediate_value", "i.intermediate_value_type")}
    FROM trial_intermediate_values i WHERE i.trial_id = n.trial_id AND i.step = r.epoch) END) AS threshold
FROM n JOIN r ON r.study_id = n.study_id AND r.place >= n.bracket AND n.trained >= r.epoch
  JOIN studies s ON s.study_id = n.study_id
GROUP BY s.study_name, n.bracket, r.epoch""",
        "studies_overview": f"""WITH c AS ({configs}),
  n AS (SELECT t.trial_id, t.study_id, t.number, CAST(t.state AS TEXT) AS state,
    {d.user(names.SECONDS, "real")} AS seconds, {d.user(names.WHY, "text")} AS why,
    {d.user(names.PRUNED_BECAUSE, "text")} AS because,
    t.datetime_start AS began, t.datetime_complete AS ended,
    (SELECT count(*) FROM trial_intermediate_values i WHERE i.trial_id = t.trial_id) AS trained,
    {value} AS value,
    max(CASE WHEN t.datetime_start IS NOT NULL THEN t.datetime_complete END)
      OVER (PARTITION BY t.study_id ORDER BY t.datetime_start, t.trial_id
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS covered
    FROM trials t),
  b AS (SELECT n.study_id, n.number, n.value, row_number() OVER (PARTITION BY n.study_id
      ORDER BY CASE WHEN CAST(d.direction AS TEXT) = 'MINIMIZE' THEN n.value ELSE -n.value END, n.number) AS place
    FROM n JOIN study_directions d ON d.study_id = n.study_id AND d.objective = 0
    WHERE n.state = 'COMPLETE' AND n.value IS NOT NULL),
  a AS (SELECT n.study_id, count(*) AS trials, count(CASE WHEN n.state = 'COMPLETE' THEN 1 END) AS complete,
    count(CASE WHEN n.state = 'PRUNED' THEN 1 END) AS pruned,
    count(CASE WHEN n.state = 'RUNNING' THEN 1 END) AS running,
    count(CASE WHEN n.state = 'WAITING' THEN 1 END) AS waiting,
    count(CASE WHEN n.state = 'FAIL' THEN 1 END) AS failed,
    CAST(sum(n.trained) AS BIGINT) AS trained,
    CAST(sum(CASE WHEN n.why = 'not_promoted' OR (n.why IS NULL AND n.because LIKE 'not among the best%')
      THEN c.epochs - n.trained WHEN c.epochs IS NOT NULL THEN 0 END) AS BIGINT) AS saved,
    sum(n.seconds) AS seconds, min(n.began) AS first_start, max(n.ended) AS last_end,
    sum(CASE WHEN n.ended IS NULL OR n.began IS NULL OR n.ended < n.began THEN 0.0
      WHEN n.covered IS NULL OR n.covered <= n.began THEN {d.between("n.began", "n.ended")}
      WHEN n.covered < n.ended THEN {d.between("n.covered", "n.ended")} ELSE 0.0 END) AS wall
    FROM n LEFT JOIN c ON c.study_id = n.study_id GROUP BY n.study_id)
SELECT s.study_name AS study, c.protocol AS protocol, c.data AS data, coalesce(a.trials, 0) AS trials,
  coalesce(a.complete, 0) AS complete, coalesce(a.pruned, 0) AS pruned, coalesce(a.running, 0) AS running,
  coalesce(a.waiting, 0) AS waiting, coalesce(a.failed, 0) AS failed, b.number AS best_trial, b.value AS best_value,
  coalesce(a.trained, 0) AS epochs_spent, a.saved AS epochs_saved, a.seconds AS seconds, a.wall AS wall_seconds,
  c.hours AS hours, c.clock AS clock_seconds,
  a.first_start AS first_start, a.last_end AS last_end
FROM studies s LEFT JOIN c ON c.study_id = s.study_id LEFT JOIN a ON a.study_id = s.study_id
  LEFT JOIN b ON b.study_id = s.study_id AND b.place = 1""",
        "models": f"""SELECT s.study_name AS study, {d.field("m.value", "trial", "int")} AS trial,
  {d.field("m.value", "accuracy", "real")} AS accuracy, {d.field("m.value", "low", "real")} AS low,
  {d.field("m.value", "high", "real")} AS high, {d.field("m.value", "leaky", "bool")} AS leaky,
  {d.field("m.value", "path", "text")} AS path, {d.field("m.value", "opening", "int")} AS opening,
  (SELECT count(*) FROM study_user_attributes o, {d.each("o.value_json")} e
    WHERE o.study_id = s.study_id AND o.key = '{names.OPENINGS}') AS openings,
  (SELECT max({d.field("e.value", "time", "text")}) FROM study_user_attributes o, {d.each("o.value_json")} e
    WHERE o.study_id = s.study_id AND o.key = '{names.OPENINGS}'
      AND {d.field("e.value", "number", "int")} = {d.field("m.value", "opening", "int")}) AS opened,
  {d.field("m.value", "weights_sha256", "text")} AS weights_sha256
FROM studies s JOIN study_user_attributes c ON c.study_id = s.study_id AND c.key = '{names.CONTRACT}'
  JOIN study_user_attributes u ON u.study_id = s.study_id AND u.key = '{names.MODELS}', {d.each("u.value_json")} m""",
    }
