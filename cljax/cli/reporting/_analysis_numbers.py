"""The numbers of :mod:`cljax.metrics` that a run's matrix, curves and checkpoints allow, each under its own name.

``{name: number}``; what a run has not kept, or what is not defined for it, is absent. :data:`WHAT` says each in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import metrics, streams
from cljax.core.judging import judged_classes
from cljax.core.types import Batch, Learn
from cljax.engine import presentations
from cljax.objectives import objective
from cljax.streams.labels import unlabelled
from cljax.streams.requests import deleted_pairs

WINDOW, FIRST = 10, 5  # evaluations: of a window, and of the beginning of a task
HARDEST = 5  # training rows are named
STEPS = 20  # of each of the two power iterations
MATRIX = {
  metrics.triangle_accuracy: "mean accuracy below the diagonal",
  metrics.mean_backward_transfer: "backward transfer, mean over all rows",
  metrics.remembering: "1 less what of that is forgotten",
  metrics.positive_backward_transfer: "what of it is gained",
  metrics.zero_shot_transfer: "accuracy on tasks to come, mean over entries",
  metrics.transfer_before_learning: "the same, each task alike",
  metrics.average_over_all: "mean over the whole matrix",
}
WHAT = {f.__name__: what for f, what in MATRIX.items()} | {
  "fuar": "forgotten of the first task over what later tasks gained since; below 1 is a gain",
  "windowed_forgetting": f"largest fall within {WINDOW} evaluations, mean over tasks",
  "windowed_plasticity": f"largest rise within {WINDOW} evaluations, mean over tasks",
  "learning_curve_area": f"mean of a task's first {FIRST} evaluations, or of as many as every task has",
  "feature_drift": "mean squared distance of a row's features from those at the first moment",
  "moved_share": "share of parameters that differ from those of the first moment, in bfloat16",
  "forward_kl": "KL in nats from the model before a task to that after it, on its test rows, mean over tasks",
  "gradient_cosine": "gradient_interference: cosine of the old tasks' gradient and the new one's where that begins",
  "gradient_conflict": "gradient_interference: share of parameters on which the two are of opposite signs",
  "sharpness_then": "largest eigenvalue of the Hessian of the first task's loss on test rows, at the first moment",
  "sharpness_now": "the same at the last moment",
  "curvature_then": "mean_curvature: mean eigenvalue of that Hessian, at the first moment",
  "curvature_now": "the same at the last moment",
  "recognition_then": "share of pairs in which a training row of the first task has less loss than a test row of it, "
  "at the first moment; .5 is chance",
  "recognition_now": "the same at the last moment",
}


def of_scores(R, order: Sequence[int], sign: int, accuracy: bool) -> dict[str, float]:
  """What a matrix says: ``R [S, E, T]`` after each Learn event, which learned ``order[e]``; mean over the members."""
  R, found = np.asarray(R, np.float64), {}
  if accuracy and sorted(order) == list(range(R.shape[-1])) and np.isfinite(R).all():
    square = R[..., list(order)]  # a column for each event
    found = {metric.__name__: np.mean(metric(square)) for metric in MATRIX}
    found = {name: float(v) for name, v in found.items() if np.isfinite(v)}
  later = [t for t in dict.fromkeys(order) if t != order[0]] if order else []
  if later and list(order).count(order[0]) == 1 and np.isfinite(R[..., [order[0], *later]]).all():
    again = [t for t in later if list(order).count(t) > 1]
    fresh = [t for t in later if t not in again]
    each = []
    for member in sign * R:
      parts = [member[:, [order[0]]], member[:, again], member[:, fresh]]
      mean = [p.mean(-1) if p.shape[-1] else np.zeros(len(p)) for p in parts]
      each.append(metrics.fuar(*(v for m in mean for v in (m[:-1], m[-1]))))
    if np.isfinite(each).all():
      found["fuar"] = float(np.mean(each))
  return found


def of_presentations(counted: presentations.Presentations, members: Sequence[int], ids) -> dict[str, Any]:
  """What was counted of the presentations of training rows, mean over members; ``hardest``: the pairs of the largest
  :func:`cljax.metrics.forgetting_score`, summed over them, as ``{"id", "task", "score"}``."""
  events = metrics.Events(*(np.asarray(a)[list(members)] for a in counted.events))
  found = presentations.summary(counted._replace(events=events))
  there, score = np.any(events.presentations > 0, 0), metrics.forgetting_score(events).sum(0)
  order = [i for i in np.argsort(-score, kind="stable") if there[i] and score[i] > 0][:HARDEST]
  hardest = [{"id": int(ids[counted.row[i]]), "task": int(counted.task[i]), "score": int(score[i])} for i in order]
  return {name: float(np.mean(v)) for name, v in found.items()} | {"hardest": hardest}


def of_curves(curve, current, sign: int) -> dict[str, float]:
  """What evaluations inside tasks say: ``curve [N, T]``, mean over members; ``current [N]`` the task at each."""
  curve, current = sign * np.asarray(curve, np.float64), np.asarray(current)
  least = min(int((current == t).sum()) for t in range(current[-1] + 1))
  found = {
    "windowed_forgetting": metrics.windowed_forgetting(curve, current, WINDOW),
    "windowed_plasticity": metrics.windowed_plasticity(curve, current, WINDOW),
  }
  area = {"learning_curve_area": sign * metrics.learning_curve_area(curve, current, min(FIRST, least))} if least else {}
  return found | area


def of_member(look, tools: Mapping[str, Any], values, moments: Sequence[int], learners, order) -> dict[str, Any]:
  """What costs passes through the model, for one member; ``moments``: events done at each of ``learners``."""
  if not len(look.probe[0]):
    return {}
  batch = tools["probe"]
  seen = [{k: np.asarray(v) for k, v in look.layers(values, learner, batch).items()} for learner in learners]
  found: dict[str, float] = {"moved_share": metrics.moved_share(learners[0].params, learners[-1].params)}
  layers = sorted((n for n in seen[0] if n != "logits"), key=lambda n: int(n.partition(" ")[2] or 0))
  if layers:
    found["feature_drift"] = metrics.feature_drift(seen[0][layers[-1]], seen[-1][layers[-1]])
  found |= _new_tasks(look, tools, values, moments, learners, seen)
  return found | _old_task(look, tools, values, moments, learners, order)


def _new_tasks(look, tools, values, moments, learners, seen) -> dict[str, float]:
  """What learning a task does to the model before it: over the events that met a task for the first time."""
  events, batch, task = look.stream.events, tools["probe"], look.probe[1]
  at = {done: i for i, done in enumerate(moments)}
  shift, interference = [], []
  for done, i in at.items():
    before = streams.learned_tasks(events[:done])
    event = events[done] if done < len(events) else None
    new = event.task if isinstance(event, Learn) else -1
    mine, old = task == new, np.isin(task, before)
    if new in before or not mine.any() or not old.any():
      continue
    gradient = lambda rows, i=i: tools["gradient"](values, learners[i], batch._replace(weight=rows.astype(np.float32)))
    interference.append([float(v) for v in metrics.gradient_interference(gradient(old), gradient(mine))])
    if look.own.classes and done + 1 in at:
      judged = judged_classes(look.stream, [*before, new], tools["trains_on"])[new]
      logits = [np.where(judged, seen[k]["logits"][mine], -np.inf) for k in (i, at[done + 1])]
      shift.append(metrics.forward_kl(*logits))
  found = {"forward_kl": float(np.mean(shift))} if shift else {}
  if interference:
    found["gradient_cosine"], found["gradient_conflict"] = map(float, np.mean(interference, 0))
  return found


def _old_task(look, tools, values, moments, learners, order) -> dict[str, float]:
  """The first task's loss at the first and the last moment: how sharp, and whether its training rows are known."""
  stream, first, found = look.stream, order[0], {}
  weight = (look.probe[1] == first).astype(np.float32)
  gone = deleted_pairs(stream, moments[-1])[first]
  seen, unseen = np.asarray(stream.train[first])[~gone], look.rows[first]
  seen = seen[~unlabelled(stream, first)[~gone]]
  count = min(len(seen), len(unseen))
  for name, learner in (("then", learners[0]), ("now", learners[-1])):
    if weight.any():
      top, mean = tools["curvature"](values, learner, tools["probe"]._replace(weight=weight))
      found[f"sharpness_{name}"], found[f"curvature_{name}"] = float(top), float(mean)
    if count:
      batches = [tools["batch"](split, rows[:count], first)
                 for split, rows in ((stream.dataset.train, seen), (stream.dataset.test, unseen))]  # fmt: skip
      pair = [np.asarray(tools["losses"](values, learner, b), np.float64) for b in batches]
      found[f"recognition_{name}"] = float(metrics.recognition(*pair))
  return found


