"""Networks that grow: copies of a model's layers, of which one trains and the others stand, and a classifier of the
features of all. Every copy has its place from the start, so that shapes stay the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.opt_state import edit_moments
from cljax.core.types import Model, Outputs, Spec
from cljax.models import heads

CLASSIFIER, AUXILIARY = "classifier", "auxiliary"


class GrownState(NamedTuple):
  """The model state of a network that grows."""

  network: Any  # the model's own: of layers that are copied ``[slots, ...]``
  count: Any  # int32: copies in use, the first ones; features of the others are 0
  current: Any  # int32: the copy that trains


class Held(NamedTuple):
  """The state of :func:`hold_standing`."""

  current: Any  # int32: the copy that may move
  shared: Any  # bool: whether the layers of which there is one may


def layer_of(name: str) -> str:
  return name.rpartition("/")[0]


def in_layers(copied: Callable[[str], bool], names) -> Callable[[str], bool]:
  """``name -> bool`` for leaves of the model's state, whose names may begin with that of a collection: whether their
  layer's parameters, ``names``, are copied; of a layer without any, whether all are."""
  layers, every = {layer_of(n) for n in names if copied(n)}, all(map(copied, names))
  return lambda name: every or layer_of(name) in layers or layer_of(name).partition("/")[2] in layers


def linear(key, width: int, outputs: int):
  """A linear layer's parameters, uniform within ``1/sqrt(width)``, biases 0."""
  return {
    "kernel": jax.random.uniform(key, (width, outputs), jnp.float32, -(width**-0.5), width**-0.5),
    "bias": jnp.zeros(outputs, jnp.float32),
  }


def classifier(key, slots: int, width: int, classes: int):
  """``{"kernel" [slots, D, C], "bias" [C]}``: the rows of each copy's features are those of a layer of their own."""
  made = jax.vmap(lambda k: linear(k, width, classes)["kernel"])(jax.random.split(key, slots))
  return {"kernel": made, "bias": jnp.zeros(classes, jnp.float32)}


def growing(
  model: Model, spec: Spec, owner: str, slots: int, copied: Callable[[str], bool] = lambda name: True,
  auxiliary: int = 0, through: bool = False,
) -> Model:  # fmt: skip
  """The model whose logits are ``sum_s f_s W_s + b``, f_s the features of copy s: of the leaves ``copied(name)`` there
  are ``slots``, of others one.

  Parameters are ``{"network": the model's, leaves of copied layers [slots, ...], "classifier": {"kernel" [slots, D, C],
  "bias" [C]}, "auxiliary": a linear layer of D inputs and ``auxiliary`` outputs, where there are any}``; the network's
  own classifier has no part. The state is a :class:`GrownState`. In training the current copy alone is in train mode
  and has a gradient; those in use beside it are in eval mode and stand (with ``through``, the layers of which there is
  one get a gradient through them too). ``Outputs.features [B, slots D]``. A step costs ``slots`` passes in eval mode
  and one of training; layers of which there is one are passed once for all. Raises UsageError, which names ``owner``,
  for a model without features.
  """
  width = heads.width_of(model, spec, owner)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  names = tree.paths(shapes[0])
  of_state = in_layers(copied, names)
  which = ([copied(n) for n in names], [of_state(n) for n in tree.paths(shapes[1])])

  def split(grown, side):
    """Leaves that are copied, and ``copies -> tree`` with one copy of each."""
    leaves: list = jax.tree.leaves(grown)
    treedef: Any = jax.tree.structure(grown)
    mine = [a for a, own in zip(leaves, which[side], strict=True) if own]

    def joined(copy):
      left = iter(copy)
      return treedef.unflatten([next(left) if own else a for a, own in zip(leaves, which[side], strict=True)])

    return mine, joined

  def init(key):
    network = []
    for side, part in enumerate(model.init(key)):
      mine, joined = split(part, side)
      network.append(joined([jnp.repeat(a[None], slots, axis=0) for a in mine]))
    params = {"network": network[0], CLASSIFIER: classifier(tree.fold(key, CLASSIFIER), slots, width, spec.num_classes)}
    if auxiliary:
      params[AUXILIARY] = linear(tree.fold(key, AUXILIARY), width, auxiliary)
    return params, GrownState(network[1], jnp.int32(1), jnp.int32(0))

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    told = {"key": key, "task": task, "mask": mask}
    kept = jax.lax.stop_gradient(params["network"]) if train else params["network"]
    (own, whole), (own_state, whole_state) = split(kept, 0), split(model_state.network, 1)
    if train and through:
      whole = split(params["network"], 0)[1]

    def features(copy, state):
      out, _ = model.apply(whole(copy), whole_state(state), x, train=False, **told)
      return heads.flat(out.features)

    each = jax.vmap(features)(own, own_state)
    if train:
      at = lambda leaves: [a[model_state.current] for a in leaves]
      mine, whole = split(params["network"], 0)
      out, moved = model.apply(whole(at(mine)), whole_state(at(own_state)), x, train=True, **told)
      each = each.at[model_state.current].set(heads.flat(out.features))
      new, whole_state = split(moved, 1)
      placed = [a.at[model_state.current].set(b.astype(a.dtype)) for a, b in zip(own_state, new, strict=True)]
      model_state = model_state._replace(network=whole_state(placed))
    used = jnp.arange(slots) < model_state.count
    each = jnp.where(used[:, None, None], each, 0.0)
    head = params[CLASSIFIER]
    logits = jnp.einsum("sbd,sdc->bc", each, head["kernel"]) + head["bias"][None]
    return Outputs(logits, jnp.moveaxis(each, 0, 1).reshape(each.shape[1], -1)), model_state

  return Model(init, apply, by_task=model.by_task, check_rows=model.check_rows)


