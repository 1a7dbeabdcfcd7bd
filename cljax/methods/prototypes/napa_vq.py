"""NAPA-VQ: a coding vector for each turned class, a graph of which are neighbours, and old means mixed with theirs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Model, Spec, UsageError
from cljax.estimators import class_moments
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.prototypes.frozen import over
from cljax.methods.prototypes.rotations import FORMS, TURNS, crossed, gap_norm, turned
from cljax.methods.prototypes.simplecil import normed
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads

DECAY, LEAST = 0.9, 0.9**10.5  # an edge is cut behind ten decays, whatever float32 makes of them
LATER = 0.1  # of the vectors' rate, from the second task on
NEAR = 0.001  # how fast the weight of a neighbour falls with its squared distance


class Coded(NamedTuple):
  """The model state: that of the network, and the graph of coding vectors."""

  network: Any
  edges: Any  # [4C, 4C] in [0, 1]
  begun: Any  # [C] bool: classes of tasks that were begun


class Kept(NamedTuple):
  """The method's own."""

  teacher: Teacher  # the model at the end of the last task
  means: Any  # [4C, D] of features of turned rows
  counts: Any  # [4C]


def squared(f, vectors):
  """``[N, M]``: ``|f_i - v_j|^2``."""
  return jnp.sum(jnp.square(f[:, None] - vectors[None]), axis=-1)


def root(squares):
  """The square root, with derivative 0 where it is 0."""
  return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def connected(edges, squares, there, known, neighbours: int):
  """The ``edges [M, M]`` after a batch of ``squares [N, M]``, distances to the vectors that are ``known [M]``.

  Of each row that is ``there [N]`` a is the nearest vector: edges from a to the row's nearest ``neighbours`` become 1,
  and others from a decay by 0.9; those of more than ten decays are cut. Where n rows have the nearest a, and m of them
  j among their neighbours, that is ``max(e_aj, [m > 0]) 0.9^(n - m)``, whatever their order. Not made symmetric.
  """
  size = squares.shape[1]
  far, order = jax.lax.top_k(jnp.where(known[None], -squares, -jnp.inf), min(neighbours, size))
  near = jnp.sum(
    jax.nn.one_hot(order, size, dtype=edges.dtype) * jnp.isfinite(far).astype(edges.dtype)[..., None], axis=1
  )
  first = jax.nn.one_hot(order[:, 0], size, dtype=edges.dtype) * (there > 0).astype(edges.dtype)[:, None]
  both = first.T @ near
  edges = jnp.maximum(edges, (both > 0).astype(edges.dtype)) * DECAY ** jnp.maximum(first.sum(0)[:, None] - both, 0)
  return jnp.where(edges < LEAST, 0, edges)


def neighbour_loss(squares, y, edges):
  """``[N]``: ``relu(d_y - sum_j w_j d_j)``, d the ``squares [N, M]``, j the others that have an edge from y, and w_j
  their shares of ``exp(-0.001 d_j)``, without a gradient; without neighbours ``d_y``."""
  mine = jnp.arange(squares.shape[1], dtype=y.dtype)[None] == y[:, None]
  others = (edges[y] > 0) & ~mine
  w = jnp.where(others, jnp.exp(-NEAR * jax.lax.stop_gradient(squares)), 0)
  total = w.sum(-1, keepdims=True)
  w = w / jnp.where(total > 0, total, 1)
  own = jnp.take_along_axis(squares, y[:, None], axis=-1)[:, 0]
  return jax.nn.relu(own - jnp.sum(w * squares, axis=-1))


def mixed_means(key, means, old, edges, size: int):
  """``(p [size, D], class [size])``: ``g mu_c + (1 - g) mu_n``, c a class drawn uniformly from ``old [C]``, n one of
  the vectors with an edge from 4 c (itself too), g ~ U(1/2, 1); each by its place, whatever the size."""

  def one(place):
    own = jax.random.fold_in(key, place)
    label = jax.random.categorical(tree.fold(own, "class"), jnp.where(old, 0.0, -jnp.inf)).astype(jnp.int32)
    near = jax.random.categorical(tree.fold(own, "neighbour"), jnp.where(edges[TURNS * label] > 0, 0.0, -jnp.inf))
    share = jax.random.uniform(tree.fold(own, "share"), (), means.dtype, 0.5, 1)
    return share * means[TURNS * label] + (1 - share) * means[near], label

  return jax.vmap(one)(jnp.arange(size, dtype=jnp.int32))