def tools(history, look, order: Sequence[int]) -> dict[str, Any]:
  """Compiled functions of one member: ``losses [B]``, ``gradient`` and ``curvature`` of the loss on rows as stored,
  among the classes of the tasks learned; ``batch(split, rows, task)`` and the ``probe`` of test rows."""
  stream, tables = look.stream, jax.tree.map(jnp.asarray, look.stream.view.tables)
  judged = judged_classes(stream, list(dict.fromkeys(order)), history.trains_on) if look.own.classes else None

  def batch(split, rows, task) -> Batch:
    take = lambda tree: jax.tree.map(lambda a: np.stack([a[r] for r in rows]), tree)
    task = np.broadcast_to(np.asarray(task, np.int32), len(rows))
    mask = None if judged is None else judged[task]
    there = np.ones(len(rows), np.float32)
    return Batch(take(split.x), take(split.y), there, np.asarray(rows, np.int32), task, mask)

  def each(values, learner, params, batch):
    parts = history.parts(values)
    model, own = parts.method.model or history.model, parts.objective

    def apply(key, params, batch):
      task = batch.task if model.by_task else batch.task[0]
      return model.apply(params, learner.model_state, batch.x, train=False, key=key, task=task, mask=None)

    y = jnp.asarray(stream.labels)[batch.task, batch.y] if own.classes else batch.y
    shown = batch._replace(x=stream.view.apply(tables, batch.x, batch.task), y=y)
    return *own.loss(jax.random.key(0), apply, params, shown)[:2], shown

  def mean(values, learner, batch):
    return lambda params: objective.reduced(*each(values, learner, params, batch))

  at = lambda values, learner: history.parts(values).evaluated(learner).params

  @jax.jit
  def losses(values, learner, batch):
    return objective.of_rows(*each(values, learner, at(values, learner), batch)[:2])

  @jax.jit
  def gradient(values, learner, batch):
    return jax.grad(mean(values, learner, batch))(at(values, learner))

  @jax.jit
  def curvature(values, learner, batch):
    loss, params, key = mean(values, learner, batch), at(values, learner), jax.random.key(0)
    return metrics.sharpness(loss, params, key, STEPS), metrics.mean_curvature(loss, params, key)

  probe = batch(stream.dataset.test, *look.probe) if len(look.probe[0]) else None
  return {"losses": losses, "gradient": gradient, "curvature": curvature, "batch": batch, "probe": probe,
          "trains_on": history.trains_on}  # fmt: skip
