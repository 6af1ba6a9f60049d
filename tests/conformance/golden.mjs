// Vocabularies and ids that llama.cpp publishes: NAME.gguf, NAME.gguf.inp (cases), NAME.gguf.out (a line of ids each).
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';

import { parseIds, tokenize } from './bantam.mjs';
import { need, needShared } from './places.mjs';
import { mapParallel } from '../../tools/node/process.mjs';
import { Row } from './row.mjs';

const kMarker = '\n__ggml_vocab_test__\n';

function readCases(path) {
  const inputs = readFileSync(`${path}.inp`, 'utf8').split(kMarker);
  const outputs = readFileSync(`${path}.out`, 'utf8').split('\n');
  // Both end in a separator, behind which nothing comes.
  if (inputs.at(-1) === '') inputs.pop();
  if (outputs.at(-1) === '') outputs.pop();
  if (inputs.length !== outputs.length) {
    throw new Error(`${path}.inp has ${inputs.length} cases and .out ${outputs.length}; fetch both again from one version of llama.cpp`);
  }
  return inputs.map((input, i) => ({ input, ids: parseIds(outputs[i]) }));
}

async function checkVocabulary(path, source) {
  const row = new Row([basename(path, '.gguf').replace('ggml-vocab-', ''), source, 'its .out file'], path);
  const cases = readCases(path);
  const got = await mapParallel(cases, ({ input }) => tokenize(path, input));
  cases.forEach(({ input, ids }, i) => {
    row.bytes += Buffer.byteLength(input);
    row.addIds(ids, got[i], input);
  });
  return row;
}

// {rows, notes}
export async function checkGolden(llamaCpp) {
  const rows = [];
  const notes = [];
  const folders = [[needShared('golden/tokenizers'), 'golden']];
  if (llamaCpp) folders.push([need(llamaCpp, 'models', 'BANTAM_LLAMA_CPP has to name a checkout of llama.cpp'), 'llama.cpp']);
  else notes.push('vocabularies of a llama.cpp checkout: BANTAM_LLAMA_CPP names none');
  for (const [folder, source] of folders) {
    const vocabularies = readdirSync(folder).filter((file) => /^ggml-vocab-.*\.gguf$/.test(file)).sort();
    const checked = vocabularies.filter((file) => existsSync(join(folder, `${file}.inp`)) && existsSync(join(folder, `${file}.out`)));
    for (const file of checked) rows.push(await checkVocabulary(join(folder, file), source));
    const without = vocabularies.filter((file) => !checked.includes(file));
    if (without.length > 0) notes.push(`${without.join(', ')} of ${source}: there are no cases with ${without.length > 1 ? 'them' : 'it'}`);
  }
  return { rows, notes };
}
