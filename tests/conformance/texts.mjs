// Seven texts of about a megabyte, each a list of passages: the cases.
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';

import { need, needShared, root } from './places.mjs';
import { Random } from './random.mjs';

const kTextBytes = 1_000_000;
const kPassageCharactersMax = 120;
// Debian's unicode-data, of which the program's own tables are made: newer characters would be known to one side only.
const kUnicodeFolder = '/usr/share/unicode';

const characters = (...ranges) => ranges.flatMap(([first, last = first]) => {
  return Array.from({ length: last - first + 1 }, (_, i) => String.fromCodePoint(first + i));
});

// Neighbouring lines together, so that line ends are inside passages too; some of them as Windows writes them.
function passagesOf(lines, linesMax, random) {
  const passages = [];
  let bytes = 0;
  for (let at = 0; at < lines.length && bytes < kTextBytes;) {
    const count = random.integer(1, linesMax);
    const passage = lines.slice(at, at + count).join(random.next() < 0.1 ? '\r\n' : '\n');
    passages.push(passage);
    bytes += Buffer.byteLength(passage);
    at += count;
  }
  return passages;
}

// Random characters of `alphabet`, with one of `extras` among six.
function passagesFrom(alphabet, extras, random) {
  const passages = [];
  let bytes = 0;
  while (bytes < kTextBytes) {
    const length = random.integer(1, kPassageCharactersMax);
    const passage = Array.from({ length }, () => random.pick(random.next() < 0.85 ? alphabet : extras)).join('');
    passages.push(passage);
    bytes += Buffer.byteLength(passage);
  }
  return passages;
}

function codeLines() {
  const files = readdirSync(join(root, 'src'), { recursive: true }).filter((path) => /\.(cc|h)$/.test(path)).sort();
  return files.flatMap((path) => readFileSync(join(root, 'src', path), 'utf8').split('\n'));
}

function jsonLines() {
  const packed = readFileSync(needShared('data/json-schema/jsonschemabench-1500.jsonl.gz'));
  const schemas = gunzipSync(packed).toString().split('\n').filter((line) => line !== '');
  // Half as programs send it, half as people write it.
  return schemas.slice(0, 400).flatMap((line, i) => (i % 2 === 0 ? [line] : JSON.stringify(JSON.parse(line), null, 2).split('\n')));
}

// Every assigned character but line ends, which separate the cases of some judges, those of private use, and those whose
// category this node has from another version of Unicode.
function assignedCharacters() {
  const path = need(kUnicodeFolder, 'UnicodeData.txt', 'install the package unicode-data (./dev setup)');
  const assigned = [];
  const agrees = new Map();
  let first = 0;
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    const [hex, name, category] = line.split(';');
    if (hex === '' || category === 'Cs' || category === 'Co') continue;
    const code = Number.parseInt(hex, 16);
    if (!name.endsWith(', Last>')) first = code;
    if (!agrees.has(category)) agrees.set(category, new RegExp(`\\p{${category}}`, 'u'));
    assigned.push(...characters([first, code]).filter((c) => agrees.get(category).test(c) && !'\0\n\r'.includes(c)));
  }
  return assigned;
}

// Most assigned characters are ideographs and Hangul syllables: two of three are drawn from the others.
function unicodePassages(random) {
  const assigned = assignedCharacters();
  const rare = assigned.filter((c) => !/[\p{Script=Han}\p{Script=Hangul}]/u.test(c));
  const alphabet = Array.from({ length: 60_000 }, (_, i) => random.pick(i % 3 === 0 ? assigned : rare));
  return passagesFrom(alphabet, [..." \t 'sStTdlSabCDé123\u0301\u0300ﬁ"], random);
}

function emoji() {
  const pictures = characters([0x1f300, 0x1f64f], [0x1f680, 0x1f6c5], [0x1f900, 0x1f9bf], [0x2764]);
  // Joiner, variation selector, skin colours, key cap; often, so that sequences come about.
  const parts = ['\u200d', '\ufe0f', '\u{1f3fb}', '\u{1f3ff}', '\u20e3'];
  return [...pictures, ...Array.from({ length: 60 }, () => parts).flat()];
}

// [{name, passages}]
export function makeTexts() {
  const random = new Random(7);
  const prose = readFileSync(needShared('data/wikitext-2-test.txt'), 'utf8').split('\n');
  const ideographs = Array.from({ length: 800 }, () => String.fromCodePoint(random.integer(0x4e00, 0x59b7)));
  const chinese = [...ideographs, ...'，。！？、「」　Ａ１'];
  const arabic = characters([0x621, 0x652], [0x660], [0x6cc], [0x6af], [0xfdfa], [0xfefb]);
  return [
    { name: 'prose', passages: passagesOf(prose, 2, random) },
    { name: 'C++', passages: passagesOf(codeLines(), 8, random) },
    { name: 'JSON', passages: passagesOf(jsonLines(), 8, random) },
    { name: 'Chinese', passages: passagesFrom(chinese, [...' ,.!?1234567890'], random) },
    { name: 'Arabic', passages: passagesFrom(arabic, [...' 0123.,؟،'], random) },
    { name: 'emoji', passages: passagesFrom(emoji(), [...' ,.!?1234567890'], random) },
    { name: 'Unicode', passages: unicodePassages(random) },
  ];
}
