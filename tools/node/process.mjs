// Child processes, a few at a time.
import { spawn } from 'node:child_process';
import { cpus } from 'node:os';

// {code, out, err} of a program that ran; `input` goes to its standard input. Fails only if it cannot be started.
export function run(command, args, input = '') {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args);
    const out = [];
    const err = [];
    child.stdout.on('data', (bytes) => out.push(bytes));
    child.stderr.on('data', (bytes) => err.push(bytes));
    child.on('error', ({ code }) => reject(new Error(
      `${command} cannot be started (${code}); run this through ./dev, which installs and builds what it needs`)));
    child.on('close', (code, signal) => resolve({ code: code ?? signal, out: Buffer.concat(out), err: Buffer.concat(err).toString() }));
    // A program that fails early reads no input; its exit code tells.
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}

// For tools of which only the result matters: fails with what they said.
export async function mustRun(command, args, input) {
  const { code, out, err } = await run(command, args, input);
  if (code !== 0) throw new Error(`${command} ${args.join(' ')}: exit ${code}: ${err.trim().split('\n').at(-1)}`);
  return out;
}

// Milliseconds from starting a program to the first byte on its standard output. Fails where it fails.
export function timeToFirstByte(command, args) {
  return new Promise((resolve, reject) => {
    const begin = performance.now();
    let first;
    const err = [];
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.on('data', () => { first ??= performance.now() - begin; });
    child.stderr.on('data', (bytes) => err.push(bytes));
    child.on('error', ({ code }) => reject(new Error(`${command} cannot be started (${code})`)));
    child.on('close', (code) => {
      if (code === 0 && first !== undefined) return resolve(first);
      reject(new Error(`${command} ${args.join(' ')}: exit ${code}: ${Buffer.concat(err).toString().trim().split('\n').at(-1)}`));
    });
  });
}

// work(item) of each item, in order, as many at a time as there are processors.
export async function mapParallel(items, work) {
  const results = new Array(items.length);
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const at = next++;
      results[at] = await work(items[at], at);
    }
  };
  await Promise.all(Array.from({ length: cpus().length }, worker));
  return results;
}
