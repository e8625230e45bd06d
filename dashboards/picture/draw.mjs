// Draws a dashboard of ../grafana as a PNG from the data of a running
// Prometheus. See README.md.
//
//   node draw.mjs ../grafana/overview.json http://localhost:9090 overview.png
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const [file, prometheus, out] = process.argv.slice(2);
if (!out) {
  console.error('usage: node draw.mjs <dashboard.json> <address of Prometheus> <out.png>');
  process.exit(2);
}
const minutes = Number(process.env.MINUTES ?? 5);
const variables = JSON.parse(process.env.VARIABLES ?? '{}'); // {"topic": "orders.created"}
const scrape = Number(process.env.SCRAPE_SECONDS ?? 5);

const dashboard = JSON.parse(readFileSync(file, 'utf8'));
const to = Math.floor(Date.now() / 1000);
const from = to - minutes * 60;

// The values of the variables, as Grafana fills them in: all values unless one was
// chosen, which is escaped for a regular expression inside a string.
const values = { __rate_interval: `${4 * scrape}s`, __range: `${minutes}m` };
for (const v of dashboard.templating.list) {
  const chosen = variables[v.name];
  if (v.type === 'interval') values[v.name] = `${scrape}s`;
  else if (v.type === 'custom') values[v.name] = chosen ?? v.current.value;
  else if (v.name === 'queue') values[v.name] = chosen ?? v.allValue; // as it is
  else values[v.name] = chosen?.replace(/[.*+?^${}()|[\]\\]/g, '\\\\$&') ?? v.allValue;
}
const fill = (text) => text.replace(/\$\{?(\w+)(?::[a-z]+)?\}?/g, (whole, name) => values[name] ?? whole);

async function ask(path, params) {
  const answer = await (await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams(params)}`)).json();
  if (answer.status !== 'success') throw new Error(`${params.query}: ${answer.error}`);
  return answer.data.result;
}

for (const panel of dashboard.panels) {
  for (const target of panel.targets ?? []) {
    const query = fill(target.expr);
    const result = target.instant
      ? (await ask('query', { query, time: to })).map((s) => ({ labels: s.metric, values: [s.value] }))
      : (await ask('query_range', { query, start: from, end: to, step: scrape })).map((s) => ({ labels: s.metric, values: s.values }));
    target.result = result.map((s) => ({ labels: s.labels, values: s.values.map(([t, v]) => [t * 1000, Number(v)]) }));
  }
}

const here = dirname(fileURLToPath(import.meta.url));
const bundle = await build({
  entryPoints: [join(here, 'page.jsx')],
  bundle: true,
  write: false,
  outdir: 'out',
  format: 'iife',
  jsx: 'automatic',
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  loader: { '.svg': 'text', '.ttf': 'dataurl', '.woff': 'dataurl', '.woff2': 'dataurl', '.png': 'dataurl' },
  logLevel: 'error',
});
const code = bundle.outputFiles.find((f) => f.path.endsWith('.js')).text;
const data = { dashboard, from: from * 1000, to: to * 1000, variables };
const height = Math.max(...dashboard.panels.map((p) => p.gridPos.y + p.gridPos.h)) * 38 + 70;
const dir = mkdtempSync(join(tmpdir(), 'picture-'));
try {
  const script = (text) => `<script>${text.replaceAll('</script', '<\\/script')}</script>`;
  writeFileSync(join(dir, 'page.html'),
    `<!doctype html><meta charset="utf-8"><body><div id="root"></div>${script('window.data = ' + JSON.stringify(data))}${script(code)}`);
  execFileSync(process.env.CHROMIUM ?? 'chromium', ['--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
    `--window-size=1440,${height}`, '--virtual-time-budget=10000', `--screenshot=${resolve(out)}`, `file://${dir}/page.html`],
    { stdio: process.env.DEBUG ? 'inherit' : 'ignore' });
} finally {
  if (!process.env.DEBUG) rmSync(dir, { recursive: true });
}
