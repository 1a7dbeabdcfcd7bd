"""Methods that average weights along the run: EMA for prediction, LCIA's automatic balance, Reptile with replay."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import edits
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import ACCESS, BUFFER, er

FEW_STEPS = 200  # of er, below which split digits are not learned (44: 58 %, 220: 89 %; er ends at 91 and 93)


class Beside(NamedTuple):
  """The state of a replay method and, beside it, of what averages its weights."""

  base: Any
  own: Any


def beside(base: Method, own: Method) -> Method:
  """A replay method with the step hooks of ``own`` after its own.

  Unlike in ``compose``, the base keeps the keys that it has alone, so it draws the same rows with and without ``own``.
  """
  view = lambda learner, part: learner._replace(method_state=getattr(learner.method_state, part))
  back = lambda outer, inner, part: inner._replace(
    method_state=outer.method_state._replace(**{part: inner.method_state})
  )
  predict = own.predict

  def prepare(key, learner, batch):
    inner, batch = base.prepare(key, view(learner, "base"), batch)
    return back(learner, inner, "base"), batch

  def after_step(key, learner, info):
    learner = back(learner, base.after_step(key, view(learner, "base"), info), "base")
    return back(learner, own.after_step(key, view(learner, "own"), info), "own")

  def scrub(learner, request):
    for part, method in (("base", base), ("own", own)):
      if method.scrub is not None:
        learner = back(learner, method.scrub(view(learner, part), request), part)
    return learner

  def after_forget(learner, before):
    for part, method in (("base", base), ("own", own)):
      if method.after_forget is not None:
        learner = back(learner, method.after_forget(view(learner, part), before), part)
    return learner

  return base._replace(
    init=lambda key, learner: Beside(base.init(key, learner), own.init(key, learner)),
    prepare=prepare,
    after_step=after_step,
    scrub=scrub,
    after_forget=after_forget,
    predict=None if predict is None else lambda key, learner, x, task: predict(key, view(learner, "own"), x, task),
  )


class Average(NamedTuple):
  """Averaged parameters and BatchNorm statistics; ``stale`` from a deletion request to the next step."""

  params: Any
  model_state: Any
  stale: Any


def start_average(learner) -> Average:
  return Average(tree.copy(learner.params), tree.copy(learner.model_state), jnp.zeros((), bool))


def forget_average(learner, request):
  """``scrub``: the average still knows what is to be forgotten, so the edited parameters take its place."""
  del request
  return learner._replace(method_state=learner.method_state._replace(stale=jnp.ones((), bool)))


def current_average(learner):
  """``(params, model_state)`` to predict with: the average, or the learner's own where that is stale."""
  average = learner.method_state
  pick = lambda now, mean: jnp.where(average.stale, now, mean)
  return jax.tree.map(pick, (learner.params, learner.model_state), (average.params, average.model_state))


def predict_average(model):
  """``predict`` with the averaged weights of a method whose state is an :class:`Average`."""

  def predict(key, learner, x, task):
    params, model_state = current_average(learner)
    return model.apply(params, model_state, x, train=False, key=key, task=model.task_for(task), mask=None)[0].logits

  return predict


