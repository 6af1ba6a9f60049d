// The metadata of a GGUF file as an object; docs/formats/gguf.md is the format.
import { readFileSync } from 'node:fs';

const kString = 8;
const kArray = 9;

class Reader {
  constructor(path) {
    this.path = path;
    this.bytes = readFileSync(path);
    this.at = 0;
  }

  take(count) {
    const begin = this.at;
    this.at += count;
    if (this.at > this.bytes.length) throw new Error(`${this.path} ends within its metadata; fetch it again`);
    return begin;
  }

  u32() {
    return this.bytes.readUInt32LE(this.take(4));
  }

  // Lengths and counts of a vocabulary are far below 2^53.
  u64() {
    return Number(this.bytes.readBigUInt64LE(this.take(8)));
  }

  string() {
    const length = this.u64();
    const begin = this.take(length);
    return this.bytes.toString('utf8', begin, begin + length);
  }

  value(type) {
    switch (type) {
      case 0: case 7: return this.bytes.readUInt8(this.take(1));
      case 1: return this.bytes.readInt8(this.take(1));
      case 2: return this.bytes.readUInt16LE(this.take(2));
      case 3: return this.bytes.readInt16LE(this.take(2));
      case 4: return this.u32();
      case 5: return this.bytes.readInt32LE(this.take(4));
      case 6: return this.bytes.readFloatLE(this.take(4));
      case kString: return this.string();
      case kArray: return this.array();
      case 10: return this.u64();
      case 11: return Number(this.bytes.readBigInt64LE(this.take(8)));
      case 12: return this.bytes.readDoubleLE(this.take(8));
      default: throw new Error(`${this.path}: metadata type ${type} at byte ${this.at} is unknown; is it a GGUF of version 2 or 3?`);
    }
  }

  array() {
    const type = this.u32();
    return Array.from({ length: this.u64() }, () => this.value(type));
  }
}

export function readGgufMetadata(path) {
  const reader = new Reader(path);
  if (reader.bytes.toString('latin1', 0, 4) !== 'GGUF') throw new Error(`${path} is no GGUF file; fetch it again`);
  reader.take(4);
  reader.u32();  // version
  reader.u64();  // tensors
  const metadata = {};
  for (let left = reader.u64(); left > 0; --left) {
    const key = reader.string();
    metadata[key] = reader.value(reader.u32());
  }
  return metadata;
}
