"""States of regularizers in NumPy float64: what edits, exports and boundaries change, and what is left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pulls_by_hand import AWAY, END, F1, F2, GRADIENT, START, ZERO, jnp_tree, near, tmap

from cljax import UsageError
from cljax import regularizers as R
from cljax.core import tree

EVERY = lambda: optax.chain(R.ewc(1.0), R.si(1.0), R.l2_previous(1.0), R.l2_init(1.0), optax.trace(0.9))


def test_follow_edit_moves_the_anchors_at_past_parameters_alone():
  """To the bit ``after`` where the anchor was ``before``; else by the difference."""
  tx = EVERY()
  state = tx.init(jnp_tree(START))
  _, state = tx.update(jnp_tree(GRADIENT), state, jnp_tree(AWAY))  # SI's last parameters
  state = R.consolidate(state, END, importance={"ewc": F1})
  state = R.consolidate(state, START, importance={"ewc": F2})
  after = jax.tree.map(lambda x: x + np.float32(0.1) * np.abs(x), START)
  ewc, si, previous, init, trace = R.follow_edit(state, START, after)
  moved = lambda x: tmap(lambda x, a, b: x + b - a, x, START, after)
  mean = tmap(lambda a, f, b, g: (f * a + g * b) / (f + g), END, F1, START, F2)
  near(ewc.anchor, moved(mean))
  near(si.anchor, after, 0, 0)
  near(previous.anchor, after, 0, 0)
  near(si.last_params, moved(AWAY))
  near(init.anchor, START, 0, 0)
  for old, new, keep in (
    (state[0], ewc, ("importance", "constant")),
    (state[1], si, ("importance", "path", "last_gradient", "damping")),
    (state[2], previous, ("active",)),
  ):
    for field in keep:
      assert tree.digest(getattr(old, field)) == tree.digest(getattr(new, field))
  assert tree.digest(trace) == tree.digest(state[4])
  plain = {"a": np.ones(3)}
  assert R.follow_edit(plain, START, after) == plain


def test_exported_states_are_plain_copies_that_fill_another():
  tx = EVERY()
  state = R.consolidate(tx.init(jnp_tree(START)), END, importance={"ewc": F1})
  out = R.export_state(state)
  assert {n: set(fields) for n, fields in out.items()} == {
    "ewc": {"anchor", "importance", "constant"},
    "si": {"anchor", "importance", "path", "last_params", "last_gradient", "damping"},
    "l2_previous": {"anchor", "active"},
    "l2_init": {"anchor"},
  }
  near(out["ewc"]["anchor"], END, 0, 0)
  near(out["ewc"]["importance"], F1, 0, 0)
  near(out["l2_init"]["anchor"], START, 0, 0)
  assert float(out["l2_previous"]["active"]) == 1
  assert out["ewc"]["anchor"]["scale"] is not state[0].anchor["scale"]
  assert set(R.export_state(state, "ewc")) == {"ewc"}
  blank = tx.init(jnp_tree(AWAY))
  back = R.import_state(blank, {"ewc": out["ewc"]})
  near(back[0].anchor, END, 0, 0)
  near(back[0].importance, F1, 0, 0)
  assert tree.digest(back[1:]) == tree.digest(blank[1:])
  narrow = R.import_state(R.ewc(1.0, state_dtype="bfloat16").init(jnp_tree(AWAY)), {"ewc": out["ewc"]})
  assert narrow.anchor["scale"].dtype == jnp.bfloat16
  with pytest.raises(UsageError, match="ewc: anchor: leaf 'scale' is missing"):
    R.import_state(blank, {"ewc": out["ewc"] | {"anchor": {"head": out["ewc"]["anchor"]["head"]}}})


def test_state_bytes_are_those_of_the_leaves():
  """12 parameters of 4 bytes: EWC keeps two trees and a scalar, SI five and one, L2-init one."""
  state = EVERY().init(jnp_tree(START))
  want = {"ewc": 2 * 48 + 4, "si": 5 * 48 + 4, "l2_previous": 48 + 4, "l2_init": 48}
  assert {n: R.state_bytes(state, n) for n in want} == want
  assert R.state_bytes(state) == sum(want.values())
  with pytest.raises(UsageError, match="name: no regularizer state is called 'mas'"):
    R.state_bytes(state, "mas")


def test_attach_leaves_the_old_values_and_starts_the_new_at_the_parameters():
  old = optax.adam(0.1).init(jnp_tree(START))
  _, old = optax.adam(0.1).update(jnp_tree(GRADIENT), old, jnp_tree(START))
  state = R.attach(optax.chain(R.ewc(1.0), optax.adam(0.1)), old, jnp_tree(END))
  near(state[0].anchor, END, 0, 0)
  near(state[0].importance, ZERO, 0, 0)
  near(state[1][0].mu, tmap(lambda g: 0.1 * g, GRADIENT))
  near(state[1][0].nu, tmap(lambda g: 0.001 * g**2, GRADIENT))
  assert int(state[1][0].count) == 1


def test_consolidate_anchors_what_it_names():
  tx = optax.chain(R.ewc(1.0), R.ewc(1.0, name="other"), optax.masked(R.mas(1.0), {"head": False, "scale": True}))
  start = tx.init(jnp_tree(START))
  state = R.consolidate(start, END, importance={"ewc": F1, "other": F2, "mas": F1})
  near(state[0].importance, F1, 0, 0)
  near(state[1].importance, F2, 0, 0)
  np.testing.assert_array_equal(state[2].inner_state.importance["scale"], F1["scale"])
  np.testing.assert_array_equal(state[2].inner_state.anchor["scale"], END["scale"])
  for s in state[:2]:
    near(s.anchor, END, 0, 0)
    assert s.anchor["scale"] is not END["scale"]
  state = R.consolidate(start, END, importance=F2, name="other")
  assert tree.digest((state[0], state[2])) == tree.digest((start[0], start[2]))
  near(state[1].importance, F2, 0, 0)
