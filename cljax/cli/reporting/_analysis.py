"""What happened in a run, from its checkpoints: accuracies, classes, layers and representations over time.

Everything is measured on a fixed choice of test rows, for the first members of the population, and averaged over them.
The result is one dict of plain numbers; :mod:`cljax.cli.reporting._analysis_text` says it in words.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cljax import Learn, metrics
from cljax.cli.reporting import _analysis_numbers as _numbers
from cljax.cli.reporting import looking
from cljax.engine import event_record, restore
from cljax.evaluation import scores
from cljax.io import checkpoint

CHECKPOINTS = 25  # at most so many moments are looked at
MEMBERS = 3  # of a population
STATE = "model state"
RESET_TASKS, RESET_MODULES = 8, 12  # of those that lost and moved most


class Moment(NamedTuple):
  """A checkpoint after an event: how many events are done, and the learner with its member axis."""

  done: int
  learner: Any


def analyse(history: restore.History, members: Sequence[int], rows: int) -> dict[str, Any]:
  """All numbers of a run, JSON-ready; ``rows``: at most so many test rows of each task."""
  notes: list[str] = []
  position, moments = _moments(history, notes)
  stream = history.stream
  if history.own_streams:
    seed = history.config["members"][0][0]
    members = [m for m in members if history.config["members"][m][0] == seed]
    notes.append(f"each seed has a stream of its own (stream.per_seed); only seed {seed} is looked at")
  members = list(members)[:MEMBERS]
  # Of what came later there is no score where a deletion took the states from before: null.
  of = lambda row: np.asarray(row, np.float64)[list(members)]
  over = lambda key: np.mean([of(row[key]) for row in position["accuracy"]], 1)
  done = [event_record(e) for e in stream.events[: position["event"]]]
  order = [e["task"] for e in done if e["kind"] == "learn"]
  own = looking.objective_of(history, members)
  main = own.scores[own.main]
  sign = scores.sign(main.better)
  out: dict[str, Any] = {
    "stream": stream.name,
    "score": {"name": own.main, "better": main.better},
    "seeds": [history.config["members"][m][0] for m in members],
    "events": done,
    "of_events": len(stream.events),
    "started": bool(position["step"] or position["total"]),
    "rows": rows,
    "task_id_given": stream.task_id_given,
    "class_names": _class_names(stream),
    "shared_classes": stream.num_tasks > 1 and bool(stream.classes_of_task.all()),
    "accuracy": over("test"),
    "task_accuracy": over("task"),
    "curves": _curves(position, members),
    "forgotten": [
      {**f, **{k: np.asarray(f[k], float)[members].mean() for k in ("forget", "retain")}} for f in position["forgotten"]
    ],
    "never": sorted(set(range(stream.num_tasks)) - {e.task for e in stream.events if isinstance(e, Learn)}),
    "asked": _asked(stream, position["event"]),
    "moments": [m.done - 1 for m in moments],
  }
  counted = history.presentations(position["number"])
  if counted is not None:
    out["presentations"] = _numbers.of_presentations(counted, members, stream.dataset.train.id)
  out["tasks"] = _tasks(out["accuracy"], done, sign)
  after = [i + 1 for i, e in enumerate(done) if e["kind"] == "learn"]
  matrix = np.stack([of(row["test"]) for row in position["accuracy"]], 1)[:, after]
  found = _numbers.of_scores(matrix, order, sign, own.main == scores.ACCURACY)
  if out["curves"] and order and order == list(range(len(order))) and stream.num_tasks > 1:
    whole = [c for c in out["curves"] if c["event"] < len(done)]
    curve, current = (np.asarray([c[k] for c in whole]) for k in ("accuracy", "task"))
    out["worst_case"] = sign * metrics.worst_case_accuracy(sign * curve, current)
    out["minimum"] = sign * metrics.minimum_accuracy(sign * curve, current)
    found |= _numbers.of_curves(curve, current, sign)
  out["gaps"] = _gaps(out["curves"], out["accuracy"], done, sign)
  if moments:
    look = looking.look_at(history, own, rows, order)
    values = [jax.tree.map(lambda a, m=m: a[m], history.values) for m in members]
    learners = [[jax.tree.map(lambda a, m=m: a[m], moment.learner) for moment in moments] for m in members]
    chosen, tools, at = _most_moved(learners[0]), _numbers.tools(history, look, order), [m.done for m in moments]
    each = list(zip(values, learners, strict=True))
    per_member = [_member(look, v, at, own_learners, order, out["tasks"], chosen) for v, own_learners in each]
    out |= {k: _mean([p[k] for p in per_member]) for k in per_member[0]}
    more = [_numbers.of_member(look, tools, v, at, own_learners, order) for v, own_learners in each] if order else [{}]
    found |= {k: float(np.mean([m[k] for m in more])) for k in more[0]}
    if own.classes:
      out["classes"] = _classes(np.asarray(out["confusion"]), stream, done, [m.done for m in moments])
  return out | {"numbers": found, "notes": notes}


def _moments(history: restore.History, notes: list[str]):
  """The newest sound position, and evenly spaced moments right after events."""
  found = history.numbers
  chosen = sorted({round(i) for i in np.linspace(0, len(found) - 1, min(CHECKPOINTS, len(found)))})
  position, moments = None, {}
  for at in reversed(range(len(found))):
    if position is not None and at not in chosen:
      continue
    try:
      learner, here = history.read(found[at])
    except checkpoint.DamagedError as error:
      notes.append(f"passed over: {error}")
      continue
    position = {**here, "number": found[at]} if position is None else position
    if here["step"] == 0 and not here["ended"] and here["event"]:
      moments[here["event"]] = Moment(here["event"], learner)
  if position is None:
    raise checkpoint.DamagedError("no sound checkpoint is left: " + "; ".join(notes))
  return position, [moments[e] for e in sorted(moments)]


def _class_names(stream) -> list[str]:
  """What the model's outputs stand for, where that is the same in all tasks; else numbers."""
  names = stream.dataset.class_names
  plain = ((stream.labels == -1) | (stream.labels == np.arange(stream.labels.shape[1]))).all()
  return [names[c] if plain and c < len(names) else str(c) for c in range(stream.num_classes)]


