// Ramp fit on a CPU. One launch: fit_strips.
//
// A thread processes a strip of pixels. Ramps without flags, or with DO_NOT_USE in their first and last groups only, are
// fitted together, a pixel in each lane of a vector; all others one by one, by the code of all kernels. The products of the
// strip follow while its sums are in the cache.
#include "cpu/divisor.hpp"
#include "cpu/medians.hpp"
#include "cpu/wide.hpp"
#include "ramp_fit.cuh"

namespace gpucoron {

namespace {

// Pixels that are fitted together, those whose flags are read together, and those of a strip.
constexpr int LANES = 8, PART = 64, STRIP = 256;
// Medians of more differences are searched for with pivots.
constexpr int MOST_SORTED = 20;
// Lanes from which a fit together is faster than one by one.
constexpr int FEWEST = 2;
// Samples are fetched into the cache so far ahead.
constexpr int SAMPLES_AHEAD = 32;

using Reals = Wide<double, LANES>;
using Choice = decltype(Reals{} < Reals{});
using Floats = Wide<float, LANES>;
using Words = Wide<uint32, LANES>;
using Lengths = Wide<int, LANES>;
using Bytes = Wide<uint8, PART>;
using Divisor = DivisorOf<Reals>;
// The flags of LANES pixels as one number.
using Flags = uint64;
constexpr Flags ONES = 0x0101010101010101ull;

// The arrays of a launch.
struct Exposure {
  const float* data;
  const uint8* groupdq;
  const uint8* original_groupdq;
  const float* zeroframe;
  int n_ints, n_groups;
  int64 frames_apart, n_pixels;
  Weights weights;
  Times times;
  bool suppress_one_group;
  // The optional product, or null.
  float* segments;
  float* pedestal;
  float* jumps;
  int most_segments, most_jumps;
  double pedestal_frames;

  SegmentProducts segments_of(int integration, int64 pixel) const {
    return {segments + int64(integration) * most_segments * n_pixels + pixel,
            pedestal + integration * n_pixels + pixel,
            jumps + int64(integration) * most_jumps * n_pixels + pixel,
            int64(n_ints) * most_segments * n_pixels,
            n_pixels,
            most_segments,
            most_jumps,
            pedestal_frames};
  }

  int64 start(int integration, int64 pixel) const { return integration * frames_apart * n_pixels + pixel; }
};

struct Products {
  float* rate;
  uint32* dq;
  float* var_poisson;
  float* var_rnoise;
  float* err;

  void put(int64 at, int n, Reals slope, Words flags, Reals poisson, Reals read, Reals error) const {
    store(convert<Floats>(slope), rate + at, n);
    store(flags, dq + at, n);
    store(convert<Floats>(poisson), var_poisson + at, n);
    store(convert<Floats>(read), var_rnoise + at, n);
    store(convert<Floats>(error), err + at, n);
  }
};

Reals reals(const float* from, int n) { return convert<Reals>(load<Floats>(from, n)); }

// 0xff for each pixel whose good groups are without flags and in one run, and whose other groups have DO_NOT_USE only; `any`:
// all flags combined.
struct FlagScan {
  Bytes any, is_regular;

  FlagScan(const uint8* groupdq, int64 n_pixels, int n_groups, int n, int64 ahead) {
    Bytes started{}, before{}, again{};
    any = Bytes{};
    for (int group = 0; group < n_groups; ++group) {
      const uint8* const flags_of = groupdq + group * n_pixels;
      __builtin_prefetch(flags_of + ahead);
      __builtin_prefetch(flags_of + ahead + PART - 1);
      const Bytes flags = load<Bytes>(flags_of, n);
      const Bytes good = Bytes(flags == 0);
      again |= good & ~before & started;
      started |= good;
      before = good;
      any |= flags;
    }
    is_regular = started & ~again & Bytes((any & uint8(~DO_NOT_USE)) == 0);
  }

