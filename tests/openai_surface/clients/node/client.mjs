// OpenAI's client for Node against the surface. Prints what it saw as JSON.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(`${process.env.CLIENT_FOLDER}/`));
const { OpenAI, AzureOpenAI, toFile } = require("openai");

const root = process.env.SURFACE_URL;
const apiKey = process.env.SURFACE_KEY;
const client = new OpenAI({ baseURL: `${root}/v1`, apiKey, maxRetries: 0 });
const azure = new AzureOpenAI({ endpoint: root, apiKey, apiVersion: "2024-10-21", maxRetries: 0 });
const messages = [{ role: "user", content: "How much does the Heron 42 S weigh?" }];
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];

const chat = await client.chat.completions.create({ model: "chat", messages });
const pieces = [];
for await (const chunk of await client.chat.completions.create({ model: "chat", messages, stream: true })) {
  pieces.push(chunk.choices[0]?.delta?.content ?? "");
}
const called = await client.chat.completions.create({ model: "calls", messages, tools });
const documents = await client.chat.completions.create({ model: "rag:pumps", messages });
const inputs = ["one", "two"];
const decoded = await client.embeddings.create({ model: "embedding", input: inputs });
const floats = await client.embeddings.create({ model: "embedding", input: inputs, encoding_format: "float" });
const response = await client.responses.create({ model: "chat", input: "Hello?" });
const events = [];
for await (const event of await client.responses.create({ model: "chat", input: "Hello?", stream: true })) {
  events.push(event.type);
}

// A batch of three lines, the last of which asks a model that does not exist, from its file to its answers.
async function batchOf(through, version) {
  const line = (id, model) => ({ custom_id: id, method: "POST", url: `${version}/chat/completions`, body: { model, messages } });
  const lines = [line("model", "chat"), line("documents", "rag:pumps"), line("nobody", "nobody")].map((each) => JSON.stringify(each));
  const input = await through.files.create({ file: await toFile(Buffer.from(lines.join("\n")), "in.jsonl"), purpose: "batch" });
  let batch = await through.batches.create({ input_file_id: input.id, endpoint: `${version}/chat/completions`, completion_window: "24h" });
  while (!["completed", "failed", "cancelled", "expired"].includes(batch.status)) {
    await new Promise((resolve) => setTimeout(resolve, 250));
    batch = await through.batches.retrieve(batch.id);
  }
  const read = async (id) => (await (await through.files.content(id)).text()).trim().split("\n").map((each) => JSON.parse(each));
  const answers = Object.fromEntries((await read(batch.output_file_id)).map((each) => [each.custom_id, each.response.body.choices[0].message.content]));
  const errors = (await read(batch.error_file_id)).map((each) => [each.custom_id, each.response.status_code]);
  const listed = [];
  for await (const each of through.batches.list()) listed.push(each.id);
  const names = [];
  for await (const each of through.files.list()) names.push(each.id);
  const files = [input.id, batch.output_file_id, batch.error_file_id];
  for (const id of files) await through.files.delete(id);
  return { status: batch.status, answers, errors, listed: listed.includes(batch.id), files: files.every((id) => names.includes(id)) };
}

const models = [];
for await (const model of client.models.list()) models.push(model.id);
const line = JSON.stringify({ custom_id: "a", method: "POST", url: "/v1/chat/completions", body: { model: "chat", messages } });
const file = await client.files.create({ file: await toFile(Buffer.from(line), "lines.jsonl"), purpose: "batch" });
const content = await (await client.files.content(file.id)).text();
await client.files.delete(file.id);
const refused = await client.chat.completions.create({ model: "nobody", messages }).catch((error) => error);
const onAzure = await azure.chat.completions.create({ model: "chat", messages });

console.log(
  JSON.stringify({
    chat: chat.choices[0].message.content,
    stream: pieces,
    tools: called.choices[0].message.tool_calls.map((call) => call.function.name),
    documents: documents.choices[0].message.content,
    cited: documents.choices[0].message.citations?.map((citation) => citation.document),
    vectors: decoded.data.map((entry) => entry.embedding.length),
    same: decoded.data.every((entry, i) => entry.embedding.every((x, j) => Math.abs(x - floats.data[i].embedding[j]) < 1e-6)),
    response: response.output_text,
    events: [events[0], events.at(-1)],
    models,
    content: content === line,
    refused: [refused.constructor.name, refused.status, refused.code],
    azure: onAzure.choices[0].message.content,
    batch: await batchOf(client, "/v1"),
    batchOnAzure: await batchOf(azure, ""),
  }),
);
