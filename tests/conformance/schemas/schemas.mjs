// ./dev conformance schemas [--only TEXT] [--outputs N]: random output of every accepted schema of JSONSchemaBench and of the official test suite is validated
// by ajv; of the suite, the valid instances of accepted schemas have to be reachable and the invalid ones not.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { gunzipSync } from 'node:zlib';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const shared = process.env.BANTAM_SHARED ?? join(root, '..', 'shared');
const data = join(shared, 'data/json-schema');
const program = process.env.BANTAM_CONSTRAINED ?? join(root, 'build/release/constrained_output');
const vocabulary = process.env.BANTAM_VOCABULARY ?? join(shared, 'golden/tokenizers/ggml-vocab-qwen2.gguf');
const require = createRequire(join(process.env.BANTAM_AJV ?? join(root, 'build/conformance-schemas'), 'package.json'));
const Ajv = require('ajv').default;
const Ajv2019 = require('ajv/dist/2019').default;
const Ajv2020 = require('ajv/dist/2020').default;
const Ajv04 = require('ajv-draft-04').default;
const addFormats = require('ajv-formats').default;

const { values: options } = parseArgs({
  options: {
    outputs: { type: 'string', default: '20' },
    only: { type: 'string' },
    bench: { type: 'string', default: join(data, 'jsonschemabench-1500.jsonl.gz') },
    report: { type: 'string' },
    verbose: { type: 'boolean', default: false },
  },
});

