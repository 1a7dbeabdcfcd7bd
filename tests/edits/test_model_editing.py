"""Edits of facts against NumPy in float64: keys, the search of values, whole edits, and what stays as it was."""

from __future__ import annotations

import functools
import math

import decoders_by_hand as hand
import jax
import numpy as np
import pytest

from cljax import UsageError, data, edits, models
from cljax.core import tree

# Whole edits, of decoders of random weights from folders: all of it again in NumPy, gradients by differences.

LENGTH, CONTEXTS = 7, 2
# Three blocks: what is added behind the last at the subject moves no later token.
CONFIGS = {"llama": {**hand.LLAMA, "num_hidden_layers": 3}, "gpt2": {**hand.GPT2, "n_layer": 3}}
LAYERS = {"llama": "layers_{}/mlp/down_proj", "gpt2": "h_{}/mlp/c_proj"}
FILES = {"llama": "model.layers.{}.mlp.down_proj.weight", "gpt2": "h.{}.mlp.c_proj.weight"}
SEARCH = edits.ValueSearch(steps=4, learning_rate=0.1, divergence=0.3, decay=0.2, radius=4.0, enough=0.0)
TEXTS = np.random.default_rng(2).integers(0, 17, (6, 12))


def as_fact(seed, contexts=CONTEXTS):
  """Rows of different lengths: subject of two tokens, a relation of one, an answer of two."""
  rng = np.random.default_rng(seed)
  subject, relation, answer = rng.integers(0, 17, 2), rng.integers(0, 17, 1), rng.integers(0, 17, 2)
  fronts = [rng.integers(0, 17, n) for n in (0, *range(2, 2 + contexts))]
  shape = (len(fronts) + 1, LENGTH + contexts)
  token, mask, target = (np.zeros(shape, np.int32) for _ in range(3))
  weight, place = np.zeros(shape, np.float32), np.zeros(len(token), np.int32)
  for i, front in enumerate([*fronts, []]):
    ids = np.concatenate([front, subject, relation, answer if i < len(fronts) else rng.integers(0, 17, 1)]).astype(int)
    n = len(ids) - 1
    token[i, :n], target[i, :n], mask[i, :n], place[i] = ids[:-1], ids[1:], 1, len(front) + 1
    if i < len(fronts):
      weight[i, n - 2 : n] = 0.5
  return edits.Fact(token, mask, place, target, weight)


@functools.cache
def made(kind, folder):
  weights = hand.write(folder, CONFIGS[kind])
  model = models.pretrained_decoder(folder)
  return model, model.init(None)[0], weights


@pytest.fixture(params=["llama", "gpt2"])
def network(request, tmp_path_factory):
  folder = tmp_path_factory.getbasetemp() / f"decoder-{request.param}"
  return request.param, *made(request.param, folder)


def rows_of(fact):
  return [np.asarray(t)[np.asarray(m) > 0] for t, m in zip(fact.token, fact.mask, strict=True)]


def by_hand(kind, weights, fact, block):
  """``(keys [R, m], outputs [R, d], streams [R, d], log p behind the subject)``."""
  found, config = [], CONFIGS[kind]
  for ids, at in zip(rows_of(fact), fact.place, strict=True):
    read = {}
    z = hand.logits(config, weights, ids, read=read)
    found.append([a[at] for a in read[block]] + [np.log(hand.softmax(z[at]))])
  return (*(np.stack([f[i] for f in found]) for i in range(3)), found[-1][3])


def loss_by_hand(kind, weights, fact, block, base, log_p, search, delta):
  config, total, rows = CONFIGS[kind], [], rows_of(fact)
  for i, (ids, at) in enumerate(zip(rows, fact.place, strict=True)):
    more = np.zeros((len(ids), len(delta)))
    more[at] = delta
    z = hand.logits(config, weights, ids, added={block: more})
    if i < len(rows) - 1:
      asked = np.flatnonzero(fact.weight[i])
      total.append(-np.mean([np.log(hand.softmax(z[j])[fact.target[i, j]]) for j in asked]))
    else:
      after = np.log(hand.softmax(z[at]))
  drift = np.sum(np.exp(after) * (after - log_p))
  size = np.linalg.norm(delta) ** search.power / np.sum(base**2)
  return np.mean(total) + search.divergence * drift + search.decay * size


