"use strict";
const $ = (id) => document.getElementById(id);
const info = JSON.parse($("info").textContent);
const [channels, height, width] = info.shape;
const LARGE = 7e6; // bytes of a file above which a smaller one is sent
const SIDE = 2048; // pixels of that one
const BARS = 10;
const CELLS = 16; // values of a list that are shown
const small = Math.max(height, width) <= 64;
const strokes = []; // of the drawing: lists of points in [0, 1]
let bitmap = null; // the chosen picture, if the browser can decode it
let file = null; // the chosen file; null for a drawing
let before = null; // the embedding of the picture before
let latest = 0;
let controller = null;

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function canvasOf(w, h) {
  return make("canvas", { width: w, height: h });
}

function context(canvas) {
  return canvas.getContext("2d", { willReadFrequently: true });
}

function blob(base64, type) {
  return new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], { type });
}

function bytes(canvas, type = "image/png") {
  return blob(canvas.toDataURL(type, 0.92).split(",")[1], type); // toBlob may wait a second until the page is idle
}

function percent(p) {
  return p === null ? "not a number" : `${(100 * p).toFixed(p > 0.9995 && p < 1 ? 2 : 1)} %`;
}

function number(x) {
  return typeof x === "number" ? String(Number(x.toPrecision(4))) : x === null ? "not a number" : String(x);
}

function listed(values) {
  if (!Array.isArray(values)) return number(values);
  const shown = values.slice(0, CELLS).map(listed).join(", ");
  return values.length > CELLS ? `${shown}, ... (${values.length} values)` : shown;
}

function inverted() {
  return Boolean($("invert") && $("invert").checked);
}

function change(canvas, gray, invert) {
  const g = context(canvas);
  const picture = g.getImageData(0, 0, canvas.width, canvas.height);
  const d = picture.data;
  for (let i = 0; i < d.length; i += 4) {
    if (gray) d[i] = d[i + 1] = d[i + 2] = Math.round(0.299 * d[i] + 0.587 * d[i + 1] + 0.114 * d[i + 2]);
    if (invert) for (let c = 0; c < 3; c++) d[i + c] = 255 - d[i + c];
  }
  g.putImageData(picture, 0, 0);
  return canvas;
}

// Draws all strokes with a pen of the same width, scaled by k around their middle, which comes to (x, y).
function trace(side, pen, k, middle, x, y) {
  const canvas = canvasOf(side, side);
  const g = context(canvas);
  g.fillStyle = "#000";
  g.fillRect(0, 0, side, side);
  g.strokeStyle = "#fff";
  g.lineWidth = pen;
  g.lineCap = g.lineJoin = "round";
  for (const points of strokes) {
    g.beginPath();
    for (const [u, v] of [points[0], ...points]) g.lineTo(x + (u - middle[0]) * k, y + (v - middle[1]) * k);
    g.stroke();
  }
  return canvas;
}

// Returns the drawing as scanned digits often are: its box 20/28 of the side, its center of mass in the middle.
function centered() {
  const side = 10 * Math.max(width, height);
  const tiny = side < 160; // such as the digits of scikit-learn, 8 x 8, which have no margin and thick strokes
  const pen = side / (tiny ? 6 : 14);
  const room = tiny ? side : (side * 20) / 28;
  const all = strokes.flat();
  const ends = [0, 1].map((i) => [Math.min(...all.map((p) => p[i])), Math.max(...all.map((p) => p[i]))]);
  const middle = ends.map(([low, high]) => (low + high) / 2);
  const largest = Math.max(...ends.map(([low, high]) => high - low));
  const k = Math.min((room - pen) / Math.max(largest, 1e-6), 12 * side);
  const d = context(trace(side, pen, k, middle, side / 2, side / 2)).getImageData(0, 0, side, side).data;
  let mass = 0;
  let mx = 0;
  let my = 0;
  for (let i = 0; i < side * side; i++) {
    mass += d[4 * i];
    mx += d[4 * i] * (i % side);
    my += d[4 * i] * Math.floor(i / side);
  }
  const shift = (m, i) => {
    const free = (side - pen - k * (ends[i][1] - ends[i][0])) / 2; // the drawing stays inside
    return Math.max(-free, Math.min(free, (side - 1) / 2 - m / mass));
  };
  const big = trace(side, pen, k, middle, side / 2 + shift(mx, 0), side / 2 + shift(my, 1));
  return fitted(big, width, height, "#000");
}

