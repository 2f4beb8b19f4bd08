// Images and flags of the page: decoded when they are shown. Also the statistics of their pixels.
const N_LEVELS = 65536;

/** Decompress the two byte planes of an image to its 16-bit levels. */
async function unpack(data, n) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser cannot decompress the images. Use Firefox 113, Chrome 80, Safari 16.4 or newer.");
  }
  const text = atob(data);
  const packed = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) packed[at] = text.charCodeAt(at);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  if (planes.length !== 2 * n) throw new Error("An image of the page is damaged. Write the report again.");
  const levels = new Uint16Array(n);
  for (let at = 0; at < n; at++) levels[at] = planes[at] | (planes[n + at] << 8);
  return levels;
}
/** Decode an image: {w, h, binning, unit, centre, soft, values}, NaN where there is no value. */
async function decodeImage(image) {
  const { w, h, centre, soft, zero, step, unit, binning = 1 } = image;
  const levels = await unpack(image.data, w * h);
  const table = new Float32Array(N_LEVELS).fill(NaN);
  const values = new Float32Array(w * h);
  for (let at = 0; at < values.length; at++) {
    const level = levels[at];
    if (level && Number.isNaN(table[level])) table[level] = centre + soft * Math.sinh((level - zero) * step);
    values[at] = table[level];
  }
  return { w, h, binning, unit, centre, soft, values };
}
/** Decode flags: {w, h, binning, names, bits, counts}. */
async function decodeFlags(flags) {
  const { w, h, names, binning = 1 } = flags;
  const bits = await unpack(flags.data, w * h);
  const counts = names.map(() => 0);
  for (const word of bits) {
    for (let rest = word, bit = 0; rest; rest >>= 1, bit++) if (rest & 1) counts[bit]++;
  }
  return { w, h, binning, names, bits, counts };
}
/** Add two images; values that one of them lacks are NaN. */
function addImages(a, b) {
  return { ...a, values: a.values.map((value, at) => value + b.values[at]) };
}
function subtractImages(a, b) {
  const values = a.values.map((value, at) => value - b.values[at]);
  return { ...a, values, ...statistics(values) };
}
/** Median and noise of an image: the scale of its asinh stretch. */
function statistics(values) {
  const centre = medianOf(values.filter(Number.isFinite));
  const soft = 1.4826 * medianOf(values.filter(Number.isFinite).map((value) => Math.abs(value - centre)));
  return { centre, soft: soft || 1 };
}
/** Median of finite numbers, which are sorted in place; NaN of none. */
function medianOf(numbers) {
  const n = numbers.length;
  if (!n) return NaN;
  const sorted = (numbers instanceof Float32Array ? numbers : Float64Array.from(numbers)).sort();
  return n % 2 ? sorted[(n - 1) / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}
/** Median of the rows or columns of a region over usable pixels; NaN for those without any. */
function profileOf(image, direction, isUsable, [x0, x1, y0, y1]) {
  const { w, values } = image;
  const isRow = direction === "row";
  const [from, to, start, stop] = isRow ? [y0, y1, x0, x1] : [x0, x1, y0, y1];
  const line = new Float32Array(stop - start);
  const medians = [];
  for (let index = from; index < to; index++) {
    let n = 0;
    for (let across = start; across < stop; across++) {
      const at = isRow ? index * w + across : across * w + index;
      if (Number.isFinite(values[at]) && isUsable(at)) line[n++] = values[at];
    }
    medians.push(medianOf(line.slice(0, n)));
  }
  return medians;
}
/** Percentiles of an image: the limits between which the given share of its pixels lies. */
function percentiles(values, share) {
  const sorted = values.filter(Number.isFinite).sort();
  if (!sorted.length) return [0, 1];
  const at = (fraction) => sorted[Math.round(fraction * (sorted.length - 1))];
  return [at((1 - share) / 2), at((1 + share) / 2)];
}
/** The pixel in the middle of the light: median position of the brightest hundredth; without light, the centre. */
function middleOfLight(image) {
  const limit = percentiles(image.values, 0.98)[1];
  const [xs, ys] = [[], []];
  image.values.forEach((value, at) => {
    if (value < limit || !Number.isFinite(value)) return;
    xs.push(at % image.w);
    ys.push(Math.floor(at / image.w));
  });
  if (xs.length < 9) return [(image.w * image.binning) / 2, (image.h * image.binning) / 2];
  return [(medianOf(xs) + 0.5) * image.binning, (medianOf(ys) + 0.5) * image.binning];
}
