// Published chat templates against Jinja2, byte for byte.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { render } from './bantam.mjs';
import { needShared } from './places.mjs';
import { mapParallel } from '../../tools/node/process.mjs';
import { Row, escape } from './row.mjs';

// What strftime_now said when the reference data was made.
const kNow = '2026-11-20T09:30:00';
// The program's exit code where a template raises.
const kRaised = 3;

function describe({ case: name, expected, error }, got) {
  if (got.code !== 0) return [`case ${name}: expected ${error ? `exit ${kRaised}` : 'a prompt'}`, `bantam: exit ${got.code}: ${got.err}`];
  if (error) return [`case ${name}: expected exit ${kRaised}, as Jinja2 raises`, `bantam: ${escape(got.bytes.toString())}`];
  const text = got.bytes.toString();
  let at = 0;
  while (at < expected.length && expected[at] === text[at]) ++at;
  const around = (whole) => escape(whole.slice(Math.max(at - 40, 0), at + 80));
  return [`case ${name}: first differing character: number ${at}`, `expected ${around(expected)}`, `bantam   ${around(text)}`];
}

export async function checkTemplates() {
  const folder = needShared('golden/templates');
  const cases = JSON.parse(readFileSync(join(folder, 'cases.json'), 'utf8'));
  const got = await mapParallel(cases, ({ template, context }) => render(join(folder, template), context, kNow));
  const rows = new Map();
  cases.forEach((each, i) => {
    const { template, expected, error } = each;
    if (!rows.has(template)) rows.set(template, new Row([template.replace(/\.jinja$/, '')]));
    const { code, bytes } = got[i];
    const ok = error ? code === kRaised && bytes.length === 0 : code === 0 && bytes.equals(Buffer.from(expected));
    rows.get(template).add(ok, () => describe(each, got[i]));
  });
  return [...rows.values()];
}