def _asked(stream, upto: int) -> list[int]:
  """The outputs whose whole class was asked to be forgotten."""
  classes = [c for e in stream.events[:upto] if not isinstance(e, Learn) for c in e.classes]
  labels = np.unique(stream.labels[:, classes])
  return labels[labels >= 0].tolist()


def _curves(position, members) -> list[dict]:
  return [{**c, "accuracy": np.mean([c["accuracy"][m] for m in members], 0)} for c in position["curves"]]


def _tasks(accuracy, done, sign: int) -> list[dict]:
  """Each learned task: when it was last learned, its score then, the best ever, and now."""
  out = {}
  for at, event in enumerate(done):
    if event["kind"] == "learn":
      out[event["task"]] = {"task": event["task"], "learned": at, "then": accuracy[at + 1][event["task"]]}
  for task, record in out.items():
    since = accuracy[1:, task]
    record |= {"best": sign * (sign * since).max(), "now": since[-1]}
  return list(out.values())


def _gaps(curves, accuracy, done, sign: int) -> list[dict]:
  """How far the old tasks fell inside each Learn event and how much came back."""
  out: list[dict] = []
  met: list[int] = []
  for at, event in enumerate(done):
    if event["kind"] != "learn":
      continue
    inside = [c["accuracy"] for c in curves if c["event"] == at]
    old = [t for t in met if t != event["task"]]
    if old and len(inside) > 1:
      # From the evaluation before, where there was one: with eval.limit it saw the same rows as those inside.
      prior = [c["accuracy"] for c in curves if c["event"] == at - 1]
      gap = metrics.event_gap(sign * (prior or [accuracy[at]])[-1][old], sign * np.asarray(inside)[:, old])
      worst = int(np.argmax(gap.depth))
      out.append({
        "event": at, "task": event["task"], "depth": gap.depth.mean(), "recovered": gap.recovered.mean(),
        "worst": old[worst], "worst_depth": gap.depth[worst], "worst_recovered": gap.recovered[worst],
      })  # fmt: skip
    met += [event["task"]] * (event["task"] not in met)
  return out


def _member(look: looking.Look, values, moments, learners, order, tasks, chosen) -> dict[str, Any]:
  """What costs forward passes, for one member."""
  moved, names = _moved(learners), metrics.module_names(learners[0].params)
  every = {
    "modules": names,
    "moved": np.asarray([[m.get(name, 0.0) for name in names] for m in moved]).reshape(-1, len(names)),
    **_drift(look, values, learners),
    "resets": _resets(look, values, moments, learners, tasks, chosen),
  }
  return every | (_by_class(look, values, moments, learners, order) if look.own.classes else {})


def _by_class(look: looking.Look, values, moments, learners, order) -> dict[str, Any]:
  """What is taken for what, and which rows were lost, for one member."""
  learned = np.cumsum([isinstance(e, Learn) for e in look.stream.events])
  confusions, right, shown = [], [], []
  for event, learner in zip(moments, learners, strict=True):
    counts = np.zeros((look.stream.num_classes,) * 2, np.int64)
    hits = {t: np.zeros(len(look.rows[t]), bool) for t in dict.fromkeys(order)}
    met = set(order[: learned[event - 1]])
    for task in met:
      labels, found = looking.predicted(look, values, learner, task, event)
      counts += metrics.confusion(labels, found, look.stream.num_classes)
      hits[task] = labels == found
    confusions.append(counts)
    right.append(np.concatenate(list(hits.values())))
    shown.append(np.concatenate([np.full(len(h), t in met) for t, h in hits.items()]))
  rows = metrics.forgetting_events(right, shown)
  seen = rows.presentations > 0
  return {
    "confusion": np.asarray(confusions),
    "rows_kept": np.mean(rows.unforgettable[seen], keepdims=True),
    "rows_lost": np.mean(rows.forgetting[seen] > 0, keepdims=True),
  }


