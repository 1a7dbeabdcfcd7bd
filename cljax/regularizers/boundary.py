"""What happens to regularizer states at a task boundary: pure functions on any optimizer state that holds them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax.core.tree import by_path, follow, nbytes
from cljax.core.types import UsageError
from cljax.regularizers import kronecker, path, quadratic, structure
from cljax.regularizers._state import align, check_importance, name_of
from cljax.regularizers.decoupled import ScheduledState

# state type: (consolidation, how it treats importance: 'needs', 'takes' or 'none')
_BOUNDARY: dict[type, tuple[Callable, str]] = {
  quadratic.EwcState: (quadratic.consolidate_ewc, "needs"),
  quadratic.OnlineEwcState: (quadratic.consolidate_online_ewc, "needs"),
  quadratic.MasState: (quadratic.consolidate_mas, "needs"),
  quadratic.L2PreviousState: (quadratic.consolidate_l2_previous, "none"),
  path.SiState: (path.consolidate_path, "takes"),
  path.HierarchicalState: (path.consolidate_hierarchical, "takes"),
}
STATES = (*_BOUNDARY, kronecker.KfacState, quadratic.L2InitState, structure.SpectralState, structure.WassersteinState)


def _takes(state) -> bool:
  return _BOUNDARY[type(state)][1] == "takes"


def _is_state(node) -> bool:
  return isinstance(node, STATES)


def find(opt_state) -> list:
  """All regularizer states, wherever they are nested."""
  return [s for s in jax.tree.leaves(opt_state, is_leaf=_is_state) if _is_state(s)]


def _replace_states(opt_state, fn):
  return jax.tree.map(lambda s: fn(s) if _is_state(s) else s, opt_state, is_leaf=_is_state)


def _named(states, name, argument: str = "name"):
  if name is None:
    return states
  chosen = [s for s in states if name_of(s) == name]
  if not chosen:
    have = ", ".join(sorted({name_of(s) for s in states})) or "none"
    raise UsageError(f"{argument}: no regularizer state is called {name!r}; found: {have}")
  return chosen


def _importance_by_name(importance, chosen) -> dict:
  """Which state name gets which tree."""
  if importance is None:
    return {}
  names = {name_of(s) for s in chosen}
  if isinstance(importance, dict) and importance and set(importance) <= names:
    return importance
  for how in ("needs", "takes"):
    takers = {name_of(s) for s in chosen if _BOUNDARY[type(s)][1] == how}
    if len(takers) > 1:
      example = "{" + ", ".join(f"{n!r}: ..." for n in sorted(takers)) + "}"
      raise UsageError(f"importance: one tree for several states; give {example}")
    if takers:
      return {takers.pop(): importance}
  raise UsageError(f"importance: none of the states takes it ({', '.join(sorted(names))}); leave it out")


def consolidate(opt_state, params, *, importance=None, name: str | None = None):
  """Ends a task: returns ``opt_state`` with every regularizer state in it anchored at ``params``.

  States are found by type wherever they are nested (``chain``, ``named_chain``, ``masked``, ``partition``,
  ``MultiSteps``, ``inject_hyperparams``, ``apply_if_finite``, an ``nnx.Optimizer``'s). Anchors are copies. Pure: works
  under ``jit`` and ``vmap``, keeps shardings.

  params: the parameters now, whole even where a state is masked. importance: a tree like ``params``, or
  ``{name: tree}``; EWC, online EWC and MAS need it, SI and ``hierarchical`` have their own and take it instead.
  name: only the states of that name. Raises UsageError: no such state; importance missing, ambiguous, for a state that
  takes none, of a wrong shape, or (concrete) NaN or negative; a state under ``optax.flatten``.
  """
  chosen = [s for s in _named(find(opt_state), name) if type(s) in _BOUNDARY]
  if not chosen:
    raise UsageError("opt_state: no regularizer state to consolidate in it; is a regularizer such as ewc in the chain?")
  trees = _importance_by_name(importance, chosen)
  param_paths = set(by_path(params))
  for owner, tree in trees.items():
    for extra in sorted(set(by_path(tree)) - param_paths):
      raise UsageError(f"{owner}: importance leaf {extra!r} is unexpected; the parameters have no such leaf")
    check_importance(owner, tree, negative_ok=any(name_of(s) == owner and _takes(s) for s in chosen))

  def end(state):
    if type(state) not in _BOUNDARY or not any(state is s for s in chosen):
      return state
    owner, (fn, how) = name_of(state), _BOUNDARY[type(state)]
    own_params = align(params, state.anchor, owner, "params")
    own_importance = None
    if owner in trees:
      if how == "none":
        raise UsageError(f"{owner}: takes no importance; leave it out")
      own_importance = jax.tree.map(jnp.asarray, align(trees[owner], state.anchor, owner, "importance"))
    elif how == "needs":
      raise UsageError(f"{owner}: consolidate needs importance=, such as a Fisher diagonal shaped like the parameters")
    return fn(state, jax.tree.map(jnp.asarray, own_params), own_importance)

  return _replace_states(opt_state, end)


def follow_edit(state, before, after):
  """Any tree that holds regularizer states, with the anchors at past parameters moved as an edit moved the parameters.

  ``anchor += after - before`` (to the bit where the anchor was ``before``): else the penalty would pull back what was
  forgotten. Anchors at the initial parameters stay, and so do importances, which no edit can take a row out of. A tree
  without such states comes back as it is.
  """

  def move(state):
    if isinstance(state, structure.WassersteinState) and jax.tree.leaves(state.age):
      return state._replace(age=jnp.zeros_like(state.age))  # its next update sorts
    if type(state) not in (*_BOUNDARY, kronecker.KfacState):
      return state
    owner = name_of(state)
    ends = align(before, state.anchor, owner, "before"), align(after, state.anchor, owner, "after")
    fields = [f for f in ("anchor", "last_params") if f in state._fields and jax.tree.leaves(getattr(state, f))]
    return state._replace(**{f: follow(getattr(state, f), *ends) for f in fields})

  return _replace_states(state, move)


def attach(tx, old_opt_state, params):
  """The state of ``tx`` with the values of ``old_opt_state``: a trained AdamW goes on under ``chain(ewc, adamw)``.

  ``tx`` must be the old transform with regularizers added by ``chain`` or ``named_chain``; their states start fresh at
  ``params``. With NNX: ``nnx.update(optimizer.opt_state, nnx.state(attach(...)))``.

  Raises UsageError where the states that are not new do not match the old ones leaf by leaf.
  """
  fresh = tx.init(params)
  whole = lambda s: isinstance(s, (*STATES, ScheduledState))
  old_ones = [*find(old_opt_state), *(s for s in jax.tree.leaves(old_opt_state, is_leaf=whole) if whole(s))]
  carried = {(type(s), name_of(s)) for s in old_ones}
  is_new = lambda s: whole(s) and (type(s), name_of(s)) not in carried

  def slots(tree):
    nodes, treedef = jax.tree.flatten(tree, is_leaf=is_new)
    paths = [p for p, _ in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_new)[0]]
    return nodes, paths, treedef

  nodes, paths, treedef = slots(fresh)
  old, old_paths, _ = slots(old_opt_state)
  # Only field names are compared: wrapping in one more chain shifts indices and adds names, not fields.
  fields = lambda p: [k.name for k in p if isinstance(k, jax.tree_util.GetAttrKey) and k.name != "value"]
  where = [i for i, n in enumerate(nodes) if not is_new(n)]
  if len(where) != len(old):
    raise UsageError(
      f"old_opt_state: has {len(old)} leaves; tx without its new regularizers has {len(where)}; same optimizer?"
    )
  for i, value, old_path in zip(where, old, old_paths, strict=True):
    if fields(paths[i]) != fields(old_path) or jnp.shape(nodes[i]) != jnp.shape(value):
      raise UsageError(
        f"old_opt_state: leaf {jax.tree_util.keystr(old_path)} {jnp.shape(value)} does not fit "
        f"{jax.tree_util.keystr(paths[i])} {jnp.shape(nodes[i])} of tx"
      )
    nodes[i] = value
  return jax.tree.unflatten(treedef, nodes)


def _plain(tree):
  """A copy of ``tree`` as nested dicts by path; a lone scalar stays one."""
  out: dict = {}
  for where, leaf in by_path(tree).items():
    leaf = jnp.array(leaf, copy=True)
    if where == "":
      return leaf
    *parents, last = where.split("/")
    node = out
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = leaf
  return out


def export_state(opt_state, name: str | None = None) -> dict:
  """``{name: {field: tree}}`` of every regularizer state, copied: to save anchors and importance on their own.

  Trees are nested plain dicts by path, whatever the parameters were made of (NNX, Equinox), so any checkpoint takes
  them. Raises UsageError where there is no state, none of that name, or two of one name.
  """
  out: dict = {}
  for state in _named(find(opt_state), name):
    owner = name_of(state)
    if owner in out:
      raise UsageError(f"opt_state: two regularizer states are called {owner!r}; give each a name of its own")
    out[owner] = {f: _plain(getattr(state, f)) for f in state._fields if f != "name"}
  if not out:
    raise UsageError("opt_state: no regularizer state in it; is a regularizer such as ewc in the chain?")
  return out


def import_state(opt_state, exported: dict):
  """``opt_state`` with the states named in ``exported`` (from ``export_state``) replaced by copies of it.

  Raises UsageError for a name that ``opt_state`` lacks, a missing field, a missing leaf or another shape.
  """
  states = find(opt_state)
  for owner in exported:
    _named(states, owner, "exported")

  def fill(state):
    owner = name_of(state)
    if owner not in exported:
      return state
    new = {}
    for field in (f for f in state._fields if f != "name"):
      like = getattr(state, field)
      if field not in exported[owner]:
        raise UsageError(f"{owner}: the exported state lacks {field!r}; it is of another regularizer")
      new[field] = quadratic.recast(align(exported[owner][field], like, owner, field), like)
    return state._replace(**new)

  return _replace_states(opt_state, fill)


def state_bytes(opt_state, name: str | None = None) -> int:
  """Bytes that the regularizer states (of that name) keep; works on ``jax.eval_shape`` of a state too."""
  return sum(nbytes(s) for s in _named(find(opt_state), name))
