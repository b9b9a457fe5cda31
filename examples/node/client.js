// Draws a steered sample, watches one come into being, and cancels a third.
//
//     node client.js [host:port] [model] [parameters as JSON]

"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const definition = loader.loadSync(path.join(__dirname, "inference.proto"), {
  keepCase: true, // names as in the file
  longs: String, // a seed may have more digits than a JavaScript number
  oneofs: true,
});
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;

const [address = "127.0.0.1:8001", model = "digits", json = '{"reward": "classifier", "reward_label": 7}'] =
  process.argv.slice(2);
const steered = JSON.parse(json);

// A number, string or boolean as the protocol's InferParameter. Numbers are integers unless they have a fraction.
function parameter(value) {
  if (typeof value === "boolean") return { bool_param: value };
  if (typeof value === "string") return { string_param: value };
  return Number.isInteger(value) ? { int64_param: value } : { double_param: value };
}

function request(id, parameters) {
  const entries = Object.entries(parameters).map(([name, value]) => [name, parameter(value)]);
  return { model_name: model, id, parameters: Object.fromEntries(entries) };
}

// The parameters of a response as plain values.
function said(response) {
  const entries = Object.entries(response.parameters).map(([name, each]) => [name, each[each.parameter_choice]]);
  return Object.fromEntries(entries);
}

// An output by its name: its shape and its numbers.
function output(response, name) {
  const place = response.outputs.findIndex((each) => each.name === name);
  const bytes = response.raw_output_contents[place];
  const types = { FP32: [4, "readFloatLE"], UINT8: [1, "readUInt8"] };
  const [size, read] = types[response.outputs[place].datatype];
  const values = Array.from({ length: bytes.length / size }, (_, i) => bytes[read](i * size));
  return { shape: response.outputs[place].shape.map(Number), values };
}

const mean = (values) => values.reduce((sum, each) => sum + each, 0) / values.length;

function draw(client) {
  return new Promise((resolve, reject) => {
    const asked = request("one", { samples: 4, seed: 1, steps: 20, ...steered });
    client.ModelInfer(asked, { deadline: Date.now() + 60_000 }, (error, response) => {
      if (error) return reject(error);
      const { shape } = output(response, "samples");
      const rewards = output(response, "rewards").values;
      console.log(`drawn: samples [${shape}], mean reward ${mean(rewards).toFixed(3)}, seed ${said(response).seed}`);
      resolve();
    });
  });
}

function watch(client) {
  return new Promise((resolve, reject) => {
    const call = client.ModelStreamInfer({ deadline: Date.now() + 60_000 });
    call.on("data", ({ error_message, infer_response }) => {
      if (error_message) return reject(new Error(error_message));
      const told = said(infer_response);
      if (told.triton_final_response) {
        console.log(`done: samples [${output(infer_response, "samples").shape}], ${told.network_rows} network rows`);
        return;
      }
      const { shape, values } = output(infer_response, "denoised");
      console.log(`stage ${told.stage} of ${told.stages}: denoised [${shape}], mean byte ${mean(values).toFixed(1)}`);
    });
    call.on("error", reject);
    call.on("end", resolve);
    call.write(request("two", { samples: 1, seed: 1, steps: 20, preview_every: 5, preview_dtype: "uint8", ...steered }));
    call.end(); // no more requests; the answers still come
  });
}

function cancel(client) {
  return new Promise((resolve, reject) => {
    const call = client.ModelStreamInfer();
    call.on("data", ({ error_message }) => {
      if (error_message) return reject(new Error(error_message));
      call.cancel(); // its rows leave the server before the next network call
    });
    call.on("error", (error) => {
      if (error.code !== grpc.status.CANCELLED) return reject(error);
      console.log("cancelled after the first preview");
      resolve();
    });
    call.write(request("three", { samples: 64, steps: 1000, preview_every: 1, preview_dtype: "uint8" }));
  });
}

async function main() {
  const client = new GRPCInferenceService(address, grpc.credentials.createInsecure());
  try {
    await draw(client);
    await watch(client);
    await cancel(client);
  } finally {
    client.close();
  }
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
