// The program under test, from outside.
import { program } from './places.mjs';
import { run } from '../../tools/node/process.mjs';

export function parseIds(line) {
  return line.trim() === '' ? [] : line.trim().split(' ').map(Number);
}

// {ids}, or {error}: what the program says when it fails. `text` comes through standard input, byte for byte.
export async function tokenize(vocabulary, text, { special = false } = {}) {
  const { code, out, err } = await run(program, ['tokenize', vocabulary, ...(special ? ['--special'] : [])], text);
  return code === 0 ? { ids: parseIds(out.toString()) } : { error: `exit ${code}: ${err.trim()}` };
}

// The text of `ids`, special tokens by name: for people to read.
export async function decode(vocabulary, ids) {
  const { out } = await run(program, ['tokenize', vocabulary, '--decode', '--special'], ids.join(' '));
  return out.toString();
}

// {code, bytes, err} of a template with a context, at the time that the reference data was made at.
export async function render(template, context, now) {
  const { code, out, err } = await run(program, ['template', '--file', template, '--context', '-', '--now', now], JSON.stringify(context));
  return { code, bytes: out, err: err.trim() };
}
