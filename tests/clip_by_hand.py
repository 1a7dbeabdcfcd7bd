"""CLIP in NumPy, float64, from the tensors of a published folder; and such folders, tiny and random."""

from __future__ import annotations

import json
import zlib

import numpy as np
from vit_by_hand import attended, exact_gelu, normed, softmax

IMAGE = {
  "image_size": 8, "patch_size": 4, "num_channels": 3, "hidden_size": 12, "num_hidden_layers": 2,
  "num_attention_heads": 3, "intermediate_size": 20, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
TEXT = {
  "vocab_size": 300, "max_position_embeddings": 24, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
  "intermediate_size": 14, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 299,
}  # fmt: skip
CONFIG = {"model_type": "clip", "projection_dim": 6, "vision_config": IMAGE, "text_config": TEXT}
PREPARED = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.6], "image_std": [0.5, 0.25, 0.2], "do_rescale": True,
            "rescale_factor": 1 / 255}  # fmt: skip


def shapes(config=CONFIG):
  """Names and shapes of the tensors of Hugging Face's CLIPModel."""
  p, v, t = config["projection_dim"], config["vision_config"], config["text_config"]
  d, w, size = v["hidden_size"], t["hidden_size"], v["patch_size"]
  out = {
    "logit_scale": (), "visual_projection.weight": (p, d), "text_projection.weight": (p, w),
    "vision_model.embeddings.class_embedding": (d,),
    "vision_model.embeddings.patch_embedding.weight": (d, v["num_channels"], size, size),
    "vision_model.embeddings.position_embedding.weight": (1 + (v["image_size"] // size) ** 2, d),
    "text_model.embeddings.token_embedding.weight": (t["vocab_size"], w),
    "text_model.embeddings.position_embedding.weight": (t["max_position_embeddings"], w),
  }  # fmt: skip
  norms = {"vision_model.pre_layrnorm": d, "vision_model.post_layernorm": d, "text_model.final_layer_norm": w}
  for model, part in (("vision", v), ("text", t)):
    n, f = part["hidden_size"], part["intermediate_size"]
    for i in range(part["num_hidden_layers"]):
      at = f"{model}_model.encoder.layers.{i}."
      norms |= {f"{at}layer_norm1": n, f"{at}layer_norm2": n}
      dense = {f"self_attn.{k}_proj": (n, n) for k in ("q", "k", "v", "out")} | {"mlp.fc1": (f, n), "mlp.fc2": (n, f)}
      for name, shape in dense.items():
        out |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
  return out | {f"{n}.{p}": (size,) for n, size in norms.items() for p in ("weight", "bias")}


def tensors(config=CONFIG):
  """Each by its name: ``0.4 sin(a n + b)``, of norms' scales 1 more; the scale is ``ln 10``."""
  out = {}
  for name, shape in shapes(config).items():
    seed = zlib.crc32(name.encode()) % 1000
    wave = 0.4 * np.sin((1 + seed / 1000) * np.arange(1, np.prod(shape) + 1) + seed).reshape(shape)
    out[name] = (wave + (name.endswith("weight") and len(shape) == 1)).astype(np.float32)
  return {**out, "logit_scale": np.asarray(np.log(10), np.float32)}


def write_tokenizer(path):
  """Bytes between a begin, 298, and an end, 299: as the published one, ids of which the end's is the largest."""
  from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  words = {c: i for i, c in enumerate(letters)} | {"<|startoftext|>": 298, "<|endoftext|>": 299}
  made = Tokenizer(models.BPE(vocab=words, merges=[]))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.add_special_tokens([AddedToken(n, special=True) for n in ("<|startoftext|>", "<|endoftext|>")])
  made.post_processor = processors.TemplateProcessing(
    single="<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", 298), ("<|endoftext|>", 299)],
  )  # fmt: skip
  made.save(str(path / "tokenizer.json"))


