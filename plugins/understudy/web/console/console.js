// Asks the appliance for its status every two seconds and shows it; it changes nothing.

import { draw, model } from "./flow.js";
import { between, count, counted, duration, element, moment, rate, withCode, visible } from "./words.js";

const EVERY = 2000;
const PATIENCE = 6000;
// As many devices, and refusals of one device, as are shown; the command line shows all.
const REFUSED_DEVICES = 12;
const REFUSALS = 6;
const narrow = window.matchMedia("(max-width: 760px)");
const seen = { status: null, senders: [], capabilities: null, probe: "", answered: null, fault: "" };
const byId = (name) => document.getElementById(name);

async function ask(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" }, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  // The one place where text from outside comes in.
  if (response.ok) return JSON.parse(await response.text(), (_, value) => (typeof value === "string" ? visible(value) : value));
  if (response.status === 401 || response.status === 403) throw new Error("you are not signed in any more; reload the page");
  const body = await response.json().catch(() => ({}));
  throw new Error(body.message ?? `it answers with HTTP status ${response.status}`);
}

/** What the mode means to the people who work with it tonight. */
function headline(status) {
  const { mode, primary } = status;
  const owed = status.holders.filter((holder) => holder.kind === "primary").reduce((sum, holder) => sum + holder.owed + holder.in_flight + holder.sent + holder.refused, 0);
  if (status.intake_refused && mode !== "standby") return ["This appliance refuses new images.", `The reason: ${status.intake_refused}. Senders keep their images; see the first alarm.`];
  if (mode === "active") {
    return primary?.condition === "up"
      ? ["This appliance serves the clinic. The PACS answers again.", "The failback can begin as soon as IT has checked the PACS."]
      : ["This appliance serves the clinic.", "Send, query and view here. Every image is kept, and is sent to the PACS later."];
  }
  if (mode === "returning") {
    return owed
      ? [`Giving back to the PACS: ${counted(owed, "image")} to go.`, "This appliance serves the clinic until the failback is settled."]
      : ["The PACS has confirmed every image.", "Point the modalities back to the PACS; then IT can settle the failback."];
  }
  if (mode === "maintenance") return ["Planned work at the PACS.", "This appliance cannot be promoted until IT releases the hold. Images sent here are kept."];
  if (!primary) return ["No PACS is configured. Every image that is sent here is kept.", "This appliance can stand by for the clinic's PACS as soon as the configuration names it."];
  if (primary.condition === "down") {
    return [
      "The PACS does not answer.",
      status.horizon
        ? "This appliance can take its place: IT runs understudy promote on this host."
        : "Any number of images may be missing here: IT decides whether this appliance takes its place.",
    ];
  }
  if (primary.condition === "unknown") return ["It is not known yet whether the PACS works.", "The first probes are under way."];
  if (primary.condition === "refuses") return ["The PACS works, but it refuses this appliance.", "If modalities can store there, this is no outage. The alarm says what IT can do."];
  if (primary.condition === "busy") return ["The PACS works, but it is too busy for this appliance.", "If modalities can store there, this is no outage. The alarm says what IT can do."];
  if (status.intake_refused) return ["The PACS serves the clinic. This appliance refuses new images.", `The reason: ${status.intake_refused}. See the first alarm.`];
  if (!status.horizon) return ["The PACS serves the clinic. This appliance is not complete yet.", "No comparison with the PACS has been completed yet."];
  return ["The PACS serves the clinic. This appliance stands by.", status.gaps.instances ? `${counted(status.gaps.instances, "image")} to be fetched from the PACS.` : "No image was missing here at the last comparison."];
}

/** The banner has the colour of the worst alarm; without any, that of the mode. */
function tone(status) {
  if (status.tone !== "good") return status.tone;
  return { standby: "good", active: "active", returning: "returning", maintenance: "muted" }[status.mode];
}

function fact(name, value, note, mood) {
  return element("div", mood ?? "", element("dt", "", name), element("dd", "value", value), element("dd", "note", note));
}

/** How well the mirror follows; without a primary there is nothing to follow. */
function mirrorFacts(status) {
  const { now, horizon, gaps, primary } = status;
  const seen = primary.condition === "down" ? primary.last_seen : null;
  const later = seen === null ? "" : seen > horizon ? `; the PACS was last seen ${duration(between(horizon, seen))} later` : "; the PACS was last seen before that";
  const missing = gaps.studies
    ? [counted(gaps.instances, "image"), `in ${counted(gaps.studies, "study")}, oldest ${duration(gaps.oldest_seconds)}`, "warn"]
    : horizon
      ? ["nothing", "at the last complete comparison", "good"]
      : ["not known", "no comparison yet", "warn"];
  return [
    fact(
      "Complete up to",
      horizon ? moment(horizon, now) : "not known yet",
      horizon ? `${duration(status.lag_seconds)} ago, by comparison with the PACS${later}` : "no comparison with the PACS has been completed",
      horizon ? "" : "warn",
    ),
    fact("Missing here", ...missing),
  ];
}

