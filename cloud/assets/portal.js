// Follows the switch live: every event says "look again", and the page's own HTML is fetched anew. Without this script the
// page works the same and is only not live.
"use strict";
(() => {
  const live = document.getElementById("live");
  if (!live || !window.EventSource) return;
  let pending = false;
  let again = false;
  const look = async () => {
    if (pending) { again = true; return; }
    pending = true;
    try {
      const answer = await fetch("/", { cache: "no-store" });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const focused = document.activeElement && document.activeElement.id;
        const open = document.querySelector("main details[open]") !== null;
        document.getElementById("main").replaceChildren(...page.getElementById("main").childNodes);
        if (open) document.querySelectorAll("main details").forEach((details) => { details.open = true; });
        const target = focused && document.getElementById(focused);
        if (target) target.focus({ preventScroll: true });
      }
    } catch {
      // The cloud is away: the event source says so and comes back by itself.
    }
    pending = false;
    if (again) { again = false; look(); }
  };
  const events = new EventSource("/events");
  const show = (on) => { live.dataset.live = on ? "on" : "off"; live.textContent = on ? "live" : "not live"; };
  events.onopen = () => { show(true); look(); };
  events.onerror = () => show(false);
  events.onmessage = look;
  // An upload that runs says nothing while it runs.
  setInterval(() => { if (!document.hidden && document.querySelector("progress")) look(); }, 500);
})();
