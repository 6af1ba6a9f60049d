// The time from starting a process to the first byte of its answer, with the model in the page cache: Bantam from a package (as it starts
// when the package was checked since the machine started, and checking all weights before they are used), Bantam from the GGUF file that it
// was made of, and llama.cpp's smallest program from that file. The goal is half of llama.cpp's.
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { median } from '../../tools/node/median.mjs';
import { mustRun, timeToFirstByte } from '../../tools/node/process.mjs';
import { formatTable } from '../../tools/node/table.mjs';
import { folder, llamaProgram, modelFile } from './places.mjs';

const kPrompt = 'Once upon a time';
async function packageOf(bantam, gguf, name) {
  const path = join(folder('models'), `${name}.bantam`);
  if (!existsSync(path) || statSync(path).mtimeMs < statSync(bantam).mtimeMs) await mustRun(bantam, ['pack', gguf, path, '--fast-start', '--force']);
  return path;
}

export async function raceFirstToken(bantam, entries, rounds) {
  const simple = await llamaProgram('llama-simple');
  const rows = [];
  for (const { model, type, threads } of entries) {
    process.stderr.write(`race: first token of ${model} ${type}, ${threads} threads\n`);
    const gguf = await modelFile({ model, type });
    const packed = await packageOf(bantam, gguf, `${model}-${type}`);
    const ours = (file) => ['run', file, '--raw', '-p', kPrompt, '-n', '1', '-t', `${threads}`, '--no-tuned'];
    const systems = [[bantam, ours(packed)], [bantam, [...ours(packed), '--verify', 'always']], [bantam, ours(gguf)], [simple, ['-m', gguf, '-n', '1', '-ngl', '0', kPrompt]]];
    const times = systems.map(() => []);
    // The first round brings everything into the page cache and is not counted.
    for (let round = 0; round <= rounds; ++round) {
      for (let turn = 0; turn < systems.length; ++turn) {
        const i = (round + turn) % systems.length;
        const ms = await timeToFirstByte(...systems[i]);
        if (round > 0) times[i].push(ms);
      }
    }
    const [fromPackage, checking, fromGguf, llama] = times.map(median);
    rows.push({ model, type, threads, fromPackage, checking, fromGguf, llama, ratio: fromPackage / llama, ratioChecking: checking / llama });
  }
  return rows;
}

export function printFirstToken(rows) {
  const lines = rows.map((row) => [row.model, row.type, `${row.threads}`, row.fromPackage.toFixed(0),
    row.checking.toFixed(0), row.fromGguf.toFixed(0), row.llama.toFixed(0), row.ratio.toFixed(2), row.ratioChecking.toFixed(2)]);
  console.log(formatTable(['model', 'format', 'threads', 'package ms', 'checking ms', 'GGUF ms', 'llama.cpp ms', 'ratio', 'checking'], lines));
}