def searched_by_hand(kind, weights, fact, block, base, log_p, search):
  """Adam as Kingma and Ba write it, gradients by central differences; that of the length at 0 is 0."""
  loss = lambda d, s=search: loss_by_hand(kind, weights, fact, block, base, log_p, s, d)
  d = len(base)
  delta, first, second = np.zeros(d), np.zeros(d), np.zeros(d)
  for i in range(search.steps - 1):
    if loss(delta) < search.enough:
      break
    here = search if i else search._replace(decay=0.0)
    gradient = np.array([(loss(delta + e, here) - loss(delta - e, here)) / 2e-5 for e in 1e-5 * np.eye(d)])
    first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
    ahead, spread = first / (1 - 0.9 ** (i + 1)), second / (1 - 0.999 ** (i + 1))
    delta = delta - search.learning_rate * ahead / (np.sqrt(spread) + 1e-8)
    most, length = search.radius * np.linalg.norm(base), np.linalg.norm(delta)
    delta = delta * min(1.0, most / length)
  return delta


def moments_by_hand(kind, weights, ridge=1e-4):
  """By block, from TEXTS whose rows are i + 3 tokens long."""
  found = {}
  for i, row in enumerate(TEXTS):
    read = {}
    hand.logits(CONFIGS[kind], weights, row[: i + 3], read=read)
    for block, (keys, *_) in read.items():
      found.setdefault(block, []).append(keys)
  whole = {b: np.concatenate(k) for b, k in found.items()}
  moments = {b: k.T @ k / len(k) for b, k in whole.items()}
  return {b: c + ridge * np.trace(c) / len(c) * np.eye(len(c)) for b, c in moments.items()}


def text_batches():
  mask = (np.arange(12) < np.arange(3, 9)[:, None]).astype(np.uint8)
  return [{"token": TEXTS[i : i + 3], "mask": mask[i : i + 3]} for i in (0, 3)]


def moments_of(kind, model, params):
  layers = [LAYERS[kind].format(b) for b in (0, 1)]
  return edits.key_moments(model, params, layers, text_batches(), ridge=0.05)


def kernel(params, kind, block):
  return np.asarray(tree.leaf(params, f"{LAYERS[kind].format(block)}/kernel"), np.float64)


def only(before, after, names):
  """That leaves of no other name changed, to the bit, and these did."""
  old, new = tree.by_path(before), tree.by_path(after)
  changed = [n for n in old if not np.array_equal(old[n], new[n])]
  assert sorted(changed) == sorted(names)
  assert all(old[n].dtype == new[n].dtype for n in old)


def with_kernel(kind, weights, block, matrix):
  """The folder's tensors with another matrix ``[m, d]`` there."""
  return {**weights, FILES[kind].format(block): matrix if kind == "gpt2" else matrix.T}


def test_moments_are_those_of_the_tokens_that_are_there(network):
  kind, model, params, weights = network
  want = moments_by_hand(kind, weights)
  layers = [LAYERS[kind].format(b) for b in (0, 1)]
  got = edits.key_moments(model, params, layers, text_batches())
  for block, layer in enumerate(layers):
    np.testing.assert_allclose(got[layer], want[block], rtol=1e-4, atol=1e-6)
    assert got[layer].dtype == np.float64
  bare = edits.key_moments(model, params, layers[:1], [TEXTS], ridge=0.0)[layers[0]]
  read = [{} for _ in TEXTS]
  for row, found in zip(TEXTS, read, strict=True):
    hand.logits(CONFIGS[kind], weights, row, read=found)
  keys = np.concatenate([found[0][0] for found in read])
  np.testing.assert_allclose(bare, keys.T @ keys / len(keys), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["rome", "r_rome"])
