// ./dev race serve: Bantam's gateway against llama.cpp's server on the same file, in turn: tokens per second with many clients, time to the
// first token behind a prefix that all requests share, and how long a refusal takes. Prints a table with ratios, and writes JSON.
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

import { formatTable } from '../../tools/node/table.mjs';
import { folder, llamaProgram, modelFile, root } from '../race/places.mjs';

const kUsage = `usage: ./dev race serve [OPTIONS]

  --model NAME       stories15m (default), smollm2-135m, qwen2.5-0.5b, tinyllama-1.1b, or another of the race's
  --type TYPE        q8_0 (default), q4_0, f16, ...
  --threads N        of both servers (default: 2)
  --clients N        at once (default: 8)
  --tokens N         of each answer (default: 64)
  --prefix N         tokens that all prompts begin with (default: 1000)
  --rounds N         medians of this many (default: 3)
  --json FILE        where to write the figures (default: serve.json in the cache folder)

environment: BANTAM_LLAMA_CPP=FOLDER  a llama.cpp with build/bin/llama-server, instead of fetching and building one
`;

// Answers of each client in a round, and prompts behind the shared prefix.
const kAnswers = 4;
const kFirstTokens = 8;
const kPromptTokens = 32;
// Requests that come at once where so many may wait or run.
const kCrowd = 64;
const kPlaces = 16;
// What a system may take to start.
const kStartMs = 120_000;

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
const now = () => Number(process.hrtime.bigint()) / 1e6;

// The same ids for both systems, below the smallest vocabulary of the race's models; each number has ids of its own.
function tokenIds(count, number) {
  let state = (number * 2654435761 + 12345) >>> 0;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 300 + (state >>> 8) % 30_000;
  });
}

function post(agent, port, body) {
  const began = now();
  return new Promise((resolve, reject) => {
    const text = JSON.stringify(body);
    const fields = { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) };
    const asked = request({ host: '127.0.0.1', port, method: 'POST', path: '/v1/completions', agent, headers: fields }, (response) => {
      let first;
      let answer = '';
      response.on('data', (piece) => {
        answer += piece;
        if (first === undefined && answer.includes('"text"')) first = now() - began;
      });
      response.on('end', () => resolve({ status: response.statusCode, body: answer, firstMs: first, ms: now() - began }));
      response.on('error', reject);
    });
    asked.on('error', reject);
    asked.end(text);
  });
}

async function startServer({ program, args, ready }) {
  const server = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  const port = await new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`${program} did not start: ${said}`)), kStartMs);
    createInterface({ input: server.stderr }).on('line', (line) => {
      said = `${said}${line}\n`.slice(-4000);
      const at = line.match(ready);
      if (at) resolve(Number(at[1]));
    });
    server.on('exit', (code) => reject(new Error(`${program} ended with ${code}: ${said}`)));
    server.on('exit', () => clearTimeout(late));
    Promise.resolve().then(() => late.unref());
  });
  const stop = () =>
    new Promise((resolve) => {
      server.on('exit', resolve);
      server.kill('SIGTERM');
    });
  return { port, stop };
}

// Each client asks for one answer after the other.
async function measureThroughput(port, system, options) {
  const agent = new Agent({ keepAlive: true, maxSockets: options.clients });
  const ask = (number) => post(agent, port, { prompt: tokenIds(kPromptTokens, number), max_tokens: options.tokens, temperature: 0, ...system.whole(options.tokens) });
  await Promise.all(Array.from({ length: options.clients }, (_, client) => ask(client)));
  const began = now();
  const counts = await Promise.all(
    Array.from({ length: options.clients }, async (_, client) => {
      let tokens = 0;
      for (let i = 0; i < kAnswers; ++i) {
        const answer = await ask(1000 + client * kAnswers + i);
        if (answer.status !== 200) throw new Error(`${system.name}: ${answer.status}: ${answer.body}`);
        tokens += JSON.parse(answer.body).usage.completion_tokens;
      }
      return tokens;
    }),
  );
  agent.destroy();
  return (counts.reduce((sum, count) => sum + count, 0) / (now() - began)) * 1000;
}

// The prefix was asked for before; what follows is new each time. A connection for each: llama.cpp's server ends one behind a stream, now and
// then only when the next request has been sent. One token is asked for, so that its text is whole: the beginning of a character would be held
// back here and sent as an empty text there.
async function measureFirstToken(port, system, options) {
  const agent = new Agent({ keepAlive: false });
  const prefix = tokenIds(options.prefix, 7);
  const times = [];
  for (let i = 0; i <= kFirstTokens; ++i) {
    const prompt = [...prefix, ...tokenIds(8, 5000 + i)];
    const answer = await post(agent, port, { prompt, max_tokens: 1, temperature: 0, stream: true, ...system.whole(1) });
    if (answer.status !== 200 || answer.firstMs === undefined) throw new Error(`${system.name}: ${answer.status}: ${answer.body}`);
    if (i > 0) times.push(answer.firstMs);
  }
  agent.destroy();
  return median(times);
}

