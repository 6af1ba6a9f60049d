// ./dev conformance clients: the official clients of three APIs, and gRPC's, against bantam serve: chats, streams, tools, structured output, errors, and
// clients that change their mind. Prints what passed, and ends with 1 unless all did.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { grpcCases } from './grpc.mjs';

const root = fileURLToPath(new URL('../../..', import.meta.url));
// ./dev has installed the clients here.
const require = createRequire(join(root, 'build', 'conformance-clients', 'package.json'));
const pinned = JSON.parse(readFileSync(new URL('package.json', import.meta.url), 'utf8')).dependencies;
const load = (name) => import(pathToFileURL(require.resolve(name)));
const program = process.env.BANTAM ?? join(root, 'build', 'grpc', 'bantam');
const chatModel = join(root, '../shared/models/minimind2-small');
const vectorModel = join(root, 'tests/data/archs/nomic-bert.gguf');
const classModel = join(root, 'tests/data/archs/bert.gguf');

const kMessages = [{ role: 'user', content: 'Hello! What is a pump?' }];
const kSchema = {
  type: 'object',
  properties: { state: { enum: ['on', 'off'] }, level: { type: 'integer', minimum: 0, maximum: 9 } },
  required: ['state', 'level'],
  additionalProperties: false,
};
const kLight = { type: 'object', properties: { on: { type: 'boolean' } }, required: ['on'], additionalProperties: false };

function startServer() {
  const models = { chat: chatModel, vectors: vectorModel, classes: classModel };
  const named = Object.entries(models).flatMap(([name, path]) => ['--model', `${name}=${path}`]);
  const server = spawn(program, ['serve', '--listen', '127.0.0.1:0', '--grpc', '127.0.0.1:0', ...named]);
  process.on('exit', () => server.kill('SIGTERM'));
  return new Promise((resolve, reject) => {
    let said = '';
    let address;
    createInterface({ input: server.stderr }).on('line', (line) => {
      said += `${line}\n`;
      const at = line.match(/^listening on (.*)$/);
      address ??= line.match(/^gRPC on (.*)$/)?.[1];
      if (at) resolve([at[1], address]);
    });
    server.on('exit', (code) => reject(new Error(`bantam serve ended with ${code}: ${said}`)));
  });
}

function checkState(text) {
  const state = JSON.parse(text);
  assert.ok(['on', 'off'].includes(state.state) && Number.isInteger(state.level), text);
}

// Until the server has nothing to do any more.
async function awaitNothing(url) {
  for (;;) {
    const metrics = await (await fetch(`${url}/metrics`)).text();
    if (/bantam_requests_now\{model="chat"\} 0\n/.test(metrics)) return;
  }
}