function disks(disk) {
  const fullest = [...disk.volumes].sort((one, other) => other.used_percent - one.used_percent)[0];
  const unknown = disk.unknown.map((volume) => fact("Disk", `${volume.name} does not answer`, "nobody knows how full it is", "bad"));
  if (!fullest) return unknown;
  const left = fullest.days_left === null ? "" : `, about ${count(Math.round(fullest.days_left))} days left`;
  const note = disk.refusing ? "new images are refused, senders keep them" : `${(fullest.free_bytes / 2 ** 30).toFixed(1)} GiB free${left}`;
  return [...unknown, fact("Fullest disk", `${fullest.name} ${Math.round(fullest.used_percent)} %`, note, { fine: "good", warn: "warn", refuse: "bad" }[fullest.state])];
}

function facts(status) {
  const { now } = status;
  const condition = status.primary?.condition;
  const vaults = status.holders.some((holder) => holder.kind === "vault");
  const primaryNote = status.primary ? `${status.primary.ae_title} at ${status.primary.host}, for ${duration(between(status.primary.since, now))}` : "none is configured";
  return [
    fact("PACS", { up: "works", down: "down", refuses: "refuses this appliance", busy: "busy", unknown: "unknown" }[condition] ?? "none", primaryNote, { up: "good", down: "bad" }[condition] ?? "warn"),
    ...(status.primary ? mirrorFacts(status) : []),
    fact(
      "Vault behind by",
      vaults ? duration(status.rpo_seconds) : "no vault",
      vaults ? (status.rpo_seconds > 0 ? "age of the oldest image that a vault lacks" : "every image here is proven there") : "none is configured",
      vaults ? (status.rpo_seconds > 300 ? "warn" : "good") : "warn",
    ),
    ...disks(status.disk),
    fact("Held here", counted(status.instances, "image"), `of ${counted(status.studies, "study")}`),
  ];
}

const PARTS = ["proven", "sent", "in_flight", "owed", "refused", "waived"];

function bar(holder) {
  const total = PARTS.reduce((sum, part) => sum + holder[part], 0);
  const words = PARTS.filter((part) => holder[part]).map((part) => `${count(holder[part])} ${part.replace("_", " ")}`).join(", ");
  const track = element("div", "bar");
  track.setAttribute("role", "img");
  track.setAttribute("aria-label", words || "nothing yet");
  for (const part of PARTS) {
    if (!holder[part]) continue;
    const piece = element("span", part);
    piece.style.flexGrow = String(holder[part] / total);
    track.append(piece);
  }
  return track;
}

function lane(holder, now) {
  const { state, reason, until } = holder.lane;
  if (state === "working") return `sending, ${rate(holder.lane.rate)} images/s`;
  if (state === "waiting") return `waits${reason ? `: ${reason}` : ""}${until ? `; tries again in ${duration(between(now, until))}` : ""}`;
  if (state === "paused") return `paused${reason ? `: ${reason}` : ""}`;
  return holder.owed + holder.in_flight + holder.sent ? "about to continue" : "up to date";
}

function holder(view, now) {
  const total = PARTS.reduce((sum, part) => sum + view[part], 0);
  const open = view.owed + view.in_flight + view.sent;
  const words = [total ? `${count(view.proven)} of ${count(total)} proven` : "no image owed so far"];
  if (open) words.push(`${count(open)} owed, oldest ${duration(view.oldest_owed_seconds)}`);
  if (view.refused) words.push(`${count(view.refused)} refused`);
  if (view.altered) words.push(`${count(view.altered)} stored with a warning or in another encoding`);
  if (view.waived) words.push(`${count(view.waived)} waived`);
  const name = element("h3", "", view.name, element("span", "kind", { primary: "the PACS", vault: "vault", route: "route" }[view.kind]));
  return element("article", `holder ${view.lane.state}`, name, element("p", "amount", words.join(" · ")), bar(view), element("p", "lane", lane(view, now)), element("p", "proof", `proven by ${view.proof.kind}: ${view.proof.because}`));
}

