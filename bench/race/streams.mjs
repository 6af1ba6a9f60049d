// Tokens per second of several streams at once: Bantam's engine and llama.cpp's batched-bench in turn, on the same file, with prompts of 64
// tokens and answers of 32. Beside that what the peer's program cannot do: streams that come one after another, with mixed lengths, compared
// with the peer's streams that all begin at once. The goal is to decode at three times llama.cpp's speed.
import { join } from 'node:path';

import { median } from '../../tools/node/median.mjs';
import { mustRun } from '../../tools/node/process.mjs';
import { formatTable } from '../../tools/node/table.mjs';
import { llamaProgram, modelFile, root } from './places.mjs';

const kPrompt = 64;
const kDecode = 32;
const kGoal = 3;

async function runEngine(file, streams, threads) {
  const run = async (name) => JSON.parse(await mustRun(join(root, 'build', 'release', 'engine_bench'), [file, '-t', `${threads}`,
    '--streams', `${streams}`, '-p', `${kPrompt}`, '-n', `${kDecode}`, '--repetitions', '1', '--only', name]))[0];
  const together = await run(`streams ${streams}`);
  const staggered = await run(`staggered ${streams}`);
  return { decode: together.decode_tokens_per_s, generated: together.generated_tokens_per_s, staggered: staggered.generated_tokens_per_s };
}

async function runBatched(program, file, streams, threads) {
  const context = streams * (kPrompt + kDecode) + 64;
  const out = await mustRun(program, ['-m', file, '-t', `${threads}`, '-tb', `${threads}`, '-c', `${context}`, '-npp', `${kPrompt}`,
    '-ntg', `${kDecode}`, '-npl', `${streams}`, '-ngl', '0', '--output-format', 'jsonl']);
  const row = JSON.parse(`${out}`.split('\n').find((line) => line.startsWith('{')));
  return { decode: row.speed_tg, generated: (streams * kDecode) / row.t };
}

export async function raceStreams(entries, streams, rounds) {
  const batched = await llamaProgram('llama-batched-bench');
  const rows = [];
  for (const { model, type, threads } of entries) {
    process.stderr.write(`race: ${streams} streams of ${model} ${type}, ${threads} threads\n`);
    const file = await modelFile({ model, type });
    const systems = [() => runEngine(file, streams, threads), () => runBatched(batched, file, streams, threads)];
    const runs = [[], []];
    for (let round = 0; round < rounds; ++round) {
      for (let turn = 0; turn < 2; ++turn) {
        const i = (round + turn) % 2;
        runs[i].push(await systems[i]());
      }
    }
    const of = (i, key) => median(runs[i].map((run) => run[key]));
    rows.push({ model, type, threads, streams, decode: of(0, 'decode'), generated: of(0, 'generated'), staggered: of(0, 'staggered'),
      llamaDecode: of(1, 'decode'), llamaGenerated: of(1, 'generated'), runs });
  }
  return rows;
}

export function printStreams(rows) {
  const lines = rows.map((row) => [row.model, row.type, `${row.threads}`, `${row.streams}`, row.decode.toFixed(1), row.llamaDecode.toFixed(1),
    (row.decode / row.llamaDecode).toFixed(2), row.generated.toFixed(1), row.llamaGenerated.toFixed(1),
    (row.generated / row.llamaGenerated).toFixed(2), row.staggered.toFixed(1), (row.staggered / row.llamaGenerated).toFixed(2),
    row.decode >= kGoal * row.llamaDecode ? 'yes' : 'no']);
  console.log(formatTable(['model', 'format', 'threads', 'streams', 'decode', 'llama.cpp', 'ratio', 'with prompts', 'llama.cpp', 'ratio',
    'staggered', 'ratio', 'goal'], lines));
}