def _moved(learners) -> list[dict[str, float]]:
  return [metrics.module_sensitivity(a.params, b.params) for a, b in itertools.pairwise(learners)]


def _most_moved(learners) -> list[str]:
  """The modules that are put back, in their order: all, or those that moved most."""
  names, moved = metrics.module_names(learners[0].params), _moved(learners)
  total = {n: sum(m.get(n, 0.0) for m in moved) for n in names}
  most = sorted(names, key=lambda n: -total[n])[:RESET_MODULES]
  return [n for n in names if n in most] + [STATE] * bool(jax.tree.leaves(learners[0].model_state))


def _drift(look: looking.Look, values, learners) -> dict[str, Any]:
  """``1 - CKA`` of each layer on the probe rows, since the first moment: ``[K, layers]``."""
  rows, tasks = look.probe
  batch = looking.stored_batch(look, rows, tasks)
  seen = [jax.tree.map(np.asarray, look.layers(values, learner, batch)) for learner in learners]
  names = sorted(seen[0], key=lambda n: (n == "logits", int(n.split()[1]) if n.startswith("hidden") else 0))
  drift = [[metrics.cka_drift(seen[0][n], now[n]) for n in names] for now in seen]
  return {"layers": names, "drift": np.asarray(drift), "probe": len(rows)}


def _resets(look: looking.Look, values, moments, learners, tasks, chosen) -> dict[str, Any]:
  """One module at a time put back into the last model (``restored``), or the last one's put into the old (``damaged``).

  ``together`` puts all of them back, so that what is left is what the method keeps beside the model. For tasks that
  lost accuracy; the old model is that of the moment right after the task was last learned.
  """
  at = {event: i for i, event in enumerate(moments)}
  worse = lambda t: scores.sign(look.own.scores[look.own.main].better) * (t["now"] - t["then"])
  lost = [t for t in tasks if t["learned"] + 1 in at and worse(t) < 0]
  lost = sorted(sorted(lost, key=worse)[:RESET_TASKS], key=lambda t: t["task"])
  table: dict[str, list] = {"then": [], "now": [], "together": [], "restored": [], "damaged": []}
  last = learners[-1]
  for record in lost:
    moment, task = record["learned"] + 1, record["task"]
    old = learners[at[moment]]
    then = lambda learner, task=task, moment=moment: looking.score(look, values, learner, task, moment)
    now = lambda learner, task=task: looking.score(look, values, learner, task, moments[-1])
    table["then"].append(then(old))
    table["now"].append(now(last))
    table["together"].append(then(swap(last._replace(params=old.params), old, STATE)))
    table["restored"].append([now(swap(last, old, n)) for n in chosen])
    table["damaged"].append([then(swap(old, last, n)) for n in chosen])
  return {"tasks": [t["task"] for t in lost], "modules": chosen, **{k: np.asarray(v) for k, v in table.items()}}


def swap(learner, source, module: str):
  """``learner`` with one module of ``source``; :data:`STATE` is all that is not trained (BatchNorm's statistics)."""
  if module == STATE:
    return learner._replace(model_state=source.model_state)
  return learner._replace(params=metrics.with_module(learner.params, source.params, module))


def _classes(confusions, stream, done, moments) -> dict[str, Any]:
  """Accuracy and forgetting by class, and the share of errors on old classes that name the classes learned last."""
  accuracy = metrics.per_class_accuracy(confusions)
  forgotten = metrics.per_class_forgetting(confusions) if len(confusions) > 1 else np.full(accuracy.shape[1], np.nan)
  recency: list[float] = []
  table = stream.classes_of_task
  for counts, event in zip(confusions, moments, strict=True):
    met = [e["task"] for e in done[:event] if e["kind"] == "learn"]
    new = table[met[-1]]
    old = table[met].any(0) & ~new
    recency.append(metrics.recency_bias(counts, old, new) if old.any() and not stream.task_id_given else np.nan)
  return {"accuracy": accuracy, "forgetting": forgotten, "recency": recency}


def _mean(parts: Sequence[Any]):
  """Over members: numbers are averaged, names are the same."""
  first = parts[0]
  if isinstance(first, dict):
    return {k: _mean([p[k] for p in parts]) for k in first}
  numeric = isinstance(first, np.ndarray) and np.issubdtype(first.dtype, np.number)
  return np.mean(parts, 0) if numeric else first
