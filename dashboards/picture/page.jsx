// The page that draw.mjs takes a screenshot of. Charts, single values and frames are
// Grafana's components. Tables and heatmaps are drawn here, because @grafana/ui does
// not export them in a form that works on its own.
import { createRoot } from 'react-dom/client';
import { createTheme, dateTime, getDisplayProcessor, FieldType, ThemeContext, toDataFrame } from '@grafana/data';
import { BigValue, PanelChrome, TimeSeries } from '@grafana/ui';

const { dashboard, from, to, variables } = window.data;
const theme = createTheme({ colors: { mode: 'dark' } });
const timeRange = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };
const unit = 38; // the height of a grid row, with its gap
const gap = 8;

// legend fills in {{label}}.
const legend = (format, labels) => format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, l) => labels[l] ?? '');

// configure sets the options of a field: the defaults of the panel, and the overrides
// for its name.
function configure(panel, field, name, index) {
  const config = structuredClone(panel.fieldConfig.defaults);
  config.displayName = name;
  for (const o of panel.fieldConfig.overrides) {
    const hit = o.matcher.id === 'byName' ? o.matcher.options === name : new RegExp(o.matcher.options.slice(1, -1)).test(name);
    for (const p of hit ? o.properties : []) {
      if (p.id.startsWith('custom.')) config.custom[p.id.slice(7)] = p.value;
      else config[p.id] = p.value;
    }
  }
  const t = config.thresholds;
  if (t) t.steps = t.steps.map((s) => ({ ...s, value: s.value ?? -Infinity }));
  field.config = config;
  field.state = { displayName: name, seriesIndex: index };
  field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
  return field;
}

const number = (v) => (Number.isNaN(v) ? null : v);

// Exemplars and annotations are not drawn.
function Chart({ panel, width, height }) {
  let index = 0;
  const frames = panel.targets.flatMap((target) =>
    target.result.map((s) => {
      const frame = toDataFrame({
        refId: target.refId,
        fields: [
          { name: 'Time', type: FieldType.time, values: s.values.map((v) => v[0]) },
          { name: 'Value', type: FieldType.number, labels: s.labels, values: s.values.map((v) => number(v[1])) },
        ],
      });
      frame.fields[0].config.interval = 5000;
      frame.fields[0].display = getDisplayProcessor({ field: frame.fields[0], theme, timeZone: 'utc' });
      configure(panel, frame.fields[1], legend(target.legendFormat, s.labels), index++);
      return frame;
    }));
  if (frames.length === 0) return <p style={{ textAlign: 'center' }}>{panel.fieldConfig.defaults.noValue ?? 'No data'}</p>;
  return (
    <TimeSeries frames={frames} timeRange={timeRange} timeZone="utc" width={width} height={height} theme={theme}
      legend={{ ...panel.options.legend, calcs: [] }} options={panel.options} />
  );
}

function Stat({ panel, width, height }) {
  const value = panel.targets[0].result[0]?.values[0][1];
  const field = configure(panel, { name: 'Value', type: FieldType.number, values: [value], config: {} }, panel.title, 0);
  const shown = value === undefined ? { text: field.config.noValue, numeric: NaN } : field.display(value);
  return <BigValue theme={theme} width={width} height={height} value={{ ...shown, title: '' }}
    colorMode={panel.options.colorMode} graphMode="none" justifyMode={panel.options.justifyMode} textMode="value" />;
}

function Table({ panel }) {
  const columns = panel.targets.map((t) => {
    const name = panel.transformations[1].options.renameByName['Value #' + t.refId];
    return configure(panel, { name, type: FieldType.number, values: [], config: {} }, name, 0);
  });
  // What is no value is a key of the rows.
  const names = panel.transformations[1].options.renameByName;
  const keys = Object.keys(names).filter((n) => !n.startsWith('Value #')).sort((a, b) => panel.transformations[1].options.indexByName[a] - panel.transformations[1].options.indexByName[b]);
  const lines = new Map();
  panel.targets.forEach((t, i) => t.result.forEach((s) => {
    const key = JSON.stringify(keys.map((k) => s.labels[k] ?? ''));
    if (!lines.has(key)) lines.set(key, []);
    lines.get(key)[i] = s.values[0][1];
  }));
  const cell = { padding: '5px 8px', borderBottom: `1px solid ${theme.colors.border.weak}`, textAlign: 'right' };
  return (
    <table style={{ width: '100%', borderCollapse: 'collapse', fontSize: 13 }}>
      <thead><tr>{keys.map((n) => <th key={n} style={{ ...cell, textAlign: 'left' }}>{n}</th>)}
        {columns.map((c) => <th key={c.name} style={cell}>{c.name}</th>)}</tr></thead>
      <tbody>{[...lines.keys()].sort().map((key) => (
        <tr key={key}>{JSON.parse(key).map((l, i) => <td key={i} style={{ ...cell, textAlign: 'left' }}>{l}</td>)}
          {columns.map((c, i) => {
            const v = lines.get(key)[i];
            const d = v === undefined ? { text: '-' } : c.display(v);
            const colored = c.config['custom.cellOptions'] ?? c.config.custom?.cellOptions;
            return <td key={i} style={{ ...cell, color: colored ? d.color : undefined }}>{(d.prefix ?? '') + d.text + (d.suffix ?? '')}</td>;
          })}</tr>))}
      </tbody>
    </table>
  );
}

