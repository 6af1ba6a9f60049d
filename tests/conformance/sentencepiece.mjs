// SentencePiece models, trained here, against spm_encode.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { parseIds, tokenize } from './bantam.mjs';
import { fileName, makeFolder } from './places.mjs';
import { mapParallel, mustRun } from '../../tools/node/process.mjs';
import { Random } from './random.mjs';
import { Row } from './row.mjs';

const kLineBytesMax = 8000;
// Longer lines than this are left out by spm_train.
const kTrainingLineBytesMax = 4000;
const kSymbols = '--user_defined_symbols=<sep>,std::,the,{"type":,。';
const kSpaceSymbols = `--user_defined_symbols=<table>,${[2, 3, 4, 8, 16].map((n) => '\u2581'.repeat(n)).join(',')}`;

// Settings of well-known families, so that their normalizers and space rules are met too.
const kModels = [
  { name: 'unigram, bytes', options: ['--model_type=unigram', '--vocab_size=8000', '--byte_fallback'] },
  { name: 'unigram', options: ['--model_type=unigram', '--vocab_size=4000', '--normalization_rule_name=nmt_nfkc_cf'] },
  { name: 'unigram, symbols', options: ['--model_type=unigram', '--vocab_size=6000', '--treat_whitespace_as_suffix', kSymbols] },
  { name: 'BPE, bytes, as Llama', options: [
    '--model_type=bpe', '--vocab_size=8000', '--byte_fallback', '--split_digits', '--normalization_rule_name=identity',
    '--remove_extra_whitespaces=false', '--allow_whitespace_only_pieces',
  ] },
  { name: 'BPE, bytes, as Gemma', options: [
    '--model_type=bpe', '--vocab_size=8000', '--byte_fallback', '--split_digits', '--normalization_rule_name=identity',
    '--remove_extra_whitespaces=false', '--add_dummy_prefix=false', kSpaceSymbols,
  ] },
  { name: 'BPE, symbols', options: ['--model_type=bpe', '--vocab_size=4000', kSymbols] },
];

async function train({ name, options }, corpus, folder) {
  const prefix = join(folder, fileName(name));
  await mustRun('spm_train', [`--input=${corpus}`, `--model_prefix=${prefix}`, '--num_threads=1', '--minloglevel=2', ...options]);
  return `${prefix}.model`;
}

// spm_encode reads a text per line. Single passages, and many at once up to some kilobytes.
function linesOf(passages, random) {
  const lines = [];
  let line = '';
  let lineBytes = 0;
  for (const passage of passages) {
    line += (line === '' ? '' : ' ') + passage.replaceAll('\n', ' ');
    if (Buffer.byteLength(line) < lineBytes) continue;
    lines.push(line);
    line = '';
    lineBytes = random.next() < 0.4 ? 0 : random.integer(1, kLineBytesMax);
  }
  return lines.concat(line === '' ? [] : [line]);
}

function writeCorpus(texts, path) {
  const bytesMax = { prose: Infinity, 'C++': 300_000, JSON: 100_000, Chinese: 100_000, Arabic: 50_000 };
  const lines = texts.flatMap(({ name, passages }) => {
    let bytes = 0;
    const short = passages.flatMap((passage) => passage.split('\n')).filter((line) => Buffer.byteLength(line) < kTrainingLineBytesMax);
    return short.filter((line) => (bytes += Buffer.byteLength(line)) <= (bytesMax[name] ?? 0));
  });
  writeFileSync(path, `${lines.join('\n')}\n`);
}

async function checkModel({ name }, model, texts) {
  const row = new Row([name, 'trained here', 'SentencePiece'], model);
  for (const { name: text, lines } of texts) {
    const out = await mustRun('spm_encode', [`--model=${model}`, '--output_format=id'], `${lines.join('\n')}\n`);
    const expected = out.toString().split('\n').map(parseIds);
    const got = await mapParallel(lines, (line) => tokenize(model, line));
    lines.forEach((line, i) => {
      row.bytes += Buffer.byteLength(line);
      row.addIds(expected[i], got[i], line, text);
    });
  }
  return row;
}

export async function checkSentencePiece(texts) {
  const folder = makeFolder('sentencepiece');
  const corpus = join(folder, 'corpus.txt');
  writeCorpus(texts, corpus);
  const models = await mapParallel(kModels, (each) => train(each, corpus, folder));
  const random = new Random(11);
  const cut = texts.map(({ name, passages }) => ({ name, lines: linesOf(passages, random) }));
  const rows = [];
  for (let i = 0; i < kModels.length; ++i) rows.push(await checkModel(kModels[i], models[i], cut));
  return rows;
}
