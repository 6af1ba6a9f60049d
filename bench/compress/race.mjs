// ./dev race compress: models quantised by llama.cpp's llama-quantize and by Bantam, with the same importance and from the same text, and
// all of them judged by llama-perplexity on a text that nobody was calibrated on; and the time of plain formats, in turn. Prints tables,
// says which rows meet the bar, and writes JSON.
import { existsSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

import { median } from '../../tools/node/median.mjs';
import { mustRun, run } from '../../tools/node/process.mjs';
import { formatTable } from '../../tools/node/table.mjs';
import { folder, llamaProgram, modelFile, root } from '../race/places.mjs';

const kUsage = `usage: ./dev race compress [OPTIONS]

  --models A,B       only these: stories15m, minimind2-small, demo
  --types A,B        only these mixes with importance (default: Q4_0,Q4_K_S,IQ4_XS,Q3_K_M)
  --plain A,B        only these formats without it, whose time is measured (default: Q8_0,Q4_0)
  --folder PATH      where stories15M-f16.gguf and minimind2-small/ are (default: ../shared/models)
  --threads N        of all programs (default: 2)
  --rounds N         medians of this many for the time of plain formats (default: 5)
  --json FILE        where to write the rows (default: compress.json in the cache folder)

Texts are written by each model itself, once, and kept in the cache folder.

environment: BANTAM_LLAMA_CPP=FOLDER  a llama.cpp with build/bin/llama-quantize, llama-imatrix and llama-perplexity
`;

// Windows of both texts, answers that make them, and what those begin with.
const kModels = {
  stories15m: {
    context: 128, calibration: 80, test: 32, tokens: 200, raw: true,
    prompts: ['Once upon a time', 'One day,', 'There was a', 'Lily', 'Tom and his', 'The little'],
  },
  'minimind2-small': {
    context: 512, calibration: 48, test: 24, tokens: 400, raw: false,
    prompts: ['请介绍一下北京。', '写一篇关于春天的短文。', '什么是机器学习？', '怎样保持健康？', '讲一个关于狐狸的故事。', '为什么天空是蓝色的？'],
  },
  demo: {
    context: 512, calibration: 24, test: 12, tokens: 300, raw: false,
    prompts: ['Tell me about the history of bread.', 'How do bridges carry their load?', 'Write a story about a lighthouse.',
      'Explain how a computer adds two numbers.', 'What should I see in Rome?', 'Why do leaves fall in autumn?'],
  },
};

async function baseOf(name, options) {
  if (name === 'demo') return modelFile({ model: 'demo' });
  const base = name === 'stories15m' ? join(options.folder, 'stories15M-f16.gguf') : join(folder('compress'), `${name}-f16.gguf`);
  if (name !== 'stories15m' && !existsSync(base)) {
    await mustRun(options.bantam, ['quantize', join(options.folder, name), base, '--type', 'F16', '--no-compare']);
  }
  if (!existsSync(base)) throw new Error(`${base} is missing; name the folder that has it (--folder)`);
  return base;
}

// A text that the model writes, an answer for each seed.
async function textOf(name, base, what, options) {
  const path = join(folder('compress'), `${name}-${what}.txt`);
  if (existsSync(path)) return path;
  const model = kModels[name];
  const first = what === 'test' ? 1001 : 1;
  const answers = [];
  for (let i = 0; i < model[what]; ++i) {
    const prompt = model.prompts[i % model.prompts.length];
    const answer = await mustRun(options.bantam, ['run', base, ...(model.raw ? ['--raw'] : []), '-p', prompt, '-n', `${model.tokens}`,
      '--temperature', '1', '--seed', `${first + i}`, '-t', `${options.threads}`]);
    answers.push(`${model.raw ? prompt : ''}${answer}`.trim());
  }
  writeFileSync(path, `${answers.join('\n\n')}\n`);
  return path;
}

async function seconds(program, args) {
  const begin = performance.now();
  await mustRun(program, args);
  return (performance.now() - begin) / 1000;
}

// The mean divergence from the base and the perplexity, by llama-perplexity.
async function judge(setup, file) {
  const { code, out, err } = await run(setup.perplexity, ['-m', file, '-c', `${setup.context}`, '-t', `${setup.threads}`, '-ngl', '0',
    '--kl-divergence-base', setup.logits, '--kl-divergence']);
  const said = `${out}${err}`;
  const number = (name) => Number(said.match(new RegExp(`${name}\\s*:\\s*([0-9.]+)`))?.[1]);
  const judged = { kl: number('Mean\\s+KLD'), perplexity: number('Mean PPL\\(Q\\)'), base_perplexity: number('Mean PPL\\(base\\)') };
  if (code !== 0 || !Object.values(judged).every(Number.isFinite)) {
    throw new Error(`llama-perplexity of ${file}: exit ${code}: ${said.trim().split('\n').at(-1)}`);
  }
  return judged;
}

async function prepare(name, options) {
  const base = await baseOf(name, options);
  const { context } = kModels[name];
  const calibration = await textOf(name, base, 'calibration', options);
  const test = await textOf(name, base, 'test', options);
  const quantize = await llamaProgram('llama-quantize');
  const perplexity = await llamaProgram('llama-perplexity');
  const importance = join(folder('compress'), `${name}-imatrix.gguf`);
  const shared = ['-c', `${context}`, '-t', `${options.threads}`, '-ngl', '0'];
  await mustRun(await llamaProgram('llama-imatrix'), ['-m', base, '-f', calibration, '-o', importance, '--no-ppl', ...shared]);
  const logits = join(folder('compress'), `${name}.logits`);
  await mustRun(perplexity, ['-m', base, '-f', test, '--kl-divergence-base', logits, ...shared]);
  return { name, base, context, calibration, importance, logits, quantize, perplexity, threads: options.threads, bantam: options.bantam };
}

// What makes a file of a type, by system. The demo model is quantised already.
function makers(setup, out) {
  const ours = (type, more) => ['quantize', setup.base, out, '--type', type, '-t', `${setup.threads}`, '--no-compare', '--force', ...more];
  const theirs = (type, more) => ['--allow-requantize', ...more, setup.base, out, type, `${setup.threads}`];
  return {
    llama: (type) => seconds(setup.quantize, theirs(type, ['--imatrix', setup.importance])),
    importance: (type) => seconds(setup.bantam, ours(type, ['--imatrix', setup.importance])),
    feedback: (type) =>
      seconds(setup.bantam, ours(type, ['--imatrix', setup.importance, '--calibrate', setup.calibration, '--context', `${setup.context}`])),
    llamaPlain: (type) => seconds(setup.quantize, theirs(type, [])),
    bantamPlain: (type) => seconds(setup.bantam, ours(type, [])),
  };
}

async function raceType(setup, type) {
  const out = join(folder('compress'), `${setup.name}-made.gguf`);
  const make = makers(setup, out);
  const row = { model: setup.name, type };
  for (const system of ['llama', 'importance', 'feedback']) {
    process.stderr.write(`race: ${setup.name} ${type}, ${system}\n`);
    rmSync(out, { force: true });
    const s = await make[system](type);
    row[system] = { ...(await judge(setup, out)), bytes: statSync(out).size, seconds: s };
  }
  rmSync(out, { force: true });
  const better = (system) => row[system].kl < row.llama.kl && row[system].perplexity < row.llama.perplexity;
  return { ...row, importance_bar: better('importance'), feedback_bar: better('feedback') };
}

// Both in turn; another one begins each round.
async function racePlain(setup, type, rounds) {
  process.stderr.write(`race: ${setup.name} ${type}, ${rounds} rounds\n`);
  const out = join(folder('compress'), `${setup.name}-made.gguf`);
  const make = makers(setup, out);
  const times = { llamaPlain: [], bantamPlain: [] };
  for (let round = 0; round < rounds; ++round) {
    const systems = round % 2 === 0 ? ['llamaPlain', 'bantamPlain'] : ['bantamPlain', 'llamaPlain'];
    for (const system of systems) {
      rmSync(out, { force: true });
      times[system].push(await make[system](type));
    }
  }
  rmSync(out, { force: true });
  const [llama, bantam] = [median(times.llamaPlain), median(times.bantamPlain)];
  return { model: setup.name, type, llama, bantam, ratio: bantam / llama, bar: bantam <= llama, runs: times };
}

const kSystems = ['llama', 'importance', 'feedback'];
function print(rows, plain) {
  const three = (row, digits, pick) => kSystems.map((system) => pick(row[system]).toFixed(digits));
  const lines = rows.map((row) => [row.model, row.type, ...three(row, 4, (each) => each.kl), ...three(row, 4, (each) => each.perplexity),
    ...[row.llama, row.feedback].map((each) => (each.bytes / 2 ** 20).toFixed(2)), ...three(row, 1, (each) => each.seconds),
    row.importance_bar ? 'yes' : 'NO', row.feedback_bar ? 'yes' : 'NO']);
  const head = ['model', 'type', 'KL llama', 'weighted', 'feedback', 'PPL llama', 'weighted', 'feedback', 'MiB llama', 'Bantam', 's llama',
    'weighted', 'feedback', 'bar weighted', 'bar feedback'];
  if (lines.length > 0) console.log(formatTable(head, lines));
  for (const name of new Set(rows.map((row) => row.model))) {
    console.log(`perplexity of ${name} itself: ${rows.find((row) => row.model === name).llama.base_perplexity.toFixed(4)}`);
  }
  const times = plain.map((row) => [row.model, row.type, row.llama.toFixed(3), row.bantam.toFixed(3), row.ratio.toFixed(2), row.bar ? 'yes' : 'NO']);
  if (times.length > 0) console.log(`\n${formatTable(['model', 'plain type', 's llama', 's Bantam', 'ratio', 'bar'], times)}`);
}

async function main() {
  const texts = ['models', 'types', 'plain', 'folder', 'threads', 'rounds', 'json'];
  const { values } = parseArgs({ options: { ...Object.fromEntries(texts.map((name) => [name, { type: 'string' }])), help: { type: 'boolean', short: 'h' } } });
  if (values.help) return process.stdout.write(kUsage);
  const list = (name, otherwise) => (values[name] ?? otherwise).split(',').filter((each) => each !== '');
  const whole = (name, otherwise) => {
    const number = Number(values[name] ?? otherwise);
    if (!Number.isInteger(number) || number < 1) throw new Error(`--${name} ${values[name]}: expected a whole number from 1`);
    return number;
  };
  const options = { folder: resolve(values.folder ?? join(root, '..', 'shared', 'models')), threads: whole('threads', 2), rounds: whole('rounds', 5),
    bantam: process.env.BANTAM ?? join(root, 'build', 'release', 'bantam') };
  const models = list('models', Object.keys(kModels).join(','));
  const unknown = models.find((name) => kModels[name] === undefined);
  if (unknown !== undefined) throw new Error(`--models ${unknown}: expected some of ${Object.keys(kModels).join(', ')}`);
  const file = values.json ?? join(folder('results'), 'compress.json');
  const rows = [];
  const plain = [];
  const keep = () => writeFileSync(file, JSON.stringify({ processor: cpus()[0].model, threads: options.threads, rows, plain }, null, 2));
  for (const name of models) {
    const setup = await prepare(name, options);
    for (const type of list('types', 'Q4_0,Q4_K_S,IQ4_XS,Q3_K_M')) {
      rows.push(await raceType(setup, type));
      keep();
    }
    for (const type of list('plain', 'Q8_0,Q4_0')) {
      plain.push(await racePlain(setup, type, options.rounds));
      keep();
    }
    rmSync(setup.logits, { force: true });
  }
  print(rows, plain);
  const met = rows.filter((row) => row.feedback_bar).length + plain.filter((row) => row.bar).length;
  console.log(`\n${met} of ${rows.length + plain.length} rows meet the bar (lower divergence and perplexity with feedback; plain types not slower); ` +
    `rows are in ${file}`);
  if (met < rows.length + plain.length) process.exitCode = 1;
}

main().catch((error) => {
  process.stderr.write(`race: ${error.message}\n`);
  process.exitCode = 2;
});
