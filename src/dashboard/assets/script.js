// Progressive enhancements: copy buttons, times in the browser's time zone, the choice of columns and of several values,
// the selection of keys, and secrets that are reduced to key ids.
"use strict";

const remember = (name, value) => {
  document.cookie = `${name}=${encodeURIComponent(value)}; path=/; max-age=31536000; samesite=strict`;
};

// From the next page on, the server renders charts and parses dates in this time zone.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone) remember("keytally_zone", zone);

for (const time of document.querySelectorAll("time[datetime]")) {
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

for (const button of document.querySelectorAll("button.copy")) {
  const label = button.querySelector("span");
  const usual = label.textContent;
  let timer;
  button.hidden = false;
  button.addEventListener("click", async () => {
    let copied = false;
    try {
      await copy(button.dataset);
      copied = true;
    } catch {}
    announcer.textContent = label.textContent = copied ? "Copied" : "Copy failed";
    button.classList.add(copied ? "copied" : "failed");
    clearTimeout(timer);
    timer = setTimeout(() => {
      announcer.textContent = "";
      label.textContent = usual;
      button.classList.remove("copied", "failed");
    }, 2000);
  });
}

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
