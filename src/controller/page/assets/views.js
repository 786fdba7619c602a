// What is shown: of all links a table, of one link everything. From data to elements, and nothing else.

import { lagChart, phaseBar, sparkline } from './chart.js';
import { bytes, clock, count, h, span, when } from './dom.js';

const LINK_PHASES = ['Initial', 'Starting', 'Running', 'Pausing', 'Paused', 'Resuming', 'Stopping', 'Stopped'];
const TABLE_PHASES = ['Waiting', 'Snapshotting', 'Replicating', 'Suspended', 'Failed'];
const RANGES = [[900, '15 min'], [3600, '1 h'], [21600, '6 h']];

const pill = (text, kind) => h('span', { class: `pill ${kind}` }, text);
const link = (row) => `#/${encodeURIComponent(row.namespace)}/${encodeURIComponent(row.name)}`;

// A link's state by its colour: one that rests as it should is neither good nor bad.
function kindOf(row) {
  if (row.state === 'Ready' && row.phase !== 'Running') return 'rest';
  return row.state.toLowerCase();
}

const phases = (row) => TABLE_PHASES.filter((phase) => row.tablesByPhase[phase]).map((phase) => `${count(row.tablesByPhase[phase])} ${phase}`).join(', ');

function progress(loaded, words = '') {
  if (!loaded) return '';
  const text = loaded.percent === null ? `${count(loaded.rowsDone)} rows` : `${loaded.percent} %`;
  return h('span', { class: 'progress' }, h('progress', { max: 100, value: loaded.percent, 'aria-label': `Snapshot ${words}` }), text);
}

function header(columns, ask) {
  const cells = columns.map(([name, sort, kind]) => {
    if (!sort) return h('th', { scope: 'col', class: kind }, name);
    const by = ask.sort === sort;
    const direction = by && (ask.descending ? 'descending' : 'ascending');
    const arrow = by ? h('span', { 'aria-hidden': true }, ask.descending ? '↓' : '↑') : '';
    return h('th', { scope: 'col', class: kind, 'aria-sort': direction }, h('button', { type: 'button', 'data-sort': sort }, name, arrow));
  });
  return h('thead', {}, h('tr', {}, cells));
}

function filters(ask, phases, what) {
  const options = ['', ...phases].map((phase) => h('option', { value: phase, selected: ask.phase === phase }, phase || 'All'));
  return h(
    'form', { class: 'filters', role: 'search' },
    h('label', {}, h('span', {}, 'Filter'), h('input', { type: 'search', id: 'search', placeholder: `Find ${what} by name`, autocomplete: 'off', spellcheck: 'false' })),
    h('label', {}, h('span', {}, 'Status'), h('select', { id: 'phase' }, options)),
    h('label', { class: 'check' }, h('input', { type: 'checkbox', id: 'problems', checked: ask.problems }), 'Only with problems'),
    ask.sort !== 'problem' && h('button', { type: 'button', 'data-sort': 'problem' }, 'Problems first'),
  );
}

function pages(found, ask, what) {
  const last = ask.offset + found.items.length;
  const filtered = found.matching === found.total ? '' : ` (${count(found.total)} in all)`;
  const text = found.matching ? `${count(ask.offset + 1)}–${count(last)} of ${count(found.matching)} ${what}${filtered}` : `No ${what}${filtered}`;
  const more = found.matching > found.items.length;
  return h(
    'nav', { class: 'pages', 'aria-label': `Pages of ${what}` },
    h('p', { class: 'quiet', role: 'status' }, text),
    more && h('button', { type: 'button', 'data-turn': -1, disabled: ask.offset === 0 }, 'Previous'),
    more && h('button', { type: 'button', 'data-turn': 1, disabled: last >= found.matching }, 'Next'),
  );
}

// All links.
export function linksView(data, ask) {
  const states = [['Ready', 'ready'], ['Reconciling', 'reconciling'], ['Stalled', 'stalled']];
  const columns = [
    ['Link connection', 'name'], ['Status', 'phase'], ['Link tables', 'tables', 'number'], ['Lag', 'lag', 'number'],
    ['Source and target'], ['Core count', 'coreCount', 'number'], ['Started', 'startTime'],
  ];
  return h(
    'section', { 'data-key': 'links' },
    h('h1', { tabindex: -1 }, 'Link connections'),
    h('p', { class: 'states' }, states.map(([state, kind]) => pill(`${count(data.states[state])} ${state}`, data.states[state] ? kind : 'rest'))),
    filters(ask, LINK_PHASES, 'link connections'),
    h('div', { class: 'card scroll' },
      h('table', { id: 'links' }, h('caption', {}, 'Link connections'), header(columns, ask), h('tbody', {}, data.items.map((row) => linkRow(row, data.now))))),
    pages(data, ask, 'link connections'),
  );
}

