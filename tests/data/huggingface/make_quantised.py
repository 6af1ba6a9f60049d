#!/usr/bin/env python3
"""Writes quantised/<name>.json: tiny checkpoints in the packings of quantisers, from the formats' public descriptions.

Usage: make_quantised.py OUT   (needs nothing but Python)

Codes, scales and zero points are drawn, packed as each format says, and stored in base64; tensors that are not packed are described as
make.py does. `expected` has for each weight, by its GGUF name and in GGUF's order of rows, the FNV-1a digest of its values as F32, worked
out from the drawn numbers without any packing: by the format's definition where that is exact, else with the rounding that
docs/formats/safetensors.md states; `error` is then the squared error over squares against the definition.
"""
import base64, json, math, struct, sys
from pathlib import Path

M64 = (1 << 64) - 1
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
       0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
NF4_READ = [-112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112]
FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & M64
    return h


class Draw:
    """splitmix64 from a name."""

    def __init__(self, name):
        self.x = fnv(name.encode())

    def __call__(self, n):
        self.x = (self.x + 0x9E3779B97F4A7C15) & M64
        z = self.x
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
        return ((z ^ (z >> 31)) >> 16) % n


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def f16(x):
    return struct.unpack("<e", struct.pack("<e", x))[0]


def bf16(x):  # cut off
    return struct.unpack("<f", b"\0\0" + struct.pack("<f", x)[2:])[0]


def floats(values, dtype):
    if dtype == "F32":
        return struct.pack(f"<{len(values)}f", *values)
    if dtype == "F16":
        return struct.pack(f"<{len(values)}e", *values)
    return b"".join(struct.pack("<f", v)[2:] for v in values)


def ints(values, form="i"):
    return struct.pack(f"<{len(values)}{form}", *values)


def tensor(dtype, shape, data):
    return dict(dtype=dtype, shape=list(shape), data=base64.b64encode(data).decode())


