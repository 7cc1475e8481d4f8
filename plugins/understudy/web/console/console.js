// Asks the appliance for its status every two seconds and shows it; it changes nothing.

import { draw, model } from "./flow.js";
import { between, count, counted, duration, element, moment, rate } from "./words.js";

const EVERY = 2000;
const PATIENCE = 6000;
const narrow = window.matchMedia("(max-width: 760px)");
const seen = { status: null, senders: [], answered: null, fault: "" };
const byId = (name) => document.getElementById(name);

async function ask(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" }, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (response.ok) return response.json();
  if (response.status === 401 || response.status === 403) throw new Error("you are not signed in any more; reload the page");
  const body = await response.json().catch(() => ({}));
  throw new Error(body.message ?? `it answers with HTTP status ${response.status}`);
}

/** What the mode means to the people who work with it tonight. */
function headline(status) {
  const { mode, primary } = status;
  const owed = status.holders.filter((holder) => holder.kind === "primary").reduce((sum, holder) => sum + holder.owed + holder.in_flight + holder.sent + holder.refused, 0);
  if (mode === "active") {
    return primary?.condition === "up"
      ? ["This appliance serves the clinic. The primary answers again.", "Failback can begin when the primary is known to be in order."]
      : ["This appliance serves the clinic.", "Send, query and view here. All that arrives is kept and given back to the primary later."];
  }
  if (mode === "returning") {
    return owed
      ? [`Giving back to the primary: ${counted(owed, "instance")} to go.`, "This appliance still serves the clinic, until the failback is settled."]
      : ["All that the primary was owed is proven there.", "The failback can be settled; point the modalities back to the primary."];
  }
  if (mode === "maintenance") return ["Planned work at the primary.", "Nothing is promoted until the hold is released. Images sent here are kept."];
  if (!primary) return ["No primary is configured. All that is sent here is kept.", "Name the clinic's PACS in the configuration to stand by for it."];
  if (primary.condition === "down") return ["The primary does not answer.", "This appliance is ready to take its place: understudy promote."];
  if (primary.condition === "unknown") return ["Not known yet whether the primary works.", "The first probes are under way."];
  return ["The primary serves the clinic. This appliance stands by.", status.gaps.instances ? `${counted(status.gaps.instances, "instance")} of the primary are still being fetched.` : "Nothing is known to be missing here."];
}

function tone(status) {
  if (status.mode === "standby" && status.primary?.condition === "down") return "bad";
  return { standby: "good", active: "active", returning: "returning", maintenance: "muted" }[status.mode];
}

function fact(name, value, note, mood) {
  return element("div", mood ?? "", element("dt", "", name), element("dd", "value", value), element("dd", "note", note));
}

/** How well the mirror follows; without a primary there is nothing to follow. */
function mirrorFacts(status) {
  const { now } = status;
  return [
    fact(
      "Complete up to",
      status.horizon ? moment(status.horizon, now) : "not known yet",
      status.horizon ? `${duration(status.lag_seconds)} ago, by comparison with the primary` : "the first comparison with the primary is not done",
    ),
    fact(
      "Missing here",
      counted(status.gaps.instances, "instance"),
      status.gaps.instances ? `in ${counted(status.gaps.studies, "study")}, oldest ${duration(status.gaps.oldest_seconds)}` : "the primary has nothing more, as far as known",
      status.gaps.instances ? "warn" : "good",
    ),
  ];
}

function disks(disk) {
  const fullest = [...disk.volumes].sort((one, other) => other.used_percent - one.used_percent)[0];
  if (!fullest) return [];
  const left = fullest.days_left === null ? "" : `, about ${count(Math.round(fullest.days_left))} days left`;
  const note = disk.refusing ? "new images are refused, senders keep them" : `${(fullest.free_bytes / 2 ** 30).toFixed(1)} GiB free${left}`;
  return [fact("Fullest disk", `${fullest.name} ${Math.round(fullest.used_percent)} %`, note, { fine: "good", warn: "warn", refuse: "bad" }[fullest.state])];
}

