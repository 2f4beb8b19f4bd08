// Kriging of 1/f noise: what conjugate gradients do between Fourier transforms, products of matrices and sums. Launches of an
// iteration: weigh_noise, or weigh_model and sum_rings; finish_product, step_solution, turn_direction.
//
// Vectors z are (n_systems, size) float32: amplitudes of the noise, real and imaginary parts in turn, in n_parts series of
// n_frequencies; the heights of blobs; a radial profile at its knots. Series are (n_systems, n_parts, n_samples). With several
// outputs, part 0 is the noise that they have in common; the others are the outputs. All values have the bits of kriging.py,
// slopes.py, scene.py and readout.py in operations/subtract_1overf/.
#include "types.cuh"

namespace gpucoron {

// Pixels of a sample, as in readout.py.
constexpr int BIN = 4;

// The noise that an output has at a sample.
__device__ inline float noise_at(const float* parts, int output, int64 sample, int n_parts, int64 n_samples) {
  return n_parts > 1 ? parts[sample] + parts[(1 + output) * n_samples + sample] : parts[sample];
}

// Weigh the noise of each output, and sum the outputs. weights : (n_systems, n_outputs, n_samples). grid: samples x systems.
__global__ void weigh_noise(const float* parts, const float* weights, float* series, int64 n_systems, int n_parts,
                            int64 n_samples) {
  const int64 sample = thread_pixel();
  if (sample >= n_samples) return;
  const int n_outputs = n_parts > 1 ? n_parts - 1 : 1;
  for (int64 system = blockIdx.y; system < n_systems; system += gridDim.y) {
    const int64 start = system * n_parts * n_samples;
    float total = 0.0f;
    for (int output = 0; output < n_outputs; ++output) {
      const float noise = noise_at(parts + start, output, sample, n_parts, n_samples);
      const float value = weights[(system * n_outputs + output) * n_samples + sample] * noise;
      if (n_parts > 1) series[start + (1 + output) * n_samples + sample] = value;
      total = output == 0 ? value : total + value;
    }
    series[start + sample] = total;
  }
}

// Make the weighted model of an image: noise, profile and fields. Write it times the standard deviation of each field, its
// shares in the rings inside and outside of a pixel, and its samples in the order of readout.
// fields, sigmas, weighted : (n_fields, ny, nx); shares : (2, ny, nx); profile : at the knots; ring, share : (ny, nx), the knot
// inside of a pixel and the weight of the next one; sees : (ny, nx), 0 for reference pixels. grid: bins of all rows.
__global__ void weigh_model(const float* parts, const float* fields, const float* sigmas, const float* profile, const int* ring,
                            const float* share, const float* sees, const float* weights, float* weighted, float* shares,
                            float* series, int n_fields, int n_parts, int64 n_samples, int ny, int nx, int n_bins,
                            int period) {
  const int64 thread = thread_pixel();
  if (thread >= int64(ny) * n_bins) return;
  const int row = int(thread / n_bins);
  const int bin = int(thread % n_bins);
  const int64 n_pixels = int64(ny) * nx;
  const int64 sample = int64(row) * period + bin;
  const int n_outputs = n_parts > 1 ? n_parts - 1 : 1;
  const int width = nx / n_outputs;
  float total = 0.0f;
  for (int output = 0; output < n_outputs; ++output) {
    const float noise = noise_at(parts, output, sample, n_parts, n_samples);
    float pairs[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < BIN; ++i) {
      const int place = bin * BIN + i;
      float value = 0.0f;
      if (place < width) {
        // Every second output is read in the opposite direction.
        const int64 at = int64(row) * nx + output * width + (output % 2 ? width - 1 - place : place);
        const float outside = share[at];
        const float inside = 1.0f - outside;
        float model = noise + (profile[ring[at]] * inside + profile[ring[at] + 1] * outside) * sees[at];
        for (int field = 0; field < n_fields; ++field) model += sigmas[field * n_pixels + at] * fields[field * n_pixels + at];
        value = weights[at] * model;
        for (int field = 0; field < n_fields; ++field)
          weighted[field * n_pixels + at] = sigmas[field * n_pixels + at] * value;
        const float seen = value * sees[at];
        shares[at] = seen * inside;
        shares[n_pixels + at] = seen * outside;
      }
      pairs[i / 2] = i % 2 ? pairs[i / 2] + value : value;
    }
    const float sum = pairs[0] + pairs[1];
    if (n_parts > 1) series[(1 + output) * n_samples + sample] = sum;
    total = output == 0 ? sum : total + sum;
  }
  series[sample] = total;
}

// Sum images over the pixels of each ring, row by row. ring : (ny, nx); sums : (n_images, ny, n_rings). grid: rows x images.
__global__ void sum_rings(const float* images, const int* ring, double* sums, int64 n_images, int ny, int nx, int n_rings) {
  const int64 row = thread_pixel();
  if (row >= ny) return;
  for (int64 image = blockIdx.y; image < n_images; image += gridDim.y) {
    const float* values = images + (image * ny + row) * nx;
    double* of_row = sums + (image * ny + row) * n_rings;
    for (int each = 0; each < n_rings; ++each) of_row[each] = 0.0;
    int current = ring[row * nx];
    double sum = 0.0;
    for (int x = 0; x < nx; ++x) {
      const int next = ring[row * nx + x];
      if (next != current) {
        of_row[current] = sum;
        sum = of_row[next];
        current = next;
      }
      sum += double(values[x]);
    }
    of_row[current] = sum;
  }
}

// Sum values over bands of neighbouring frequencies, in their order. values : (n_series, n_values); starts : (n_bands + 1);
// sums : (n_series, n_bands). grid: bands x series.
__global__ void sum_bands(const double* values, const int64* starts, double* sums, int64 n_series, int64 n_values, int n_bands) {
  const int64 band = thread_pixel();
  if (band >= n_bands) return;
  for (int64 series = blockIdx.y; series < n_series; series += gridDim.y) {
    double sum = 0.0;
    for (int64 at = starts[band]; at < starts[band + 1]; ++at) sum += values[series * n_values + at];
    sums[series * n_bands + band] = sum;
  }
}

// Interpolate values of rings linearly at the radius of each pixel, from the rings with enough pixels, as numpy.interp.
// values, middles, counts : (n_rings), at their mean radii. grid: pixels.
__global__ void spread_rings(const float* radius, const double* middles, const double* values, const int64* counts,
                             float* spread, int64 n_pixels, int n_rings, int64 fewest) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const double at = radius[pixel];
  int left = -1, right = -1;
  for (int ring = 0; ring < n_rings && right < 0; ++ring) {
    if (counts[ring] < fewest) continue;
    if (middles[ring] <= at)
      left = ring;
    else
      right = ring;
  }
  double value = 0.0;
  if (left >= 0 && (right < 0 || middles[left] == at)) {
    value = values[left];
  } else if (left >= 0) {
    const double slope = (values[right] - values[left]) / (middles[right] - middles[left]);
    value = slope * (at - middles[left]) + values[left];
  } else if (right >= 0) {
    value = values[right];
  }
  spread[pixel] = float(value);
}

