// A lasting panel on the nodes of sd-debias: what a node said last, shares as bars beside their target, warnings and the
// report's link. It is saved with the workflow, in the node's properties. Debias Calibrate shows what must be decided,
// and folds the rest.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const EVENT = "sd-debias.panel";
const PANEL = "debias panel";        // of a node's properties: what its panel shows
const UNFOLDED = "debias unfolded";  // are all settings shown?
const WIDGET = "debias_panel";
const FIRST = new Set(["prompts", "sure", "name", "width", "height", "steps", "cfg", "sampler_name", "scheduler", WIDGET]);
const OURS = /^\/sd-debias\/(report\/[^/?#\\]+|labels)\/[^/?#\\]+\.html$/;  // addresses of our pages
const NO_ROW = () => [0, -4];
const MOST = 620, MOST_TEXT = 240, LINE = 15, MARGIN = 24, NARROW = 100;  // pixels; frontends keep a margin around a widget

const STYLE = `
.debias-panel { font: 11px/${LINE}px sans-serif; color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222);
  border-radius: 4px; overflow: auto; box-sizing: border-box; user-select: text; }
.debias-panel > div { padding: 6px 8px; }
.debias-panel p { margin: 0 0 3px; white-space: pre-wrap; overflow-wrap: anywhere; }
.debias-panel .head { font-weight: 600; margin-top: 2px; }
.debias-panel .dim { color: var(--descrip-text, #999); }
.debias-panel .warn { color: #e8a33d; }
.debias-panel .row { display: grid; grid-template-columns: minmax(48px, 28%) 1fr 92px; gap: 6px; align-items: center; }
.debias-panel .row > :first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.debias-panel .track { position: relative; height: 10px; border-radius: 2px; background: rgba(128, 128, 128, .25); }
.debias-panel .track > i { position: absolute; display: block; }
.debias-panel .was { top: 0; height: 3px; background: #9a9a9a; left: 0; }
.debias-panel .now { top: 3px; height: 7px; background: #3987e5; left: 0; border-radius: 0 2px 2px 0; }
.debias-panel .alone { top: 0; height: 10px; }
.debias-panel .range { top: 6px; height: 1px; background: var(--input-text, #ddd); }
.debias-panel .target { top: -2px; height: 14px; width: 2px; margin-left: -1px; background: #e8a33d; }
.debias-panel .bar { height: 4px; margin: 2px 0 4px; background: rgba(128, 128, 128, .25); border-radius: 2px; }
.debias-panel .bar > i { display: block; height: 4px; background: #3987e5; border-radius: 2px; }
.debias-panel a { color: #6ab0ff; }
.debias-panel iframe.labels { width: 100%; height: 300px; border: 0; border-radius: 4px; background: #fff; }
`;

function element(tag, kind, text, ...children) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text != null) made.textContent = text;
  made.append(...children);
  return made;
}

const percent = (share) => `${(100 * share).toFixed(0)} %`;

function bar(kind, left, right) {
  const made = element("i", kind);
  made.style.left = `${100 * left}%`;
  if (right != null) made.style.width = `${100 * Math.max(right - left, 0.004)}%`;
  return made;
}

// One attribute: a row a group. Thin and grey what was, broad and blue what is, with its 95 % interval; a mark the target.
function shares(s, prompts, running) {
  const now = s.now ?? s.was, rows = [element("p", "head", (prompts > 1 ? `${s.prompt}: ` : "") + s.attribute)];
  if (!now) return rows.concat(element("p", "dim", `Target: ${s.groups.map((g, i) => `${g} ${percent(s.target[i])}`).join(", ")}`));
  s.groups.forEach((group, i) => {
    const [low, high] = now.intervals[i], track = element("div", "track");
    if (s.now && s.was) track.append(bar("was", 0, s.was.shares[i]));
    track.append(bar(s.now && s.was ? "now" : "now alone", 0, now.shares[i]), bar("range", low, high), bar("target", s.target[i]));
    const row = element("div", "row", null, element("span", "", group), track,
      element("span", "", `${percent(now.shares[i])} [${(100 * low).toFixed(0)}, ${(100 * high).toFixed(0)}]`));
    const was = s.now && s.was ? `was ${percent(s.was.shares[i])}, ` : "";
    row.title = `${group}: ${was}${s.now ? "now" : "without guidance"} ${percent(now.shares[i])}, ` +
      `95 % interval ${percent(low)} to ${percent(high)}, by ${now.images} images; target ${percent(s.target[i])}`;
    rows.push(row);
  });
  return running ? rows.concat(element("p", "dim", s.text)) : rows;
}