function responsesCases(client, url) {
  const ask = (more) => client.responses.create({ model: 'chat', input: kMessages[0].content, max_output_tokens: 24, ...more });
  const tools = [
    { type: 'function', name: 'light', description: 'Turns the light on or off', parameters: kLight, strict: true },
    { type: 'function', name: 'state', parameters: kSchema, strict: true },
  ];
  const format = { type: 'json_schema', name: 'state', strict: true, schema: kSchema };
  return {
    responses: async () => {
      const answer = await ask({ instructions: 'Be short.', temperature: 0.5, top_p: 0.9 });
      assert.ok(answer.output_text.length > 0 && answer.usage.total_tokens > answer.usage.input_tokens);
      assert.equal(answer.output.at(-1).type, 'message');
      const items = [{ role: 'user', content: [{ type: 'input_text', text: kMessages[0].content }] }];
      assert.equal((await ask({ input: items })).output_text, (await ask({})).output_text);
    },
    'responses, streamed': async () => {
      const types = new Set();
      let text = '';
      let number = 0;
      let last;
      for await (const event of await ask({ stream: true })) {
        assert.equal(event.sequence_number, number++);
        types.add(event.type);
        if (event.type === 'response.output_text.delta') text += event.delta;
        last = event;
      }
      for (const type of ['created', 'in_progress', 'output_item.added', 'content_part.added', 'output_text.done', 'content_part.done', 'output_item.done']) {
        assert.ok(types.has(`response.${type}`), type);
      }
      assert.ok(['response.completed', 'response.incomplete'].includes(last.type));
      assert.equal(last.response.output[0].content[0].text, text);
      assert.equal(text, (await ask({})).output_text);
      const final = await client.responses.stream({ model: 'chat', input: 'A pump?', max_output_tokens: 8 }).finalResponse();
      assert.ok(final.output_text.length > 0);
    },
    'responses, tools': async () => {
      const named = { tools, tool_choice: { type: 'function', name: 'state' }, max_output_tokens: 60 };
      const called = await ask(named);
      checkState(called.output[0].arguments);
      let done;
      for await (const event of await ask({ ...named, stream: true })) if (event.type === 'response.function_call_arguments.done') done = event;
      assert.equal(done.arguments, called.output[0].arguments);
      const output = { type: 'function_call_output', call_id: called.output[0].call_id, output: '{"done":true}' };
      assert.ok((await ask({ tools, previous_response_id: called.id, input: [output] })).output.length > 0);
      // The same, with nothing kept.
      const whole = [{ role: 'user', content: kMessages[0].content }, ...called.output, output];
      assert.ok((await ask({ tools, store: false, input: whole })).output.length > 0);
    },
    'responses, structured output': async () => {
      checkState((await ask({ text: { format }, max_output_tokens: 60 })).output_text);
      const parsed = await client.responses.parse({ model: 'chat', input: 'The pump?', text: { format }, max_output_tokens: 60 });
      assert.ok(['on', 'off'].includes(parsed.output_parsed.state));
    },
    'responses, state': async () => {
      const first = await ask({});
      const second = await ask({ input: 'And a valve?', previous_response_id: first.id });
      assert.equal(second.previous_response_id, first.id);
      assert.deepEqual((await client.responses.retrieve(second.id)).output, second.output);
      const roles = [];
      for await (const item of client.responses.inputItems.list(second.id, { order: 'asc', limit: 1 })) roles.push(item.role);
      assert.deepEqual(roles, ['user', 'assistant', 'user']);
      await client.responses.delete(first.id);
      await assert.rejects(client.responses.retrieve(first.id), (error) => error.status === 404);
      await assert.rejects(ask({ previous_response_id: first.id }), (error) => error.status === 400 && error.param === 'previous_response_id');
      assert.ok((await client.responses.inputTokens.count({ model: 'chat', input: 'A pump?' })).input_tokens > 0);
    },
    'responses, errors': async () => {
      const names = (param) => (error) => error.status === 400 && error.param === param;
      await assert.rejects(ask({ background: true }), names('background'));
      await assert.rejects(ask({ conversation: 'conv_1' }), names('conversation'));
      await assert.rejects(ask({ tools: [{ type: 'web_search' }] }), names('tools[0]'));
      await assert.rejects(ask({ max_output_tokens: 0 }), names('max_output_tokens'));
      await assert.rejects(ask({ model: 'none' }), (error) => error.status === 404);
    },
    'responses, cancel': async () => {
      const stream = await ask({ max_output_tokens: 3000, stream: true });
      for await (const event of stream) {
        assert.ok(event.type);
        stream.controller.abort();
      }
      await awaitNothing(url);
    },
  };
}