def named_copies(copied: Callable[[str], bool]) -> Callable[[str], bool]:
  """``name -> bool`` for leaves of a growing network's parameters: whether they have an axis of copies in front."""
  return lambda name: name.startswith("network/") and copied(name.partition("/")[2])


def current_features(outputs: Outputs, model_state: GrownState, slots: int):
  """``[B, D]``: the features of the copy that trains."""
  f = outputs.features
  return f.reshape(f.shape[0], slots, -1)[:, model_state.current]


def names_of(model: Model) -> list[str]:
  """The names of a model's own leaves."""
  return tree.paths(jax.eval_shape(model.init, jax.random.key(0))[0])


def opened(params, model_state: GrownState, slot, copied: Callable[[str], bool], names):
  """``(params, model_state)`` with the copy ``slot`` the current one; where it comes into use it begins as the one
  before it. ``names``: of the model's own leaves."""
  new = (slot >= model_state.count) & (slot > 0)
  begin = lambda a: a.at[slot].set(jnp.where(new, a[jnp.maximum(slot - 1, 0)], a[slot]))
  own, of_state = named_copies(copied), in_layers(copied, names)
  params = tree.map_named(lambda n, a: begin(a) if own(n) else a, params)
  network = tree.map_named(lambda n, a: begin(a) if of_state(n) else a, model_state.network)
  return params, GrownState(network, jnp.maximum(model_state.count, slot + 1), jnp.asarray(slot, jnp.int32))


def hold_standing(copied: Callable[[str], bool]) -> optax.GradientTransformationExtraArgs:
  """``u <- 0`` for copies that do not train, and for layers of which there is one where these stand: momentum and
  weight decay must not move them. Which, stands in its state (:func:`held_at`)."""
  own = named_copies(copied)

  def update(updates, state, params=None, **extra):
    del params, extra

    def one(name, u):
      if own(name):
        mine = (jnp.arange(u.shape[0]) == state.current).reshape(-1, *(1,) * (u.ndim - 1))
        return jnp.where(mine, u, jnp.zeros_like(u))
      return jnp.where(state.shared, u, jnp.zeros_like(u)) if name.startswith("network/") else u

    return tree.map_named(one, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: Held(jnp.int32(0), jnp.bool_(True)), update)


def held_at(opt_state, current, shared):
  """The optimizer state in which :func:`hold_standing` lets the copy ``current`` move, and the others' layers."""
  return tree.edit_nodes(opt_state, Held, lambda s: Held(current, jnp.asarray(shared, bool)))[0]


def at_rest(opt_state, params, begins: Callable[[str], Any]):
  """The optimizer state without moments of the leaves that begin anew; ``begins(name) -> bool``, which may be traced:
  what was summed up there is of other weights."""
  still = lambda name, leaf: jnp.where(begins(name), jnp.zeros_like(leaf), leaf)
  if not hasattr(opt_state, "_fields"):
    return opt_state
  return opt_state._replace(optimizer=edit_moments(opt_state.optimizer, params, still))


def parameters_in_use(params, count: int, copied: Callable[[str], bool] = lambda name: True) -> int:
  """How many numbers a network of ``count`` copies has, of all that have a place: the auxiliary layer is left out, and
  the network's own classifier counts."""
  own = named_copies(copied)
  split = lambda name, a: a.size // a.shape[0] * count if own(name) or name == f"{CLASSIFIER}/kernel" else a.size
  return sum(split(n, a) for n, a in tree.by_path(params).items() if not n.startswith(AUXILIARY))