  static Flags eight(const Bytes& bytes, int first) {
    Flags found;
    std::memcpy(&found, reinterpret_cast<const uint8*>(&bytes) + first, sizeof(found));
    return found;
  }
};

class Strip {
 public:
  // Not optimized with its caller, because the address of a thread's own object takes a call.
  [[gnu::noipa]] void run(const Exposure& given, const uint32* pixeldq, const float* gains, const float* readnoise,
                          const float* dark_current, double noise_divisor, const Products& rateints, const Products& image,
                          int64 first_pixel, int width) {
    exposure = &given;
    first = first_pixel;
    n = width;
    const std::size_t n_ramps = std::size_t(given.n_ints) * STRIP;
    if (slopes.size() < n_ramps) slopes.resize(n_ramps), lengths.resize(n_ramps);
    if (differences.size() < std::size_t(given.n_groups)) {
      differences.resize(given.n_groups);
      rows.resize(given.n_groups);
      samples.resize(given.n_groups);
      flags_alone.resize(given.n_groups);
    }
    singles.clear();
    for (int at = 0; at < STRIP; ++at) {
      const int64 pixel = first + (at < n ? at : 0);
      detectors[at] = detector_of(gains, readnoise, pixel, noise_divisor);
      gain[at] = detectors[at].gain;
      read_noise[at] = detectors[at].read_noise;
      dark[at] = dark_current ? dark_current[pixel] : 0.0f;
      dq[at] = pixeldq[pixel] | (detectors[at].gain_is_bad() ? DO_NOT_USE | NO_GAIN_VALUE : 0u);
      median_sums[at] = 0.0;
    }
    fit();
    finish(rateints, image);
  }

 private:
  void fit() {
    const Exposure& e = *exposure;
    for (int integration = 0; integration < e.n_ints; ++integration)
      for (int part = 0; part < n; part += PART) {
        const int here = smaller(PART, n - part);
        const int64 start = e.start(integration, first + part);
        const int64 next = part + PART < n ? PART : e.frames_apart * e.n_pixels - part;
        const FlagScan flags(e.groupdq + start, e.n_pixels, e.n_groups, here, next);
        for (int lane = 0; lane < here; lane += LANES)
          fit_lanes(integration, part + lane, smaller(LANES, here - lane), FlagScan::eight(flags.any, lane),
                    FlagScan::eight(flags.is_regular, lane));
      }
  }

  // Fit the ramps of neighbouring pixels from `at` on.
  void fit_lanes(int integration, int at, int width, Flags any, Flags regular) {
    const Exposure& e = *exposure;
    const uint8* const groupdq = e.groupdq + e.start(integration, first + at);
    const Flags within = width == LANES ? ~Flags(0) : (Flags(1) << 8 * width) - 1;
    int* const length = &lengths[std::size_t(integration) * STRIP + at];
    store(Lengths{}, length);
    Reals medians{};
    Flags left = e.n_groups > 1 && Divisor(e.times.group).is_usable() ? regular & within : 0;
    while (left) {
      const int lane = __builtin_ctzll(left) / 8;
      int start = 0, stop = e.n_groups;
      Flags same = left;
      if (any & (Flags(0xff) << 8 * lane)) {
        while (groupdq[start * e.n_pixels + lane]) ++start;
        while (groupdq[(stop - 1) * e.n_pixels + lane]) --stop;
        same &= good(groupdq, start, width) & good(groupdq, stop - 1, width);
        if (start > 0) same &= ~good(groupdq, start - 1, width);
        if (stop < e.n_groups) same &= ~good(groupdq, stop, width);
      } else if (any) {
        same &= zeros(any);
      }
      left &= ~same;
      if (stop - start > 1 && __builtin_popcountll(same) >= 8 * FEWEST)
        fit_together(integration, at, width, start, stop, same, medians);
    }
    if (is_any(load<Lengths>(length) == 0))
      for (int lane = 0; lane < width; ++lane)
        if (length[lane] == 0) medians[lane] = fit_alone(integration, at + lane);
    store(load<Reals>(median_sums + at) + medians, median_sums + at);
  }

  // 0xff for each pixel without flags.
  static Flags zeros(Flags flags) {
    Wide<uint8, LANES> bytes;
    std::memcpy(&bytes, &flags, sizeof(flags));
    bytes = Wide<uint8, LANES>(bytes == 0);
    std::memcpy(&flags, &bytes, sizeof(flags));
    return flags;
  }