function linkRow(row, now) {
  const kind = { Stalled: 'wrong', Reconciling: 'working' }[row.state];
  return h(
    'tr', { 'data-key': `${row.namespace}/${row.name}` },
    h('th', { scope: 'row' }, h('a', { href: link(row) }, row.name), h('small', {}, row.namespace)),
    h('td', {}, pill(row.phase, kindOf(row)), h('small', { class: kind, title: row.message }, row.reason || 'not seen yet')),
    h('td', { class: 'number', title: phases(row) }, `${count(row.tablesByPhase.Replicating ?? 0)} / ${count(row.tables)}`, phaseBar(row.tablesByPhase, row.tables),
      row.loading && h('small', {}, `Snapshot ${row.loading.percent ?? '?'} %`)),
    h('td', { class: 'number', title: row.consistentAsOf && `up to ${clock(row.consistentAsOf)}` }, span(row.lagSeconds), sparkline(row.recent)),
    h('td', { class: 'wide' }, row.source, h('small', {}, row.target && `→ ${row.target}`)),
    h('td', { class: 'number' }, count(row.coreCount)),
    h('td', {}, when(row.startTime, now)),
  );
}

function problemOf(problem, now) {
  return h(
    'article', { class: 'problem' },
    h('h3', {}, problem.condition && problem.condition !== 'Ready' ? `${problem.condition}: ${problem.reason}` : problem.reason),
    h('p', { class: 'message' }, problem.message),
    problem.remedy && h('p', { class: 'remedy' }, h('strong', {}, 'What to do: '), problem.remedy),
    h('p', { class: 'quiet' },
      problem.runbook && h('a', { href: problem.runbook, rel: 'noreferrer', target: '_blank' }, 'Runbook'),
      problem.since && h('span', {}, 'since ', when(problem.since, now))),
  );
}

