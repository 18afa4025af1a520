// Draws the charts of the page from the data block. Data: nestbench_reports/view.py. No string of the data becomes HTML:
// labels are SVG text, tooltips are built with textContent. Charts of many tenants: tenants.js, small plots:
// panels.js; both stand before.
(() => {
  const figures = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const charts = [];
  const NARROW = 420;  // px of a chart: below it, row labels stand above their rows

  // ---- colours and text ----

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const theme = () => Object.fromEntries(
    ["ink", "soft", "faint", "line", "grid", "card", "bare", "vm", "zone", "floor", "fio", "band", "fail", "accent", "part-1", "part-2", "part-3"]
      .map((name) => [name, colour(name)]));
  const SUBSTRATES = { bare: "circle", vm: "diamond", floor: "emptyCircle", fio: "circle" };
  const paint = (t, substrate) => t[substrate] ?? t.accent;

  const tip = (title, notes) => {
    const box = document.createElement("div");
    box.className = "tip";
    const heading = document.createElement("b");
    heading.textContent = title;
    box.append(heading);
    for (const [name, text] of notes) {
      const line = document.createElement("div");
      const left = document.createElement("i");
      const right = document.createElement("span");
      left.textContent = name;
      right.textContent = text;
      line.append(left, right);
      box.append(line);
    }
    return box;
  };
  const tooltip = (t, formatter) => ({
    trigger: "item", confine: true, formatter, backgroundColor: t.card, borderColor: t.line, padding: [8, 12],
    extraCssText: "box-shadow: 0 4px 16px rgba(0,0,0,.18); border-radius: 8px;",
  });
  const base = (t) => ({
    animation: false, textStyle: { fontFamily: colour("sans"), color: t.soft },
    aria: { enabled: false },
  });

  const digits = (value, count = 3) => Number(value.toPrecision(count)).toLocaleString("en-US", { maximumSignificantDigits: count });
  const time = (exact) => timeText(exact * (1 + 1e-9));  // exp(log(1000)) is a little less than 1000
  const timeText = (ns) => ns >= 1e9 ? `${digits(ns / 1e9)} s` : ns >= 1e6 ? `${digits(ns / 1e6)} ms` : ns >= 1e3 ? `${digits(ns / 1e3)} µs` : `${digits(ns)} ns`;
  const bytes = (count) => {
    const step = Math.min(4, Math.floor(Math.log2(count) / 10));
    return `${digits(count / 2 ** (10 * step))} ${["B", "KiB", "MiB", "GiB", "TiB"][step]}`;
  };

  // ---- ticks: charts with ratios and times are drawn on the logarithm, with round numbers as ticks ----

  const decades = (low, high, steps) => {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const step of steps) {
        const tick = step * 10 ** power;
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
      }
    }
    return ticks;
  };
  const ratioTicks = (low, high, most) => {
    if (high / low > 1.9) {
      const choices = [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3]].map((steps) => decades(low, high, steps));
      return choices.find((ticks) => ticks.length <= most) ?? decades(low, high, [1]);
    }
    for (const step of [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]) {
      const first = Math.ceil(low / step - 1e-9);
      const last = Math.floor(high / step + 1e-9);
      if (last - first < most) return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toFixed(4)));
    }
    return [1];
  };
  const ratioText = (value) => value >= 10 ? digits(value) : String(Number(value.toFixed(3)));

  // A value axis over log(value) with given ticks. `name` says what it shows.
  const logAxis = (t, low, high, ticks, format, name) => ({
    type: "value", min: Math.log(low), max: Math.log(high), name, nameLocation: "middle", nameGap: 28,
    nameTextStyle: { color: t.faint, fontSize: 12 },
    splitLine: { show: false }, axisLine: { show: true, lineStyle: { color: t.line } },
    axisTick: { show: true, customValues: ticks.map(Math.log), lineStyle: { color: t.line } },
    axisLabel: { customValues: ticks.map(Math.log), formatter: (value) => format(Math.exp(value)), color: t.soft, fontSize: 12, hideOverlap: true },
  });
  // A series of its own, so that its layer can be chosen: above the A/A bands, below the marks.
  const gridLines = (t, ticks, axis, emphasised) => ({ type: "line", data: [], silent: true, z: 2, markLine: {
    silent: true, z: 2, symbol: "none", animation: false, label: { show: false }, precision: 12,
    data: ticks.map((tick) => ({
      [axis]: Math.log(tick),
      lineStyle: tick === emphasised ? { color: t.faint, width: 1.25, type: "solid" } : { color: t.grid, width: 1, type: "solid" },
    })),
  } });

  // ---- marks ----

  const line = (x1, y1, x2, y2, stroke, width = 1.5) => ({ type: "line", shape: { x1, y1, x2, y2 }, style: { stroke, lineWidth: width } });
  // An interval: a bar at each end, or an arrow where it goes on beyond the axis (`onLeft`, `onRight`).
  const whisker = (low, high, y, stroke, onLeft, onRight, cap = 4) => [
    line(low, y, high, y, stroke, 2),
    ...(onLeft ? [line(low, y, low + 5, y - cap, stroke), line(low, y, low + 5, y + cap, stroke)] : [line(low, y - cap, low, y + cap, stroke)]),
    ...(onRight ? [line(high, y, high - 5, y - cap, stroke), line(high, y, high - 5, y + cap, stroke)] : [line(high, y - cap, high, y + cap, stroke)]),
  ];
  const mark = (shape, x, y, t, fill, size = 5.5) => {
    if (shape === "diamond") {
      return { type: "polygon", shape: { points: [[x, y - size], [x + size, y], [x, y + size], [x - size, y]] }, style: { fill, stroke: t.card, lineWidth: 1 } };
    }
    const hollow = shape === "emptyCircle";
    return { type: "circle", shape: { cx: x, cy: y, r: size - 0.5 }, style: { fill: hollow ? t.card : fill, stroke: hollow ? fill : t.card, lineWidth: hollow ? 2 : 1 } };
  };

  const pen = document.createElement("canvas").getContext("2d");
  const textWidth = (text, size) => {
    pen.font = `${size}px ${colour("sans")}`;
    return pen.measureText(text).width;
  };

  // Rows with their labels: beside the plot where there is room, above each row where there is not.
  const rowLayout = (t, rows, width) => {
    const narrow = width < NARROW;
    const longest = Math.max(...rows.map((row) => textWidth(row.label, 12.5)));
    const left = narrow ? 8 : Math.min(Math.ceil(longest) + 22, Math.floor(width * 0.45));
    const height = narrow ? 40 : 26;
    return {
      height: rows.length * height + 64, shift: narrow ? 9 : 0,
      grid: { left, right: 20, top: 8, bottom: 56, containLabel: false, outerBoundsMode: "none" },
      yAxis: {
        type: "category", inverse: true, data: rows.map((_, index) => index), axisLine: { show: false }, axisTick: { show: false },
        splitLine: { show: false },
        axisLabel: {
          interval: 0, color: t.ink, fontSize: 12.5, formatter: (index) => rows[index].label, overflow: "truncate",
          ...(narrow ? { inside: true, margin: 0, verticalAlign: "bottom", padding: [0, 0, 4, 0], width: width - 28 } : { margin: 10, width: left - 14 }),
        },
        z: 5,
      },
    };
  };
  // The whole row answers the pointer, not only its marks.
  const hitArea = (params, y) => ({
    type: "rect", shape: { x: params.coordSys.x, y: y - 13, width: params.coordSys.width, height: 26 }, style: { fill: "transparent" },
  });
  const finite = (values) => values.filter((value) => Number.isFinite(value) && value > 0);
  // The ends of a logarithmic axis: every point, and intervals (`ends`) as far as REACH times beyond the outermost points, so
  // that one interval from too few rounds does not flatten all the others.
  const REACH = 4;
  const axisRange = (points, ends) => [
    Math.max(Math.min(...points, ...ends), Math.min(...points) / REACH), Math.min(Math.max(...points, ...ends), Math.max(...points) * REACH),
  ];
  const within = (value, low, high) => Math.min(Math.max(value, low), high);

  // ---- chart kinds ----

  const forest = (figure, t, width) => {
    const rows = figure.rows;
    const ends = finite(rows.flatMap((row) => [...row.spread, ...(row.band ?? [])]));
    const [least, most] = axisRange([1, ...finite(rows.map((row) => row.spread[0]))], ends);
    const pad = Math.max((most / least) ** 0.06, 1.004);
    const [low, high] = [least / pad, most * pad];
    const ticks = ratioTicks(low, high, Math.max(4, Math.floor(width / 90)));
    const layout = rowLayout(t, rows, width);
    const place = (params, api) => ({
      row: rows[params.dataIndex], y: api.coord([0, params.dataIndex])[1] + layout.shift,
      x: (value) => api.coord([Math.log(within(value, low, high)), 0])[0],
    });
    const drawBand = (params, api) => {
      const { row, y, x } = place(params, api);
      if (!row.band) return null;
      const half = layout.shift ? 7 : 9;
      const [from, to] = row.band.map(x);
      return { type: "rect", shape: { x: from, y: y - half, width: to - from, height: 2 * half, r: 2 }, style: { fill: t.band } };
    };
    const drawMarks = (params, api) => {
      const { row, y, x } = place(params, api);
      const [value, from, to] = row.spread;
      const children = [hitArea(params, y)];
      if (from !== null && to !== null) children.push(...whisker(x(from), x(to), y, t.vm, from < low, to > high));
      const point = mark("diamond", x(value), y, t, t.vm);
      if (row.verdict === "inconclusive") Object.assign(point.style, { fill: t.card, stroke: t.vm, lineWidth: 2 });
      children.push(point);
      return { type: "group", children };
    };
    const data = rows.map((row, index) => [Math.log(row.spread[0]), index]);
    return {
      height: layout.height,
      option: {
        ...base(t), grid: layout.grid, yAxis: layout.yAxis,
        xAxis: logAxis(t, low, high, ticks, ratioText, "cost ratio (1 = the same; hollow: not settled)"),
        tooltip: tooltip(t, (params) => tip(rows[params.dataIndex].label, rows[params.dataIndex].notes)),
        series: [
          { type: "custom", renderItem: drawBand, data, silent: true, z: 1 },
          gridLines(t, [...new Set([...ticks, 1])], "xAxis", 1),
          { type: "custom", renderItem: drawMarks, data, clip: false, z: 3 },
        ],
      },
    };
  };

  const legend = (t, names) => ({
    top: 0, left: 0, itemWidth: 14, itemHeight: 10, textStyle: { color: t.soft, fontSize: 12.5 }, selectedMode: false, data: names,
  });

  const costs = (figure, t, width) => {
    const rows = figure.rows;
    const points = finite(rows.flatMap((row) => row.points.map((point) => point.spread[0])));
    const [least, most] = axisRange(points, finite(rows.flatMap((row) => [...row.band, ...row.points.flatMap((point) => point.spread)])));
    const [low, high] = [least / 1.6, most * 1.6];
    let ticks = decades(low, high, [1]);
    if (ticks.length > Math.max(4, width / 70)) ticks = ticks.filter((_, index) => index % 2 === 0);
    if (ticks.length < 3) ticks = decades(low, high, [1, 2, 5]);
    const layout = rowLayout(t, rows, width);
    Object.assign(layout.grid, { top: 34, right: 72 });  // the column of values
    const plot = width - layout.grid.left - layout.grid.right;
    ticks = ticks.filter((tick) => layout.grid.left + plot * Math.log(tick / low) / Math.log(high / low) > textWidth(time(tick), 12) / 2);
    const substrates = ["vm", "bare", "floor"].filter((name) => rows.some((row) => row.points.some((point) => point.substrate === name && point.spread[0] !== null)));
    const draw = (params, api) => {
      const row = rows[params.dataIndex];
      const y = api.coord([0, params.dataIndex])[1] + layout.shift;
      const x = (value) => api.coord([Math.log(within(value, low, high)), 0])[0];
      const area = params.coordSys;
      const children = [
        hitArea(params, y),
        line(area.x, y, area.x + area.width, y, t.grid, 1),
      ];
      if (row.band[0] !== null) {
        const [from, to] = row.band.map(x);
        children.push({ type: "rect", shape: { x: Math.min(from, (from + to) / 2 - 1), y: y - 10, width: Math.max(to - from, 2), height: 20 }, style: { fill: t.band } });
      }
      for (const point of row.points) {
        const [value, from, to] = point.spread;
        if (value === null) continue;
        const fill = paint(t, point.substrate);
        const at = y + (row.points.length === 1 ? 0 : point.substrate === "vm" ? -4 : 4);
        if (from !== null && to !== null) children.push(line(x(from), at, x(to), at, fill, 2));
        children.push(mark(SUBSTRATES[point.substrate] ?? "circle", x(value), at, t, fill, 4.5));
      }
      children.push({ type: "text", style: { x: area.x + area.width + 8, y, text: row.text, fill: t.soft, fontSize: 12, fontFamily: colour("sans"), verticalAlign: "middle" } });
      return { type: "group", children };
    };
    return {
      height: layout.height + 26,
      option: {
        ...base(t), grid: layout.grid, yAxis: layout.yAxis,
        xAxis: logAxis(t, low, high, ticks, time, "median time, logarithmic"),
        legend: legend(t, substrates.map((name) => ({ name, icon: (SUBSTRATES[name] ?? "circle").replace("emptyCircle", "circle") }))),
        tooltip: tooltip(t, (params) => tip(rows[params.dataIndex].label, rows[params.dataIndex].notes)),
        series: [
          gridLines(t, ticks, "xAxis"),
          { type: "custom", renderItem: draw, data: rows.map((row, index) => [Math.log(row.points[0].spread[0] ?? 1), index]), clip: false, z: 3 },
          ...substrates.map((name) => ({ type: "custom", name, renderItem: () => null, data: [], itemStyle: { color: paint(t, name) }, color: paint(t, name) })),
        ],
      },
    };
  };

  const curve = (figure, t, width) => {
    const sizes = finite(figure.series.flatMap((series) => series.points.map((point) => point[0])));
    const values = finite(figure.series.flatMap((series) => series.points.map((point) => point[1])));
    const [left, right] = [Math.min(...sizes) / 1.3, Math.max(...sizes) * 1.3];
    const [low, high] = [Math.min(...values) / 1.3, Math.max(...values) * 1.5];
    let xTicks = [];
    for (let power = Math.ceil(Math.log2(left)); 2 ** power <= right; power++) xTicks.push(2 ** power);
    const every = Math.ceil(xTicks.length / Math.max(3, Math.floor(width / 80)));
    xTicks = xTicks.filter((_, index) => index % every === 0);
    const yTicks = decades(low, high, high / low > 200 ? [1, 3] : [1, 2, 5]);
    const start = Math.max(64, Math.ceil(Math.max(...yTicks.map((tick) => textWidth(digits(tick), 12)))) + 42);  // labels and name
    const marks = figure.caches.filter((cache) => cache.bytes > left && cache.bytes < right);
    // The legend breaks into lines of its own accord; the plot starts below the last.
    let [lines, end] = [1, 0];
    for (const entry of figure.series) {
      const item = textWidth(entry.name, 12.5) + 46;
      [lines, end] = end > 0 && end + item > width ? [lines + 1, item] : [lines, end + item];
    }
    const dashes = ["solid", "dashed", "dotted"];
    const seen = {};
    const series = figure.series.map((entry) => {
      seen[entry.substrate] = (seen[entry.substrate] ?? -1) + 1;
      return {
        type: "line", name: entry.name, symbol: entry.substrate === "vm" ? "diamond" : "circle", symbolSize: entry.substrate === "vm" ? 8 : 10,
        color: paint(t, entry.substrate), itemStyle: { color: paint(t, entry.substrate) },
        lineStyle: { width: 2, color: paint(t, entry.substrate), type: dashes[seen[entry.substrate] % 3] },
        data: entry.points.map((point) => [Math.log(point[0]), Math.log(point[1]), ...point]), emphasis: { disabled: true },
      };
    });
    if (series.length) {
      series[0].markLine = {
        silent: true, symbol: "none", animation: false, precision: 12,
        data: [
          ...yTicks.map((tick) => ({ yAxis: Math.log(tick), lineStyle: { color: t.grid, type: "solid", width: 1 }, label: { show: false } })),
          ...marks.map((cache) => ({
            xAxis: Math.log(cache.bytes), lineStyle: { color: t.faint, type: [4, 4], width: 1 },
            label: { show: true, position: "end", formatter: () => width < NARROW ? cache.label : `${cache.label} ${cache.text}`, color: t.faint, fontSize: 12 },
          })),
        ],
      };
    }
    return {
      height: Math.max(320, Math.min(440, width * 0.5)) + 22 * (lines - 1),
      option: {
        ...base(t), grid: { left: start, right: 20, top: 42 + 22 * lines, bottom: 56, outerBoundsMode: "none" },
        legend: { ...legend(t, figure.series.map((entry) => entry.name)), itemWidth: 26 },
        xAxis: logAxis(t, left, right, xTicks, bytes, "working set"),
        yAxis: { ...logAxis(t, low, high, yTicks, (value) => digits(value), figure.unit), nameGap: start - 22, axisLine: { show: false }, axisTick: { show: false } },
        tooltip: tooltip(t, (params) => {
          const [, , size, value, from, to, evidence] = params.data;
          const unit = figure.unit;
          return tip(`${params.seriesName}, ${bytes(size)}`, [["median", `${digits(value)} ${unit}`],
            ["95 % interval", from === null ? "none" : `${digits(from)}–${digits(to)}`], ["evidence", evidence]]);
        }),
        series,
      },
    };
  };

  const bars = (figure, t, width) => {
    const narrow = width < NARROW;
    const unit = figure.unit;
    const series = figure.series.map((entry) => ({
      type: "bar", name: entry.substrate, data: entry.spreads.map((spread) => spread[0]), barMaxWidth: 34, barGap: "12%",
      color: paint(t, entry.substrate), itemStyle: { color: paint(t, entry.substrate), borderRadius: 2 }, emphasis: { disabled: true },
    }));
    const count = figure.series.length;
    const errors = figure.series.map((entry, position) => ({
      type: "custom", silent: true, z: 5, data: entry.spreads.map((spread, index) => [index, spread[1], spread[2]]),
      encode: narrow ? { x: [1, 2], y: 0 } : { x: 0, y: [1, 2] },
      renderItem: (params, api) => {
        const [, from, to] = entry.spreads[params.dataIndex].length ? [0, api.value(1), api.value(2)] : [];
        if (!Number.isFinite(from) || !Number.isFinite(to)) return null;
        const layout = api.barLayout({ barMaxWidth: 34, barGap: "12%", count })[position];
        const [a, b] = narrow ? [api.coord([from, api.value(0)]), api.coord([to, api.value(0)])] : [api.coord([api.value(0), from]), api.coord([api.value(0), to])];
        const offset = layout.offsetCenter;
        const children = narrow
          ? [line(a[0], a[1] + offset, b[0], b[1] + offset, t.ink), line(a[0], a[1] + offset - 4, a[0], a[1] + offset + 4, t.ink), line(b[0], b[1] + offset - 4, b[0], b[1] + offset + 4, t.ink)]
          : [line(a[0] + offset, a[1], b[0] + offset, b[1], t.ink), line(a[0] + offset - 4, a[1], a[0] + offset + 4, a[1], t.ink), line(b[0] + offset - 4, b[1], b[0] + offset + 4, b[1], t.ink)];
        return { type: "group", children };
      },
    }));
    const categories = {
      type: "category", data: figure.labels.map((_, index) => index), inverse: narrow, axisTick: { show: false }, axisLine: { lineStyle: { color: t.line } },
      axisLabel: { color: t.ink, fontSize: 12.5, lineHeight: 15, interval: 0, formatter: (index) => figure.labels[index], overflow: "break", width: narrow ? 92 : Math.max(40, (width - 90) / figure.labels.length - 8) },
    };
    const amounts = {
      type: "value", min: 0, name: unit, nameLocation: "middle", nameGap: narrow ? 28 : 42, nameTextStyle: { color: t.faint, fontSize: 12 },
      axisLabel: { color: t.soft, fontSize: 12, hideOverlap: true }, splitLine: { lineStyle: { color: t.grid } }, ...(narrow ? { splitNumber: 4 } : {}),
    };
    return {
      height: narrow ? figure.labels.length * (count * 18 + 14) + 96 : 340,
      option: {
        ...base(t), grid: { left: narrow ? 104 : 64, right: 20, top: 40, bottom: narrow ? 52 : 44, outerBoundsMode: "none" },
        legend: legend(t, series.map((entry) => ({ name: entry.name, icon: "roundRect" }))),
        xAxis: narrow ? amounts : categories, yAxis: narrow ? categories : amounts,
        tooltip: tooltip(t, (params) => {
          const entry = figure.series[params.seriesIndex];
          const [value, from, to] = entry.spreads[params.dataIndex];
          return tip(`${figure.labels[params.dataIndex]}, ${entry.substrate}`, [["median", `${digits(value)} ${unit}`],
            ["95 % interval", from === null ? "none" : `${digits(from)}–${digits(to)}`], ["evidence", entry.evidence[params.dataIndex]]]);
        }),
        series: [...series, ...errors],
      },
    };
  };

  const nulls = (figure, t, width) => {
    const rows = figure.rows;
    const [least, most] = axisRange([1, ...finite(rows.map((row) => row.spread[0]))], finite(rows.flatMap((row) => row.spread)));
    const pad = Math.max((most / least) ** 0.05, 1.002);
    const [low, high] = [least / pad, most * pad];
    const ticks = ratioTicks(low, high, 7);
    const draw = (params, api) => {
      const row = rows[params.dataIndex];
      const [x, y] = api.coord([params.dataIndex, Math.log(row.spread[0])]);
      const at = (value) => api.coord([0, Math.log(within(value, low, high))])[1];
      const stroke = row.holds ? t.floor : t.fail;
      const area = params.coordSys;
      const half = Math.max(2, area.width / rows.length / 2);
      return { type: "group", children: [
        { type: "rect", shape: { x: x - half, y: area.y, width: 2 * half, height: area.height }, style: { fill: "transparent" } },
        line(x, at(row.spread[1]), x, at(row.spread[2]), stroke, row.holds ? 1.5 : 2.5),
        row.holds ? mark("circle", x, y, t, stroke, 3) : mark("diamond", x, y, t, stroke, 5),
      ] };
    };
    return {
      height: 260,
      option: {
        ...base(t), grid: { left: 64, right: 12, top: 12, bottom: 28, outerBoundsMode: "none" },
        xAxis: { type: "value", min: -1, max: rows.length, show: true, axisLabel: { show: false }, axisTick: { show: false }, splitLine: { show: false }, axisLine: { show: false }, name: width < NARROW ? "sorted (red diamonds: not 1)" : "measurements, sorted (red diamonds do not hold 1)", nameLocation: "middle", nameGap: 14, nameTextStyle: { color: t.faint, fontSize: 12 } },
        yAxis: { ...logAxis(t, low, high, ticks, ratioText, width < NARROW ? "" : "second / first"), nameGap: 46, axisLine: { show: false }, axisTick: { show: false } },
        tooltip: tooltip(t, (params) => tip(rows[params.dataIndex].label, rows[params.dataIndex].notes)),
        series: [
          gridLines(t, [...new Set([...ticks, 1])], "yAxis", 1),
          { type: "custom", renderItem: draw, data: rows.map((row, index) => [index, Math.log(row.spread[0])]), clip: false, z: 3 },
        ],
      },
    };
  };

  // ---- life of the charts ----

  const tools = {
    NARROW, axisRange, base, bytes, colour, decades, digits, finite, hitArea, legend, line, logAxis, mark, paint, ratioText, ratioTicks, rowLayout, textWidth,
    time, tip, tooltip, within,
  };
  const kinds = { forest, costs, curve, bars, null: nulls, ...tenantCharts(tools), ...panelCharts(tools) };
  const draw = (entry) => {
    const width = entry.element.clientWidth;
    if (width === 0) return;
    const built = kinds[entry.figure.kind](entry.figure, theme(), width);
    entry.width = width;
    entry.element.style.height = `${Math.round(built.height)}px`;
    entry.chart ??= echarts.init(entry.element, null, { renderer: "svg" });
    entry.chart.resize();
    entry.chart.setOption(built.option, { notMerge: true });
  };
  for (const element of document.querySelectorAll("[data-figure]")) {
    const entry = { element, figure: figures[element.dataset.figure], chart: null, width: 0 };
    charts.push(entry);
    draw(entry);
  }
  const drawAll = () => charts.forEach(draw);
  let waiting = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => charts.filter((entry) => entry.element.clientWidth !== entry.width).forEach(draw));
  });
  dark.addEventListener("change", drawAll);
  // The style sheet has one palette for paper; the charts follow it.
  matchMedia("print").addEventListener("change", drawAll);
  document.documentElement.dataset.drawn = String(charts.filter((entry) => entry.chart !== null).length);
})();
