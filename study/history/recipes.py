"""Recipes: questions that are worth asking of any study, in SQL that SQLite, PostgreSQL and DuckDB understand."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """A question that is worth asking of any study, and its SQL."""

    name: str
    question: str
    sql: str


SECONDS = 30.0
"""Seconds after which a query is given up, unless another limit is given."""

RECIPES = (
    Recipe(
        "best-per-depth",
        "How deep should a network from scratch be?",
        """SELECT t.study, CAST(d.value_number AS INTEGER) AS num_conv_blocks, count(*) AS trials, max(t.value) AS best,
  avg(t.value) AS mean
FROM trials_flat t JOIN params d ON d.trial_id = t.trial_id AND d.name = 'num_conv_blocks'
WHERE t.state = 'COMPLETE' AND NOT EXISTS (
  SELECT 1 FROM params p WHERE p.trial_id = t.trial_id AND p.name = 'backbone' AND p.value <> 'none')
GROUP BY t.study, d.value_number
ORDER BY t.study, d.value_number""",
    ),
    Recipe(
        "batch-norm",
        "Does batch norm help from scratch? (after the first epoch, which pruned trials have seen too)",
        """SELECT p.study, p.value AS use_batch_norm, count(*) AS trials, avg(e.accuracy) AS after_first_epoch,
  max(t.value) AS best
FROM params p JOIN epochs e ON e.trial_id = p.trial_id AND e.epoch = 1
  JOIN trials_flat t ON t.trial_id = p.trial_id
WHERE p.name = 'use_batch_norm' AND NOT EXISTS (
  SELECT 1 FROM params b WHERE b.trial_id = p.trial_id AND b.name = 'backbone' AND b.value <> 'none')
GROUP BY p.study, p.value
ORDER BY p.study, p.value""",
    ),
    Recipe(
        "cost-by-bracket",
        "What did each bracket of Hyperband cost, and what did it find?",
        """SELECT study, bracket, count(*) AS trials, sum(epochs_trained) AS epochs, sum(seconds) AS seconds,
  max(value) AS best
FROM trials_flat
WHERE state IN ('COMPLETE', 'PRUNED')
GROUP BY study, bracket
ORDER BY study, bracket""",
    ),
    Recipe(
        "top-curves",
        "How did the five best trials learn?",
        """SELECT e.study, e.number, e.epoch, e.accuracy, e.rung
FROM epochs e JOIN (
  SELECT trial_id, row_number() OVER (PARTITION BY study ORDER BY value DESC, number) AS place
  FROM trials_flat WHERE state = 'COMPLETE') best
ON best.trial_id = e.trial_id AND best.place <= 5
ORDER BY e.study, best.place, e.epoch""",
    ),
    Recipe(
        "saved",
        "What did pruning save?",
        """SELECT study, trials, pruned, epochs_spent, epochs_saved,
  100.0 * epochs_saved / nullif(epochs_spent + epochs_saved, 0) AS percent_saved, seconds, wall_seconds
FROM studies_overview
ORDER BY study""",
    ),
    Recipe(
        "time",
        "Where did the time go?",
        """SELECT study, state, coalesce(why, '') AS why, count(*) AS trials, sum(epochs_trained) AS epochs,
  sum(seconds) AS seconds
FROM trials_flat
GROUP BY study, state, coalesce(why, '')
ORDER BY study, state, coalesce(why, '')""",
    ),
    Recipe(
        "parameters",
        "Which parameter matters at equal cost? (after the first epoch; values of numbers in four classes)",
        """WITH quarters AS (
  SELECT study, name, value_number, ntile(4) OVER (PARTITION BY study, name ORDER BY value_number) AS quarter
  FROM (SELECT DISTINCT study, name, value_number FROM params WHERE distribution <> 'categorical') numbers),
first AS (
  SELECT p.study, p.name, e.accuracy, coalesce(CAST(q.quarter AS TEXT), p.value) AS choice
  FROM params p JOIN epochs e ON e.trial_id = p.trial_id AND e.epoch = 1
  LEFT JOIN quarters q ON q.study = p.study AND q.name = p.name AND q.value_number = p.value_number),
means AS (
  SELECT study, name, choice, count(*) AS trials, avg(accuracy) AS mean FROM first GROUP BY study, name, choice)
SELECT study, name, count(*) AS choices, sum(trials) AS trials, max(mean) - min(mean) AS spread
FROM means
GROUP BY study, name
ORDER BY study, max(mean) - min(mean) IS NULL, spread DESC, name""",
    ),
    Recipe(
        "side-by-side",
        "How do the studies compare?",
        """SELECT o.study, o.trials, o.epochs_spent, o.clock_seconds, o.best_value, m.accuracy, m.low, m.high
FROM studies_overview o LEFT JOIN models m ON m.study = o.study AND m.path = 'model'
ORDER BY o.study""",
    ),
    Recipe(
        "models",
        "What are the exported models worth?",
        """SELECT study, trial, accuracy, low, high, leaky, openings, path
FROM models
ORDER BY study, path""",
    ),
)
