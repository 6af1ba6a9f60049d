// tokenizer.json files as their publishers wrote them, made from the vocabularies that GGUF files of the same models carry.
import { readGgufMetadata } from './gguf_metadata.mjs';

const kNormal = 1;
const kControl = 3;
const kUserDefined = 4;
const kSpaceMark = '\u2581';

const kQwen2Pattern =
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const kLlama3Pattern =
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

const byteLevel = (useRegex) => ({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: useRegex });
const isolate = (pattern) => ({ type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false });
const sequence = (...steps) => ({ type: 'Sequence', pretokenizers: steps });
const addedToken = (id, content, special) => ({
  id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special,
});

function readVocabulary(path) {
  const metadata = readGgufMetadata(path);
  return {
    tokens: metadata['tokenizer.ggml.tokens'],
    types: metadata['tokenizer.ggml.token_type'],
    scores: metadata['tokenizer.ggml.scores'],
    merges: metadata['tokenizer.ggml.merges'],
  };
}

const bpe = (members) => ({
  type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false,
  byte_fallback: false, ignore_merges: false, ...members,
});

function byteLevelBpe({ tokens, types, merges }, { normalizer = null, preTokenizer, ignoreMerges = false }) {
  const isAdded = (id) => types[id] === kControl || types[id] === kUserDefined;
  const added = tokens.flatMap((content, id) => (isAdded(id) ? [addedToken(id, content, types[id] === kControl)] : []));
  const vocab = Object.fromEntries(tokens.flatMap((content, id) => (isAdded(id) ? [] : [[content, id]])));
  return {
    version: '1.0', added_tokens: added, normalizer, pre_tokenizer: preTokenizer, post_processor: null,
    decoder: { ...byteLevel(true), add_prefix_space: true }, model: bpe({ ignore_merges: ignoreMerges, vocab, merges }),
  };
}

// GGUF marks beginnings of words, tokenizer.json what goes on within a word.
function wordPiece({ tokens, types }) {
  const written = (content, id) => {
    if (types[id] !== kNormal) return content;
    return content.startsWith(kSpaceMark) ? content.slice(1) : `##${content}`;
  };
  return {
    version: '1.0', added_tokens: tokens.flatMap((content, id) => (types[id] === kControl ? [addedToken(id, content, true)] : [])),
    normalizer: { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
    pre_tokenizer: { type: 'BertPreTokenizer' }, post_processor: null, decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: {
      type: 'WordPiece', unk_token: '[UNK]', continuing_subword_prefix: '##', max_input_chars_per_word: 100,
      vocab: Object.fromEntries(tokens.map((content, id) => [written(content, id), id])),
    },
  };
}

// Every way to make a token of two others, best scores first: what converters of SentencePiece models write.
function mergesOfScores({ tokens, types, scores }) {
  const ids = new Map(tokens.map((content, id) => [content, id]));
  const merges = [];
  tokens.forEach((content, id) => {
    if (types[id] !== kNormal) return;
    const characters = [...content];
    for (let cut = 1; cut < characters.length; ++cut) {
      const left = characters.slice(0, cut).join('');
      const right = characters.slice(cut).join('');
      if (ids.has(left) && ids.has(right)) merges.push({ score: scores[id], left, right });
    }
  });
  merges.sort((a, b) => b.score - a.score || ids.get(a.left) - ids.get(b.left) || ids.get(a.right) - ids.get(b.right));
  return merges.map(({ left, right }) => `${left} ${right}`);
}

// Llama 2, whose spaces are marked by normalizers in older files and by a pre-tokenizer in newer ones.
function sentencePieceBpe(vocabulary, { normalizer = null, preTokenizer = null }) {
  const { tokens } = vocabulary;
  return {
    version: '1.0', added_tokens: tokens.slice(0, 3).map((content, id) => addedToken(id, content, true)), normalizer,
    pre_tokenizer: preTokenizer, post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: kSpaceMark }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: bpe({
      unk_token: '<unk>', fuse_unk: true, byte_fallback: true, vocab: Object.fromEntries(tokens.map((content, id) => [content, id])),
      merges: mergesOfScores(vocabulary),
    }),
  };
}

// [{name, gguf, make}]: `make` turns the path of a GGUF vocabulary into a tokenizer.json object.
export const madeVocabularies = [
  { name: 'qwen2', gguf: 'qwen2',
    make: (path) => byteLevelBpe(readVocabulary(path), {
      normalizer: { type: 'NFC' }, preTokenizer: sequence(isolate(kQwen2Pattern), byteLevel(false)),
    }) },
  { name: 'llama-bpe', gguf: 'llama-bpe',
    make: (path) => byteLevelBpe(readVocabulary(path), {
      preTokenizer: sequence(isolate(kLlama3Pattern), byteLevel(false)), ignoreMerges: true,
    }) },
  { name: 'gpt-2', gguf: 'gpt-2', make: (path) => byteLevelBpe(readVocabulary(path), { preTokenizer: byteLevel(true) }) },
  { name: 'starcoder', gguf: 'starcoder',
    make: (path) => byteLevelBpe(readVocabulary(path), {
      preTokenizer: sequence({ type: 'Digits', individual_digits: true }, byteLevel(true)),
    }) },
  { name: 'bert-bge', gguf: 'bert-bge', make: (path) => wordPiece(readVocabulary(path)) },
  { name: 'llama-spm, Prepend', gguf: 'llama-spm',
    make: (path) => sentencePieceBpe(readVocabulary(path), {
      normalizer: {
        type: 'Sequence',
        normalizers: [{ type: 'Prepend', prepend: kSpaceMark }, { type: 'Replace', pattern: { String: ' ' }, content: kSpaceMark }],
      },
    }) },
  { name: 'llama-spm, Metaspace', gguf: 'llama-spm',
    make: (path) => sentencePieceBpe(readVocabulary(path), {
      preTokenizer: { type: 'Metaspace', replacement: kSpaceMark, prepend_scheme: 'first', split: false },
    }) },
];