// Lines of text; what follows "Details:" is folded.
function lines(text, refit) {
  const all = text.split("\n").filter(Boolean), at = all.indexOf("Details:");
  const made = (some) => some.map((line) => element("p", /^\s*(Warning|Stopped):/.test(line) ? "warn" : "", line));
  if (at < 0) return made(all);
  const details = element("details", "", null, element("summary", "dim", "Details"), ...made(all.slice(at + 1)));
  details.addEventListener("toggle", refit);
  return [...made(all.slice(0, at)), details];
}

// What a panel shows. It comes with workflows, which somebody else may have written: of addresses, ours alone are kept.
function checked(state) {
  const list = (some) => Array.isArray(some) ? some : [];
  const shares = (own) => own == null || list(own.intervals).length && list(own.shares).length === own.intervals.length && own.intervals.every(Array.isArray);
  const page = (own) => typeof own === "string" && OURS.test(own) && !own.split("/").includes("..") ? own : undefined;
  return { ...state, text: String(state?.text ?? ""), report: page(state?.report), labels: page(state?.labels),
    shares: list(state?.shares).filter((s) => s && list(s.groups).length && list(s.target).length === s.groups.length
      && [s.was, s.now].every((own) => shares(own) && (own == null || own.shares.length === s.groups.length))) };
}

function fill(inner, state, refit) {
  inner.replaceChildren();
  if (state.total) {
    const progress = element("div", "bar"), done = element("i");
    done.style.width = `${Math.min(100, 100 * state.done / state.total)}%`;
    progress.append(done);
    inner.append(element("p", "dim", `${state.done} of about ${state.total} images`), progress);
  }
  const prompts = new Set(state.shares.map((s) => s.prompt)).size;
  for (const s of state.shares) inner.append(...shares(s, prompts, state.total));
  inner.append(...lines(state.text, refit));
  if (state.report) {
    const link = element("a", "", "Open the report");
    Object.assign(link, { href: api.apiURL(state.report), target: "_blank", rel: "noopener" });
    inner.append(element("p", "", null, link));
  }
  if (state.labels) inner.append(...labelled(state));
  if (state.estimate && !state.text) inner.append(element("p", "dim", state.estimate));
}

// The page of images and labels, in a frame of its own: a click there corrects a label.
function labelled(state) {
  const frame = element("iframe", "labels"), link = element("a", "", "Open images and labels");
  Object.assign(frame, { src: api.apiURL(state.labels), title: "Images and labels" });
  frame.setAttribute("sandbox", "allow-scripts allow-downloads");
  Object.assign(link, { href: api.apiURL(state.labels), target: "_blank", rel: "noopener" });
  return [frame, element("p", "", null, link)];
}

// What was corrected in such a frame goes into its node's input.
function corrected({ source, data }) {
  if (!data?.corrections?.runs || !source) return;
  for (const frame of document.querySelectorAll(".debias-panel iframe.labels")) {
    const node = frame.contentWindow === source && frame.closest(".debias-panel").debiasNode;
    const widget = node && node.widgets?.find((w) => w.name === "corrections");
    if (!widget) continue;
    widget.value = Object.keys(data.corrections.runs).length ? JSON.stringify(data.corrections) : "";
    app.canvas?.setDirty(true, true);
  }
}

// The height that a panel needs, as laid out; about it, where the page has given it no width yet and every word wraps.
function height(widget) {
  const inner = widget.element.firstChild, state = widget.state ?? {};
  const rows = (state.shares ?? []).reduce((n, s) => n + s.groups.length + 3, 0);
  const lines = (state.text ?? "").split("\n").reduce((n, line) => n + Math.ceil((line.length || 1) / 55), 0);
  const frame = state.labels ? 320 : 0;
  const most = frame || rows ? MOST : MOST_TEXT;  // a long text alone is scrolled
  const laid = inner.offsetWidth > NARROW ? inner.offsetHeight : 0;
  return Math.min(most, laid || 20 + frame + LINE * (rows + lines + 1)) + MARGIN;
}

function panel(node) {
  let widget = node.widgets?.find((w) => w.name === WIDGET);
  if (widget) return widget;
  const box = element("div", "debias-panel", null, element("div"), element("style", "", STYLE));
  box.addEventListener("wheel", (event) => { if (box.scrollHeight > box.clientHeight) event.stopPropagation(); });
  widget = node.addDOMWidget(WIDGET, "debias", box, {
    serialize: false, hideOnZoom: false, getMinHeight: () => height(widget), getMaxHeight: () => height(widget),
    getValue: () => undefined, setValue: () => {},
  });
  box.debiasNode = node;
  widget.serialize = false;  // its content is kept in the properties: widgets are saved by their places
  return widget;
}

