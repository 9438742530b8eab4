// Progressive enhancements: copy buttons, times in the browser's time zone, the choice of columns and of several values,
// the selection of keys, live updates, and secrets that are reduced to key ids.
"use strict";

const remember = (name, value) => {
  document.cookie = `${name}=${encodeURIComponent(value)}; path=/; max-age=31536000; samesite=strict`;
};

// From the next page on, the server renders charts and parses dates in this time zone.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone) remember("keytally_zone", zone);

// Prepares what the server has sent: a page, or an update of it.
const prepare = (root) => {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    if (!Number.isNaN(date.valueOf())) {
      time.title = time.dateTime;
      const style = time.classList.contains("minute") ? "short" : "medium";
      const clock = time.classList.contains("date") ? {} : { timeStyle: style };
      // Styles have no milliseconds.
      const precise = { year: "numeric", month: "short", day: "numeric", hour: "numeric", minute: "2-digit",
        second: "2-digit", fractionalSecondDigits: 3 };
      const parts = time.classList.contains("precise") ? precise : { dateStyle: "medium", ...clock };
      time.textContent = date.toLocaleString([], parts);
    }
  }
  for (const button of root.querySelectorAll("button.copy")) button.hidden = false;
};
prepare(document);

// A secret does not leave the browser: its key id is sent instead.
const find = document.querySelector("form.find");
if (find) {
  const SECRET = /[a-z0-9]_([0-9A-Za-z]{16})[0-9A-Za-z]{38}(?![0-9A-Za-z_])/;
  const text = find.querySelector("[name=find]");
  const found = find.querySelector("[name=secret-found]");
  find.addEventListener("submit", () => {
    const id = SECRET.exec(text.value)?.[1];
    found.value = id ? "yes" : "";
    if (id) text.value = id;
  });
  // Filters are a part of the URL, and reject secrets.
  document.addEventListener("invalid", (event) => {
    const input = event.target;
    if (input.form.getAttribute("method") === "get" && SECRET.test(input.value)) {
      event.preventDefault();
      text.value = input.value;
      input.value = "";
      find.requestSubmit();
    }
  }, true);
}

// Screen readers do not announce a change of a button's label.
const announcer = document.createElement("p");
announcer.className = "unseen";
announcer.setAttribute("role", "status");
document.body.append(announcer);

// Reveals a secret, which is audited.
const reveal = async (url) => {
  const response = await fetch(url, { method: "POST" });
  if (!response.ok) throw new Error(response.statusText);
  return new Blob([(await response.json()).secret], { type: "text/plain" });
};

// Browsers allow copying during a click only, and so need the promise of a secret.
const copy = ({ copy, copySecret }) => copySecret
  ? navigator.clipboard.write([new ClipboardItem({ "text/plain": reveal(copySecret) })])
  : navigator.clipboard.writeText(copy);

const copied = new WeakMap();
document.addEventListener("click", async ({ target }) => {
  const button = target.closest("button.copy");
  if (!button) return;
  const label = button.querySelector("span");
  const state = copied.get(button) ?? { usual: label.textContent };
  copied.set(button, state);
  let isCopied = false;
  try {
    await copy(button.dataset);
    isCopied = true;
  } catch {}
  announcer.textContent = label.textContent = isCopied ? "Copied" : "Copy failed";
  button.classList.add(isCopied ? "copied" : "failed");
  clearTimeout(state.timer);
  state.timer = setTimeout(() => {
    announcer.textContent = "";
    label.textContent = state.usual;
    button.classList.remove("copied", "failed");
  }, 2000);
});

// Changed columns show at once. The server reads the cookie.
for (const form of document.querySelectorAll(".columns form")) {
  const table = form.closest("section").querySelector("table.log");
  const boxes = [...form.querySelectorAll("[type=checkbox]")];
  form.querySelector("button").hidden = true;
  form.addEventListener("change", () => {
    for (const row of table.rows) {
      boxes.forEach((box, n) => {
        const cell = row.cells[n];
        cell.hidden = !box.checked;
        if (cell.className === "extra") cell.dataset.label = table.tHead.rows[0].cells[n].textContent;
      });
    }
    const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
    remember(`keytally_columns_${form.elements.kind.value}`, chosen.join("."));
  });
}

// Wide screens show all content, and have no buttons to fold it.
const narrow = matchMedia("(width < 640px)");
const fold = () => {
  for (const details of document.querySelectorAll("details.fold")) {
    details.open = !narrow.matches || "open" in details.dataset;
    details.classList.add("ready");
  }
};
fold();
narrow.addEventListener("change", fold);

// Menus of checkboxes close like selects, and show what is chosen.
for (const menu of document.querySelectorAll(".several details")) {
  const summary = menu.querySelector("summary");
  const shown = summary.querySelector(".clip");
  menu.addEventListener("change", () => {
    const chosen = [...menu.querySelectorAll(":checked")].map((box) => box.parentElement.textContent.trim());
    shown.textContent = chosen.join(", ") || "Any";
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    summary.focus();
  });
  menu.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
  });
  document.addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
}

