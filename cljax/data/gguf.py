"""GGUF files of Llama's architecture as Hugging Face folders: config, weights in safetensors, tokenizer."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cljax.core.extras import needed
from cljax.core.types import UsageError

_SCALARS = {
  0: "<u1",
  1: "<i1",
  2: "<u2",
  3: "<i2",
  4: "<u4",
  5: "<i4",
  6: "<f4",
  7: "?",
  10: "<u8",
  11: "<i8",
  12: "<f8",
}
_TEXT, _ARRAY = 8, 9
# Of each type of tensor: values a block, bytes a block.
BLOCKS = {
  0: (1, 4),
  1: (1, 2),
  2: (32, 18),
  3: (32, 20),
  6: (32, 22),
  7: (32, 24),
  8: (32, 34),
  14: (256, 210),
  30: (1, 2),
}
_PARTS = {
  "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
  "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_SPECIAL = 3  # the type of a token that is no text


class File(NamedTuple):
  """A GGUF file: its keys, and of each tensor ``(shape, type, offset)`` into ``data``."""

  keys: dict[str, Any]
  tensors: dict[str, tuple[tuple[int, ...], int, int]]
  data: np.ndarray


class _Reader:
  """Reads one value after another from the head of a file."""

  def __init__(self, data: np.ndarray):
    self.data, self.at = data, 0

  def bytes(self, count: int) -> np.ndarray:
    if count < 0 or self.at + count > len(self.data):
      raise ValueError("ends too early")
    self.at += count
    return self.data[self.at - count : self.at]

  def number(self, form: str) -> int:
    return struct.unpack(form, self.bytes(struct.calcsize(form)).tobytes())[0]

  def text(self) -> str:
    return self.bytes(self.number("<Q")).tobytes().decode("utf-8")

  def value(self, kind: int) -> Any:
    if kind == _TEXT:
      return self.text()
    if kind == _ARRAY:
      inner, count = self.number("<I"), self.number("<Q")
      if inner == _TEXT:
        return [self.text() for _ in range(count)]
      form = np.dtype(_SCALARS[inner])
      return self.bytes(count * form.itemsize).view(form).tolist()
    return self.bytes(np.dtype(_SCALARS[kind]).itemsize).view(_SCALARS[kind])[0].item()


def read(path: str | os.PathLike) -> File:
  """The head of a GGUF file (version 2 or 3); its tensors stay in the file. UsageError for what is none."""
  try:
    data = np.memmap(path, np.uint8, "r")
    reader = _Reader(data)
    if reader.bytes(4).tobytes() != b"GGUF":
      raise ValueError("does not start with GGUF")
    version, count, keys = reader.number("<I"), reader.number("<Q"), reader.number("<Q")
    if version not in (2, 3):
      raise ValueError(f"is of version {version}; read are 2 and 3")
    found = {}
    for _ in range(keys):
      name = reader.text()
      found[name] = reader.value(reader.number("<I"))
    tensors = {}
    for _ in range(count):
      name = reader.text()
      shape = tuple(reader.number("<Q") for _ in range(reader.number("<I")))[::-1]  # stored the other way round
      tensors[name] = (shape, reader.number("<I"), reader.number("<Q"))
  except (OSError, ValueError, KeyError) as error:
    raise UsageError(f"gguf: {path} cannot be read ({type(error).__name__}: {' '.join(str(error).split())})") from None
  align = int(found.get("general.alignment", 32))
  return File(found, tensors, data[-(-reader.at // align) * align :])


def values(raw: np.ndarray, kind: int) -> np.ndarray:
  """The float32 values of a tensor's bytes; a block's low nibbles come before its high ones."""
  if kind in (0, 1):
    return raw.view("<f4" if kind == 0 else "<f2").astype(np.float32)
  if kind == 30:  # bfloat16: the upper half of a float32
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
  rows = raw.reshape(-1, BLOCKS[kind][1])
  half = lambda at: np.ascontiguousarray(rows[:, at : at + 2]).view("<f2").astype(np.float32)
  nibbles = lambda packed: np.concatenate([packed & 15, packed >> 4], 1)
  if kind == 14:
    return _six_bits(rows, half(208))
  if kind == 8:
    return (rows[:, 2:].view(np.int8) * half(0)).reshape(-1)
  start = 2 if kind in (2, 6) else 4  # behind the scale, or the scale and the least value
  low = half(2) if kind in (3, 7) else None
  if kind in (2, 3):
    q, middle = nibbles(rows[:, start:]), 8
  else:
    bits = np.ascontiguousarray(rows[:, start : start + 4]).view("<u4") >> np.arange(32, dtype=np.uint32) & 1
    q, middle = nibbles(rows[:, start + 4 :]) | (bits << 4).astype(np.uint8), 16
  q = q.astype(np.float32)
  return (q * half(0) + low if low is not None else (q - middle) * half(0)).reshape(-1)


def _six_bits(rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
  """Q6_K: ``(q - 32) s d``, 256 values of 16 scales a block."""
  low, high = rows[:, :128].reshape(-1, 2, 64), rows[:, 128:192].reshape(-1, 2, 32)
  scales = rows[:, 192:208].view(np.int8).astype(np.float32).reshape(-1, 2, 8)
  out = np.empty((len(rows), 2, 4, 32), np.float32)
  for k in range(4):
    part = low[:, :, 32 * (k % 2) : 32 * (k % 2) + 32]
    q = (part & 15 if k < 2 else part >> 4) | (high >> 2 * k & 3) << 4
    out[:, :, k] = (q.astype(np.float32) - 32) * np.repeat(scales[:, :, 2 * k : 2 * k + 2], 16, 2) * scale[:, None]
  return out.reshape(-1)


def tensor(file: File, name: str) -> np.ndarray:
  """A tensor as float32; UsageError for a type that is not read."""
  shape, kind, at = file.tensors[name]
  if kind not in BLOCKS:
    raise UsageError(f"gguf: {name} is of type {kind}; read are {', '.join(map(str, BLOCKS))}")
  each, size = BLOCKS[kind]
  count = int(np.prod(shape))
  raw = np.array(file.data[at : at + count // each * size])
  if count % each or len(raw) != count // each * size:
    raise UsageError(f"gguf: the file ends within {name}")
  return values(raw, kind).reshape(shape)


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
  """Rows ``[H d, ...]`` that stand by neighbouring pairs (2i, 2i+1), as pairs (i, i + d/2): Hugging Face's order."""
  return rows.reshape(heads, len(rows) // heads // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def config_of(keys: dict[str, Any], tied: bool) -> dict[str, Any]:
  """``config.json`` of a file's keys; UsageError for another architecture than 'llama'."""
  kind = keys.get("general.architecture")
  if kind != "llama":
    raise UsageError(f"gguf: general.architecture is {kind!r}; implemented: llama")
  asked = lambda name: keys[f"llama.{name}"]
  try:
    width, heads = asked("embedding_length"), asked("attention.head_count")
    config = {
      "architectures": ["LlamaForCausalLM"],
      "model_type": "llama",
      "hidden_size": width,
      "intermediate_size": asked("feed_forward_length"),
      "num_hidden_layers": asked("block_count"),
      "num_attention_heads": heads,
      "num_key_value_heads": keys.get("llama.attention.head_count_kv", heads),
      "head_dim": keys.get("llama.attention.key_length", width // heads),
      "vocab_size": keys.get("llama.vocab_size", len(keys["tokenizer.ggml.tokens"])),
      "max_position_embeddings": asked("context_length"),
      "rope_theta": float(f"{asked('rope.freq_base'):.7g}"),
      "rms_norm_eps": float(f"{asked('attention.layer_norm_rms_epsilon'):.7g}"),  # stored in float32
      "hidden_act": "silu",
      "tie_word_embeddings": tied,
    }
  except KeyError as error:
    raise UsageError(f"gguf: lacks the key {error.args[0]}") from None
  if keys.get("llama.rope.scaling.type", "none") != "none":
    raise UsageError(f"gguf: llama.rope.scaling.type is {keys['llama.rope.scaling.type']!r}; implemented: none")
  for name in ("bos", "eos", "padding", "unknown"):
    if f"tokenizer.ggml.{name}_token_id" in keys:
      config[f"{name.replace('padding', 'pad').replace('unknown', 'unk')}_token_id"] = keys[
        f"tokenizer.ggml.{name}_token_id"
      ]
  return config


def weights_of(file: File, config: dict[str, Any]) -> dict[str, np.ndarray]:
  """The tensors under Hugging Face's names; queries and keys in its order. UsageError for one that has no place."""
  found = {}
  heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
  for name in file.tensors:
    stem, end = name.rsplit(".", 1)
    block = stem.split(".")
    part = block[2] if len(block) == 3 and block[0] == "blk" else ""
    if end != "weight" or (part not in _PARTS if part else stem not in _OUTER):
      raise UsageError(f"gguf: has the tensor {name}, which the architecture 'llama' has no place for")
    a = tensor(file, name)
    if part in heads:
      a = halves(a, heads[part])
    into = f"model.layers.{block[1]}.{_PARTS[part]}" if part else _OUTER[stem]
    found[f"{into}.weight"] = np.ascontiguousarray(a)
  return found


def tokenizer_of(keys: dict[str, Any]):
  """The byte-level BPE of a file's keys; UsageError for another kind of tokens, or another way to cut words."""
  from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

  kind, way = keys.get("tokenizer.ggml.model"), keys.get("tokenizer.ggml.pre", "smollm")
  if kind != "gpt2" or way not in ("smollm", "gpt-2"):
    raise UsageError(
      f"gguf: its tokenizer is {kind!r}, its words are cut as {way!r}; implemented: gpt2, as smollm or gpt-2"
    )
  tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
  merges = [tuple(m.split(" ", 1)) for m in keys["tokenizer.ggml.merges"]]
  made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
  bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
  made.pre_tokenizer = (
    pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_]) if way == "smollm" else bytes_
  )
  made.decoder = decoders.ByteLevel()
  made.add_special_tokens([AddedToken(t, special=True) for t, k in zip(tokens, types, strict=True) if k == _SPECIAL])
  return made