function operation(view, now) {
  const running = view.state === "running";
  const share = view.total ? Math.min(1, view.done / view.total) : view.state === "done" ? 1 : 0;
  const unit = view.unit === "instances" ? "images" : view.unit;
  const words = [view.total ? `${count(view.done)} of ${count(view.total)} ${unit}` : `${count(view.done)} ${unit}`];
  if (running) words.push(`since ${moment(view.started, now)}`);
  if (running && view.rate > 0) words.push(`${rate(view.rate)}/s`);
  if (running && view.eta_seconds !== null) words.push(`about ${duration(view.eta_seconds)} left`);
  if (!running) words.push(`${moment(view.updated, now)}, took ${duration(between(view.started, view.updated))}`);
  const track = element("div", `bar progress ${view.state}`);
  track.setAttribute("role", "progressbar");
  track.setAttribute("aria-label", `${view.kind} ${view.operation}`);
  track.setAttribute("aria-valuemin", "0");
  track.setAttribute("aria-valuemax", "100");
  track.setAttribute("aria-valuenow", String(Math.round(share * 100)));
  const piece = element("span", "fill");
  piece.style.width = `${(share * 100).toFixed(1)}%`;
  track.append(piece);
  const title = element("h3", "", `${view.kind} `, element("span", "kind", `#${view.operation}`), element("span", `state ${view.state}`, { running: "running", done: "done", failed: "failed", cancelled: "cancelled" }[view.state]));
  let link = null;
  if (view.report) {
    link = element("a", "", "Report");
    link.href = `../reports/${view.operation}.html`;
  }
  const reasons = view.details.length ? element("ul", "lane", ...view.details.map((reason) => element("li", "", reason))) : null;
  return element("article", "operation", title, running || view.state === "failed" ? track : null, element("p", "amount", words.join(" · "), link ? " · " : null, link), view.message ? element("p", "lane", view.message) : null, reasons);
}

function primaryPanel(status) {
  const { primary, now } = status;
  if (!primary) return [element("p", "empty", "No PACS is configured.")];
  const head = element("tr", "", ...["When", "C-ECHO", "C-FIND"].map((name) => element("th", "", name)));
  const rows = primary.evidence.slice(0, 5).map((probe) => {
    const cell = (text) => element("td", text === "ok" ? "good" : "bad", text === "ok" ? "✓ ok" : `✕ ${text}`);
    return element("tr", "", element("td", "", moment(probe.at, now)), cell(probe.echo), cell(probe.find));
  });
  const table = element("table", "", element("thead", "", head), element("tbody", "", ...rows));
  const where = `${primary.ae_title} at ${primary.host}, port ${primary.port}: ${primary.condition} since ${moment(primary.since, now)}`;
  return [element("p", "amount", where), rows.length ? table : element("p", "empty", "Not probed yet.")];
}

/** What `understudy probe` found that the PACS can do: what does not work, with its meaning, and how much does. */
function capabilitiesPanel(status, view) {
  if (!status.primary) return [];
  const title = element("h3", "", "What it can do");
  if (!view) return [title, element("p", "empty", "Not asked yet. ", ...withCode("`understudy probe` asks, in about a minute."))];
  const works = view.capabilities.filter((one) => one.ability === "works").length;
  const rest = view.capabilities.filter((one) => one.ability !== "works");
  const lines = rest.map((one) => {
    const what = element("span", one.ability === "missing" ? "what bad" : "what", `${one.name}: ${one.finding}`);
    return element("li", "", what, element("span", "since", one.needed ? `${one.ability}, needed` : one.ability), element("span", "hint", [one.evidence, one.meaning].filter(Boolean).join(". ")));
  });
  const amount = `${works} of ${view.capabilities.length} work, asked ${moment(view.at, status.now)}`;
  const changes = view.changes.map((change) => element("li", "", element("span", "what", `Changed: ${change}`)));
  const list = element("ul", "refused", element("li", "", element("ul", "", ...changes, ...lines)));
  return [title, element("p", view.suits ? "verdict good" : "verdict bad", view.verdict), element("p", "amount", amount), list];
}

/** The devices of the clinic that sent images: the primary does too but is no modality, and strangers who were refused did not. */
function devices(status, senders) {
  return senders
    .filter((sender) => sender.instances > 0 && sender.calling_ae_title !== status.primary?.ae_title)
    .map((sender) => ({ age: between(sender.last_seen, status.now) }));
}

/** Devices of which something was refused: those that are listed first, and of all the latest first. */
function refusedDevices(senders) {
  return senders
    .filter((sender) => sender.refused > 0 || sender.refusals.length > 0)
    .sort((one, other) => Number(other.known) - Number(one.known) || Number(other.refusals.length > 0) - Number(one.refusals.length > 0));
}

function refusedDevice(sender, now) {
  const where = [sender.called_ae_title && `to ${sender.called_ae_title}`, sender.remote_address && `from ${sender.remote_address}`, sender.known ? "" : "stranger"].filter(Boolean);
  const lines = sender.refusals.slice(0, REFUSALS).map((refusal) => refusedLine(refusal, now));
  if (sender.refusals.length > REFUSALS) lines.push(element("li", "hint", `and ${counted(sender.refusals.length - REFUSALS, "other refusal")}`));
  if (sender.refused > 0) {
    const why = sender.hint ? `, the last: ${sender.outcome.replaceAll("_", " ")}${sender.reason ? `, ${sender.reason}` : ""}` : "";
    const what = element("span", "what", `${counted(sender.refused, "refused attempt")} at the edge${why}`);
    lines.push(element("li", "", what, element("span", "since", `seen ${moment(sender.last_seen, now)}`), element("span", "hint", ...withCode(sender.hint))));
  }
  return element("li", "", element("h3", "", sender.calling_ae_title || "without AE title", " ", element("span", "kind", where.join(" "))), element("ul", "", ...lines));
}

