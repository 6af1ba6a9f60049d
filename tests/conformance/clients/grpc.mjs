// gRPC's own client of node against bantam serve: every service of proto/, errors, deadlines, clients that change their mind.
import assert from 'node:assert/strict';
import { join } from 'node:path';

const kPrompt = 'Hello! What is a pump?';

// A unary call as a promise.
function ask(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

async function generate(client, request, options = {}) {
  const stream = client.generate(request, ...(options.metadata ? [options.metadata] : []), { deadline: options.deadline });
  options.began?.(stream);
  const messages = [];
  for await (const message of stream) {
    messages.push(message);
    options.seen?.(stream, message);
  }
  return { messages, text: messages.map((message) => message.content).join('') };
}

export async function grpcCases({ load, root, address, url, awaitNothing }) {
  const { default: grpc } = await load('@grpc/grpc-js');
  const { default: loader } = await load('@grpc/proto-loader');
  const folder = join(root, 'proto');
  const files = ['bantam.proto', 'kserve.proto', 'grpc/health/v1/health.proto', 'grpc/reflection/v1/reflection.proto', 'google/rpc/status.proto'];
  const definition = loader.loadSync(files, { includeDirs: [folder], longs: Number, enums: String, oneofs: true, defaults: true, arrays: true });
  const packages = grpc.loadPackageDefinition(definition);
  const plain = grpc.credentials.createInsecure();
  const bantam = new packages.bantam.v1.Bantam(address, plain);
  const inference = new packages.inference.GRPCInferenceService(address, plain);
  const health = new packages.grpc.health.v1.Health(address, plain);
  const reflection = new packages.grpc.reflection.v1.ServerReflection(address, plain);
  const chat = { model: 'chat', messages: [{ role: 'user', content: kPrompt }], maxTokens: 24 };
  const http = async (path, body) => (await fetch(`${url}${path}`, { method: 'POST', body: JSON.stringify(body) })).json();
  const httpChat = async (more) => {
    const answer = await http('/v1/chat/completions', { model: 'chat', messages: chat.messages, max_tokens: 24, ...more });
    return answer.choices[0].message;
  };
  // google.rpc.Status as bytes.
  const details = (error) => error.metadata.get('grpc-status-details-bin')[0].toString('latin1');
  return {
    'generate, as HTTP answers': async () => {
      const metadata = new grpc.Metadata();
      metadata.set('x-request-id', 'node-1');
      let id;
      const began = (stream) => stream.on('metadata', (initial) => (id = initial.get('x-request-id')[0]));
      const { messages, text } = await generate(bantam, chat, { metadata, began });
      assert.equal(text, (await httpChat({})).content);
      assert.equal(id, 'node-1');
      assert.ok(messages.at(-1).usage.generatedTokens > 0 && messages.at(-2).finishReason.length > 0);
    },
    'generate, a prompt with everything': async () => {
      const sampling = { n: 2, temperature: 1, seed: 5, topLogprobs: 2, options: '{"min_tokens":4}' };
      const { messages } = await generate(bantam, { model: 'chat', prompt: kPrompt, maxTokens: 4, ...sampling });
      const told = messages.flatMap((message) => message.logprobs);
      assert.equal(told.length, 8);
      assert.ok(told.every((one) => one.top.length === 2 && one.logprob <= 0 && Buffer.isBuffer(one.token)));
    },
    'generate, structured output and tools': async () => {
      const { text } = await generate(bantam, { ...chat, maxTokens: 60, jsonSchema: '{"enum":["on","off"]}' });
      assert.ok(['on', 'off'].includes(JSON.parse(text)));
      const parameters = { type: 'object', properties: { on: { type: 'boolean' } }, required: ['on'], additionalProperties: false };
      const options = JSON.stringify({ tools: [{ type: 'function', function: { name: 'light', parameters } }], tool_choice: 'required' });
      const { messages } = await generate(bantam, { ...chat, maxTokens: 60, options });
      const [call] = messages.flatMap((message) => message.toolCalls);
      assert.equal(call.name, 'light');
      assert.equal(typeof JSON.parse(call.arguments).on, 'boolean');
    },
    embed: async () => {
      const answer = await ask(bantam, 'embed', { model: 'vectors', input: ['a pump', 'hot water'] });
      const over = await http('/v1/embeddings', { model: 'vectors', input: ['a pump', 'hot water'] });
      assert.equal(answer.embeddings.length, 2);
      answer.embeddings.forEach((one, i) => assert.deepEqual(one.values, over.data[i].embedding.map(Math.fround)));
      assert.equal(answer.promptTokens, over.usage.prompt_tokens);
    },
    classify: async () => {
      const answer = await ask(bantam, 'classify', { model: 'classes', classify: ['a pump', 'hot water'], topN: 1 });
      const over = await http('/v1/classify', { model: 'classes', classify: ['a pump', 'hot water'], top_n: 1 });
      assert.deepEqual(answer.labels.map((one) => one.labels[0].name), over.labels.map((one) => one[0].label));
    },
    models: async () => {
      const { models } = await ask(bantam, 'models', {});
      assert.deepEqual(models.map((model) => [model.name, model.generates]), [['chat', true], ['vectors', false], ['classes', false]]);
    },
    errors: async () => {
      await assert.rejects(generate(bantam, { ...chat, model: 'none' }), (error) => error.code === grpc.status.NOT_FOUND && /chat/.test(error.message));
      await assert.rejects(generate(bantam, { ...chat, topP: 3 }), (error) => error.code === grpc.status.INVALID_ARGUMENT && details(error).includes('top_p'));
      await assert.rejects(generate(bantam, { model: 'chat' }), (error) => error.code === grpc.status.INVALID_ARGUMENT);
      await assert.rejects(ask(bantam, 'embed', { model: 'chat', input: ['x'] }), (error) => error.code === grpc.status.INVALID_ARGUMENT);
      const huge = { ...chat, messages: [{ role: 'user', content: 'x'.repeat(5 << 20) }] };
      await assert.rejects(generate(bantam, huge), (error) => error.code === grpc.status.RESOURCE_EXHAUSTED);
    },
    'deadline and cancel': async () => {
      // Refused at once, where the prediction says so.
      const late = (error) => [grpc.status.DEADLINE_EXCEEDED, grpc.status.RESOURCE_EXHAUSTED].includes(error.code);
      const long = { ...chat, maxTokens: 3000, options: '{"min_tokens":3000}' };
      await assert.rejects(generate(bantam, long, { deadline: Date.now() + 300 }), late);
      await awaitNothing(url);
      await assert.rejects(generate(bantam, long, { seen: (stream) => stream.cancel() }), (error) => error.code === grpc.status.CANCELLED);
      await awaitNothing(url);
    },
    health: async () => {
      assert.equal((await ask(health, 'check', { service: 'bantam.v1.Bantam' })).status, 'SERVING');
      await assert.rejects(ask(health, 'check', { service: 'other' }), (error) => error.code === grpc.status.NOT_FOUND);
      const watch = health.watch({ service: '' });
      const first = await new Promise((resolve, reject) => watch.once('data', resolve).once('error', reject));
      assert.equal(first.status, 'SERVING');
      watch.on('error', () => {});
      watch.cancel();
    },
    reflection: async () => {
      const stream = reflection.serverReflectionInfo();
      const answer = (request) =>
        new Promise((resolve, reject) => {
          stream.once('data', resolve).once('error', reject);
          stream.write(request);
        });
      const { listServicesResponse } = await answer({ listServices: '' });
      assert.ok(listServicesResponse.service.some((one) => one.name === 'inference.GRPCInferenceService'));
      const { fileDescriptorResponse } = await answer({ fileContainingSymbol: 'bantam.v1.Bantam' });
      const described = loader.loadFileDescriptorSetFromBuffer(fileSet(fileDescriptorResponse.fileDescriptorProto));
      assert.ok(described['bantam.v1.Bantam'].Generate.responseStream);
      stream.end();
    },
    'inference protocol': async () => {
      assert.ok((await ask(inference, 'serverLive', {})).live && (await ask(inference, 'serverReady', {})).ready);
      assert.equal((await ask(inference, 'serverMetadata', {})).name, 'bantam');
      assert.ok((await ask(inference, 'modelReady', { name: 'chat' })).ready);
      const { inputs, outputs } = await ask(inference, 'modelMetadata', { name: 'vectors' });
      assert.deepEqual([inputs[0].datatype, outputs[0].datatype], ['BYTES', 'FP32']);
      const request = (name, texts, parameters) => ({
        modelName: name,
        id: 'a',
        parameters,
        inputs: [{ name: 'text_input', datatype: 'BYTES', shape: [texts.length], contents: { bytesContents: texts.map((text) => Buffer.from(text)) } }],
      });
      const text = await ask(inference, 'modelInfer', request('chat', [kPrompt], { max_tokens: { int64Param: 12 } }));
      const over = await http('/v2/models/chat/generate', { text_input: kPrompt, parameters: { max_tokens: 12 } });
      assert.equal(text.outputs[0].contents.bytesContents[0].toString(), over.text_output);
      const vectors = await ask(inference, 'modelInfer', request('vectors', ['a pump', 'hot water'], {}));
      const [{ shape, contents }] = vectors.outputs;
      assert.equal(shape[0], 2);
      assert.equal(contents.fp32Contents.length, shape[0] * shape[1]);
      const classes = await ask(inference, 'modelInfer', request('classes', ['a pump'], {}));
      assert.deepEqual(classes.outputs.map((one) => one.name), ['label', 'score']);
      await assert.rejects(ask(inference, 'modelInfer', request('chat', [], {})), (error) => error.code === grpc.status.INVALID_ARGUMENT);
    },
    'many at once on one connection': async () => {
      const texts = await Promise.all(Array.from({ length: 24 }, () => generate(bantam, { ...chat, maxTokens: 6 })));
      assert.equal(new Set(texts.map((one) => one.text)).size, 1);
    },
  };
}

// FileDescriptorSet: field 1, repeated.
function fileSet(files) {
  const parts = [];
  for (const file of files) {
    const length = [];
    for (let left = file.length; ; left >>>= 7) {
      length.push(left > 127 ? (left & 127) | 128 : left);
      if (left <= 127) break;
    }
    parts.push(Buffer.from([10, ...length]), file);
  }
  return Buffer.concat(parts);
}
