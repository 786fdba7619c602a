// Elements made of data, and words for numbers and times. Data becomes text and attributes, never markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false || child === '') continue;
    node.append(child instanceof Node ? child : document.createTextNode(child));
  }
  return node;
}

export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Makes what is shown like what is to be shown, and leaves alone what is like it already: focus, selection and what
// somebody types stay.
export function morph(shown, next) {
  if (shown.nodeName !== next.nodeName || shown.dataset?.key !== next.dataset?.key) {
    shown.replaceWith(next);
    return;
  }
  if (shown.nodeType === Node.TEXT_NODE) {
    if (shown.data !== next.data) shown.data = next.data;
    return;
  }
  for (const { name } of [...shown.attributes]) if (!next.hasAttribute(name)) shown.removeAttribute(name);
  for (const { name, value } of next.attributes) if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  const [before, after] = [[...shown.childNodes], [...next.childNodes]];
  before.slice(after.length).forEach((node) => node.remove());
  after.forEach((node, place) => (place < before.length ? morph(before[place], node) : shown.append(node)));
}

const numbers = new Intl.NumberFormat('en');
export const count = (number) => (number === null || number === undefined ? '' : numbers.format(number));

export function bytes(number) {
  if (number === null || number === undefined) return '';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  for (; number >= 1024 && unit < units.length - 1; unit += 1) number /= 1024;
  return `${unit ? number.toFixed(1) : number} ${units[unit]}`;
}

// Seconds in two units while they are small.
export function span(seconds) {
  if (seconds === null || seconds === undefined) return '';
  const [minutes, hours, days] = [60, 3600, 86400].map((unit) => Math.floor(seconds / unit));
  if (seconds < 1) return '< 1 s';
  if (minutes < 2) return `${Math.round(seconds)} s`;
  if (minutes < 10) return two(minutes, 'min', Math.floor(seconds % 60), 's');
  if (hours < 2) return `${minutes} min`;
  if (hours < 48) return two(hours, 'h', minutes % 60, 'min');
  return two(days, 'd', hours % 24, 'h');
}

const two = (large, unit, small, smaller) => (small ? `${large} ${unit} ${small} ${smaller}` : `${large} ${unit}`);

// A time as its distance from `now`, with the time itself at hand.
export function when(time, now) {
  if (!time) return '';
  const seconds = (new Date(now) - new Date(time)) / 1000;
  const text = seconds < 0 ? `in ${span(-seconds)}` : `${span(seconds)} ago`;
  return h('time', { datetime: time, title: clock(time) }, text);
}

export const clock = (time) => `${new Date(time).toLocaleString('sv')}`;
