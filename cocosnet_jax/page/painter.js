// A canvas on which classes are painted by number. The map leaves it and enters it as text, as
// cocosnet_jax/page/painting.py describes. `element`, `props`, `watch` and `trigger` are Gradio's.
const side = props.side, classes = props.classes, strokes = props.strokes;
const find = (name) => element.querySelector(name);
const root = find('.painter'), canvas = find('canvas'), stage = find('.stage');
const photo = find('.photo'), ring = find('.ring'), size = find('.size'), search = find('.search');
const fade = find('.fade'), fadeInput = find('.fade input'), palette = find('.palette');
const context = canvas.getContext('2d');
const colours = classes.map(([, , hex]) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
const most = 30;  // steps that can be undone

let map = new Uint8Array(side * side), first = map.slice(), undo = [];
let tool = 'brush', current = Math.min(strokes ? 1 : props.start, classes.length - 1);
let last = null, sent = null;

canvas.width = canvas.height = side;
find('.title').textContent = strokes ? 'paint with' : 'paint this class';
search.style.display = classes.length > 30 ? '' : 'none';
fade.style.display = 'none';
size.max = Math.round(side * 0.3);
size.value = Math.max(2, Math.round(side * (strokes ? 0.04 : 0.06)));

const buttons = classes.map(([number, name, hex]) => {
  const button = document.createElement('button'), swatch = document.createElement('span');
  button.type = 'button';
  button.setAttribute('role', 'radio');
  button.dataset.number = number;
  swatch.className = 'swatch';
  swatch.style.background = hex;
  button.append(swatch, document.createTextNode(name));
  button.onclick = () => choose(number);
  palette.append(button);
  return button;
});

function choose(number) {
  current = number;
  for (const button of buttons)
    button.setAttribute('aria-checked', String(Number(button.dataset.number) === number));
}

function use(name) {
  tool = name;
  for (const button of element.querySelectorAll('.tool'))
    button.classList.toggle('chosen', button.classList.contains(name));
}

function render() {
  const image = context.createImageData(side, side);
  for (let i = 0; i < map.length; i++) {
    const colour = colours[map[i]] || [0, 0, 0];
    image.data.set(colour, 4 * i);
    image.data[4 * i + 3] = strokes && map[i] === 0 ? 0 : 255;
  }
  context.putImageData(image, 0, 0);
}

function disc(x, y) {
  const radius = size.value / 2;
  for (let row = Math.max(0, Math.ceil(y - radius)); row <= Math.min(side - 1, y + radius); row++)
    for (let column = Math.max(0, Math.ceil(x - radius)); column <= Math.min(side - 1, x + radius); column++)
      if ((row - y) ** 2 + (column - x) ** 2 <= radius * radius)
        map[row * side + column] = current;
  if (x >= 0 && y >= 0 && x < side && y < side)
    map[Math.round(Math.min(y, side - 1)) * side + Math.round(Math.min(x, side - 1))] = current;
}

function line(from, to) {
  const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) * 2));
  for (let i = 0; i <= steps; i++)
    disc(from[0] + (to[0] - from[0]) * i / steps, from[1] + (to[1] - from[1]) * i / steps);
}

function flood(x, y) {
  const start = Math.round(y) * side + Math.round(x), old = map[start];
  if (old === undefined || old === current) return;
  const todo = [start];
  map[start] = current;
  while (todo.length) {
    const here = todo.pop(), column = here % side;
    for (const [next, inside] of [
      [here - side, here >= side], [here + side, here < side * (side - 1)],
      [here - 1, column > 0], [here + 1, column < side - 1]])
      if (inside && map[next] === old) { map[next] = current; todo.push(next); }
  }
}

// The place under the pointer in pixels of the map, whole numbers at pixels' middles.
function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * side - 0.5,
          (event.clientY - box.top) / box.height * side - 0.5];
}

function showRing(event) {
  const box = stage.getBoundingClientRect(), width = size.value / side * box.width;
  ring.style.display = tool === 'brush' ? 'block' : 'none';
  ring.style.width = ring.style.height = `${width}px`;
  ring.style.left = `${event.clientX - box.left}px`;
  ring.style.top = `${event.clientY - box.top}px`;
}

function keep() {
  undo.push(map.slice());
  if (undo.length > most) undo.shift();
}

function send() {
  const runs = [];
  for (let i = 0; i < map.length;) {
    let end = i + 1;
    while (end < map.length && map[end] === map[i]) end++;
    runs.push(end - i, map[i]);
    i = end;
  }
  sent = JSON.stringify({side, runs});
  if (props.value !== sent) props.value = sent;
}

function receive() {
  if (!props.value || props.value === sent) return;
  const value = JSON.parse(props.value);
  let at = 0;
  for (let i = 0; i < value.runs.length; i += 2) {
    map.fill(value.runs[i + 1], at, at + value.runs[i]);
    at += value.runs[i];
  }
  first = map.slice();
  undo = [];
  sent = props.value;
  if (value.photograph) photo.src = value.photograph; else photo.removeAttribute('src');
  stage.style.aspectRatio = value.ratio || 1;
  fade.style.display = value.photograph && !strokes ? '' : 'none';
  fadeInput.value = 0;
  canvas.style.opacity = 1;
  render();
}

canvas.onpointerdown = (event) => {
  if (event.button !== 0) return;
  event.preventDefault();
  root.focus({preventScroll: true});
  keep();
  if (tool === 'fill') { flood(...place(event)); render(); send(); return; }
  canvas.setPointerCapture(event.pointerId);
  last = place(event);
  line(last, last);
  render();
};
canvas.onpointermove = (event) => {
  showRing(event);
  if (!last) return;
  const here = place(event);
  line(last, here);
  last = here;
  render();
};
canvas.onpointerup = canvas.onpointercancel = () => {
  if (!last) return;
  last = null;
  send();
};
canvas.onpointerleave = () => { ring.style.display = 'none'; };
find('.undo').onclick = () => { if (undo.length) { map = undo.pop(); render(); send(); } };
find('.reset').onclick = () => {
  keep();
  map = strokes ? new Uint8Array(side * side) : first.slice();
  render();
  send();
};
find('.brush').onclick = () => use('brush');
find('.fill').onclick = () => use('fill');
fadeInput.oninput = () => { canvas.style.opacity = 1 - fadeInput.value / 100; };
search.oninput = () => {
  for (const [i, button] of buttons.entries())
    button.style.display = classes[i][1].includes(search.value.trim().toLowerCase()) ? '' : 'none';
};
root.onkeydown = (event) => {
  if (event.target === search) return;
  if ((event.ctrlKey || event.metaKey) && event.key === 'z') { find('.undo').click(); event.preventDefault(); }
  if (event.key === '[') size.value = Number(size.value) - 2;
  if (event.key === ']') size.value = Number(size.value) + 2;
};

choose(current);
use('brush');
render();
watch('value', receive);
receive();