function Heatmap({ panel, width, height }) {
  const series = panel.targets[0].result
    .map((s) => ({ le: Number(s.labels.le.replace('+Inf', 'Infinity')), values: new Map(s.values) }))
    .sort((a, b) => a.le - b.le);
  const times = [...new Set(series.flatMap((s) => [...s.values.keys()]))].sort((a, b) => a - b);
  const rows = series.map((s, i) => ({ le: s.le, values: times.map((t) => (s.values.get(t) ?? 0) - (i ? series[i - 1].values.get(t) ?? 0 : 0)) }));
  const used = rows.map((r) => r.values.some((v) => v > 1e-9));
  const shown = rows.slice(Math.max(0, used.indexOf(true) - 1), used.lastIndexOf(true) + 2);
  const most = Math.max(...shown.flatMap((r) => r.values));
  const display = getDisplayProcessor({ field: { type: FieldType.number, config: { unit: panel.fieldConfig.defaults.unit } }, theme });
  const left = 60, h = (height - 20) / shown.length, w = (width - left) / times.length;
  const text = { fill: theme.colors.text.secondary, fontSize: 11 };
  return (
    <svg width={width} height={height}>
      {shown.map((r, y) => r.values.map((v, x) => v > 1e-9 && (
        <rect key={`${x} ${y}`} x={left + x * w} y={(shown.length - 1 - y) * h} width={w} height={h - 1}
          fill={theme.visualization.getColorByName('blue')} opacity={0.15 + 0.85 * Math.sqrt(v / most)} />)))}
      {shown.map((r, y) => y % Math.ceil(shown.length / 8) === 0 && (
        <text key={y} x={left - 6} y={(shown.length - 1 - y) * h + 4} textAnchor="end" {...text}>
          {r.le === Infinity ? '+Inf' : (({ text, suffix }) => text + (suffix ?? ''))(display(r.le))}</text>))}
      {[0.2, 0.4, 0.6, 0.8].map((f) => (
        <text key={f} x={left + f * (width - left)} y={height - 4} textAnchor="middle" {...text}>
          {new Date(from + f * (to - from)).toISOString().slice(11, 19)}</text>))}
    </svg>
  );
}

const Elsewhere = () => <p style={{ textAlign: 'center' }}>A node graph is not drawn here.</p>;

const kinds = { timeseries: Chart, stat: Stat, table: Table, heatmap: Heatmap, nodeGraph: Elsewhere };

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const column = (1440 - gap) / 24;
  const place = { position: 'absolute', left: gap + x * column, top: 56 + y * unit };
  const width = w * column - gap, height = h * unit - gap;
  if (panel.type === 'row') return <div style={{ ...place, fontWeight: 500, paddingTop: 6 }}>{panel.title}</div>;
  const Kind = kinds[panel.type];
  return (
    <div style={place}>
      <PanelChrome title={panel.title} width={width} height={height}>
        {(innerWidth, innerHeight) => <Kind panel={panel} width={innerWidth} height={innerHeight} />}
      </PanelChrome>
    </div>
  );
}

const chosen = Object.entries(variables).map(([k, v]) => `${k} ${v}`).join(', ');
const style = document.createElement('style');
// Grafana measures texts in Inter. Where there is none, the font that is drawn instead
// takes its name, or texts would be wider than measured.
style.textContent = `@font-face { font-family: Inter; font-weight: 100 900; src: local("Inter"), local("DejaVu Sans"), local("Arial") } * { box-sizing: border-box } body { margin: 0; background: ${theme.colors.background.canvas}; color: ${theme.colors.text.primary};
  font: 14px Inter, "DejaVu Sans", sans-serif } h2, h6 { font-size: 14px; font-weight: 500; margin: 0 } button { all: unset }
  ul { list-style: none; margin: 0; padding: 0 } .uplot { position: relative } .u-wrap { position: relative; user-select: none }
  .u-over, .u-under { position: absolute } .uplot canvas { display: block; width: 100%; height: 100%; position: relative }
  .u-legend, .u-select, .u-cursor-x, .u-cursor-y, .u-cursor-pt { display: none }`;
document.head.append(style);
document.fonts.load('16px Inter').then(() => createRoot(document.getElementById('root')).render(
  <ThemeContext.Provider value={theme}>
    <h1 style={{ fontSize: 20, fontWeight: 500, margin: '14px 12px' }}>{dashboard.title}{chosen && <small style={{ fontSize: 13, marginLeft: 16 }}>{chosen}</small>}</h1>
    {dashboard.panels.map((p) => <Panel key={p.id} panel={p} />)}
  </ThemeContext.Provider>,
));
