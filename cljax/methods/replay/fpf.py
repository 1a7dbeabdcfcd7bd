"""FPF: now and then the few modules that moved most are trained on stored rows alone, in place of replay in each
step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  example_prediction,
  example_row,
  make_memory,
  offered,
  predictions_of,
  rows_of,
)
from cljax.methods.replay.finetuning import steps_on_stored
from cljax.objectives.objective import reduced, squared_gap


class FPF(NamedTuple):
  """The memory, and the parameters behind the last finetuning: from these on movements are measured."""

  memory: Any
  before: Any


class Modules(NamedTuple):
  """Of which module each leaf is, by name. ``norm``: that of all layers with running statistics, or -1."""

  of: Mapping[str, int]
  sizes: tuple[int, ...]
  norm: int


def modules_of(params, model_state) -> Modules:
  """The modules of a model: leaves whose names differ in the last part alone; but all that have running statistics in
  ``model_state`` under the same name are one module."""
  parent = lambda name: name.rpartition("/")[0]
  kept = {parent(n) for n in tree.by_path(model_state)}
  normed = lambda p: any(k == p or k.endswith("/" + p) for k in kept)
  label = {n: "" if normed(parent(n)) else "/" + parent(n) for n in tree.by_path(params)}
  names = list(dict.fromkeys(label.values()))
  of = {n: names.index(m) for n, m in label.items()}
  sizes = [sum(a.size for n, a in tree.by_path(params).items() if of[n] == m) for m in range(len(names))]
  return Modules(of, tuple(sizes), names.index("") if "" in names else -1)


def sensitivities(modules: Modules, params, before):
  """``[modules]``: the mean absolute movement of a module's parameters."""
  moved = tree.by_path(jax.tree.map(lambda a, b: jnp.sum(jnp.abs(a - b).astype(jnp.float32)), params, before))
  total = [sum(v for n, v in moved.items() if modules.of[n] == m) for m in range(len(modules.sizes))]
  return jnp.stack(total) / jnp.asarray(modules.sizes, jnp.float32)


def fpf(
  model, spec: Spec, *, rate, alpha, capacity: int, policy: str = "reservoir", replay_batch: int = 0, modules: int = 2,
  steps: int = 100, every: int = 0, distillation: bool = False, insert: str = "once",
) -> Method:  # fmt: skip
  """FPF: at times, ``steps`` of SGD on memory alone, of the ``modules`` of largest ``mean |theta - theta_before|``.

  theta_before are the parameters behind the last such time (at first, the first ones); a module is a layer with its
  bias, and all layers with running statistics (BatchNorm) are one. Times are the ends of tasks, or, with ``every`` k
  steps of the run, those, which needs no boundary (k-FPF: the last is at the end where k divides the run). Steps in
  between are the base method's; alone, plain training: a run takes ``steps`` batches of ``replay_batch`` stored rows at
  each time, and none in its own steps. ``distillation`` adds ``alpha MSE`` to the logits that were stored with a row
  when it came. Steps are plain SGD at ``rate``; the run's optimizer, its moments and its augmentation have no part.
  ``steps=0`` is plain training.

  Where the module with running statistics is chosen, the network trains and its statistics follow the stored rows; else
  both are left as they are and normalise these rows too. Beside another method: ``compose(derpp=..., fpf=...)``, each
  with its own memory. Deviations: written from the abstract and notes; ``steps`` and ``rate`` are not the paper's
  (UNVERIFIED); movements of running statistics do not count; modules are chosen anew each time. Raises UsageError for
  more modules than the model has. Spec A13; Zhao et al., 2023.
  """
  memory = make_memory(spec, capacity, policy)
  size = min(replay_batch or spec.batch_size, capacity)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  layout = modules_of(*shapes)
  if modules > len(layout.sizes):
    raise UsageError(f"method.modules: got {modules}; the model has {len(layout.sizes)}, expected at most that")
  normed = bool(jax.tree.leaves(shapes[1]))

  def finetuned(key, learner, visit, count):
    """The learner after ``count`` steps of the modules that moved most; where it is 0, as it was."""
    state = learner.method_state
    chosen = jax.lax.top_k(sensitivities(layout, learner.params, state.before), modules)[1]
    norm_too = (chosen == layout.norm).any()

    def loss(key, params, model_state, batch, rows):
      def run(train):
        mask = (batch.weight > 0).astype(jnp.float32)
        told = {"task": model.task_for(batch.task), "mask": mask}
        each, inside, out, moved = spec.objective.loss(
          key, lambda k, p, b: model.apply(p, model_state, b.x, train=train, key=k, **told), params, batch
        )
        value = reduced(each, inside, batch)
        if distillation:
          gap, parts = squared_gap(spec.objective, out.logits, rows["logits"], batch)
          value += alpha * reduced(gap, parts, batch)
        return value, moved if train else model_state

      return jax.lax.cond(norm_too, lambda: run(True), lambda: run(False)) if normed else run(True)

    moves = {name: (chosen == m).any() for name, m in layout.of.items()}
    new = steps_on_stored(
      key, learner, spec, memory, state.memory, visit, loss, steps=count, rate=rate, moves=moves, size=size
    )
    due = count > 0
    before = jax.tree.map(lambda now, old: jnp.where(due, now, old), new.params, state.before)
    return new._replace(method_state=state._replace(before=before))

  def after_step(key, learner, info):
    more = {"logits": predictions_of(spec, info)} if distillation else {}
    state, weight = learner.method_state, offered(spec, info.batch, insert)
    filled = memory.add(fold(key, "add"), state.memory, rows_of(spec, info.batch, **more), weight)
    learner = learner._replace(method_state=state._replace(memory=filled))
    if not every:
      return learner
    return finetuned(fold(key, "fpf"), learner, info.batch.visit, jnp.where(learner.step % every == 0, steps, 0))

  def end_task(key, learner, task):
    return learner if every else finetuned(key, learner, task.visit, jnp.asarray(steps, jnp.int32))

  def scrub(learner, request):
    state = learner.method_state
    kept = memory.remove(state.memory, lambda rows: request.names(rows["id"], rows["task"]))
    return learner._replace(method_state=state._replace(memory=kept))

  def after_forget(learner, before):
    state = learner.method_state
    return learner._replace(method_state=state._replace(before=tree.follow(state.before, before, learner.params)))

  def init(key, learner):
    del key
    row = example_row(spec, **({"logits": example_prediction(model, spec)} if distillation else {}))
    return FPF(memory.init(row), tree.copy(learner.params))

  def remarks(outlook):
    late = every > outlook.steps
    return [f"method.every: got {every}; the stream has {outlook.steps} steps, so fpf trains nothing"] if late else []

  hooks = Method(init=init, after_step=after_step, end_task=end_task, scrub=scrub)
  return hooks._replace(after_forget=after_forget, remarks=remarks)


register(
  "fpf",
  Entry(
    fpf,
    {
      "modules": Option(2, 1),
      "steps": Option(100, 0),
      "rate": Option(0.05, 0),
      "every": Option(0, 0),
      "distillation": Option(False),
      "alpha": Option(0.5, 0, needs={"distillation": (True,)}),
      **BUFFER,
    },
    ACCESS._replace(task_boundaries=True, needs=("each", "plain_inputs")),
    "Zhao et al. 2023",
  ),
)
