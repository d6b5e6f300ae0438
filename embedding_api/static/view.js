// What the page draws. Texts only ever become text nodes.

const MOST_IN_HEATMAP = 24;
const MOST_IN_RANKING = 100;
const LOWEST_USUAL = 0.6; // BGE's similarities are mostly above, but for very short texts

/** The scores of all texts, best first, each with its index. `score` is the dot product, which is what people compute. */
export function ranked(query, vectors) {
  const scores = vectors.map((vector, index) => ({ index, score: dot(query, vector), cosine: cosine(query, vector) }));
  return scores.sort((a, b) => b.score - a.score);
}

/** The list of texts with bars. `before` is the ranking before an option was changed, if there was one. */
export function drawRanking(list, scale, { order, texts, truncated, maxLength, normalize, before }) {
  const lowest = Math.min(LOWEST_USUAL, ...order.map(({ cosine }) => Math.floor(cosine * 10) / 10));
  const cut = new Set(truncated);
  list.replaceChildren(
    ...order.slice(0, MOST_IN_RANKING).map(({ index, score, cosine }, rank) => {
      const item = element("li");
      const bar = item.appendChild(element("span", "bar"));
      bar.style.setProperty("--share", Math.max(0.01, (cosine - lowest) / (1 - lowest)));
      item.append(element("span", "score", score.toFixed(3)), element("span", "text", texts[index]));
      if (cut.has(index)) item.append(element("span", "note", `cut at ${maxLength} tokens`));
      const change = before && changed(before, index, score, rank);
      if (change) item.append(element("span", "note", change));
      return item;
    }),
  );
  const more = order.length - MOST_IN_RANKING;
  const rest = more > 0 ? ` ${more} more are not shown.` : "";
  const raw = normalize ? "" : " The scores are dot products of vectors that have not the length 1.";
  scale.textContent =
    `The bars go from a cosine similarity of ${lowest.toFixed(1)} to 1. With this model even texts that have nothing to` +
    ` do with each other are far from 0, so trust the order more than the size.${raw}${rest}`;
}

function changed(before, index, score, rank) {
  const rankBefore = before.findIndex((other) => other.index === index);
  const was = before[rankBefore].score;
  if (Math.abs(was - score) < 0.0005 && rankBefore === rank) return "";
  const place = rankBefore === rank ? "" : `, place ${rankBefore + 1}`;
  return `was ${was.toFixed(3)}${place}`;
}

/** Each text beside each other; the darker, the closer. */
export function drawHeatmap(table, hint, { texts, vectors }) {
  const some = vectors.slice(0, MOST_IN_HEATMAP);
  const all = some.map((row) => some.map((column) => cosine(row, column)));
  const others = all.flatMap((row, index) => row.filter((_, other) => other !== index));
  const [low, high] = [Math.min(...others), Math.max(...others)];
  const columns = element("tr");
  columns.append(element("td"), ...some.map((_, index) => header(index, "col", texts)));
  const rows = all.map((row, index) => {
    const line = element("tr");
    line.append(
      header(index, "row", texts),
      ...row.map((value, other) => {
        const cell = element("td", index === other ? "self" : "", value.toFixed(2));
        const share = high > low ? (value - low) / (high - low) : 0;
        cell.style.setProperty("--share", index === other ? 0 : Math.min(1, share));
        return cell;
      }),
    );
    return line;
  });
  const [head, body] = [element("thead"), element("tbody")];
  head.append(columns);
  body.append(...rows);
  table.replaceChildren(head, body);
  const rest = vectors.length > some.length ? ` The first ${some.length} of ${vectors.length} texts.` : "";
  hint.textContent = `Cosine similarity; the stronger the colour, the closer. The numbers outside are those of the texts.${rest}`;
}

function header(index, scope, texts) {
  const cell = element("th", "", String(index + 1));
  cell.scope = scope;
  cell.title = texts[index];
  return cell;
}

/** A vector as a field of its numbers: one colour for those above zero, another for those below. */
export function drawVector(canvas, hint, vector) {
  const columns = 48;
  const rows = Math.ceil(vector.length / columns);
  canvas.width = columns;
  canvas.height = rows;
  const largest = Math.max(...vector.map(Math.abs));
  const style = getComputedStyle(canvas);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, columns, rows);
  vector.forEach((value, index) => {
    context.globalAlpha = Math.abs(value) / largest;
    context.fillStyle = style.getPropertyValue(value > 0 ? "--above" : "--below");
    context.fillRect(index % columns, Math.floor(index / columns), 1, 1);
  });
  const [low, high] = [Math.min(...vector), Math.max(...vector)];
  hint.textContent =
    `${vector.length} numbers from ${low.toFixed(3)} to ${high.toFixed(3)}; together they are` +
    ` ${Math.sqrt(dot(vector, vector)).toFixed(3)} long.`;
}

function dot(a, b) {
  return a.reduce((sum, value, index) => sum + value * b[index], 0);
}

function cosine(a, b) {
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