async function openaiCases(url) {
  const { default: OpenAI, BadRequestError, NotFoundError } = await load('openai');
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
  const ask = (more) => client.chat.completions.create({ model: 'chat', messages: kMessages, max_tokens: 24, ...more });
  const tools = [
    { type: 'function', function: { name: 'light', description: 'Turns the light on or off', parameters: kLight } },
    { type: 'function', function: { name: 'state', parameters: kSchema } },
  ];
  return {
    models: async () => {
      const ids = [];
      for await (const model of client.models.list()) ids.push(model.id);
      assert.deepEqual(ids, ['chat', 'vectors', 'classes']);
      assert.equal((await client.models.retrieve('chat')).id, 'chat');
    },
    chat: async () => {
      const answer = await ask({ seed: 1, temperature: 0.5, stop: ['\n\n'] });
      assert.equal(answer.choices[0].message.role, 'assistant');
      assert.ok(answer.choices[0].message.content.length > 0 && answer.usage.total_tokens > answer.usage.prompt_tokens);
    },
    'stream with usage': async () => {
      let text = '';
      let usage;
      for await (const chunk of await ask({ stream: true, stream_options: { include_usage: true } })) {
        text += chunk.choices[0]?.delta.content ?? '';
        usage = chunk.usage ?? usage;
      }
      assert.equal(text, (await ask({})).choices[0].message.content);
      assert.ok(usage.completion_tokens > 0);
    },
    'stream helper': async () => {
      const runner = client.chat.completions.stream({ model: 'chat', messages: kMessages, max_tokens: 12 });
      const final = await runner.finalChatCompletion();
      assert.equal(final.choices[0].message.content, await runner.finalContent());
    },
    'choices and logprobs': async () => {
      const answer = await ask({ n: 3, temperature: 1, logprobs: true, top_logprobs: 2, max_tokens: 4 });
      assert.equal(answer.choices.length, 3);
      assert.equal(answer.choices[0].logprobs.content[0].top_logprobs.length, 2);
    },
    'structured output': async () => {
      const json_schema = { name: 'state', strict: true, schema: kSchema };
      checkState((await ask({ max_tokens: 60, response_format: { type: 'json_schema', json_schema } })).choices[0].message.content);
      JSON.parse((await ask({ max_tokens: 300, response_format: { type: 'json_object' }, temperature: 0 })).choices[0].message.content.concat(''));
    },
    'tools, required': async () => {
      const call = (await ask({ tools, tool_choice: 'required', max_tokens: 60 })).choices[0];
      assert.equal(call.finish_reason, 'tool_calls');
      JSON.parse(call.message.tool_calls[0].function.arguments);
      const named = { type: 'function', function: { name: 'state' } };
      checkState((await ask({ tools, tool_choice: named, max_tokens: 60 })).choices[0].message.tool_calls[0].function.arguments);
    },
    'tools, streamed, and what came of them': async () => {
      let last;
      const named = { type: 'function', function: { name: 'light' } };
      for await (const chunk of await ask({ tools, tool_choice: named, stream: true, max_tokens: 60 })) {
        last = chunk.choices[0].delta.tool_calls?.[0] ?? last;
      }
      const call = { id: last.id, type: 'function', function: last.function };
      const result = { role: 'tool', tool_call_id: last.id, content: '{"done":true}' };
      const next = await ask({ messages: [...kMessages, { role: 'assistant', content: null, tool_calls: [call] }, result], tools });
      assert.ok(next.choices[0].finish_reason);
    },
    completions: async () => {
      const answer = await client.completions.create({ model: 'chat', prompt: 'Once upon', max_tokens: 5, echo: true });
      assert.ok(answer.choices[0].text.startsWith('Once upon'));
    },
    embeddings: async () => {
      const [short, both] = await Promise.all(
        ['a pump', ['a pump', 'hot water']].map((input) => client.embeddings.create({ model: 'vectors', input })),
      );
      assert.equal(both.data.length, 2);
      assert.deepEqual(both.data[0].embedding, short.data[0].embedding);
      const plain = await client.embeddings.create({ model: 'vectors', input: 'a pump', encoding_format: 'float' });
      assert.ok(Math.abs(plain.data[0].embedding[0] - short.data[0].embedding[0]) < 1e-6);
    },
    errors: async () => {
      await assert.rejects(ask({ temperature: 'hot' }), (error) => error instanceof BadRequestError && error.param === 'temperature');
      await assert.rejects(ask({ model: 'none' }), (error) => error instanceof NotFoundError && /chat/.test(error.message));
      await assert.rejects(ask({ tempratur: 1 }), /temperature/);
    },
    ...responsesCases(client, url),
    cancel: async () => {
      const stream = await ask({ max_tokens: 2000, min_tokens: 2000, stream: true });
      for await (const chunk of stream) {
        assert.ok(chunk.id);
        stream.controller.abort();
      }
      await awaitNothing(url);
    },
  };
}

