"""Fast weights that learn a task near slow ones, which take a little of them; nearest means under the slow ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.prototypes.ncm import Prototypes, ncm
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads


class Paces(NamedTuple):
  """What is kept beside the fast weights, which are the learner's."""

  slow: Any  # (params, model_state)
  prototypes: Prototypes  # of features under the slow weights


def toward(slow, fast, share):
  """``slow + share (fast - slow)``, leaf by leaf; ``fast`` itself where the share is 1, and of counts."""

  def one(a, b):
    if not jnp.issubdtype(a.dtype, jnp.floating):
      return b
    return jnp.where(share == 1, b, a + jnp.asarray(share, a.dtype) * (b - a))

  return jax.tree.map(one, slow, fast)


def slow_fast(model, spec: Spec, *, strength, consolidation) -> Method:
  """``CE(f; fast) + strength / 2 |fast - slow|^2``; when a task ends ``slow += consolidation (fast - slow)``.

  The first task, meant to be large, is learned plainly, and its weights are the slow ones. Each later task begins with
  them, learns fast weights near them, and is then consolidated; the fast weights are the slow ones again. Answers are
  the nearest class mean of features under the slow weights (:func:`cljax.methods.prototypes.ncm`), each taken when its
  task is consolidated and not refreshed; before the first end the model's logits. At ``consolidation`` 0 the network
  stands behind the first task, and old means stay exact. Statistics of BatchNorm are consolidated as weights are.

  The sketch of the spec, of which the paper's two-step consolidation is UNVERIFIED, as are both defaults. Deviations:
  the first task is learned by the run's steps, not by meta-episodes, and the inner steps of a later one are its steps;
  the optimizer's moments run on. A request clears the means of classes that go whole. Raises UsageError for a model
  without features. Spec A18; Wang et al., 2021 (few-shot continual learning: a brain-inspired approach).
  """
  heads.width_of(model, spec, "slow_fast")
  nearest = ncm(model, spec)
  answer, clear = nearest.predict, nearest.scrub
  assert answer is not None
  assert clear is not None

  def slowly(learner):
    """The learner whose weights are the slow ones, once there are any, with the means as its state."""
    state = learner.method_state
    known, mine = (state.prototypes.counts > 0).any(), (learner.params, learner.model_state)
    params, model_state = jax.tree.map(lambda a, b: jnp.where(known, a, b), state.slow, mine)
    return learner._replace(params=params, model_state=model_state, method_state=state.prototypes)

  def init(key, learner):
    return Paces(tree.copy((learner.params, learner.model_state)), nearest.init(key, learner))

  def pull(key, params, learner, batch, outputs):
    del key, outputs
    gap = lambda p, s: jnp.sum(jnp.square(p.astype(jnp.float32) - s.astype(jnp.float32)))
    far = tree.total(jax.tree.leaves(jax.tree.map(gap, params, learner.method_state.slow[0])))
    return jnp.where(batch.visit.met.any(), strength / 2 * far, 0.0)

  def end_task(key, learner, task):
    state = learner.method_state
    share = jnp.where(task.visit.met.any(), consolidation, 1.0)
    slow = toward(state.slow, (learner.params, learner.model_state), share)
    learner = learner._replace(params=slow[0], model_state=slow[1], method_state=state.prototypes)
    learner = nearest.end_task(key, learner, task)
    return learner._replace(method_state=Paces(tree.copy(slow), learner.method_state))

  def predict(key, learner, x, task):
    return answer(key, slowly(learner), x, task)

  def scrub(learner, request):
    state = learner.method_state
    left = clear(learner._replace(method_state=state.prototypes), request).method_state
    return learner._replace(method_state=state._replace(prototypes=left))

  def after_forget(learner, before):
    state = learner.method_state
    slow = tree.follow(state.slow[0], before, learner.params), state.slow[1]
    return learner._replace(method_state=state._replace(slow=slow))

  return Method(
    init=init, terms={"pull": pull}, end_task=end_task, predict=predict, scrub=scrub, after_forget=after_forget
  )


register(
  "slow_fast",
  Entry(
    slow_fast,
    {"strength": Option(1.0, 0), "consolidation": Option(0.1, 0, 1)},
    Access(task_boundaries=True, boundary_data=True),
    "Wang et al. 2021",
  ),
)
