// Encodes files with the JavaScript port of the tokenizers library:
//
//   node hugging_face_port.mjs TOKENIZER.json TEXT...
//
// writes the ids of each TEXT, on one line, to TEXT.ids. A process of its own because the port is slow and uses one processor.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

import { cache } from './places.mjs';

// The port is not installed beside this file but where ./dev put it.
const { Tokenizer } = createRequire(join(cache, 'package.json'))('@huggingface/tokenizers');

const [vocabulary, ...texts] = process.argv.slice(2);
const tokenizer = new Tokenizer(JSON.parse(readFileSync(vocabulary, 'utf8')), {});
for (const text of texts) {
  const { ids } = tokenizer.encode(readFileSync(text, 'utf8'), { add_special_tokens: false });
  writeFileSync(`${text}.ids`, ids.join(' '));
}
