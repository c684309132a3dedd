"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
// In a host's panel there is little room, and the host says what the page is of.
if (window.parent !== window) document.body.classList.add("framed");
const STORE = "sd-debias corrections " + data.sections.map((s) => s.run).join(" ");
const OUT = ["unsure", "no face", "judges disagree", "left out by hand"];
const BY_HAND = -4;
let filter = "all", chosen = {};  // chosen: what `id` says of a label -> the label by hand
try { chosen = JSON.parse(localStorage.getItem(STORE)) || {}; } catch { /* a page without storage */ }

const el = (tag, text, more = {}) => Object.assign(document.createElement(tag), { textContent: text ?? "" }, more);
// A label is known by its image, not by its place: other pages of the same run hold other images.
const id = (s, a, i, p) => JSON.stringify([data.sections[s].run, data.sections[s].attributes[a].name,
  data.sections[s].items[i].key, p]);
const labels = function* () {
  for (const [s, section] of data.sections.entries()) for (const [i, item] of section.items.entries())
    for (const a of section.attributes.keys()) for (const p of item.labels[a].keys()) yield [s, a, i, p];
};
const here = () => [...labels()].filter((at) => id(...at) in chosen);
const label = (s, a, i, p) => chosen[id(s, a, i, p)] ?? data.sections[s].items[i].labels[a][p];
const word = (s, a, at) => at < 0 ? OUT[-at - 1] : data.sections[s].attributes[a].groups[at];

// Wilson's interval of k of n, n may be an effective number (as core/calibration/statistics.py).
function wilson(k, n) {
  const z = 1.959963984540054, p = k / n, shrink = 1 + z * z / n, centre = (p + z * z / (2 * n)) / shrink;
  const half = z * Math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / shrink;
  return [k <= 0 ? 0 : centre - half, k >= n ? 1 : centre + half];
}

// Counts of each image's persons, its shares and intervals. Persons of one image go together: n / design effect.
function shares(s, a) {
  const section = data.sections[s], groups = section.attributes[a].groups.length;
  const rows = section.items.map((item, i) => {
    const y = new Array(groups).fill(0);
    item.labels[a].forEach((_, p) => { const at = label(s, a, i, p); if (at >= 0) y[at] += 1; });
    return y;
  }).concat(section.rest[a]).filter((y) => y.some(Boolean));
  const counts = rows.reduce((sum, y) => sum.map((c, g) => c + y[g]), new Array(groups).fill(0));
  const n = counts.reduce((x, y) => x + y, 0), p = counts.map((c) => c / n);
  let effective = n;
  if (section.people && n) {
    const alone = p.reduce((sum, x) => sum + x * (1 - x), 0) / n;
    let spread = 0, squares = 0;
    for (const y of rows) {
      const m = y.reduce((x, c) => x + c, 0);
      squares += m * m;
      y.forEach((c, g) => { spread += (c - p[g] * m) ** 2; });
    }
    const variance = rows.length / Math.max(rows.length - 1, 1) * spread / (n * n);
    effective = n / (alone > 0 ? Math.max(variance / alone, 1) : squares / n);
  }
  return counts.map((c, g) => ({ count: c, n, share: p[g], edges: n ? wilson(p[g] * effective, effective) : [0, 1] }));
}

function table(s, a) {
  const section = data.sections[s], attribute = section.attributes[a], made = el("table");
  made.dataset.section = s; made.dataset.attribute = attribute.name;
  const head = made.createTHead().insertRow();
  for (const text of [attribute.name.replaceAll("_", " "), "Target", section.people ? "Persons" : "Images", "Share",
    "95 % interval", "Bar"]) head.append(el("th", text));
  const body = made.createTBody();
  shares(s, a).forEach(({ count, n, share, edges }, g) => {
    const row = body.insertRow(), target = attribute.target[g], percent = (x) => (100 * x).toFixed(1);
    row.append(el("td", attribute.groups[g]), el("td", `${percent(target)} %`, { className: "n" }),
      el("td", `${count} of ${n}`, { className: "n" }), el("td", n ? `${percent(share)} %` : "", { className: "n" }),
      el("td", n ? `${percent(edges[0])} to ${percent(edges[1])} %` : "", { className: "n" }));
    const bar = el("div", "", { className: "bar" }), fill = el("i"), mark = el("b");
    fill.style.width = `${100 * (share || 0)}%`; mark.style.left = `${100 * target}%`;
    bar.append(fill, mark); row.insertCell().append(bar);
  });
  return made;
}

const several = (item) => item.faces > 1;
function shown(s, i) {
  const section = data.sections[s], item = section.items[i];
  if (filter === "all") return true;
  if (filter === "several people") return several(item);
  return section.attributes.some((_, a) => item.labels[a].some((_, p) =>
    filter === "corrected" ? id(s, a, i, p) in chosen : word(s, a, label(s, a, i, p)) === filter)
    || filter === "no face" && item.faces === 0);
}

function filters() {
  const found = new Set(["all"]);
  data.sections.forEach((section, s) => section.items.forEach((item, i) => {
    if (several(item)) found.add("several people");
    section.attributes.forEach((_, a) => item.labels[a].forEach((_, p) => {
      found.add(word(s, a, label(s, a, i, p)));
      if (id(s, a, i, p) in chosen) found.add("corrected");
    }));
    if (item.faces === 0) found.add("no face");
  }));
  return [...found];
}

