// One row of a table: how many cases of a judge passed, and the first that did not.
import { decode } from './bantam.mjs';

// Ids shown of each side, before and behind the first that differs.
const kIdsBefore = 3;
const kIdsBehind = 8;

export class Row {
  // `columns` are what the table shows of it besides the counts; `vocabulary` is the file, if ids are what is compared.
  constructor(columns, vocabulary = null) {
    this.columns = columns;
    this.vocabulary = vocabulary;
    this.cases = 0;
    this.passed = 0;
    this.bytes = 0;
    this.firstFailure = null;  // what describes it, in lines
    this.byText = new Map();
    this.leftOut = new Map();  // why, and how many characters or passages
  }

  leaveOut(count, why) {
    if (count > 0) this.leftOut.set(why, (this.leftOut.get(why) ?? 0) + count);
  }

  get failed() {
    return this.passed !== this.cases;
  }

  // `describe` is kept for the first failure only.
  add(ok, describe, text = null) {
    ++this.cases;
    if (ok) ++this.passed;
    else this.firstFailure ??= describe;
    if (text === null) return;
    const counts = this.byText.get(text) ?? { cases: 0, passed: 0 };
    ++counts.cases;
    if (ok) ++counts.passed;
    this.byText.set(text, counts);
  }

  addIds(expected, got, input, text = null) {
    const ok = got.error === undefined && sameIds(expected, got.ids);
    this.add(ok, () => describeIds(this.vocabulary, { expected, got, input, text }), text);
  }
}

export function sameIds(a, b) {
  return a.length === b.length && a.every((id, i) => id === b[i]);
}

// Printable ASCII that pastes back into JavaScript.
export function escape(text, charactersMax = 300) {
  const characters = [...text];
  const escaped = characters.slice(0, charactersMax).map((c) => {
    const code = c.codePointAt(0);
    if (c === '"' || c === '\\') return `\\${c}`;
    if (c === '\n') return '\\n';
    return code >= 0x20 && code < 0x7f ? c : `\\u{${code.toString(16)}}`;
  });
  return `"${escaped.join('')}"${characters.length > charactersMax ? ` and ${characters.length - charactersMax} more` : ''}`;
}

async function describeIds(vocabulary, { expected, got, input, text }) {
  const lines = [`text${text === null ? '' : ` (${text})`} ${escape(input)}`];
  if (got.error !== undefined) return [...lines, `bantam: ${got.error}`];
  let at = 0;
  while (at < expected.length && expected[at] === got.ids[at]) ++at;
  const before = await decode(vocabulary, expected.slice(Math.max(at - 40, 0), at));
  lines.push(`ids differ from number ${at} on, behind ${escape(before)}`);
  for (const [who, ids] of [['expected', expected], ['bantam  ', got.ids]]) {
    const shown = ids.slice(Math.max(at - kIdsBefore, 0), at + kIdsBehind);
    lines.push(`${who} ${ids.length} ids, ... ${shown.join(' ')} ...: ${escape(await decode(vocabulary, shown))}`);
  }
  return lines;
}
