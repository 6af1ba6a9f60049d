// ./dev race: Bantam and its peers in turn on the same files. Prints a table with ratios, and writes JSON.
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { goalOf, ikOverLlama } from './figures.mjs';
import { printFirstToken, raceFirstToken } from './first_token.mjs';
import { folder, llamaProgram, modelFile, root } from './places.mjs';
import { nameOf, runBantam, runLlamaBench } from './runners.mjs';
import { printStreams, raceStreams } from './streams.mjs';
import { median } from '../../tools/node/median.mjs';
import { formatTable } from '../../tools/node/table.mjs';

const kUsage = `usage: ./dev race [OPTIONS]

  --full             all models, formats and threads; without it a subset of under 30 minutes
  --models A,B       only these: stories15m, smollm2-135m, qwen2.5-0.5b, tinyllama-1.1b, llama-3.2-3b, demo
  --types A,B        only these formats: f16, bf16, q8_0, q4_0, q4_k_m
  --threads 1,2      only these numbers of threads
  --first-token      instead: milliseconds from starting a process to its first token, from packages and GGUF files
  --streams N        instead: tokens/s of N streams at once, against llama.cpp's batched-bench
  --rounds N         medians of this many (default: 3)
  --json FILE        where to write the rows (default: race.json in the cache folder)

environment: BANTAM_LLAMA_CPP=FOLDER  a llama.cpp with build/bin/llama-bench, instead of fetching and building one
             IK_BIN=FOLDER            programs of ik_llama.cpp, which join the race; without them its column is estimated
`;

const kTypes = ['f16', 'bf16', 'q8_0', 'q4_0', 'q4_k_m'];
const kModels = ['stories15m', 'smollm2-135m', 'qwen2.5-0.5b', 'tinyllama-1.1b', 'llama-3.2-3b'];
const kShort = [
  { kind: 'prompt', tokens: 128, depth: 0 }, { kind: 'prompt', tokens: 512, depth: 0 }, { kind: 'decode', tokens: 128, depth: 0 },
];
const kDeep = { kind: 'decode', tokens: 128, depth: 2048 };

// One file with one number of threads, and what is measured on it.
function entries(options) {
  const wanted = (list, value) => list === undefined || list.split(',').includes(`${value}`);
  const all = [...kModels.flatMap((model) => kTypes.map((type) => ({ model, type }))), { model: 'demo', type: 'iq2_xxs' }];
  // The subset leaves out what takes long and tells little more: large models with one thread or in 16 bits.
  const large = ({ model }) => model === 'tinyllama-1.1b' || model === 'llama-3.2-3b';
  const inSubset = ({ model, type, threads }) =>
    model !== 'llama-3.2-3b' && type !== 'bf16' && !(large({ model }) && (threads === 1 || type === 'f16'));
  return all
    .flatMap((each) => (options.threads ?? '1,2').split(',').map((threads) => ({ ...each, threads: Number(threads) })))
    .filter((each) => wanted(options.models, each.model) && wanted(options.types, each.type))
    .filter((each) => options.full || options.models !== undefined || options.types !== undefined || inSubset(each))
    .map((each) => ({ ...each, tests: options.full || each.type === 'q4_0' ? [...kShort, kDeep] : kShort }));
}

// Every system once per round, in turn, so that what else the machine does hits all of them.
async function measure(entry, systems, rounds) {
  const file = await modelFile(entry);
  const runs = systems.map(() => []);
  for (let round = 0; round < rounds; ++round) {
    // Another one begins each round.
    for (let turn = 0; turn < systems.length; ++turn) {
      const i = (round + turn) % systems.length;
      runs[i].push(await systems[i].run(file, entry));
    }
  }
  return entry.tests.map((test) => {
    const name = nameOf(test);
    const row = { model: entry.model, type: entry.type, threads: entry.threads, test: name, kind: test.kind, depth: test.depth };
    for (const [i, system] of systems.entries()) {
      const speeds = runs[i].map((run) => run.speeds.get(name)).filter((each) => each !== undefined);
      if (speeds.length > 0) Object.assign(row, { [system.name]: median(speeds), [`${system.name}_runs`]: speeds });
    }
    for (const limit of ['bandwidth', 'int8']) row[limit] = median(runs[0].map((run) => run.limits[limit].get(name)));
    return judge(row, entry, test);
  });
}

