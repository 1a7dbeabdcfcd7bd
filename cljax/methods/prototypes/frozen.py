"""Closed forms on frozen features: a network that moves in the first task alone, or never; statistics of its features,
taken when a task ends; a rule made of these alone, which answers; and requests that are answered by subtraction."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.method import Method
from cljax.core.types import Access, Spec, UsageError
from cljax.estimators.moments import Statistics
from cljax.methods.registry import Option

BLOCK = 256  # rows that go through the network at once, at a boundary
FIRST, REQUESTS = ("train", "frozen"), ("subtract", "elsewhere")
OPTIONS = {"first_task": Option("train", choices=FIRST), "requests": Option("subtract", choices=REQUESTS)}
ACCESS = Access(
  task_boundaries=True, boundary_data=True, forgets=True, forget_data=True, needs=("classes", "plain_inputs")
)
REFUSAL = (
  "rows of the task that trained the network can not be subtracted from it; give forget.name=retrain and "
  "method.requests=elsewhere, or method.first_task=frozen"
)


class Held(NamedTuple):
  """State of the transform that holds the network."""

  held: Any  # bool


class Frozen(NamedTuple):
  """What a closed form keeps."""

  statistics: Any  # of the features of all rows of tasks that ended
  rule: Any  # what answers, made of them when a task ends
  hint: Any  # what was chosen on the rows of tasks
  fixed: Any  # what is as it was when the run began
  made_by: Any  # [T] bool: tasks whose rows trained the network


def held(learner):
  """Bool: whether the network is frozen."""
  return learner.opt_state.finalize.held


def frozen(learner):
  """The learner whose network moves no more."""
  return learner._replace(opt_state=learner.opt_state._replace(finalize=Held(jnp.ones((), bool))))


def holding(first_task: str) -> dict[str, Any]:
  """``gradient`` and ``finalize`` of a network that moves until :func:`frozen`; with 'frozen' never.

  Then a step costs its loss alone, the update is 0 whatever momentum and decay the optimizer has, and statistics of
  batches stay as they are. Optimizers that are judged at averages of their parameters may move these a while longer.
  """

  def gradient(key, loss_fn, learner):
    del key

    def hold(params):
      loss, (outputs, _) = loss_fn(params)
      return (loss, (outputs, learner.model_state)), tree.zeros_like(params)

    return jax.lax.cond(held(learner), hold, jax.value_and_grad(loss_fn, has_aux=True), learner.params)

  def update(updates, state, params=None, **extra):
    del params, extra
    return jax.tree.map(lambda u: jnp.where(state.held, jnp.zeros_like(u), u), updates), state

  init = lambda params: Held(jnp.asarray(first_task == "frozen"))
  return {"gradient": gradient, "finalize": optax.GradientTransformationExtraArgs(init, update)}


def outputs_of(model, params, model_state, x, task, key):
  """``(features [B, D], logits [B, C])`` in eval mode, features in at least float32."""
  told = {"task": model.task_for(task), "mask": None}
  out, _ = model.apply(params, model_state, x, train=False, key=key, **told)
  if out.features is None:
    raise UsageError("method.name: closed forms need a model that returns features (Outputs.features is None)")
  f = out.features.reshape(out.features.shape[0], -1)
  return f.astype(wide(f.dtype)), out.logits


def over(rows, change, state):
  """``state`` after ``change(state, batch)`` of each block of rows, in their order."""
  size = min(BLOCK, rows.capacity)
  blocks = (jnp.asarray(rows.count, jnp.int32) + size - 1) // size
  return jax.lax.fori_loop(0, blocks, lambda i, s: change(s, rows.batch(i * size, size)), state)


def closed_form(
  model, spec: Spec, statistics: Statistics, *, first_task: str, requests: str, fit, scores, fixed=None, embed=None,
  choose=None, hint=lambda width: (),
) -> Method:  # fmt: skip
  """A method whose answer is ``scores(state, h [B, M]) -> [B, C]`` of its :class:`Frozen` state, in which
  ``rule = fit(statistics, hint)``.

  ``h = embed(fixed, f, look)`` of a row's features f (default: themselves), ``fixed(key, learner, width)`` being made
  when the run begins and ``look(params, model_state) -> f`` the features under other parameters. When a task ends that
  is met for the first time, its rows join the statistics, un-augmented and in eval mode, and ``choose(key, state,
  embedded, task) -> hint`` renews the hint, which begins as ``hint(M)``, with the state that has them and
  ``embedded(batch) -> h``. Within a task the tasks before it answer; before the first end, the model's logits. Classes
  without rows score -inf.

  ``first_task`` 'train': the network learns the first task by the run's recipe and is frozen when it ends; 'frozen': it
  stays as ``model.init`` gives it, such as pre-trained. ``requests`` 'subtract': a request's rows, whose data is asked
  for, leave the statistics, which are then those of the rows left, to rounding of float32 sums; rows of the task that
  trained the network are refused, and all where ``statistics`` have no ``subtract``. 'elsewhere': forget.name answers;
  here only classes that go whole are cleared. Raises UsageError for a model without features.
  """
  embed = embed or (lambda fixed, f, look: f)

  def embedded(learner, fixed, x, task):
    look = lambda params, state: outputs_of(model, params, state, x, task, learner.key)
    f, logits = look(learner.params, learner.model_state)
    return embed(fixed, f, lambda params, state: look(params, state)[0]), logits

  def told(learner, fixed):
    return lambda batch: embedded(learner, fixed, batch.x, batch.task)[0]

  def moved(learner, state, rows, change):
    look = told(learner, state.fixed)
    return over(rows, lambda s, b: change(s, look(b), b.y, b.weight), state.statistics)

  def init(key, learner):
    x = jax.tree.map(lambda a: jnp.zeros((1, *a.shape), a.dtype), spec.shown)
    task = jnp.zeros(1, jnp.int32)
    width = jax.eval_shape(lambda: outputs_of(model, learner.params, learner.model_state, x, task, key)[0]).shape[-1]
    kept = () if fixed is None else fixed(tree.fold(key, "fixed"), learner, width)
    h = jax.eval_shape(lambda: embedded(learner, kept, x, task)[0])
    start = statistics.start(spec.num_classes, h.shape[-1], h.dtype)
    begun = hint(h.shape[-1])
    rule = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(fit, start, begun))
    return Frozen(start, rule, begun, kept, jnp.zeros(spec.num_tasks, bool))

  def end_task(key, learner, task):
    state = learner.method_state

    def met(state):
      new = state._replace(statistics=moved(learner, state, task.rows, statistics.add))
      chosen = state.hint if choose is None else choose(key, new, told(learner, state.fixed), task)
      return new._replace(rule=fit(new.statistics, chosen), hint=chosen)

    state = jax.lax.cond(task.visit.first, met, lambda state: state, state)
    mine = (jnp.arange(spec.num_tasks) == task.id) & ~held(learner)
    return frozen(learner._replace(method_state=state._replace(made_by=state.made_by | mine)))

  def changed(learner, found):
    state = learner.method_state
    return learner._replace(method_state=state._replace(statistics=found, rule=fit(found, state.hint)))

  def forget(key, learner, request, tools):
    del key, tools
    if statistics.subtract is None:
      return learner
    return changed(learner, moved(learner, learner.method_state, request.forget, statistics.subtract))

  def permits(learner, request):
    rows = request.forget.batch(0, request.forget.capacity)
    refused = learner.method_state.made_by[rows.task] | (statistics.subtract is None)
    return ~(refused & (rows.weight > 0)).any()

  def scrub(learner, request):
    return changed(learner, statistics.clear(learner.method_state.statistics, request.classes))

  def predict(key, learner, x, task):
    del key
    state = learner.method_state
    h, logits = embedded(learner, state.fixed, x, task)
    there = state.statistics.counts > 0
    found = jnp.where(there[None], scores(state, h), -jnp.inf)
    return jnp.where(there.any(), found, logits.astype(found.dtype))

  answers = {"forget": forget, "permits": permits, "refusal": REFUSAL} if requests == "subtract" else {"scrub": scrub}
  return Method(init=init, end_task=end_task, predict=predict, **answers, **holding(first_task))