def words(numbers, bits):
    """A run of numbers as a run of 32-bit words, the first in the lowest bits."""
    stream = 0
    for i, n in enumerate(numbers):
        stream |= n << (i * bits)
    return [(stream >> (32 * k)) & 0xFFFFFFFF for k in range(-(-len(numbers) * bits // 32))]


def read_scales(scales, dtype, least=1.0, most=1.0):
    """The power of two that scales are multiplied with before they become f16, and the whole matrix divided by."""
    sizes = [abs(s) for row in scales for s in row if s]
    power = 0
    if dtype != "F16" and (min(sizes) * least < 2.0**-14 or max(sizes) * most > 65504):
        power = 14 - math.floor(math.log2(max(sizes) * most))
    return power


def integers(draw, rows, cols, bits, group, dtype="F16", sym=True, tiny=0, least=1):
    groups = -(-cols // group)
    codes = [[draw(1 << bits) for _ in range(cols)] for _ in range(rows)]
    rounded = {"F16": f16, "BF16": bf16, "F32": f32}[dtype]
    scales = [[rounded((1 + draw(1 << 20) / (1 << 20)) * 2.0**(-3 - bits - tiny)) for _ in range(groups)] for _ in range(rows)]
    zeros = [[(1 << (bits - 1)) if sym else least + draw((1 << bits) - least) for _ in range(groups)] for _ in range(rows)]
    return codes, scales, zeros


def values_of(codes, scales, zeros, group_of, dtype, as_floats=False):
    """By the definition, and as they are read: with scales as f16, or (as_floats) each value as f16."""
    power = read_scales(scales, "F32", 1, 255) if as_floats else read_scales(scales, dtype)
    exact, read = [], []
    for r, row in enumerate(codes):
        exact.append([scales[r][group_of[c]] * (q - zeros[r][group_of[c]]) for c, q in enumerate(row)])
        if as_floats:
            read.append([f16((q - zeros[r][group_of[c]]) * scales[r][group_of[c]] * 2.0**power) * 2.0**-power for c, q in enumerate(row)])
        else:
            d = [f16(s * 2.0**power) * 2.0**-power for s in scales[r]]
            read.append([d[group_of[c]] * (q - zeros[r][group_of[c]]) for c, q in enumerate(row)])
    return exact, read


def groups_of(cols, group, order_name):
    """The group of each column: neighbours, or drawn."""
    if order_name is None:
        return [c // group for c in range(cols)]
    draw, order = Draw("order " + order_name), list(range(cols))
    for i in range(cols - 1, 0, -1):
        j = draw(i + 1)
        order[i], order[j] = order[j], order[i]
    of = [0] * cols
    for place, c in enumerate(order):
        of[c] = place // group
    return of


def gptq(prefix, rows, cols, *, bits=4, group=32, sym=True, v2=False, order=None, indexed=True):
    group = cols if group == -1 else group
    codes, scales, zeros = integers(Draw(prefix), rows, cols, bits, group, sym=sym, least=1 if bits == 3 else 0)
    of = groups_of(cols, group, order(prefix) if order else None)
    n = len(scales[0])
    columns = [words([codes[r][c] for c in range(cols)], bits) for r in range(rows)]
    qweight = [columns[r][k] for k in range(len(columns[0])) for r in range(rows)]
    if v2 or bits == 3:
        qzeros = [w for g in range(n) for w in words([zeros[r][g] - (0 if v2 else 1) for r in range(rows)], bits)]
    else:  # less one in each number, word by word
        ones = words([1] * (32 // bits), bits)[0]
        qzeros = [(w - ones) & 0xFFFFFFFF for g in range(n) for w in words([zeros[r][g] for r in range(rows)], bits)]
    t = {".qweight": tensor("I32", [cols * bits // 32, rows], ints(qweight, "I")),
         ".qzeros": tensor("I32", [n, rows * bits // 32], ints(qzeros, "I")),
         ".scales": tensor("F16", [n, rows], floats([scales[r][g] for g in range(n) for r in range(rows)], "F16"))}
    if indexed:
        t[".g_idx"] = tensor("I32", [cols], ints(of))
    return t, values_of(codes, scales, zeros, of, "F16", as_floats=bits == 8 and not sym)


def awq(prefix, rows, cols, *, group=32, by_rows=False):
    codes, scales, zeros = integers(Draw(prefix), rows, cols, 4, group, sym=False)
    n = cols // group
    out = values_of(codes, scales, zeros, groups_of(cols, group, None), "F16")
    if by_rows:
        multiple = {32: 4, 64: 2}.get(group, 1)
        width = -(-(-(-n // 8)) // multiple) * multiple
        more = [0] * (8 * width - n)
        return {".qweight": tensor("I32", [rows, cols // 8], ints([w for r in codes for w in words(r, 4)], "I")),
                ".qzeros": tensor("I32", [rows, width], ints([w for r in zeros for w in words(r + more, 4)], "I")),
                ".scales": tensor("F16", [rows, 8 * width], floats([s for r in scales for s in r + more], "F16"))}, out
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def along_rows(matrix, n_lines):
        packed = []
        for line in range(n_lines):
            for r in range(0, rows, 8):
                packed += words([matrix[r + order[i]][line] for i in range(8)], 4)
        return packed
    return {".qweight": tensor("I32", [cols, rows // 8], ints(along_rows(codes, cols), "I")),
            ".qzeros": tensor("I32", [n, rows // 8], ints(along_rows(zeros, n), "I")),
            ".scales": tensor("F16", [n, rows], floats([scales[r][g] for g in range(n) for r in range(rows)], "F16"))}, out


def packed(prefix, rows, cols, *, bits=4, group=32, dtype="BF16", sym=True, order=None, tiny=0):
    group = cols if group == -1 else group
    codes, scales, zeros = integers(Draw(prefix), rows, cols, bits, group, dtype, sym, tiny)
    of = groups_of(cols, group, order(prefix) if order else None)
    n = len(scales[0])
    t = {".weight_packed": tensor("I32", [rows, cols * bits // 32], ints([w for r in codes for w in words(r, bits)], "I")),
         ".weight_shape": tensor("I64", [2], ints([rows, cols], "q")),
         ".weight_scale": tensor(dtype, [rows, n], floats([s for r in scales for s in r], dtype))}
    if not sym:
        down = [words([zeros[r][g] for r in range(rows)], bits) for g in range(n)]
        t[".weight_zero_point"] = tensor("I32", [len(down[0]), n], ints([down[g][k] for k in range(len(down[0])) for g in range(n)], "I"))
    if order:
        t[".weight_g_idx"] = tensor("I32", [cols], ints(of))
    return t, values_of(codes, scales, zeros, of, dtype, as_floats=bits == 8 and not sym)


def int8(prefix, rows, cols, *, group=-1, dtype="F32", sym=True, flat=False):
    group = cols if group == -1 else group
    codes, scales, zeros = integers(Draw(prefix), rows, cols, 8, group, dtype, sym)
    n = len(scales[0])
    t = {".weight": tensor("I8", [rows, cols], ints([q - 128 for r in codes for q in r], "b")),
         ".weight_scale": tensor(dtype, [rows] if flat else [rows, n], floats([s for r in scales for s in r], dtype))}
    if not sym:
        t[".weight_zero_point"] = tensor("I8", [rows, n], ints([z - 128 for r in zeros for z in r], "b"))
    return t, values_of(codes, scales, zeros, groups_of(cols, group, None), dtype, as_floats=not sym)


def llm_int8(prefix, rows, cols):
    draw = Draw(prefix)
    codes = [[draw(255) - 127 for _ in range(cols)] for _ in range(rows)]
    largest = [f32((1 + draw(1 << 20) / (1 << 20)) / 16) for _ in range(rows)]
    scales = [[s * f32(1 / 127)] for s in largest]
    exact = [[q * largest[r] / 127 for q in row] for r, row in enumerate(codes)]
    power = read_scales([[f32(s[0])] for s in scales], "F32")
    read = [[q * f16(f32(scales[r][0]) * 2.0**power) * 2.0**-power for q in row] for r, row in enumerate(codes)]
    return {".weight": tensor("I8", [rows, cols], ints([q for r in codes for q in r], "b")), ".SCB": tensor("F32", [rows], floats(largest, "F32")),
            ".weight_format": tensor("U8", [], b"\0")}, (exact, read)


def nf4(prefix, rows, cols, *, nested=False):
    draw = Draw(prefix)
    codes = [[draw(16) for _ in range(cols)] for _ in range(rows)]
    n = cols // 64
    flat = [q for r in codes for q in r]
    state = dict(quant_type="nf4", blocksize=64, dtype="bfloat16", shape=[rows, cols])
    w = ".weight"
    t = {w: tensor("U8", [rows * cols // 2, 1], bytes(flat[i] << 4 | flat[i + 1] for i in range(0, len(flat), 2))),
         w + ".quant_map": tensor("F32", [16], floats(NF4, "F32"))}
    if nested:
        table = [f32((i - 127) / 128) for i in range(256)]
        absmax = [draw(256) for _ in range(rows * n)]
        outer = [f32(0.02 + draw(1000) / 100000) for _ in range(-(-rows * n // 256))]
        offset = f32(0.05 + draw(1000) / 100000)
        state.update(nested_blocksize=256, nested_dtype="float32", nested_offset=offset)
        t[w + ".absmax"] = tensor("U8", [rows * n], bytes(absmax))
        t[w + ".nested_absmax"] = tensor("F32", [len(outer)], floats(outer, "F32"))
        t[w + ".nested_quant_map"] = tensor("F32", [256], floats(table, "F32"))
        sizes = [f32(f32(table[a] * outer[i // 256]) + offset) for i, a in enumerate(absmax)]
    else:
        sizes = [f32((1 + draw(1 << 20) / (1 << 20)) / 16) for _ in range(rows * n)]
        t[w + ".absmax"] = tensor("F32", [rows * n], floats(sizes, "F32"))
    text = json.dumps(state).encode()
    t[w + ".quant_state.bitsandbytes__nf4"] = tensor("U8", [len(text)], text)
    scales = [sizes[r * n:(r + 1) * n] for r in range(rows)]
    power = read_scales(scales, "F32", 1 / 112, 1 / 112)
    exact = [[NF4[q] * scales[r][c // 64] for c, q in enumerate(row)] for r, row in enumerate(codes)]
    read = [[NF4_READ[q] * f16(f32(f32(scales[r][c // 64] * 2.0**power) / 112)) * 2.0**-power for c, q in enumerate(row)] for r, row in enumerate(codes)]
    return t, (exact, read)


def e4m3(b):
    e, m = b >> 3 & 15, b & 7
    v = m * 2.0**-9 if e == 0 else (8 + m) * 2.0**(e - 10)
    return -v if b & 128 else v


def e5m2(b):
    return struct.unpack("<e", bytes([0, b]))[0]


def fp8(prefix, rows, cols, *, form="E4M3", block=None, per_row=False, scaled=True, dtype="F32", name=".weight_scale"):
    draw = Draw(prefix)
    decode = e4m3 if form == "E4M3" else e5m2
    codes = [[draw(2) << 7 | (draw(0x7F) if form == "E4M3" else draw(0x7C)) for _ in range(cols)] for _ in range(rows)]
    t = {".weight": tensor("F8_" + form, [rows, cols], bytes(q for r in codes for q in r))}
    rounded = bf16 if dtype == "BF16" else f32
    br, bc = block or ((1, cols) if per_row else (rows, cols))
    grid = [[rounded((1 + draw(1 << 20) / (1 << 20)) * 2.0**(-12 if form == "E4M3" else -20)) if scaled else 1.0 for _ in range(-(-cols // bc))]
            for _ in range(-(-rows // br))]
    if scaled:
        shape = [len(grid), len(grid[0])] if block or per_row else []
        t[name] = tensor(dtype, shape, floats([s for r in grid for s in r], dtype))
    exact = [[decode(q) * grid[r // br][c // bc] for c, q in enumerate(row)] for r, row in enumerate(codes)]
    if not block and not per_row:
        return t, (exact, [[f32(v) for v in r] for r in exact])
    power = read_scales(grid, "F32", 2.0**-9, 448) if form == "E4M3" else read_scales(grid, "F32", 2.0**-16, 57344)
    return t, (exact, [[f16(f32(decode(q) * f32(grid[r // br][c // bc] * 2.0**power))) * 2.0**-power for c, q in enumerate(row)]
                       for r, row in enumerate(codes)])


def ternary(prefix, rows, cols, *, divides=False):
    """Four rows in a byte: row r in byte r modulo a quarter of the rows, from the lowest bits up."""
    draw = Draw(prefix)
    codes = [[draw(3) for _ in range(cols)] for _ in range(rows)]
    scale = bf16(0.5 + draw(1000) / 1000)
    quarter = rows // 4
    t = {".weight": tensor("U8", [quarter, cols], bytes(sum(codes[r + k * quarter][c] << (2 * k) for k in range(4)) for r in range(quarter) for c in range(cols))),
         ".weight_scale": tensor("BF16", [1], floats([scale], "BF16"))}
    factor = 1 / scale if divides else scale
    return t, ([[(q - 1) * factor for q in row] for row in codes], [[(q - 1) * f32(factor) + 0.0 for q in row] for row in codes])


def mxfp4(prefix, experts, rows, cols):
    draw = Draw(prefix)
    codes = [[[draw(16) for _ in range(cols)] for _ in range(rows)] for _ in range(experts)]
    scales = [[[118 + draw(4) for _ in range(cols // 32)] for _ in range(rows)] for _ in range(experts)]
    flat = [q for e in codes for r in e for q in r]
    t = {"_blocks": tensor("U8", [experts, rows, cols // 32, 16], bytes(flat[i] | flat[i + 1] << 4 for i in range(0, len(flat), 2))),
         "_scales": tensor("U8", [experts, rows, cols // 32], bytes(s for e in scales for r in e for s in r))}
    v = [[[(-1 if q & 8 else 1) * FP4[q & 7] * 2.0**(scales[e][r][c // 32] - 127) + 0.0 for c, q in enumerate(row)] for r, row in enumerate(m)]
         for e, m in enumerate(codes)]
    return t, v


# ---- Checkpoints ----

H, KV, HD, V, C, E = 2, 1, 16, 24, 64, 2


def base(arch, kind, d, ff, **more):
    c = dict(architectures=[arch], model_type=kind, hidden_size=d, num_hidden_layers=1, num_attention_heads=H, num_key_value_heads=KV, head_dim=HD,
             intermediate_size=ff, vocab_size=V, max_position_embeddings=C, rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu",
             tie_word_embeddings=False)
    return {**c, **more}


def pairs(matrix):
    """Halves of heads to pairs, as GGUF files of llama have rows of queries and keys."""
    out = []
    for h in range(0, len(matrix), HD):
        for i in range(HD):
            out.append(matrix[h + i % 2 * (HD // 2) + i // 2])
    return out


def record(values):
    exact, read = values
    bad = sum((a - b)**2 for x, y in zip(exact, read) for a, b in zip(x, y))
    total = sum(a * a for x in exact for a in x)
    data = b"".join(struct.pack(f"<{len(r)}f", *r) for r in read)
    return dict(digest=f"{fnv(data):016x}", error=float(f"{bad / total:.3g}"))


def both(values, change):
    return tuple(change(v) for v in values)


def llama(scheme, quantization, d=64, ff=32, kind="llama", only=None, **more):
    p = "model.layers.0."
    plain = {"model.embed_tokens.weight": [V, d], "model.norm.weight": [d], "lm_head.weight": [V, d], p + "input_layernorm.weight": [d],
             p + "post_attention_layernorm.weight": [d]}
    if kind == "qwen2":
        plain.update({p + "self_attn.q_proj.bias": [H * HD], p + "self_attn.k_proj.bias": [KV * HD], p + "self_attn.v_proj.bias": [KV * HD]})
    out, expected = {}, {}
    for name, gguf, rows, cols in [("self_attn.q_proj", "attn_q", H * HD, d), ("self_attn.k_proj", "attn_k", KV * HD, d),
                                   ("self_attn.v_proj", "attn_v", KV * HD, d), ("self_attn.o_proj", "attn_output", d, H * HD),
                                   ("mlp.gate_proj", "ffn_gate", ff, d), ("mlp.up_proj", "ffn_up", ff, d), ("mlp.down_proj", "ffn_down", d, ff)]:
        if only and not only(gguf):
            plain[p + name + ".weight"] = [rows, cols]
            continue
        t, values = scheme(p + name, rows, cols)
        out.update({p + name + k: v for k, v in t.items()})
        if gguf in ("attn_q", "attn_k") and kind == "llama":
            values = both(values, pairs)
        expected[f"blk.0.{gguf}.weight"] = record(values)
    arch = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[kind]
    return dict(config=base(arch, kind, d, ff, quantization_config=quantization, **more), dtype="F16", tensors=plain, packed=out, expected=expected)


def mixtral(scheme, quantization):
    d, ff, p = 64, 64, "model.layers.0."
    plain = {"model.embed_tokens.weight": [V, d], "model.norm.weight": [d], "lm_head.weight": [V, d], p + "input_layernorm.weight": [d],
             p + "post_attention_layernorm.weight": [d], p + "block_sparse_moe.gate.weight": [E, d], p + "self_attn.o_proj.weight": [d, H * HD]}
    out, all_of = {}, {}
    for name, gguf, rows in [("q_proj", "attn_q", H * HD), ("k_proj", "attn_k", KV * HD), ("v_proj", "attn_v", KV * HD)]:
        t, values = scheme(p + "self_attn." + name, rows, d)
        out.update({p + "self_attn." + name + k: v for k, v in t.items()})
        all_of[f"blk.0.{gguf}.weight"] = values if gguf == "attn_v" else both(values, pairs)
    for e in range(E):
        for name, gguf, rows, cols in [("w1", "ffn_gate_exps", ff, d), ("w3", "ffn_up_exps", ff, d), ("w2", "ffn_down_exps", d, ff)]:
            prefix = f"{p}block_sparse_moe.experts.{e}.{name}"
            t, values = scheme(prefix, rows, cols)
            out.update({prefix + k: v for k, v in t.items()})
            got = all_of.setdefault(f"blk.0.{gguf}.weight", ([], []))
            got[0].extend(values[0])
            got[1].extend(values[1])
    return dict(config=base("MixtralForCausalLM", "mixtral", d, ff, quantization_config=quantization, num_local_experts=E, num_experts_per_tok=1,
                            sliding_window=None), dtype="F16", tensors=plain, packed=out, expected={k: record(v) for k, v in all_of.items()})


def internlm2(scheme, quantization):
    """Queries, keys and values of each kv head in one tensor."""
    d, ff, p = 64, 32, "model.layers.0."
    plain = {"model.tok_embeddings.weight": [V, d], "model.norm.weight": [d], "output.weight": [V, d], p + "attention_norm.weight": [d],
             p + "ffn_norm.weight": [d], p + "feed_forward.w1.weight": [ff, d], p + "feed_forward.w2.weight": [d, ff],
             p + "feed_forward.w3.weight": [ff, d], p + "attention.wo.weight": [d, H * HD]}
    prefix = p + "attention.wqkv"
    t, values = scheme(prefix, (H + 2 * KV) * HD, d)
    expected = {"blk.0.attn_q.weight": record(both(values, lambda v: pairs(v[:H * HD]))),
                "blk.0.attn_k.weight": record(both(values, lambda v: pairs(v[H * HD:(H + KV) * HD]))),
                "blk.0.attn_v.weight": record(both(values, lambda v: v[(H + KV) * HD:]))}
    return dict(config=base("InternLM2ForCausalLM", "internlm2", d, ff, quantization_config=quantization), dtype="F16", tensors=plain,
                packed={prefix + k: v for k, v in t.items()}, expected=expected)


def qwen3_5(scheme, quantization, keys=2, values=6):
    """Heads of values that share a key stand beside each other; GGUF files have the first of each key, then the second of each."""
    d, ff, hd, p = 64, 32, 32, "model.layers.0."
    mixed = (2 * keys + values) * hd
    plain = {"model.embed_tokens.weight": [V, d], "model.norm.weight": [d], "lm_head.weight": [V, d], p + "input_layernorm.weight": [d],
             p + "post_attention_layernorm.weight": [d], p + "linear_attn.in_proj_a.weight": [values, d], p + "linear_attn.in_proj_b.weight": [values, d],
             p + "linear_attn.conv1d.weight": [mixed, 1, 4], p + "linear_attn.A_log": [values], p + "linear_attn.dt_bias": [values],
             p + "linear_attn.norm.weight": [hd], p + "mlp.gate_proj.weight": [ff, d], p + "mlp.up_proj.weight": [ff, d], p + "mlp.down_proj.weight": [d, ff]}
    each = values // keys

    def turned(list_):
        heads = [list_[i * hd:(i + 1) * hd] for i in range(values)]
        return [x for j in range(each) for k in range(keys) for x in heads[k * each + j]]
    out, expected = {}, {}
    for name, gguf, rows, cols, change in [("in_proj_qkv", "attn_qkv", mixed, d, lambda v: v[:2 * keys * hd] + turned(v[2 * keys * hd:])),
                                           ("in_proj_z", "attn_gate", values * hd, d, turned),
                                           ("out_proj", "ssm_out", d, values * hd, lambda v: [turned(row) for row in v])]:
        t, v = scheme(p + "linear_attn." + name, rows, cols)
        out.update({p + "linear_attn." + name + k: x for k, x in t.items()})
        expected[f"blk.0.{gguf}.weight"] = record(both(v, change))
    config = base("Qwen3_5ForCausalLM", "qwen3_5_text", d, ff, quantization_config=quantization, linear_num_key_heads=keys, linear_num_value_heads=values,
                  linear_key_head_dim=hd, linear_value_head_dim=hd, layer_types=["linear_attention"])
    return dict(config=config, dtype="BF16", tensors=plain, packed=out, expected=expected)


def gpt_oss():
    d, ff, p = 64, 32, "model.layers.0."
    q, kv = H * HD, KV * HD
    plain = {"model.embed_tokens.weight": [V, d], "model.norm.weight": [d], "lm_head.weight": [V, d], p + "input_layernorm.weight": [d],
             p + "post_attention_layernorm.weight": [d], p + "self_attn.sinks": [H], p + "mlp.router.weight": [E, d], p + "mlp.router.bias": [E],
             p + "self_attn.q_proj.weight": [q, d], p + "self_attn.q_proj.bias": [q], p + "self_attn.k_proj.weight": [kv, d],
             p + "self_attn.k_proj.bias": [kv], p + "self_attn.v_proj.weight": [kv, d], p + "self_attn.v_proj.bias": [kv],
             p + "self_attn.o_proj.weight": [d, q], p + "self_attn.o_proj.bias": [d], p + "mlp.experts.gate_up_proj_bias": [E, 2 * ff],
             p + "mlp.experts.down_proj_bias": [E, d]}
    both_, v = mxfp4(p + "mlp.experts.gate_up_proj", E, 2 * ff, d)
    down, w = mxfp4(p + "mlp.experts.down_proj", E, d, ff)
    out = {p + "mlp.experts.gate_up_proj" + k: x for k, x in both_.items()}
    out.update({p + "mlp.experts.down_proj" + k: x for k, x in down.items()})
    rows = {"gate": [r for e in v for r in e[0::2]], "up": [r for e in v for r in e[1::2]], "down": [r for e in w for r in e]}
    expected = {f"blk.0.ffn_{k}_exps.weight": record((r, r)) for k, r in rows.items()}
    config = base("GptOssForCausalLM", "gpt_oss", d, ff, quantization_config=dict(quant_method="mxfp4", modules_to_not_convert=["lm_head"]),
                  num_local_experts=E, num_experts_per_tok=1, sliding_window=16, layer_types=["full_attention"])
    return dict(config=config, dtype="BF16", tensors=plain, packed=out, expected=expected)


def compressed(format_, bits, strategy, group=None, sym=True, kind="int", **more):
    weights = dict(num_bits=bits, type=kind, symmetric=sym, strategy=strategy, group_size=group, dynamic=False, actorder=None, **more)
    return dict(quant_method="compressed-tensors", format=format_, quantization_status="compressed", ignore=["lm_head"],
                config_groups=dict(group_0=dict(targets=["Linear"], weights=weights, input_activations=None, output_activations=None)))


def checkpoints():
    def g(**more):
        return dict(quant_method="gptq", bits=4, group_size=32, sym=True, desc_act=False, **more)

    def shared(prefix):  # products of one input agree
        for name, of in (("q_proj", "qkv"), ("k_proj", "qkv"), ("v_proj", "qkv"), ("gate_proj", "gate_up"), ("up_proj", "gate_up")):
            prefix = prefix.replace(name, of)
        return prefix

    def own(prefix):
        return prefix

    def of(scheme, **options):
        return lambda prefix, rows, cols: scheme(prefix, rows, cols, **options)
    a = dict(quant_method="awq", bits=4, group_size=32, zero_point=True, version="gemm", modules_to_not_convert=None)
    b4 = dict(quant_method="bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=False)
    act = {**g(), "desc_act": True}
    few = lambda gguf: gguf in ("attn_q", "ffn_down", "ffn_gate")
    c = {}
    c["gptq-g32"] = llama(of(gptq, indexed=False), g())
    c["gptq-g64-zeros-v2"] = llama(of(gptq, group=64, sym=False, v2=True), {**g(), "group_size": 64, "sym": False, "checkpoint_format": "gptq_v2"},
                                   ff=64, only=few)
    c["gptq-g128"] = llama(of(gptq, group=128, sym=False), {**g(), "group_size": 128, "sym": False}, d=128, ff=128, only=few, kind="qwen2")
    c["gptq-order"] = llama(of(gptq, order=shared), act, ff=64)
    c["gptq-order-apart"] = llama(of(gptq, order=own, sym=False), {**act, "sym": False}, ff=64, kind="qwen2")
    c["gptq-order-experts"] = mixtral(of(gptq, order=own), act)
    c["gptq-order-groups"] = internlm2(of(gptq, order=own), act)
    c["gptq-8bit"] = llama(of(gptq, bits=8, group=-1), {**g(), "bits": 8, "group_size": -1}, only=few)
    c["gptq-8bit-zeros"] = llama(of(gptq, bits=8, group=-1, sym=False), {**g(), "bits": 8, "group_size": -1, "sym": False}, only=few)
    c["gptq-3bit"] = llama(of(gptq, bits=3, sym=False), {**g(), "bits": 3, "sym": False}, only=few)
    c["gptq-2bit"] = llama(of(gptq, bits=2, group=-1), {**g(), "bits": 2, "group_size": -1}, only=few)
    c["awq"] = llama(awq, a)
    c["awq-experts"] = mixtral(awq, a)
    c["awq-gemv"] = llama(of(awq, group=64, by_rows=True), {**a, "group_size": 64, "version": "gemv"}, ff=64, only=few)
    c["nf4"] = llama(nf4, b4, ff=64, only=few)
    c["nf4-nested"] = llama(of(nf4, nested=True), {**b4, "bnb_4bit_use_double_quant": True}, ff=64, only=few)
    c["llm-int8"] = llama(llm_int8, dict(quant_method="bitsandbytes", load_in_8bit=True), only=few)
    c["packed-int4"] = llama(packed, compressed("pack-quantized", 4, "group", 32))
    c["packed-int4-zeros"] = llama(of(packed, sym=False), compressed("pack-quantized", 4, "group", 32, sym=False), only=few)
    c["packed-int4-small"] = llama(of(packed, tiny=10), compressed("pack-quantized", 4, "group", 32), only=few)
    c["packed-int4-order"] = llama(of(packed, order=shared), compressed("pack-quantized", 4, "group", 32), only=few)
    c["packed-int8"] = llama(of(packed, bits=8, group=-1, dtype="F16"), compressed("pack-quantized", 8, "channel"), only=few)
    c["int8"] = llama(int8, compressed("int-quantized", 8, "channel"), only=few)
    c["int8-zeros"] = llama(of(int8, sym=False, dtype="BF16"), compressed("int-quantized", 8, "channel", sym=False), only=few)
    c["int8-g32"] = llama(of(int8, group=32, dtype="BF16"), compressed("naive-quantized", 8, "group", 32), only=few)
    c["fp8"] = llama(fp8, dict(quant_method="fp8", activation_scheme="static"), only=few)
    c["fp8-blocks"] = llama(of(fp8, block=(16, 32), name=".weight_scale_inv"),
                            dict(quant_method="fp8", activation_scheme="dynamic", fmt="e4m3", weight_block_size=[16, 32]), only=few)
    c["fp8-rows"] = llama(of(fp8, per_row=True, dtype="BF16"), compressed("float-quantized", 8, "channel", kind="float"), only=few)
    c["fp8-e5m2"] = llama(of(fp8, form="E5M2"), dict(quant_method="fp8", fmt="e5m2"), only=few)
    c["mxfp4"] = gpt_oss()
    c["ternary"] = llama(ternary, dict(quant_method="bitnet", linear_class="autobitlinear", quantization_mode="offline"), ff=96, only=few)
    c["ternary-divided"] = llama(of(ternary, divides=True), dict(quant_method="bitnet", modules_to_not_convert=None), only=few)
    c["gptq-value-heads"] = qwen3_5(of(gptq, order=own), act)
    plain8 = llama(of(fp8, scaled=False), None, only=few)
    del plain8["config"]["quantization_config"]
    c["plain-e4m3"] = plain8
    return c


def main():
    out = Path(sys.argv[1]) / "quantised"
    out.mkdir(exist_ok=True)
    for name, checkpoint in checkpoints().items():
        text = json.dumps(checkpoint, separators=(",", ":"))
        for member in ("tensors", "packed", "expected"):
            text = text.replace(f'"{member}":', f'\n"{member}":', 1)
        (out / f"{name}.json").write_text(text + "\n")
        print(name, len(text), max(e["error"] for e in checkpoint["expected"].values()))


main()