def coded_network(model: Model, spec: Spec, neighbours: int) -> Model:
  """The model whose logits are ``-|f / |f| - v / |v||`` to the vectors of unturned classes; -inf in eval mode for
  classes that were not begun, once any was. In train mode all four turns go through the network,
  ``Outputs.hidden = (features [B, 4, D],)``, and the graph moves on. Parameters ``{"network", "vectors" [4C, D]}``."""
  shape: tuple[int, ...] = spec.shown.shape if hasattr(spec.shown, "shape") else ()
  if len(shape) != 3 or shape[0] != shape[1]:
    raise UsageError(f"method.name: 'napa_vq' turns pictures; expected square inputs [H, H, C], got {list(shape)}")
  count, width = TURNS * spec.num_classes, heads.width_of(model, spec, "napa_vq")

  def init(key):
    params, state = model.init(key)
    vectors = jax.random.normal(tree.fold(key, "vectors"), (count, width), jnp.float32)
    coded = Coded(state, jnp.eye(count, dtype=jnp.float32), jnp.zeros(spec.num_classes, bool))
    return {"network": params, "vectors": vectors}, coded

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    rows = x.shape[0]
    if train:
      x = turned(x, jnp.zeros(rows, jnp.int32))[0]
      mask = None if mask is None else jnp.tile(mask, TURNS)
      task = task if task is None or jnp.ndim(task) == 0 else jnp.tile(task, TURNS)
    out, moved = model.apply(params["network"], model_state.network, x, train=train, key=key, task=task, mask=mask)
    every = out.features.reshape(out.features.shape[0], -1).astype(jnp.float32)
    f, vectors = every[:rows], params["vectors"].astype(jnp.float32)
    logits = -root(squared(normed(f), normed(vectors[::TURNS])))
    state, hidden = model_state._replace(network=moved), out.hidden
    if train:
      hidden = (jnp.moveaxis(every.reshape(TURNS, rows, -1), 0, 1),)
      there = jnp.ones(every.shape[0], jnp.float32) if mask is None else mask
      known = jnp.repeat(model_state.begun, TURNS)
      edges = connected(model_state.edges, squared(every, vectors), there, known, neighbours)
      state = state._replace(edges=jax.lax.stop_gradient(edges + edges.T) / 2)
    else:
      begun = model_state.begun | ~model_state.begun.any()
      logits = jnp.where(begun[None], logits, -jnp.inf)
    return out._replace(logits=logits, features=f, hidden=hidden), state

  return Model(init, apply, by_task=model.by_task, check_rows=model.check_rows)