function fit(node) {
  const [width, most] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], most)]);
  app.canvas?.setDirty(true, true);
}

function show(node, state) {
  const widget = panel(node);
  widget.state = { ...checked(state), estimate: widget.estimate };
  fill(widget.element.firstChild, widget.state, () => fit(node));
  fit(node);
}

// A node by its place in a run: "7", or "3:7" for one in a subgraph.
function find(id) {
  let graph = app.rootGraph ?? app.graph, node;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(/^\d+$/.test(part) ? Number(part) : part);
    graph = node?.subgraph;
  }
  return ours(node) ? node : undefined;
}

const ours = (node) => node?.comfyClass?.startsWith("Debias");

function received({ detail }) {
  const node = find(detail.node);
  if (!node) return;
  const { node: _, ...state } = detail;
  if (state.total) return show(node, state);  // how far it is changes often, and is nothing to save
  keep(node, state);
}

// Shows and keeps what a node said. The page saves a workflow when it sees a change, and of this it sees none: what was
// said was lost where the page was loaded anew.
function keep(node, state) {
  node.properties[PANEL] = state;
  show(node, state);
  clearTimeout(keeping);
  keeping = setTimeout(() => {
    const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
    (tracker?.squashState ?? tracker?.checkState)?.call(tracker);  // the first leaves undo as it is
  }, 200);
}
let keeping;

// What a node left with its output comes again where the host takes the node from its cache.
function executed({ detail }) {
  const [state] = detail?.output?.debias_panel ?? [];
  if (!state) return;
  received({ detail: { ...state, node: detail.node } });
  // Nodes 2.0 shows the last preview beside the images that a node leaves, here the same sheet.
  const stores = document.getElementById("vue-app")?.__vue_app__?.config?.globalProperties?.$pinia?._s;
  stores?.get("nodeOutput")?.revokePreviewsByExecutionId?.(detail.node);
}

function stopped({ detail }) {
  const node = find(detail.node_id), state = node?.widgets?.find((w) => w.name === WIDGET)?.state;
  if (!node || !state?.total && !detail.exception_message) return;
  const text = state?.total ? `${state.text}\n` : "";  // of an earlier run, else
  keep(node, { ...(state?.total ? state : {}), total: 0, text: `${text}Stopped: ${(detail.exception_message ?? "interrupted").trim()}` });
}

// Debias Calibrate: how many images it takes, before it is queued.
async function estimate(node) {
  const value = (name) => String(node.widgets?.find((w) => w.name === name)?.value ?? "");
  const prompts = value("prompts").split("\n").filter((line) => line.trim()).length || 1;
  const asked = (node.debiasAsked = (node.debiasAsked ?? 0) + 1);
  const found = await api.fetchApi(`/sd-debias/estimate?sure=${encodeURIComponent(value("sure"))}&prompts=${prompts}`);
  const widget = panel(node);
  const text = found.ok ? (await found.json()).text : "";
  if (asked !== node.debiasAsked) return;  // a later question is on its way
  widget.estimate = text;
  if (!widget.state?.total) show(node, node.properties[PANEL] ?? {});
}

function fold(node) {
  const shown = Boolean(node.properties[UNFOLDED]);
  for (const widget of node.widgets) {
    const wired = node.inputs?.some((input) => input.widget?.name === widget.name && input.link != null);
    if (FIRST.has(widget.name) || widget.type === "button") continue;
    widget.hidden = !shown && !wired;
    if (widget.hidden) widget.computeSize = NO_ROW;  // earlier frontends leave a hidden widget's row empty
    else if (widget.computeSize === NO_ROW) delete widget.computeSize;
  }
  const button = node.widgets.find((w) => w.type === "button");
  button.label = button.name = shown ? "Show fewer settings" : "Show all settings";
}

