// Where the race keeps what it makes and fetches: models of random weights, and the peer's source and programs.
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { mustRun } from '../../tools/node/process.mjs';

export const root = fileURLToPath(new URL('../..', import.meta.url));
const base = process.env.XDG_CACHE_HOME?.startsWith('/') ? process.env.XDG_CACHE_HOME : join(homedir(), '.cache');
const cache = join(base, 'bantam', 'race');
const say = (text) => process.stderr.write(`race: ${text}\n`);

// The npm package that carries llama.cpp's source, and the version that was measured.
const kPeerPackage = 'node-llama-cpp@3.22.1';

export function folder(name) {
  const path = join(cache, name);
  mkdirSync(path, { recursive: true });
  return path;
}

// The file of a model, made if it is not there.
export async function modelFile({ model, type }) {
  if (model === 'demo') {
    await mustRun(join(root, 'scripts', 'fetch-demo-model'), []);
    return join(base, 'bantam', 'models', 'tinyllama-1.1b-chat-iq2_xxs.gguf');
  }
  const path = join(folder('models'), `${model}-${type}.gguf`);
  if (!existsSync(path)) await mustRun(join(root, 'build', 'release', 'make_model'), [model, type, path]);
  return path;
}

// The peer's source: that of BANTAM_LLAMA_CPP, or its package's.
export async function llamaSource() {
  const source = process.env.BANTAM_LLAMA_CPP || join(folder('peers'), 'llama.cpp');
  if (existsSync(source)) return source;
  if (process.env.BANTAM_LLAMA_CPP) throw new Error(`${source} is missing; leave BANTAM_LLAMA_CPP away`);
  const work = folder('peers/work');
  say(`fetching ${kPeerPackage}`);
  await mustRun('npm', ['pack', '--loglevel=error', '--pack-destination', work, kPeerPackage]);
  const archive = join(work, `${kPeerPackage.replace('@', '-')}.tgz`);
  await mustRun('tar', ['-xzf', archive, '-C', work, 'package/llama/gitRelease.bundle']);
  const unfinished = join(work, 'llama.cpp');
  rmSync(unfinished, { recursive: true, force: true });
  await mustRun('git', ['clone', '--quiet', join(work, 'package', 'llama', 'gitRelease.bundle'), unfinished]);
  rmSync(source, { recursive: true, force: true });
  renameSync(unfinished, source);
  rmSync(work, { recursive: true, force: true });
  return source;
}

// A program (llama-bench, llama-simple, llama-server) of it, built if it is not there: ten minutes, once.
export async function llamaProgram(name) {
  const source = await llamaSource();
  const program = join(source, 'build', 'bin', name);
  if (existsSync(program)) return program;
  if (process.env.BANTAM_LLAMA_CPP) throw new Error(`${program} is missing; build it there, or leave BANTAM_LLAMA_CPP away`);
  say(`building ${name} of ${kPeerPackage}, which takes about ten minutes the first time`);
  await mustRun('cmake', ['-S', source, '-B', join(source, 'build'), '-G', 'Ninja', '-DCMAKE_BUILD_TYPE=Release', '-DGGML_NATIVE=ON',
    '-DLLAMA_CURL=OFF', '-DLLAMA_OPENSSL=OFF', '-DLLAMA_BUILD_UI=OFF', '-DLLAMA_USE_PREBUILT_UI=OFF',
    '-DLLAMA_BUILD_APP=OFF', '-DLLAMA_BUILD_TESTS=OFF', '-DLLAMA_BUILD_SERVER=ON', '-DLLAMA_BUILD_EXAMPLES=ON']);
  await mustRun('cmake', ['--build', join(source, 'build'), '--target', name]);
  return program;
}