// More requests at once than may wait: how long those that are refused were kept. llama.cpp's server refuses none.
async function measureRefusals(port, options) {
  const agent = new Agent({ keepAlive: true, maxSockets: kCrowd });
  const ask = (number) => post(agent, port, { prompt: tokenIds(kPromptTokens, number), max_tokens: options.tokens, min_tokens: options.tokens });
  // Connections first: what is measured is the answer.
  await Promise.all(Array.from({ length: kCrowd }, (_, i) => post(agent, port, { prompt: [300 + i], max_tokens: 1 })));
  const answers = await Promise.all(Array.from({ length: kCrowd }, (_, i) => ask(9000 + i)));
  agent.destroy();
  const refused = answers.filter((answer) => answer.status === 429).map((answer) => answer.ms);
  const wrong = answers.find((answer) => answer.status !== 200 && answer.status !== 429);
  if (wrong) throw new Error(`bantam: ${wrong.status}: ${wrong.body}`);
  return { refused: refused.length, median: median(refused), worst: Math.max(...refused) };
}

async function main() {
  const texts = ['model', 'type', 'threads', 'clients', 'tokens', 'prefix', 'rounds', 'json'];
  const parsed = parseArgs({ options: { ...Object.fromEntries(texts.map((name) => [name, { type: 'string' }])), help: { type: 'boolean' } } });
  if (parsed.values.help) return console.log(kUsage);
  const number = (name, otherwise) => Number(parsed.values[name] ?? otherwise);
  const options = { threads: number('threads', 2), clients: number('clients', 8), tokens: number('tokens', 64), prefix: number('prefix', 1000), rounds: number('rounds', 3) };
  const model = parsed.values.model ?? 'stories15m';
  const type = parsed.values.type ?? 'q8_0';
  const file = await modelFile({ model, type });
  const context = 2048;
  const bantam = process.env.BANTAM ?? join(root, 'build', 'release', 'bantam');
  const config = join(folder('serve'), 'serve.toml');
  const bantamWith = (requests) => {
    writeFileSync(config, `listen = "127.0.0.1:0"\naccess_log = false\n[models.model]\npath = ${JSON.stringify(file)}\nsequences = ${options.clients}\ncontext = ${context}\nthreads = ${options.threads}\nkv = "f16"\nrequests = ${requests}\n`);
    return { program: bantam, args: ['serve', '--config', config], ready: /^listening on http:\/\/127\.0\.0\.1:(\d+)$/ };
  };
  const llama = await llamaProgram('llama-server');
  const port = 20_000 + (process.pid % 20_000);
  const systems = [
    { name: 'bantam', whole: (tokens) => ({ min_tokens: tokens }), start: () => bantamWith(256) },
    {
      name: 'llama',
      whole: () => ({ ignore_eos: true }),
      start: () => ({
        program: llama,
        args: ['-m', file, '--host', '127.0.0.1', '--port', `${port}`, '--parallel', `${options.clients}`, '-c', `${options.clients * context}`,
          '-t', `${options.threads}`, '-tb', `${options.threads}`, '-ngl', '0', '-ctk', 'f16', '-ctv', 'f16'],
        ready: new RegExp(`listening on http://127\\.0\\.0\\.1:(${port})`),
      }),
    },
  ];
  const runs = systems.map(() => []);
  for (let round = 0; round < options.rounds; ++round) {
    for (let turn = 0; turn < systems.length; ++turn) {
      // Another one begins each round.
      const i = (round + turn) % systems.length;
      process.stderr.write(`race: round ${round + 1} of ${options.rounds}, ${systems[i].name}\n`);
      const server = await startServer(systems[i].start());
      try {
        runs[i].push({ tokensPerS: await measureThroughput(server.port, systems[i], options), firstTokenMs: await measureFirstToken(server.port, systems[i], options) });
      } finally {
        await server.stop();
      }
    }
  }
  const crowded = await startServer(bantamWith(kPlaces));
  const refusals = await measureRefusals(crowded.port, options).finally(() => crowded.stop());
  const figures = systems.map((system, i) => ({
    name: system.name,
    tokensPerS: median(runs[i].map((run) => run.tokensPerS)),
    firstTokenMs: median(runs[i].map((run) => run.firstTokenMs)),
    runs: runs[i],
  }));
  const [ours, theirs] = figures;
  const rows = figures.map((each) => [each.name, each.tokensPerS.toFixed(0), each.firstTokenMs.toFixed(1)]);
  rows.push(['ratio', (ours.tokensPerS / theirs.tokensPerS).toFixed(2), (ours.firstTokenMs / theirs.firstTokenMs).toFixed(2)], ['goal', '1.50', '0.50']);
  console.log(`${model} ${type}, ${options.threads} threads, ${options.clients} clients, answers of ${options.tokens} tokens, a prefix of ${options.prefix}`);
  console.log(formatTable(['', 'tokens/s', 'first token ms'], rows));
  console.log(`refusals: ${refusals.refused} of ${kCrowd} requests at once, median ${refusals.median.toFixed(1)} ms, worst ${refusals.worst.toFixed(1)} ms (goal: below 20 ms)`);
  const out = parsed.values.json ?? join(folder('.'), 'serve.json');
  writeFileSync(out, `${JSON.stringify({ model, type, ...options, figures, refusals }, null, 1)}\n`);
}

await main();
