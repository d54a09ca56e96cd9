// Keeps the page up to date with the sections that /events sends, and plays the live view. It holds no words and renders nothing
// itself. What the page says when the connection is lost is in the page.
"use strict";

const $ = id => document.getElementById(id);

// Makes one element like another, changing only what differs, so that focus, selection and videos stay.
const become = (now, then) => {
  if (now.nodeType !== then.nodeType || now.nodeName !== then.nodeName || now.id !== then.id) return now.replaceWith(then);
  if (now.nodeType !== 1) {
    if (now.nodeValue !== then.nodeValue) now.nodeValue = then.nodeValue;
    return;
  }
  for (const { name, value } of then.attributes) if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  for (const { name } of [...now.attributes]) if (!then.hasAttribute(name) && name !== "src") now.removeAttribute(name);
  children(now, then);
};

const children = (now, then) => {
  const wanted = [...then.childNodes];
  // What has an id keeps its element wherever it moves.
  const named = new Map([...now.children].filter(child => child.id).map(child => [child.id, child]));
  wanted.forEach((child, n) => {
    const there = now.childNodes[n];
    const same = named.get(child.id);
    if (same && same !== there) now.insertBefore(same, there || null);
    const current = now.childNodes[n];
    if (!current || (child.id && !same)) now.insertBefore(child, current || null);
    else become(current, child);
  });
  while (now.childNodes.length > wanted.length) now.lastChild.remove();
};

const pictures = () => {
  for (const video of document.querySelectorAll("video[data-src]")) if (!video.src) {
    video.src = video.dataset.src;
  }
};

let since = null;
const connected = is => {
  since = is ? null : since || new Date();
  $("lost").hidden = is;
  $("lost").lastElementChild.textContent = is ? "" : since.toLocaleTimeString();
  document.body.classList.toggle("stale", !is);
};

const listen = () => {
  const events = new EventSource("/events");
  events.onopen = () => connected(true);
  events.onmessage = ({ data }) => {
    for (const [id, html] of Object.entries(JSON.parse(data))) {
      if (id === "title") document.title = html;
      else if ($(id)) {
        const made = document.createElement("template");
        made.innerHTML = html;
        children($(id), made.content);
      }
    }
    pictures();
    document.body.dataset.updates = 1 + Number(document.body.dataset.updates || 0);
  };
  events.onerror = () => {
    connected(false);
    // The browser tries again by itself, unless it was refused.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  };
};

const pause = ms => new Promise(done => setTimeout(done, ms));
const heard = (target, name) => new Promise(done => target.addEventListener(name, done, { once: true }));
const Source = window.ManagedMediaSource || window.MediaSource;
let stop = null, watching = true;

// Plays one answer of /live.mp4 until it ends. Gives false if this browser does not play it.
const film = async (video, signal) => {
  const answer = await fetch("/live.mp4", { signal });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  const type = answer.headers.get("Content-Type");
  const plays = Source && Source.isTypeSupported(type);
  $("sound").hidden = !plays || !type.includes("mp4a");
  if (!plays) return false;
  const source = new Source();
  video.disableRemotePlayback = true;
  video.src = URL.createObjectURL(source);
  await heard(source, "sourceopen");
  URL.revokeObjectURL(video.src);
  const buffer = source.addSourceBuffer(type), reader = answer.body.getReader();
  video.play().catch(() => {});
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return true;
    buffer.appendBuffer(value);
    await heard(buffer, "updateend");
    const filled = buffer.buffered, ranges = filled.length;
    if (!ranges) continue;
    const end = filled.end(ranges - 1);
    // Behind by more than a moment, or before a hole: go to what is filmed now.
    if (end - video.currentTime > 1.5 || video.currentTime < filled.start(ranges - 1)) video.currentTime = Math.max(filled.start(ranges - 1), end - 0.3);
    if (end - filled.start(0) > 30) {
      buffer.remove(0, end - 10);
      await heard(buffer, "updateend");
    }
  }
};

// One picture every few seconds instead.
const stills = async signal => {
  const still = $("still");
  for (let n = 0; !signal.aborted; n++) {
    const came = Promise.race([heard(still, "load").then(() => true), heard(still, "error")]);
    still.src = "/frame.jpg?" + n;
    still.hidden = !(await came);
    if (still.hidden) throw new Error((await (await fetch(still.src, { signal })).text()).trim());
    await pause(3000);
  }
};

const say = words => {
  $("said").textContent = words;
};

const watch = async () => {
  const video = $("video"), screen = video.parentElement;
  video.addEventListener("playing", () => (say(""), screen.classList.add("with-picture")));
  for (;;) {
    if (!watching || document.hidden) {
      await pause(300);
      continue;
    }
    stop = new AbortController();
    try {
      if (!(await film(video, stop.signal))) {
        stop.abort();
        stop = new AbortController();
        say($("said").dataset.still);
        screen.classList.add("with-picture");
        await stills(stop.signal);
      }
    } catch (why) {
      if (why.name !== "AbortError") say(why.message);
      await pause(2000);
    }
  }
};

// A button that says what it will do: one thing and its opposite, in turns.
const inTurns = (id, act) => {
  const button = $(id), words = [button.textContent, button.dataset.then];
  let turned = false;
  button.onclick = () => {
    turned = !turned;
    button.textContent = words[Number(turned)];
    act(turned);
  };
};

document.addEventListener("visibilitychange", () => document.hidden && stop && stop.abort());
addEventListener("DOMContentLoaded", () => {
  listen();
  pictures();
  if (!$("video")) return;
  $("pause").hidden = false;
  inTurns("pause", paused => {
    watching = !paused;
    if (paused) $("video").pause(), stop && stop.abort();
  });
  // Muted until somebody wants it: browsers play nothing else by themselves.
  inTurns("sound", wanted => ($("video").muted = !wanted));
  watch();
});
