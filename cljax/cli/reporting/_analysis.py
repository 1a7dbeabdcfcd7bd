"""What happened in a run, from its checkpoints: accuracies, classes, layers and representations over time.

Everything is measured on a fixed choice of test rows, for the first members of the population, and averaged over them.
The result is one dict of plain numbers; :mod:`cljax.cli.reporting._analysis_text` says it in words.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax import Learn, metrics, streams
from cljax.cli.reporting import _analysis_numbers as _numbers
from cljax.core.judging import judged_classes
from cljax.core.types import Batch
from cljax.engine import event_record, restore
from cljax.evaluation import scores
from cljax.io import checkpoint
from cljax.objectives import objective
from cljax.streams.fates import deleted_tests

CHECKPOINTS = 25  # at most so many moments are looked at
MEMBERS = 3  # of a population
STATE = "model state"
RESET_TASKS, RESET_MODULES = 8, 12  # of those that lost and moved most


class Look(NamedTuple):
  """What is needed to look at one member at one moment: rows of each task, and compiled functions of a learner."""

  stream: Any
  rows: list[np.ndarray]  # of each task, into the test split
  probe: tuple[np.ndarray, np.ndarray]  # (row, task) of the rows on which representations are compared
  own: Any  # the objective
  predict: Any  # (values, learner, x, task) -> labels; of class numbers alone
  score: Any  # (values, learner, batch, task) -> numerator and denominator of the main score
  layers: Any  # (values, learner, batch) -> activations by layer
  size: int


class Moment(NamedTuple):
  """A checkpoint after an event: how many events are done, and the learner with its member axis."""

  done: int
  learner: Any


def analyse(history: restore.History, members: Sequence[int], rows: int) -> dict[str, Any]:
  """All numbers of a run, JSON-ready; ``rows``: at most so many test rows of each task."""
  notes: list[str] = []
  position, moments = _moments(history, notes)
  stream = history.stream
  members = [m for m in members][:MEMBERS]
  # Of what came later there is no score where a deletion took the states from before: null.
  of = lambda row: np.asarray(row, np.float64)[list(members)]
  over = lambda key: np.mean([of(row[key]) for row in position["accuracy"]], 1)
  done = [event_record(e) for e in stream.events[: position["event"]]]
  order = [e["task"] for e in done if e["kind"] == "learn"]
  own = _objective(history, members)
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
    look = _look(history, own, rows, order)
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


def _objective(history: restore.History, members: Sequence[int]):
  return history.parts(jax.tree.map(lambda a: a[members[0]], history.values)).objective


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


def _look(history: restore.History, own, rows: int, order: Sequence[int]) -> Look:
  stream, tables = history.stream, jax.tree.map(jnp.asarray, history.stream.view.tables)
  chosen = np.random.default_rng(0)
  gone = deleted_tests(stream, len(stream.events))  # at whatever moment: the run keeps no number of theirs
  left = (np.asarray(t)[~out] for t, out in zip(stream.test, gone, strict=True))
  mine = [np.sort(chosen.permutation(t)[:rows]) for t in left]
  size = max(1, *(len(t) for t in mine))
  met = list(dict.fromkeys(order))[:16]
  share = max(1, min(rows, 256) // max(1, len(met)))
  probe_rows, probe_tasks = [], []
  for t in met:
    take = mine[t][np.linspace(0, len(mine[t]) - 1, min(share, len(mine[t]))).astype(int)]
    probe_rows.append(take)
    probe_tasks.append(np.full(len(take), t, np.int32))

  @jax.jit
  def answer(values, learner, x, task, classes):
    shown = stream.view.apply(tables, x, jnp.full(x.shape[0], task))
    return jnp.argmax(jnp.where(classes, history.parts(values).predict(learner, shown, task), -jnp.inf), -1)

  def predict(values, learner, x, task, event):
    """Judged as the run judged it after ``event`` events."""
    judged = judged_classes(stream, streams.learned_tasks(stream.events[:event]), history.trains_on)
    return answer(values, learner, x, task, judged[task])

  def batch_of(batch):
    y = jnp.asarray(stream.labels)[batch.task, batch.y] if own.classes else batch.y
    return batch._replace(x=stream.view.apply(tables, batch.x, batch.task), y=y)

  @jax.jit
  def score(values, learner, batch, task):
    parts = history.parts(values)
    sums = lambda predict, batch: objective.sums(parts.objective.scores[own.main], jax.random.key(0), predict, batch)
    return sums(lambda batch: parts.predict(learner, batch.x, task), batch_of(batch))

  @jax.jit
  def layers(values, learner, batch):
    parts = history.parts(values)
    model, learner = parts.method.model or history.model, parts.evaluated(learner)

    def apply(key, params, batch):
      task = batch.task if model.by_task else batch.task[0]
      given = {"train": False, "key": key, "task": task, "mask": None}
      return model.apply(params, learner.model_state, batch.x, **given)

    batch, key = batch_of(batch), jax.random.key(0)
    if own.classes:
      out, _ = apply(key, learner.params, batch)
    else:  # the objective knows what the model is shown
      out = parts.objective.loss(key, apply, learner.params, batch)[2]
    named = {f"hidden {i}": h for i, h in enumerate(out.hidden)} or {"features": out.features}
    # The mean over places, as a layer of 28 x 28 x 64 values would need a Gram matrix of 50,000 columns.
    flat = lambda h: h.reshape(h.shape[0], -1) if h.ndim < 3 else h.mean(tuple(range(1, h.ndim - 1)))
    return {name: flat(h) for name, h in {**named, "logits": out.logits}.items() if hasattr(h, "ndim")}

  probe = (np.concatenate(probe_rows), np.concatenate(probe_tasks)) if met else (np.zeros(0, int), np.zeros(0, int))
  return Look(stream, mine, probe, own, predict, score, layers, size)


def _predicted(look: Look, values, learner, task: int, event: int):
  """``(labels, predictions)`` on the chosen rows of one task, of a learner after ``event`` events."""
  rows, data = look.rows[task], look.stream.dataset.test
  at = np.resize(rows, look.size)  # one shape for all tasks: one program; zeros where no row is left
  found = np.asarray(look.predict(values, learner, np.stack([data.x[r] for r in at]), task, event))[: len(rows)]
  return look.stream.labels[task, data.y[rows]], found


def _batch(look: Look, rows, task, weight=None) -> Batch:
  """Stored test rows; ``task [B]``."""
  data = look.stream.dataset.test
  take = lambda tree: jax.tree.map(lambda a: np.stack([a[r] for r in rows]), tree)
  ids, here = np.asarray(rows, np.int32), np.ones(len(rows), np.float32) if weight is None else weight
  return Batch(take(data.x), take(data.y), here, ids, np.asarray(task, np.int32))


def _score(look: Look, values, learner, task: int, event: int) -> float:
  """The main score on the chosen rows of one task, of a learner after ``event`` events."""
  if not look.own.classes:
    count = len(look.rows[task])
    at = np.resize(look.rows[task], look.size)
    weight = (np.arange(look.size) < count).astype(np.float32)
    batch = _batch(look, at, np.full(look.size, task), weight)
    above, below = np.asarray(look.score(values, learner, batch, np.int32(task)), np.float64)
    if not below:  # no row is left
      return np.nan
    return float(look.own.scores[look.own.main].finish(above / below))
  labels, found = _predicted(look, values, learner, task, event)
  return float(np.mean(labels == found)) if len(labels) else np.nan


def _member(look: Look, values, moments, learners, order, tasks, chosen) -> dict[str, Any]:
  """What costs forward passes, for one member."""
  moved, names = _moved(learners), metrics.module_names(learners[0].params)
  every = {
    "modules": names,
    "moved": np.asarray([[m.get(name, 0.0) for name in names] for m in moved]).reshape(-1, len(names)),
    **_drift(look, values, learners),
    "resets": _resets(look, values, moments, learners, tasks, chosen),
  }
  return every | (_by_class(look, values, moments, learners, order) if look.own.classes else {})


def _by_class(look: Look, values, moments, learners, order) -> dict[str, Any]:
  """What is taken for what, and which rows were lost, for one member."""
  learned = np.cumsum([isinstance(e, Learn) for e in look.stream.events])
  confusions, right, shown = [], [], []
  for event, learner in zip(moments, learners, strict=True):
    counts = np.zeros((look.stream.num_classes,) * 2, np.int64)
    hits = {t: np.zeros(len(look.rows[t]), bool) for t in dict.fromkeys(order)}
    met = set(order[: learned[event - 1]])
    for task in met:
      labels, found = _predicted(look, values, learner, task, event)
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


def _drift(look: Look, values, learners) -> dict[str, Any]:
  """``1 - CKA`` of each layer on the probe rows, since the first moment: ``[K, layers]``."""
  rows, tasks = look.probe
  batch = _batch(look, rows, tasks)
  seen = [jax.tree.map(np.asarray, look.layers(values, learner, batch)) for learner in learners]
  names = sorted(seen[0], key=lambda n: (n == "logits", int(n.split()[1]) if n.startswith("hidden") else 0))
  drift = [[metrics.cka_drift(seen[0][n], now[n]) for n in names] for now in seen]
  return {"layers": names, "drift": np.asarray(drift), "probe": len(rows)}


def _resets(look: Look, values, moments, learners, tasks, chosen) -> dict[str, Any]:
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
    then = lambda learner, task=task, moment=moment: _score(look, values, learner, task, moment)
    now = lambda learner, task=task: _score(look, values, learner, task, moments[-1])
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
