#!/usr/bin/env python3
"""Writes stories260K: a PEFT adapter of random F16 numbers for tests/data/models/stories260K.gguf, the same in every run."""
import json
import os
import struct

LAYERS, WIDTH, KV_WIDTH, RANK = 5, 64, 32, 2
state = 1


def number():
    """Numerical Recipes' generator, as an F16 number from -1 to 1."""
    global state
    state = (state * 1664525 + 1013904223) % 2**32
    return struct.pack("<e", (state >> 24) / 128 - 1)


folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stories260K")
os.makedirs(folder, exist_ok=True)
tensors, data = {}, b""
for layer in range(LAYERS):
    for module, rows in (("q_proj", WIDTH), ("v_proj", KV_WIDTH)):
        for end, shape in (("A", [RANK, WIDTH]), ("B", [rows, RANK])):
            begin = len(data)
            data += b"".join(number() for _ in range(shape[0] * shape[1]))
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{end}.weight"
            tensors[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, len(data)]}
header = json.dumps(tensors).encode()
with open(os.path.join(folder, "adapter_model.safetensors"), "wb") as file:
    file.write(struct.pack("<Q", len(header)) + header + data)
with open(os.path.join(folder, "adapter_config.json"), "w") as file:
    json.dump({"peft_type": "LORA", "r": RANK, "lora_alpha": 1, "bias": "none", "target_modules": ["q_proj", "v_proj"]}, file)
    file.write("\n")
