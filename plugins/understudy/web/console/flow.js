// Draws the way that the images take, with the live state of every part and every arrow.

import { count, counted, duration, rate } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const NODE_HEIGHT = 92;
const GAP = 16;

function shape(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function shortened(text, width) {
  // 7.6 units are the mean width of a character at the size of the second line.
  const room = Math.floor((width - 44) / 7.6);
  return text.length > room ? `${text.slice(0, room - 1)}…` : text;
}

/** One holder as a node: its tone, and two lines that say how it stands. */
function holderNode(holder) {
  const open = holder.owed + holder.in_flight + holder.sent;
  const label = holder.kind === "vault" ? "Vault" : "Route";
  let tone = "good";
  let line = open === 0 ? "no image owed" : `${counted(open, "image")} owed`;
  if (holder.lane.state === "waiting") {
    tone = open ? "bad" : "warn";
    line = open ? `waits; ${count(open)} owed` : "waits";
  } else if (holder.refused) {
    tone = "warn";
    line = `${counted(holder.refused, "image")} refused`;
  } else if (open) tone = "busy";
  return { title: `${label} ${holder.name}`, lines: [`${count(holder.proven)} proven`, line], tone };
}

/** All that the picture shows, as values; drawing is apart. */
export function model(status, senders) {
  const { mode, primary } = status;
  const serving = mode === "active" || mode === "returning";
  const toPrimary = status.holders.find((holder) => holder.kind === "primary");
  const owedBack = toPrimary ? toPrimary.owed + toPrimary.in_flight + toPrimary.sent : 0;
  const down = primary?.condition === "down";
  const last = senders.length ? Math.min(...senders.map((sender) => sender.age)) : null;
  const nodes = {
    clinic: {
      title: "Modalities",
      lines: senders.length
        ? [`${counted(senders.length, "device")} known here`, `last image ${duration(last)} ago`]
        : ["no device has", "stored here yet"],
      tone: "plain",
    },
    standby: {
      title: "This appliance",
      lines: [`${counted(status.instances, "image")}`, serving ? "serves the clinic" : `of ${counted(status.studies, "study")}, standing by`],
      tone: serving ? "active" : "good",
    },
    primary: primary && {
      title: `PACS ${primary.ae_title}`,
      lines: [
        { up: "answers its probes", down: "does not answer", refuses: "refuses this appliance", busy: "busy", unknown: "not probed yet" }[primary.condition],
        serving ? (owedBack ? `is owed ${counted(owedBack, "image")}` : "is owed no image") : mode === "maintenance" ? "planned work" : "serves the clinic",
      ],
      tone: { up: "good", down: "bad" }[primary.condition] ?? "warn",
    },
  };
  if (primary && down && !serving) nodes.primary.lines[1] = "nobody serves the clinic";
  const holders = status.holders.filter((holder) => holder.kind !== "primary");
  const mirrorState = down ? "broken" : status.gaps.instances ? "moving" : "open";
  return {
    nodes,
    holders: holders.map((holder) => ({
      ...holderNode(holder),
      arrow: holder.lane.state === "working" ? "moving" : holder.lane.state === "waiting" ? "broken" : holder.lane.state === "paused" ? "off" : "open",
      label: holder.lane.state === "working" ? `${rate(holder.lane.rate)}/s` : "",
    })),
    arrows: {
      clinicToPrimary: serving ? "off" : down ? "broken" : "open",
      clinicToStandby: serving ? "open" : "off",
      mirror: mirrorState,
      failback: mode === "returning" ? (owedBack ? "moving" : "open") : "off",
    },
    mirrorLabel: status.gaps.instances ? `mirror, ${count(status.gaps.instances)} missing` : "mirror",
    failbackLabel: mode === "returning" && toPrimary?.lane.state === "working" ? `failback ${rate(toPrimary.lane.rate)}/s` : "failback",
  };
}

function place(view, tall) {
  const rows = Math.max(view.holders.length, 1);
  const column = rows * NODE_HEIGHT + (rows - 1) * GAP;
  if (tall) {
    const left = 26;
    const width = 334;
    const standbyTop = view.nodes.primary ? 2 * (NODE_HEIGHT + 44) : NODE_HEIGHT + 44;
    const holdersTop = standbyTop + NODE_HEIGHT + 36;
    return {
      width: 360,
      height: holdersTop + (view.holders.length ? column : -36) + 2,
      clinic: { x: left, y: 1, width },
      primary: { x: left, y: NODE_HEIGHT + 44, width },
      standby: { x: left, y: standbyTop, width },
      holders: view.holders.map((_, row) => ({ x: left, y: holdersTop + row * (NODE_HEIGHT + GAP), width })),
    };
  }
  const height = Math.max(column, view.nodes.primary ? 2 * NODE_HEIGHT + 56 : NODE_HEIGHT);
  const middle = (height - NODE_HEIGHT) / 2;
  return {
    width: 1160,
    height: height + 2,
    clinic: { x: 1, y: middle + 1, width: 240 },
    primary: { x: 381, y: 1, width: 320 },
    standby: { x: 381, y: view.nodes.primary ? height - NODE_HEIGHT + 1 : middle + 1, width: 320 },
    holders: view.holders.map((_, row) => ({
      x: 839,
      y: (height - column) / 2 + row * (NODE_HEIGHT + GAP) + 1,
      width: 320,
    })),
  };
}

const MARKS = { good: "✓", bad: "✕", warn: "!", busy: "→", active: "★", plain: "" };

function drawNode(canvas, node, { x, y, width }) {
  const group = shape("g", { class: `node ${node.tone}`, transform: `translate(${x} ${y})` });
  group.append(
    shape("rect", { class: "box", width, height: NODE_HEIGHT, rx: 10 }),
    shape("rect", { class: "stripe", x: 0, y: 12, width: 5, height: NODE_HEIGHT - 24, rx: 2.5 }),
    shape("text", { class: "title", x: 20, y: 31 }, shortened(node.title, width - 10)),
    shape("text", { class: "line", x: 20, y: 54 }, shortened(node.lines[0], width)),
    shape("text", { class: "line", x: 20, y: 75 }, shortened(node.lines[1], width)),
    shape("text", { class: "mark", x: width - 26, y: 31 }, MARKS[node.tone]),
  );
  canvas.append(group);
}

function drawArrow(canvas, path, state, label, at) {
  canvas.append(shape("path", { class: `arrow ${state}`, d: path, "marker-end": `url(#tip-${state})` }));
  if (label) canvas.append(shape("text", { class: `label ${state}`, x: at.x, y: at.y, "text-anchor": at.anchor ?? "middle" }, label));
}

function drawTips(canvas) {
  const definitions = shape("defs", {});
  for (const state of ["open", "moving", "broken", "off"]) {
    const marker = shape("marker", {
      id: `tip-${state}`, viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 9, markerHeight: 9,
      markerUnits: "userSpaceOnUse", orient: "auto",
    });
    marker.append(shape("path", { class: `tip ${state}`, d: "M0 0L10 5L0 10z" }));
    definitions.append(marker);
  }
  canvas.append(definitions);
}

function drawWideArrows(canvas, view, spots) {
  const half = NODE_HEIGHT / 2;
  const curve = (x1, y1, x2, y2) => `M${x1} ${y1}C${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2} ${x2} ${y2}`;
  const { clinic, primary, standby } = spots;
  const edge = clinic.x + clinic.width;
  if (view.nodes.primary) {
    drawArrow(canvas, curve(edge, clinic.y + half - 16, primary.x - 3, primary.y + half), view.arrows.clinicToPrimary);
    drawArrow(canvas, curve(edge, clinic.y + half + 16, standby.x - 3, standby.y + half), view.arrows.clinicToStandby);
    const [top, bottom] = [primary.y + NODE_HEIGHT, standby.y];
    const middle = (top + bottom) / 2 + 5;
    drawArrow(canvas, `M${primary.x + 120} ${top}V${bottom - 3}`, view.arrows.mirror, view.mirrorLabel, { x: primary.x + 108, y: middle, anchor: "end" });
    drawArrow(canvas, `M${primary.x + 200} ${bottom}V${top + 3}`, view.arrows.failback, view.failbackLabel, { x: primary.x + 212, y: middle, anchor: "start" });
  } else {
    drawArrow(canvas, curve(edge, clinic.y + half, standby.x - 3, standby.y + half), "open");
  }
  view.holders.forEach((holder, row) => {
    const spot = spots.holders[row];
    const from = standby.y + half + (row - (view.holders.length - 1) / 2) * 12;
    drawArrow(canvas, curve(standby.x + standby.width, from, spot.x - 3, spot.y + half), holder.arrow, holder.label, { x: spot.x - 24, y: spot.y + half - 9, anchor: "end" });
  });
}

function drawTallArrows(canvas, view, spots) {
  const half = NODE_HEIGHT / 2;
  const { clinic, primary, standby } = spots;
  const side = (y1, y2, x) => `M26 ${y1}H${x}V${y2}H23`;
  if (view.nodes.primary) {
    drawArrow(canvas, `M150 ${clinic.y + NODE_HEIGHT}V${primary.y - 3}`, view.arrows.clinicToPrimary);
    drawArrow(canvas, side(clinic.y + half, standby.y + half - 10, 8), view.arrows.clinicToStandby);
    const [top, bottom] = [primary.y + NODE_HEIGHT, standby.y];
    drawArrow(canvas, `M150 ${top}V${bottom - 3}`, view.arrows.mirror, view.mirrorLabel, { x: 140, y: (top + bottom) / 2 + 5, anchor: "end" });
    drawArrow(canvas, `M216 ${bottom}V${top + 3}`, view.arrows.failback, view.failbackLabel, { x: 226, y: (top + bottom) / 2 + 5, anchor: "start" });
  } else {
    drawArrow(canvas, `M190 ${clinic.y + NODE_HEIGHT}V${standby.y - 3}`, "open");
  }
  view.holders.forEach((holder, row) => {
    const spot = spots.holders[row];
    drawArrow(canvas, side(standby.y + half + 12, spot.y + half, 8), holder.arrow, null, null);
  });
}

/** The picture in words, for those who do not see it. */
function spoken(view) {
  const parts = [view.nodes.clinic, view.nodes.primary, view.nodes.standby, ...view.holders].filter(Boolean);
  return parts.map((node) => `${node.title}: ${node.lines.join(", ")}.`).join(" ");
}

/** Returns the SVG; `tall` stacks the parts for narrow screens. */
export function draw(view, tall) {
  const spots = place(view, tall);
  const canvas = shape("svg", { viewBox: `0 0 ${spots.width} ${spots.height}`, role: "img", "aria-label": spoken(view), class: tall ? "tall" : "wide" });
  drawTips(canvas);
  (tall ? drawTallArrows : drawWideArrows)(canvas, view, spots);
  drawNode(canvas, view.nodes.clinic, spots.clinic);
  if (view.nodes.primary) drawNode(canvas, view.nodes.primary, spots.primary);
  drawNode(canvas, view.nodes.standby, spots.standby);
  view.holders.forEach((holder, row) => drawNode(canvas, holder, spots.holders[row]));
  return canvas;
}
