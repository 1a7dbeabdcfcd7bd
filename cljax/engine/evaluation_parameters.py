"""Which parameters a learner is judged, edited and saved with, where its optimizer trains at others.

``optax.contrib.schedule_free`` takes gradients at ``y`` and is judged at ``x = (y - (1 - b1) z) / b1``;
``optax.lookahead`` trains fast parameters and is judged at the slow ones. Both are found by the type of their state,
wherever it is nested.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from cljax.core import tree
from cljax.core.types import UsageError


class Lookahead(NamedTuple):
  """The state of an optimizer with ``optax.lookahead`` in it: the learner's parameters are the fast ones."""

  inner: Any
  slow: Any


def _found(state) -> list:
  """The states that say so, outermost first."""
  kinds = (optax.contrib.ScheduleFreeState, Lookahead)
  is_one = lambda node: isinstance(node, kinds)
  return [node for node in jax.tree.leaves(state, is_leaf=is_one) if is_one(node)]


def adapted(optimizer) -> optax.GradientTransformationExtraArgs:
  """The optimizer, taking and giving plain parameter trees where ``optax.lookahead`` wants pairs."""
  is_lookahead = lambda node: isinstance(node, optax.LookaheadState)

  def init(params):
    state = optimizer.init(params)
    if any(map(is_lookahead, jax.tree.leaves(state, is_leaf=is_lookahead))):
      return Lookahead(state, tree.copy(params))
    return state

  def update(updates, state, params=None, **extra):
    if not isinstance(state, Lookahead):
      return optimizer.update(updates, state, params, **extra)
    pair, inner = optimizer.update(updates, state.inner, optax.LookaheadParams(params, state.slow), **extra)
    return pair.fast, Lookahead(inner, optax.apply_updates(state.slow, pair.slow))

  return optax.GradientTransformationExtraArgs(init, update)


def differ(state) -> bool:
  """Whether the optimizer's state names other parameters to judge by than those it trains."""
  return bool(_found(state))


def of(state, params):
  """The parameters to judge by; ``params`` themselves for every other optimizer. UsageError where several say so."""
  found = _found(state)
  if not found:
    return params
  if len(found) > 1:
    raise UsageError("optimizer: more than one part of it says which parameters to evaluate; expected at most one")
  (one,) = found
  if isinstance(one, Lookahead):
    return one.slow
  return jax.tree.map(lambda y, x: x.astype(y.dtype), params, optax.contrib.schedule_free_eval_params(one, params))


def moved(learner, new, shown) -> dict:
  """``params`` and ``opt_state`` after an edit of the parameters to judge by, from ``shown`` to ``new.params``.

  The trained ones and what the optimizer keeps of them move by the same; where the edit began the optimizer afresh, all
  start from ``new.params``.
  """
  old = _found(learner.opt_state.optimizer)[0]
  field = "slow" if isinstance(old, Lookahead) else "z"
  now = _found(new.opt_state.optimizer)[0]
  same = all(
    a is b for a, b in zip(jax.tree.leaves(getattr(old, field)), jax.tree.leaves(getattr(now, field)), strict=True)
  )
  follow = lambda kept: tree.follow(kept, shown, new.params) if same else tree.copy(new.params)
  kept = now._replace(**{field: follow(getattr(now, field))})
  is_one = lambda node: isinstance(node, type(now))
  optimizer = jax.tree.map(lambda node: kept if is_one(node) else node, new.opt_state.optimizer, is_leaf=is_one)
  return {"params": follow(learner.params), "opt_state": new.opt_state._replace(optimizer=optimizer)}