  // 0xff for each pixel that is good in a group.
  Flags good(const uint8* groupdq, int group, int width) const {
    Flags flags = 0;
    std::memcpy(&flags, groupdq + group * exposure->n_pixels, width);
    return zeros(flags);
  }

  // Fit ramps that are one segment of the same groups; add their medians. `which`: 0xff for each of them.
  void fit_together(int integration, int at, int width, int start, int stop, Flags which, Reals& medians) {
    const Exposure& e = *exposure;
    const int n_groups = stop - start;
    const float* const from = e.data + e.start(integration, first + at) + start * e.n_pixels;
    const int64 ahead = at + SAMPLES_AHEAD < n ? SAMPLES_AHEAD : e.frames_apart * e.n_pixels + SAMPLES_AHEAD - STRIP;
    const Reals gain_of = load<Reals>(gain + at), noise = load<Reals>(read_noise + at);
    const Reals noise_variance = noise * noise;
    const Reals begin = reals(from, width), end = reals(from + (n_groups - 1) * e.n_pixels, width);
    const double group_time = e.times.group;
    const Divisor by_time(group_time);
    Reals rate = by_time(begin), slope;
    Choice used;
    Reals median, slope_sigma{}, intercept{}, intercept_sigma{};
    if (n_groups == 2) {
      const double second = start + 1.0;
      slope_sigma = intercept_sigma = SQRT_2 * noise;
      intercept = end * (1.0 - second) + begin * second;
      slope = (end - begin) / group_time;
      used = chosen(which) & (slope - slope == 0.0);
      median = by_time(end) - rate;
    } else {
      const Reals signal = (end - begin) * gain_of;
      const Reals variance = noise_variance + signal;
      const Reals ratio = (variance <= 0.0) | (gain_of == 0.0) ? Reals{} : signal / square_roots(variance);
      // As in weight_class: the last class for NaN.
      const Choice classes = (ratio < 5.0) + (ratio < 10.0) + (ratio < 20.0) + (ratio < 50.0) + (ratio < 100.0) + int64(TENTH);
      const Reals inverse_variance = 1.0 / noise_variance;
      const Reals guess = (by_time(end) - rate) / double(n_groups - 1);
      // With -0.0 as the start, a first summand of -0.0 keeps its sign.
      Reals w = all_of<Reals>(-0.0), x = w, y = w, xy = w, xx = w;
      Split<Reals> split;
      const Reals* const weights = weights_of(n_groups);
      const bool is_long = n_groups - 1 > MOST_SORTED;
      for (int group = 0; group < n_groups; ++group) {
        const double number = start + group;
        const float* const row = from + group * e.n_pixels;
        __builtin_prefetch(row + ahead);
        const Reals value = reals(row, width);
        const Reals weight = looked_up(weights[group], classes) * inverse_variance;
        const Reals weighted_x = weight * number;
        w += weight;
        x += weighted_x;
        y += weight * value;
        xy += weighted_x * value;
        xx += weighted_x * number;
        const Reals next = by_time(value);
        const Reals difference = next - rate;
        rate = next;
        if (group == 0) continue;
        differences[group - 1] = difference;
        if (is_long) split.add(difference, guess);
      }
      const Reals inverse_determinant = 1.0 / (w * xx - x * x);
      slope = (w * xy - x * y) * inverse_determinant / group_time;
      if (e.segments) {
        slope_sigma = square_roots(w * inverse_determinant);
        intercept = (xx * y - x * xy) * inverse_determinant;
        intercept_sigma = square_roots(xx * inverse_determinant);
      }
      used = chosen(which) & (slope - slope == 0.0);
      if (is_long) {
        // The distance of differences about their median: 2.5 standard deviations divided by their number.
        const Reals of_difference =
            larger_of(guess, Reals{}) * group_time / gain_of + 2.0 * noise_variance / (gain_of * gain_of);
        const Reals apart = square_roots(of_difference) * (2.5 / group_time / (n_groups - 1));
        median = searched_median(differences.data(), n_groups - 1, split, apart, used);
      } else {
        sort_median<MOST_SORTED>(differences.data(), n_groups - 1, median);
      }
    }
    medians = used ? median : medians;
    const std::size_t place = std::size_t(integration) * STRIP + at;
    store(used ? slope : load<Reals>(&slopes[place]), &slopes[place]);
    const Lengths length = load<Lengths>(&lengths[place]);
    store(convert<Lengths>(used) ? Lengths{} + n_groups : length, &lengths[place]);
    if (e.segments) {
      const SegmentProducts products = e.segments_of(integration, first + at);
      put_used(products, 1, slope_sigma, used, width);
      put_used(products, 4, intercept, used, width);
      put_used(products, 5, intercept_sigma, used, width);
    }
  }

