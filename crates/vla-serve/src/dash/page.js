// The operator page. State comes as server-sent events; what is old is greyed, never shown as
// current. Silence of this page changes nothing at the node.
"use strict";

const SILENT_MS = 800; // without a tick the page has lost its server
const OLD_PICTURE_S = 1;
const WINDOW_S = 10; // of the plots
const STATES = {
  UNCONFIGURED: "no checkpoint is loaded",
  INACTIVE: "loaded, not active",
  IDLE: "active, motion is not enabled",
  RUNNING: "the command follows the policy",
  HOLDING: "stopped by a cause; may resume by itself",
  FAULT: "latched: at rest until reset",
  ESTOPPED: "stopped and latched until reset",
};

const $ = (id) => document.getElementById(id);
// Not relative to the address of the page, which may contain a password.
const at = (path) => new URL(path, location.origin);
const text = (kind, words, name) => {
  const made = document.createElement(kind);
  made.textContent = words;
  if (name) made.className = name;
  return made;
};
const number = (value, digits, unit) =>
  value === null || value === undefined ? "–" : `${value.toFixed(digits)} ${unit}`;

// -- Requests ----------------------------------------------------------------------------------

function say(words, bad) {
  $("answer").textContent = words;
  $("answer").classList.toggle("bad", Boolean(bad));
}

async function send(path, what, body) {
  try {
    const response = await fetch(at(path), { method: "POST", headers: { "X-Dash": "1" }, body });
    const answer = await response.json();
    const done = response.ok && answer.success;
    const ms = answer.ms === undefined ? "" : ` (${answer.ms.toFixed(0)} ms)`;
    say(`${what}: ${answer.message || answer.error}${ms}`, !done);
    return done;
  } catch (error) {
    say(`${what}: no answer of openvla dash`, true);
    return false;
  }
}

let unstopped = "";
async function stop() {
  const done = await send("/stop", "Stop");
  unstopped = done ? "" : "STOP DID NOT REACH THE NODE – use the emergency stop";
  alarm();
}

// At the press, not at the release; the click that follows a press is not a second one.
let pressed = 0;
$("stop").addEventListener("pointerdown", () => {
  pressed = performance.now();
  stop();
});
$("stop").addEventListener("click", () => {
  if (performance.now() - pressed > 1000) stop();
});
addEventListener(
  "keydown",
  (event) => {
    if (event.key === "Escape" && !event.repeat) stop();
  },
  true,
);
$("enable").addEventListener("click", () => send("/enable", "Enable"));
$("disable").addEventListener("click", () => send("/disable", "Disable"));
$("reset").addEventListener("click", () => send("/reset", "Reset"));
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send("/instruction", "Instruction", $("instruction").value);
});

// -- Whether anything is current ---------------------------------------------------------------

let tick = null;
let ticked = -Infinity; // when it came
let node = "the node";

function alarm() {
  const silent = performance.now() - ticked > SILENT_MS;
  let words = unstopped;
  if (silent) words = "NO CONNECTION to openvla dash – nothing here is current";
  else if (!tick.alive && tick.silent_s === null) words = `NO NODE ${node} – is it running?`;
  else if (!tick.alive) words = `NODE LOST – ${node} is silent`;
  // Written only on a change: every write is announced.
  if ($("alarm").textContent !== words) $("alarm").textContent = words;
  $("alarm").hidden = !words;
  const stale = silent || !tick.alive;
  document.body.classList.toggle("stale", stale);
  $("link").textContent = silent ? "not connected" : tick.alive ? "connected" : "node silent";
  const ages = silent || !tick ? [] : tick.cameras;
  cameras.forEach((camera, index) => camera.age(ages[index]));
}
setInterval(alarm, 100);

// -- Events ------------------------------------------------------------------------------------

const events = new EventSource(at("/events"));
const on = (name, show) => events.addEventListener(name, (event) => show(JSON.parse(event.data)));

on("tick", (shown) => {
  tick = shown;
  ticked = performance.now();
  alarm();
});

function reasonRows(cause) {
  const rows = [text("p", cause.name, "name"), text("p", cause.detail || cause.sentence)];
  if (cause.remedy) rows.push(text("p", `Remedy: ${cause.remedy}`, "remedy"));
  return rows;
}