function facts(data) {
  const now = data.now;
  const at = data.position ?? {};
  const kept = data.retainedLogBytes !== null && `${bytes(data.retainedLogBytes)} for this link`;
  const all = [
    ['Source', data.source], ['Target', data.target], ['Landing zone', data.landingZone],
    ['Core count', data.coreCount !== null && `${count(data.coreCount)}${data.workers ? `, ${data.workers.ready} of ${data.workers.desired} workers ready` : ''}`],
    ['Mode', data.batchMinutes ? `batch, every ${span(60 * data.batchMinutes)}` : 'continuous'],
    ['Next batch', when(data.nextBatchTime, now)],
    ['Started', when(data.startTime, now)], ['Stopped', data.phase === 'Running' ? '' : when(data.stopTime, now)],
    ['Up to', when(data.consistentAsOf, now)],
    ['Transactional consistency', data.transactionalConsistency && 'across tables'],
    ['Source\u2019s log', kept], ['Resume before', data.resumeBefore && clock(data.resumeBefore)],
    ['Applied', at.applied?.value], ['Captured', at.captured?.value], ['Source head', at.sourceHead],
    ['Tables that cannot be linked', count(data.ineligibleTables || null)],
  ];
  return h('dl', { class: 'card facts' }, all.filter(([, value]) => value).map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
}

function loading(data) {
  const loaded = data.loading;
  if (!loaded) return '';
  const rows = loaded.rowsEstimated ? `${count(loaded.rowsDone)} of about ${count(loaded.rowsEstimated)} rows` : `${count(loaded.rowsDone)} rows`;
  const end = loaded.estimatedCompletion;
  const parts = [`${count(loaded.tables)} ${loaded.tables === 1 ? 'table' : 'tables'}`, rows, bytes(loaded.bytesDone)];
  return h(
    'section', { class: 'card', id: 'snapshot' },
    h('h2', {}, 'Snapshot'), progress(loaded, 'of this link'),
    h('p', { class: 'quiet' }, parts.join(' · '), end && [' · expected to end ', when(end, data.now)]),
  );
}

// One link. `shown` is what of it is on view.
export function linkView(data, tables, opened, ask, shown) {
  const ranges = RANGES.map(([range, name]) => h('button', { type: 'button', 'data-range': range, 'aria-pressed': String(range === shown.range) }, name));
  const wrong = data.state === 'Ready' ? '' : h(
    'article', { class: data.state === 'Stalled' ? 'problem' : 'problem working' }, h('h3', {}, data.reason || 'Not seen yet'), h('p', { class: 'message' }, data.message),
    data.runbook && h('p', { class: 'quiet' }, h('a', { href: data.runbook, rel: 'noreferrer', target: '_blank' }, 'Runbook')),
  );
  // What the headline says already is not said twice.
  const others = data.problems.filter((problem) => problem.reason !== data.reason);
  const columns = [
    ['Link table', 'name'], ['Status', 'phase'], ['Snapshot', 'loaded'], ['Rows', 'rows', 'number'], ['Lag', 'lag', 'number'],
    ['Last processed', 'processed'], ['Error'],
  ];
  return h(
    'section', { 'data-key': `${data.namespace}/${data.name}` },
    h('nav', { class: 'quiet', 'aria-label': 'Breadcrumb' }, h('a', { href: '#/' }, 'Link connections'), ` / ${data.namespace}`),
    h('h1', { tabindex: -1 }, data.name, pill(data.phase, kindOf(data)), data.phase !== data.asked && h('small', {}, `asked for: ${data.asked}`)),
    h('div', { id: 'link-problems' }, wrong, others.map((problem) => problemOf(problem, data.now))),
    facts(data),
    h('section', { class: 'card' },
      h('div', { class: 'title' }, h('h2', {}, 'Lag'), h('strong', { id: 'lag-now' }, span(data.lagSeconds) || 'not known yet'),
        h('div', { class: 'ranges', role: 'group', 'aria-label': 'Time' }, ranges)),
      lagChart(data.lags, { now: data.now, ...shown }),
      h('p', { class: 'quiet' }, 'The age of what the target holds for certain. While nobody writes to the source it is told once a minute.')),
    loading(data),
    h('h2', {}, 'Link tables'),
    h('p', { class: 'quiet' }, phases(data)),
    filters(ask, TABLE_PHASES, 'link tables'),
    h('div', { class: 'card scroll' },
      h('table', { id: 'tables' }, h('caption', {}, 'Link tables'), header(columns, ask),
        h('tbody', {}, tables.items.map((row) => tableRow(row, data.now, opened))))),
    pages(tables, ask, 'link tables'),
  );
}

const TABLE_KINDS = { Replicating: 'ready', Snapshotting: 'loading', Waiting: 'rest', Suspended: 'reconciling', Failed: 'stalled' };

function tableRow(row, now, opened) {
  const open = opened?.name === row.name;
  const stands = !row.problem && row.phase === 'Waiting' && row.reason;
  return [
    h(
      'tr', { 'data-key': row.name },
      h('th', { scope: 'row' }, h('button', { type: 'button', class: 'row', 'data-table': row.name, 'aria-expanded': String(open) }, row.source),
        row.target !== row.source && h('small', {}, `→ ${row.target}`)),
      h('td', {}, pill(row.phase, TABLE_KINDS[row.phase])),
      h('td', {}, progress(row.loaded, row.source)),
      h('td', { class: 'number' }, count(row.rows)),
      h('td', { class: 'number', title: row.asOf && `up to ${clock(row.asOf)}` }, span(row.lagSeconds)),
      h('td', {}, when(row.lastProcessedTime, now)),
      h('td', { class: 'wide' }, row.problem ? h('span', { class: 'wrong' }, row.problem.reason) : stands || '',
        row.problem && h('small', { class: 'cut' }, row.problem.message)),
    ),
    open && h('tr', { class: 'more', 'data-key': `${row.name} more` }, h('td', { colspan: 7 }, tableMore(opened, now))),
  ];
}

function tableMore(table, now) {
  const [result, compared, sentence] = table.verification ?? [];
  const loaded = table.loaded;
  const rows = loaded && `${count(loaded.rowsDone)}${loaded.rowsEstimated ? ` of about ${count(loaded.rowsEstimated)}` : ''} rows, ${bytes(loaded.bytesDone)}`;
  const all = [
    ['LinkTable', table.name], ['Target', table.target], ['Position', table.position], ['Written', bytes(table.bytes)],
    ['Snapshot', rows], ['Expected to end', loaded && when(loaded.estimatedCompletion, now)],
    ['Columns', table.schema && `${table.schema.columns}, version ${table.schema.version}`],
    ['Next attempt', table.retry && [`${table.retry.attempt} so far, `, when(table.retry.nextTime, now)]],
    ['Compared', result && [`${result}, `, when(compared, now), `: ${sentence}`]],
    ['Waits', !table.problem && table.phase === 'Waiting' && table.message],
  ];
  return [
    table.problem && problemOf(table.problem, now),
    h('dl', { class: 'facts' }, all.filter(([, value]) => value).map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value)))),
    table.recentErrors.length > 0 && [
      h('h3', {}, 'Recent errors'),
      h('ul', { class: 'past' }, table.recentErrors.map((past) => h('li', {},
        h('strong', {}, past.code), past.count > 1 && ` ${past.count} times, last`, ' ', when(past.time, now), h('small', {}, past.message)))),
    ],
  ];
}
