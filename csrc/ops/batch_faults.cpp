#include "batch_faults.h"

#include <c10/util/Exception.h>

#include "measure.h"

namespace tfc::ops {

std::string fault_text(BatchFault fault, int64_t site, int64_t first, int64_t second, int64_t num_classes,
                       c10::IntArrayRef shape) {
  const std::string of_shape = shape.empty() ? "" : c10::str(" (shape ", shape, ")");
  switch (fault) {
    case BatchFault::kLabelsMissing:
      return "labels are missing: call probe.batch(labels=...) once for each forward and backward, "
             "before the forward, and probe.step() after the last backward; or make the Probe without "
             "num_classes";
    case BatchFault::kLabelCount:
      return c10::str("probe.batch(labels=...) was given ", first, " labels, but a watched feature has ",
                      second, " samples", of_shape, "; give one label per sample");
    case BatchFault::kWrongLabel:
      return wrong_label_text(first, second, num_classes, "labels");
    case BatchFault::kWidthChanged:
      return c10::str("site ", site, " had ", first, " units before and has ", second,
                      " now; the width of a watched feature must not change");
    case BatchFault::kUnitsBeyond:
      return c10::str("units: has room for ", second, " units, but the units of site ", site, " end at ",
                      first);
    default:
      return "";
  }
}

std::string fault_text(const FaultRecord& fault, int64_t num_classes) {
  return c10::str(
      "step ", static_cast<int64_t>(fault.step), ": ",
      fault_text(static_cast<BatchFault>(fault.kind), static_cast<int64_t>(fault.site),
                 static_cast<int64_t>(fault.first), static_cast<int64_t>(fault.second), num_classes),
      ". The batch was left out of the records, and others may have been since");
}

}  // namespace tfc::ops