// Complete products q of the matrix with p, and multiply both. `white` are the transforms of series; heights are in `product`
// already; sums : (2, ny, n_knots) of the shares, or null without a profile. grid: values of a vector x systems.
__global__ void finish_product(const float* white, const float* from_series, const double* sums, const float* direction,
                               float* product, float* products, int64 n_systems, int64 size, int64 n_amplitudes, int n_knots,
                               int ny) {
  const int64 index = thread_pixel();
  if (index >= size) return;
  const int64 knot = index - (size - n_knots);
  for (int64 system = blockIdx.y; system < n_systems; system += gridDim.y) {
    const int64 at = system * size + index;
    float value;
    if (index < n_amplitudes) {
      value = white[system * n_amplitudes + index] * from_series[index / 2] + direction[at];
    } else if (knot < 0) {
      value = product[at] + direction[at];
    } else {
      double inside = 0.0, outside = 0.0;
      for (int row = 0; row < ny; ++row) {
        inside += sums[int64(row) * n_knots + knot];
        if (knot > 0) outside += sums[int64(ny + row) * n_knots + knot - 1];
      }
      value = float(knot > 0 ? inside + outside : inside);
    }
    product[at] = value;
    products[at] = direction[at] * value;
  }
}

// Whether a system takes a step: it is not solved yet.
__device__ inline bool is_going(double remainder, double curvature, double limit) {
  return remainder > limit && curvature > 0.0;
}

// Step along the direction, precondition the remainder and multiply both. remainders : (n_systems), before the step;
// factors : (n_systems, n_factors); values of z beyond them are found otherwise. grid: values x systems.
__global__ void step_solution(const float* direction, const float* product, const double* remainders, const double* curvatures,
                              const float* factors, float* solution, float* rest, float* z, float* products, int64 n_systems,
                              int64 size, int64 n_factors, double limit) {
  const int64 index = thread_pixel();
  if (index >= size) return;
  for (int64 system = blockIdx.y; system < n_systems; system += gridDim.y) {
    const int64 at = system * size + index;
    const bool going = is_going(remainders[system], curvatures[system], limit);
    const float step = going ? float(remainders[system] / curvatures[system]) : 0.0f;
    solution[at] += step * direction[at];
    const float left = rest[at] - step * product[at];
    rest[at] = left;
    if (index >= n_factors) continue;
    const float scaled = left * factors[system * n_factors + index];
    z[at] = scaled;
    products[at] = left * scaled;
  }
}

// Choose the next direction, and scale its amplitudes to those of series. grid: values x systems.
__global__ void turn_direction(const float* z, const double* remainders, const double* curvatures, const double* new_remainders,
                               const float* to_series, float* direction, float* amplitudes, int64 n_systems, int64 size,
                               int64 n_amplitudes, double limit) {
  const int64 index = thread_pixel();
  if (index >= size) return;
  for (int64 system = blockIdx.y; system < n_systems; system += gridDim.y) {
    const int64 at = system * size + index;
    const bool going = is_going(remainders[system], curvatures[system], limit);
    const float ratio = going ? float(new_remainders[system] / remainders[system]) : 0.0f;
    const float value = direction[at] * ratio + z[at];
    direction[at] = value;
    if (index < n_amplitudes) amplitudes[system * n_amplitudes + index] = value * to_series[index / 2];
  }
}

}  // namespace gpucoron