on("status", (status) => {
  $("state").dataset.state = status.state;
  $("state-name").textContent = status.state;
  // The way on: a latch is reset before motion can be enabled.
  const latched = status.state === "FAULT" || status.state === "ESTOPPED";
  $("reset").classList.toggle("go", latched);
  $("enable").classList.toggle("go", !latched);
  let words = STATES[status.state] || "";
  if (status.resumes_in_s !== null) words = `resumes in ${status.resumes_in_s.toFixed(1)} s`;
  else if (status.enable_withdrawn_in_s !== null)
    words = `enabling ends in ${status.enable_withdrawn_in_s.toFixed(1)} s`;
  if (status.dry_run) words += "; DRY RUN: nothing is published";
  $("state-words").textContent = words;
  $("published").textContent = status.dry_run ? " (dry run: not published)" : " (published)";
  $("in-force").textContent = status.instruction;
  const causes = status.causes.length ? status.causes : [status.reason];
  $("reason").replaceChildren(...causes.slice(0, 4).flatMap(reasonRows));
  const rows = [
    ["motion", status.enabled ? "enabled" : "not enabled"],
    ["newest image", number(status.image_age_s, 2, "s old")],
    ["inference", number(status.inference_ms, 1, "ms")],
    ["commands", number(status.command_hz, 1, "Hz")],
    ["decisions", status.inferences],
    ["faults", status.faults],
  ];
  $("numbers").replaceChildren(
    ...rows.map(([name, value]) => {
      const row = document.createElement("div");
      row.append(text("dt", name), text("dd", value));
      return row;
    }),
  );
});

on("action", (action) => {
  const longest = Math.max(1e-9, ...action.stages.map((stage) => stage.ms));
  const rows = action.stages.map((stage) => {
    const row = text("div", "", "stage");
    const bar = text("div", "", "bar");
    bar.style.width = `${(100 * stage.ms) / longest}%`;
    row.append(text("span", stage.name), bar, text("span", `${stage.ms.toFixed(1)} ms`, "ms"));
    return row;
  });
  const latency = action.latency_s === null ? null : action.latency_s * 1000;
  const where = `${action.device}, ${action.precision}`;
  rows.push(text("p", `image to decision: ${number(latency, 0, "ms")} on ${where}`, "total"));
  $("stages").replaceChildren(...rows);
});

// Simulated time has no date.
const clock = (seconds) =>
  seconds > 1e9 ? new Date(seconds * 1000).toLocaleTimeString("sv-SE") : `${seconds.toFixed(1)} s`;

on("timeline", (states) => {
  $("timeline").replaceChildren(
    ...states.map(({ at, state, reason }) => {
      const row = document.createElement("li");
      row.append(text("time", clock(at)), text("strong", state));
      const words = ` ${reason.name}: ${reason.detail || reason.sentence}`;
      if (reason.name !== "NONE") row.append(words);
      return row;
    }),
  );
});

on("records", ({ folder, note, files }) => {
  const list = document.createElement("ul");
  for (const file of files) {
    const size = `${(file.bytes / 1e6).toFixed(1)} MB`;
    const written = new Date(file.at * 1000).toLocaleString("sv-SE");
    list.append(text("li", `${file.name}, ${size}, ${written}`));
  }
  const words = [folder, note || (files.length ? "" : "none yet")].filter(Boolean).join(": ");
  $("records").replaceChildren(text("p", words), list);
});

// -- Cameras -----------------------------------------------------------------------------------

let cameras = [];

class Camera {
  constructor(index, { name, topic, note }) {
    Object.assign(this, { index, topic, note, number: 0, open: true });
    this.figure = document.createElement("figure");
    this.image = document.createElement("img");
    this.image.alt = `newest picture of the camera ${name}`;
    this.caption = document.createElement("figcaption");
    this.figure.append(this.image, this.caption);
    this.watch();
  }

  async watch() {
    while (this.open) {
      try {
        if (document.hidden) throw new Error("hidden");
        const response = await fetch(at(`/camera/${this.index}?after=${this.number}`));
        if (response.status === 204) continue;
        if (!response.ok) throw new Error(response.status);
        this.number = response.headers.get("x-picture");
        const old = this.image.src;
        this.image.src = URL.createObjectURL(await response.blob());
        if (old) URL.revokeObjectURL(old);
      } catch (error) {
        await new Promise((done) => setTimeout(done, 500));
      }
    }
  }

