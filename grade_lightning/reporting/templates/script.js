"use strict";
(() => {
  document.documentElement.classList.add("scripted");
  const get = id => document.getElementById(id);
  const data = JSON.parse(get("data").textContent);
  const boxes = [...document.querySelectorAll("#chooser input[type=checkbox]")];
  const labels = boxes.map(box => box.parentElement.textContent.replace(/\s*\(\d+\)\s*$/, "").trim());
  const shown = new Set(boxes.map(box => Number(box.value)));
  const tip = get("tip");

  // Values beside the pointer.
  function say(event, text) {
    tip.textContent = text;
    tip.hidden = !text;
    if (!text) return;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, room)) + "px";
    tip.style.top = Math.max(4, event.clientY - tip.offsetHeight - 10) + "px";
  }
  function place(svg, event) {
    const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    const scale = view.width / box.width;
    return [(event.clientX - box.left) * scale + view.x, (event.clientY - box.top) * scale + view.y, 16 * scale];
  }
  for (const holder of document.querySelectorAll("[data-figure]")) {
    const found = data.figures[holder.dataset.figure], svg = holder.querySelector("svg");
    if (!found || !svg) continue;
    svg.addEventListener("pointermove", event => {
      const [x, y, near] = place(svg, event);
      let best = null, least = near;
      for (const line of found) {
        if (!line.v.some(v => shown.has(v))) continue;
        for (const point of line.p) {
          const distance = Math.hypot(point[0] - x, point[1] - y);
          if (distance < least) [least, best] = [distance, { line, point }];
        }
      }
      say(event, best && `${best.line.v.map(v => labels[v]).join("; ")}: ${best.line.x || "across"} ${best.point[2]}, ${best.line.y || "up"} ${best.point[3]}`);
    });
    svg.addEventListener("pointerleave", event => say(event, ""));
  }

  // Which methods are shown, everywhere on the page.
  const marked = [...document.querySelectorAll("[data-v]")].map(node => [node, node.dataset.v.split(".").map(Number)]);
  const rows = [...document.querySelectorAll("[data-each]")].filter(row => row.dataset.each).map(row => [row, row.dataset.each.split(" ").map(Number)]);
  function choose() {
    shown.clear();
    for (const box of boxes) if (box.checked) shown.add(Number(box.value));
    for (const [node, places] of marked) node.style.display = places.some(v => shown.has(v)) ? "" : "none";
    for (const [row, places] of rows) row.hidden = !places.every(v => shown.has(v));
  }
  for (const box of boxes) box.addEventListener("change", choose);
  for (const button of document.querySelectorAll("[data-all]"))
    button.addEventListener("click", () => {
      for (const box of boxes) if (!box.closest("li").hidden) box.checked = Boolean(button.dataset.all);
      choose();
    });
  get("find").addEventListener("input", event => {
    const wanted = event.target.value.toLowerCase();
    boxes.forEach((box, index) => { box.closest("li").hidden = !labels[index].toLowerCase().includes(wanted); });
  });

  // Two runs, prompt by prompt.
  const plot = get("plot");
  if (plot) {
    const low = Number(plot.dataset.low), high = Number(plot.dataset.high), space = "http://www.w3.org/2000/svg";
    const draw = () => {
      const first = data.runs.runs[get("first").value], second = data.runs.runs[get("second").value];
      const dots = [];
      let total = 0;
      first.r.forEach((x, index) => {
        const y = second.r[index];
        if (x === null || y === null) return;
        total += y - x;
        const dot = document.createElementNS(space, "circle"), title = document.createElementNS(space, "title");
        dot.setAttribute("cx", 100 * (x - low) / (high - low));
        dot.setAttribute("cy", 100 * (high - y) / (high - low));
        dot.setAttribute("r", ".9");
        title.textContent = `${x} and ${y}. ${data.runs.prompts[index]}`;
        dot.append(title);
        dots.push(dot);
      });
      get("dots").replaceChildren(...dots);
      get("across").textContent = first.name;
      get("up").textContent = second.name;
      const kept = first.r.length, left = data.runs.of > kept ? ` (the first ${kept} of ${data.runs.of} are on this page)` : "";
      get("compared").textContent = dots.length
        ? `${dots.length} test prompts${left}, a dot each; up - across is ${(total / dots.length).toFixed(3)} on average.`
        : "These two runs share no prompt.";
    };
    get("first").addEventListener("change", draw);
    get("second").addEventListener("change", draw);
  }

  // Words in the samples.
  const words = get("words");
  if (words) {
    const prompts = [...document.querySelectorAll(".prompt")].map(node => [node, node.textContent.toLowerCase()]);
    words.addEventListener("input", () => {
      const wanted = words.value.toLowerCase();
      let count = 0;
      for (const [node, text] of prompts) {
        node.hidden = !text.includes(wanted);
        count += !node.hidden;
      }
      get("count").textContent = `${count} of ${prompts.length} prompts`;
    });
  }
})();