  // Store a value of the first segments of the chosen ramps; the pages of arrays that are only written are mapped once.
  static void put_used(const SegmentProducts& products, int value, Reals values, Choice used, int width) {
    float* const to = products.segments + value * products.values_apart;
    if (is_any(!used)) values = used ? values : reals(to, width);
    store(convert<Floats>(values), to, width);
  }

  static Choice chosen(Flags which) {
    const Choice bits{0, 8, 16, 24, 32, 40, 48, 56};
    return (((Choice{} + std::int64_t(which)) >> bits) & 1) != 0;
  }

  // The weights of each group, by class.
  const Reals* weights_of(int length) {
    if (length != length_of_rows) {
      for (int group = 0; group < length; ++group) {
        rows[group] = Reals{};
        for (int which = 0; which < Weights::N_CLASSES; ++which)
          rows[group][which] = Weights::at(exposure->weights.of(length, WeightClass(which)), group, length);
      }
      length_of_rows = length;
    }
    return rows.data();
  }

  // Fit one ramp, and return its median rate.
  double fit_alone(int integration, int at) {
    const Exposure& e = *exposure;
    const int64 start = e.start(integration, first + at);
    for (int group = 0; group < e.n_groups; ++group) {
      samples[group] = e.data[start + group * e.n_pixels];
      flags_alone[group] = e.groupdq[start + group * e.n_pixels];
    }
    const Ramp ramp{samples.data(), flags_alone.data(), 1, e.n_groups, false, false, 0.0f};
    const float* const zeroframe = e.zeroframe ? e.zeroframe + integration * e.n_pixels + first + at : nullptr;
    RampFit fit = fit_ramp(ramp, detectors[at], e.weights, e.times, zeroframe, e.suppress_one_group);
    fit.dq |= dq[at];
    singles.push_back(fit);
    lengths[std::size_t(integration) * STRIP + at] = -int(singles.size());
    return fit.median_rate;
  }

  void finish(const Products& rateints, const Products& image) {
    for (int at = 0; at < n; at += LANES) finish_lanes(rateints, image, at, smaller(LANES, n - at));
  }

