// What the page draws. Texts become text nodes and never HTML.

const MOST_IN_HEATMAP = 24;
const MOST_IN_RANKING = 100;
const LOWEST_USUAL = 0.6; // BGE's similarities are mostly above, but for very short texts

/**
 * All texts, best first, as {index, score, relative}: the score is the dot product, and relative is the score divided by
 * the length of the query's vector and the mean length of the texts', which is about the cosine.
 */
export function ranked(query, vectors) {
  const unit = (norm(query) * vectors.reduce((sum, vector) => sum + norm(vector), 0)) / vectors.length;
  const order = vectors.map((vector, index) => {
    const score = dot(query, vector);
    return { index, score, relative: score / unit };
  });
  return order.sort((a, b) => b.score - a.score);
}

/** Where the bars of a ranking begin. */
export function lowestOf(order) {
  return order.reduce((lowest, { relative }) => Math.min(lowest, Math.floor(relative * 10) / 10), LOWEST_USUAL);
}

/** The list of texts with bars. `before` is the ranking and the form before an option was changed, if one was. */
export function drawRanking(list, scale, { order, lowest, form, truncated, maxLength, before }) {
  const cut = new Set(truncated);
  const places = new Map(before?.order.map((entry, place) => [entry.index, { ...entry, place }]));
  const sameUnit = before?.form.normalize === form.normalize;
  list.replaceChildren(
    ...order.slice(0, MOST_IN_RANKING).map(({ index, score, relative }, place) => {
      const item = element("li");
      const bar = item.appendChild(element("span", "bar"));
      bar.style.setProperty("--share", Math.max(0.01, (relative - lowest) / (1 - lowest)));
      const text = element("span", "text", form.texts[index]);
      text.dir = "auto";
      const notes = [];
      if (cut.has(index)) notes.push(`cut at ${maxLength} tokens`);
      if (before) notes.push(...changes(places.get(index), score, place, sameUnit));
      item.append(
        element("span", "score", score.toFixed(3)),
        text,
        element("span", "note", notes.join(", ")),
        element("span", "line", `line ${form.lines[index]}`),
      );
      return item;
    }),
  );
  const rest = order.length > MOST_IN_RANKING ? ` ${order.length - MOST_IN_RANKING} more are not shown.` : "";
  const far =
    lowest >= 0.3
      ? " Even texts that have nothing to do with each other are far from 0, so trust the order more than the size."
      : "";
  const raw = form.normalize ? "" : " Scores are dot products, as the vectors do not have the length 1.";
  scale.textContent = `The bars go from a cosine similarity of ${lowest.toFixed(1)} to 1.${far}${raw}${rest}`;
}

function changes(was, score, place, sameUnit) {
  const changed = [];
  if (sameUnit && Math.abs(was.score - score) >= 0.0005) changed.push(`was ${was.score.toFixed(3)}`);
  if (was.place !== place) changed.push(`was place ${was.place + 1}`);
  return changed;
}

/** The cosine similarity of each text to each; the stronger the colour, the closer. */
export function drawHeatmap(table, hint, { form, vectors }) {
  const some = vectors.slice(0, MOST_IN_HEATMAP);
  const all = some.map((row) => some.map((column) => cosine(row, column)));
  const others = all.flatMap((row, index) => row.filter((_, other) => other !== index));
  const [low, high] = [Math.min(...others), Math.max(...others)];
  const columns = element("tr");
  columns.append(element("td"), ...some.map((_, index) => header(index, "col", form)));
  const rows = all.map((row, index) => {
    const line = element("tr");
    line.append(
      header(index, "row", form),
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
  const rest = vectors.length > some.length ? ` These are the first ${some.length} of ${vectors.length} texts.` : "";
  hint.textContent = `Cosine similarity; the stronger the colour, the closer. The numbers outside are those of the lines.${rest}`;
}

function header(index, scope, { texts, lines }) {
  const cell = element("th", "", String(lines[index]));
  cell.scope = scope;
  cell.title = shortened(texts[index], 200);
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
  hint.textContent =
    `${vector.length} numbers from ${Math.min(...vector).toFixed(3)} (orange) to ${Math.max(...vector).toFixed(3)}` +
    ` (blue). The vector's length is ${norm(vector).toFixed(3)}.`;
}

/** At most so many characters of a text, none of them cut in half. */
export function shortened(text, length) {
  const characters = Array.from(text.slice(0, 2 * length));
  return characters.length > length ? `${characters.slice(0, length).join("")}…` : characters.join("");
}

function dot(a, b) {
  return a.reduce((sum, value, index) => sum + value * b[index], 0);
}

function norm(vector) {
  return Math.sqrt(dot(vector, vector));
}

function cosine(a, b) {
  return dot(a, b) / (norm(a) * norm(b));
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
