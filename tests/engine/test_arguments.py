"""What ``cljax.run`` is given from Python, wrong: one line that names the argument; and numbers in all their forms."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import Member, Options, Recipe, UsageError
from cljax.engine.arguments import members_of, seeds_of

WRONG = [
  ({"stream": None}, "stream: got NoneType None; expected cljax.Stream"),
  ({"model": "mlp"}, "model: got str 'mlp'; expected cljax.Model; cljax.models.from_linen, from_nnx or from_apply"),
  ({"training": None}, "training: got NoneType None; expected cljax.Recipe"),
  ({"training": {"epochs": 1}}, "training: got dict {'epochs': 1}; expected cljax.Recipe"),
  ({"options": None}, "options: got NoneType None; expected cljax.Options"),
  ({"hyper": 3}, "hyper: got int 3; expected a mapping"),
  ({"forget_hyper": [1]}, "forget_hyper: got list [1]; expected a mapping"),
  ({"optimizer_options": 0.1}, "optimizer_options: got float 0.1; expected a mapping"),
  ({"objective_options": 3}, "objective_options: got int 3; expected a mapping"),
  ({"mesh": 2}, "mesh: got int 2; expected a mapping"),
  ({"config": 2}, "config: got int 2; expected a mapping"),
  ({"devices": 2}, "devices: got int 2; expected a list"),
  ({"workdir": 3}, "workdir: got int 3; expected a path"),
  ({"report": 3}, "report: got int 3; expected a function"),
  ({"stop": 3}, "stop: got int 3; expected a function"),
  ({"optimizer": None}, "optimizer: got NoneType; expected one of sgd,"),
  ({"seeds": 10**12}, "seeds: got 1000000000000; expected at least 1 and at most 1000000"),
  ({"seeds": [2**32]}, "seeds: got list [4294967296]; expected a number of seeds, or distinct seeds from 0"),
  ({"population": 5}, "population: got int 5; expected a list of cljax.Member"),
  ({"population": Member(0)}, "population: got Member Member(seed=0, hyper={}); expected a list"),
  ({"population": []}, "seeds: got none"),
  ({"population": [3]}, "population[0]: got int 3; expected cljax.Member"),
  ({"population": [Member(0), Member("a")]}, "population[1].seed: got str 'a'; expected an integer from 0"),
  ({"population": [Member(-1)]}, "population[0].seed: got int -1"),
  ({"population": [Member(True)]}, "population[0].seed: got bool True"),
  ({"population": [Member(0, 3)]}, "population[0].hyper: got int 3; expected a mapping"),
  ({"population": [Member(0, {"optimizer.learning_rate": "x"})]}, "learning_rate is str 'x'; expected"),
  ({"population": [Member(0, {"optimizer.learning_rate": float("nan")})]}, "learning_rate is float nan; expected"),
  ({"options": Options(checkpoint_purge_before_deletion="x")}, "checkpoint.purge_before_deletion: got 'x'"),
  ({"options": Options(checkpoint_keep_ids=0)}, "checkpoint.keep_ids: got 0; expected True or False"),
  ({"training": Recipe(batch_size=10**9)}, "train.batch_size: a batch of 1,000,000,000 rows needs about"),
  ({"training": Recipe(reset_per_task="x"), "optimizer": "adam"}, "optimizer.reset_per_task: got 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[f"{next(iter(c))}{i}" for i, (c, _) in enumerate(WRONG)])
def test_wrong_arguments_are_one_line(class_stream, small_model, change, said):
  with pytest.raises(UsageError) as error:
    cljax.run(**{"stream": class_stream, "model": small_model, **change})
  assert said in str(error.value)
  assert "\n" not in str(error.value)


def test_numbers_in_all_their_forms():
  assert seeds_of(np.int64(3)) == seeds_of([0, np.uint32(1), 2]) == seeds_of(jnp.arange(3)) == [0, 1, 2]
  values = (1, 0.5, np.float32(2), np.asarray(3.0), jnp.float32(4))
  members = [Member(s, {"method.strength": v}) for s, v in enumerate(values)]
  assert members_of(tuple(members)) == members


def test_a_block_of_evaluation_is_no_larger_than_the_rows(class_stream, small_model):
  run = lambda block: cljax.run(class_stream, small_model, options=Options(eval_block=block)).accuracy
  np.testing.assert_array_equal(run(2**31 - 1), run(256))