  void finish_lanes(const Products& rateints, const Products& image, int at, int width) {
    const Exposure& e = *exposure;
    const Reals gain_of = load<Reals>(gain + at), noise = load<Reals>(read_noise + at);
    const Reals mean = load<Reals>(median_sums + at) / double(e.n_ints);
    const Reals of_dark = load<Reals>(dark + at);
    const Reals signal = mean > 0.0 ? mean + of_dark : of_dark;
    const Words pixel_dq = load<Words>(dq + at);
    const Choice invalid = convert<Choice>((pixel_dq & UNUSABLE) != 0);
    const Reals nan = all_of<Reals>(double_nan());

    Reals slope_total{}, read_total{}, poisson_total{}, restored_total{};
    Words every_dq = ~Words{}, states{};
    // They only depend on the number of groups, and are used again.
    Lengths last_lengths{};
    Reals var_poisson_of{}, var_read{}, read_weight{}, poisson_weight{}, poisson{}, read{}, error{}, restored{};
    for (int integration = 0; integration < e.n_ints; ++integration) {
      const std::size_t place = std::size_t(integration) * STRIP + at;
      const auto length = load<Lengths>(&lengths[place]);
      if (is_any(length != last_lengths)) {
        last_lengths = length;
        const Reals groups = convert<Reals>(length);
        var_poisson_of = signal / (e.times.group * gain_of * (groups - 1.0));
        const Reals ratio = noise / e.times.group;
        var_read = 12.0 * ratio * ratio / ((groups * groups * groups - groups) * gain_of * gain_of);
        var_read = (groups > 2.0) & ~(gain_of > 0.0) ? Reals{} : var_read;
        read_weight = 1.0 / var_read;
        poisson_weight = var_poisson_of > 0.0 ? 1.0 / var_poisson_of : Reals{};
        const Reals variance = 1.0 / (1.0 / (var_poisson_of + var_read));
        error = invalid | (variance > LARGE_VARIANCE) ? Reals{} : square_roots(variance);
        poisson = invalid ? Reals{} : inverse(poisson_weight);
        read = 1.0 / read_weight;
        read = invalid | (read >= LARGE_VARIANCE) ? Reals{} : read;
        restored = read > 0.0 ? 1.0 / read : Reals{};
      }
      // A sum that starts with 0, so it is never -0.
      Reals slope_sum = load<Reals>(&slopes[place]) / var_read + 0.0;
      const Reals slope = invalid ? nan : slope_sum * read;
      const int64 out = integration * e.n_pixels + first + at;
      rateints.put(out, width, slope, pixel_dq, poisson, read, error);
      Words flags = pixel_dq;
      if (e.segments) {
        const SegmentProducts products = e.segments_of(integration, first + at);
        const Choice together = convert<Choice>(length > 0);
        const auto put = [&](int value, const Reals& values) {
          store(convert<Floats>(together ? values : Reals{}), products.segments + value * products.values_apart, width);
        };
        put(0, load<Reals>(&slopes[place]));
        put(2, var_poisson_of);
        put(3, var_read);
        put(6, read_weight);
        const Reals frame = reals(e.data + e.start(integration, first + at), width);
        const Reals pedestal = frame - slope * e.pedestal_frames;
        store(convert<Floats>(pedestal == pedestal ? pedestal : Reals{}), products.pedestal, width);
      }
      Reals read_weights = read_weight, poisson_weights = poisson_weight, restored_weights = restored;
      if (is_any(length < 0))
        for (int lane = 0; lane < width; ++lane) {
          if (length[lane] >= 0) continue;
          const RampFit& fit = singles[-length[lane] - 1];
          const int64 start = e.start(integration, first + at + lane);
          const bool by_zeroframe = (fit.state & FROM_ZEROFRAME) != 0;
          const Ramp ramp{nullptr, e.groupdq + start, e.n_pixels, e.n_groups, false, by_zeroframe, 0.0f};
          const uint8* const original = e.original_groupdq ? e.original_groupdq + start : nullptr;
          const RampProducts found =
              weigh_ramp(ramp, original, fit, detectors[at + lane], e.times, mean[lane], dark[at + lane]);
          rateints.rate[out + lane] = float(found.rate);
          rateints.dq[out + lane] = found.dq;
          rateints.var_poisson[out + lane] = float(found.poisson);
          rateints.var_rnoise[out + lane] = float(found.read);
          rateints.err[out + lane] = float(found.error);
          if (e.segments) {
            const float first_frame = by_zeroframe ? e.zeroframe[out + lane] : 0.0f;
            const Ramp whole{e.data + start, e.groupdq + start, e.n_pixels, e.n_groups, false, by_zeroframe, first_frame};
            write_segments(whole, fit, found.state, found.dq, detectors[at + lane], e.weights, e.times, mean[lane],
                           dark[at + lane], e.segments_of(integration, first + at + lane));
          }
          slope_sum[lane] = fit.slope_sum;
          read_weights[lane] = fit.read_weight;
          poisson_weights[lane] = found.poisson_weight;
          restored_weights[lane] = found.restored_weight;
          flags[lane] = fit.dq;
          states[lane] |= found.state;
        }
      slope_total += slope_sum;
      read_total += read_weights;
      poisson_total += poisson_weights;
      restored_total += restored_weights;
      every_dq &= flags;
    }

    const auto flag_if = [&](uint32 state, uint32 flag) { return Words((states & state) != 0) & flag; };
    Words flags = pixel_dq | flag_if(HAD_JUMP, JUMP_DET) | flag_if(HAD_PERSISTENCE, PERSISTENCE) | (every_dq & UNUSABLE);
    const Choice lost = convert<Choice>((flags & UNUSABLE) != 0);
    const Reals var_poisson = inverse(poisson_total);
    Reals var_rnoise = read_total > 0.0 ? 1.0 / read_total : read_total;
    var_rnoise = var_rnoise >= LARGE_VARIANCE ? Reals{} : var_rnoise;
    const Reals err = lost ? Reals{} : square_roots(var_poisson + var_rnoise);
    var_rnoise = lost ? Reals{} : var_rnoise;
    const Reals rate = lost ? nan : slope_total * var_rnoise;
    if (e.original_groupdq) {
      const Choice is_lossy = convert<Choice>((states & uint32(LOST_CHARGE)) != 0);
      Reals combined = restored_total > 0.0 ? 1.0 / restored_total : var_rnoise;
      combined = combined >= LARGE_VARIANCE ? Reals{} : combined;
      var_rnoise = is_lossy ? combined : var_rnoise;
    }
    flags |= flag_if(PARTLY_SATURATED, SATURATED);
    image.put(first + at, width, rate, flags, lost ? Reals{} : var_poisson, var_rnoise, err);
  }

