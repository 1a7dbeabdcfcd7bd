"""The ideal learner of matrix factorisation and rehearsal as its relaxation, against NumPy's own decompositions."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from cljax import UsageError, theory
from experiments import _theory_ideal

D, SIZE = 9, 5


def tasks(seed=0, ranks=(2, 1, 3), rows=6, shared=None):
  """Rows of each task, of the given rank; inside ``shared`` dimensions where given."""
  rng = np.random.default_rng(seed)
  span = np.eye(D) if shared is None else np.linalg.qr(rng.normal(size=(D, shared)))[0].T
  return [rng.normal(size=(rows, k)) @ rng.normal(size=(k, len(span))) @ span for k in ranks]


def left(directions, x) -> float:
  """``min_C |x - C U^T|^2`` of the columns of U, by least squares for the coefficients."""
  U = np.asarray(directions, np.float64)
  return float(np.sum((x.T - U @ np.linalg.lstsq(U, x.T, rcond=None)[0]) ** 2))


def learned(each, size=SIZE):
  with jax.enable_x64():
    state, states = theory.factor_init(D, size, np.float64), []
    for x in each:
      state = theory.factor_learn(state, x)
      states.append(jax.tree.map(np.asarray, state))
  return states


def test_a_factor_keeps_the_span_of_all_rows_while_it_has_columns():
  each = tasks(ranks=(2, 1, 2))
  for t, state in enumerate(learned(each)):
    rows = np.concatenate(each[: t + 1])
    _, sigma, vt = np.linalg.svd(rows)
    rank = int((sigma > 1e-9).sum())
    assert state.rank == rank == (2, 3, 5)[t]
    S = state.basis[:, :rank]
    np.testing.assert_allclose(S @ S.T, vt[:rank].T @ vt[:rank], atol=1e-9)
    assert not state.basis[:, rank:].any()


def test_with_no_column_left_earlier_tasks_win():
  """The third task gets the best two of its directions beside those that are taken, as a search over all shows."""
  each = tasks(ranks=(2, 1, 4))
  *_, before, state = learned(each)
  assert state.rank == SIZE
  taken = before.basis[:, :3]
  residual = each[2] @ (np.eye(D) - taken @ taken.T)
  sigma = np.linalg.svd(residual, compute_uv=False)
  with jax.enable_x64():
    losses = [float(theory.factor_loss(state, x)) for x in each]
  assert losses[2] == pytest.approx(np.sum(sigma[2:] ** 2))
  assert losses[2] == pytest.approx(left(state.basis, each[2]))
  assert max(losses[:2]) < 1e-18, "nothing that was learned is lost"
  rng = np.random.default_rng(1)
  others = [left(np.concatenate([taken, rng.normal(size=(D, 2))], 1), each[2]) for _ in range(200)]
  assert min(others) > losses[2]


def test_tasks_with_a_shared_minimiser_end_alike_in_any_order():
  each = tasks(ranks=(2, 2, 2), shared=SIZE)
  spans = [s.basis @ s.basis.T for s in (learned(o)[-1] for o in (each, each[::-1], [each[1], each[2], each[0]]))]
  assert learned(each)[-1].rank == SIZE
  for other in spans[1:]:
    np.testing.assert_allclose(other, spans[0], atol=1e-9)
  assert max(left(learned(each)[-1].basis, x) for x in each) < 1e-18


def test_every_member_of_the_set_has_the_loss():
  each = tasks(ranks=(2, 1))
  state = learned(each)[-1]
  with jax.enable_x64():
    U = np.asarray(theory.factor_member(state, np.random.default_rng(2).normal(size=(D, SIZE))))
  assert U.shape == (D, SIZE)
  assert np.linalg.matrix_rank(U) == SIZE
  assert max(left(U, x) for x in each) < 1e-18
  np.testing.assert_allclose(U[:, :3], state.basis[:, :3])


@pytest.mark.parametrize(("taken", "shared"), [(0, 4), (3, 8), (4, 4)])
def test_what_random_directions_leave_over(taken, shared):
  rng = np.random.default_rng(0)
  shares = []
  for _ in range(3000):
    q = np.linalg.qr(rng.normal(size=(shared, taken)))[0] if taken else np.zeros((shared, 1))
    x = rng.normal(size=shared)
    shares.append(1 - np.sum((q.T @ x) ** 2) / np.sum(x**2))
  error = np.std(shares) / np.sqrt(len(shares))
  assert abs(np.mean(shares) - theory.factor_forgetting(taken, shared)) < 4 * error + 1e-12


def linear_tasks(seed=0, count=4, rows=4, p=14):
  rng = np.random.default_rng(seed)
  teacher = rng.normal(size=(p, 2))
  x = rng.normal(size=(count, rows, p))
  return x, x @ teacher


@pytest.mark.parametrize("stored", [0, 2, 4])
def test_a_step_is_the_least_that_fits_the_task_and_what_is_stored(stored):
  """By one pseudo-inverse over the rows of the task and all stored ones."""
  x, y = linear_tasks()
  w, held = np.zeros((14, 2)), np.zeros((0, 14))
  with jax.enable_x64():
    state = theory.ideal_init(np.zeros((14, 2)))
    for t in range(3):
      state = theory.rehearse(state, x[t], y[t], stored)
      both = np.concatenate([x[t], held])
      w = w + np.linalg.pinv(both) @ np.concatenate([y[t] - x[t] @ w, np.zeros((len(held), 2))])
      held = np.concatenate([held, x[t][:stored]])
      np.testing.assert_allclose(state.weights, w, atol=1e-9)
      assert int(state.rank) == len(held)
      for s in range(t + 1):
        np.testing.assert_allclose(x[s][:stored] @ np.asarray(state.weights), y[s][:stored], atol=1e-9)


def test_the_ends_are_learning_in_turn_and_the_ideal_learner():
  x, y = linear_tasks()
  with jax.enable_x64():
    none, all_ = (theory.ideal_init(np.zeros((14, 2))) for _ in range(2))
    plain, ideal = np.zeros((14, 2)), theory.ideal_init(np.zeros((14, 2)))
    for t in range(3):
      none, all_ = theory.rehearse(none, x[t], y[t], 0), theory.rehearse(all_, x[t], y[t], 4)
      plain, ideal = theory.learn(plain, x[t], y[t]), theory.ideal_learn(ideal, x[t], y[t])
    np.testing.assert_allclose(none.weights, plain, atol=1e-8)
    for a, b in zip(all_, ideal, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize(("p", "n", "m", "T"), [(16, 3, 1, 5), (20, 4, 2, 5), (18, 4, 0, 4), (24, 5, 5, 4)])
def test_expected_errors_agree_with_draws(p, n, m, T):
  rng = np.random.default_rng(p)
  draws, teacher = 1500, np.eye(p)[0]
  found = np.zeros((draws, 2, T))
  for d in range(draws):
    w, held = np.zeros(p), np.zeros((0, p))
    x = rng.normal(size=(T, n, p))
    for t in range(T):
      both = np.concatenate([x[t], held])
      w = w + np.linalg.pinv(both) @ np.concatenate([x[t] @ (teacher - w), np.zeros(len(held))])
      held = np.concatenate([held, x[t][:m]])
      found[d, :, t] = np.sum((w - teacher) ** 2), np.mean((x[0] @ (w - teacher)) ** 2)
  mean, error = found.mean(0), found.std(0) / np.sqrt(draws)
  want = theory.rehearsal_errors(p, n, m, T)
  assert (np.abs(mean - np.stack(want)) < 4 * error + 1e-9).all()
  if m == 0:
    np.testing.assert_allclose(want.distance, (1 - n / p) ** np.arange(1, T + 1))
  if m == n:
    np.testing.assert_allclose(want.distance, 1 - np.arange(1, T + 1) * n / p)
    np.testing.assert_allclose(want.first_loss, 0, atol=1e-12)


def test_the_parts_of_the_command_agree_with_the_closed_forms():
  got = _theory_ideal.factorisation(features=20, shared=10, each=2, size=6, rows=5, tasks=5, draws=120)
  assert got["rank"].tolist() == [2, 4, 6, 6, 6]
  np.testing.assert_allclose(got["theory"]["ahead"]["ideal"], [0.8, 0.6, 0.4, 0.4, 0.4])
  np.testing.assert_allclose(got["theory"]["first"]["plain"], [0, 0.8, 0.8, 0.8, 0.8])
  for what in ("first", "ahead"):
    for name, wanted in got["theory"][what].items():
      m = got["measured"][what][name]
      assert (np.abs(m["mean"] - wanted) < 4 * m["error"] + 1e-6).all(), (what, name)
  got = _theory_ideal.rehearsal(features=24, rows=4, tasks=4, stored=(0, 2, 4), draws=200)
  for name, wanted in got["theory"].items():
    m = got["measured"][name]
    assert (np.abs(m["mean"] - wanted) < 4 * m["error"] + 1e-6).all(), name
  assert (np.diff(got["theory"]["first_loss"][:, -1]) < 0).all(), "the more is held, the less is forgotten"


def test_the_command_prints_and_draws_them(tmp_path):
  from experiments import _theory_figures

  got = _theory_ideal.factorisation(features=12, shared=6, each=2, size=4, rows=3, tasks=3, draws=4)
  line = _theory_figures.draw("factorisation", got, str(tmp_path / "a.png"))
  assert line.startswith("factorisation: 2 directions a task of 6 shared, factor of 4 columns")
  got = _theory_ideal.rehearsal(features=12, rows=2, tasks=3, stored=(0, 2), draws=4)
  assert "0 held" in _theory_figures.draw("rehearsal", got, str(tmp_path / "b.png"))
  assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
  ("call", "said"),
  [
    (lambda: theory.factor_init(3, 4), "size: got 4; expected 1 to 3"),
    (lambda: theory.factor_forgetting(3, 2), "taken: got 3 of 2"),
    (
      lambda: theory.rehearse(theory.ideal_init(np.zeros((3, 1))), np.ones((2, 3)), np.ones((2, 1)), 3),
      "stored: got 3",
    ),
    (lambda: theory.rehearsal_errors(10, 3, 3, 4), "stored, tasks: got 3 of 3 rows and 4 tasks in 10 features"),
    (lambda: theory.rehearsal_errors(10, 3, 4, 1), "stored, tasks: got 4 of 3 rows"),
  ],
)
def test_what_is_refused(call, said):
  with pytest.raises(UsageError, match=said):
    call()
