"""What was forgotten, measured: a population of models beside its retrained reference, and the bank of oracles.

The reference of every metric is the model that never saw the rows. No number here proves privacy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax import losses, streams
from cljax.core.judging import judged_classes
from cljax.core.types import Forget, Learn, UsageError
from cljax.engine.setup import CompiledRun
from cljax.metrics import unlearning as metrics
from cljax.metrics.unlearning.klom import klom_chance
from cljax.streams.fates import deleted_tests
from cljax.streams.labels import withheld

SIDES = ("forget", "retain", "test")
# name -> (heading, True where more is better, False where less is, None where the target is the reference)
METRICS = {
  "forget_accuracy": "FA %",
  "retain_accuracy": "RA %",
  "test_accuracy": "TA %",
  "average_gap": "avg gap %",
  "tug_of_war": "ToW",
  "entropy_attack": "MIA entropy",
  "loss_attack": "MIA loss",
  "confidence_attack": "SVC confidence",
  "activation_distance": "AD",
  "js_divergence": "JS",
  "completeness": "agreement",
  "cka": "CKA to original",
  "feature_mapping": "FM recovery %",
  "head_recovery": "HR recovery %",
  "relearn_time": "relearn epochs",
  "relearning_attack": "relearn attack %",
  "klom_forget": "KLoM forget",
  "klom_retain": "KLoM retain",
  "u_lira": "U-LiRA AUC",
  "u_lira_accuracy": "U-LiRA accuracy",
}


# Beside METRICS where fewer than FEW rows are to be forgotten, on which no attack can be fitted: where the rows stand
# among the models that learned them (row original) and those that never did (row retrained).
ROW_METRICS = {"forget_loss": "loss on them", "forget_margin": "margin on them"}
FEW = 4


class Sides(NamedTuple):
  """Rows to measure on, as their tasks show them: inputs ``x [N, ...]``, labels ``y [N]`` (or targets), tasks and
  places ``id`` in the stored rows of each side, and the classes ``judged [T, C]`` among which a row of each task is
  judged."""

  x: dict[str, Any]
  y: dict[str, Any]
  task: dict[str, np.ndarray]
  judged: np.ndarray
  id: dict[str, np.ndarray] = {}


class Answers(NamedTuple):
  """What a population says: ``logits {side: [S, N, K]}``, ``features {side: [S, N, D]}``, parameters ``[S, ...]``."""

  logits: dict[str, np.ndarray]
  features: dict[str, np.ndarray]
  params: Any
  model_state: Any


def without_rows(stream, gone):
  """The stream as if the pairs ``gone`` (of ``streams.resolve_pairs``) had never been there: Learn events alone.

  Tasks that lose all their rows are not learned. Retraining on it draws its batches from the rows that are left, where
  the ``retrain`` method keeps the batches and weighs deleted rows with 0: both are retraining from scratch.
  """
  train = tuple(rows[~mine] for rows, mine in zip(stream.train, gone, strict=True))
  events = tuple(e for e in stream.events if isinstance(e, Learn) and len(train[e.task]))
  if not events:
    raise UsageError("request: names all rows of all tasks; nothing is left to retrain on")
  return stream._replace(train=train, events=events, name=f"{stream.name} without {sum(map(np.sum, gone))} rows")


def sides(stream, request: Forget, most: int = 2000, classes: bool = True) -> Sides:
  """The rows to forget, the rows to keep (at most ``most``, evenly spread) and the test rows.

  Where whole classes are forgotten, ``test`` holds the other classes, and ``forgotten_test`` those. Without ``classes``
  the objective's targets are no class numbers: ``y`` is as it is stored.
  """
  if classes and withheld(stream):
    raise UsageError("request: evidence compares the labels of training rows, which stream.labelled withholds")
  split, test = stream.dataset.train, stream.dataset.test
  learned = streams.learned_tasks(stream.events)
  named = streams.resolve_pairs(request, stream)
  gone = np.concatenate([named[t] for t in learned])
  pairs = [
    np.stack([rows, np.full(len(rows), t)], 1) for t, rows in ((t, np.asarray(stream.train[t])) for t in learned)
  ]
  learning = tuple(e for e in stream.events if isinstance(e, Learn))
  after = stream._replace(events=(*learning, request))
  theirs = deleted_tests(after, len(after.events))  # test rows that are what is to be forgotten
  left = [(t, np.asarray(stream.test[t])[~theirs[t]]) for t in learned]
  tests = [np.stack([rows, np.full(len(rows), t)], 1) for t, rows in left]
  train_pairs, test_pairs = np.concatenate(pairs), np.concatenate(tests)
  forget, retain = train_pairs[gone], train_pairs[~gone]
  if not len(forget) or not len(retain):
    raise UsageError("request: expected rows that were learned, and others to keep")
  retain = retain[np.linspace(0, len(retain) - 1, min(most, len(retain))).astype(int)]
  if not len(test_pairs):
    raise UsageError("request: names every row that is tested on; expected others to measure on")
  whole = np.zeros(len(test_pairs), bool)
  if stream.dataset.has_classes:
    labels = streams.forgotten_classes(after, len(after.events))
    whole = labels[stream.labels[test_pairs[:, 1], np.asarray(test.y)[test_pairs[:, 0]]]]
  chosen = {"forget": (split, forget), "retain": (split, retain), "test": (test, test_pairs[~whole])}
  if whole.any() and not whole.all():
    chosen["forgotten_test"] = (test, test_pairs[whole])
  rows = Sides({}, {}, {}, judged_classes(stream, learned), {})
  for side, (data, at) in chosen.items():
    rows = with_side(rows, side, stream, data, at, classes)
  return rows


def with_side(rows: Sides, side: str, stream, data, at, classes: bool = True) -> Sides:
  """``rows`` and one side more: of the split ``data`` the rows ``at [N, 2]``, places and the tasks that show them.

  Without ``classes`` targets are as they are stored, not as the tasks label them.
  """
  stored = lambda tree: jax.tree.map(lambda a: np.stack([a[i] for i in at[:, 0]]), tree)
  raw = jax.tree.map(jnp.asarray, stored(data.x))
  x = stream.view.apply(stream.view.tables, raw, jnp.asarray(at[:, 1], jnp.int32))
  y = stream.labels[at[:, 1], stored(data.y)] if classes else stored(data.y)
  put = lambda of, value: {**of, side: value}
  return rows._replace(x=put(rows.x, x), y=put(rows.y, y), task=put(rows.task, at[:, 1]), id=put(rows.id, at[:, 0]))


def answers(built: CompiledRun, learner, rows: Sides, model=None) -> Answers:
  """Logits and features of each member of ``learner`` (leading axis S) on each side; features are the model's own.

  Classes that do not compete (:mod:`cljax.core.judging`) have logits 100 below the row's highest: as good as absent.
  ``model`` (on raw inputs) lets runs of one model share a program, where the method neither predicts nor wraps it.
  """
  method = built.parts.method
  own = method.predict is not None or method.model is not None
  program = _program(built.parts.predict, method.model or built.model) if own or model is None else _plain(model)
  told = built.spec.task_id_given and (own or built.model.by_task)
  logits, features = {}, {}
  for side, x in rows.x.items():
    task = rows.task[side] if told else np.zeros(len(x), int)
    found = [(task == t, program(learner, x[task == t], np.int32(t))) for t in np.unique(task)]
    place = np.argsort(np.concatenate([np.flatnonzero(mine) for mine, _ in found]))
    z, features[side] = (np.concatenate([np.asarray(pair[i]) for _, pair in found], 1)[:, place] for i in (0, 1))
    judged = rows.judged[rows.task[side]]
    top = np.where(judged, z, -np.inf).max(-1, keepdims=True)
    logits[side] = z if judged.all() else np.where(judged, z, top - 100)
  return Answers(logits, features, learner.params, learner.model_state)


def _program(predict, model):
  """``(learner [S], x, task) -> (logits [S, N, K], features [S, N, D])``, jitted."""

  def one(learner, x, task):
    told = {"task": model.task_for(task), "mask": None}
    out, _ = model.apply(learner.params, learner.model_state, x, train=False, key=learner.key, **told)
    logits = out.logits if predict is None else predict(learner, x, task)
    return logits, logits if out.features is None else out.features

  return jax.jit(lambda learner, x, task: jax.lax.map(lambda l: one(l, x, task), learner))


@functools.lru_cache(maxsize=4)
def _plain(model):
  whole = _program(None, model)
  return lambda learner, x, task: whole(learner._replace(opt_state=(), method_state=()), x, task)


def first(given: Answers, count: int, start: int = 0) -> Answers:
  """Members ``start .. start + count`` of a population."""
  return jax.tree.map(lambda a: a[start : start + count], given)


def _head(logits, features):
  """The linear head behind the features, found from what the model answered; exact where the head is linear."""
  ones = np.concatenate([features, np.ones((len(features), 1))], 1)
  weights = np.linalg.lstsq(ones, logits, rcond=None)[0]
  return lambda h: np.concatenate([h, np.ones((len(h), 1))], 1) @ weights


def measure(
  ours: Answers, reference: Answers, original: Answers, rows: Sides, model, *, relearning_rate: float = 0.05,
  relearning_epochs: int = 30,
) -> dict[str, np.ndarray]:  # fmt: skip
  """Each metric of METRICS but KLoM and U-LiRA: ``{name: [S]}``, member i compared with reference member i.

  ``ours`` may hold at most as many members as ``reference`` and ``original``. Of fewer than four rows to forget, or
  test rows like them, the loss attack is NaN; of one row to forget, which leaves none to hold out and has no spread,
  the relearning attack and the CKA; of fewer than four to forget ROW_METRICS are there too. Recovery attacks fit on
  test rows (all classes) and answer on the rows to forget. The rate of relearning is the same for all. ``model`` takes
  raw inputs.
  """
  y, count = rows.y, len(ours.logits["forget"])
  mean_reference = [np.mean(metrics.accuracy(reference.logits[s], y[s])) for s in SIDES]
  few = len(y["forget"]) < FEW
  names = [*METRICS, *(ROW_METRICS if few else ())]
  out: dict[str, list] = {name: [] for name in names if not name.startswith(("klom", "u_lira"))}
  curves = _relearn(ours, rows, model, relearning_rate, relearning_epochs)
  first_loss = np.mean([metrics.cross_entropy(z, y["forget"]).mean() for z in original.logits["forget"]])
  # Fitted on what is left of the forgotten classes too, where the test rows were cut by class.
  probe = [s for s in ("test", "forgotten_test") if s in y]
  join = lambda part, i: np.concatenate([part[s][i] for s in probe])
  probe_y = np.concatenate([y[s] for s in probe])
  same_class = "forgotten_test" if "forgotten_test" in y else "test"
  for i in range(count):
    z, r = ({s: a.logits[s][i] for s in y} for a in (ours, reference))
    accuracies = metrics.accuracies(*((z[s], y[s]) for s in SIDES))
    head = _head(join(original.logits, i), join(original.features, i))
    fit, forget = (join(ours.features, i), join(original.features, i)), ours.features["forget"][i]
    svc = metrics.svc_attacks(z["retain"], y["retain"], z["test"], y["test"], z["forget"], y["forget"], most=300)
    values = {
      "forget_accuracy": accuracies.forget, "retain_accuracy": accuracies.retain, "test_accuracy": accuracies.test,
      "average_gap": metrics.average_gap(accuracies, mean_reference),
      "tug_of_war": metrics.tug_of_war(accuracies, mean_reference),
      "entropy_attack": metrics.entropy_attack(z["retain"], z["test"], z["forget"]),
      "loss_attack": _loss_attack(z["forget"], y["forget"], z[same_class], y[same_class]),
      "confidence_attack": svc.confidence,
      "activation_distance": metrics.activation_distance(z["forget"], r["forget"]),
      "js_divergence": metrics.js_divergence(z["forget"], r["forget"]),
      "completeness": metrics.completeness(z["forget"], r["forget"]).agreement,
      "cka": metrics.feature_cka(forget, original.features["forget"][i]),
      "feature_mapping": metrics.feature_mapping_attack(*fit, head, forget, y["forget"]),
      "head_recovery": metrics.head_recovery_attack(fit[0], probe_y, forget, y["forget"]),
      "relearn_time": metrics.relearn_time(curves[0][i], first_loss), "relearning_attack": curves[1][i][-1],
    }  # fmt: skip
    if few:
      values["forget_loss"] = metrics.cross_entropy(z["forget"], y["forget"]).mean()
      values["forget_margin"] = metrics.logit_margin(z["forget"], y["forget"]).mean()
    for name, value in values.items():
      out[name].append(float(value))
  return {name: np.asarray(v) for name, v in out.items()}


def _loss_attack(forget, forget_y, test, test_y) -> float:
  """NaN where there are too few rows of the same classes to fit the attack on."""
  shared = [min((np.asarray(forget_y) == c).sum(), (np.asarray(test_y) == c).sum()) for c in np.unique(forget_y)]
  return metrics.loss_attack(forget, forget_y, test, test_y) if sum(shared) >= FEW else float("nan")


def _relearn(ours: Answers, rows: Sides, model, rate: float, epochs: int):
  """Loss curves ``[S, epochs + 1]`` of relearning, and ``[S, 21]`` the accuracy on held-out forget rows before and
  after each of 20 steps on a twentieth of them, one at least; NaN of one row, which leaves none to hold out."""
  x, y, task = rows.x["forget"], jnp.asarray(rows.y["forget"]), jnp.asarray(rows.task["forget"], jnp.int32)
  alone = len(y) < 2
  few, held = (np.zeros(1, int), np.zeros(1, int)) if alone else metrics.split_forget(len(y))
  losses, attack = _relearner(model, rate, epochs)(
    (ours.params, ours.model_state), *((x[at], y[at], task[at]) for at in (slice(None), few, held))
  )
  return losses, np.full(np.shape(attack), np.nan) if alone else attack


def attack_curves(ours: Answers, rows: Sides, model, relearning_rate: float = 0.05, relearning_epochs: int = 30):
  """``[S, 21]``: the curve whose end is ``relearning_attack``, by the same program."""
  return np.asarray(_relearn(ours, rows, model, relearning_rate, relearning_epochs)[1])


@functools.lru_cache(maxsize=4)
def _relearner(model, rate: float, epochs: int):
  def logits(params, state, r):
    told = {"task": model.task_for(r[2]), "mask": None}
    return model.apply(params, state, r[0], train=False, key=jax.random.key(0), **told)[0].logits

  def one(params, state, rows, few, held):
    loss = lambda p, r: jnp.mean(losses.cross_entropy(logits(p, state, r), r[1]))
    right = lambda p, r: jnp.mean(jnp.argmax(logits(p, state, r), -1) == r[1])
    key = jax.random.key(0)
    curve = metrics.relearn(loss, params, rows, key, learning_rate=rate, epochs=epochs, samples=100).losses
    return curve, metrics.relearning_attack(loss, right, params, few, held, key, learning_rate=rate)

  return jax.jit(lambda members, *rows: jax.lax.map(lambda m: one(*m, *rows), members))


KLOM = {"klom_forget": "forget", "klom_retain": "retain"}


def population(ours: Answers, oracles: Answers, rows: Sides) -> dict[str, float]:
  """KLoM of M unlearned models against as many oracles, in 8 bins where there are fewer than 50, else 20."""
  margin = lambda a, s: metrics.logit_margin(a.logits[s], rows.y[s])
  return {name: of(metrics.klom).mean for name, of in _paired(margin, ours, oracles)}


def chances(ours: Answers, oracles: Answers, rows: Sides) -> dict[str, float]:
  """The chance of as large a number of :func:`population`, were the models retrained ones: members of both are
  regrouped at random."""
  margin = lambda a, s: metrics.logit_margin(a.logits[s], rows.y[s])
  return {name: of(klom_chance) for name, of in _paired(margin, ours, oracles)}


def _paired(margin: Callable, ours, oracles):
  """``(name, of)`` for each number of KLOM; ``of(call)`` is ``call`` on as many members of either side."""
  for name, side in KLOM.items():
    a, b = margin(ours, side), margin(oracles, side)
    count = min(len(a), len(b))
    yield name, lambda call, a=a, b=b, n=count: call(a[:n], b[:n], bins=20 if n >= 50 else 8)


def margins(given: Answers, rows: Sides) -> np.ndarray:
  """``[S, N]`` logit margins of the rows to forget: what U-LiRA looks at."""
  return metrics.logit_margin(given.logits["forget"], rows.y["forget"])


def sound(given: Answers) -> np.ndarray:
  """``[S] bool``: members all of whose logits are finite."""
  return np.all([np.isfinite(z).all((1, 2)) for z in given.logits.values()], 0)


def over_forgets(after: Answers, oracles: Answers, rows: Sides) -> bool:
  """Whether the mean accuracy on the rows to forget lies below that of every oracle: a leak too."""
  right = lambda given: metrics.accuracy(given.logits["forget"], rows.y["forget"])
  return bool(metrics.over_forgetting(right(after).mean(), right(oracles)))


LEVEL, LEAST = 0.05, 3  # of a whole row of marks; seeds on either side
FEW_ROWS = 10  # of a request; a number of fewer is so coarse that all members of a side agree by accident


def outside_noise_floor(
  values: Mapping[str, np.ndarray],
  floor: Mapping[str, np.ndarray],
  given: Mapping[str, float] | None = None,
  rows: int = FEW_ROWS,
) -> list[str]:
  """Metrics whose mean over members differs from the floor's: Welch's t-test, Holm's correction over all metrics.

  ``floor`` holds the same metrics of retrained models of other seeds: within it a method is not told from retraining. A
  row of a method that is as retraining has a mark in 5 of 100 tables, however many metrics there are. No marks where a
  side has fewer than three members; a metric that is NaN on either side is passed over. Two constants that differ are
  told apart, where the request is for FEW_ROWS ``rows`` or more: of one row an accuracy is 0 or 1, and that n members
  have the one and m the other counts as the share of regroupings which separate them so, ``2 / binomial(n + m, n)``.
  ``given``: metrics whose chance is known otherwise (:func:`chances`), of the same correction.
  """
  from scipy.special import stdtr

  chances: dict[str, float] = dict(given or {})
  for name, ours in values.items():
    if name in chances or not np.ndim(ours):
      continue
    v, w = (np.asarray(a, float) for a in (ours, floor[name]))
    if min(len(v), len(w)) < LEAST or not (np.isfinite(v).all() and np.isfinite(w).all()):
      continue
    apart = abs(v.mean() - w.mean())
    each = np.asarray([a.var(ddof=1) / len(a) for a in (v, w)])
    if each.sum() < 1e-24:
      separated = 2 / math.comb(len(v) + len(w), len(v)) if rows < FEW_ROWS else 0.0
      chances[name] = 1.0 if apart < 1e-9 else separated
      continue
    freedom = each.sum() ** 2 / sum(e * e / (len(a) - 1) for e, a in zip(each, (v, w), strict=True))
    chances[name] = float(2 * stdtr(freedom, -apart / np.sqrt(each.sum())))
  marked = []
  for rank, name in enumerate(sorted(chances, key=chances.__getitem__)):
    if chances[name] > LEVEL / (len(chances) - rank):
      break
    marked.append(name)
  return [name for name in dict.fromkeys([*values, *chances]) if name in marked]


def cost(trainings: Sequence[tuple[str, int]], steps: int) -> str:
  """One line: what the evidence costs, before it is spent."""
  total = sum(count for _, count in trainings)
  parts = ", ".join(f"{count} {what}" for what, count in trainings)
  return f"evidence: {total} trainings of {steps} steps each ({parts})"