def averaged(model, spec: Spec, *, decay, early_decay, early_steps: int = 0) -> Method:
  """``mean <- d mean + (1 - d) theta`` after each step; predicts with the mean; training is untouched. For ``compose``.

  ``d`` is ``early_decay`` for the first ``early_steps`` steps (0: one pass over the largest task), then ``decay``.
  """
  early = early_steps or -(-spec.task_rows // spec.batch_size)

  def after_step(key, learner, info):
    del key, info
    d = edits.ema_decay(learner.step, early, early_decay, decay)
    now = (learner.params, learner.model_state)
    mean = edits.ema(current_average(learner), now, d)
    return learner._replace(method_state=Average(mean[0], mean[1], jnp.zeros((), bool)))

  return Method(
    init=lambda key, learner: start_average(learner),
    after_step=after_step,
    scrub=forget_average,
    predict=predict_average(model),
  )


def ema(
  model, spec: Spec, *, decay, early_decay, early_steps: int = 0, capacity: int, policy: str = "reservoir",
  replay_batch: int = 0, insert: str = "once",
) -> Method:  # fmt: skip
  """Experience replay that predicts with ``mean <- d mean + (1 - d) theta``, BatchNorm's statistics included.

  The training is that of ``er`` to the bit. ``d`` is ``early_decay`` for the first ``early_steps`` steps (0: one pass
  over the largest task), then ``decay``. :func:`averaged` is the same beside any other method. Spec 6.1;
  Soutif-Cormerais et al., 2023.
  """
  base = er(model, spec, capacity=capacity, policy=policy, replay_batch=replay_batch, insert=insert)
  return beside(base, averaged(model, spec, decay=decay, early_decay=early_decay, early_steps=early_steps))


class Balanced(NamedTuple):
  """LCIA's average, what its curvature estimate compares with, and whether a task has ended."""

  average: Any
  last_params: Any
  last_gradient: Any
  started: Any


def lcia(model, spec: Spec, *, balance: str = "paper") -> Method:
  """LCIA: ``mean <- b mean + (1 - b) theta`` each step, ``b`` per tensor from a Taylor argument; theta takes the mean's
  value when a task ends.

  The first task trains plainly (the released code has no average where a group of tasks starts) and its end sets the
  mean. ``balance`` 'released' is the code's weight, see :func:`cljax.edits.lcia`. All parameters are averaged,
  where the paper has LoRA's; its routing by instruction is left out. Spec 6.2; Qiao et al., 2025.
  """
  del model, spec

  def after_step(key, learner, info):
    del key
    s = learner.method_state
    average = edits.lcia(
      s.average, learner.params, s.last_params, info.gradient, s.last_gradient, released=balance == "released"
    )
    return learner._replace(method_state=Balanced(average, learner.params, info.gradient, s.started))

  def end_task(key, learner, task):
    del key, task
    s = learner.method_state
    params = jax.tree.map(lambda mean, now: jnp.where(s.started, mean, now), s.average, learner.params)
    # Without a last gradient the next step's weight leaves (0, 1): it falls back, as a first step should.
    state = Balanced(tree.copy(params), tree.copy(params), tree.zeros_like(params), jnp.ones((), bool))
    return learner._replace(params=params, method_state=state)

  def after_forget(learner, before):
    s = learner.method_state
    follow = lambda kept: tree.follow(kept, before, learner.params)
    return learner._replace(method_state=s._replace(average=follow(s.average), last_params=follow(s.last_params)))

  def init(key, learner):
    del key
    copies = (tree.copy(learner.params), tree.copy(learner.params), tree.zeros_like(learner.params))
    return Balanced(*copies, jnp.zeros((), bool))

  return Method(init=init, after_step=after_step, end_task=end_task, after_forget=after_forget)


def reptile(
  model, spec: Spec, *, epsilon, every: int, capacity: int, policy: str = "reservoir", replay_batch: int = 0,
  insert: str = "once",
) -> Method:  # fmt: skip
  """Experience replay with Reptile: each ``every`` steps ``theta <- snapshot + epsilon (theta - snapshot)``.

  The snapshot is theta ``every`` steps ago. ``every`` 0: a twentieth of one pass over the largest task, but at least 2;
  the paper's 500 steps are about that share of its tasks, and on a shorter stream would never act. ``epsilon=1`` is
  ``er``. Whatever ``every`` is, an interpolation leaves ``epsilon`` of the way that the steps went: few steps end where
  about ``epsilon`` times as many of ``er`` do, or ask for a larger learning rate. A run of few says so, and so does one
  that is shorter than ``every``. The paper replays at a share of the batch; here each batch is doubled, as in ``er``.
  The optimizer's moments are kept. Spec 6.3; Abbes et al., 2025.
  """
  every = every or max(2, -(-spec.task_rows // spec.batch_size) // 20)

  def after_step(key, learner, info):
    del key, info
    params, snapshot = edits.reptile_every(learner.step, learner.params, learner.method_state, every, epsilon)
    return learner._replace(params=params, method_state=snapshot)

  def remarks(outlook):
    if every > outlook.steps:
      return [
        f"method.every: got {every}; the stream has {outlook.steps} steps, so reptile never acts and is er; "
        "give fewer, or 0 for a twentieth of a pass"
      ]
    if epsilon < 1 and epsilon * outlook.steps < FEW_STEPS:
      return [
        f"method.epsilon: got {epsilon:g}; reptile goes {epsilon:g} of the way that er goes, in the stream's "
        f"{outlook.steps} steps as far as {epsilon * outlook.steps:.0f}; give more epochs, a larger "
        "optimizer.learning_rate or a larger method.epsilon"
      ]
    return []

  def after_forget(learner, before):
    return learner._replace(method_state=tree.follow(learner.method_state, before, learner.params))

  own = Method(init=lambda key, learner: tree.copy(learner.params), after_step=after_step, after_forget=after_forget)
  replayed = er(model, spec, capacity=capacity, policy=policy, replay_batch=replay_batch, insert=insert)
  return beside(replayed, own)._replace(remarks=remarks)


register(
  "ema",
  Entry(
    ema,
    {
      "decay": Option(0.99, 0, 1),
      "early_decay": Option(0.9, 0, 1),
      "early_steps": Option(0, 0),
      **BUFFER,
    },
    ACCESS._replace(needs=()),
    "Soutif-Cormerais et al. 2023",
  ),
)
register(
  "lcia",
  Entry(
    lcia,
    {"balance": Option("paper", choices=("paper", "released"))},
    Access(task_boundaries=True, needs=()),
    "Qiao et al. 2025",
  ),
)
register(
  "reptile",
  Entry(
    reptile,
    {"epsilon": Option(0.1, 0), "every": Option(0, 0), **BUFFER},
    ACCESS._replace(needs=()),
    "Abbes et al. 2025",
  ),
)
