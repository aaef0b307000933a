// Python module tfc_fast._C: loading it registers the ops; it also holds the recorder and says how
// it was built.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include <map>
#include <string>

#include "kernels/cpu/dispatch.h"
#include "ops/gemm.h"
#include "ops/probe_ops.h"
#include "ops/recorder.h"
#include "ops/row_reduction.h"

namespace py = pybind11;
using tfc::ops::Recorder;

namespace {

#ifdef TFC_WITH_CUDA
constexpr bool kWithCuda = true;
#else
constexpr bool kWithCuda = false;
#endif

std::map<std::string, std::string> build_info() {
  std::string sets;
  for (const auto* const* set = tfc::cpu::available(); *set != nullptr; ++set) {
    sets += (sets.empty() ? "" : " ") + std::string((*set)->name);
  }
  return {
      {"version", TFC_VERSION},
      {"torch_built_with", TORCH_VERSION},
      {"compiler", TFC_COMPILER},
      {"instruction_set", tfc::cpu::kernels().name},
      {"instruction_sets_available", sets},
      {"cuda", kWithCuda ? "yes" : "no"},
      {"cuda_reason", TFC_CUDA_REASON},
  };
}

// torch's errors as the Python errors that they stand for, without the C++ stack in the message.
void translate_torch_errors(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (python_error& error) {  // raised by Python code that torch called, hooks for instance
    error.restore();
  } catch (const c10::ValueError& error) {
    py::set_error(PyExc_ValueError, error.what_without_backtrace());
  } catch (const c10::TypeError& error) {
    py::set_error(PyExc_TypeError, error.what_without_backtrace());
  } catch (const c10::IndexError& error) {
    py::set_error(PyExc_IndexError, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    py::set_error(PyExc_RuntimeError, error.what_without_backtrace());
  }
}

// Where `x` will be recorded.
tfc::ops::Site site_of(const at::Tensor& x, Recorder& r, int64_t site, int64_t reduction) {
  r.reserve(site, tfc::ops::width_of_rows(x, tfc::ops::row_reduction(reduction, "probe")));
  return {r.sites, r.units, r.order, r.class_ptr, r.class_sums, site, reduction, r.mask};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  py::register_local_exception_translator(&translate_torch_errors);
  m.doc() = "Compiled part of tfc_fast: ops (torch.ops.tfc_fast), the recorder and build information.";
  tfc::cpu::kernels();  // a wrong TFC_FAST_INSTRUCTION_SET is an error at import, not in a backward

  m.attr("STEP_COLUMNS") = static_cast<int>(tfc::kColumns);
  m.attr("REDUCTIONS") = py::cast(tfc::ops::kRowReductionNames);
  m.def("build_info", &build_info, "Versions, compiler and instruction sets, as strings.");
  m.def(
      "use_instruction_set", [](const std::string& name) { tfc::cpu::use(name.c_str()); }, py::arg("name"),
      "Run the loops of that instruction set from now on.");
  m.def("float_gemms", &tfc::ops::float_gemms,
        "What can multiply float tiles here, best first: of onednn, fused, torch.");
  m.def("use_float_gemm", &tfc::ops::use_float_gemm, py::arg("best"),
        "Multiply float tiles by nothing better than that from now on.");
  m.def("always_multiply_pairs", &tfc::ops::always_multiply_pairs, py::arg("always"),
        "Multiply bfloat16 tiles as such even where there is no instruction for it, for tests.");

  m.def(
      "relu_probe",
      [](const at::Tensor& x, Recorder& r, int64_t site, int64_t reduction) {
        return tfc::ops::relu_probe(x, site_of(x, r, site, reduction));
      },
      py::arg("x"), py::arg("recorder"), py::arg("site"), py::arg("reduction") = 0);
  m.def(
      "relu_probe_inplace",
      [](const at::Tensor& x, Recorder& r, int64_t site, int64_t reduction) {
        return tfc::ops::relu_probe_inplace(x, site_of(x, r, site, reduction));
      },
      py::arg("x"), py::arg("recorder"), py::arg("site"), py::arg("reduction") = 0);
  m.def(
      "tap",
      [](const at::Tensor& x, Recorder& r, int64_t site, int64_t reduction) {
        return tfc::ops::tap(x, site_of(x, r, site, reduction));
      },
      py::arg("x"), py::arg("recorder"), py::arg("site"), py::arg("reduction") = 0);

  py::class_<Recorder>(m, "Recorder")
      .def(py::init([](int64_t num_sites, int64_t num_classes, int64_t capacity, int64_t window,
                       int64_t every, int64_t units, std::optional<c10::Device> device, bool shared) {
             return tfc::ops::make_recorder({num_sites, num_classes, capacity, window, every, units, shared},
                                            device.value_or(c10::Device(c10::kCPU)));
           }),
           py::arg("num_sites"), py::arg("num_classes"), py::arg("capacity"), py::arg("window"),
           py::arg("every"), py::arg("units"), py::arg("device") = py::none(), py::arg("shared") = false)
      .def("use_sites", &Recorder::use_sites, py::arg("count"))
      .def(
          "begin_batch",
          [](Recorder& r, const std::optional<at::Tensor>& labels, const std::optional<at::Tensor>& mask) {
            r.begin_batch(labels, mask);
            r.count_batch();
          },
          py::arg("labels"), py::arg("mask") = py::none())
      .def("end_step", py::overload_cast<const std::optional<at::Tensor>&>(&Recorder::end_step),
           py::arg("loss"))
      .def("end_step", py::overload_cast<double>(&Recorder::end_step), py::arg("loss"))
      .def("drain", &Recorder::drain, py::arg("wait") = true)
      .def("take_error", &Recorder::take_error)
      .def("lost", &Recorder::lost)
      .def("discard_step", &Recorder::discard_step)
      .def("recording", &Recorder::recording)
      .def("collect",
           [](Recorder& r) {
             const auto c = r.collect();
             return py::make_tuple(c.step, c.batches, c.units);
           })
      .def("own_sums", &Recorder::own_sums, py::arg("batches"))
      .def("take_sums", &Recorder::take_sums, py::arg("total"), py::arg("batches"), py::arg("processes"))
      .def("take_step", &Recorder::take_step, py::arg("training"))
      .def("restore", &Recorder::restore, py::arg("step"), py::arg("units"), py::arg("placement"))
      .def("placement", &Recorder::placement)
      .def("has_recorded", &Recorder::has_recorded, py::arg("site"))
      .def("record_every", &Recorder::record_every, py::arg("every"))
      .def("costs",
           [](const Recorder& r) {
             const auto c = r.costs();
             return py::make_tuple(c.recorded_seconds, c.skipped_seconds, c.plain_seconds, c.step_seconds,
                                   c.recorded_steps, c.skipped_steps);
           })
      .def_property_readonly("step", &Recorder::step)
      .def_property_readonly("open_batches", &Recorder::open_batches)
      .def_readonly("sites", &Recorder::sites)
      .def_readonly("units", &Recorder::units)
      .def_readonly("order", &Recorder::order)
      .def_readonly("class_ptr", &Recorder::class_ptr)
      .def_readonly("class_sums", &Recorder::class_sums)
      .def_readonly("mask", &Recorder::mask);
}
