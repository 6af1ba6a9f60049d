// The systems in the race: each measures one file with one number of threads and gives tokens per second by test.
import { mustRun } from '../../tools/node/process.mjs';

export const nameOf = ({ kind, tokens, depth }) => `${kind} ${tokens}${depth > 0 ? ` at ${depth}` : ''}`;

// Tests of one depth go into one process: it loads the model once.
function byDepth(tests) {
  const groups = new Map();
  for (const test of tests) groups.set(test.depth, [...(groups.get(test.depth) ?? []), test]);
  return groups;
}
const tokensOf = (tests, kind) => tests.filter((test) => test.kind === kind).map((test) => test.tokens).join(',') || '0';

export async function runBantam(program, file, threads, tests) {
  const speeds = new Map();
  const limits = { bandwidth: new Map(), int8: new Map() };
  for (const [depth, group] of byDepth(tests)) {
    const rows = JSON.parse(await mustRun(program, ['bench', file, '-t', `${threads}`, '-d', `${depth}`, '--repetitions', '1', '--json', '--no-tuned',
      '--kv', 'f16', '-p', tokensOf(group, 'prompt'), '-n', tokensOf(group, 'decode')]));
    for (const row of rows) {
      const name = nameOf({ kind: row.test, tokens: row.tokens, depth: row.depth });
      speeds.set(name, row.tokens_per_s);
      limits.bandwidth.set(name, row.bytes_per_s / row.memory_bytes_per_s);
      limits.int8.set(name, row.multiplies_per_s / row.int8_multiplies_per_s);
    }
  }
  return { speeds, limits };
}

// llama-bench, and ik_llama.cpp's, which repacks when it is told to and knows no depth. The first of two runs finds cold caches, as ours.
export async function runLlamaBench(program, file, threads, tests, { more = [], depths = true } = {}) {
  const speeds = new Map();
  for (const [depth, group] of byDepth(tests)) {
    if (depth > 0 && !depths) continue;
    const prompts = tokensOf(group, 'prompt');
    const decodes = tokensOf(group, 'decode');
    const rows = JSON.parse(await mustRun(program, ['-m', file, '-t', `${threads}`, '-p', prompts, '-n', decodes, '-r', '2', '-o', 'json',
      ...(depth > 0 ? ['-d', `${depth}`] : []), ...more]));
    for (const row of rows) {
      const kind = row.n_gen === 0 ? 'prompt' : 'decode';
      speeds.set(nameOf({ kind, tokens: kind === 'prompt' ? row.n_prompt : row.n_gen, depth: row.n_depth ?? 0 }), row.samples_ts.at(-1));
    }
  }
  return { speeds };
}
