// ./dev conformance llama-server: the suite of llama.cpp's own server (its tools/server/tests, which is fetched) against bantam serve. Runs the
// cases of wanted.txt, which have to pass; --all runs every case and says how many do (docs/serve-llama-cpp.md).
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { llamaSource, root } from '../../../bench/race/places.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const cases = readFileSync(join(here, 'wanted.txt'), 'utf8').split('\n').filter((line) => line !== '' && !line.startsWith('#'));
const more = process.argv.slice(2);
const all = more.includes('--all');
const suite = join(await llamaSource(), 'tools', 'server', 'tests');
const env = {
  ...process.env,
  BANTAM: process.env.BANTAM ?? join(root, 'build', 'release', 'bantam'),
  LLAMA_SERVER_BIN_PATH: join(here, 'llama-server'),
  PYTHONPATH: join(here, 'standins'),
  PYTHONDONTWRITEBYTECODE: '1',
  PORT: process.env.PORT ?? '18080',
};
const options = ['-p', 'offline', '-p', 'no:cacheprovider', '-q', '--timeout', '120', ...(all ? ['-rA', '--tb=line', '-m', 'not slow', 'unit'] : ['--tb=short', ...cases])];
// Debian's, whose packages are installed.
const run = spawnSync('/usr/bin/python3', ['-m', 'pytest', ...options, ...more.filter((each) => each !== '--all')], { cwd: suite, env, stdio: 'inherit' });
process.exit(run.status ?? 1);