// Returns a picture scaled and center-cropped, as the server does.
function fitted(source, w, h, back = "#fff") {
  const canvas = canvasOf(w, h);
  const g = context(canvas);
  g.fillStyle = back; // the server puts white behind transparent pixels
  g.fillRect(0, 0, w, h);
  let now = source;
  while (now.width > 2 * w && now.height > 2 * h) {
    const half = canvasOf(Math.ceil(now.width / 2), Math.ceil(now.height / 2)); // halving averages all pixels
    context(half).drawImage(now, 0, 0, half.width, half.height);
    now = half;
  }
  const s = Math.max(w / now.width, h / now.height);
  g.imageSmoothingQuality = "high";
  g.drawImage(now, (w - now.width * s) / 2, (h - now.height * s) / 2, now.width * s, now.height * s);
  return canvas;
}

// Returns the picture as a file of at most SIDE pixels, for a switch that the server does not have, or a large file.
function converted() {
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = canvasOf(Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
  const g = context(canvas);
  g.fillStyle = "#fff";
  g.fillRect(0, 0, canvas.width, canvas.height);
  g.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return bytes(change(canvas, false, inverted()), scale < 1 ? "image/jpeg" : "image/png");
}

function paint(source) {
  const view = $("view");
  const k = small ? 1 : Math.min(1, 384 / Math.max(height, width));
  view.width = Math.round(width * k);
  view.height = Math.round(height * k);
  view.classList.toggle("pixels", small);
  view.classList.toggle("large", !small);
  $("seen").hidden = !source;
  if (source) context(view).drawImage(source, 0, 0, view.width, view.height);
}

async function choose(chosen) {
  if (!chosen) return;
  file = chosen;
  try {
    bitmap = await createImageBitmap(chosen);
  } catch {
    bitmap = null; // such as TIFF, which only the server decodes
  }
  strokes.length = 0;
  redraw();
  await send();
}

async function send() {
  const mine = ++latest;
  let body = file;
  let seen = null;
  if (strokes.length) {
    seen = change(centered(), false, inverted());
    body = bytes(seen);
  } else if (bitmap) {
    seen = change(fitted(bitmap, width, height), channels === 1, inverted());
    if (inverted() || file.size > LARGE) body = converted();
  }
  if (!body || mine !== latest) return;
  if (controller) controller.abort();
  controller = new AbortController();
  const start = performance.now();
  const [answer, problem] = await ask("predict", body, controller.signal);
  if (mine !== latest) return;
  $("error").textContent = problem;
  $("found").hidden = !answer;
  $("empty").hidden = true;
  $("headline").textContent = "";
  if (!answer) return;
  paint(seen);
  $("details").replaceChildren();
  $("seen").replaceChildren($("seen").firstElementChild);
  shows[info.kind](answer);
  const ms = Math.max(1, Math.round(performance.now() - start));
  $("facts").textContent = `${answer.model}, version ${answer.version}, ${ms} ms`;
  if (info.feedback) offer(answer);
}

// Returns the answer to a request, or null and a line on what went wrong.
async function ask(path, body, signal) {
  const headers = { "content-type": body.type || "application/octet-stream" };
  if (typeof body === "string") headers["content-type"] = "application/json";
  if ($("key") && $("key").value) headers["x-api-key"] = $("key").value;
  let response;
  try {
    response = await fetch(path, { method: "POST", body, headers, signal });
  } catch {
    return [null, "The server does not answer."];
  }
  const answer = await response.json().catch(() => null);
  if (response.status === 401 && $("key")) $("key").focus();
  if (response.ok) return [answer || {}, ""];
  return [null, (answer && answer.error) || `The server answers ${response.status} ${response.statusText}.`];
}

function bars(probabilities, hits) {
  const first = (name) => Number(hits.includes(name));
  const entries = Object.entries(probabilities).sort((a, b) => first(b[0]) - first(a[0]) || b[1] - a[1]);
  const row = ([name, p]) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${100 * (p || 0)}%`;
    const cells = [make("th", { scope: "row" }, name), make("td", {}, bar), make("td", {}, percent(p))];
    return make("tr", { className: hits.includes(name) ? "hit" : "" }, ...cells);
  };
  const head = make("tr", {}, ...["class", "", "probability"].map((text) => make("th", { scope: "col" }, text)));
  head.children[1].replaceWith(make("td"));
  const body = make("tbody", {}, ...entries.slice(0, BARS).map(row));
  const long = entries.some(([name]) => name.length > 20);
  $("details").append(make("table", { className: long ? "bars long" : "bars" }, make("thead", {}, head), body));
  if (entries.length <= BARS) return;
  const more = make("button", { type: "button" }, `Show all ${entries.length}`);
  more.onclick = () => {
    body.append(...entries.slice(BARS).map(row));
    more.remove();
  };
  $("details").append(make("p", {}, more));
}

function rows(entries) {
  const cells = entries.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)));
  $("details").append(make("table", { className: "facts" }, make("tbody", {}, ...cells)));
}

// Returns the color of class i in the server's masks, (r, g, b); and the one in which the page shows it.
function painted(i) {
  return [2 ** 25 - 1, 2 ** 15 - 1, 2 ** 21 - 1].map((factor) => (i * factor) % 255);
}

function shown(i) {
  const x = (n) => (n + (i * 137.5) / 30) % 12; // hues far apart, https://www.w3.org/TR/css-color-4/#hsl-to-rgb
  return i ? [0, 8, 4].map((n) => Math.round(255 * (0.5 - 0.42 * Math.max(-1, Math.min(x(n) - 3, 9 - x(n), 1))))) : [0, 0, 0];
}

async function overlay(mask) {
  const view = $("view");
  const hidden = $("seen").hidden;
  const base = canvasOf(view.width, view.height);
  if (!hidden) context(base).drawImage(view, 0, 0);
  const layer = canvasOf(view.width, view.height);
  const g = context(layer);
  g.imageSmoothingEnabled = false;
  const mine = latest;
  const picked = await createImageBitmap(blob(mask, "image/png"));
  if (mine !== latest) return; // another picture was chosen meanwhile
  g.drawImage(picked, 0, 0, layer.width, layer.height);
  const picture = g.getImageData(0, 0, layer.width, layer.height);
  const d = picture.data;
  const classes = new Map(Array.from({ length: 255 }, (_, i) => [painted(i).join(), i]));
  for (let i = 0; i < d.length; i += 4) {
    const k = classes.get([d[i], d[i + 1], d[i + 2]].join()) || 0;
    d.set([...shown(k), k ? 150 : 0], i); // class 0 is the background
  }
  g.putImageData(picture, 0, 0);
  const draw = () => {
    context(view).drawImage(base, 0, 0);
    if ($("over").checked) context(view).drawImage(layer, 0, 0);
  };
  $("seen").hidden = false;
  const box = make("input", { type: "checkbox", id: "over", checked: true, onchange: draw });
  $("details").append(make("label", { className: "check" }, box, "show the mask"));
  draw();
}

function similarity(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

function strip(values) {
  const canvas = make("canvas", { width: values.length, height: 1, className: "strip" });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Embedding: ${values.length} numbers, blue below 0, orange above`);
  const largest = Math.max(...values.map(Math.abs), 1e-12);
  const g = context(canvas);
  values.forEach((value, i) => {
    g.fillStyle = value < 0 ? "#3c82d6" : "#e07020";
    g.globalAlpha = Math.abs(value) / largest;
    g.fillRect(i, 0, 1, 1);
  });
  return canvas;
}

