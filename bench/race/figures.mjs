// What ik_llama.cpp reached over llama.cpp on the reference machine (2 Zen 5 cores, 2026-11-20), for races without it: the ratio of the
// two there stands for the ratio here. Not for F16, which it turns into bf16 when it repacks.
// Tokens per second: [llama.cpp decode, ik decode, llama.cpp prompt 128, 512, ik prompt 128, 512].
const kReference = {
  'stories15m q8_0 1': [1490, 1942, 9452, 8017, 5114, 1577],
  'stories15m q8_0 2': [2338, 3373, 17163, 14753, 9871, 3167],
  'stories15m q4_0 1': [1632, 1993, 16679, 12085, 5173, 1610],
  'stories15m q4_0 2': [2542, 3574, 27353, 22185, 9821, 3103],
  'stories15m q4_k_m 1': [1354, 1922, 8503, 7196, 5003, 1659],
  'stories15m q4_k_m 2': [2164, 3165, 15009, 13661, 9384, 3051],
  'smollm2-135m q8_0 1': [172, 173, 581, 539, 1463, 1323],
  'smollm2-135m q8_0 2': [186, 261, 1078, 1029, 2749, 2490],
  'smollm2-135m q4_0 1': [233, 199, 1076, 853, 1404, 1238],
  'smollm2-135m q4_0 2': [227, 304, 1601, 1578, 2777, 2300],
  'smollm2-135m q4_k_m 1': [174, 234, 496, 449, 1321, 1290],
  'smollm2-135m q4_k_m 2': [186, 353, 921, 859, 2474, 2097],
  'qwen2.5-0.5b q8_0 1': [50.6, 59.7, 192, 191, 517, 500],
  'qwen2.5-0.5b q8_0 2': [63.6, 106, 356, 359, 931, 945],
  'qwen2.5-0.5b q4_0 1': [70.7, 85.0, 373, 345, 551, 512],
  'qwen2.5-0.5b q4_0 2': [94.8, 126, 691, 650, 1051, 959],
  'qwen2.5-0.5b q4_k_m 1': [55.7, 68.4, 161, 158, 473, 504],
  'qwen2.5-0.5b q4_k_m 2': [66.3, 95.2, 308, 300, 905, 948],
  'tinyllama-1.1b q8_0 1': [25.4, 29.7, 73.1, 69.1, 197, 201],
  'tinyllama-1.1b q8_0 2': [33.7, 36.8, 134, 132, 353, 345],
  'tinyllama-1.1b q4_0 1': [36.9, 46.3, 137, 120, 198, 188],
  'tinyllama-1.1b q4_0 2': [60.9, 85.5, 255, 239, 364, 345],
  'tinyllama-1.1b q4_k_m 2': [64.0, 80.3, 194, 187, 251, 232],
  'demo iq2_xxs 2': [25.3, 55.8, 209, NaN, 146, NaN],
};

// ik over llama.cpp for a test, undefined where nobody measured it. Depth changes little: that of an empty context is taken.
export function ikOverLlama({ model, type, threads }, { kind, tokens }) {
  const figures = kReference[`${model} ${type} ${threads}`];
  if (figures === undefined) return undefined;
  const [llamaDecode, ikDecode, llama128, llama512, ik128, ik512] = figures;
  const ratio = kind === 'decode' ? ikDecode / llamaDecode : tokens === 128 ? ik128 / llama128 : ik512 / llama512;
  return Number.isFinite(ratio) ? ratio : undefined;
}

// What we want, as ratios to llama.cpp and ik_llama.cpp and as shares of the machine's limits; undefined where nothing is wanted.
export function goalOf({ model, type }, { kind, depth }) {
  if (depth > 0) return {};
  const decode = kind === 'decode';
  if (model === 'demo') return { llama: decode ? 4 : 3 };
  if (model === 'stories15m') return { llama: decode ? 2 : 1.5 };
  // Where 8-bit units do four times as much as f32 ones and twice as much as bf16 ones: 70 % and 60 % of theirs.
  if (type === 'f16' || type === 'bf16') return decode ? { bandwidth: 0.85 } : { int8: type === 'f16' ? 0.7 / 4 : 0.6 / 2 };
  if (model.startsWith('smollm2') || model.startsWith('qwen2.5')) return decode ? { llama: 2, ik: 1.5 } : { ik: 1.5 };
  return decode ? { llama: 1.7, ik: 1.2, bandwidth: 0.8 } : { int8: 0.6 };
}
