"""Decoders in NumPy, written from their formulas over the tensors of a Hugging Face folder, and such folders."""

from __future__ import annotations

import json
import math

import ml_dtypes
import numpy as np

LLAMA = {
  "model_type": "llama", "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 17, "max_position_embeddings": 32, "rope_theta": 100000.0,
  "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True,
}  # fmt: skip
QWEN2 = {**LLAMA, "model_type": "qwen2", "tie_word_embeddings": False, "head_dim": None}
del QWEN2["head_dim"]
QWEN2 |= {"hidden_size": 16}
QWEN3 = {**LLAMA, "model_type": "qwen3", "head_dim": 6}
GPT2 = {
  "model_type": "gpt2", "n_embd": 12, "n_head": 3, "n_layer": 2, "n_positions": 32, "vocab_size": 17,
  "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
}  # fmt: skip
CONFIGS = {"llama": LLAMA, "qwen2": QWEN2, "qwen3": QWEN3, "gpt2": GPT2}


def tensors(config, seed=0):
  """Random weights under Hugging Face's names, norms away from 1 and biases from 0."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: (rng.normal(size=shape) * 0.4).astype(np.float32)
  found = {}
  if config["model_type"] == "gpt2":
    d, f = config["n_embd"], config.get("n_inner") or 4 * config["n_embd"]
    found |= {"wte.weight": draw(config["vocab_size"], d), "wpe.weight": draw(config["n_positions"], d)}
    for i in range(config["n_layer"]):
      for name, (a, b) in {
        "attn.c_attn": (d, 3 * d),
        "attn.c_proj": (d, d),
        "mlp.c_fc": (d, f),
        "mlp.c_proj": (f, d),
      }.items():
        found |= {f"h.{i}.{name}.weight": draw(a, b), f"h.{i}.{name}.bias": draw(b)}
      for name in ("ln_1", "ln_2"):
        found |= {f"h.{i}.{name}.weight": 1 + draw(d), f"h.{i}.{name}.bias": draw(d)}
    return found | {"ln_f.weight": 1 + draw(d), "ln_f.bias": draw(d)}
  d, f, kind = config["hidden_size"], config["intermediate_size"], config["model_type"]
  each = config.get("head_dim", d // config["num_attention_heads"])
  q, k = config["num_attention_heads"] * each, config["num_key_value_heads"] * each
  found["model.embed_tokens.weight"] = draw(config["vocab_size"], d)
  sizes = {"self_attn.q_proj": (q, d), "self_attn.k_proj": (k, d), "self_attn.v_proj": (k, d),
           "self_attn.o_proj": (d, q), "mlp.gate_proj": (f, d), "mlp.up_proj": (f, d),
           "mlp.down_proj": (d, f)}  # fmt: skip
  for i in range(config["num_hidden_layers"]):
    for name, shape in sizes.items():
      found[f"model.layers.{i}.{name}.weight"] = draw(*shape)
      biased = kind == "qwen2" and name[-6:] in ("q_proj", "k_proj", "v_proj")
      if biased or config.get("mlp_bias" if name.startswith("mlp") else "attention_bias"):
        found[f"model.layers.{i}.{name}.bias"] = draw(shape[0])
    for name in ("input_layernorm", "post_attention_layernorm"):
      found[f"model.layers.{i}.{name}.weight"] = 1 + draw(d)
    for name in ("q_norm", "k_norm") if kind == "qwen3" else ():
      found[f"model.layers.{i}.self_attn.{name}.weight"] = 1 + draw(each)
  found["model.norm.weight"] = 1 + draw(d)
  if not config.get("tie_word_embeddings"):
    found["lm_head.weight"] = draw(config["vocab_size"], d)
  return found


def write(folder, config, weights=None, **files):
  """A folder with ``config.json`` and ``model.safetensors``; the weights that it holds."""
  from safetensors.numpy import save_file

  folder.mkdir(parents=True, exist_ok=True)
  weights = tensors(config) if weights is None else weights
  (folder / "config.json").write_text(json.dumps(config))
  save_file(weights, folder / "model.safetensors")
  for name, text in files.items():
    (folder / name).write_text(text)
  return weights


def write_bfloat16(path, weights):
  """A safetensors file of bfloat16 by hand: NumPy has no such type, and the library's NumPy side neither."""
  head, at, body = {}, 0, b""
  for name, a in weights.items():
    raw = a.astype(ml_dtypes.bfloat16).tobytes()
    head[name] = {"dtype": "BF16", "shape": list(a.shape), "data_offsets": [at, at + len(raw)]}
    at, body = at + len(raw), body + raw
  told = json.dumps(head).encode()
  path.write_bytes(len(told).to_bytes(8, "little") + told + body)


