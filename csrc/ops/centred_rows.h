// Unit rows less the mean of their class: u_i = m_c + w_i.
#pragma once

#include <vector>

#include "unit_rows.h"

namespace tfc::ops {

// How each row is made a unit row, and the sums of the unit rows: what is known after reading them once.
struct ScaledRows {
  struct Run {
    int64_t label;        // as given
    int64_t first, last;  // positions, of one class
  };
  std::vector<cpu::UnitScale> scales;  // by row
  std::vector<Run> runs;               // class after class
  std::vector<double> sums;            // [runs, width] over the rows that are finite and not all zero
};
ScaledRows scaled_rows(const at::Tensor& rows, const Grouping& groups);

struct Classes {
  const ValidRows& valid;
  std::vector<double> means;   // [classes, width]
  std::vector<double> counts;  // [classes] rows
  std::vector<double> centre;  // [width] mean of all rows
  // Of the centred rows: set by describe(), or by whoever reads them all anyway, who then calls scatter_of().
  std::vector<double> squares;  // [rows] |w_i|^2
  std::vector<double> along;    // [rows] centre.w_i
  std::vector<double> scatter;  // [classes] mean of |w_i|^2

  // Distance of the mean product w_i.w_j of the pairs of class c from 0, downwards.
  double shift(int64_t c) const { return scatter[c] / (counts[c] - 1); }
  // What follows from |u_i| = 1: m_c.w_i of row i of its own class c.
  double own(int64_t c, int64_t i) const { return (scatter[c] - squares[i]) / 2; }
};

// Without what needs the centred rows.
Classes classes_of(const ScaledRows& rows, const ValidRows& valid);

// The rows w_i. Refers to `classes`.
UnitRows centred_rows(const UnitRows& rows, const Classes& classes);

void describe(const UnitRows& centred, Classes& classes);
// Where a kernel that reads them all is to put it: `squares` and `along`, as yet empty.
cpu::RowMeasures room_for(Classes& classes);
std::vector<double> scatter_of(const Classes& classes);

// The means m_c as they are, to be packed. Refers to `classes`.
UnitRows rows_of_means(const Classes& classes);

}  // namespace tfc::ops