const shows = {
  classes(answer) {
    $("headline").textContent = `${answer.prediction}, ${percent(answer.probability)}`;
    bars(answer.probabilities, [answer.prediction]);
  },
  labels(answer) {
    $("headline").textContent = answer.prediction.join(", ") || "none of the labels";
    bars(answer.probabilities, answer.prediction);
  },
  numbers(answer) {
    $("headline").textContent = listed(answer.prediction);
  },
  masks(answer) {
    const found = Object.entries(answer.prediction).sort((a, b) => b[1] - a[1]);
    $("headline").textContent = found.map(([name, p]) => `${name} ${percent(p)}`).slice(0, 3).join(", ");
    const index = (name) => (info.classes && info.classes.includes(name) ? info.classes.indexOf(name) : Number(name));
    rows(found.map(([name, p]) => {
      const swatch = make("span", { className: "swatch" });
      swatch.style.background = `rgb(${shown(index(name)).join(",")})`;
      return [make("span", {}, swatch, name), percent(p)];
    }));
    overlay(answer.mask);
  },
  embeddings(answer) {
    const now = answer.embedding;
    const like = before && before.length === now.length ? similarity(before, now).toFixed(3) : null;
    $("headline").textContent = like ? `similarity ${like} to the picture before` : "Choose another picture to compare.";
    $("details").append(strip(now), make("p", { className: "quiet" }, `${now.length} numbers: ${listed(now.slice(0, 4))}, ...`));
    before = now;
  },
  images(answer) {
    $("headline").textContent = "Before and after";
    const url = `data:image/png;base64,${answer.image}`;
    const after = make("img", { src: url, alt: "What the model returns", className: `after ${small ? "pixels" : "large"}` });
    $("seen").append(make("figure", {}, after, make("figcaption", {}, "what the model returns")));
  },
  values(answer) {
    rows(Object.entries(answer.values).map(([name, value]) => [name, listed(value)]));
  },
};

