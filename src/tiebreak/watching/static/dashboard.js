"use strict";
// Follows the results, remembers chosen trials across pages, and draws curves. Everything else is on the server.

(() => {
  const POLL_MILLISECONDS = 1000;
  const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3]];
  let chart = null;
  let drawing = 0;

  // --- following -------------------------------------------------------------------------------------------

  async function follow() {
    const sign = document.getElementById("follow");
    try {
      const answer = await fetch("/version", { cache: "no-store" });
      const version = await answer.text();
      sign.textContent = "live";
      sign.classList.remove("lost");
      const live = document.getElementById("live");
      if (answer.ok && live && live.dataset.version !== version && !document.hidden) {
        await htmx.ajax("GET", location.href, { target: "#live", select: "#live", swap: "outerHTML" });
      }
    } catch {
      sign.textContent = "the dashboard has ended";
      sign.classList.add("lost");
    }
    setTimeout(follow, POLL_MILLISECONDS);
  }

  // --- chosen trials ---------------------------------------------------------------------------------------

  const overlay = () => document.getElementById("overlay");
  const place = () => `chosen:${overlay().dataset.study}`;

  function chosen() {
    try {
      return new Set(JSON.parse(sessionStorage.getItem(place()) || "[]"));
    } catch {
      return new Set();
    }
  }

  function choose(trials, isChosen) {
    const all = chosen();
    for (const trial of trials) {
      if (isChosen) all.add(trial);
      else all.delete(trial);
    }
    sessionStorage.setItem(place(), JSON.stringify([...all]));
    showChosen();
  }

  function showChosen() {
    const link = overlay();
    if (!link) return;
    const all = chosen();
    for (const box of document.querySelectorAll("input.choose")) box.checked = all.has(box.value);
    document.getElementById("unchoose").hidden = all.size === 0;
    if (all.size) {
      const query = new URLSearchParams([...all].map((trial) => ["t", trial]));
      link.href = `/curves/${link.dataset.study}?${query}`;
      link.textContent = `Overlay ${all.size} chosen`;
    } else {
      link.href = link.dataset.all;
      link.textContent = "Overlay curves";
    }
  }

  document.addEventListener("change", (event) => {
    const box = event.target;
    if (box.matches("input.choose")) choose([box.value], box.checked);
    else if (box.id === "choose-all") {
      choose([...document.querySelectorAll("input.choose")].map((item) => item.value), box.checked);
    } else if (box.matches("#legend input[data-line]") && chart) {
      chart.setSeries(Number(box.dataset.line) + 1, { show: box.checked });
    }
  });

  document.addEventListener("click", (event) => {
    if (event.target.id === "unchoose") choose([...chosen()], false);
  });

  // --- curves ----------------------------------------------------------------------------------------------

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function aligned(lines) {
    const places = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    const columns = lines.map((line) => {
      const values = new Map(line.x.map((x, index) => [x, line.y[index]]));
      return places.map((x) => (values.has(x) ? values.get(x) : undefined));
    });
    return [places, ...columns];
  }

  function crosses(lines) {
    return (plot) => {
      const context = plot.ctx;
      const reach = 5 * devicePixelRatio;
      lines.forEach((line, index) => {
        const last = line.y.findLastIndex((value) => value !== null);
        if (line.state !== "diverged" || last < 0 || !plot.series[index + 1].show) return;
        const x = plot.valToPos(line.x[last], "x", true);
        const y = plot.valToPos(line.y[last], "y", true);
        context.save();
        context.strokeStyle = colour(`--c${index % 8}`);
        context.lineWidth = 2 * devicePixelRatio;
        context.beginPath();
        context.moveTo(x - reach, y - reach);
        context.lineTo(x + reach, y + reach);
        context.moveTo(x - reach, y + reach);
        context.lineTo(x + reach, y - reach);
        context.stroke();
        context.restore();
      });
    };
  }

  function near(index) {
    document.querySelectorAll("#legend tr.near").forEach((row) => row.classList.remove("near"));
    if (index !== null) document.querySelector(`#legend tr[data-line="${index - 1}"]`)?.classList.add("near");
  }

  async function draw() {
    const box = document.getElementById("chart");
    if (chart) {
      chart.destroy();
      chart = null;
    }
    if (!box) return;
    const turn = ++drawing;
    const answer = await fetch(box.dataset.url, { cache: "no-store" });
    if (!answer.ok || turn !== drawing || !box.isConnected) return;
    const { lines } = await answer.json();
    if (turn !== drawing) return;
    let focused = null;
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    chart = new uPlot(
      {
        width: box.clientWidth,
        height: box.clientHeight,
        legend: { show: false },
        focus: { alpha: 0.25 },
        cursor: { focus: { prox: 24 }, drag: { x: true, y: true } },
        scales: { x: { time: false }, y: { distr: box.dataset.log ? 3 : 1 } },
        axes: [
          { ...axis, label: "epoch", incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
          { ...axis, label: box.dataset.of, size: 70 },
        ],
        series: [
          { label: "epoch" },
          ...lines.map((line, index) => ({
            label: `${line.trial} ${line.label}`,
            stroke: colour(`--c${index % 8}`),
            width: 1.5,
            dash: DASHES[Math.floor(index / 8) % DASHES.length],
            points: { show: line.x.length < 40, size: 5 },
          })),
        ],
        hooks: {
          draw: [crosses(lines)],
          setSeries: [(plot, index) => { focused = index; near(index); }],
        },
      },
      aligned(box.dataset.log ? lines.map((line) => ({ ...line, y: line.y.map((y) => (y > 0 ? y : null)) })) : lines),
      box,
    );
    let pressed = 0;
    chart.over.addEventListener("mousedown", (event) => { pressed = event.clientX; });
    chart.over.addEventListener("click", (event) => {
      if (focused && Math.abs(event.clientX - pressed) < 4) location.href = `/trial/${lines[focused - 1].trial}`;
    });
    box.dataset.drawn = String(lines.length);
  }

  addEventListener("resize", () => {
    const box = document.getElementById("chart");
    if (chart && box) chart.setSize({ width: box.clientWidth, height: box.clientHeight });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  // --- after each change of the page -----------------------------------------------------------------------

  let opened = new Set();
  document.addEventListener("htmx:beforeSwap", () => {
    opened = new Set([...document.querySelectorAll("#live details[open]")].map((item) => item.dataset.key));
  });
  document.addEventListener("htmx:afterSettle", () => {
    for (const item of document.querySelectorAll("#live details")) item.open = opened.has(item.dataset.key);
    showChosen();
    draw();
  });
  document.addEventListener("DOMContentLoaded", () => {
    showChosen();
    draw();
    setTimeout(follow, POLL_MILLISECONDS);
  });
})();