async function anthropicCases(url) {
  const { default: Anthropic, BadRequestError, NotFoundError } = await load('@anthropic-ai/sdk');
  const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
  const body = { model: 'chat', messages: kMessages, max_tokens: 24 };
  const tools = [{ name: 'state', description: 'Of the pump', input_schema: kSchema }];
  return {
    messages: async () => {
      const message = await client.messages.create({ ...body, system: 'Be short.', stop_sequences: ['\n\n'] });
      assert.equal(message.content[0].type, 'text');
      assert.ok(message.usage.output_tokens > 0 && message.stop_reason);
    },
    stream: async () => {
      const stream = client.messages.stream(body);
      let text = '';
      stream.on('text', (delta) => (text += delta));
      const final = await stream.finalMessage();
      assert.equal(final.content[0].text, text);
      assert.equal(text, (await client.messages.create(body)).content[0].text);
    },
    tools: async () => {
      const asked = { ...body, max_tokens: 60, tools, tool_choice: { type: 'any' } };
      const whole = await client.messages.create(asked);
      assert.equal(whole.stop_reason, 'tool_use');
      checkState(JSON.stringify(whole.content[0].input));
      const streamed = await client.messages.stream(asked).finalMessage();
      assert.deepEqual(streamed.content[0].input, whole.content[0].input);
      const result = { type: 'tool_result', tool_use_id: whole.content[0].id, content: [{ type: 'text', text: 'done' }] };
      const messages = [...kMessages, { role: 'assistant', content: whole.content }, { role: 'user', content: [result] }];
      assert.ok((await client.messages.create({ ...body, tools, messages })).stop_reason);
    },
    count_tokens: async () => {
      const counted = await client.messages.countTokens({ model: 'chat', messages: kMessages, tools });
      assert.ok(counted.input_tokens > 20);
    },
    errors: async () => {
      await assert.rejects(client.messages.create({ ...body, top_p: 7 }), (error) => error instanceof BadRequestError && /top_p/.test(error.message));
      await assert.rejects(client.messages.create({ ...body, model: 'none' }), NotFoundError);
    },
    cancel: async () => {
      const stream = client.messages.stream({ ...body, max_tokens: 3000 });
      await assert.rejects(async () => {
        for await (const event of stream) {
          assert.ok(event.type);
          stream.abort();
        }
        throw new Error('aborted');
      });
      await awaitNothing(url);
    },
  };
}

async function ollamaCases(url) {
  const { Ollama } = await load('ollama');
  const client = new Ollama({ host: url });
  const body = { model: 'chat', messages: kMessages, options: { num_predict: 24 } };
  return {
    chat: async () => {
      const answer = await client.chat(body);
      assert.ok(answer.message.content.length > 0 && answer.done && answer.eval_count > 0);
    },
    stream: async () => {
      let text = '';
      for await (const part of await client.chat({ ...body, stream: true })) text += part.message.content;
      assert.equal(text, (await client.chat(body)).message.content);
    },
    generate: async () => {
      const answer = await client.generate({ model: 'chat', prompt: 'What is a pump?', system: 'Be short.', options: { num_predict: 8 } });
      assert.ok(answer.response.length > 0);
    },
    'structured output': async () => checkState((await client.chat({ ...body, format: kSchema, options: { num_predict: 60 } })).message.content),
    tools: async () => {
      const tool = { type: 'function', function: { name: 'light', description: 'The light', parameters: kLight } };
      assert.ok((await client.chat({ ...body, tools: [tool] })).message);
    },
    embed: async () => {
      const vectors = await client.embed({ model: 'vectors', input: ['a pump', 'hot water'] });
      assert.equal(vectors.embeddings.length, 2);
    },
    'list, show, ps, version': async () => {
      assert.deepEqual((await client.list()).models.map((model) => model.name), ['chat', 'vectors', 'classes']);
      assert.equal((await client.show({ model: 'chat' })).details.family, 'llama');
      assert.equal((await client.ps()).models.length, 3);
      assert.ok((await client.version()).version);
    },
    errors: async () => {
      await assert.rejects(client.chat({ ...body, model: 'none' }), (error) => error.status_code === 404 && /there are: /.test(error.message));
      await assert.rejects(client.chat({ ...body, options: { temperature: -1 } }), /temperature/);
    },
    cancel: async () => {
      const stream = await client.chat({ ...body, stream: true, options: { num_predict: 3000 } });
      await assert.rejects(async () => {
        for await (const part of stream) {
          assert.ok(part.message);
          stream.abort();
        }
        throw new Error('aborted');
      });
      await awaitNothing(url);
    },
  };
}