// Shows the controls for feedback: right, or what would be right.
function offer(answer) {
  const box = $("feedback");
  box.hidden = !["classes", "labels", "numbers"].includes(info.kind) || Array.isArray(answer.prediction) && info.kind === "numbers";
  if (box.hidden) return;
  const status = make("span", { className: "quiet" });
  status.setAttribute("role", "status");
  const tell = async (label) => {
    const [kept, problem] = await ask("feedback", JSON.stringify({ id: answer.id, label }));
    status.textContent = kept ? `Thank you, kept: ${listed(label) || "none"}` : problem;
  };
  const right = make("button", { type: "button", onclick: () => tell(answer.prediction) }, "Right");
  const names = info.classes || Object.keys(answer.probabilities || {});
  let input;
  let value;
  if (info.kind === "numbers") {
    input = make("input", { type: "number", step: "any", className: "text", id: "label" });
    value = () => input.valueAsNumber;
  } else {
    const options = names.map((name) => make("option", { value: name, selected: info.kind === "labels" && answer.prediction.includes(name) }, name));
    input = make("select", { id: "label", multiple: info.kind === "labels" }, ...options);
    value = () => (info.kind === "labels" ? [...input.selectedOptions].map((each) => each.value) : input.value);
    if (info.kind === "classes") input.prepend(make("option", { value: "", selected: true }, "choose"));
  }
  const save = make("button", { type: "button" }, "Save");
  save.onclick = () => (value() === "" || Number.isNaN(value()) ? input.focus() : tell(value()));
  box.replaceChildren(
    make("div", { className: "row" }, "Is this right?", right),
    make("div", { className: "row" }, make("label", { htmlFor: "label" }, "If not, the right answer:"), input, save),
    status,
  );
}

function redraw() {
  const canvas = $("draw");
  if (!canvas) return;
  const side = canvas.width;
  const drawn = strokes.length ? trace(side, side / 14, side, [0, 0], 0, 0) : null;
  const g = context(canvas);
  g.fillStyle = "#000";
  g.fillRect(0, 0, side, side);
  if (drawn) g.drawImage(drawn, 0, 0);
  if (inverted()) change(canvas, false, true);
}

function reset() {
  strokes.length = 0;
  file = bitmap = null;
  latest++;
  redraw();
  $("found").hidden = true;
  $("empty").hidden = false;
  $("error").textContent = $("headline").textContent = "";
}

function listen() {
  const canvas = $("draw");
  let drawing = false;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  if (canvas) {
    canvas.onpointerdown = (event) => {
      if (event.button) return;
      drawing = true;
      file = bitmap = null;
      canvas.setPointerCapture(event.pointerId);
      strokes.push([place(event)]);
      redraw();
    };
    canvas.onpointermove = (event) => {
      if (!drawing) return;
      strokes.at(-1).push(...(event.getCoalescedEvents?.() || []).concat(event).map(place));
      redraw();
    };
    canvas.onpointerup = canvas.onpointercancel = () => {
      if (drawing) send();
      drawing = false;
    };
    $("clear").onclick = reset;
    redraw();
  }
  if ($("invert")) $("invert").onchange = () => (redraw(), send());
  for (const id of ["file", "photo"]) {
    $(id).onchange = () => {
      choose($(id).files[0]);
      $(id).value = ""; // so that the same file can be chosen again
    };
  }
  if ($("keys")) {
    $("keys").onsubmit = (event) => {
      event.preventDefault();
      send();
    };
  }
  const over = (on) => (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", on);
  };
  document.ondragover = over(true);
  document.ondragleave = over(false);
  document.ondrop = (event) => {
    over(false)(event);
    choose(event.dataTransfer.files[0]);
  };
  document.onpaste = (event) => choose(event.clipboardData.files[0]);
  $("curl").querySelector("span").textContent = new URL(".", location.href).href;
}

listen();
