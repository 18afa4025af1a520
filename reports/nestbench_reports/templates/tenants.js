// Charts of density, isolation and attribution. Data: nestbench_reports/figures_*.py; `tools`: what report.js draws with.
"use strict";
const tenantCharts = (tools) => {
  const { NARROW, base, bytes, colour, decades, digits, finite, hitArea, legend, line, logAxis, mark, paint, rowLayout, textWidth, time, tip, tooltip } = tools;
  const SYMBOLS = { vm: "diamond", zone: "rect", bare: "circle" };
  const sans = () => colour("sans");

  // ---- density: throughput above, p99 below, over one axis of guests ----

  const ramp = (figure, t, width) => {
    const narrow = width < NARROW;
    const points = figure.series.flatMap((series) => series.points);
    const guests = finite(points.map((point) => point.guests));
    const [left, right] = [Math.min(...guests) / 1.25, Math.max(...guests) * 1.35];
    const range = (values, above) => {
      const known = finite(values);
      return known.length ? [Math.min(...known) / 1.5, Math.max(...known) * above] : [0.5, 2];
    };
    const offered = figure.rate_per_s > 0 ? [Math.min(...guests), Math.max(...guests)].map((count) => count * figure.rate_per_s) : [];
    const rates = range([...points.map((point) => point.throughput), ...offered], 1.5);
    const times = range([...points.map((point) => point.p99), figure.slo_ns ?? 0], 2);
    const few = (low, high, most) => [[1, 2, 5], [1, 3], [1]].map((steps) => decades(low, high, steps)).find((ticks) => ticks.length <= most)
      ?? decades(low, high, [1]).filter((_, index, all) => index % Math.ceil(all.length / most) === 0);
    const xTicks = [];
    for (let power = Math.ceil(Math.log2(left)); 2 ** power <= right; power++) xTicks.push(2 ** power);
    const every = Math.ceil(xTicks.length / Math.max(4, Math.floor(width / 70)));
    const xShown = xTicks.filter((_, index) => index % every === 0);
    const [rateTicks, timeTicks] = [few(...rates, 6), few(...times, 6)];
    const widest = Math.max(...rateTicks.map((tick) => textWidth(digits(tick), 12)), ...timeTicks.map((tick) => textWidth(time(tick), 12)));
    const start = Math.ceil(widest) + (narrow ? 18 : 42);
    let [lines, end] = [1, 0];
    for (const entry of figure.series) {
      const item = textWidth(entry.name, 12.5) + 46;
      [lines, end] = end > 0 && end + item > width ? [lines + 1, item] : [lines, end + item];
    }
    const [top, high, gap] = [16 + 22 * lines, narrow ? 170 : 190, 34];
    const grids = [0, 1].map((row) => ({ left: start, right: 16, top: top + row * (high + gap), height: high, outerBoundsMode: "none" }));
    const log = (value) => Math.log(value);
    const grid = (ticks) => ticks.map((tick) => ({ yAxis: log(tick), lineStyle: { color: t.grid, type: "solid", width: 1 }, label: { show: false } }));
    const knees = (row) => figure.series.flatMap((entry) => !entry.knee || entry.knee[0] === 0 ? [] : [{
      xAxis: log(entry.knee[0]), lineStyle: { color: paint(t, entry.substrate), type: [5, 4], width: 1.5 }, label: { show: false }, row,
    }]);
    const bands = figure.series.flatMap((entry) => !entry.knee || !entry.knee[1] || entry.knee[1] === entry.knee[2] ? [] : [[
      { xAxis: log(entry.knee[1]), itemStyle: { color: paint(t, entry.substrate), opacity: 0.12 } }, { xAxis: log(entry.knee[2]) },
    ]]);
    const backing = (row, ticks, extra) => ({
      type: "line", data: [], silent: true, xAxisIndex: row, yAxisIndex: row, z: 1,
      markLine: { silent: true, z: 1, symbol: "none", animation: false, precision: 12, data: [...grid(ticks), ...extra, ...knees(row)] },
      markArea: { silent: true, z: 1, animation: false, data: bands },
    });
    const slo = figure.slo_ns ? [{
      yAxis: log(figure.slo_ns), lineStyle: { color: t.fail, type: "solid", width: 1.5 },
      label: { show: true, position: "insideStartTop", formatter: `objective ${time(figure.slo_ns)}`, color: t.fail, fontSize: 12 },
    }] : [];
    const curve = (entry, row, key) => ({
      type: "line", name: entry.name, xAxisIndex: row, yAxisIndex: row, symbol: SYMBOLS[entry.substrate] ?? "circle", symbolSize: 9, z: 3,
      color: paint(t, entry.substrate), itemStyle: { color: paint(t, entry.substrate) }, lineStyle: { width: 2, color: paint(t, entry.substrate) },
      emphasis: { disabled: true }, clip: false,
      data: entry.points.map((point, index) => [point, index]).filter(([point]) => point[key] > 0).map(([point, index]) => [log(point.guests), log(point[key]), index]),
    });
    const ends = [Math.min(...guests), Math.max(...guests)];
    const all = figure.rate_per_s > 0 ? [{
      type: "line", name: "offered", silent: true, xAxisIndex: 0, yAxisIndex: 0, symbol: "none", z: 2, color: t.faint,
      lineStyle: { color: t.faint, type: [4, 4], width: 1.25 }, data: ends.map((count) => [log(count), log(count * figure.rate_per_s)]),
    }] : [];
    const axis = (row) => ({
      ...logAxis(t, left, right, xShown, (value) => digits(value), row === 1 ? "guests" : ""), gridIndex: row,
      ...(row === 0 ? { axisLabel: { show: false } } : {}),
    });
    const side = (row, [low, above], ticks, format, name) => ({
      ...logAxis(t, low, above, ticks, format, narrow ? "" : name), gridIndex: row, nameGap: start - 16, axisLine: { show: false }, axisTick: { show: false },
    });
    return {
      height: top + 2 * high + gap + 58,
      option: {
        ...base(t), grid: grids, xAxis: [axis(0), axis(1)],
        yAxis: [side(0, rates, rateTicks, (value) => digits(value), "served, per s"), side(1, times, timeTicks, time, "p99")],
        legend: { ...legend(t, figure.series.map((entry) => entry.name)), itemWidth: 26 },
        // On a phone the axes have no names of their own.
        title: narrow ? ["served, per s", "p99"].map((text, row) => ({ text, left: start, top: top + row * (high + gap) - 18, textStyle: { color: t.faint, fontSize: 12, fontWeight: "normal" } })) : [],
        tooltip: tooltip(t, (params) => {
          const entry = figure.series.find((series) => series.name === params.seriesName);
          const point = entry.points[params.data[2]];
          return tip(`${digits(point.guests)} guest${point.guests === 1 ? "" : "s"}, ${entry.substrate}`, point.notes);
        }),
        series: [
          backing(0, rateTicks, []), backing(1, timeTicks, slo), ...all,
          ...figure.series.map((entry) => curve(entry, 0, "throughput")), ...figure.series.map((entry) => curve(entry, 1, "p99")),
        ],
      },
    };
  };

  // ---- density: memory of each guest, stacked ----

  const stack = (figure, t, width) => {
    const rows = figure.rows;
    const most = Math.max(...rows.map((row) => Math.max(row.total, row.parts.reduce((sum, part) => sum + (part ?? 0), 0))), 1);
    // Round ticks in powers of two: bytes are read so.
    const step = 2 ** Math.ceil(Math.log2(most / (width < NARROW ? 3 : 6)));
    const ticks = Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step);
    const layout = rowLayout(t, rows, width);
    const fills = [t["part-1"], t["part-2"], t["part-3"]];
    Object.assign(layout.grid, { top: 34, right: 76, bottom: 40 });
    const draw = (params, api) => {
      const row = rows[params.dataIndex];
      const y = api.coord([0, params.dataIndex])[1] + layout.shift;
      const x = (value) => api.coord([value, 0])[0];
      const children = [hitArea(params, y)];
      let from = 0;
      row.parts.forEach((part, index) => {
        if (!part) return;
        const [a, b] = [x(from), x(from + part)];
        children.push({ type: "rect", shape: { x: a, y: y - 8, width: Math.max(b - a, 1), height: 16 }, style: { fill: fills[index], stroke: t.card, lineWidth: 1 } });
        from += part;
      });
      if (row.total > from) {  // what could not be told apart
        children.push({ type: "rect", shape: { x: x(from), y: y - 8, width: x(row.total) - x(from), height: 16 }, style: { fill: t.band } });
      }
      children.push({ type: "text", style: { x: x(Math.max(row.total, from)) + 6, y, text: row.text, fill: t.soft, fontSize: 12, fontFamily: sans(), verticalAlign: "middle" } });
      return { type: "group", children };
    };
    return {
      height: layout.height + 10,
      option: {
        ...base(t), grid: layout.grid, yAxis: layout.yAxis,
        xAxis: {
          type: "value", min: 0, max: most, splitLine: { show: false }, axisLine: { show: true, lineStyle: { color: t.line } }, axisTick: { show: true, customValues: ticks, lineStyle: { color: t.line } },
          axisLabel: { customValues: ticks, formatter: (value) => value > 0 ? bytes(value) : "0", color: t.soft, fontSize: 12, hideOverlap: true },
        },
        legend: legend(t, figure.parts.map((name) => ({ name, icon: "roundRect" }))),
        tooltip: tooltip(t, (params) => tip(rows[params.dataIndex].label, rows[params.dataIndex].notes)),
        series: [
          { type: "line", data: [], silent: true, z: 1, markLine: { silent: true, z: 1, symbol: "none", animation: false, label: { show: false }, data: ticks.map((tick) => ({ xAxis: tick, lineStyle: { color: t.grid, type: "solid", width: 1 } })) } },
          { type: "custom", renderItem: draw, data: rows.map((row, index) => [row.total, index]), clip: false, z: 3 },
          ...figure.parts.map((name, index) => ({ type: "custom", name, renderItem: () => null, data: [], color: fills[index], itemStyle: { color: fills[index] } })),
        ],
      },
    };
  };

  // ---- isolation: substrates side by side, within each the intensities ----

  const parts = (hex) => [1, 3, 5].map((at) => Number.parseInt(hex.length === 4 ? hex[(at + 1) / 2].repeat(2) : hex.slice(at, at + 2), 16));
  const blend = (from, to, share) => `#${parts(from).map((part, index) => Math.round(part + share * (parts(to)[index] - part)).toString(16).padStart(2, "0")).join("")}`;
  // WCAG 2.2, "Contrast (Minimum)".
  const luminance = (hex) => {
    const [red, green, blue] = parts(hex).map((part) => part / 255).map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, other) => {
    const [dark, bright] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const SIGNS = { hurt: " *", helped: " +", unhurt: "", not_settled: " ?", none: "" };
  const heat = (figure, t, width) => {
    const rows = figure.rows;
    const [groups, steps] = [figure.substrates.length, figure.intensities.length];
    const narrow = width < NARROW;
    const layout = rowLayout(t, rows, width);
    const height = narrow ? 46 : 30;
    Object.assign(layout.grid, { top: 44, right: 8, bottom: 8 });
    const gap = narrow ? 6 : 12;
    const squares = rows.flatMap((row, index) => row.squares.map((square) => ({ ...square, row: index })));
    const frame = (area) => {
      const group = (area.width - gap * (groups - 1)) / groups;
      return { group, step: group / steps, at: (substrate, from) => area.x + substrate * (group + gap) + from * (group / steps) };
    };
    const draw = (params, api) => {
      const square = squares[params.dataIndex];
      const { step, at } = frame(params.coordSys);
      const y = api.coord([0, square.row])[1] + (narrow ? 11 : 0);
      const [x, wide, half] = [at(square.substrate, square.from) + 1, step * square.span - 2, narrow ? 11 : 12];
      if (square.share === null) {
        return { type: "group", children: [
          { type: "rect", shape: { x, y: y - half, width: wide, height: 2 * half, r: 3 }, style: { fill: "transparent", stroke: t.line, lineWidth: 1, lineDash: [3, 3] } },
          { type: "text", style: { x: x + wide / 2, y, text: "n/a", fill: t.faint, fontSize: 11, fontFamily: sans(), align: "center", verticalAlign: "middle" } },
        ] };
      }
      // From nothing lost (the page's own grey) to half or more lost (the colour of failing).
      const loss = Math.min(1, Math.max(0, (1 - square.share) / 0.5));
      const fill = blend(t.grid, t.fail, loss);
      const ink = contrast(t.ink, fill) >= contrast(t.card, fill) ? t.ink : t.card;
      const text = `${Math.round(100 * square.share)}${SIGNS[square.hurt]}`;
      const fits = textWidth(text, 12) + 4 <= wide;
      return { type: "group", children: [
        { type: "rect", shape: { x, y: y - half, width: wide, height: 2 * half, r: 3 }, style: { fill } },
        ...(fits ? [{ type: "text", style: {
          x: x + wide / 2, y, text, fill: ink, fontSize: 12, fontFamily: sans(), align: "center", verticalAlign: "middle",
          fontWeight: square.share < figure.line ? 700 : 400,
        } }] : []),
      ] };
    };
    const head = (params) => {
      const area = params.coordSys;
      const { group, step, at } = frame(area);
      const write = (text, x, y, fill, weight) => ({ type: "text", style: { x, y, text, fill, fontSize: 12, fontWeight: weight, fontFamily: sans(), align: "center", verticalAlign: "middle" } });
      const percents = figure.intensities.map((value) => `${value} %`);
      const roomy = percents.every((text) => textWidth(text, 12) + 4 <= step);
      return { type: "group", children: figure.substrates.flatMap((name, index) => [
        write(name, at(index, 0) + group / 2, area.y - 30, t.ink, 600),
        ...(roomy ? percents.map((text, place) => write(text, at(index, place) + step / 2, area.y - 12, t.faint, 400)) : []),
      ]) };
    };
    return {
      height: rows.length * height + 60,
      option: {
        ...base(t), grid: layout.grid, yAxis: layout.yAxis, xAxis: { type: "value", min: 0, max: 1, show: false },
        tooltip: tooltip(t, (params) => params.seriesIndex === 1 ? tip(squares[params.dataIndex].title, squares[params.dataIndex].notes) : ""),
        series: [
          { type: "custom", renderItem: head, data: [[0, 0]], silent: true, clip: false, z: 2 },
          { type: "custom", renderItem: draw, data: squares.map((square) => [0, square.row]), clip: false, z: 3 },
        ],
      },
    };
  };

  // ---- attribution: hidden episodes and what the detector said, a lane for each guest ----

  const timeline = (figure, t, width) => {
    const narrow = width < NARROW;
    const lanes = figure.rows;
    const widest = Math.max(...lanes.map((lane) => textWidth(lane.label, 12.5)));
    const left = Math.ceil(widest) + 18;
    const items = [
      ...figure.episodes.map((entry) => ({ ...entry, kind: "episode", time: (entry.begin + entry.end) / 2 })),
      ...figure.detections.map((entry) => ({ ...entry, kind: "detection", time: entry.at })),
    ];
    const draw = (params, api) => {
      const item = items[params.dataIndex];
      const y = api.coord([0, item.guest])[1];
      const x = (seconds) => api.coord([Math.min(Math.max(seconds, 0), figure.duration), 0])[0];
      if (item.kind === "episode") {
        const [from, to] = [x(item.begin), x(item.end)];
        const shape = { x: from, y: y - 9, width: Math.max(to - from, 2), height: 18, r: 3 };
        return item.counts
          ? { type: "rect", shape, style: { fill: t.vm, opacity: 0.25 + 0.6 * Math.min(1, Math.max(0, item.impact)) } }
          : { type: "rect", shape, style: { fill: "transparent", stroke: t.vm, lineWidth: 1.25, lineDash: [3, 3] } };
      }
      const at = x(item.time);
      if (item.right) return mark("diamond", at, y, t, t.bare, 6);
      return { type: "group", children: [line(at - 5, y - 5, at + 5, y + 5, t.fail, 2.5), line(at - 5, y + 5, at + 5, y - 5, t.fail, 2.5)] };
    };
    const key = (params) => {  // a legend of the three marks
      const area = params.coordSys;
      const entries = [["episode", narrow ? "hidden" : "hidden episode"], ["right", narrow ? "named" : "named rightly"], ["wrong", narrow ? "wrongly" : "named wrongly"]];
      let x = area.x;
      const children = entries.flatMap(([kind, text]) => {
        const y = area.y - 18;
        const sign = kind === "episode"
          ? [{ type: "rect", shape: { x, y: y - 5, width: 16, height: 10, r: 2 }, style: { fill: t.vm, opacity: 0.6 } }]
          : kind === "right" ? [mark("diamond", x + 8, y, t, t.bare, 6)]
            : [line(x + 4, y - 4, x + 12, y + 4, t.fail, 2.5), line(x + 4, y + 4, x + 12, y - 4, t.fail, 2.5)];
        const label = { type: "text", style: { x: x + 22, y, text, fill: t.soft, fontSize: 12.5, fontFamily: sans(), verticalAlign: "middle" } };
        x += 22 + textWidth(text, 12.5) + 18;
        return [...sign, label];
      });
      return { type: "group", children };
    };
    return {
      height: lanes.length * 30 + 92,
      option: {
        ...base(t), grid: { left, right: 16, top: 34, bottom: 52, outerBoundsMode: "none" },
        yAxis: {
          type: "category", inverse: true, data: lanes.map((_, index) => index), axisLine: { show: false }, axisTick: { show: false }, splitLine: { show: false },
          axisLabel: { interval: 0, color: t.ink, fontSize: 12.5, formatter: (index) => lanes[index].label },
        },
        xAxis: {
          type: "value", min: 0, max: figure.duration, name: "seconds", nameLocation: "middle", nameGap: 26, nameTextStyle: { color: t.faint, fontSize: 12 },
          axisLabel: { color: t.soft, fontSize: 12, showMaxLabel: true, hideOverlap: true }, splitLine: { lineStyle: { color: t.grid } }, axisLine: { show: true, lineStyle: { color: t.line } },
        },
        tooltip: tooltip(t, (params) => params.seriesIndex === 1 ? tip(items[params.dataIndex].title, items[params.dataIndex].notes) : ""),
        series: [
          { type: "custom", renderItem: key, data: [[0, 0]], silent: true, clip: false, z: 2 },
          { type: "custom", renderItem: draw, data: items.map((item) => [item.time, item.guest]), clip: false, z: 3 },
          {
            type: "line", data: [], silent: true, z: 1, markLine: { silent: true, z: 1, symbol: "none", animation: false, label: { show: false },
              data: lanes.map((_, index) => ({ yAxis: index, lineStyle: { color: t.grid, type: "solid", width: 1 } })) },
          },
        ],
      },
    };
  };

  return { ramp, stack, heat, timeline };
};
