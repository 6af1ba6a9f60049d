// Where things lie: the checkout, the maintainers' reference data beside it, and the folder for what this run makes.
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));
export const shared = join(root, '..', 'shared');
// ./dev has installed the peer of package.json here.
export const cache = join(root, 'build', 'conformance');
// A copy of the program, so that a build meanwhile does not change what is being checked.
export const program = join(cache, 'bantam');

// A path below `folder` that has to exist; `remedy` is what a person can do if it does not.
export function need(folder, path, remedy) {
  const found = join(folder, path);
  if (!existsSync(found)) throw new Error(`${found} is missing; ${remedy}`);
  return found;
}

// Reference data that maintainers keep; much of it is too large for the repository.
export function needShared(path) {
  return need(shared, path, 'a conformance run needs the reference data that maintainers keep beside the checkout');
}

export function makeFolder(...parts) {
  const folder = join(cache, ...parts);
  mkdirSync(folder, { recursive: true });
  return folder;
}

// What people call something, as part of a file's name.
export const fileName = (name) => name.replace(/[^a-z0-9-]+/gi, '-');
