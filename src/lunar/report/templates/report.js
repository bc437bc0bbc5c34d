"use strict";
// Draws the plots in the colours of the page, and makes the choices and filters work. Reads data, runs none of it.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false, responsive: true, showTips: false };

  function colours(isDark) {
    const text = isDark ? "#e4e8ef" : "#1c2330";
    const grid = isDark ? "#303949" : "#e3e7ed";
    const axis = { gridcolor: grid, linecolor: grid, zerolinecolor: grid };
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: text, size: 13, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: isDark ? "#252d3a" : "#ffffff", bordercolor: grid, font: { color: text } },
      axis,
    };
  }

  function themed(layout, isDark) {
    const { axis, ...whole } = colours(isDark);
    const made = { ...layout, ...whole };
    for (const name of ["xaxis", "yaxis", "yaxis2"]) {
      if (layout[name]) made[name] = { ...layout[name], ...axis };
    }
    return made;
  }

  function draw(isDark) {
    for (const [name, figure] of Object.entries(figures)) {
      const place = document.getElementById(name);
      const select = document.querySelector(`select[data-plot="${name}"]`);
      const data = figure.data.map((trace) => (select ? { ...trace, visible: trace.meta === select.value } : trace));
      place.querySelector("noscript")?.remove();
      Plotly.react(place, data, themed(figure.layout, isDark), config);
    }
  }

  draw(dark.matches);
  dark.addEventListener("change", () => draw(dark.matches));
  for (const select of document.querySelectorAll("select[data-plot]")) {
    select.parentElement.hidden = false;
    select.addEventListener("change", () => draw(dark.matches));
  }

  // On paper: light colours, and everything that is folded away.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((one) => (one.open = true));
    draw(false);
  });
  window.addEventListener("afterprint", () => {
    folded.forEach((one) => (one.open = false));
    draw(dark.matches);
  });

  const form = document.querySelector("form.filters");
  if (form) {
    const [words, split, outcome] = ["words", "split", "outcome"].map((n) => document.getElementById(`filter-${n}`));
    const rows = [...document.querySelectorAll("#examples-table tbody tr")];
    const count = document.getElementById("filter-count");
    const filter = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !(
          (!split.value || row.dataset.split === split.value) &&
          (!outcome.value || row.dataset.outcome === outcome.value) &&
          wanted.every((word) => text.includes(word))
        );
        shown += !row.hidden;
      }
      count.textContent = `${shown} of ${rows.length} shown`;
    };
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    filter();
  }
})();
