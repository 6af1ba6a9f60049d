// tokenizer.json files against the JavaScript port of the library that they belong to (@huggingface/tokenizers of npm).
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { join } from 'node:path';

import { parseIds, tokenize } from './bantam.mjs';
import { fileName, makeFolder, needShared } from './places.mjs';
import { mapParallel, mustRun } from '../../tools/node/process.mjs';
import { Row } from './row.mjs';
import { madeVocabularies } from './tokenizer_json.mjs';

const kPort = fileURLToPath(new URL('hugging_face_port.mjs', import.meta.url));

// Characters that the port reads otherwise than the Rust library does, in a tokenizer.json to which the rule `applies`.
const kDeviations = [
  { why: 'U+0085 is white space in the library\'s ByteLevel and U+FEFF is not; in the port\'s it is the other way round',
    applies: (json) => /"ByteLevel"[^{}]*"use_regex":true/.test(JSON.stringify(json.pre_tokenizer)), characters: /[\u0085\ufeff]/gu },
  { why: 'Digits are numerals of every script in the library, 0 to 9 in the port',
    applies: (json) => /"Digits"/.test(JSON.stringify(json.pre_tokenizer)), characters: /(?![0-9])\p{N}/gu },
  { why: 'ideographs past U+FFFF stand alone in the library\'s BertNormalizer, not in the port\'s',
    applies: (json) => json.normalizer?.type === 'BertNormalizer', characters: /[\u{20000}-\u{2fa1f}]/gu },
  { why: 'the library lower-cases a capital sigma by itself, the port by its place in the word',
    applies: (json) => json.normalizer?.type === 'BertNormalizer', characters: /\u03a3/gu },
];

function findVocabularies(folder) {
  const made = madeVocabularies.map(({ name, gguf, make }) => {
    const json = make(needShared(`golden/tokenizers/ggml-vocab-${gguf}.gguf`));
    const path = join(folder, `${fileName(name)}.json`);
    writeFileSync(path, JSON.stringify(json));
    return { name, source: 'made of GGUF', path, json };
  });
  const path = needShared('models/minimind2-small/tokenizer.json');
  return [...made, { name: 'minimind2-small', source: 'published', path, json: JSON.parse(readFileSync(path, 'utf8')) }];
}

// A special token ends every passage, so that all of a text is one call and the ids of each passage can still be told apart.
const separatorOf = (json) => json.added_tokens.filter(({ special, lstrip, rstrip }) => special && !lstrip && !rstrip).at(-1);

// `passages` without what the two sides would read differently.
function usablePassages(passages, json, separator, row) {
  let usable = passages.filter((passage) => !passage.includes(separator));
  row.leaveOut(passages.length - usable.length, 'passages, which name the special token that separates passages here');
  for (const { why, applies, characters } of kDeviations) {
    if (!applies(json)) continue;
    let count = 0;
    usable = usable.map((passage) => passage.replace(characters, () => {
      ++count;
      return '';
    }));
    row.leaveOut(count, `characters: ${why}`);
  }
  return usable;
}

function cutAt(ids, separatorId) {
  const parts = [[]];
  for (const id of ids) {
    if (id === separatorId) parts.push([]);
    else parts.at(-1).push(id);
  }
  parts.pop();
  return parts;
}

function compareText(row, { name, passages }, expected, got, separatorId) {
  const theirs = cutAt(expected, separatorId);
  const ours = got.error === undefined ? cutAt(got.ids, separatorId) : [];
  if (theirs.length !== passages.length) throw new Error(`${name}: tokenizers.js gave ${theirs.length} of ${passages.length} passages`);
  passages.forEach((passage, i) => {
    row.bytes += Buffer.byteLength(passage);
    row.addIds(theirs[i] ?? [], got.error === undefined ? { ids: ours[i] ?? [-1] } : got, passage, name);
  });
}

async function checkVocabulary({ name, source, path, json }, texts) {
  const row = new Row([name, source, 'tokenizers.js'], path);
  const folder = makeFolder('hugging_face', fileName(name));
  const separator = separatorOf(json);
  const usable = texts.map((text, i) => {
    const passages = usablePassages(text.passages, json, separator.content, row);
    const file = join(folder, `${i}.txt`);
    writeFileSync(file, passages.map((passage) => passage + separator.content).join(''));
    return { name: text.name, passages, file };
  });
  await mustRun(process.execPath, [kPort, path, ...usable.map(({ file }) => file)]);
  for (const text of usable) {
    const expected = parseIds(readFileSync(`${text.file}.ids`, 'utf8'));
    const got = await tokenize(path, readFileSync(text.file), { special: true });
    compareText(row, text, expected, got, separator.id);
  }
  return row;
}

export function checkHuggingFace(texts) {
  return mapParallel(findVocabularies(makeFolder('hugging_face')), (vocabulary) => checkVocabulary(vocabulary, texts));
}
