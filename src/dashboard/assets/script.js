// Progressive enhancements: copy buttons, times in the browser's time zone, the choice of columns, and secrets that are
// reduced to key ids.
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
    time.textContent = date.toLocaleString([], { dateStyle: "medium", ...clock });
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

for (const button of document.querySelectorAll("button[data-copy]")) {
  const label = button.querySelector("span");
  const usual = label.textContent;
  let timer;
  button.hidden = false;
  button.addEventListener("click", async () => {
    let copied = false;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
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

for (const table of document.querySelectorAll("table[data-columns]")) {
  const place = `keytally_columns_${table.dataset.columns}`;
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent);
  const usual = heads.filter((head) => !head.classList.contains("extra")).map((head) => head.textContent);
  let chosen;
  try {
    chosen = JSON.parse(localStorage.getItem(place));
  } catch {}
  if (!Array.isArray(chosen)) chosen = usual;
  const show = () => {
    for (const row of table.rows) {
      [...row.cells].forEach((cell, n) => { cell.hidden = !chosen.includes(names[n]); });
    }
  };
  table.classList.add("chosen");
  show();
  const edit = document.createElement("details");
  edit.className = "columns";
  const summary = document.createElement("summary");
  summary.textContent = "Edit columns";
  edit.append(summary);
  for (const name of names) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = chosen.includes(name);
    box.addEventListener("change", () => {
      chosen = names.filter((it) => (it === name ? box.checked : chosen.includes(it)));
      try {
        localStorage.setItem(place, JSON.stringify(chosen));
      } catch {}
      show();
    });
    label.append(box, name);
    edit.append(label);
  }
  table.parentElement.before(edit);
}