def test_an_edit_is_its_formula(network, name):
  """Keys, the value's search, the update: all in NumPy; one tensor changes."""
  kind, model, params, weights = network
  fact, block = as_fact(1), 0
  layer = LAYERS[kind].format(block)
  moment = moments_of(kind, model, params)[layer]
  keys, outputs, _, log_p = by_hand(kind, weights, fact, block)
  delta = searched_by_hand(kind, weights, fact, block, outputs[0], log_p, SEARCH)
  value, mean = outputs[0] + delta, keys[:-1].mean(0)
  along = np.linalg.inv(moment) @ mean
  if name == "rome":
    want = np.outer(along, value - outputs[0]) / (along @ keys[0])
  else:
    want = np.outer(along, value - outputs[:-1].mean(0)) / (along @ mean)
  after = getattr(edits, name)(model, params, fact, moment, layer, search=SEARCH)
  got = kernel(after, kind, block) - kernel(params, kind, block)
  np.testing.assert_allclose(got, want, rtol=5e-3, atol=2e-4 * np.abs(want).max() + 1e-5)
  only(params, after, [f"{layer}/kernel"])
  # It says the value where it was asked to: ROME at the prompt's key, r-ROME at the mean of the contexts.
  outputs_after = by_hand(kind, with_kernel(kind, weights, block, kernel(after, kind, block)), fact, block)[1]
  there = outputs_after[0] if name == "rome" else outputs_after[:-1].mean(0)
  np.testing.assert_allclose(there, value, atol=2e-3)
  loss = lambda d: loss_by_hand(kind, weights, fact, block, outputs[0], log_p, SEARCH, d)
  assert loss(delta) < loss(0 * delta)


def test_without_contexts_rome_is_r_rome(network):
  kind, model, params, _ = network
  layer = LAYERS[kind].format(1)
  moment = moments_of(kind, model, params)[layer]
  one, two = (
    kernel(call(model, params, as_fact(3, contexts=0), moment, layer, search=SEARCH), kind, 1)
    for call in (edits.rome, edits.r_rome)
  )
  np.testing.assert_array_equal(one, two)
  other = kernel(edits.r_rome(model, params, as_fact(3), moment, layer, search=SEARCH), kind, 1)
  bare = kernel(edits.rome(model, params, as_fact(3), moment, layer, search=SEARCH), kind, 1)
  assert np.abs(other - bare).max() > 1e-4


@pytest.mark.parametrize("power", [1, 2])
def test_a_value_stays_within_its_radius_and_ends_when_it_is_enough(network, power):
  kind, model, params, weights = network
  fact, layer = as_fact(1, contexts=0), LAYERS[kind].format(0)
  moment = moments_of(kind, model, params)[layer]
  keys, outputs, _, log_p = by_hand(kind, weights, fact, 0)

  def delta(**changed):
    after = edits.rome(model, params, fact, moment, layer, search=SEARCH._replace(power=power, **changed))
    return keys[0] @ (kernel(after, kind, 0) - kernel(params, kind, 0))

  size = np.linalg.norm(outputs[0])
  assert np.linalg.norm(delta(steps=9)) > 0.2 * size
  np.testing.assert_allclose(np.linalg.norm(delta(steps=9, radius=0.2)), 0.2 * size, rtol=1e-3)
  np.testing.assert_array_equal(delta(enough=100.0), 0)
  np.testing.assert_array_equal(delta(steps=1), 0)
  want = searched_by_hand(kind, weights, fact, 0, outputs[0], log_p, SEARCH._replace(power=power, decay=0.5 * size**2))
  got = delta(decay=0.5 * float(size) ** 2)
  np.testing.assert_allclose(got, want, rtol=5e-3, atol=2e-3)


def several_by_hand(kind, weights, facts, moments, blocks, strength):
  last = blocks[-1]
  goals = []
  for fact in facts:
    _, _, streams, log_p = by_hand(kind, weights, fact, last)
    search = SEARCH._replace(radius=0.75)
    goals.append(streams[0] + searched_by_hand(kind, weights, fact, last, streams[0], log_p, search))
  changes = {}
  for i, block in enumerate(blocks):
    keys, gaps = [], []
    for fact, goal in zip(facts, goals, strict=True):
      k = by_hand(kind, weights, fact, block)[0][:-1]
      keys.append(0.5 * k[0] + 0.5 * k[1:].mean(0))
      gaps.append((goal - by_hand(kind, weights, fact, last)[2][0]) / (len(blocks) - i))
    k, r = np.stack(keys), np.stack(gaps)
    inner = np.linalg.inv(moments[block])
    changes[block] = inner @ k.T @ np.linalg.inv(k @ inner @ k.T + strength * np.eye(len(k))) @ r
    now = weights[FILES[kind].format(block)]
    weights = with_kernel(kind, weights, block, (now if kind == "gpt2" else now.T) + changes[block])
  return changes, goals, weights


