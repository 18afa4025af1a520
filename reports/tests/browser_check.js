// Opens a report in Chromium and prints, as one JSON object, what a test needs to judge it.
//
//   node browser_check.js PAGE.html [SCREENSHOT_FOLDER]      CHROMIUM names the browser (/usr/bin/chromium)
//
// Three views: desktop, phone, desktop in the dark; then print. In each: console messages, requests, and for each chart
// how many shapes it drew and which of its shapes and texts reach out of it.
"use strict";
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const { chromium } = require("playwright-core");

const VIEWS = [
  { name: "desktop", viewport: { width: 1280, height: 900 }, colorScheme: "light" },
  { name: "phone", viewport: { width: 390, height: 844 }, colorScheme: "light", isMobile: true, hasTouch: true, deviceScaleFactor: 2 },
  { name: "dark", viewport: { width: 1280, height: 900 }, colorScheme: "dark" },
];
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

// Runs in the page.
const inspect = () => {
  const luminance = (text) => (text.match(/\d+(\.\d+)?/g) ?? []).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 3;
  return {
    title: document.title,
    verdict: document.querySelector(".verdict .line")?.textContent.replace(/\s+/g, " ").trim() ?? "",
    background: luminance(getComputedStyle(document.body).backgroundColor),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    scripts: document.scripts.length,
    // Elements that the page itself never makes, and a global that only an attack of the tests would set.
    foreign: document.querySelectorAll("img, iframe, object, embed, link, main > svg, p svg, td svg, td script").length,
    attacked: "nestbench_was_here" in window,
    tables: [...document.querySelectorAll(".scroll")].map((element) => ({
      title: element.getAttribute("aria-label"), rows: element.querySelectorAll("tbody tr").length,
      folded: element.closest("details:not([open])") !== null,
    })),
    charts: [...document.querySelectorAll("[data-figure]")].map((element) => {
      const box = element.querySelector("svg")?.getBoundingClientRect();
      const shapes = [...element.querySelectorAll("svg path, svg circle, svg polygon, svg rect")]
        .filter((shape) => !["none", "transparent", null].includes(shape.getAttribute("fill")) || shape.getAttribute("stroke"));
      const outside = [...element.querySelectorAll("svg path, svg text")].filter((shape) => {
        const own = shape.getBoundingClientRect();
        return own.width > 0 && (own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1);
      }).map((shape) => shape.textContent || shape.getAttribute("d").slice(0, 60));
      return {
        outside, id: element.dataset.figure, width: box?.width ?? 0, height: box?.height ?? 0, shapes: shapes.length,
        texts: element.querySelectorAll("svg text").length,
        rows: element.parentElement.querySelectorAll("details tbody tr").length,
      };
    }),
  };
};

// Runs in the page: the middles of up to 12 filled shapes of a chart that are on the screen.
const marks = (element) => [...element.querySelectorAll("svg path, svg circle, svg polygon, svg rect")].reverse()
  .filter((shape) => !["none", null].includes(shape.getAttribute("fill")))
  .map((shape) => shape.getBoundingClientRect())
  .filter((box) => box.width > 3 && box.height > 3 && box.top > 0 && box.bottom < innerHeight)
  .slice(0, 12).map((box) => [box.left + box.width / 2, box.top + box.height / 2]);

const look = async (browser, view, url, folder) => {
  const { name, ...options } = view;
  const context = await browser.newContext({ ...options, offline: true });
  const page = await context.newPage();
  const seen = { name, console: [], errors: [], requests: [] };
  page.on("console", (message) => seen.console.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("request", (request) => seen.requests.push(request.url()));
  await page.goto(url, { waitUntil: "load" });
  await page.waitForFunction(() => document.documentElement.dataset.drawn !== undefined, null, { timeout: 15000 });
  Object.assign(seen, await page.evaluate(inspect));
  // The pointer goes to marks of each chart, the last drawn first, until one answers.
  seen.tooltips = {};
  for (const chart of await page.locator("[data-figure]").all()) {
    const id = await chart.getAttribute("data-figure");
    await chart.evaluate((element) => element.scrollIntoView({ block: "center", behavior: "instant" }));
    for (const [x, y] of await chart.evaluate(marks)) {
      await page.mouse.move(x, y);
      seen.tooltips[id] = await chart.evaluate((element) => element.querySelector(".tip")?.textContent ?? "");
      if (seen.tooltips[id]) break;
    }
  }
  if (folder) await page.screenshot({ path: path.join(folder, `${name}.png`), fullPage: true });
  if (name === "dark") {
    await page.emulateMedia({ media: "print" });
    seen.print = await page.evaluate(inspect);
  }
  await context.close();
  return seen;
};

(async () => {
  const [file, folder] = process.argv.slice(2);
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "nestbench-browser."));
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS, env: { ...process.env, HOME: profile },
  });
  try {
    const views = [];
    for (const view of VIEWS) views.push(await look(browser, view, pathToFileURL(path.resolve(file)).href, folder));
    process.stdout.write(JSON.stringify(views));
  } finally {
    await browser.close();
    fs.rmSync(profile, { recursive: true, force: true });
  }
})().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
