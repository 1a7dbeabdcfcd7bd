"""A Linen network in two parts: what comes before one of its modules, and the rest, from that module's input on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.types import Model, Outputs, Spec, UsageError

AUTO = "auto"


class Split(NamedTuple):
  """Both parts of a network.

  ``lower(params, model_state, x, key, task=None) -> value [B, ...]``, in eval mode, the input of the module ``path``;
  ``upper(params, model_state, value, *, train, key, task=None, mask=None) -> (Outputs, model_state)`` goes on from it,
  and leaves the state of the lower part as it is. ``below(name)``: whether a leaf of the parameters has no part in
  ``upper``.
  """

  path: str
  value: Any  # of one row, abstract
  lower: Callable
  upper: Callable
  below: Callable[[str], bool]


class Held(NamedTuple):
  """The state of :func:`hold`."""

  held: Any  # bool


def hold(below: Callable[[str], bool], begins: bool) -> optax.GradientTransformationExtraArgs:
  """``u <- 0`` for leaves of which ``below(name)`` holds, once its state says so (:func:`held_from_now`): their
  gradients may be 0, but momentum and weight decay would move them. ``begins``: from the start."""

  def update(updates, state, params=None, **extra):
    del params, extra
    still = lambda name, u: jnp.where(state.held, jnp.zeros_like(u), u) if below(name) else u
    return tree.map_named(still, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: Held(jnp.asarray(begins)), update)


def held_from_now(opt_state):
  """The optimizer state in which :func:`hold` holds."""
  return tree.edit_nodes(opt_state, Held, lambda s: Held(jnp.ones((), bool)))[0]


def reached(fn: Callable, *args):
  """A tree of bool like ``args``: the leaves that the result of ``fn`` is made of, as its program says. What a nested
  program is given counts as read."""
  jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
  named = lambda atoms: {v for v in atoms if not hasattr(v, "val")}  # literals are no inputs
  read = named(jaxpr.outvars)
  for equation in reversed(jaxpr.eqns):
    if any(v in read for v in equation.outvars):
      read |= named(equation.invars)
  return jax.tree.unflatten(jax.tree.structure(args), [v in read for v in jaxpr.invars])


def _called(then: Callable):
  """``then(path, args) -> args`` at each call of a module."""

  def interceptor(next_fun, args, kwargs, context):
    if context.method_name == "__call__":
      args = then("/".join(context.module.path), args)
    return next_fun(*args, **kwargs)

  return nn.intercept_methods(interceptor)


def _abstract(model: Model, spec: Spec):
  """``(params, model_state, x, told)`` of one row, abstract."""
  row = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), spec.shown)
  told = {"task": jnp.zeros(1, jnp.int32) if model.by_task else None, "mask": None}
  return (*jax.eval_shape(model.init, jax.random.key(0)), row, told)


def modules(model: Model, spec: Spec) -> dict[str, Any]:
  """``{path: its input, abstract, of one row}`` of the modules that are given one array of rows ``[B, ..., D]``, in the
  order of their first calls; of one that is called twice None."""
  params, state, row, told = _abstract(model, spec)
  found: dict[str, Any] = {}

  def note(path, args):
    plain = len(args) >= 1 and hasattr(args[0], "shape") and args[0].ndim > 1
    if path and plain:
      found[path] = None if path in found else jax.ShapeDtypeStruct(args[0].shape[1:], args[0].dtype)
    return args

  def look(params, state, row):
    with _called(note):
      model.apply(params, state, row, train=False, key=jax.random.key(0), **told)
    return 0

  jax.eval_shape(look, params, state, row)
  return found


def split_at(model: Model, spec: Spec, path: str, value) -> Split | None:
  """The network cut at the input of a module; None where its answer is also made of what goes around that module, or
  where no parameter lies before it."""
  params, state, row, told = _abstract(model, spec)
  given = lambda task: {"task": task if model.by_task else None}

  def lower(params, model_state, x, key, task=None):
    seen: list[Any] = []

    def look(at, args):
      seen.extend(args[:1] if at == path else ())
      return args

    with _called(look):
      model.apply(params, model_state, x, train=False, key=key, mask=None, **given(task))
    return seen[0]

  def from_here(params, model_state, x, value, *, train, key, task=None, mask=None):
    with _called(lambda at, args: (value, *args[1:]) if at == path else args):
      return model.apply(params, model_state, x, train=train, key=key, mask=mask, **given(task))

  def of(field):
    """The leaves of parameters, states and inputs that a field of the outputs is made of."""
    run = lambda *args: getattr(from_here(*args, train=False, key=jax.random.key(0), **told)[0], field)
    return reached(run, params, state, row, one)

  one = jax.ShapeDtypeStruct((1, *value.shape), value.dtype)
  uses = of("logits")
  if any(jax.tree.leaves(uses[2])) or all(jax.tree.leaves(uses[0])):
    return None
  above = {n for n, used in tree.by_path(uses[0]).items() if used}
  state_above = {n for n, used in tree.by_path(uses[1]).items() if used}
  own = any(jax.tree.leaves(of("features")[2]))

  def upper(params, model_state, value, *, train, key, task=None, mask=None):
    x = jax.tree.map(lambda a: jnp.zeros((value.shape[0], *a.shape), a.dtype), spec.shown)
    out, moved = from_here(params, model_state, x, value, train=train, key=key, task=task, mask=mask)
    moved = tree.map_named(lambda n, new, old: new if n in state_above else old, moved, model_state)
    # Features that come before the cut are those of no row: the value is what there is.
    return Outputs(out.logits, value if own else out.features), moved

  return Split(path, value, lower, upper, lambda name: name not in above)


def split(model: Model, spec: Spec, layer: str, owner: str) -> Split:
  """The network cut at the input of the module ``layer``, which all that comes behind it is made of.

  'auto': the last module of the network itself, but for the classifier, at which it can be cut, and else the
  classifier: of an MLP its last hidden layer, of resnet18 'block_3_1'. Raises UsageError, which names ``owner``, for a
  model that is no Linen module, for a name that is none of its modules, and where the answer goes around it too.
  """
  found = {path: value for path, value in modules(model, spec).items() if value is not None}
  if not found:
    raise UsageError(f"method.name: {owner!r} cuts a Linen module in two; the model is none, or has no modules")
  if layer != AUTO:
    if layer not in found:
      raise UsageError(f"method.layer: got {layer!r}; allowed: 'auto', {', '.join(found)}")
    cut = split_at(model, spec, layer, found[layer])
    if cut is None:
      raise UsageError(
        f"method.layer: got {layer!r}, at which {owner!r} can not cut: the answer is also made of what goes around it, "
        "or no parameter lies before it"
      )
    return cut
  *hidden, last = [path for path in found if "/" not in path]
  for path in (*reversed(hidden), last):
    cut = split_at(model, spec, path, found[path])
    if cut is not None:
      return cut
  raise UsageError(f"method.name: {owner!r} finds no module at which the network can be cut; give method.layer")