@pytest.mark.parametrize(("name", "strength"), [("memit", 2.0), ("emmet", 0.0)])
def test_an_edit_of_several_facts_over_two_layers_is_its_formula(network, name, strength):
  """What the first layer's edit did not bring, the second's does, with keys that were read anew."""
  kind, model, params, weights = network
  facts = [as_fact(1), as_fact(4)]
  layers = [LAYERS[kind].format(b) for b in (0, 1)]
  moments = moments_of(kind, model, params)
  given = dict(zip((0, 1), moments.values(), strict=True))
  want, goals, _ = several_by_hand(kind, weights, facts, given, [0, 1], strength)
  call = functools.partial(edits.memit, strength=strength) if name == "memit" else edits.emmet
  after = call(model, params, facts, moments, layers, search=SEARCH._replace(radius=0.75))
  for block in (0, 1):
    got = kernel(after, kind, block) - kernel(params, kind, block)
    np.testing.assert_allclose(got, want[block], rtol=2e-2, atol=2e-3 * np.abs(want[block]).max() + 1e-5)
  only(params, after, [f"{layer}/kernel" for layer in layers])
  if name == "emmet":  # of one layer: at the mean keys all of R is reached
    one = edits.emmet(model, params, facts, moments, layers[1:], search=SEARCH._replace(radius=0.75))
    k = np.stack([0.5 * a[0] + 0.5 * a[1:-1].mean(0) for a in (by_hand(kind, weights, f, 1)[0] for f in facts)])
    gaps = np.stack([g - by_hand(kind, weights, f, 1)[2][0] for g, f in zip(goals, facts, strict=True)])
    np.testing.assert_allclose(k @ (kernel(one, kind, 1) - kernel(params, kind, 1)), gaps, atol=5e-3)


def test_memit_of_one_fact_is_a_share_of_emmet(network):
  kind, model, params, weights = network
  layer, moments = LAYERS[kind].format(1), moments_of(kind, model, params)
  fact = as_fact(1, contexts=0)
  change = lambda after: kernel(after, kind, 1) - kernel(params, kind, 1)
  whole = change(edits.emmet(model, params, [fact], moments, [layer], search=SEARCH))
  k = by_hand(kind, weights, fact, 1)[0][0]
  kappa = k @ np.linalg.inv(moments[layer]) @ k
  for strength in (1e-6, 5.0):
    part = change(edits.memit(model, params, [fact], moments, [layer], strength=strength, search=SEARCH))
    np.testing.assert_allclose(part, whole * kappa / (strength + kappa), atol=1e-5 + 1e-4 * np.abs(whole).max())
  same = change(edits.emmet(model, params, [fact], moments, [layer], gamma=5.0, search=SEARCH))
  np.testing.assert_array_equal(same, part)


def refused(said, call):
  with pytest.raises(UsageError) as error:
    call()
  assert said in str(error.value)
  assert "\n" not in str(error.value)


def test_what_is_no_edit_is_refused(tmp_path):
  hand.write(tmp_path, hand.LLAMA)
  model = models.pretrained_decoder(tmp_path)
  params = model.init(None)[0]
  layers = [LAYERS["llama"].format(b) for b in (0, 1)]
  moments = {layer: np.eye(20) for layer in layers}
  one = as_fact(1)
  refused("layers: got 'layers_7/mlp'; allowed: layers_0/mlp/down_proj", lambda: edits.rome(
    model, params, one, np.eye(20), "layers_7/mlp"))  # fmt: skip
  refused(
    "model: shows no layers", lambda: edits.r_rome(model._replace(capture=None), params, one, np.eye(20), layers[0])
  )
  refused("moment: has shape (3, 3); keys of 20", lambda: edits.rome(model, params, one, np.eye(3), layers[0]))
  refused("facts: got 0 facts and 1 layers", lambda: edits.memit(model, params, [], moments, layers[:1]))
  refused("layers: are of the blocks [1, 0]", lambda: edits.memit(model, params, [one], moments, layers[::-1]))
  refused(
    "moments: lack layers_0/mlp/down_proj; they have none", lambda: edits.memit(model, params, [one], {}, layers[:1])
  )
  refused("the 2 depend on one another", lambda: edits.emmet(model, params, [one, one], moments, layers[:1]))
  refused("batches: hold no token", lambda: edits.key_moments(model, params, layers, []))
  for changed, said in (({"steps": 0}, "steps must be at least 1"), ({"power": 3}, "power must be one of 1, 2; got 3"),
                        ({"learning_rate": 0.0}, "learning_rate must be above 0")):  # fmt: skip
    search = edits.ValueSearch(**changed)
    refused(said, lambda search=search: edits.rome(model, params, one, np.eye(20), layers[0], search=search))