  age(seconds) {
    const known = typeof seconds === "number";
    const old = !known || seconds > OLD_PICTURE_S;
    this.figure.classList.toggle("stale", old);
    const words = known ? `${seconds.toFixed(1)} s old` : "no picture yet";
    const caption = this.note || `${this.topic}${old ? `: ${words}` : ""}`;
    if (this.caption.textContent !== caption) this.caption.textContent = caption;
  }
}

// -- Motion ------------------------------------------------------------------------------------

let plots = [];
let channels = "";
const samples = { desired: [], executed: [] };

on("settings", (settings) => {
  node = settings.node;
  $("node").textContent = node;
  document.title = `${node} – openvla dash`;
  const same = cameras.map((camera) => camera.topic).join() ===
    settings.cameras.map((camera) => camera.topic).join();
  if (!same || cameras.length === 0) {
    cameras.forEach((camera) => (camera.open = false));
    cameras = settings.cameras.map((camera, index) => new Camera(index, camera));
    $("cameras").replaceChildren(...cameras.map((camera) => camera.figure));
  }
  cameras.forEach((camera, index) => (camera.note = settings.cameras[index].note));
  if (JSON.stringify(settings.channels) !== channels) {
    channels = JSON.stringify(settings.channels);
    plots = settings.channels.map((channel, index) => new Plot(index, channel));
    $("plots").replaceChildren(...plots.map((plot) => plot.element));
  }
  if (settings.note && !plots.length) $("plots").replaceChildren(text("p", settings.note));
});

on("motion", (motion) => {
  for (const kind of ["desired", "executed"]) {
    samples[kind].push(...motion[kind]);
    const since = samples[kind].at(-1)?.[0] - WINDOW_S - 1;
    samples[kind] = samples[kind].filter(([time]) => time > since);
  }
});

class Plot {
  constructor(index, { name, unit, low, high }) {
    Object.assign(this, { index, unit, low, high });
    this.element = text("div", "", "plot");
    this.value = document.createElement("output");
    const title = document.createElement("p");
    title.append(text("span", name), this.value);
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${name}: desired and executed over ${WINDOW_S} s`);
    this.element.append(title, this.canvas);
  }

  // The range shown: the limits with a margin, or what there is where there are none.
  range() {
    if (this.low !== null && this.high !== null) {
      const margin = 0.08 * (this.high - this.low);
      return [this.low - margin, this.high + margin];
    }
    const values = [...samples.desired, ...samples.executed].map(([, row]) => row[this.index]);
    const known = values.filter((value) => typeof value === "number");
    const [low, high] = [Math.min(0, ...known), Math.max(0, ...known)];
    const margin = 0.1 * (high - low) + 0.01;
    return [low - margin, high + margin];
  }

  draw(now) {
    const ratio = devicePixelRatio || 1;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (this.canvas.width !== Math.round(width * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const [low, high] = this.range();
    const x = (time) => width * (1 - (now - time) / WINDOW_S);
    const y = (value) => height * (1 - (Math.min(high, Math.max(low, value)) - low) / (high - low));
    const line = (colour, thickness, dashes, path) => {
      pen.strokeStyle = colour;
      pen.lineWidth = thickness;
      pen.setLineDash(dashes);
      pen.beginPath();
      path();
      pen.stroke();
    };
    const level = (value, colour, dashes) =>
      line(colour, 1, dashes, () => {
        pen.moveTo(0, y(value));
        pen.lineTo(width, y(value));
      });
    level(0, "#d3dae0", []);
    for (const limit of [this.low, this.high]) if (limit !== null) level(limit, "#6b7885", [4, 3]);
    const curve = (rows) => {
      let drawn = false;
      for (const [time, row] of rows) {
        const value = row[this.index];
        if (typeof value !== "number") drawn = false;
        else if (drawn) pen.lineTo(x(time), y(value));
        else pen.moveTo(x(time), y(value));
        drawn = typeof value === "number";
      }
    };
    line("#0b62b0", 1.5, [], () => curve(samples.desired));
    line("#b8460b", 2, [], () => curve(samples.executed));
    const last = samples.executed.at(-1);
    const fresh = last && now - last[0] < 0.5 ? last[1][this.index] : null;
    const limit = this.high === null ? "" : ` (${this.low.toFixed(2)}..${this.high.toFixed(2)})`;
    this.value.textContent = `${number(fresh, 3, this.unit)}${limit}`;
  }
}

// As often as motion arrives.
setInterval(() => {
  if (!tick || document.hidden) return;
  const now = tick.t + (performance.now() - ticked) / 1000;
  plots.forEach((plot) => plot.draw(now));
}, 100);
