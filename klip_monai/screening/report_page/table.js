"use strict";
// The table of series: sorted, filtered and paged in memory. Text only ever enters the page through textContent.

const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50, LISTED = 200;
const word = (column) => (row) => data.words[data[column][row]];
const value = Object.fromEntries(Object.keys(data).map((column) => [column, (row) => data[column][row]]));
for (const column of ["state", "note", "description", "group"]) value[column] = word(column);
value.folder = (row) => data.folder[row] || value.name(row);

const table = document.getElementById("table"), body = table.tBodies[0], form = document.getElementById("filters");
const first = [...body.rows].map((tr) => tr.querySelector("img")?.getAttribute("src") || "");
const picture = (row) => (row < first.length ? first[row] : data.pictures[row - first.length]);
const lists = [...body.rows].map((tr) => [...tr.querySelectorAll("li")].map((li) => li.textContent));
const candidates = (row) => (row < lists.length ? lists[row] : data.listed[row - lists.length]) || [];
const beyond = (row) => data.threshold !== null && data.score[row] !== null && data.score[row] > data.threshold;

let shown = [], page = 0, key = "score", falling = true;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function link(address, content) {
  const made = element("a");
  made.href = data.links + address;
  made.append(content);
  return made;
}

function line(row) {
  const tr = element("tr", beyond(row) ? "beyond" : data.score[row] === null ? "unscored" : "");
  const cell = (className, text, label) => {
    const td = element("td", className, text);
    if (label) td.dataset.label = label;
    tr.append(td);
    return td;
  };
  const number = (column, digits, label) => {
    const figure = data[column][row];
    return cell("number " + column, figure === null ? "–" : figure.toFixed(digits), label);
  };
  const scored = data.score[row] !== null, name = value.name(row);
  const folder = value.folder(row).split("/").map(encodeURIComponent).join("/") + "/";
  const frame = cell("picture");
  if (scored && picture(row)) {
    const image = element("img");
    Object.assign(image, { alt: "", width: 96, height: 89, loading: "lazy", decoding: "async", src: picture(row) });
    const around = link(folder + encodeURIComponent(name) + "_preview.png", image);
    around.tabIndex = -1;
    frame.append(around);
  }
  const title = cell("name");
  title.append(scored && data.folder[row] !== "" ? link(folder, name) : name);
  if (value.description(row)) title.append(element("small", "", value.description(row)));
  if (candidates(row).length) {
    const list = element("ol");
    list.append(...candidates(row).map((text) => element("li", "", text)));
    title.append(list);
  }
  cell("state").append(element("i", "dot " + value.state(row)), value.state(row));
  number("score", data.digits.score, "Score");
  number("p", data.digits.p, "p");
  number("q", data.digits.p, "q");
  number("suspicious", 1, "Suspicious");
  number("strong", 1, "Strongly");
  number("candidates", 0, "Candidates");
  number("worst", 0, "Worst slice").dataset.of = data.slices[row];
  number("slices", 0, "Slices");
  cell("note", value.note(row));
  return tr;
}

function draw() {
  const pages = Math.max(1, Math.ceil(shown.length / PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  body.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map(line));
  const count = shown.length.toLocaleString("en");
  document.getElementById("found").textContent = shown.length === 1 ? "1 series" : count + " series";
  document.getElementById("page").textContent = "Page " + (page + 1) + " of " + pages.toLocaleString("en");
  document.getElementById("pages").hidden = pages === 1;
  document.querySelector("[data-go='-1']").disabled = page === 0;
  document.querySelector("[data-go='1']").disabled = page === pages - 1;
}

function sort() {
  const of = value[key], sign = falling ? -1 : 1;
  const compare = (a, b) => {
    const x = of(a), y = of(b);
    if (x === y) return a - b;
    if (x === null || x === "") return 1; // what is unknown comes last either way
    if (y === null || y === "") return -1;
    return x < y ? -sign : sign;
  };
  shown.sort(compare);
  for (const button of table.tHead.querySelectorAll("button")) {
    const th = button.parentElement;
    if (button.dataset.key === key) th.setAttribute("aria-sort", falling ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
  }
}

function limit(name) {
  const input = form.elements[name], text = input.value.trim().replace(",", ".");
  const bad = text !== "" && !Number.isFinite(Number(text));
  input.setAttribute("aria-invalid", bad);
  return text === "" || bad ? null : Number(text);
}

function filter() {
  const state = form.elements.state.value, words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const score = limit("score"), p = limit("p"), q = limit("q");
  const most = (column, row, bound) => bound === null || (data[column][row] !== null && data[column][row] <= bound);
  shown = [];
  for (let row = 0; row < data.name.length; row++) {
    if (state === "beyond" ? !beyond(row) : state && value.state(row) !== state) continue;
    if (score !== null && (data.score[row] === null || data.score[row] < score)) continue;
    if (!most("p", row, p) || !most("q", row, q)) continue;
    if (words.length) {
      const text = [value.name(row), value.description(row), value.note(row)].join("\n").toLowerCase();
      if (!words.every((part) => text.includes(part))) continue;
    }
    shown.push(row);
  }
  table.dataset.state = state;
  page = 0;
  sort();
  draw();
}

table.tHead.addEventListener("click", ({ target }) => {
  if (!target.dataset.key) return;
  const numeric = target.parentElement.classList.contains("number");
  falling = target.dataset.key === key ? !falling : numeric && !["p", "q"].includes(target.dataset.key);
  key = target.dataset.key;
  page = 0;
  sort();
  draw();
});
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => {
  [key, falling] = ["score", true];
  setTimeout(filter); // the fields are empty only after the event
});
document.getElementById("pages").addEventListener("click", ({ target }) => {
  if (!target.dataset.go) return;
  page += Number(target.dataset.go);
  draw();
  document.getElementById("scans").scrollIntoView();
});

// Reasons of a group are listed when it is opened, some at a time.
function list(details) {
  const { state, group } = details.dataset, rows = [];
  for (let row = 0; row < data.name.length; row++)
    if (value.state(row) === state && value.group(row) === group) rows.push(row);
  const items = details.querySelector("ul"), more = element("button", "more", "Show more");
  let next = 0;
  const add = () => {
    for (const row of rows.slice(next, (next += LISTED))) {
      const item = element("li");
      item.append(element("code", "", value.name(row)), element("span", "", value.note(row)));
      items.append(item);
    }
    more.hidden = next >= rows.length;
    more.textContent = "Show more of " + rows.length.toLocaleString("en");
  };
  more.type = "button";
  more.addEventListener("click", add);
  items.replaceChildren();
  details.querySelector("p.more")?.remove();
  details.append(more);
  add();
}
for (const details of document.querySelectorAll("details[data-group]"))
  details.addEventListener("toggle", () => list(details), { once: true });

form.hidden = false;
for (const button of table.tHead.querySelectorAll("button")) button.disabled = false;
filter();