const selection = document.getElementById("selection");
if (selection) {
  const boxes = [...document.querySelectorAll('input[form="selection"][name="key"]')];
  const button = selection.querySelector("button");
  const text = button.textContent;
  const all = document.createElement("input");
  all.type = "checkbox";
  const show = () => {
    const count = boxes.filter((box) => box.checked).length;
    button.disabled = count === 0;
    button.textContent = count ? `${text} (${count})` : text;
    all.checked = count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
  };
  all.addEventListener("change", () => {
    for (const box of boxes) box.checked = all.checked;
    show();
  });
  for (const box of boxes) box.addEventListener("change", show);
  const label = document.createElement("label");
  label.append(all, "Select all");
  button.before(label);
  // Browsers restore checkboxes when going back.
  addEventListener("pageshow", show);
}

// Live updates: polls the page, and patches the parts that have changed. Nodes stay in place, and with them the focus,
// the selection and the scroll position.
const live = document.querySelector("button.live");
if (live) {
  const PERIOD = 5000;
  const LONGEST = 60000;
  const QUIET = 30000;
  const CHOICE = "keytally-live";
  const STOPPED = "Live updates stopped. Reload the page.";

  const isFocused = (node) => node.contains(document.activeElement);
  let added = 0;

  const patch = (node, next) => {
    if (node.isEqualNode(next)) return;
    if (node.nodeType !== Node.ELEMENT_NODE) {
      node.data = next.data;
      return;
    }
    // Forms may have been filled in, and focused links must not move. Rows of the log keep their nodes.
    if (node.matches("form")) return;
    // Nothing moves in a region that has the focus to be scrolled.
    const isHeld = isFocused(node) && !document.activeElement.matches(".scroll");
    if (node.matches(".panel:not(#log)") && isHeld) return;
    for (const { name } of [...node.attributes]) {
      if (name !== "open" && !next.hasAttribute(name)) node.removeAttribute(name);
    }
    for (const { name, value } of next.attributes) {
      if (name !== "open" && node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
    patchChildren(node, next);
  };

  const rowOf = (node) => node?.dataset?.row;

  const patchChildren = (node, next) => {
    const rows = new Set([...next.children].map(rowOf));
    for (const row of [...node.children]) {
      if (rowOf(row) && !rows.has(rowOf(row)) && !isFocused(row)) row.remove();
    }
    const known = new Map([...node.children].map((row) => [rowOf(row), row]));
    let at = node.firstChild;
    for (const child of [...next.childNodes]) {
      // Only a row that has the focus.
      while (rowOf(at) && !rows.has(rowOf(at))) at = at.nextSibling;
      const row = rowOf(child);
      if (row && known.get(row) === at) {
        const after = at.nextSibling;
        patch(at, child);
        at = after;
      } else if (!row && at && !rowOf(at) && at.nodeName === child.nodeName) {
        const after = at.nextSibling;
        patch(at, child);
        at = after;
      } else {
        known.get(row)?.remove();
        node.insertBefore(child, at);
        if (row) {
          child.classList.add("fresh");
          added += 1;
        }
      }
    }
    while (at) {
      const after = at.nextSibling;
      if (!isFocused(at)) at.remove();
      at = after;
    }
  };

  // Not with every update, so that screen readers are not kept busy.
  let announced = -QUIET;
  const announce = () => {
    if (added === 0 || performance.now() - announced < QUIET) return;
    announced = performance.now();
    announcer.textContent = added === 1 ? "1 new request" : `${added} new requests`;
    added = 0;
  };

  const update = (html) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    prepare(page);
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = page.querySelector(`[data-live="${part.dataset.live}"]`);
      if (next) patch(part, next);
    }
    announce();
  };

  let tag = live.dataset.tag;
  let pause = PERIOD;
  let timer;
  let request;
  const isOn = () => live.getAttribute("aria-checked") === "true";
  const turn = (on) => {
    live.setAttribute("aria-checked", on);
    live.title = "";
    schedule(pause);
  };

  const poll = async () => {
    const { signal } = (request = new AbortController());
    try {
      const headers = { "Keytally-Poll": "1" };
      if (tag) headers["If-None-Match"] = tag;
      const response = await fetch(location.href, { headers, signal, cache: "no-store", redirect: "manual" });
      if (response.ok) {
        const html = await response.text();
        tag = response.headers.get("ETag");
        update(html);
      } else if (response.type === "opaqueredirect" || response.status === 401 || response.status === 403) {
        turn(false);
        announcer.textContent = live.title = STOPPED;
      } else if (response.status !== 304) {
        throw new Error(response.statusText);
      }
      pause = PERIOD;
    } catch {
      if (!signal.aborted) pause = Math.min(2 * pause, LONGEST);
    }
    if (request?.signal === signal) {
      request = undefined;
      schedule(pause);
    }
  };

  const schedule = (delay) => {
    clearTimeout(timer);
    if (isOn() && !document.hidden) {
      if (!request) timer = setTimeout(poll, delay);
    } else {
      request?.abort();
      request = undefined;
    }
  };

  live.hidden = false;
  if (sessionStorage.getItem(CHOICE) === "off") live.setAttribute("aria-checked", false);
  live.addEventListener("click", () => {
    turn(!isOn());
    sessionStorage.setItem(CHOICE, isOn() ? "on" : "off");
    if (isOn()) schedule(0);
  });
  document.addEventListener("visibilitychange", () => schedule(0));
  schedule(PERIOD);
}
