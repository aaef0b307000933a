// Unit rows less the mean of their class: u_i = m_c + w_i.
#pragma once

#include <vector>

#include "unit_rows.h"

namespace tfc::ops {

struct Classes {
  const ValidRows& valid;
  std::vector<double> means;    // [classes, width]
  std::vector<double> counts;   // [classes] rows
  std::vector<double> squares;  // [rows] |w_i|^2
  std::vector<double> scatter;  // [classes] their mean
  std::vector<double> centre;   // [width] mean of all rows
  std::vector<double> along;    // [rows] centre.w_i

  // Distance of the mean product w_i.w_j of the pairs of class c from 0, downwards.
  double shift(int64_t c) const { return scatter[c] / (counts[c] - 1); }
};

Classes describe(const UnitRows& rows, const ValidRows& valid);

// The rows w_i. Refers to `classes`.
UnitRows centred_rows(const UnitRows& rows, const Classes& classes);

// The means m_c as they are, to be packed. Refers to `classes`.
UnitRows rows_of_means(const Classes& classes);

}  // namespace tfc::ops