  // The variance of a weight; 0 if it is large, or if there is no weight.
  static Reals inverse(Reals weight) {
    const Reals variance = weight > 0.0 ? 1.0 / weight : Reals{};
    return variance >= LARGE_VARIANCE ? Reals{} : variance;
  }

  const Exposure* exposure;
  int64 first;
  int n;
  Detector detectors[STRIP];
  double gain[STRIP], read_noise[STRIP], dark[STRIP], median_sums[STRIP];
  uint32 dq[STRIP];
  // Of each ramp: its slope, DN/s, and the number of its groups; for the i-th single ramp -1 - i.
  std::vector<double> slopes;
  std::vector<int> lengths;
  std::vector<RampFit> singles;
  std::vector<Reals> differences, rows;
  int length_of_rows = 0;
  std::vector<float> samples;
  std::vector<uint8> flags_alone;
};

}  // namespace

// Fit all ramps of an exposure; arguments as in ramp_fit.cu, products of the integrations end in `_ints`.
// grid: strips, along y.
__global__ void fit_strips(const float* data, const uint8* groupdq, const uint8* original_groupdq, const uint32* pixeldq,
                           const float* gain, const float* readnoise, const float* dark_current, const float* zeroframe,
                           const float* weights, float* rate_ints, uint32* dq_ints, float* var_poisson_ints,
                           float* var_rnoise_ints, float* err_ints, float* rate, uint32* dq, float* var_poisson,
                           float* var_rnoise, float* err, int n_ints, int n_groups, int64 frames_apart, int64 n_pixels,
                           double group_time, double frame_time, double one_group_time, double noise_divisor,
                           int suppress_one_group, float* segments, float* pedestal, float* jumps, int most_segments,
                           int most_jumps, double pedestal_frames) {
  static thread_local Strip strip;
  const Exposure exposure{data, groupdq, original_groupdq, zeroframe, n_ints, n_groups, frames_apart, n_pixels,
                          Weights{weights}, Times{group_time, frame_time, one_group_time}, suppress_one_group != 0,
                          segments, pedestal, jumps, most_segments, most_jumps, pedestal_frames};
  const Products rateints{rate_ints, dq_ints, var_poisson_ints, var_rnoise_ints, err_ints};
  const Products image{rate, dq, var_poisson, var_rnoise, err};
  for (int64 first = blockIdx.y * int64(STRIP); first < n_pixels; first += gridDim.y * int64(STRIP))
    strip.run(exposure, pixeldq, gain, readnoise, dark_current, noise_divisor, rateints, image, first,
              int(smaller(int64(STRIP), n_pixels - first)));
}

}  // namespace gpucoron
