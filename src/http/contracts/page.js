// Sends what a form of the page says, and shows the answer as it comes.
"use strict";

// A token that came with the link. What follows # is never sent, and is taken out of the address so that it is not kept there.
const token = document.getElementById("token");
token.value = "";
function takeToken() {
  if (!location.hash.startsWith("#token=")) return;
  token.value = decodeURIComponent(location.hash.slice("#token=".length));
  history.replaceState(null, "", location.pathname);
}
takeToken();
addEventListener("hashchange", takeToken);

for (const form of document.querySelectorAll("form[data-path]")) {
  const [send, stop] = form.querySelectorAll("button");
  const answer = form.querySelector("pre");
  const body = form.querySelector("textarea");
  form.elements.type?.addEventListener("change", () => {
    body.value = form.elements.type.selectedOptions[0].dataset.body;
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const cut = new AbortController();
    stop.onclick = () => cut.abort();
    send.disabled = true;
    stop.hidden = answer.hidden = false;
    answer.textContent = "";
    try {
      await ask(form, body, cut.signal, (text) => answer.append(text));
    } catch (error) {
      answer.append(`\n${error.message}`);
    }
    send.disabled = false;
    stop.hidden = true;
  });
}

async function ask(form, body, signal, show) {
  let path = form.dataset.path;
  const query = new URLSearchParams();
  const headers = new Headers();
  for (const input of form.querySelectorAll("input")) {
    const { name, value } = input;
    if (input.dataset.in === "path") path = path.replace(`{${name}}`, encodeURIComponent(value));
    else if (value && input.dataset.in === "query") query.append(name, value);
    else if (value) headers.append(name, value);
  }
  if ("token" in form.dataset && token.value) headers.set("authorization", `Bearer ${token.value.trim()}`);
  if (body) headers.set("content-type", form.elements.type.value);
  if (form.elements.accept) headers.set("accept", form.elements.accept.value);
  const url = query.size ? `${path}?${query}` : path;
  const response = await fetch(url, { method: form.dataset.method, headers, body: body?.value, signal, cache: "no-store" });
  show(`${response.status} ${response.statusText}\n`);
  for (const [name, value] of response.headers) show(`${name}: ${value}\n`);
  show("\n");
  const isJson = /json$/.test(response.headers.get("content-type") ?? "") && !/ndjson$/.test(response.headers.get("content-type"));
  if (isJson) return show(indented(await response.text()));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) show(piece.value);
}

// Indents JSON without reading its numbers, which are exact here and would not be in JavaScript.
function indented(json) {
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  return json.replace(/"(?:[^"\\]|\\.)*"|\[\s*\]|\{\s*\}|[[{}\],:]|\s+/g, (part) => {
    if (part === "{" || part === "[") { depth += 1; return part + line(); }
    if (part === "}" || part === "]") { depth -= 1; return line() + part; }
    if (part === ",") return part + line();
    if (part === ":") return ": ";
    return /^\s/.test(part) ? "" : part;
  });
}