// Ratios to the peers; the gate is the better of both.
function judge(row, entry, test) {
  row.over_llama = row.bantam / row.llama;
  const ratio = ikOverLlama(entry, test);
  if (row.ik === undefined && ratio !== undefined) Object.assign(row, { ik: row.llama * ratio, ik_estimated: true });
  if (row.ik !== undefined) row.over_ik = row.bantam / row.ik;
  row.gate = row.bantam >= Math.max(row.llama, row.ik ?? 0);
  const goal = goalOf(entry, test);
  const reached = [[goal.llama, row.over_llama], [goal.ik, row.over_ik], [goal.bandwidth, row.bandwidth], [goal.int8, row.int8]]
    .filter(([wanted, got]) => wanted !== undefined && got !== undefined);
  row.goal = reached.length === 0 ? undefined : reached.every(([wanted, got]) => got >= wanted);
  return row;
}

const fixed = (value, digits) => (value === undefined ? '-' : value.toFixed(digits));
const speed = (value) => fixed(value, value >= 1000 ? 0 : 1);
function print(rows) {
  const lines = rows.map((row) => [row.model, row.type, `${row.threads}`, row.test, speed(row.bantam), speed(row.llama),
    fixed(row.over_llama, 2), `${speed(row.ik)}${row.ik_estimated ? '*' : ''}`, fixed(row.over_ik, 2), fixed(100 * row.bandwidth, 0),
    fixed(100 * row.int8, 0), row.gate ? 'yes' : 'NO', row.goal === undefined ? '' : row.goal ? 'yes' : 'no']);
  const head = ['model', 'format', 'threads', 'test', 'tokens/s', 'llama.cpp', 'ratio', 'ik_llama', 'ratio', '% memory', '% int8', 'gate',
    'goal'];
  console.log(formatTable(head, lines));
  if (rows.some((row) => row.ik_estimated)) {
    console.log('* ik_llama.cpp was not run: llama.cpp here times what ik reached over it on the reference machine');
  }
}

async function main() {
  const { values: options } = parseArgs({
    options: { full: { type: 'boolean' }, models: { type: 'string' }, types: { type: 'string' }, threads: { type: 'string' },
      rounds: { type: 'string', default: '3' }, json: { type: 'string' }, 'first-token': { type: 'boolean' },
      streams: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  });
  if (options.help) return process.stdout.write(kUsage);
  const rounds = Number(options.rounds);
  if (!Number.isInteger(rounds) || rounds < 1) throw new Error(`--rounds ${options.rounds}: expected a whole number from 1`);
  const wanted = entries(options);
  if (wanted.length === 0) throw new Error('no model, format and number of threads is left to measure; ./dev race --help lists them');
  const bantam = join(root, 'build', 'release', 'bantam');
  if (options['first-token']) return printFirstToken(await raceFirstToken(bantam, wanted, rounds));
  if (options.streams !== undefined) {
    const streams = Number(options.streams);
    if (!Number.isInteger(streams) || streams < 1) throw new Error(`--streams ${options.streams}: expected a whole number from 1`);
    const rows = await raceStreams(wanted, streams, rounds);
    writeFileSync(options.json ?? join(folder('results'), 'streams.json'), JSON.stringify({ processor: cpus()[0].model, rounds, rows }, null, 2));
    return printStreams(rows);
  }
  const llama = await llamaProgram('llama-bench');
  const systems = [{ name: 'bantam', run: (file, { threads, tests }) => runBantam(bantam, file, threads, tests) },
    { name: 'llama', run: (file, { threads, tests }) => runLlamaBench(llama, file, threads, tests) }];
  if (process.env.IK_BIN) {
    const ik = join(process.env.IK_BIN, 'llama-bench');
    // Repacked F16 would become bf16, which loses bits.
    const settings = (type) => ({ more: type === 'f16' ? [] : ['-rtr', '1'], depths: false });
    systems.push({ name: 'ik', run: (file, { type, threads, tests }) => runLlamaBench(ik, file, threads, tests, settings(type)) });
  }
  const rows = [];
  const file = options.json ?? join(folder('results'), 'race.json');
  for (const [i, entry] of wanted.entries()) {
    process.stderr.write(`race: ${i + 1} of ${wanted.length}: ${entry.model} ${entry.type}, ${entry.threads} threads\n`);
    rows.push(...await measure(entry, systems, rounds));
    writeFileSync(file, JSON.stringify({ processor: cpus()[0].model, rounds, rows }, null, 2));
  }
  print(rows);
  console.log(`\n${rows.filter((row) => row.gate).length} of ${rows.length} rows pass the gate; rows are in ${file}`);
  if (!rows.every((row) => row.gate)) process.exitCode = 1;
}

main().catch((error) => {
  process.stderr.write(`race: ${error.message}\n`);
  process.exitCode = 2;
});
