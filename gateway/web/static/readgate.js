// What the pages do beyond links and forms: keys, dialogs, saving while you type, keeping the claim alive, returning the focus.
// Nothing of a study is kept in this browser; localStorage holds two preferences of the screen.
'use strict';
(() => {
  const find = (selector, root = document) => root.querySelector(selector);
  const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];
  const meta = (name) => find(`meta[name="${name}"]`)?.content ?? '';
  const preference = {
    read: (name) => { try { return localStorage.getItem(`readgate-${name}`); } catch { return null; } },
    write: (name, value) => { try { localStorage.setItem(`readgate-${name}`, value); } catch { /* a locked-down browser: the default holds */ } },
  };

  // --- time -----------------------------------------------------------------------------------------------------------------------
  const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
  const dayAndClock = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
  function showLocal(element) {
    const at = new Date(element.dateTime);
    element.title = `${element.dateTime.slice(0, 16).replace('T', ' ')} UTC`;
    const isToday = at.toDateString() === new Date().toDateString();
    element.textContent = (element.dataset.local === 'time' || isToday ? clock : dayAndClock).format(at);
  }
  function timeLeft(dueAt) {
    let minutes = Math.floor((dueAt - Date.now()) / 60000);
    const sign = minutes < 0 ? '−' : '';
    minutes = Math.abs(minutes);
    const hours = Math.floor(minutes / 60);
    if (hours >= 48) return `${sign}${Math.floor(hours / 24)} d ${hours % 24} h`;
    return hours ? `${sign}${hours} h ${String(minutes % 60).padStart(2, '0')}` : `${sign}${minutes} min`;
  }
  function showTimes(root = document) {
    findAll('time[data-local]', root).forEach(showLocal);
    findAll('time[data-due]', root).forEach((element) => {
      const dueAt = new Date(element.dateTime).getTime();
      const seconds = (dueAt - Date.now()) / 1000;
      element.textContent = timeLeft(dueAt);
      element.title = `${element.dateTime.slice(0, 16).replace('T', ' ')} UTC`;
      element.className = `due tone-${seconds < 0 ? 'bad' : seconds < 1800 ? 'warning' : 'neutral'}`;
    });
  }

  // --- the login ------------------------------------------------------------------------------------------------------------------
  let sessionEndsAt = meta('session-expires-at') ? new Date(meta('session-expires-at')).getTime() : Infinity;
  function say(text, selector = '#live') {
    const place = find(selector);
    if (place) { place.textContent = text; place.hidden = false; }
  }
  function watchSession() {
    const minutes = Math.ceil((sessionEndsAt - Date.now()) / 60000);
    const notice = find('#session-notice');
    if (!notice) return;
    if (minutes <= 0) say('Your login has ended. What is on this page stays here; log in again in another tab, then go on.', '#session-notice');
    else if (minutes <= 5) say(`Your login ends in ${minutes} ${minutes === 1 ? 'minute' : 'minutes'}.`, '#session-notice');
    else notice.hidden = true;
  }

  // --- dialogs, selects, small things ---------------------------------------------------------------------------------------------
  document.addEventListener('click', (event) => {
    const target = event.target.closest('button, a, input');
    if (!target) return;
    if (target.dataset.opens) document.getElementById(target.dataset.opens)?.showModal();
    else if ('closes' in target.dataset) target.closest('dialog')?.close();
    else if ('prints' in target.dataset) window.print();
    else if (target.dataset.reveals) document.getElementById(target.dataset.reveals).hidden = !target.checked;
  });
  document.addEventListener('change', (event) => {
    if ('submits' in event.target.dataset) event.target.form.requestSubmit();
    if (event.target.id === 'single-keys') preference.write('single-keys', event.target.checked ? 'on' : 'off');
  });

  // --- keys in lists --------------------------------------------------------------------------------------------------------------
  function moveRow(step) {
    const controls = findAll('[data-act]').filter((element) => element.offsetParent !== null);
    if (!controls.length) return;
    const row = document.activeElement?.closest('tr');
    const now = controls.findIndex((element) => element === document.activeElement || (row && element.closest('tr') === row));
    const next = now < 0 ? (step > 0 ? 0 : controls.length - 1) : Math.min(Math.max(now + step, 0), controls.length - 1);
    controls[next].focus();
    controls[next].scrollIntoView({ block: 'nearest' });
  }
  document.addEventListener('keydown', (event) => {
    const isTyping = event.target.closest('input, textarea, select, [contenteditable]');
    if (event.key === 'Escape' && event.target.matches('[data-search]')) { event.target.blur(); return; }
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || find('dialog[open]')) return;
    if (preference.read('single-keys') === 'off') return;
    const act = { j: () => moveRow(1), k: () => moveRow(-1), '/': () => find('[data-search]')?.select(), '?': () => find('#keys')?.showModal() }[event.key];
    if (act) { event.preventDefault(); act(); }
  });

  // --- htmx: a swapped row gives the focus back, a failed request is said aloud -----------------------------------------------------
  // A button that is disabled while its request runs loses the focus before the swap, so the row is noted when the request starts.
  let focusRow = null;
  document.addEventListener('htmx:beforeRequest', (event) => { focusRow = event.detail.elt.closest('tr[data-row]')?.id ?? focusRow; });
  document.addEventListener('htmx:beforeSwap', () => { focusRow = document.activeElement?.closest('tr[data-row]')?.id ?? focusRow; });
  document.addEventListener('htmx:afterSettle', () => {
    showTimes();
    if (find('#sign-refusal')?.textContent) find('#passphrase')?.select();
    const row = focusRow && document.getElementById(focusRow);
    if (row && (document.activeElement === document.body || !document.activeElement)) (find('[data-act]', row) ?? find('#main')).focus();
    focusRow = null;
  });
  document.addEventListener('htmx:responseError', (event) => {
    if (event.detail.xhr.status === 401) { sessionEndsAt = 0; watchSession(); } else say('That did not work. Reload the page and try again.', '#session-notice');
  });
  document.addEventListener('htmx:sendError', () => say('The gateway cannot be reached.', '#session-notice'));
  document.addEventListener('htmx:configRequest', (event) => { event.detail.headers['X-CSRF-Token'] = meta('csrf-token'); });

  async function post(address, body) {
    const response = await fetch(address, {
      method: 'POST', credentials: 'same-origin', redirect: 'error', cache: 'no-store',
      headers: { 'Content-Type': 'application/json', Accept: 'application/json', 'X-CSRF-Token': meta('csrf-token') },
      body: JSON.stringify(body),
    });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw Object.assign(new Error(answer.detail || ''), { status: response.status, answer });
    return answer;
  }

  // --- the report: saved 800 ms after the last key, at most once at a time, and never silently lost --------------------------------
  function writeReport(form) {
    const state = find('#save-state');
    let version = Number(form.dataset.version);
    let timer = 0;
    let running = null;
    let isDirty = false;
    let isStopped = false;
    const value = (name) => form.elements[name]?.value ?? '';
    const show = (name, text) => { if (state.dataset.state !== name || state.textContent !== text) { state.dataset.state = name; state.textContent = text; } };
    const content = () => ({
      version, kind: value('kind'),
      sections: Object.fromEntries(findAll('[data-section]', form).map((element) => [element.name, element.value])),
      critical: {
        is_critical: form.elements.is_critical.checked, statement: value('critical_statement'), communicated_to: value('critical_to'),
        // The box speaks the reader's own zone, the record speaks UTC.
        communicated_at: value('critical_at') ? new Date(value('critical_at')).toISOString() : '',
      },
    });
    async function save() {
      isDirty = false;
      show('saving', 'Saving');
      try {
        const answer = await post(form.dataset.draft, content());
        version = answer.version;
        show('saved', `Saved ${clock.format(new Date(answer.saved_at ?? Date.now()))}`);
      } catch (failure) {
        isDirty = true;
        isStopped = [400, 401, 403, 404, 409, 410, 413, 422].includes(failure.status);
        const why = {
          401: 'your login has ended; log in again in another tab, then save', 403: 'you may no longer write this report',
          409: 'the claim has ended, or a newer draft was saved elsewhere; copy your text and reload',
          413: 'the text is too long',
          400: failure.message || 'the gateway does not take this text', 422: failure.message || 'the gateway does not take this text',
        }[failure.status] ?? 'the gateway did not answer; trying again';
        show('failed', `Not saved: ${why}`);
        if (failure.status === 401) { sessionEndsAt = 0; watchSession(); isStopped = false; }
        if (!isStopped) timer = setTimeout(flush, 5000);
      }
    }
    // One save at a time; what was typed meanwhile is saved right after. Resolves to whether everything typed is saved.
    async function flush() {
      clearTimeout(timer);
      if (running) await running;
      if (isDirty) { running = save(); await running; running = null; }
      return !isDirty;
    }
    form.addEventListener('input', () => {
      isDirty = true;
      isStopped = false;
      show(state.dataset.state === 'failed' ? 'failed' : 'unsaved', state.dataset.state === 'failed' ? state.textContent : 'Not saved yet');
      clearTimeout(timer);
      timer = setTimeout(flush, 800);
    });
    form.addEventListener('submit', (event) => event.preventDefault());
    const told = find('[data-instant]', form);
    if (told?.dataset.instant) {
      const at = new Date(told.dataset.instant);
      told.value = new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
    }
    // The caret waits at the end of what is written; a box entered by key would otherwise be written to from its start.
    findAll('[data-section]', form).forEach((element) => element.setSelectionRange(element.value.length, element.value.length));
    window.addEventListener('beforeunload', (event) => { if (isDirty || running) { flush(); event.preventDefault(); } });
    return { flush, isDirty: () => isDirty };
  }

  function insertAtCaret(area, text) {
    const before = area.value.slice(0, area.selectionStart);
    const line = `${before && !before.endsWith('\n') ? '\n' : ''}${text}\n`;
    area.focus();
    area.setRangeText(line, area.selectionStart, area.selectionEnd, 'end');
    area.dispatchEvent(new Event('input', { bubbles: true }));
  }
  // OHIF's services are on the window of its production build; the version is pinned and a test holds this.
  function measurements(viewer) {
    try {
      return viewer.contentWindow.services.measurementService.getMeasurements().map((item) => {
        const { primary = [], secondary = [] } = item.displayText ?? {};
        const name = item.label || item.toolName || 'Measurement';
        return `${name}: ${[...primary, ...(secondary.length ? [`(${secondary.join(', ')})`] : [])].join(' ')}`;
      });
    } catch { return []; }
  }

  function read(grid) {
    const base = grid.dataset.reading;
    const viewer = find('#viewer');
    const form = find('#draft');
    const report = form && writeReport(form);
    const sections = ['technique', 'comparison', 'findings', 'impression'];

    function close(text) {
      const curtain = find('#curtain');
      if (!curtain.hidden) return;
      curtain.textContent = `${text} Your text is kept beside this; copy what is not saved.`;
      curtain.hidden = false;
      viewer?.removeAttribute('src');
      viewer?.remove();
    }
    let beating = 0;
    // Reading is work: keys, clicks and scrolling here and in the viewer keep the login from growing idle, an open page alone does not.
    let touchedAt = Date.now();
    const touched = () => { touchedAt = Date.now(); };
    const watch = (target) => ['keydown', 'pointerdown', 'pointermove', 'wheel', 'touchmove'].forEach((name) => target.addEventListener(name, touched, { capture: true, passive: true }));
    watch(document);
    async function beat() {
      clearTimeout(beating);
      try {
        const answer = await post(`${base}/heartbeat`, { idle_seconds: Math.min(86400, Math.max(0, Math.round((Date.now() - touchedAt) / 1000))) });
        if (answer.session_expires_at) sessionEndsAt = new Date(answer.session_expires_at).getTime();
        const lease = find('#lease');
        if (lease && answer.lease_expires_at) { lease.dateTime = answer.lease_expires_at; showLocal(lease); }
        watchSession();
      } catch (failure) {
        if (failure.status === 401) { sessionEndsAt = 0; watchSession(); close('Your login has ended.'); }
        else if ([403, 404, 409, 410].includes(failure.status)) close(failure.message || 'You may no longer see these images.');
        else say('The gateway cannot be reached; your claim ends when its time is over.', '#session-notice');
        if (failure.status && failure.status < 500) return;
      }
      beating = setTimeout(beat, Number(grid.dataset.heartbeatSeconds) * 1000);
    }
    async function sign(address) {
      if (!(await report.flush())) return;
      const dialog = find('#sign');
      find('#sign-body').textContent = 'Reading back what will be signed';
      dialog.showModal();
      await htmx.ajax('GET', address, { target: '#sign-body', swap: 'innerHTML' });
      find('#passphrase')?.focus();
    }
    function keys(event) {
      const signer = find('[data-sign]');
      if (event.ctrlKey && event.key === 'Enter' && signer && !find('dialog[open]')) { event.preventDefault(); signer.click(); }
      else if (event.ctrlKey && event.key.toLowerCase() === 's') { event.preventDefault(); report?.flush(); }
      else if (event.altKey && /^Digit[1-4]$/.test(event.code)) {
        const area = document.getElementById(sections[Number(event.code.slice(5)) - 1]);
        if (area) { event.preventDefault(); window.focus(); area.focus(); }
      } else if (event.altKey && event.code === 'Digit0') { event.preventDefault(); viewer?.focus(); }
    }
    document.addEventListener('keydown', keys);
    document.addEventListener('click', (event) => {
      const signer = event.target.closest('[data-sign]');
      if (signer) sign(signer.dataset.sign);
      if (event.target.closest('[data-measurements]')) {
        const lines = measurements(viewer);
        if (lines.length) insertAtCaret(find('#findings'), lines.join('\n'));
        else say('There are no measurements in the viewer.', '#session-notice');
      }
    });
    if (viewer) {
      viewer.addEventListener('load', () => {
        try { viewer.contentWindow.addEventListener('keydown', keys, true); watch(viewer.contentWindow); } catch { /* another origin: its keys stay its own */ }
      });
      const button = find('[data-measurements]');
      if (button) button.hidden = false;
      // The viewer tells only that a call failed; the heartbeat asks why.
      window.addEventListener('message', (event) => {
        if (event.origin === location.origin && event.data?.kind === 'readgate-viewer-error' && [401, 403, 404].includes(event.data.status)) beat();
      });
    }
    if (Number(grid.dataset.heartbeatSeconds) > 0) beating = setTimeout(beat, Number(grid.dataset.heartbeatSeconds) * 1000);
    split(grid, find('[data-splitter]'));
  }

  function split(grid, bar) {
    const set = (width) => {
      const bounded = Math.min(Math.max(Math.round(width), 320), 900);
      grid.style.setProperty('--report-width', `${bounded}px`);
      bar.setAttribute('aria-valuenow', String(bounded));
      preference.write('report-width', String(bounded));
    };
    const current = () => Number(bar.getAttribute('aria-valuenow'));
    if (preference.read('report-width')) set(Number(preference.read('report-width')));
    bar.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: 24, ArrowRight: -24 }[event.key];
      if (step) { event.preventDefault(); set(current() + step); }
    });
    bar.addEventListener('pointerdown', (event) => {
      bar.setPointerCapture(event.pointerId);
      const viewer = find('#viewer');
      if (viewer) viewer.style.pointerEvents = 'none';
      const move = (moved) => set(window.innerWidth - moved.clientX);
      bar.addEventListener('pointermove', move);
      bar.addEventListener('pointerup', () => { bar.removeEventListener('pointermove', move); if (viewer) viewer.style.pointerEvents = ''; }, { once: true });
    });
  }

  showTimes();
  watchSession();
  setInterval(() => { showTimes(); watchSession(); }, 15000);
  const single = find('#single-keys');
  if (single) single.checked = preference.read('single-keys') !== 'off';
  const grid = find('[data-reading]');
  if (grid) read(grid);
})();
