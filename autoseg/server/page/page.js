"use strict";
// One page: send an image, wait for its job, show slices with contours. Texts of the server are shown as text only.

const byId = (id) => document.getElementById(id);
let token = "";
let models = [];
let job = null;
let shown = null; // URL of the slice that is shown
let asked = 0; // number of the last slice that was asked for

function headers() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers() });
  if (response.ok) return response;
  let detail = `the server answered with status ${response.status}`;
  try {
    detail = (await response.json()).detail || detail;
  } catch {
    // no sentence came along
  }
  const error = new Error(detail);
  error.status = response.status;
  throw error;
}

function say(text, isError = false) {
  byId("message").textContent = text;
  byId("message").classList.toggle("error", isError);
}

function setBusy(busy) {
  byId("progress").hidden = !busy;
  byId("cancel").hidden = !busy;
  byId("files").disabled = busy;
}

async function loadModels() {
  try {
    models = (await (await ask("/v1/models")).json()).models;
  } catch (error) {
    byId("token-form").hidden = error.status !== 401;
    say(error.message, error.status !== 401 || token !== "");
    return;
  }
  byId("token-form").hidden = true;
  byId("model").replaceChildren(...models.map((model) => new Option(`${model.name} (${model.description})`, model.name)));
  showChannels();
  say("");
}

function chosenModel() {
  return models.find((model) => model.name === byId("model").value);
}

function showChannels() {
  const model = chosenModel();
  byId("channels").textContent = model ? `Channels, in this order: ${model.channels.join(", ")}` : "";
}

async function send(files) {
  if (files.length === 0 || !byId("progress").hidden) return;
  await forget();
  const form = new FormData();
  form.append("model", byId("model").value);
  form.append("slices", "true");
  form.append("series", byId("series").value.trim());
  form.append("uncertainty", String(byId("uncertainty").checked));
  for (const file of files) form.append("image", file, file.name);
  setBusy(true);
  say("Sending the image ...");
  try {
    job = await (await ask("/v1/jobs", { method: "POST", body: form })).json();
    while (job.status === 202) {
      say(job.state === "queued" ? "Waiting for its turn ..." : "Predicting ...");
      job = await (await ask(`/v1/jobs/${job.id}?wait=5`)).json();
    }
    if (job.state !== "done") throw new Error(job.error);
    say(`Done in ${job.seconds.toFixed(1)} s.`);
    await showResult();
  } catch (error) {
    say(error.message, true);
  } finally {
    setBusy(false);
    byId("files").value = "";
  }
}

function colorOf(values) {
  const label = chosenModel().labels.find((entry) => values.includes(entry.value));
  return label ? `rgb(${label.color.join(",")})` : "transparent";
}

function statisticsRow(entry) {
  const row = document.createElement("tr");
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.backgroundColor = colorOf(entry.values);
  const cells = [swatch, entry.label, String(entry.voxels), entry.volume_ml === null ? "" : entry.volume_ml.toFixed(2)];
  for (const content of cells) {
    const cell = document.createElement("td");
    cell.append(content);
    row.append(cell);
  }
  return row;
}

function item(text) {
  const entry = document.createElement("li");
  entry.textContent = text;
  return entry;
}

async function showResult() {
  byId("statistics").tBodies[0].replaceChildren(...job.statistics.map(statisticsRow));
  byId("notes").replaceChildren(...job.notes.map(item));
  const files = Object.entries(job.results).filter(([kind]) => kind !== "slices" && kind !== "statistics");
  byId("downloads").replaceChildren(...files.map(([kind, path]) => downloadButton(kind, path)));
  byId("result").hidden = false;
  job.facts = await (await ask(job.results.slices)).json();
  byId("axis").value = String(job.facts.axis);
  byId("view").hidden = false;
  await chooseAxis();
}

function downloadButton(kind, path) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `Download ${kind}`;
  button.addEventListener("click", async () => {
    const response = await ask(path);
    const name = /filename="([^"]+)"/.exec(response.headers.get("content-disposition") || "");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = name ? name[1] : kind;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  return button;
}

async function chooseAxis() {
  const axis = Number(byId("axis").value);
  byId("index").max = String(job.facts.shape[axis] - 1);
  byId("index").value = String(job.facts.best[axis]);
  await showSlice();
}

async function showSlice() {
  if (!job || !job.facts) return;
  const number = ++asked;
  const path = `${job.results.slices}/${byId("axis").value}/${byId("index").value}`;
  byId("place").textContent = `${Number(byId("index").value) + 1} of ${Number(byId("index").max) + 1}`;
  try {
    const blob = await (await ask(`${path}?outlines=${byId("outlines").checked}`)).blob();
    if (number !== asked) return; // a later one is on its way
    if (shown) URL.revokeObjectURL(shown);
    shown = URL.createObjectURL(blob);
    byId("slice").src = shown;
  } catch (error) {
    say(error.message, true);
  }
}

async function forget() {
  byId("result").hidden = true;
  byId("view").hidden = true;
  if (!job) return;
  const path = `/v1/jobs/${job.id}`;
  job = null;
  try {
    await ask(path, { method: "DELETE" });
  } catch {
    // it has expired
  }
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  loadModels();
});
byId("model").addEventListener("change", () => { forget(); showChannels(); });
byId("files").addEventListener("change", (event) => send([...event.target.files]));
byId("axis").addEventListener("change", chooseAxis);
byId("index").addEventListener("input", showSlice);
byId("outlines").addEventListener("change", showSlice);
byId("cancel").addEventListener("click", async () => {
  if (job) await ask(`/v1/jobs/${job.id}`, { method: "DELETE" });
});
byId("remove").addEventListener("click", async () => {
  await forget();
  say("The image and its results were removed.");
});
byId("slice").addEventListener("wheel", (event) => {
  event.preventDefault();
  byId("index").valueAsNumber += Math.sign(event.deltaY);
  showSlice();
}, { passive: false });
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
byId("drop").addEventListener("dragover", () => byId("drop").classList.add("over"));
byId("drop").addEventListener("dragleave", () => byId("drop").classList.remove("over"));
byId("drop").addEventListener("drop", (event) => {
  byId("drop").classList.remove("over");
  send([...event.dataTransfer.files]);
});
loadModels();
