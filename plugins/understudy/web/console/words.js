// Says numbers, ages and moments as people do.

const number = new Intl.NumberFormat("en", { useGrouping: true });

/** Count with thin spaces between thousands: 12 345. */
export function count(value) {
  return number.format(value).replaceAll(",", "\u202f");
}

/** "1 image", "2 images". */
export function counted(value, noun) {
  if (value === 1) return `1 ${noun}`;
  return `${count(value)} ${noun.endsWith("y") ? `${noun.slice(0, -1)}ies` : `${noun}s`}`;
}

/** Seconds as the two largest units that matter: 4 s, 2 min 5 s, 3 h 10 min, 2 d 4 h; it never breaks across lines. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  for (const [large, small, size, part] of [["d", "h", 86400, 3600], ["h", "min", 3600, 60], ["min", "s", 60, 1]]) {
    if (whole < size) continue;
    const rest = Math.floor((whole % size) / part);
    return `${Math.floor(whole / size)} ${large}${rest ? ` ${rest} ${small}` : ""}`.replaceAll(" ", "\u00a0");
  }
  return `${whole}\u00a0s`;
}

/** Per-second rate with as many digits as help. */
export function rate(value) {
  return value >= 10 ? value.toFixed(0) : value.toFixed(1);
}

/** Seconds between two ISO moments, never negative. */
export function between(earlier, later) {
  return Math.max(0, (Date.parse(later) - Date.parse(earlier)) / 1000);
}

/** Local time of day; with the date where it is not the day of `now`. */
export function moment(iso, now) {
  const at = new Date(iso);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  if (at.toDateString() === new Date(now).toDateString()) return time;
  return `${at.toLocaleDateString([], { year: "numeric", month: "short", day: "numeric" })}, ${time}`;
}

/** Element with a class and text or children; text is never read as markup. */
export function element(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** The text with every sign that is not shown written as its escape, as the command line does; a line end begins no line. */
export function visible(text) {
  return text.replaceAll(/[\p{C}\p{Zl}\p{Zp}]/gu, (sign) => {
    if (sign === "\u200c" || sign === "\u200d") return sign;
    const number = sign.codePointAt(0).toString(16);
    return number.length > 4 ? `\\U${number.padStart(8, "0")}` : number.length > 2 ? `\\u${number.padStart(4, "0")}` : `\\x${number.padStart(2, "0")}`;
  });
}

/** Text in which `words between such marks` are what a person types. */
export function withCode(text) {
  return text.split("`").map((part, at) => (at % 2 ? element("code", "", part) : part));
}
