// Boxes over a held frame: drawn, moved, sized and removed by mouse, touch or keys. The form's own fields are the truth: a proposed box is
// its checkbox, a drawn one a line of numbers in the text field; what is typed there is drawn, what is drawn is typed there.
'use strict';
(() => {
  const SVG = 'http://www.w3.org/2000/svg';
  const SIDE_MIN = 3; // a click is no box
  const make = (name, attributes) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const words = ([x0, y0, x1, y1]) => `left ${x0}, top ${y0}, right ${x1}, bottom ${y1}`;

  function review(section) {
    const within = (selector) => section.querySelector(selector);
    const stage = within('[data-boxes]');
    const picture = within('img');
    const typed = within('[data-typed]');
    const said = within('[data-said]');
    const columns = Number(section.dataset.columns);
    const rows = Number(section.dataset.rows);
    const proposals = [...section.querySelectorAll('[data-box]')].map((input) => ({ input, box: input.dataset.box.split(' ').map(Number) }));
    let drawn = [];
    let chosen = -1; // index into proposals, then drawn

    const all = () => [
      ...proposals.map(({ input, box }) => ({ box, isOn: input.checked, input })),
      ...drawn.map((box) => ({ box, isOn: true, input: null })),
    ];
    const say = (text) => { said.textContent = text; };
    const bounded = ([x0, y0, x1, y1]) => [clamp(x0, 0, columns - 1), clamp(y0, 0, rows - 1), clamp(x1, 1, columns), clamp(y1, 1, rows)];
    const fits = ([x0, y0, x1, y1]) => x0 >= 0 && y0 >= 0 && x0 < x1 && y0 < y1 && x1 <= columns && y1 <= rows;
    const write = () => { typed.value = drawn.map((box) => box.join(' ')).join('\n'); typed.setCustomValidity(''); };
    function read() {
      const lines = typed.value.split('\n').map((line) => line.replaceAll(',', ' ').trim().split(/\s+/)).filter((numbers) => numbers[0] !== '');
      const boxes = lines.map((numbers) => numbers.map(Number));
      const isGood = (box, index) => lines[index].length === 4 && lines[index].every((number) => /^\d{1,5}$/.test(number)) && fits(box);
      typed.setCustomValidity(boxes.every(isGood) ? '' : `A box is four numbers within ${columns} by ${rows}: left top right bottom`);
      drawn = boxes.filter(isGood);
      show();
    }

    function show(draft = null) {
      const unit = columns / Math.max(stage.clientWidth, 1); // one pixel of the screen, in pixels of the picture
      const hadFocus = stage.contains(document.activeElement);
      stage.replaceChildren(...all().map(({ box: [x0, y0, x1, y1], isOn, input }, index) => {
        const state = `${isOn ? 'on' : 'off'}${index === chosen ? ' chosen' : ''}${input ? ' proposed' : ' drawn'}`;
        const group = make('g', { class: state, tabindex: 0, role: 'button', 'data-index': index, 'aria-pressed': index === chosen, 'aria-label': `${input ? 'Proposed' : 'Drawn'} box ${index + 1}, ${words([x0, y0, x1, y1])}${isOn ? '' : ', stays as it is'}` });
        group.append(make('rect', { class: 'box', x: x0, y: y0, width: x1 - x0, height: y1 - y0 }));
        if (index === chosen && isOn) {
          const side = 10 * unit;
          for (const [corner, x, y] of [['nw', x0, y0], ['ne', x1, y0], ['sw', x0, y1], ['se', x1, y1]]) {
            group.append(make('rect', { class: `handle ${corner}`, 'data-corner': corner, x: x - side / 2, y: y - side / 2, width: side, height: side }));
          }
        }
        return group;
      }));
      if (draft) stage.append(make('rect', { class: 'draft', x: draft[0], y: draft[1], width: draft[2] - draft[0], height: draft[3] - draft[1] }));
      if (hadFocus && chosen >= 0) stage.querySelector(`[data-index="${chosen}"]`)?.focus({ preventScroll: true });
      within('[data-remove]').disabled = chosen < 0 || !all()[chosen]?.isOn;
    }
    const choose = (index) => { chosen = index; show(); if (index >= 0) stage.querySelector(`[data-index="${index}"]`)?.focus({ preventScroll: true }); };
    function add(box) {
      drawn.push(bounded(box).map(Math.round));
      write();
      choose(proposals.length + drawn.length - 1);
      say(`Box drawn: ${words(drawn.at(-1))}.`);
    }
    // A proposed box that is changed is no longer the proposed one: it becomes a drawn one.
    function change(index, box) {
      if (index < proposals.length) {
        proposals[index].input.checked = false;
        add(box);
        return;
      }
      drawn[index - proposals.length] = bounded(box).map(Math.round);
      write();
      show();
    }
    function remove(index) {
      if (index < 0) return;
      if (index < proposals.length) proposals[index].input.checked = false;
      else drawn.splice(index - proposals.length, 1);
      chosen = -1;
      write();
      show();
      stage.focus({ preventScroll: true });
      say('The box is removed.');
    }

    // --- mouse, pen and touch ---
    const place = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(stage.getScreenCTM().inverse());
      return [clamp(point.x, 0, columns), clamp(point.y, 0, rows)];
    };
    let grip = null;
    const draft = ([x, y]) => {
      const [a, b] = grip.from;
      return [Math.floor(Math.min(a, x)), Math.floor(Math.min(b, y)), Math.ceil(Math.max(a, x)), Math.ceil(Math.max(b, y))];
    };
    function held([x, y]) {
      const [x0, y0, x1, y1] = grip.box;
      if (grip.corner) {
        const xs = grip.corner.includes('w') ? [x, x1] : [x0, x];
        const ys = grip.corner.includes('n') ? [y, y1] : [y0, y];
        return [Math.min(...xs), Math.min(...ys), Math.max(...xs, Math.min(...xs) + 1), Math.max(...ys, Math.min(...ys) + 1)];
      }
      const dx = clamp(x - grip.from[0], -x0, columns - x1);
      const dy = clamp(y - grip.from[1], -y0, rows - y1);
      return [x0 + dx, y0 + dy, x1 + dx, y1 + dy];
    }
    stage.addEventListener('pointerdown', (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      const group = event.target.closest('[data-index]');
      const index = group ? Number(group.dataset.index) : -1;
      const isOn = index >= 0 && all()[index].isOn;
      grip = { from: place(event), index: isOn ? index : -1, box: isOn ? [...all()[index].box] : null, corner: event.target.dataset.corner ?? '', moved: false };
      stage.setPointerCapture(event.pointerId);
    });
    stage.addEventListener('pointermove', (event) => {
      if (!grip) return;
      const at = place(event);
      const unit = columns / Math.max(stage.clientWidth, 1);
      grip.moved ||= Math.hypot(at[0] - grip.from[0], at[1] - grip.from[1]) > 3 * unit;
      if (grip.moved) show(grip.index >= 0 ? held(at) : draft(at));
    });
    stage.addEventListener('pointerup', (event) => {
      if (!grip) return;
      const at = place(event);
      const done = grip;
      if (!done.moved) { grip = null; choose(done.index); return; }
      const box = done.index >= 0 ? held(at) : draft(at);
      grip = null;
      if (done.index >= 0) change(done.index, box);
      else if (box[2] - box[0] >= SIDE_MIN && box[3] - box[1] >= SIDE_MIN) add(box);
      else show();
    });
    stage.addEventListener('pointercancel', () => { grip = null; show(); });

    // --- keys: arrows move the chosen box, with Shift they size it, with Ctrl by ten pixels; Delete removes it ---
    stage.addEventListener('focusin', (event) => {
      const group = event.target.closest('[data-index]');
      if (group && Number(group.dataset.index) !== chosen && !grip) choose(Number(group.dataset.index));
    });
    stage.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && grip) { grip = null; show(); return; }
      if (chosen < 0) return;
      const { box: [x0, y0, x1, y1], input, isOn } = all()[chosen];
      if (event.key === 'Delete' || event.key === 'Backspace') { event.preventDefault(); remove(chosen); return; }
      if ((event.key === ' ' || event.key === 'Enter') && input) { event.preventDefault(); input.checked = !input.checked; show(); return; }
      const step = event.ctrlKey ? 10 : 1;
      const [dx, dy] = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key] ?? [0, 0];
      if (!isOn || (!dx && !dy)) return;
      event.preventDefault();
      const moved = event.shiftKey ? [x0, y0, Math.max(x1 + dx, x0 + 1), Math.max(y1 + dy, y0 + 1)]
        : [x0 + clamp(dx, -x0, columns - x1), y0 + clamp(dy, -y0, rows - y1), x1 + clamp(dx, -x0, columns - x1), y1 + clamp(dy, -y0, rows - y1)];
      change(chosen, moved);
      say(words(bounded(moved)));
    });
    within('[data-add]').addEventListener('click', () => {
      add([columns * 0.4, rows * 0.45, columns * 0.6, rows * 0.55]);
      stage.scrollIntoView({ block: 'nearest' });
    });
    within('[data-remove]').addEventListener('click', () => remove(chosen));
    typed.addEventListener('input', () => { chosen = -1; read(); });
    proposals.forEach(({ input }) => input.addEventListener('change', () => show()));

    // --- frames ---
    const frame = within('[data-frame]');
    const last = Number(section.dataset.frames);
    function go(number) {
      frame.value = clamp(Number.isFinite(number) ? Math.round(number) : 1, 1, last);
      picture.src = `${section.dataset.address}/${frame.value - 1}.png`;
      picture.alt = `Frame ${frame.value} of ${last}`;
    }
    if (frame) {
      frame.addEventListener('change', () => go(Number(frame.value)));
      frame.addEventListener('keydown', (event) => { if (event.key === 'Enter') { event.preventDefault(); go(Number(frame.value)); } });
      section.querySelectorAll('[data-step]').forEach((button) => button.addEventListener('click', () => go(Number(frame.value) + Number(button.dataset.step))));
    }
    picture.addEventListener('error', () => say('This frame cannot be shown.'));
    section.querySelectorAll('[data-scripted]').forEach((element) => { element.hidden = false; });
    new ResizeObserver(() => { if (!grip) show(); }).observe(stage);
    read();
  }

  document.querySelectorAll('[data-review]').forEach(review);
})();
