// Divisions by one number, on a CPU.
#pragma once

#include "cpu/wide.hpp"

namespace gpucoron {

// Quotients of samples and a time, both rounded to float32, in float64.
//
// A product with the inverse is wrong by at most two units of the last place. The fused remainder is exact, and corrects it to
// within 2^-105 of the quotient, while no quotient of numbers with 24 bits is nearer than 2^-78 to the middle of two float64
// numbers. So it is rounded as by a division (Markstein 1990, IBM J. Res. Dev. 34, 111), except that -0 becomes 0. Infinite
// samples become NaN.
template <class Reals>
class DivisorOf {
 public:
  explicit DivisorOf(double value) : number(value), inverse(1.0 / value) {}

  // Whether quotients are right: for a positive, finite time.
  bool is_usable() const { return number > 0.0 && is_finite(number) && is_finite(inverse); }

  Reals operator()(const Reals& values) const {
#ifdef __FMA__
    const Reals quotients = values * inverse;
    return fused(fused(quotients, all_of<Reals>(-number), values), all_of<Reals>(inverse), quotients);
#else
    return values / number;
#endif
  }

 private:
  double number, inverse;
};

}  // namespace gpucoron
