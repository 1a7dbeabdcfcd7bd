"""A file of named tokens of uneven length through a stream, a transformer, er's memory and exact retraining."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import cljax
from cljax import data, methods, models, streams
from cljax.cli import _build, _config

TOKENS = 9


def test_tokens_of_a_file_are_learned_replayed_and_forgotten(tmp_path):
  """Perplexity is NumPy's over what has weight; the memory holds whole numbers, and none of a deleted row."""
  rng = np.random.default_rng(0)
  rows = [rng.integers(0, TOKENS, size=rng.integers(4, 9)) for _ in range(48)]
  group, test = np.repeat([0, 1], 24), np.arange(48) % 4 == 0
  arrays = {}
  for split, mask in (("train", ~test), ("test", test)):
    mine = [r for r, there in zip(rows, mask, strict=True) if there]
    for side, cut in (("x", slice(0, -1)), ("y", slice(1, None))):
      arrays[f"{side}_{split}/token"] = np.concatenate([r[cut] for r in mine])
      arrays[f"{side}_{split}/token.lengths"] = np.array([len(r) - 1 for r in mine])
    arrays[f"group_{split}"] = group[mask]
  np.savez(tmp_path / "a.npz", **arrays)
  found = data.load(f"npz:{tmp_path / 'a.npz'}")
  gone = np.arange(3)
  stream = streams.build(found, "group", tasks=2, validation=0.0)
  asked = cljax.Forget(ids=tuple(gone.tolist()))
  stream = stream._replace(events=(cljax.Learn(0), asked, cljax.Learn(1)))
  shapes = jax.tree.map(lambda a: a.shape[1:], found.train.x)
  assert stream.num_classes == TOKENS
  model = models.build("transformer", shapes, stream.num_classes, width=8, depth=1, heads=2, rows=(found.train.x,))

  def both(model, spec):
    return cljax.compose(er=methods.make("er", model, spec, capacity=40), retrain=methods.make("retrain", model, spec))

  result = cljax.run(
    stream, model, both, objective="sequence", training=cljax.Recipe(batch_size=8, epochs=6), optimizer="adam",
    optimizer_options={"learning_rate": 0.01}, options=cljax.Options(chunk_steps=4, eval_block=8),
  )  # fmt: skip
  assert result.forgotten[0]["rows"] == 3
  z = np.asarray(result.predict(found.test.x), np.float64)
  log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
  left = [r for r, there in zip(rows, test, strict=True) if there]
  for t in range(2):
    mine = [i for i in range(12) if group[test][i] == t]
    picked = np.concatenate([log_p[i, np.arange(len(left[i]) - 1), left[i][1:]] for i in mine])
    np.testing.assert_allclose(result.scores["perplexity"][0, -1, t], np.exp(-picked.mean()), rtol=1e-4)

  held = [np.asarray(a)[0] for a in jax.tree.leaves(result.learner.method_state)]
  tokens = [a for a in held if a.shape[-1:] == found.train.x["token"].shape[1:] and a.dtype == np.int32]
  assert len(tokens) >= 2, "inputs and targets, as whole numbers"
  kept = {tuple(r) for a in tokens for r in a.reshape(-1, a.shape[-1])}
  padded = found.train.x["token"]
  assert {tuple(padded[i]) for i in range(3, 18)} <= kept
  unique = [i for i in gone if (padded == padded[i]).all(1).sum() == 1]
  assert unique
  assert not {tuple(padded[i]) for i in unique} & kept


UNFIT = [
  ("vae", "classification", "model: gives a dict, no logits; the stream has 10 classes"),
  ("vae", "regression", "objective.loss: does not fit this model and these data: 'dict' object has no"),
  ("mlp", "denoising", "model: does not take inputs of shape (8, 8, 1): 'dict' object has no attribute 'reshape'"),
  ("denoiser", "reconstruction", "model: does not take inputs of shape (8, 8, 1): "),
  (
    "transformer",
    "sequence",
    "model: transformer takes tokens [L], or a dict with 'token'; these are of shape (8, 8, 1)",
  ),
]


@pytest.mark.parametrize(("model", "objective", "said"), UNFIT)
def test_a_model_that_does_not_fit_is_one_line(model, objective, said):
  config = _config.File({}, {}, None)
  given = [_config.Override("model.name", model, True), _config.Override("objective.name", objective, True)]
  with pytest.raises(cljax.UsageError) as error:
    _build.prepare(_build.build(_config.resolve(config, given)), [cljax.Member(0)])
  assert str(error.value).startswith(said)
  assert "\n" not in str(error.value)
