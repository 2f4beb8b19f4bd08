// Colours: from a value to a colour by a stretch and a colour map, and the colours of flags.
const COLOUR_MAPS = {
  inferno: [
    "000004",
    "160b39",
    "420a68",
    "6a176e",
    "932667",
    "bc3754",
    "dd513a",
    "f37819",
    "fca50a",
    "f6d746",
    "fcffa4",
  ],
  grey: ["000000", "ffffff"],
  diverging: [
    "053061",
    "2166ac",
    "4393c3",
    "92c5de",
    "d1e5f0",
    "f7f7f7",
    "fddbc7",
    "f4a582",
    "d6604d",
    "b2182b",
    "67001f",
  ],
};
/** colour of pixels without a value, different from all colours of the map */
const NO_VALUE = { inferno: [128, 128, 128], grey: [38, 70, 110], diverging: [90, 90, 90] };
const FLAG_COLOURS = { JUMP_DET: "3987e5", SATURATED: "eb6834", DO_NOT_USE: "969aa3" };
const MORE_COLOURS = [
  "e8c33d",
  "4fb286",
  "c678dd",
  "e06c9f",
  "56c7d8",
  "a8d65c",
  "ff9f8a",
  "8f9dff",
  "d9a066",
  "b8b8ff",
  "7fd1ae",
  "f2a2d6",
  "c9d1d9",
  "ffd27f",
  "9ad0f5",
  "d7f08a",
];
const GOOD_COLOUR = [18, 22, 28];
const N_COLOURS = 256;
/** A stretch maps the share of the range [0, 1] of a value to the share of the colours, and back. */
const STRETCHES = {
  linear: { to: (value) => value, back: (value) => value },
  asinh: {
    to: (value, { centre, soft }) => Math.asinh((value - centre) / soft),
    back: (value, { centre, soft }) => centre + soft * Math.sinh(value),
  },
  log: {
    to: (value, { low, high }) => Math.log10(1 + (999 * Math.max(0, value - low)) / (high - low)),
    back: (value, { low, high }) => low + ((10 ** value - 1) * (high - low)) / 999,
  },
};

function parseColour(text) {
  return [0, 2, 4].map((at) => parseInt(text.slice(at, at + 2), 16));
}
/** Interpolate the colours of a map: (256 * 3) bytes. */
function coloursOf(name) {
  const anchors = COLOUR_MAPS[name].map(parseColour);
  const colours = new Uint8ClampedArray(3 * N_COLOURS);
  for (let index = 0; index < N_COLOURS; index++) {
    const place = (index / (N_COLOURS - 1)) * (anchors.length - 1);
    const left = Math.min(Math.floor(place), anchors.length - 2);
    for (let channel = 0; channel < 3; channel++) {
      const [a, b] = [anchors[left][channel], anchors[left + 1][channel]];
      colours[3 * index + channel] = a + (b - a) * (place - left);
    }
  }
  return colours;
}
function colourOfFlag(name, index) {
  return parseColour(FLAG_COLOURS[name] ?? MORE_COLOURS[index % MORE_COLOURS.length]);
}

/** How the values of one or more images become colours: limits, stretch, colour map. */
class Scale {
  constructor(images, { stretch = "asinh", colours = "inferno", isSymmetric = false } = {}) {
    Object.assign(this, { images, stretch, colours, isSymmetric, listeners: new Set() });
    this.useShare(0.995);
  }
  /** Set the limits so that the given share of the pixels lies between them. */
  useShare(share) {
    const limits = this.images.map((image) => percentiles(image.values, share));
    let [low, high] = [Math.min(...limits.map((pair) => pair[0])), Math.max(...limits.map((pair) => pair[1]))];
    if (this.isSymmetric) [low, high] = [-Math.max(-low, high, 0), Math.max(-low, high, 0)];
    if (!(high > low)) [low, high] = [low - 0.5, low + 0.5];
    this.change({ low, high });
  }
  useImages(images) {
    this.images = images;
  }
  change(values) {
    Object.assign(this, values);
    const { centre, soft } = this.images[0];
    this.shape = { centre, soft, low: this.low, high: this.high };
    for (const listener of this.listeners) listener();
  }
  /** Return a function from a value to the share of the colours, and one back. */
  functions() {
    const { to, back } = STRETCHES[this.stretch];
    const [start, end] = [to(this.low, this.shape), to(this.high, this.shape)];
    return {
      share: (value) => (to(value, this.shape) - start) / (end - start),
      value: (share) => back(start + share * (end - start), this.shape),
    };
  }
  /** Paint an image into the pixels (RGBA) of a picture; the first row is at the bottom. */
  paint(image, pixels) {
    const { w, h, values } = image;
    const colours = coloursOf(this.colours);
    const none = NO_VALUE[this.colours];
    const { share } = this.functions();
    for (let y = 0; y < h; y++) {
      for (let x = 0, at = y * w, to = 4 * (h - 1 - y) * w; x < w; x++, at++, to += 4) {
        const value = values[at];
        pixels[to + 3] = 255;
        if (Number.isNaN(value)) {
          [pixels[to], pixels[to + 1], pixels[to + 2]] = none;
          continue;
        }
        const index = 3 * Math.max(0, Math.min(N_COLOURS - 1, Math.floor(N_COLOURS * share(value))));
        pixels[to] = colours[index];
        pixels[to + 1] = colours[index + 1];
        pixels[to + 2] = colours[index + 2];
      }
    }
  }
}

/** The flags of an exposure and which of them are shown. */
class FlagChoice {
  constructor(flags) {
    Object.assign(this, { flags, isOverImages: false, listeners: new Set() });
    this.colours = flags.names.map(colourOfFlag);
    this.shown = flags.names.map(() => true);
    // a pixel with several flags has the colour of the rarest
    this.drawn = flags.names.map((_, bit) => bit).sort((a, b) => flags.counts[b] - flags.counts[a]);
  }
  change(values) {
    Object.assign(this, values);
    for (const listener of this.listeners) listener();
  }
  showOnly(name) {
    this.change({ shown: this.flags.names.map((other) => name === undefined || other === name) });
  }
  namesAt(at) {
    return this.flags.names.filter((_, bit) => this.flags.bits[at] & (1 << bit));
  }
  paint(pixels, isAlone) {
    const { w, h, bits } = this.flags;
    const drawn = this.drawn.filter((bit) => this.shown[bit]);
    for (let y = 0; y < h; y++) {
      for (let x = 0, at = y * w, to = 4 * (h - 1 - y) * w; x < w; x++, at++, to += 4) {
        let colour = isAlone ? GOOD_COLOUR : null;
        for (const bit of drawn) if (bits[at] & (1 << bit)) colour = this.colours[bit];
        if (!colour) continue;
        [pixels[to], pixels[to + 1], pixels[to + 2]] = colour;
        pixels[to + 3] = 255;
      }
    }
  }
}
