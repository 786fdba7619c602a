// The page: where it is, what it asks for, and when. It only reads.

import { pointedTo } from './chart.js';
import { clock, h, morph } from './dom.js';
import { linksView, linkView } from './views.js';

const EVERY = 5000;
const PATIENCE = 10000;
const COUNT = 100;

const main = document.getElementById('main');
const asked = () => ({ search: '', phase: '', problems: false, sort: 'problem', descending: false, offset: 0 });

const state = { route: null, links: asked(), tables: asked(), table: null, range: 3600, at: null, data: null };
let turn = 0;
let timer;

const inner = () => Math.max(320, Math.min(1280, document.documentElement.clientWidth) - 82);
const ask = () => (state.route.length ? state.tables : state.links);

function query(ask) {
  return new URLSearchParams({ ...ask, limit: COUNT }).toString();
}

async function read(path) {
  const answer = await fetch(path, { headers: { accept: 'application/json' }, signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw Object.assign(new Error((await answer.text()).trim() || `HTTP ${answer.status}`), { gone: answer.status === 404 });
  return answer.json();
}

// What is on view, of the server. All of one link is asked for at once.
async function load() {
  if (!state.route.length) return { links: await read(`api/links?${query(state.links)}`) };
  const path = `api/links/${state.route.map(encodeURIComponent).join('/')}`;
  const [link, tables, table] = await Promise.all([
    read(path),
    read(`${path}/tables?${query(state.tables)}`),
    state.table ? read(`${path}/tables/${encodeURIComponent(state.table)}`).catch(() => null) : null,
  ]);
  return { link, tables, table };
}

async function refresh() {
  clearTimeout(timer);
  turn += 1;
  const mine = turn;
  let fault = '';
  try {
    const data = await load();
    // Somebody went elsewhere meanwhile.
    if (mine !== turn) return;
    state.data = data;
    show();
  } catch (error) {
    if (mine !== turn) return;
    fault = `The controller does not answer: ${error.message}. What you see may be old; it is asked again.`;
    if (error.gone) {
      fault = `There is no such link: ${error.message}.`;
      state.data = null;
    }
    if (!state.data) main.replaceChildren();
  }
  const line = document.getElementById('fault');
  line.hidden = !fault;
  if (line.textContent !== fault) line.textContent = fault;
  if (!document.hidden) timer = setTimeout(refresh, EVERY);
}

function show() {
  const { links, link, tables, table } = state.data;
  const told = links ?? link;
  const shown = { range: state.range, width: inner(), at: state.at };
  const next = links ? linksView(links, state.links) : linkView(link, tables, table, state.tables, shown);
  const before = main.firstElementChild;
  document.title = links ? 'Link connections' : `${link.name} · Link connections`;
  if (before?.dataset.key === next.dataset.key) {
    morph(before, next);
  } else {
    main.replaceChildren(next);
    document.getElementById('search').value = ask().search;
    // After a step to another view, that is where the reader is.
    if (before?.dataset.key) next.querySelector('h1').focus({ preventScroll: true });
  }
  const who = told.replica ? `${told.replica}${told.leads ? ', leads' : ', waits for the Lease'}` : '';
  morph(document.getElementById('told'), h('p', { id: 'told' }, `As of ${clock(told.now)}`, who && ` · ${who}`, ` · ${told.version}`));
}

function go() {
  state.route = location.hash.replace(/^#\/?/, '').split('/').filter(Boolean).map(decodeURIComponent).slice(0, 2);
  if (state.route.length === 1) state.route = [];
  Object.assign(state, { tables: asked(), table: null, at: null, data: null });
  scrollTo(0, 0);
  refresh();
}

// Something else is asked for, from its beginning.
function change(change) {
  Object.assign(ask(), { offset: 0 }, change);
  refresh();
}

const actions = {
  sort: (sort) => change({ sort, descending: sort === ask().sort && !ask().descending }),
  turn: (by) => change({ offset: Math.max(0, ask().offset + Number(by) * COUNT) }),
  table: (name) => {
    state.table = state.table === name ? null : name;
    refresh();
  },
  range: (range) => {
    Object.assign(state, { range: Number(range), at: null });
    show();
  },
};

document.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  for (const [name, value] of Object.entries(button?.dataset ?? {})) actions[name]?.(value);
});

let typed;
document.addEventListener('input', (event) => {
  const { id, value, checked } = event.target;
  if (id === 'phase') change({ phase: value });
  if (id === 'problems') change({ problems: checked });
  if (id !== 'search') return;
  clearTimeout(typed);
  typed = setTimeout(() => change({ search: value }), 200);
});
document.addEventListener('submit', (event) => event.preventDefault());

function point(change) {
  const at = pointedTo(state.data.link.lags, { now: state.data.link.now, range: state.range, width: inner(), at: state.at, ...change });
  if (at === state.at) return;
  state.at = at;
  show();
}

document.addEventListener('pointermove', (event) => {
  const chart = event.target.closest?.('#lag');
  if (!state.data?.link || !(chart || state.at)) return;
  if (chart) {
    const box = chart.getBoundingClientRect();
    point({ place: ((event.clientX - box.left) / box.width) * inner() });
  } else if (document.activeElement?.id !== 'lag') {
    state.at = null;
    show();
  }
});
document.addEventListener('keydown', (event) => {
  if (event.target.id !== 'lag' || !['ArrowLeft', 'ArrowRight'].includes(event.key)) return;
  event.preventDefault();
  point({ by: event.key === 'ArrowLeft' ? -1 : 1 });
});

addEventListener('hashchange', go);
addEventListener('resize', () => state.data && show());
document.addEventListener('visibilitychange', () => (document.hidden ? clearTimeout(timer) : refresh()));
go();