// One process of the program, asked in turn.
class Program {
  constructor() {
    this.start();
  }
  start() {
    this.child = spawn(program, [vocabulary], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
  }
  async ask(question) {
    this.child.stdin.write(`${JSON.stringify(question)}\n`);
    const { value, done } = await this.lines.next();
    if (done) {
      this.start();
      return { accepted: false, reason: 'the program crashed', crashed: true };
    }
    return JSON.parse(value);
  }
  end() {
    this.child.stdin.end();
  }
}

const kOptions = { strict: false, validateSchema: false, logger: false, allErrors: false };
const kDialects = { '04': Ajv04, '07': Ajv, 2019: Ajv2019, 2020: Ajv2020 };

function dialectsOf(schema) {
  const said = typeof schema === 'object' && schema !== null && typeof schema.$schema === 'string' ? schema.$schema : '';
  if (said.includes('draft-04') || said.includes('draft-03')) return ['04', '07'];
  if (said.includes('2020-12')) return ['2020'];
  if (said.includes('2019-09')) return ['2019'];
  return ['07', '04'];
}

// A validator, or nothing where ajv does not take the schema.
function makeValidator(schema) {
  let error;
  for (const dialect of dialectsOf(schema)) {
    for (const unicodeRegExp of [true, false]) {
      try {
        const ajv = addFormats(new kDialects[dialect]({ ...kOptions, unicodeRegExp }));
        const copy = structuredClone(schema);
        if (typeof copy === 'object' && copy !== null) delete copy.$async;
        return { validate: ajv.compile(copy) };
      } catch (caught) {
        error = caught;
      }
    }
  }
  return { error: String(error.message) };
}

// What ajv finds wrong with outputs; nothing where it does not take the schema.
function problemsOf({ outputs }, { validate }) {
  const problems = [];
  for (const text of validate ? outputs.filter((output) => output !== null) : []) {
    let problem;
    try {
      if (!validate(JSON.parse(text))) problem = JSON.stringify(validate.errors[0]);
    } catch (caught) {
      problem = String(caught.message);
    }
    if (problem) problems.push({ problem: problem.slice(0, 400), text: text.slice(0, 300) });
  }
  return problems;
}

async function runBench(ask) {
  const rows = gunzipSync(readFileSync(options.bench)).toString().trim().split('\n').map((line) => JSON.parse(line));
  const totals = { schemas: 0, accepted: 0, outputs: 0, invalid: 0, unfinished: 0, unchecked: 0 };
  const reasons = new Map();
  const rest = [];
  for (const { name, schema } of rows) {
    if (options.only && !name.includes(options.only)) continue;
    totals.schemas += 1;
    const answer = await ask({ name, schema, outputs: Number(options.outputs) });
    rest.push({ name, ...answer, outputs: undefined });
    if (answer.crashed) console.log(`CRASH ${name}`);
    if (!answer.accepted) {
      const short = answer.reason.replace(/^schema at [^:]*?(\/[A-Za-z$]+)?: /, '$1: ').slice(0, 110);
      reasons.set(short, [...(reasons.get(short) ?? []), name]);
      continue;
    }
    totals.accepted += 1;
    const validator = makeValidator(schema);
    if (validator.error) {
      totals.unchecked += 1;
      if (options.verbose) console.log(`UNCHECKED ${name}: ${validator.error.slice(0, 150)}`);
      continue;
    }
    totals.unfinished += answer.outputs.filter((text) => text === null).length;
    totals.outputs += answer.outputs.filter((text) => text !== null).length;
    for (const { problem, text } of problemsOf(answer, validator)) {
      totals.invalid += 1;
      console.log(`INVALID ${name}: ${problem}\n  ${text}`);
    }
  }
  console.log([...reasons].sort((a, b) => b[1].length - a[1].length).slice(0, 60).map(([reason, names]) => `${String(names.length).padStart(5)}  ${reason}  (${names[0]})`).join('\n'));
  // Cold masks included: each schema starts with none.
  for (const key of ['compile_ms', 'p50_us', 'p99_us', 'max_us']) {
    const sorted = rest.filter((row) => row[key] !== undefined).sort((x, y) => y[key] - x[key]);
    console.log(`${key}: median ${sorted[sorted.length >> 1][key].toFixed(1)}; worst ${sorted.slice(0, 4).map((row) => `${row[key].toFixed(1)} (${row.name})`).join(', ')}`);
  }
  console.log(totals, `accepted ${((100 * totals.accepted) / totals.schemas).toFixed(2)} %`);
  if (options.report) writeFileSync(options.report, rest.map((row) => `${JSON.stringify(row)}\n`).join(''));
  return totals;
}

// Files of the suite that say of formats what holds where they are asserted; format.json says what holds where they are not.
function suiteFiles() {
  const folder = join(data, 'tests/draft2020-12');
  const list = (path) => readdirSync(path).filter((file) => file.endsWith('.json')).map((file) => join(path, file));
  return [...list(folder).filter((file) => !file.endsWith('/format.json')), ...list(join(folder, 'optional')), ...list(join(folder, 'optional/format'))];
}

async function runSuite(ask) {
  const totals = { schemas: 0, accepted: 0, valid: 0, unreachable: 0, invalid: 0, wronglyReachable: 0 };
  const byFile = [];
  for (const file of suiteFiles()) {
    const short = file.slice(file.indexOf('draft2020-12/') + 13);
    if (options.only && !short.includes(options.only)) continue;
    const row = { file: short, schemas: 0, accepted: 0, valid: 0, unreachable: 0, invalid: 0, wrong: 0 };
    for (const { description, schema, tests } of JSON.parse(readFileSync(file, 'utf8'))) {
      row.schemas += 1;
      const answer = await ask({ name: description, schema, outputs: Number(options.outputs), instances: tests.map(({ data: instance }) => instance) });
      if (!answer.accepted) {
        // A schema that nothing satisfies is refused; whatever has valid instances is not one.
        if (options.verbose) console.log(`REFUSED ${short}: ${description}: ${answer.reason}`);
        continue;
      }
      row.accepted += 1;
      // ajv resolves $dynamicRef against the suite.
      for (const { problem, text } of short.startsWith('dynamicRef') ? [] : problemsOf(answer, makeValidator(schema))) {
        row.wrong += 1;
        console.log(`INVALID ${short}: ${description}: ${problem}\n  ${text}`);
      }
      tests.forEach(({ description: what, valid, data: instance }, i) => {
        row[valid ? 'valid' : 'invalid'] += 1;
        if (valid === answer.reached[i]) return;
        row[valid ? 'unreachable' : 'wrong'] += 1;
        if (!valid || options.verbose) console.log(`${valid ? 'UNREACHABLE' : 'WRONG'} ${short}: ${description}: ${what}: ${JSON.stringify(instance)?.slice(0, 100)}`);
      });
    }
    byFile.push(row);
    totals.schemas += row.schemas;
    totals.accepted += row.accepted;
    totals.valid += row.valid;
    totals.unreachable += row.unreachable;
    totals.invalid += row.invalid;
    totals.wronglyReachable += row.wrong;
  }
  console.table(byFile);
  console.log(totals);
  return totals;
}

for (const needed of [program, vocabulary, data]) {
  if (!existsSync(needed)) {
    console.error(`conformance schemas: ${needed} is not there`);
    process.exit(77);
  }
}
const child = new Program();
const suite = await runSuite((question) => child.ask(question));
const bench = await runBench((question) => child.ask(question));
child.end();
process.exitCode = bench.invalid + suite.wronglyReachable > 0 ? 1 : 0;
