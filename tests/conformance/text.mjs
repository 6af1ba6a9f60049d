// ./dev conformance: how much of what other implementations make of text this program makes too.
import { copyFileSync } from 'node:fs';

import { need, program, root } from './places.mjs';
import { checkGolden } from './golden.mjs';
import { checkHuggingFace } from './hugging_face.mjs';
import { checkSentencePiece } from './sentencepiece.mjs';
import { formatTable } from '../../tools/node/table.mjs';
import { checkTemplates } from './templates.mjs';
import { makeTexts } from './texts.mjs';

const say = (text) => process.stderr.write(`conformance: ${text}\n`);
const sum = (rows, member) => rows.reduce((total, row) => total + row[member], 0);

function notesOf(row) {
  return [...row.leftOut].map(([why, count]) => `${row.columns[0]}, ${row.columns.at(-1)}: ${count.toLocaleString('en')} ${why}`);
}

async function timed(what, work) {
  const begin = Date.now();
  const result = await work();
  say(`${what}: ${Math.round((Date.now() - begin) / 1000)} s`);
  return result;
}

function printVocabularies(rows) {
  console.log('\nVocabularies\n');
  const lines = rows.map((row) => [...row.columns, row.bytes, row.cases, row.passed, row.failed ? 'FAILED' : 'ok']);
  console.log(formatTable(['vocabulary', 'from', 'judge', 'bytes', 'cases', 'passed', 'result'], lines));
}

// The same cases by text, over all vocabularies that read it.
function printTexts(rows, texts) {
  console.log('\nTexts, over all vocabularies\n');
  const lines = texts.map(({ name, passages }) => {
    const counts = rows.map((row) => row.byText.get(name)).filter((each) => each !== undefined);
    const bytes = passages.reduce((total, passage) => total + Buffer.byteLength(passage), 0);
    return [name, bytes, passages.length, sum(counts, 'cases'), sum(counts, 'passed')];
  });
  console.log(formatTable(['text', 'bytes', 'passages', 'cases', 'passed'], lines));
}

function printTemplates(rows) {
  console.log('\nChat templates, against Jinja2\n');
  console.log(formatTable(['template', 'cases', 'passed', 'result'],
    rows.map((row) => [...row.columns, row.cases, row.passed, row.failed ? 'FAILED' : 'ok'])));
}

async function printSummary(tokenizers, templates, notes) {
  console.log('\nTotals\n');
  const line = (name, rows) => [name, rows.length, sum(rows, 'cases'), sum(rows, 'passed'), sum(rows, 'cases') - sum(rows, 'passed')];
  console.log(formatTable(['', 'rows', 'cases', 'passed', 'failed'], [line('vocabularies', tokenizers), line('templates', templates)]));
  console.log('\nLeft out\n');
  for (const note of notes) console.log(`- ${note}`);
  const failed = [...tokenizers, ...templates].filter((row) => row.failed);
  if (failed.length > 0) console.log('\nFirst failure of each row that failed\n');
  for (const row of failed) console.log(`- ${row.columns.join(', ')}\n    ${(await row.firstFailure()).join('\n    ')}`);
  return failed.length === 0;
}

async function main() {
  copyFileSync(need(root, 'build/release/bantam', 'run ./dev conformance, which builds it'), program);
  const texts = makeTexts();
  const golden = await timed('golden vocabularies', () => checkGolden(process.env.BANTAM_LLAMA_CPP));
  const templates = await timed('templates', checkTemplates);
  const sentencePiece = await timed('SentencePiece', () => checkSentencePiece(texts));
  const huggingFace = await timed('tokenizers.js', () => checkHuggingFace(texts));
  const tokenizers = [...golden.rows, ...huggingFace, ...sentencePiece];
  printVocabularies(tokenizers);
  printTexts(tokenizers, texts);
  printTemplates(templates);
  return printSummary(tokenizers, templates, [...golden.notes, ...huggingFace.flatMap(notesOf)]);
}

main().then((passed) => {
  process.exitCode = passed ? 0 : 1;
}, (error) => {
  say(error.message);
  process.exitCode = 1;
});