function facts(status) {
  const { now } = status;
  const condition = status.primary?.condition;
  const vaults = status.holders.some((holder) => holder.kind === "vault");
  const primaryNote = status.primary ? `${status.primary.ae_title} at ${status.primary.host}, for ${duration(between(status.primary.since, now))}` : "stands by for nobody";
  return [
    fact("Primary", { up: "works", down: "down", unknown: "unknown" }[condition] ?? "none", primaryNote, { up: "good", down: "bad", unknown: "warn" }[condition]),
    ...(status.primary ? mirrorFacts(status) : []),
    fact(
      "Vault behind by",
      vaults ? duration(status.rpo_seconds) : "no vault",
      vaults ? (status.rpo_seconds > 0 ? "age of the oldest instance outside" : "all that is here is proven there") : "none is configured",
      vaults ? (status.rpo_seconds > 300 ? "warn" : "good") : "warn",
    ),
    ...disks(status.disk),
    fact("Held here", counted(status.instances, "instance"), `of ${counted(status.studies, "study")}`),
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
  if (state === "working") return `sending, ${rate(holder.lane.rate)} instances/s`;
  if (state === "waiting") return `does not answer${reason ? `: ${reason}` : ""}${until ? `; tries again in ${duration(between(now, until))}` : ""}`;
  if (state === "paused") return `still${reason ? `: ${reason}` : ""}`;
  return holder.owed + holder.in_flight + holder.sent ? "about to go on" : "up to date";
}

function holder(view, now) {
  const total = PARTS.reduce((sum, part) => sum + view[part], 0);
  const open = view.owed + view.in_flight + view.sent;
  const words = [total ? `${count(view.proven)} of ${count(total)} proven` : "nothing owed so far"];
  if (open) words.push(`${count(open)} owed, oldest ${duration(view.oldest_owed_seconds)}`);
  if (view.refused) words.push(`${count(view.refused)} refused`);
  if (view.waived) words.push(`${count(view.waived)} given up`);
  const name = element("h3", "", view.name, element("span", "kind", { primary: "the PACS", vault: "vault", route: "route" }[view.kind]));
  return element("article", `holder ${view.lane.state}`, name, element("p", "amount", words.join(" · ")), bar(view), element("p", "lane", lane(view, now)), element("p", "proof", `proven by ${view.proof.kind}: ${view.proof.because}`));
}

function operation(view, now) {
  const running = view.state === "running";
  const share = view.total ? Math.min(1, view.done / view.total) : view.state === "done" ? 1 : 0;
  const words = [view.total ? `${count(view.done)} of ${count(view.total)} ${view.unit}` : `${count(view.done)} ${view.unit}`];
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
  return element("article", "operation", title, running || view.state === "failed" ? track : null, element("p", "amount", words.join(" · "), link ? " · " : null, link), view.message ? element("p", "lane", view.message) : null);
}

function primaryPanel(status) {
  const { primary, now } = status;
  if (!primary) return [element("p", "empty", "No primary is configured.")];
  const head = element("tr", "", ...["When", "C-ECHO", "C-FIND"].map((name) => element("th", "", name)));
  const rows = primary.evidence.slice(0, 5).map((probe) => {
    const cell = (text) => element("td", text === "ok" ? "good" : "bad", text === "ok" ? "✓ ok" : `✕ ${text}`);
    return element("tr", "", element("td", "", moment(probe.at, now)), cell(probe.echo), cell(probe.find));
  });
  const table = element("table", "", element("thead", "", head), element("tbody", "", ...rows));
  const where = `${primary.ae_title} at ${primary.host}, port ${primary.port}: ${primary.condition} since ${moment(primary.since, now)}`;
  return [element("p", "amount", where), rows.length ? table : element("p", "empty", "Not probed yet.")];
}

/** The devices of the clinic that sent images: the primary does too but is no modality, and strangers who were refused did not. */
function devices(status, senders) {
  return senders
    .filter((sender) => sender.instances > 0 && sender.calling_ae_title !== status.primary?.ae_title)
    .map((sender) => ({ age: between(sender.last_seen, status.now) }));
}

function say(node, text) {
  // Only a change is written, so that a screen reader does not read the same sentence every two seconds.
  if (node.textContent !== text) node.textContent = text;
}

function show(status, senders) {
  const [sentence, advice] = headline(status);
  document.body.className = `tone-${tone(status)}`;
  document.title = `${status.mode} · ${status.site} · Understudy`;
  say(byId("site"), status.site);
  say(byId("mode"), status.mode);
  say(byId("epoch"), `epoch ${status.epoch}, since ${moment(status.mode_since, status.now)}`);
  say(byId("sentence"), sentence);
  say(byId("advice"), advice);
  byId("alarms").hidden = status.alarms.length === 0;
  byId("alarm-list").replaceChildren(...status.alarms.map((alarm) => element("li", "", element("strong", "", alarm.what), element("span", "hint", alarm.hint), element("span", "since", `since ${moment(alarm.since, status.now)}`))));
  byId("facts").replaceChildren(...facts(status));
  byId("picture").replaceChildren(draw(model(status, devices(status, senders)), narrow.matches));
  byId("holders").replaceChildren(...(status.holders.length ? status.holders.map((view) => holder(view, status.now)) : [element("p", "empty", "No holder is configured.")]));
  byId("operations").replaceChildren(...(status.operations.length ? status.operations.slice(0, 6).map((view) => operation(view, status.now)) : [element("p", "empty", "None so far.")]));
  byId("primary").replaceChildren(...primaryPanel(status));
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
    const old = silent === null ? "" : " What you see below is old.";
    say(banner, `${since}: ${seen.fault}.${old}`);
  }
  say(byId("freshness"), silent === null ? "no answer yet" : stale ? `last answer ${duration(silent)} ago` : `live, as of ${moment(seen.status.now, seen.status.now)}`);
}

async function refresh() {
  try {
    const [status, senders] = await Promise.all([ask("../status"), ask("../modalities")]);
    Object.assign(seen, { status, senders, answered: Date.now(), fault: "" });
    show(status, senders);
  } catch (error) {
    seen.fault = error.name === "TimeoutError" ? "it takes longer than 6 s" : error instanceof TypeError ? "it cannot be reached" : error.message;
  }
  showFreshness();
  setTimeout(refresh, EVERY);
}

narrow.addEventListener("change", () => seen.status && show(seen.status, seen.senders));
setInterval(showFreshness, 1000);
refresh();
