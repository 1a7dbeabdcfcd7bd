"""SMILe's loss against NumPy: replay's cross-entropy, and the information of classes, and of new and base."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import batch_of, forward

HYPER = {"capacity": 20, "replay_batch": 20, "width": 5, "policy": "reservoir"}
T, STRENGTH, MUTUAL, BALANCE = 0.4, 0.8, 0.3, 0.6
FORMS = ("facility_location", "graph_cut", "log_determinant")


def projected(params, x):
  head = jax.tree.map(lambda a: np.asarray(a, np.float64), params["projection"])
  f = forward(params["network"], x)[0]
  h = np.maximum(f @ head["hidden"]["kernel"] + head["hidden"]["bias"], 0)
  return h @ head["out"]["kernel"] + head["out"]["bias"]


def information(form, z, sets, within):
  """The mean over rows, by loops."""
  z, n = z / np.linalg.norm(z, axis=1, keepdims=True), len(z)
  s = z @ z.T
  if form == "log_determinant":
    f = lambda m: np.linalg.slogdet(s[np.ix_(m, m)] + 0.5 * np.eye(len(m)))[1]
    return (sum(f(np.flatnonzero(sets == k)) for k in set(sets.tolist())) - f(np.arange(n))) / n
  each = []
  for i in range(n):
    k = np.exp(s[i] / T)
    apart = k[sets != sets[i]].sum()
    if form == "graph_cut":
      each.append(apart - within * (k[sets == sets[i]].sum() - k[i]))
    else:
      each.append(T * np.log(apart) if apart else 0.0)
  return np.mean(each)


def cross_entropy(params, x, y, classes):
  logits = forward(params["network"], x)[1]
  logits = np.where(classes, logits, -np.inf)
  top = logits.max(1, keepdims=True)
  return np.mean(np.log(np.exp(logits - top).sum(1)) + top[:, 0] - logits[np.arange(len(y)), y])


@pytest.mark.parametrize("form", FORMS)
def test_smile_s_loss_is_replay_s_and_the_information(class_stream, small_model, form):
  """On the second task, beside replayed rows of the first: new is what the step's own rows have."""
  options = {} if form == "log_determinant" else {"temperature": T}
  options |= {"balance": BALANCE} if form == "graph_cut" else {}
  hyper = {**HYPER, **options, "function": form, "strength": STRENGTH, "mutual": MUTUAL}
  bench, plain = (
    Bench("smile", class_stream, small_model, hyper),
    Bench("er", class_stream, small_model, {k: v for k, v in HYPER.items() if k != "width"}),
  )
  learner = bench.steps(bench.start(), 0, 2, met=())
  other = plain.start()._replace(params=learner.params["network"], method_state=learner.method_state)
  arguments = bench.arguments(1, 0, met=(0,))
  loss = float(bench.step(learner, *arguments)[2])
  replayed = float(plain.step(other, *arguments)[2])
  parts = [batch_of(bench, 1, 0), *(batch_of(bench, 0, k) for k in (0, 1))]
  x, y = (np.concatenate(a) for a in zip(*parts, strict=True))
  new = np.isin(y, parts[0][1]).astype(int)
  assert 0 < new.mean() < 1
  z = projected(learner.params, x)
  total, between = information(form, z, y, BALANCE), information(form, z, new, 0.0)
  np.testing.assert_allclose(loss - replayed, STRENGTH * ((1 - MUTUAL) * total + MUTUAL * between), rtol=2e-4)
  assert abs(total - between) > 1e-3


def test_without_strength_smile_is_er(class_stream, small_model):
  """Its network trains as er's; the projection stands still."""
  one = Bench("smile", class_stream, small_model, {**HYPER, "strength": 0.0})
  two = Bench("er", class_stream, small_model, {k: v for k, v in HYPER.items() if k != "width"})
  start = one.start()
  ours, theirs = one.steps(start, 0, 2), two.steps(two.start()._replace(params=start.params["network"]), 0, 2)
  for a, b in zip(jax.tree.leaves(ours.params["network"]), jax.tree.leaves(theirs.params), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
  assert_same(ours.params["projection"], start.params["projection"])


def test_of_the_first_rows_nothing_is_new_beside_anything(class_stream, small_model):
  """While nothing of another class is stored, the mutual term is 0: any share of it alone leaves er's step."""
  hyper = {**HYPER, "mutual": 1.0, "strength": 3.0}
  bench = Bench("smile", class_stream, small_model, hyper)
  start = bench.start()
  after = bench.step(start, *bench.arguments(0, 0))[0]
  assert_same(after.params["projection"], start.params["projection"])