function refusedLine(refusal, now) {
  const what = element("span", refusal.keeps_images_out ? "what bad" : "what", refusal.what);
  return element("li", "", what, element("span", "since", `${count(refusal.count)} ×, last ${moment(refusal.last, now)}`), element("span", "hint", ...withCode(refusal.hint)));
}

function say(node, text) {
  // Only a change is written, so that a screen reader does not read the same sentence every two seconds.
  if (node.textContent !== text) node.textContent = text;
}

function show() {
  const { status, senders, capabilities } = seen;
  const [sentence, usual] = headline(status);
  const advice = status.configuration_problems.length ? "The configuration is wrong, so the last correct one runs. See the first alarm." : usual;
  document.body.className = `tone-${tone(status)}`;
  document.title = `${status.mode} · ${status.site} · Understudy`;
  say(byId("site"), status.site);
  say(byId("mode"), status.mode);
  say(byId("epoch"), `epoch ${status.epoch}, since ${moment(status.mode_since, status.now)}`);
  say(byId("sentence"), sentence);
  say(byId("advice"), advice);
  byId("alarms").hidden = status.alarms.length === 0;
  byId("alarm-list").replaceChildren(...status.alarms.map((alarm) => element("li", "", element("strong", "", ...withCode(alarm.what)), element("span", "hint", ...withCode(alarm.hint)), element("span", "since", `since ${moment(alarm.since, status.now)}`))));
  byId("facts").replaceChildren(...facts(status));
  byId("picture").replaceChildren(draw(model(status, devices(status, senders)), narrow.matches));
  byId("holders").replaceChildren(...(status.holders.length ? status.holders.map((view) => holder(view, status.now)) : [element("p", "empty", "No holder is configured.")]));
  byId("operations").replaceChildren(...(status.operations.length ? status.operations.slice(0, 6).map((view) => operation(view, status.now)) : [element("p", "empty", "None so far.")]));
  const refused = refusedDevices(senders);
  byId("refused").hidden = refused.length === 0;
  byId("refused-list").replaceChildren(...refused.slice(0, REFUSED_DEVICES).map((sender) => refusedDevice(sender, status.now)));
  byId("refused-more").hidden = refused.length <= REFUSED_DEVICES;
  byId("refused-more").replaceChildren(`and ${counted(refused.length - REFUSED_DEVICES, "other device")}: `, element("code", "", "understudy modalities"));
  byId("primary").replaceChildren(...primaryPanel(status), ...capabilitiesPanel(status, capabilities));
  say(byId("version"), `Understudy ${status.version}, AE title ${status.ae_title}`);
}

function showFreshness() {
  const silent = seen.answered === null ? null : (Date.now() - seen.answered) / 1000;
  const stale = seen.fault !== "" && (silent === null || silent > EVERY / 1000);
  const banner = byId("stale");
  banner.hidden = !stale;
  document.body.classList.toggle("is-stale", stale && silent !== null);
  if (stale) {
    const since = silent === null ? "The appliance has not answered yet" : `No answer from the appliance for ${duration(silent)}`;
    const old = silent === null ? "" : " The values below are old.";
    say(banner, `${since}: ${seen.fault}.${old}`);
  }
  say(byId("freshness"), silent === null ? "no answer yet" : stale ? `last answer ${duration(silent)} ago` : `live, as of ${moment(seen.status.now, seen.status.now)}`);
}

/** Asks what the last probe of the PACS found: at first, and whenever a probe has begun or ended. */
async function lookAtProbe(status) {
  if (!status.primary) return;
  const last = status.operations.find((one) => one.kind === "probe");
  const probe = last ? `${last.operation} ${last.state}` : "none";
  if (probe === seen.probe) return;
  Object.assign(seen, { capabilities: await ask("../probe"), probe });
}

async function refresh() {
  try {
    const [status, senders] = await Promise.all([ask("../status"), ask("../modalities")]);
    Object.assign(seen, { status, senders, answered: Date.now(), fault: "" });
    await lookAtProbe(status);
    show();
  } catch (error) {
    seen.fault = error.name === "TimeoutError" ? "it takes longer than 6 s" : error instanceof TypeError ? "it cannot be reached" : error.message;
  }
  showFreshness();
  setTimeout(refresh, EVERY);
}

narrow.addEventListener("change", () => seen.status && show());
setInterval(showFreshness, 1000);
refresh();