def written(path, config=CONFIG, found=None, prepared=PREPARED):
  """A folder as it is published."""
  from safetensors.numpy import save_file

  path.mkdir(exist_ok=True)
  (path / "config.json").write_text(json.dumps(config))
  (path / "preprocessor_config.json").write_text(json.dumps(prepared))
  save_file(tensors(config) if found is None else found, str(path / "model.safetensors"))
  write_tokenizer(path)
  return str(path)


def token_ids(text):
  """What :func:`write_tokenizer` makes of it."""
  from tokenizers import pre_tokenizers

  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
  return [298, *(letters.index(c) for word, _ in split for c in word), 299]


def quick_gelu(x):
  return x / (1 + np.exp(-1.702 * x))


ACTS = {"quick_gelu": quick_gelu, "gelu": exact_gelu}


def blocks(t, h, model, part, causal):
  """``h [B, N, D]`` through a tower's layers, float64."""
  act, heads, n = ACTS[part["hidden_act"]], part["num_attention_heads"], h.shape[1]
  linear = lambda name, a: a @ t[f"{name}.weight"].T + t[f"{name}.bias"]
  norm = lambda name, a: normed(a, t[f"{name}.weight"], t[f"{name}.bias"], part["layer_norm_eps"])
  for i in range(part["num_hidden_layers"]):
    at = f"{model}_model.encoder.layers.{i}."
    a = norm(f"{at}layer_norm1", h)
    q, k, v = (linear(f"{at}self_attn.{p}_proj", a) for p in "qkv")
    if causal:
      size = q.shape[-1] // heads
      mixed = np.zeros_like(q)
      for own in (slice(j * size, (j + 1) * size) for j in range(heads)):
        for place in range(n):
          seen = np.einsum("bd,bkd->bk", q[:, place, own], k[:, : place + 1, own]) / np.sqrt(size)
          mixed[:, place, own] = np.einsum("bk,bkd->bd", softmax(seen), v[:, : place + 1, own])
    else:
      mixed = attended(q, k, v, heads)
    h = h + linear(f"{at}self_attn.out_proj", mixed)
    h = h + linear(f"{at}mlp.fc2", act(linear(f"{at}mlp.fc1", norm(f"{at}layer_norm2", h))))
  return h


def image_embeddings(t, x, config=CONFIG):
  """``[B, P]`` of norm 1, of normalised ``x [B, H, W, C]``."""
  t = {n: np.asarray(a, np.float64) for n, a in t.items()}
  part, e = config["vision_config"], "vision_model.embeddings."
  w = t[f"{e}patch_embedding.weight"]
  p = w.shape[-1]
  h = [np.broadcast_to(t[f"{e}class_embedding"], (len(x), w.shape[0]))]
  for i in range(0, x.shape[1], p):
    for j in range(0, x.shape[2], p):
      h.append(np.einsum("bijc,dcij->bd", x[:, i : i + p, j : j + p], w))
  norm = lambda name, a: normed(a, t[f"{name}.weight"], t[f"{name}.bias"], part["layer_norm_eps"])
  h = norm("vision_model.pre_layrnorm", np.stack(h, 1) + t[f"{e}position_embedding.weight"])
  h = blocks(t, h, "vision", part, False)[:, 0]
  out = norm("vision_model.post_layernorm", h) @ t["visual_projection.weight"].T
  return out / np.linalg.norm(out, axis=-1, keepdims=True)


def text_embeddings(t, texts, config=CONFIG):
  """``[N, P]`` of norm 1: each text by itself, read at its end."""
  t = {n: np.asarray(a, np.float64) for n, a in t.items()}
  part, e, out = config["text_config"], "text_model.embeddings.", []
  for text in texts:
    ids = token_ids(text)
    h = t[f"{e}token_embedding.weight"][ids] + t[f"{e}position_embedding.weight"][: len(ids)]
    h = blocks(t, h[None], "text", part, True)[0, -1]
    name = "text_model.final_layer_norm"
    h = normed(h, t[f"{name}.weight"], t[f"{name}.bias"], part["layer_norm_eps"])
    out.append(h @ t["text_projection.weight"].T)
  return np.stack([a / np.linalg.norm(a) for a in out])