def convert(path: str | os.PathLike, folder: str | os.PathLike) -> Path:
  """Writes the Hugging Face folder of a GGUF file, its weights as float32, and returns it.

  Quantised weights are what they are, rounded: a model of its own, not the one that was published. Raises UsageError
  for a file that is none, for another architecture, and for types and tokenizers that are not read.
  """
  with needed("gguf"):
    import tokenizers  # noqa: F401
    from safetensors.numpy import save_file
  file, folder = read(path), Path(folder)
  config = config_of(file.keys, tied="output.weight" not in file.tensors)
  made, weights = tokenizer_of(file.keys), weights_of(file, config)
  tokens = file.keys["tokenizer.ggml.tokens"]
  told: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": config["max_position_embeddings"],
  }
  told |= {
    f"{n}_token": tokens[config[f"{n}_token_id"]] for n in ("bos", "eos", "pad", "unk") if f"{n}_token_id" in config
  }
  if "tokenizer.chat_template" in file.keys:
    told["chat_template"] = file.keys["tokenizer.chat_template"]
  folder.mkdir(parents=True, exist_ok=True)
  made.save(str(folder / "tokenizer.json"))
  (folder / "tokenizer_config.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
  partial = folder / ".model.safetensors.partial"
  save_file(weights, partial, metadata={"format": "pt"})
  partial.chmod(0o644)
  os.replace(partial, folder / "model.safetensors")
  (folder / "config.json").write_text(
    json.dumps(config, indent=1), encoding="utf-8"
  )  # last: with it the folder is whole
  return folder
