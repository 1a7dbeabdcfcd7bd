"""Models whose parameters are made from other, trainable ones, as in LoRA, hypernetworks, variational weights."""

from __future__ import annotations

from collections.abc import Callable

import jax

from cljax.core import tree
from cljax.core.types import Model


def reparameterise(model: Model, materialize: Callable, init: Callable) -> Model:
  """The same network with ``params = materialize(adapter, frozen)``; only ``adapter`` is trained.

  ``init(key, params) -> (adapter, frozen)`` starts from the model's own initial ``params``. The frozen tree lives in
  ``model_state["frozen"]`` and gets no gradient, the network's own state in ``model_state["inner"]``; both are copied.
  ``units`` are dropped, for they name leaves of the materialised parameters; ``capture`` keeps naming those too, so
  that layer inputs can be read, while per-sample estimators see that the adapter is not what the layers hold. ``plain``
  gives the network's own parameters and state.
  """
  base_capture = model.capture

  def make(adapter, model_state):
    return materialize(adapter, jax.lax.stop_gradient(model_state["frozen"]))

  def reinit(key):
    params, inner = model.init(key)
    adapter, frozen = init(tree.fold(key, "reparameterise"), params)
    return tree.copy(adapter), {"frozen": tree.copy(frozen), "inner": inner}

  def apply(adapter, model_state, x, *, train, key, task=None, mask=None):
    params = make(adapter, model_state)
    out, inner = model.apply(params, model_state["inner"], x, train=train, key=key, task=task, mask=mask)
    return out, {"frozen": model_state["frozen"], "inner": inner}

  def capture(adapter, model_state, x, probe, **told):
    assert base_capture is not None
    return base_capture(make(adapter, model_state), model_state["inner"], x, probe, **told)

  def plain(adapter, model_state):
    made = make(adapter, model_state), model_state["inner"]
    return made if model.plain is None else model.plain(*made)

  return Model(reinit, apply, None if base_capture is None else capture, by_task=model.by_task, plain=plain)