// Of Debias Balance: a calibration of the same attributes, model, prompt and sampler's settings, wired beside it.
function calibrate(node) {
  const graph = node.graph ?? app.graph;
  const value = (of, name) => of?.widgets?.find((w) => w.name === name)?.value;
  const source = (of, name) => {
    const at = of?.inputs?.findIndex((input) => input.name === name);
    const link = at >= 0 && of.inputs[at].link != null && (graph.links.get?.(of.inputs[at].link) ?? graph.links[of.inputs[at].link]);
    return link ? [graph.getNodeById(link.origin_id), link.origin_slot] : [];
  };
  // What this node's model leads to, and what that sampler's latent comes from and goes to.
  const led = (from, type) => (from?.outputs ?? []).filter((output) => output.type === type).flatMap((output) => output.links ?? [])
    .map((id) => graph.links.get?.(id) ?? graph.links[id]).map((link) => link && graph.getNodeById(link.target_id)).filter(Boolean);
  let sampler, waiting = led(node, "MODEL");
  for (const seen = new Set(); !sampler && waiting.length; waiting = waiting.flatMap((n) => seen.has(n) ? [] : (seen.add(n), led(n, "MODEL"))))
    sampler = waiting.find((n) => value(n, "sampler_name") != null && value(n, "steps") != null);
  const size = source(sampler, "latent_image")[0];
  const below = Math.max(...graph._nodes.map((n) => n.pos[1] + n.size[1])) + 100;
  let at = node.pos[0];
  const [judge, target] = ["DebiasJudge", "DebiasCalibrate"].map((type) => {
    const one = LiteGraph.createNode(type);
    one.pos = [at, below];
    graph.add(one);
    at += one.size[0] + 40;
    return one;
  });
  const wire = ([from, slot], input) => from?.connect(slot, target, target.inputs.findIndex((own) => own.name === input));
  for (const name of ["model", "clip"]) wire(source(node, name), name);
  wire([node, 1], "attributes");
  wire([judge, 0], "judge");
  const decoder = led(sampler, "LATENT").find((n) => n.inputs?.some((input) => input.name === "vae"));
  wire(source(decoder, "vae"), "vae");
  const set = (name, found) => {
    const widget = target.widgets.find((w) => w.name === name);
    if (widget && found != null && found !== "") { widget.value = found; widget.callback?.(found); }
  };
  const text = (side) => {
    const encoder = source(sampler, side)[0];
    return source(encoder, "text").length ? undefined : value(encoder, "text");  // a wired one is not in its widget
  };
  set("prompts", text("positive")?.replaceAll("\n", " "));
  set("negative", text("negative"));
  for (const name of ["steps", "cfg", "sampler_name", "scheduler"]) set(name, value(sampler, name));
  for (const name of ["width", "height"]) set(name, value(size, name));
  set("name", "balanced");
  app.canvas?.setDirty(true, true);
}

function resize(node) {
  node.setSize([node.size[0], node.computeSize()[1]]);
  app.canvas?.setDirty(true, true);
}

app.registerExtension({
  name: "sddebias.panel",
  async setup() {
    const announce = () => api.clientId && api.fetchApi("/sd-debias/pages", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ client: api.clientId }) });
    api.addEventListener(EVENT, received);
    api.addEventListener("executed", executed);
    window.addEventListener("message", corrected);
    api.addEventListener("execution_error", stopped);
    api.addEventListener("execution_interrupted", stopped);
    api.addEventListener("reconnected", announce);
    api.addEventListener("status", () => { if (announced !== api.clientId) { announced = api.clientId; announce(); } });
    let announced = api.clientId;
    announce();
  },
  nodeCreated(node) {
    if (!ours(node)) return;
    const configured = node.onConfigure;
    let loaded = false;
    node.onConfigure = function (...given) {  // also in subgraphs
      configured?.apply(this, given);
      loaded = true;
      if (node.properties[PANEL]) show(node, node.properties[PANEL]);
      if (node.comfyClass === "DebiasCalibrate") { fold(node); estimate(node); }
    };
    if (node.comfyClass === "DebiasBalance")
      node.addWidget("button", "Calibrate these attributes", null, () => calibrate(node), { serialize: false }).serialize = false;
    if (node.comfyClass !== "DebiasCalibrate") return;
    const button = node.addWidget("button", "Show all settings", null, () => {
      node.properties[UNFOLDED] = !node.properties[UNFOLDED];
      fold(node);
      resize(node);
    }, { serialize: false });
    button.serialize = false;
    panel(node);
    fold(node);
    for (const name of ["sure", "prompts"]) {
      const widget = node.widgets.find((w) => w.name === name), before = widget?.callback;
      if (widget) widget.callback = function (...given) {
        before?.apply(this, given);
        clearTimeout(node.debiasTimer);
        node.debiasTimer = setTimeout(() => estimate(node), 300);
      };
    }
    estimate(node);
    requestAnimationFrame(() => loaded || resize(node));
  },
});
