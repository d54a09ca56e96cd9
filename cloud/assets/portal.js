// Follows what happens live: every event says "look again", and the page's own HTML is fetched anew. Only what has changed
// is replaced, so that a video plays on and the keyboard's focus stays. Without this script the pages work the same and
// are only not live.
"use strict";
(() => {
  // No header tells the browser's time zone; pages show its hours, and bills count its days.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && !document.cookie.includes(`care_zone=${zone}`)) {
    document.cookie = `care_zone=${zone}; path=/; max-age=31536000; samesite=lax`;
  }

  const copy = document.getElementById("copy");
  if (copy) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      const text = document.getElementById(copy.dataset.copies);
      text.select();
      try {
        await navigator.clipboard.writeText(text.value);
        document.getElementById("copy-said").textContent = copy.dataset.done;
      } catch {
        // Not allowed here: the text stays selected, ready for the keyboard's copy.
      }
    });
  }

  // A switch is asked for once, however often the button is pressed.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
    setTimeout(() => delete form.dataset.sent, 5000);
  });

  const live = document.getElementById("live");
  if (!live || !window.EventSource) return;

  const key = (node) => (node.nodeType === Node.ELEMENT_NODE && node.id) || null;
  const alike = (now, next) => now.nodeType === next.nodeType && now.nodeName === next.nodeName && key(now) === key(next);

  // What a person has changed in the page itself stays theirs.
  const theirs = (name, element) => (name === "open" && element.nodeName === "DETAILS") || name === "data-sent";

  const become = (now, next) => {
    if (now.isEqualNode(next)) return;
    if (now.nodeType === Node.TEXT_NODE) { now.data = next.data; return; }
    for (const { name, value } of [...next.attributes]) {
      if (!theirs(name, now) && now.getAttribute(name) !== value) now.setAttribute(name, value);
    }
    for (const { name } of [...now.attributes]) {
      if (!theirs(name, now) && !next.hasAttribute(name)) now.removeAttribute(name);
    }
    if (now.nodeName !== "SELECT" || now !== document.activeElement) children(now, next);
  };

  const children = (now, next) => {
    const known = new Map([...now.children].filter(key).map((child) => [child.id, child]));
    const staying = new Set([...next.children].map(key));
    let at = now.firstChild;
    for (const wanted of [...next.childNodes]) {
      const same = key(wanted) ? known.get(key(wanted)) : at;
      if (!same || !alike(same, wanted)) {
        now.insertBefore(document.importNode(wanted, true), at);
        continue;
      }
      // Moving an element would lose its focus: what stands before it goes, unless it is wanted later.
      while (at !== same && !(key(at) && staying.has(key(at)))) { const gone = at; at = at.nextSibling; gone.remove(); }
      if (at === same) at = at.nextSibling; else now.insertBefore(same, at);
      become(same, wanted);
    }
    while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
  };

  let pending = false;
  let again = false;
  const look = async () => {
    if (pending) { again = true; return; }
    pending = true;
    try {
      // Marked, so that a page left open does not keep its person signed in.
      const answer = await fetch(location.pathname + location.search, { cache: "no-store", headers: { "x-care-live": "1" } });
      // Signed out elsewhere: this page is no longer theirs to see.
      if (answer.redirected) { location.assign(answer.url); return; }
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const focused = document.activeElement && document.activeElement.id;
        children(document.getElementById("main"), page.getElementById("main"));
        const target = focused && document.activeElement === document.body && document.getElementById(focused);
        if (target) target.focus({ preventScroll: true });
      }
    } catch {
      // The cloud is away: the event source says so and comes back by itself.
    }
    pending = false;
    if (again) { again = false; look(); }
  };

  const events = new EventSource("/events");
  const show = (on) => { live.dataset.live = on ? "on" : "off"; live.textContent = on ? live.dataset.on : live.dataset.off; };
  events.onopen = () => { show(true); look(); };
  events.onerror = () => {
    show(false);
    // The server ends the stream with the session; then the page finds out where to go.
    look();
  };
  // A switch makes several events within a moment: they are looked at together, and do not keep the cloud from the switch.
  let soon = null;
  events.onmessage = () => { soon ??= setTimeout(() => { soon = null; look(); }, 60); };
  // An upload that runs says nothing while it runs.
  setInterval(() => { if (!document.hidden && document.querySelector("progress")) look(); }, 500);
})();