async function aiCases(url) {
  const { generateText, jsonSchema, streamText, tool, Output } = await load('ai');
  const { createOpenAICompatible } = await load('@ai-sdk/openai-compatible');
  const { createAnthropic } = await load('@ai-sdk/anthropic');
  const models = {
    'openai-compatible': createOpenAICompatible({ name: 'bantam', baseURL: `${url}/v1`, supportsStructuredOutputs: true })('chat'),
    anthropic: createAnthropic({ baseURL: `${url}/v1`, apiKey: 'none' })('chat'),
  };
  const cases = {};
  for (const [name, model] of Object.entries(models)) {
    const common = { model, prompt: 'What is a pump?', maxOutputTokens: 24, maxRetries: 0 };
    cases[`${name}: text`] = async () => assert.ok((await generateText(common)).text.length > 0);
    cases[`${name}: stream`] = async () => {
      let text = '';
      for await (const part of streamText(common).textStream) text += part;
      assert.ok(text.length > 0);
    };
    cases[`${name}: tools`] = async () => {
      const light = tool({ description: 'The light', inputSchema: jsonSchema(kLight) });
      const { toolCalls } = await generateText({ ...common, maxOutputTokens: 60, tools: { light }, toolChoice: 'required' });
      assert.equal(typeof toolCalls[0].input.on, 'boolean');
    };
  }
  cases['openai-compatible: structured output'] = async () => {
    const output = Output.object({ schema: jsonSchema(kSchema) });
    const answer = await generateText({ model: models['openai-compatible'], prompt: 'The pump?', output, maxOutputTokens: 60, maxRetries: 0 });
    checkState(JSON.stringify(answer.output));
  };
  return cases;
}

async function langchainCases(url) {
  const { ChatOpenAI, OpenAIEmbeddings } = await load('@langchain/openai');
  const configuration = { baseURL: `${url}/v1` };
  const model = new ChatOpenAI({ model: 'chat', apiKey: 'none', maxTokens: 60, maxRetries: 0, configuration });
  return {
    invoke: async () => assert.ok((await model.invoke('What is a pump?')).content.length > 0),
    stream: async () => {
      let text = '';
      for await (const chunk of await model.stream('What is a pump?')) text += chunk.content;
      assert.ok(text.length > 0);
    },
    tools: async () => {
      const light = { type: 'function', function: { name: 'light', description: 'The light', parameters: kLight } };
      const answer = await model.bindTools([light], { tool_choice: 'light' }).invoke('On, please.');
      assert.equal(typeof answer.tool_calls[0].args.on, 'boolean');
    },
    'structured output': async () => {
      checkState(JSON.stringify(await model.withStructuredOutput(kSchema, { name: 'state', method: 'jsonSchema' }).invoke('The pump?')));
    },
    'responses API': async () => {
      const responses = new ChatOpenAI({ model: 'chat', apiKey: 'none', maxTokens: 24, maxRetries: 0, configuration, useResponsesApi: true });
      const answer = await responses.invoke('What is a pump?');
      assert.ok(answer.text.length > 0);
      let text = '';
      for await (const chunk of await responses.stream('What is a pump?')) text += chunk.text;
      assert.equal(text, answer.text);
    },
    embeddings: async () => {
      const vectors = new OpenAIEmbeddings({ model: 'vectors', apiKey: 'none', configuration });
      assert.equal((await vectors.embedDocuments(['a', 'b'])).length, 2);
    },
  };
}

const [url, address] = await startServer();
let failed = 0;
const makers = { openai: openaiCases, '@anthropic-ai/sdk': anthropicCases, ollama: ollamaCases, ai: aiCases, '@langchain/openai': langchainCases };
makers['@grpc/grpc-js'] = () => grpcCases({ load, root, address, url, awaitNothing });
for (const [name, make] of Object.entries(makers)) {
  const cases = Object.entries(await make(url));
  let passed = 0;
  for (const [what, check] of cases) {
    try {
      await check();
      ++passed;
    } catch (error) {
      ++failed;
      console.log(`${name}: ${what}: ${error.stack ?? error}`);
    }
  }
  console.log(`${name} ${pinned[name]}: ${passed} of ${cases.length} cases`);
}
// What Prometheus' own tool says of the metrics of all that.
const page = await (await fetch(`${url}/metrics`)).text();
const judged = spawnSync('promtool', ['check', 'metrics'], { input: page, encoding: 'utf8' });
if (judged.error) {
  console.log('promtool: not here (Debian: prometheus), so nobody judged the metrics');
} else {
  failed += judged.status === 0 ? 0 : 1;
  console.log(`promtool: ${judged.status === 0 ? 'clean' : judged.stdout + judged.stderr}`);
}
process.exit(failed === 0 ? 0 : 1);
