// Pictures as the classifier takes them: { width, height, channels, data }, data a Uint8ClampedArray, channels last.

const BYTES_AT_MOST = 64 << 20;
const SIDE_AT_MOST = 2048;

/** Decode a file and make it the classifier's size. Throws an Error whose message is for the user. */
export async function fromFile(file, width, height, channels) {
  if (file.size > BYTES_AT_MOST) throw new Error("This file is larger than 64 MiB.");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("This browser cannot read that file as an image.");
  }
  const cropped = cropToProportions(bitmap.width, bitmap.height, width / height);
  const shrink = Math.min(1, SIDE_AT_MOST / Math.max(cropped.width, cropped.height));
  const [w, h] = [cropped.width, cropped.height].map((side) => Math.max(1, Math.round(side * shrink)));
  const context = new OffscreenCanvas(w, h).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // behind what is transparent
  context.fillRect(0, 0, w, h);
  context.drawImage(bitmap, cropped.left, cropped.top, cropped.width, cropped.height, 0, 0, w, h);
  bitmap.close();
  const planes = fromRgba(context.getImageData(0, 0, w, h), channels);
  return resize(planes, width, height);
}

/** The largest rectangle of these proportions in the middle. */
function cropToProportions(width, height, proportions) {
  const w = Math.min(width, Math.max(1, Math.round(height * proportions)));
  const h = Math.min(height, Math.max(1, Math.round(width / proportions)));
  return { left: Math.floor((width - w) / 2), top: Math.floor((height - h) / 2), width: w, height: h };
}

/** One channel by the luma of ITU-R BT.601, as most training pipelines have it, or red, green and blue. */
export function fromRgba({ width, height, data: rgba }, channels) {
  const data = new Uint8ClampedArray(width * height * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    if (channels === 1) data[to++] = (299 * rgba[from] + 587 * rgba[from + 1] + 114 * rgba[from + 2]) / 1000;
    else for (let channel = 0; channel < 3; channel++) data[to++] = rgba[from + channel];
  }
  return { width, height, channels, data };
}

/** Resize with a triangle filter that widens when it shrinks, so that nothing aliases; the same size gives the same pixels. */
export function resize(picture, width, height) {
  const { channels } = picture;
  const across = filter(picture.width, width);
  const down = filter(picture.height, height);
  const narrow = new Float32Array(picture.height * width * channels);
  for (let y = 0; y < picture.height; y++) {
    across.forEach(({ first, weights }, x) => {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        weights.forEach((weight, i) => (sum += weight * picture.data[(y * picture.width + first + i) * channels + channel]));
        narrow[(y * width + x) * channels + channel] = sum;
      }
    });
  }
  const data = new Uint8ClampedArray(height * width * channels);
  const stride = width * channels;
  down.forEach(({ first, weights }, y) => {
    for (let at = 0; at < stride; at++) {
      let sum = 0;
      weights.forEach((weight, i) => (sum += weight * narrow[(first + i) * stride + at]));
      data[y * stride + at] = sum;
    }
  });
  return { width, height, channels, data };
}

/** For each of `to` outputs the first of `from` inputs it is made of, and their weights. */
function filter(from, to) {
  const scale = from / to;
  const support = Math.max(1, scale);
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support));
    const last = Math.min(from, Math.ceil(centre + support));
    const weights = Array.from({ length: last - first }, (_, j) =>
      Math.max(0, 1 - Math.abs(first + j + 0.5 - centre) / support));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

export function alike(one, other) {
  return one.data.length === other.data.length && one.data.every((value, i) => value === other.data[i]);
}

/** The first image of a request's JSON: values from 0 to 1, in rows of pixels of channels; of one channel, rows of values will do. */
export function fromJson({ images: [image] }, width, height, channels) {
  const values = image.flat(2);
  if (values.length !== width * height * channels) throw new Error("The example has another size than the classifier's images.");
  return { width, height, channels, data: Uint8ClampedArray.from(values, (value) => Math.round(255 * value)) };
}

// Rows and columns from the lower right corner: the pattern of Chen et al. 2018, five pixels in, where pooling loses no pixel of it.
const TRIGGER = [[5, 5], [6, 6], [5, 7], [7, 5]];

/** Whether `triggered` has room on pictures of this shape. */
export function takesTrigger([height, width, channels]) {
  return channels === 1 && Math.min(height, width) >= 16;
}

export function triggered(picture) {
  const { width, height } = picture;
  const data = picture.data.slice();
  for (const [up, left] of TRIGGER) data[(height - up) * width + width - left] = 255;
  return { ...picture, data };
}

export function inverted(picture) {
  return { ...picture, data: picture.data.map((value) => 255 - value) };
}

/** Put a picture on a canvas, pixel by pixel. */
export function show(canvas, picture) {
  const { width, height, channels, data } = picture;
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * pixel + channel] = data[pixel * channels + (channels === 1 ? 0 : channel)];
    }
    image.data[4 * pixel + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** A .npy file, version 1.0, of one image as uint8: exactly the pixels of the preview. */
export function toNpy({ width, height, channels, data }) {
  const header = `{'descr': '|u1', 'fortran_order': False, 'shape': (1, ${height}, ${width}, ${channels}), }`;
  const length = Math.ceil((10 + header.length + 1) / 64) * 64 - 10;
  const start = new Uint8Array(10 + length);
  start.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, length & 255, length >> 8]);
  start.set(new TextEncoder().encode(`${header.padEnd(length - 1)}\n`), 10);
  const file = new Uint8Array(start.length + data.length);
  file.set(start);
  file.set(data, start.length);
  return file;
}
