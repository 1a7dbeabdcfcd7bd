"""DER of Yan et al. and networks that grow, against NumPy in float64."""

from __future__ import annotations

import flax.linen as nn
import grown_by_hand as hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, forward, leaves, log_softmax

from cljax import methods, models, streams
from cljax.core import tree
from cljax.core.types import Batch, Learner, Outputs, UsageError, Visit
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.models import growing

HYPER = {"capacity": 12, "replay_batch": 12, "auxiliary": 0.6, "passes": 2, "rate": 0.05, "temperature": 3.0}


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(5, name="hidden")(x.reshape(x.shape[0], -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
    return Outputs(nn.Dense(6, name="head")(x), x)


@pytest.fixture(scope="module")
def three(make_blobs):
  """Three tasks of two classes."""
  return streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def trained(three):
  """A bench of batches as large as the memory; after two tasks; the third begun; a step on; and after it."""
  bench = Bench("der_expand", three, models.mlp((4, 4, 1), 6, hidden=(8,)), HYPER, rows=12)
  two = bench.train(2, (0, 1))
  begun = bench.boundary("start_task", two, 2)
  moved = bench.step(begun, *bench.arguments(2, 1))[0]
  return bench, two, begun, moved, bench.boundary("end_task", moved, 2)


def loss_and_slopes(params, x, y, count, new, strength=0.6):
  """Each mean: ``CE(all features) + strength CE(own features, old classes as one)``; slopes by name, of one copy."""
  f = hand.features(params, x, count)
  mine = f[:, count - 1]
  each, d = hand.slope_of_cross_entropy(hand.logits(params, f), y)
  places = np.append(np.isin(np.arange(6), new), True)
  aux, e = hand.slope_of_cross_entropy(hand.auxiliary(params, mine), np.where(np.isin(y, new), y, 6), places)
  d, e = d / len(y), strength * e / len(y)
  w, a = leaves(params["classifier"])["kernel"], leaves(params["auxiliary"])["kernel"]
  slopes = {
    "classifier/kernel": np.einsum("bsd,bc->sdc", f, d), "classifier/bias": d.sum(0),
    "auxiliary/kernel": mine.T @ e, "auxiliary/bias": e.sum(0),
    **hand.back_to_copy(params, count - 1, x, mine, d @ w[count - 1].T + e @ a.T),
  }  # fmt: skip
  return each.mean() + strength * aux.mean(), slopes


def test_der_expand_s_step_moves_the_new_extractor_and_the_classifiers(trained):
  """The union's cross-entropy and 0.6 of the auxiliary one; extractors of earlier tasks keep their bits."""
  bench, two, _, moved, _ = trained
  after, _, loss = bench.step(moved, *bench.arguments(2, 0))
  split, kept = bench.stream.dataset.train, hand.stored(two.method_state.memory)
  share = len(kept) / (len(kept) + len(bench.stream.train[2]))
  new = loss_and_slopes(moved.params, *batch_of(bench, 2, 0), 3, (4, 5))
  old = loss_and_slopes(moved.params, split.x[kept], split.y[kept], 3, (4, 5))
  np.testing.assert_allclose(float(loss), (1 - share) * new[0] + share * old[0], rtol=1e-5)
  got = {n: (leaves(after.params)[n] - leaves(moved.params)[n]) / -RATE for n in leaves(moved.params)}
  for name in new[1]:
    want = (1 - share) * new[1][name] + share * old[1][name]
    have = got[f"network/{name}"][2] if name.startswith("hidden") else got[name]
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(have, want, atol=3e-6, rtol=2e-3, err_msg=name)
  for name in ("network/hidden_0/kernel", "network/hidden_0/bias"):
    assert (got[name][:2] == 0).all()
  assert all((got[f"network/head/{n}"] == 0).all() for n in ("kernel", "bias"))  # the network's own has no part


def test_der_expand_s_classifier_is_fitted_anew_on_exemplars(trained):
  """Two passes of one batch of all twelve: SGD with momentum on CE(z / 3) from a classifier that forgot the old one."""
  bench, _, _, moved, end = trained
  split, kept = bench.stream.dataset.train, hand.stored(end.method_state.memory)
  assert np.bincount(split.y[kept]).tolist() == [2] * 6
  f, y = hand.features(moved.params, split.x[kept], 3), split.y[kept]
  ends = {}
  for other in (False, True):  # from another classifier the same: it is made anew
    start = moved
    if other:
      more = jax.tree.map(lambda a: a + 1.0, moved.params["classifier"])
      start = moved._replace(params={**moved.params, "classifier": more})
    none = bench.boundary("end_task", start, 2, rate=0.0)
    ends[other] = bench.boundary("end_task", start, 2)
    head = leaves(none.params["classifier"])
    assert (head["bias"] == 0).all()
    assert np.abs(head["kernel"]).max() <= 8**-0.5
    velocity = {n: 0.0 for n in head}
    for _ in range(2):
      d = hand.slope_of_cross_entropy((np.einsum("bsd,sdc->bc", f, head["kernel"]) + head["bias"]) / 3, y)[1]
      d = d / 3 / len(y)
      slope = {"kernel": np.einsum("bsd,bc->sdc", f, d), "bias": d.sum(0)}
      velocity = {n: 0.9 * velocity[n] + slope[n] for n in slope}
      head = {n: a - 0.05 * velocity[n] for n, a in head.items()}
    for name, value in head.items():
      np.testing.assert_allclose(leaves(ends[other].params["classifier"])[name], value, atol=2e-6)
  assert_same(ends[True].params, ends[False].params)
  rest = ("network", "auxiliary")
  assert_same(*({k: l.params[k] for k in rest} for l in (end, moved)))


def test_the_first_task_of_der_expand_is_that_of_a_plain_network(trained):
  """One extractor in use, no auxiliary loss, no fit at its end: the cross-entropy of one network and its gradient."""
  bench = trained[0]
  start = bench.boundary("start_task", bench.start(), 0)
  assert_same(start.params["network"], bench.start().params["network"])
  after, _, loss = bench.step(start, *bench.arguments(0, 0))
  x, y = batch_of(bench, 0, 0)
  plain = {"hidden_0": {}, "head": {}}
  for n, a in hand.network(start.params, 0).items():
    plain[n.split("/")[0]][n.split("/")[1]] = a
  plain["head"] = {"kernel": start.params["classifier"]["kernel"][0], "bias": start.params["classifier"]["bias"]}
  want = -log_softmax(forward(plain, x)[1])[np.arange(len(y)), y].mean()
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  slopes = loss_and_slopes(start.params, x, y, 1, (0, 1), strength=0.0)[1]
  got = leaves(after.params)["network/hidden_0/kernel"] - leaves(start.params)["network/hidden_0/kernel"]
  np.testing.assert_allclose(got[0], -RATE * slopes["hidden_0/kernel"], atol=2e-6)
  assert (got[1:] == 0).all()
  end = bench.boundary("end_task", after, 0)
  assert_same(end.params, after.params)
  assert int(end.method_state.memory.count) == 12


def test_an_extractor_begins_as_the_last_and_old_features_stand(three):
  """Also under an optimizer whose momentum and decay would move what has no gradient; a task that comes back trains
  its own extractor, and no other comes into use; logits are those of the extractors in use."""
  optimizer = recipe.make_optimizer("momentum", learning_rate=0.1, momentum=0.9, weight_decay=0.1)
  bench = Bench("der_expand", three, models.mlp((4, 4, 1), 6, hidden=(8,)), HYPER, rows=12, optimizer=optimizer)
  two, x = bench.train(3, (0, 1)), three.dataset.test.x
  of = lambda learner, s: hand.hidden(hand.network(learner.params, s), x)
  begun = bench.boundary("start_task", two, 2)
  np.testing.assert_array_equal(of(begun, 2), of(two, 1))
  assert np.abs(of(two, 2) - of(two, 1)).max() > 1e-3
  state = begun.model_state
  assert (int(state.count), int(state.current)) == (3, 2)
  moments = {n.rpartition("trace/")[2]: np.abs(np.asarray(a)).max() for n, a in tree.by_path(begun.opt_state).items()}
  assert moments["auxiliary/kernel"] == moments["auxiliary/bias"] == 0  # it begins anew
  assert moments["classifier/kernel"] > 1e-3
  moved = bench.steps(begun, 2, 2, met=(0, 1))
  for s in (0, 1):
    np.testing.assert_array_equal(of(moved, s), of(two, s))
  assert np.abs(of(moved, 2) - of(begun, 2)).max() > 1e-3
  assert (int(two.model_state.count), int(bench.start().model_state.count)) == (2, 1)
  got = bench.parts.predict(two, jnp.asarray(x), jnp.int32(0))
  np.testing.assert_allclose(got, hand.logits(two.params, hand.features(two.params, x, 2)), atol=2e-5)
  back = bench.boundary("start_task", moved, 0, (0, 1, 2))
  assert (int(back.model_state.count), int(back.model_state.current)) == (3, 0)
  assert_same(back.params["network"], moved.params["network"])
  again = bench.steps(back, 0, 1, met=(0, 1, 2))
  for s in (1, 2):
    np.testing.assert_array_equal(of(again, s), of(moved, s))
  assert np.abs(of(again, 0) - of(moved, 0)).max() > 1e-4


def test_batch_norms_of_extractors_that_stand_are_in_eval_mode(three):
  """Their statistics keep their bits and their features are those of the test, whatever the rows of the step; those of
  the new extractor move."""
  model, spec = models.from_linen(Normed(), (4, 4, 1)), spec_of(three, 8)
  network, every = growing.growing(model, spec, "x", 3), lambda name: True
  params, state = network.init(jax.random.key(0))
  x, told = jnp.asarray(three.dataset.train.x[:5]), {"key": jax.random.key(0), "mask": jnp.ones(5)}
  said = jax.jit(lambda p, s, train: network.apply(p, s, x, train=train, **told), static_argnums=2)
  one = said(params, state, True)[1]
  params, begun = growing.opened(params, one, jnp.int32(1), every, tree.paths(model.init(jax.random.key(0))[0]))
  out, moved = said(params, begun, True)
  changed = 0.0
  for a, b, c in zip(*(jax.tree.leaves(s.network) for s in (one, begun, moved)), strict=True):
    np.testing.assert_array_equal(a[0], b[1])  # the new one's begin as the last one's
    np.testing.assert_array_equal(a[0], c[0])
    np.testing.assert_array_equal(b[2], c[2])
    changed = max(changed, float(jnp.abs(b[1] - c[1]).max()))
  assert changed > 1e-4
  still = said(params, begun, False)[0].features
  np.testing.assert_allclose(out.features[:, :5], still[:, :5], atol=1e-6)
  assert jnp.abs(out.features[:, 5:10] - still[:, 5:10]).max() > 1e-3
  np.testing.assert_array_equal(out.features[:, 10:], 0)


def test_a_network_grows_by_one_extractor_a_task(three, small_model):
  """In use after t tasks: t extractors, t blocks of the classifier's rows, one bias."""
  spec = spec_of(three, 8)
  model = models.mlp((4, 4, 1), 6, hidden=(8,))
  params = growing.growing(model, spec, "x", 3, auxiliary=7).init(jax.random.key(0))[0]
  extractor = 16 * 8 + 8 + 8 * 6 + 6
  for count in (1, 2, 3):
    assert growing.parameters_in_use(params, count) == count * (extractor + 8 * 6) + 6
  only = lambda name: name.startswith("hidden")
  half = growing.growing(model, spec, "x", 3, only).init(jax.random.key(0))[0]
  assert half["network"]["head"]["kernel"].shape == (8, 6)
  assert growing.parameters_in_use(half, 2, only) == 2 * (16 * 8 + 8 + 8 * 6) + 8 * 6 + 6 + 6
  held = growing.hold_standing(only)
  ones = jax.tree.map(jnp.ones_like, half)
  for shared in (True, False):
    moved = held.update(ones, growing.Held(jnp.int32(1), jnp.bool_(shared)))[0]
    np.testing.assert_array_equal(moved["network"]["hidden_0"]["bias"][:, 0], [0, 1, 0])
    assert (moved["network"]["head"]["kernel"] == float(shared)).all()
    assert (moved["classifier"]["kernel"] == 1).all()


def test_der_expand_s_classifier_may_be_aligned_or_left(three):
  """'align': columns of new classes times the ratio of mean norms over extractors in use; 'none': nothing."""
  ends = {}
  for stage in ("align", "none"):
    hyper = {"capacity": 12, "replay_batch": 12, "stage": stage}
    bench = Bench("der_expand", three, models.mlp((4, 4, 1), 6, hidden=(8,)), hyper, rows=12)
    begun = bench.boundary("start_task", bench.train(2, (0,)), 1)
    moved = bench.steps(begun, 1, 2, met=(0,))
    ends[stage] = bench.boundary("end_task", moved, 1)
  w = leaves(moved.params["classifier"])["kernel"]
  assert_same(ends["none"].params, moved.params)
  norms = np.sqrt((w[:2] ** 2).sum((0, 1)))
  gamma = norms[:2].mean() / norms[2:4].mean()
  assert abs(gamma - 1) > 1e-3
  got = np.asarray(ends["align"].params["classifier"]["kernel"])
  np.testing.assert_allclose(got[:2], w[:2] * np.r_[1, 1, gamma, gamma, 1, 1], rtol=1e-5)
  np.testing.assert_array_equal(got[2], w[2])  # of no extractor yet
  np.testing.assert_array_equal(ends["align"].params["classifier"]["bias"], moved.params["classifier"]["bias"])


def test_der_expand_is_not_der_and_needs_features(class_stream, small_model):
  """Dark experience replay keeps its name; a stage's options are refused with another; every option of a model."""
  spec = spec_of(class_stream, 8)
  assert "der" not in methods.METHODS or methods.METHODS["der"].reference != "Yan et al. 2021"
  assert methods.METHODS["derpp"].reference == "Buzzega et al. 2020"
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'der_expand' needs a model that returns features"):
    methods.make("der_expand", bare, spec)
  with pytest.raises(UsageError, match=r"method\.passes: got 3, which 'der_expand' does not read with stage='align'"):
    methods.make("der_expand", small_model, spec, stage="align", passes=3)
  with pytest.raises(UsageError, match="capacity: got 3, below the 4 classes"):
    methods.make("der_expand", small_model, spec, capacity=3)


@pytest.mark.parametrize("name", ["der_expand", "foster", "hfc", "memo"])
def test_growing_methods_draw_as_many_exemplars_as_asked(name, class_stream, small_model):
  """As many as rows where none is said, and no more than are kept."""
  spec = spec_of(class_stream, 8)
  rows = jnp.zeros(8, jnp.int32)
  batch = Batch(jnp.zeros((8, 4, 4, 1)), rows, jnp.ones(8), rows, rows, fresh=jnp.ones(8), visit=Visit.in_order(0, 2))
  for given, want in (({"capacity": 20}, 8), ({"capacity": 20, "replay_batch": 3}, 3), ({"capacity": 4}, 4)):
    made = methods.make(name, small_model, spec, **given)

    def drawn(key, made=made):
      params, state = (made.model or small_model).init(key)
      learner = Learner(jnp.int32(0), key, params, state, (), ())
      learner = learner._replace(method_state=made.init(key, learner))
      return made.prepare(key, learner, batch)[1].weight

    assert jax.eval_shape(drawn, jax.random.key(0)).shape == (8 + want,)
