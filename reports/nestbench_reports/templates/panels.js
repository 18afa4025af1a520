// Small plots side by side: a column for each pattern, in it a plot for each quantity. Data: nestbench_reports/panels.py;
// `tools`: what report.js draws with. Plots of one row share their scale; columns go on below where the page is narrow.
const panelCharts = (tools) => {
  const { axisRange, base, bytes, colour, decades, digits, finite, legend, line, logAxis, mark, paint, ratioText, ratioTicks, textWidth, time, tip, tooltip, within } = tools;
  const SHAPES = { vm: "diamond", bare: "circle", fio: "rect" };
  const DASHES = ["solid", "dashed", "dotted"];
  const [LEAST_WIDTH, MOST_WIDTH] = [190, 620];  // px of a column
  const FORMATS = {
    count: (value) => digits(value), time, ratio: ratioText,
    exits: (value) => value <= 0.001 * (1 + 1e-6) ? "none" : digits(value, 2),
  };

  const few = (low, high, most, format) => {
    if (format === "ratio") return ratioTicks(low, high, most);
    const choices = [[1, 2, 5], [1, 3], [1]].map((steps) => decades(low, high, steps)).filter((ticks) => ticks.length > 1);
    return choices.find((ticks) => ticks.length <= most) ?? decades(low, high, [1]).filter((_, index, all) => index % Math.ceil(all.length / most) === 0);
  };
  const powers = (low, high, most) => {
    const ticks = [];
    for (let power = Math.ceil(Math.log2(low)); 2 ** power <= high; power++) ticks.push(2 ** power);
    const every = Math.ceil(ticks.length / most);
    return ticks.filter((_, index) => index % every === 0);
  };
  // A mark of the legend or a plot: vm's diamond, bare's disc, fio's square.
  const sign = (substrate, x, y, t, size) => SHAPES[substrate] === "rect"
    ? { type: "rect", shape: { x: x - size + 1, y: y - size + 1, width: 2 * size - 2, height: 2 * size - 2 }, style: { fill: paint(t, substrate), stroke: t.card, lineWidth: 1 } }
    : mark(SHAPES[substrate] ?? "circle", x, y, t, paint(t, substrate), size);

  const panels = (figure, t, width) => {
    const { columns, rows } = figure;
    const pointsOf = (row) => columns.flatMap((column) => (column.plots[row] ?? []).flatMap((entry) => entry.points));
    const xs = finite(rows.flatMap((_, row) => pointsOf(row).map((point) => point.x)));
    const [left, right] = [Math.min(...xs) / 1.5, Math.max(...xs) * 1.5];
    const scales = rows.map((row, index) => {
      const points = pointsOf(index);
      const values = [...finite(points.map((point) => point.spread[0])), ...(row.format === "ratio" ? [1] : []), ...(row.mark ? [row.mark] : [])];
      if (!values.length) return { low: 0.5, high: 2, ticks: [1] };
      const [least, most] = axisRange(values, finite(points.flatMap((point) => point.spread)));
      const pad = Math.max((most / least) ** 0.08, 1.03);
      return { low: least / pad, high: most * pad, ticks: few(least / pad, most * pad, 6, row.format) };
    });
    const widest = Math.max(...scales.flatMap((scale, row) => scale.ticks.map((tick) => textWidth(FORMATS[rows[row].format](tick), 12))));
    const start = Math.ceil(widest) + 18;
    const [gap, end] = [24, 14];
    const most = Math.max(1, Math.min(columns.length, Math.floor((width - start - end + gap) / (LEAST_WIDTH + gap))));
    const count = Math.ceil(columns.length / Math.ceil(columns.length / most));  // no lone plot in the last line
    const wide = Math.min(MOST_WIDTH, (width - start - end - gap * (count - 1)) / count);
    // With a single place on the axis everything would stand on everything else.
    const step = new Set(xs).size > 1 ? 0 : 16 * Math.log(right / left) / wide;
    const place = (point, key) => Math.log(point.x) + step * (key - (figure.legend.length - 1) / 2);
    const legendHeight = (() => {
      let [lines, at] = [1, 0];
      for (const entry of figure.legend) {
        const item = textWidth(entry.name, 12.5) + 50;
        [lines, at] = at > 0 && at + item > width ? [lines + 1, item] : [lines, at + item];
      }
      return 22 * lines + 8;
    })();
    const high = rows.length === 1 ? 170 : 132;
    const [titleHeight, nameHeight, axisHeight] = [20, 20, 52];
    const block = titleHeight + rows.length * (nameHeight + high) + axisHeight;
    const lines = Math.ceil(columns.length / count);
    const xTicks = powers(left, right, Math.max(3, Math.floor(wide / (figure.x.format === "bytes" ? 62 : 34))));
    const xText = figure.x.format === "bytes" ? bytes : (value) => digits(value);
    const log = Math.log;
    const [grids, xAxes, yAxes, titles, series] = [[], [], [], [], []];
    const within_ = (value, scale) => within(value, scale.low, scale.high);
    const seen = {};
    const dashes = figure.legend.map((entry) => {
      seen[entry.substrate] = (seen[entry.substrate] ?? -1) + 1;
      return DASHES[seen[entry.substrate] % DASHES.length];
    });
    columns.forEach((column, at) => {
      const [across, down] = [at % count, Math.floor(at / count)];
      const x = start + across * (wide + gap);
      const top = legendHeight + down * block;
      titles.push({ text: column.title, left: count === 1 ? 2 : x, top, padding: 0, textStyle: { color: t.ink, fontSize: 13, fontWeight: 600, width: count === 1 ? width - 4 : wide, overflow: "truncate" } });
      rows.forEach((row, index) => {
        const grid = grids.length;
        const scale = scales[index];
        const y = top + titleHeight + index * (nameHeight + high) + nameHeight;
        const last = index === rows.length - 1;
        if (across === 0) titles.push({ text: row.name, left: x, top: y - 17, padding: 0, textStyle: { color: t.faint, fontSize: 12, fontWeight: "normal", width: width - x, overflow: "truncate" } });
        grids.push({ left: x, top: y, width: wide, height: high - 8, outerBoundsMode: "none" });
        const axis = logAxis(t, left, right, xTicks, xText, last ? figure.x.name : "");
        xAxes.push({ ...axis, gridIndex: grid, nameGap: 26, axisLabel: last ? axis.axisLabel : { show: false } });
        const side = logAxis(t, scale.low, scale.high, scale.ticks, FORMATS[row.format], "");
        yAxes.push({ ...side, gridIndex: grid, axisLine: { show: false }, axisTick: { show: false }, axisLabel: across === 0 ? side.axisLabel : { show: false } });
        const home = { xAxisIndex: grid, yAxisIndex: grid };
        const bold = row.format === "ratio" ? 1 : null;
        series.push({
          type: "line", data: [], silent: true, z: 1, ...home,
          markLine: { silent: true, z: 1, symbol: "none", animation: false, precision: 12, label: { show: false }, data: [
            ...scale.ticks.map((tick) => ({ yAxis: log(tick), lineStyle: { color: tick === bold ? t.faint : t.grid, type: "solid", width: 1 } })),
            ...(row.mark ? [{
              yAxis: log(row.mark), lineStyle: { color: t.fail, type: "solid", width: 1.5 },
              label: { show: across === 0, position: "insideStartTop", formatter: row.mark_text, color: t.fail, fontSize: 12 },
            }] : []),
          ] },
        });
        for (const entry of column.plots[index] ?? []) {
          const { name, substrate } = figure.legend[entry.key];
          const fill = paint(t, substrate);
          const data = entry.points.map((point) => [place(point, entry.key), log(within_(point.spread[0], scale))]);
          series.push({
            type: "line", name, ...home, data, symbol: SHAPES[substrate] ?? "circle", showSymbol: false, silent: true, z: 2, color: fill, itemStyle: { color: fill },
            lineStyle: { width: 1.75, color: fill, type: dashes[entry.key] }, emphasis: { disabled: true },
          });
          const draw = (params, api) => {
            const point = entry.points[params.dataIndex];
            const [px, py] = api.coord([place(point, entry.key), log(within_(point.spread[0], scale))]);
            const to = (value) => api.coord([0, log(within_(value, scale))])[1];
            const [, low, above] = point.spread;
            const children = [{ type: "rect", shape: { x: px - 10, y: py - 10, width: 20, height: 20 }, style: { fill: "transparent" } }];
            // An interval that the mark covers is not drawn.
            if (low !== null && above !== null && low > 0 && to(low) - to(above) > 9) {
              children.push(line(px, to(low), px, to(above), fill), line(px - 3, to(low), px + 3, to(low), fill), line(px - 3, to(above), px + 3, to(above), fill));
            }
            children.push(sign(substrate, px, py, t, dashes[entry.key] === "solid" ? 5 : 4));
            return { type: "group", children };
          };
          series.push({ type: "custom", ...home, renderItem: draw, data, clip: false, z: 10, points: entry.points });
        }
      });
    });
    const names = figure.legend.map((entry) => entry.name);
    return {
      height: legendHeight + lines * block - 6,
      option: {
        ...base(t), grid: grids, xAxis: xAxes, yAxis: yAxes, title: titles,
        legend: { ...legend(t, names), itemWidth: 28 },
        tooltip: tooltip(t, (params) => {
          const point = series[params.seriesIndex]?.points?.[params.dataIndex];
          return point ? tip(point.title, point.notes) : "";
        }),
        series,
      },
    };
  };

  return { panels };
};
