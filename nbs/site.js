// Search and the switch of the theme. What is searched is in pagefind/, made by tools/site_search.py.
const root = new URL(document.querySelector('meta[name="smalldocs:offset"]').content, location.href);
const SECTIONS = { Start: 1.5, "How-to": 1.6, Explore: 1.2, Method: 1.3, Concepts: 1.3, Results: 1.4, Project: .6 };
const FOLDERS = { cli: 1.3, experiments: .6 }; // commands, and reports of grids
const NO_WORDS = new Set(("a an and are as at be by can do does for from has have how i in is it its me my " +
  "of on or our the their there this to use using we what when where which who why will with you your").split(" "));
const READ = 30; // pages that are weighed against each other, of the best that Pagefind finds

let pagefind;
async function engine() {
  if (!pagefind) {
    pagefind = await import(new URL("pagefind/pagefind.js", root));
    const metaWeights = { title: 8, also: 8, address: 4, about: 3, section: .1 };
    await pagefind.options({ excerptLength: 24, ranking: { metaWeights, pageLength: .4 } });
  }
  return pagefind;
}

const words = (text) => text.toLowerCase().match(/[\p{L}\p{N}_*]+/gu) || [];
const stem = (word) => word.replace(/(ies|es|s|ing|ed|y)$/, "");

// How much of a question a text holds, in words: 0 to 1.
function share(asked, text) {
  const held = new Set(words(text.replace(/[._-]/g, " ")).map(stem));
  return asked.length ? asked.filter((word) => held.has(stem(word))).length / asked.length : 0;
}

// How well a name fits a question: 1 if both have the same words.
const fit = (asked, name) => share(asked, name) * share(words(name.replace(/[._-]/g, " ")), asked.join(" "));

// How much a kind of page counts; how-tos twice where somebody asks how.
function weight(page, how) {
  const folder = page.url.replace(/^\//, "").split("/")[0];
  return (FOLDERS[folder] || SECTIONS[page.meta.section] || 1) * (how && page.meta.section === "How-to" ? 2 : 1);
}

// A page is worth what Pagefind says, and by its kind; more where its title, another name of it (nbs/search.yml), or
// a definition in it is what was asked.
function worth({ score, page }, asked, how) {
  const { title = "", also = "", address = "", about = "" } = page.meta;
  const named = Math.max(...also.split(", ").map((name) => fit(asked, name)));
  const titled = Math.max(fit(asked, title), fit(asked, address)) + share(asked, title) / 2;
  const defines = page.sub_results.some((part) => part.title.toLowerCase() === asked.join(" ")) ? 4 : 0;
  return Math.sqrt(score) * (1 + 10 * named + 5 * titled + defines + share(asked, about)) * weight(page, how);
}

// The pages that hold all words of a question; where there are few, also those with some of them.
async function found(asked) {
  const search = await engine();
  const whole = (await search.search(asked.join(" "))).results;
  const scores = new Map(whole.map((result) => [result.id, [result.score, result]]));
  if (whole.length < 3 && asked.length > 1) {
    for (const word of asked) {
      for (const result of (await search.search(word)).results) {
        const [score] = scores.get(result.id) || [0];
        scores.set(result.id, [score + result.score / asked.length ** 2, result]);
      }
    }
  }
  const best = [...scores.values()].sort((a, b) => b[0] - a[0]).slice(0, READ);
  return Promise.all(best.map(async ([score, result]) => ({ score, page: await result.data() })));
}

// Pagefind shortens a word that no page has until a page has what is left; one letter of five says nothing.
function meant(page, asked) {
  const text = [page.excerpt, ...page.sub_results.map((part) => part.excerpt)].join(" ");
  const held = [...text.matchAll(/<mark>(.*?)<\/mark>/g)].flatMap((mark) => words(mark[1].replace(/_/g, " ")));
  const begins = (word, other) => other.startsWith(word.slice(0, Math.ceil(word.length / 2)));
  return !held.length || asked.some((word) => held.some((other) => begins(word, other)));
}

export async function ask(question) {
  const all = words(question), asked = all.filter((word) => !NO_WORDS.has(word));
  if (!all.length) return [];
  const kept = asked.length ? asked : all, hits = (await found(kept)).filter((hit) => meant(hit.page, kept));
  const value = new Map(hits.map((hit) => [hit, worth(hit, kept, all.includes("how"))]));
  return hits.sort((a, b) => value.get(b) - value.get(a)).slice(0, 12).map((hit) => hit.page);
}

function node(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

// One page that was found: its title, what it is, and the two parts that fit best.
function shown(page) {
  const address = (url) => new URL(url.replace(/^\//, ""), root).href;
  const item = node("li", {}, node("a", { class: "hit", href: address(page.url) },
    node("span", { class: "hit-title" }, page.meta.title), node("span", { class: "hit-section" }, page.meta.section)));
  const about = node("p", {});
  if (page.meta.about) about.textContent = page.meta.about; else about.innerHTML = page.excerpt;
  item.append(about);
  const parts = page.sub_results.filter((part) => part.url !== page.url && part.title !== page.meta.title).slice(0, 2);
  for (const part of parts) {
    const text = node("span", { class: "hit-text" });
    text.innerHTML = part.excerpt;
    const link = node("a", { class: "hit hit-part", href: address(part.url) }, node("span", {}, part.title), text);
    item.append(link);
  }
  return item;
}

function dialog() {
  const named = { placeholder: "Search", "aria-label": "Search these pages" };
  const input = node("input", { type: "search", autocomplete: "off", ...named });
  const close = node("button", { type: "button", class: "site-search-close" }, "Close");
  const list = node("ol", {}), says = node("p", { class: "site-search-says", role: "status" });
  const bar = node("div", { class: "site-search-bar" }, input, close);
  const box = node("dialog", { class: "site-search", "aria-label": "Search" }, bar, says, list);
  let last = 0;
  const run = async () => {
    const mine = ++last, question = input.value.trim();
    const pages = question.length > 1 ? await ask(question) : [];
    if (mine !== last) return;
    list.replaceChildren(...pages.map(shown));
    says.textContent = question.length < 2 || pages.length ? "" : "No page has these words.";
  };
  let timer;
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(run, 150); });
  box.addEventListener("keydown", (event) => {
    const links = [...box.querySelectorAll("a.hit")], at = links.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter" && document.activeElement === input && links.length) links[0].click();
    if (!step || !links.length) return;
    event.preventDefault();
    (links[at + step] || (step > 0 ? links[0] : input)).focus();
  });
  list.addEventListener("click", (event) => { if (event.target.closest("a")) box.close(); });
  close.addEventListener("click", () => box.close());
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  document.body.append(box);
  return box;
}

let box;
function open() {
  box ||= dialog();
  if (!box.open) box.showModal();
  box.querySelector("input").select();
  engine();
}
document.querySelector(".site-search-open").addEventListener("click", open);
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
  if (!(event.key === "/" && !typing) && !((event.ctrlKey || event.metaKey) && event.key === "k")) return;
  event.preventDefault();
  open();
});
// A section of a report that is folded opens when an address or a link names it.
function unfold() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const section = named && named.closest("details");
  if (!section || section.open) return;
  section.open = true;
  named.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();
document.querySelector(".site-theme").addEventListener("click", () => window.smalldocsToggleScheme());