def napa_vq(
  model, spec: Spec, *, distillation, prototypes, temperature, vector_rate, neighbours: int = 15, form: str = "paper"
) -> Method:
  """NAPA-VQ: ``CE(-|f(x') - v| / t, 4 y + turn) + NA + l_d |f(x') - f_old(x')| + l_p CE(-|p - v| / t, 4 o)``.

  x' are the rows turned by 0, 90, 180 and 270 degrees, v one vector for each of the 4 C turned classes, N(0, I) at
  first; softmaxes are over those begun. NA is :func:`neighbour_loss` on the graph that each batch moves
  (:func:`connected`); p are old means mixed with neighbours' (:func:`mixed_means`), as many as rows. The last two terms
  begin with the second task. Vectors learn by plain descent at ``vector_rate``, from the second task on at a tenth of
  it; those of classes that the current task has not stand. Answers: the nearest vector of an unturned class, both of
  norm 1, among classes begun. Means are of all rows of a task when it ends (the released loop drops the last short
  batch), and when it begins, by the network of then, for new classes may be neighbours of old ones. ``form`` as in
  :func:`cljax.methods.prototypes.rotations.prototype_augmentation`: 'released' is the norm of a whole batch.

  Deviations: the vectors' rate does not fall within a task; in the released code NA is also of p, which move the graph
  too. A request clears means, edges and answers of classes that go whole. Raises UsageError
  for inputs that are no square pictures and for a model without features. Spec B23; Malepathirana et al., 2023.
  """
  own, of_task = coded_network(model, spec, neighbours), jnp.asarray(spec.classes_of_task)

  def taught(params, model_state):
    return Teacher(tree.copy(params), tree.copy(model_state.network))

  def features(teacher, x, task, key):
    network = teacher.params["network"]
    told = {"task": model.task_for(jnp.tile(task, TURNS)), "mask": None}
    out, _ = model.apply(network, teacher.model_state, turned(x, task)[0], train=False, key=key, **told)
    return out.features.reshape(out.features.shape[0], -1).astype(jnp.float32)

  def init(key, learner):
    del key
    shape = learner.params["vectors"].shape
    zeros = lambda *s: jnp.zeros(s, jnp.float32)
    return Kept(taught(learner.params, learner.model_state), zeros(*shape), zeros(shape[0]))

  def with_means(learner, task):
    """The means of the turned classes of a task, by the network of now."""
    state, statistics = learner.method_state, class_moments("none")
    now = Teacher(learner.params, learner.model_state.network)

    def add(found, b):
      f, y = features(now, b.x, b.task, learner.key), turned(b.x, b.y)[1]
      return statistics.add(found, f, y, jnp.tile(b.weight, TURNS))

    found = over(task.rows, add, statistics.start(*state.means.shape, state.means.dtype))
    here = found.counts > 0
    means = jnp.where(here[:, None], found.means, state.means)
    return state._replace(means=means, counts=jnp.where(here, found.counts, state.counts))

  def start_task(key, learner, task):
    del key
    begun = learner.model_state.begun | of_task[task.id]
    learner = learner._replace(model_state=learner.model_state._replace(begun=begun))
    return learner._replace(method_state=with_means(learner, task))

  def prepare(key, learner, batch):
    del key
    group = jnp.zeros(batch.weight.shape, jnp.int32)
    return learner, batch._replace(group=group, scale=jnp.zeros(1, jnp.float32))  # the term is the whole loss

  def term(key, params, learner, batch, outputs):
    state, graph, visit = learner.method_state, learner.model_state, batch.visit
    f = jnp.moveaxis(outputs.hidden[0], 1, 0).reshape(-1, state.means.shape[1])
    y, weight = turned(batch.x, batch.y)[1], jnp.tile(batch.weight, TURNS)
    vectors, known = params["vectors"].astype(jnp.float32), jnp.repeat(graph.begun, TURNS)
    squares = squared(f, vectors)
    edges = jax.lax.stop_gradient(connected(graph.edges, squares, weight, known, neighbours))
    near = neighbour_loss(squares, y, edges)
    loss = crossed(-root(squares) / temperature, y, weight, known)
    loss += jnp.sum(near * weight) / jnp.maximum(weight.sum(), 1)
    kept = gap_norm(f, features(state.teacher, batch.x, batch.task, key), weight, form)
    old = (state.counts[::TURNS] > 0) & ~of_task[visit.task]
    linked = jnp.where((state.counts > 0)[None], edges, 0)
    some = old | ~old.any()
    p, label = mixed_means(
      tree.fold(key, "old"), state.means, some, linked + jnp.eye(len(known), dtype=jnp.float32), batch.y.shape[0]
    )
    shown = crossed(-root(squared(p, vectors)) / temperature, TURNS * label, batch.weight, known | ~old.any())
    more = distillation * kept + prototypes * jnp.where(old.any(), shown, 0)
    return loss + jnp.where(visit.others > 0, more, 0)

  def end_task(key, learner, task):
    del key
    state = with_means(learner, task)
    return learner._replace(method_state=state._replace(teacher=taught(learner.params, learner.model_state)))

  def steps(updates, state, params=None, *, visit, grad, **extra):
    """Of the vectors: plain descent, and none for those of classes that the current task has not."""
    del params, extra
    mine, rate = jnp.repeat(of_task[visit.task], TURNS)[:, None], vector_rate * jnp.where(visit.others > 0, LATER, 1)
    slope = grad["vectors"]
    return {**updates, "vectors": jnp.where(mine, -rate.astype(slope.dtype) * slope, 0)}, state

  def scrub(learner, request):
    state, graph = learner.method_state, learner.model_state
    gone = jnp.repeat(request.classes, TURNS)
    means, counts = jnp.where(gone[:, None], 0, state.means), jnp.where(gone, 0, state.counts)
    alone = (gone[:, None] | gone[None]) & ~jnp.eye(len(gone), dtype=bool)
    graph = graph._replace(edges=jnp.where(alone, 0, graph.edges), begun=graph.begun & ~request.classes)
    return learner._replace(method_state=state._replace(means=means, counts=counts), model_state=graph)

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.teacher.params, before, learner.params)
    return learner._replace(method_state=state._replace(teacher=state.teacher._replace(params=followed)))

  return Method(
    model=own, init=init, start_task=start_task, prepare=prepare, terms={"napa_vq": term}, end_task=end_task,
    pull=optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), steps), scrub=scrub,
    after_forget=after_forget,
  )  # fmt: skip


register(
  "napa_vq",
  Entry(
    napa_vq,
    {
      "distillation": Option(10.0, 0),
      "prototypes": Option(10.0, 0),
      "temperature": Option(0.1, 0, above=True),
      "vector_rate": Option(5.0, 0),
      "neighbours": Option(15, 1),
      "form": Option("paper", choices=FORMS),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Malepathirana et al. 2023",
  ),
)