def test_a_fact_of_text_has_its_places():
  words = data.tokens.byte_tokenizer()
  made = edits.fact(words, "{} was born in", "Ada", " Rome", ["So it is.", "And"], essence="{} is a", length=40)
  front = [0, len("So it is. "), len("And "), 0]
  for i, skipped in enumerate(front):
    assert made.place[i] == skipped + 2
    text = bytes(made.token[i][made.mask[i] > 0].astype(np.uint8)).decode()
    asked = np.flatnonzero(made.weight[i])
    if i < 3:
      assert text == ["", "So it is. ", "And "][i] + "Ada was born in Rom"
      assert bytes(made.target[i][asked].astype(np.uint8)).decode() == " Rome"
      np.testing.assert_allclose(made.weight[i][asked], 1 / 5)
    else:
      assert text == "Ada is "
      assert not len(asked)
    n = int(made.mask[i].sum())
    np.testing.assert_array_equal(made.token[i][1:n], made.target[i][: n - 1])
  assert made.token.shape == (4, 40)
  assert edits.fact(words, "{} was born in", "Ada", " Rome").token.shape == (2, 19)
  inside = edits.fact(words, "In {}'s town", "Ada", " x")
  assert inside.place[0] == 5
  for given, said in (
    (("born in", "Ada", " Rome"), "prompt: got 'born in'; expected text with one {}"),
    (("{} and {}", "Ada", " Rome"), "prompt: got '{} and {}'; expected text with one {}"),
    (("{} was", " ", " Rome"), "subject is ' ', answer ' Rome'; expected text that is not empty"),
    (("{} was", "Ada", ""), "subject is 'Ada', answer ''; expected text that is not empty"),
  ):
    refused(said, lambda given=given: edits.fact(words, *given))
  refused("length: got 9; the longest row has 19 tokens", lambda: edits.fact(
    words, "{} was born in", "Ada", " Rome", length=9))  # fmt: skip
  refused("essence: got 'the {}'; expected text behind the subject", lambda: edits.fact(
    words, "{} was", "Ada", " x", essence="the {}"))  # fmt: skip


def test_an_edit_makes_the_answer_likely(tmp_path):
  """Of a decoder in bfloat16 too, whose tensors keep their dtype."""
  hand.write(tmp_path, hand.LLAMA)
  for dtype in ("float32", "bfloat16"):
    model = models.pretrained_decoder(tmp_path, dtype=dtype)
    params = model.init(None)[0]
    fact, layer = as_fact(1, contexts=0), LAYERS["llama"].format(0)
    moment = edits.key_moments(model, params, [layer], text_batches(), ridge=0.05)[layer]
    search = edits.ValueSearch(steps=25, learning_rate=0.3, decay=0.02, radius=8.0)
    after = edits.r_rome(model, params, fact, moment, layer, search=search)
    only(params, after, [f"{layer}/kernel"])

    def surprise(params, model=model, fact=fact):
      logits = model.apply(params, {}, fact.x, train=False, key=None)[0].logits[0]
      log_p = jax.nn.log_softmax(logits)
      return float(-(log_p[np.arange(len(log_p)), fact.target[0]] * fact.weight[0]).sum())

    assert surprise(params) > math.log(3)
    assert surprise(after) < 0.75 * surprise(params)
