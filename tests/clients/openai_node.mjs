// The openai Node client against a gateway: node openai_node.mjs URL MODEL; prints one JSON object of what it saw.
import { createRequire } from "node:module";

const require = createRequire(process.env.CLIENT_FOLDER + "/");
const OpenAI = require("openai");
const [url, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "once upon a time" }];
const exact = { model, max_tokens: 8, ignore_eos: true, vllm_xargs: { emulate_output_tokens: 8 } };
const endless = { model, max_tokens: 100000, ignore_eos: true, vllm_xargs: { emulate_output_tokens: 100000 } };

async function error(promise) {
  try {
    await promise;
  } catch (e) {
    return { name: e.constructor.name, status: e.status ?? null, code: e.code ?? null, param: e.param ?? null };
  }
  return null;
}

async function text(stream, of) {
  let joined = "", chunks = 0, usage = null;
  for await (const chunk of stream) {
    chunks += 1;
    usage = chunk.usage ?? usage;
    joined += chunk.choices.length ? of(chunk.choices[0]) ?? "" : "";
  }
  return { text: joined, chunks, usage };
}

const seen = {};
const whole = await client.chat.completions.create({ ...exact, messages });
seen.chat = { text: whole.choices[0].message.content, usage: whole.usage, id: whole._request_id };
seen.completion = (await client.completions.create({ ...exact, prompt: "once upon a time" })).choices[0].text;
const asked = { stream: true, stream_options: { include_usage: true } };
seen.chatStream = await text(await client.chat.completions.create({ ...exact, messages, ...asked }), (c) => c.delta.content);
const prompt = "once upon a time";
seen.completionStream = await text(await client.completions.create({ ...exact, prompt, ...asked }), (c) => c.text);
seen.models = [];
for await (const card of client.models.list()) seen.models.push(card.id);
seen.model = (await client.models.retrieve(model)).id;
seen.unknownModel = await error(client.chat.completions.create({ ...exact, model: "other", messages }));
const soon = { headers: { "x-llm-d-slo-ttft-ms": "soon" } };
seen.badSlo = await error(client.chat.completions.create({ ...exact, messages }, soon));
seen.tooLong = await error(client.completions.create({ ...exact, prompt, max_tokens: 10000000 }));
const tight = { headers: { "x-llm-d-slo-tpot-ms": "20" }, maxRetries: 3 };
seen.infeasible = await error(client.chat.completions.create({ ...exact, messages }, tight));
const explain = { headers: { "x-polyslo-explain": "1" } };
const raw = await client.chat.completions.create({ ...exact, messages }, explain).asResponse();
seen.tier = raw.headers.get("x-polyslo-tier");
await raw.text();
const left = await client.completions.create({ ...endless, prompt, stream: true });
for await (const _ of left) break; // leaving the loop aborts the request
seen.timeout = await error(client.completions.create({ ...endless, prompt }, { timeout: 300 }));
console.log(JSON.stringify(seen));
