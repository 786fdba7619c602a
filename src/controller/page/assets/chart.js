// Drawings: lag over time, a short form of it, and how many tables are in which phase.

import { h, span, svg } from './dom.js';

const HEIGHT = 220;
const EDGE = { left: 64, right: 12, top: 14, bottom: 26 };
const SPANS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 2592000];

const step = (length, most) => SPANS.find((span) => length / span <= most) ?? Math.ceil(length / most);

// Times and lags within the last `range` seconds, broken where nobody knew or nobody looked.
function pieces(lags, from) {
  const all = lags.times.map((time, place) => ({ time, lag: lags.seconds[place] })).filter((point) => point.time >= from);
  const runs = [];
  let last = null;
  for (const point of all) {
    if (point.lag !== null) {
      if (!last || last.lag === null || point.time - last.time > 60) runs.push([]);
      runs.at(-1).push(point);
    }
    last = point;
  }
  return runs;
}

const line = (run, x, y) => run.map((point, place) => `${place ? 'L' : 'M'}${x(point.time).toFixed(1)} ${y(point.lag).toFixed(1)}`).join('');

// `at` is the time of the sample that somebody points to.
export function lagChart(lags, { now, range, width, at }) {
  const end = Math.floor(new Date(now) / 1000);
  const runs = pieces(lags, end - range);
  const points = runs.flat();
  const most = Math.max(10, ...points.map((point) => point.lag));
  const rise = step(most, 4);
  const top = Math.ceil(most / rise) * rise;
  const x = (time) => EDGE.left + ((time - end + range) / range) * (width - EDGE.left - EDGE.right);
  const y = (lag) => HEIGHT - EDGE.bottom - (lag / top) * (HEIGHT - EDGE.top - EDGE.bottom);

  const rows = [];
  for (let lag = 0; lag <= top; lag += rise) {
    rows.push(
      svg('line', { class: 'grid', x1: EDGE.left, x2: width - EDGE.right, y1: y(lag), y2: y(lag) }),
      svg('text', { x: EDGE.left - 8, y: y(lag) + 4, 'text-anchor': 'end' }, lag ? span(lag) : '0'),
    );
  }
  const columns = [];
  const run = step(range, Math.max(2, Math.min(6, Math.floor(width / 120))));
  const zone = new Date(end * 1000).getTimezoneOffset() * 60;
  for (let time = Math.ceil((end - range - zone) / run) * run + zone; time <= end; time += run) {
    const text = new Date(time * 1000).toLocaleTimeString('sv', { hour: '2-digit', minute: '2-digit' });
    columns.push(svg('text', { x: Math.min(x(time), width - 22), y: HEIGHT - 8, 'text-anchor': 'middle' }, text));
  }
  const areas = runs.map((run) => svg('path', { class: 'area', d: `${line(run, x, y)}V${y(0)}H${x(run[0].time).toFixed(1)}Z` }));
  const lines = runs.map((run) => svg('path', { class: 'line', d: line(run, x, y) }));
  const dots = runs.filter((run) => run.length === 1).map(([dot]) => svg('circle', { class: 'dot', cx: x(dot.time), cy: y(dot.lag), r: 2.5 }));
  const pointed = points.find((point) => point.time === at);
  const cursor = pointed && [
    svg('line', { class: 'cursor', x1: x(at), x2: x(at), y1: EDGE.top, y2: y(0) }),
    svg('circle', { class: 'dot', cx: x(at), cy: y(pointed.lag), r: 4 }),
  ];
  const drawing = svg(
    'svg',
    {
      class: 'chart', id: 'lag', role: 'img', tabindex: 0, viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT,
      'data-points': points.length, 'aria-label': `Lag over the last ${span(range)}. ${summary(points)}`,
    },
    rows, columns, areas, lines, dots, cursor,
  );
  const said = pointed ? `${new Date(at * 1000).toLocaleTimeString('sv')}: ${span(pointed.lag)}` : summary(points);
  return [drawing, h('p', { class: 'quiet', 'aria-live': pointed ? 'polite' : 'off' }, said)];
}

function summary(points) {
  if (!points.length) return 'No samples yet: one is taken every 15 seconds.';
  const lags = points.map((point) => point.lag).sort((a, b) => a - b);
  const half = lags[Math.floor(lags.length / 2)];
  return `Smallest ${span(lags[0])}, half of the time at most ${span(half)}, largest ${span(lags.at(-1))}; ${lags.length} samples.`;
}

// The time of the sample next to a place of the drawing, or beside the one that is pointed to.
export function pointedTo(lags, { now, range, width, place, at, by }) {
  const end = Math.floor(new Date(now) / 1000);
  const times = pieces(lags, end - range).flat().map((point) => point.time);
  if (!times.length) return null;
  if (by) {
    const from = times.indexOf(at);
    return times[from < 0 ? times.length - 1 : Math.max(0, Math.min(times.length - 1, from + by))];
  }
  const wanted = end - range + ((place - EDGE.left) / (width - EDGE.left - EDGE.right)) * range;
  return times.reduce((best, time) => (Math.abs(time - wanted) < Math.abs(best - wanted) ? time : best));
}

// The last minutes, without a scale.
export function sparkline(lags) {
  const [width, height] = [84, 22];
  const known = lags.seconds.filter((lag) => lag !== null);
  if (known.length < 2) return svg('svg', { class: 'spark', viewBox: `0 0 ${width} ${height}`, 'aria-hidden': true });
  const [begin, end] = [lags.times[0], lags.times.at(-1)];
  const top = Math.max(10, ...known);
  const x = (time) => 1 + ((time - begin) / Math.max(1, end - begin)) * (width - 2);
  const y = (lag) => height - 2 - (lag / top) * (height - 4);
  const paths = pieces(lags, begin).map((run) => svg('path', { class: 'line', d: line(run, x, y) }));
  return svg('svg', { class: 'spark', viewBox: `0 0 ${width} ${height}`, 'aria-hidden': true }, paths);
}

// Shares of a whole, the best first.
export function phaseBar(byPhase, total) {
  const [width, height] = [84, 6];
  let from = 0;
  const parts = ['Replicating', 'Snapshotting', 'Waiting', 'Suspended', 'Failed'].filter((phase) => byPhase[phase]);
  const bars = parts.map((phase) => {
    const share = (byPhase[phase] / Math.max(1, total)) * width;
    const bar = svg('rect', { class: `phase-${phase}`, x: from, width: Math.max(1.5, share), height });
    from += share;
    return bar;
  });
  return svg('svg', { class: 'bar', viewBox: `0 0 ${width} ${height}`, 'aria-hidden': true }, bars);
}