function set(s, a, i, p, value) {
  const groups = data.sections[s].attributes[a].groups.length, key = id(s, a, i, p);
  const judged = data.sections[s].items[i].labels[a][p], at = value >= groups || value < 0 ? BY_HAND : value;
  if (at === judged || at < 0 && judged < 0) delete chosen[key]; else chosen[key] = at;
  try { localStorage.setItem(STORE, JSON.stringify(chosen)); } catch { /* the file is the safe place */ }
  update(s, i);
  if (window.parent !== window) window.parent.postMessage({ corrections: corrections() }, "*");
}

function chip(s, a, i, p) {
  const section = data.sections[s], at = label(s, a, i, p), many = section.attributes.length > 1;
  const person = section.items[i].labels[a].length > 1 ? `${p + 1}: ` : "";
  const name = many ? `${section.attributes[a].name.replaceAll("_", " ")}: ` : "";
  const made = el("button", `${person}${name}${word(s, a, at)}`, { type: "button", className: "label" });
  made.dataset.at = `${s} ${a} ${i} ${p}`;
  made.dataset.group = at < 0 ? "out" : at % 6;
  made.title = `Click for the next group. Keys: ${section.attributes[a].groups.map((g, n) => `${n + 1} ${g}`).join(", ")}`;
  made.onclick = () => set(s, a, i, p, at < 0 ? 0 : at + 1);
  made.onkeydown = (event) => {
    if (/^[0-9]$/.test(event.key) && !event.ctrlKey && !event.metaKey) set(s, a, i, p, Number(event.key) - 1);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      const all = [...document.querySelectorAll("button.label")];
      all[all.indexOf(event.currentTarget) + step]?.focus();
      event.preventDefault();
    }
  };
  return made;
}

function card(s, i) {
  const section = data.sections[s], item = section.items[i], made = el("div", "", { className: "card" });
  made.id = `card-${s}-${i}`;
  const image = el("img", "", { src: item.src, alt: item.key, loading: "lazy" });
  const faces = item.faces == null ? "" : item.faces === 1 ? ", 1 face" : `, ${item.faces} faces`;
  made.append(image, el("div", item.key + faces, { className: "key" }));
  section.attributes.forEach((_, a) => item.labels[a].forEach((_, p) => {
    if (id(s, a, i, p) in chosen) made.classList.add("by-hand");
    made.append(chip(s, a, i, p));
  }));
  return made;
}

function tools() {
  const names = filters(), count = here().length;
  if (!names.includes(filter)) filter = "all";
  const made = names.map((name) => {
    const button = el("button", name, { type: "button", onclick: () => { filter = name; draw(); } });
    button.setAttribute("aria-pressed", String(name === filter));
    return button;
  });
  const save = count ? el("a", `Save ${count} correction${count > 1 ? "s" : ""}`, { id: "save", className: "save" })
    : el("button", "Save corrections", { type: "button", id: "save", disabled: true });
  if (count) {
    save.download = "corrections.json";
    save.href = "data:application/json;charset=utf-8," + encodeURIComponent(JSON.stringify(corrections(), null, 1));
  }
  made.push(save, el("button", "Undo all", { type: "button", disabled: !count, onclick: () => {
    for (const at of here()) delete chosen[id(...at)];
    try { localStorage.setItem(STORE, JSON.stringify(chosen)); } catch { /* as above */ }
    draw();
    if (window.parent !== window) window.parent.postMessage({ corrections: corrections() }, "*");
  } }));
  document.getElementById("tools").replaceChildren(...made);
}

function corrections() {
  const object = () => Object.create(null);  // in which a user's "__proto__" is a name like any other
  const runs = object();
  for (const [s, a, i, p] of here()) {
    const section = data.sections[s], item = section.items[i], at = chosen[id(s, a, i, p)];
    const own = (runs[section.run] ??= object())[section.attributes[a].name] ??= object();
    own[section.people ? `${item.key}#${p + 1}` : item.key] = at < 0 ? null : section.attributes[a].groups[at];
  }
  return { form: data.form, runs };
}

function update(s, i) {
  const focus = document.activeElement?.dataset?.at;
  document.getElementById(`card-${s}-${i}`)?.replaceWith(card(s, i));
  data.sections[s].attributes.forEach((attribute, a) => {
    document.querySelector(`table[data-section="${s}"][data-attribute="${CSS.escape(attribute.name)}"]`)
      .replaceWith(table(s, a));
  });
  tools();
  if (focus) document.querySelector(`button[data-at="${focus}"]`)?.focus();
}

function draw() {
  tools();
  document.getElementById("main").replaceChildren(...data.sections.map((section, s) => {
    const made = el("section"), grid = el("div", "", { className: "grid" });
    const scroll = el("div", "", { className: "scroll", tabIndex: 0, role: "group", ariaLabel: "Shares" });
    scroll.append(...section.attributes.map((_, a) => table(s, a)));
    if (data.sections.length > 1 || section.title !== document.querySelector("h1").textContent)
      made.append(el("h2", section.title));
    made.append(scroll);
    if (section.hidden) made.append(el("p", `Not shown: ${section.hidden}, because they could not be read or the page ` +
      "is full. Those that have a label are counted.", { className: "small" }));
    section.items.forEach((_, i) => { if (shown(s, i)) grid.append(card(s, i)); });
    made.append(grid);
    return made;
  }));
}

draw();