def softmax(z):
  e = np.exp(z - z.max())
  return e / e.sum()


def attention(q, k, v):
  """Causal, by loops: ``q [L, H, d]``, ``k, v [L, K, d]``; head h looks with key h // (H / K)."""
  out = np.zeros(q.shape)
  for at in range(len(q)):
    for h in range(q.shape[1]):
      own = h // (q.shape[1] // k.shape[1])
      share = softmax(np.array([q[at, h] @ k[j, own] for j in range(at + 1)]) / math.sqrt(q.shape[2]))
      out[at, h] = sum(share[j] * v[j, own] for j in range(at + 1))
  return out.reshape(len(q), -1)


def turned(x, base, start=0):
  """Complex numbers ``x_i + i x_(i + d/2)`` times ``exp(i l base^(-2i/d))``."""
  half = x.shape[-1] // 2
  place = np.arange(start, start + len(x))[:, None]
  z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * place * base ** (-2 * np.arange(half) / (2 * half)))[:, None]
  return np.concatenate([z.real, z.imag], -1)


def logits(config, weights, ids, added=None, read=None):
  """``[L, V]`` of one row in float64. ``added``: by block what its MLP says more ``[L, d]``; ``read`` (a dict): of each
  block ``(what enters the MLP's last layer, what it says, the stream behind the block)``."""
  w = {n: np.asarray(a, np.float64) for n, a in weights.items()}
  call = _gpt2 if config["model_type"] == "gpt2" else _llama
  return call(config, w, np.asarray(ids), added or {}, {} if read is None else read)


def _llama(config, w, ids, added, read):
  root = lambda x, name: x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * w[f"{name}.weight"]
  linear = lambda x, name: x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)
  base = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
  x, heads = w["model.embed_tokens.weight"][ids], config["num_attention_heads"]
  for i in range(config["num_hidden_layers"]):
    at = f"model.layers.{i}."
    y = root(x, at + "input_layernorm")
    q = linear(y, at + "self_attn.q_proj").reshape(len(ids), heads, -1)
    k, v = (linear(y, f"{at}self_attn.{n}_proj").reshape(len(ids), config["num_key_value_heads"], -1) for n in "kv")
    if config["model_type"] == "qwen3":
      q, k = root(q, at + "self_attn.q_norm"), root(k, at + "self_attn.k_norm")
    x = x + linear(attention(turned(q, base), turned(k, base), v), at + "self_attn.o_proj")
    y = root(x, at + "post_attention_layernorm")
    gate = linear(y, at + "mlp.gate_proj")
    key = gate / (1 + np.exp(-gate)) * linear(y, at + "mlp.up_proj")
    said = linear(key, at + "mlp.down_proj") + added.get(i, 0.0)
    x = x + said
    read[i] = key, said, x
  return root(x, "model.norm") @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def _gpt2(config, w, ids, added, read):
  def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config["layer_norm_epsilon"])
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]

  linear = lambda x, name: x @ w[f"{name}.weight"] + w[f"{name}.bias"]
  exact = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))
  tanh = lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
  gelu = exact if config["activation_function"] == "gelu" else tanh
  x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
  for i in range(config["n_layer"]):
    q, k, v = np.split(linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn"), 3, -1)
    q, k, v = (a.reshape(len(ids), config["n_head"], -1) for a in (q, k, v))
    x = x + linear(attention(q, k, v), f"h.{i}.attn.c_proj")
    key = gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"))
    said = linear(key, f"h.{i}.mlp.c_proj") + added.get(i, 0.0)
    x = x + said
    read[i] = key, said, x
  return norm(x, "ln_f") @ w.get("lm_head.weight", w["wte.weight"]).T
