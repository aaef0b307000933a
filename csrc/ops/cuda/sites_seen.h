// What the host knows of the sites of a recorder as it launches their kernels, without asking the device:
// which have been through a backward of this micro-batch, and how wide they are.
//
// The backward ops are given the recorder's tensors only, so a recorder is found by the address of `sites`. A
// replayed graph launches kernels without the host; then nothing is noted, and nothing is lost but a warning.
#pragma once

#include <ATen/core/Tensor.h>

#include <mutex>
#include <vector>

namespace tfc::ops::on_cuda {

class SitesSeen {
 public:
  explicit SitesSeen(const at::Tensor& sites);
  ~SitesSeen();
  SitesSeen(const SitesSeen&) = delete;
  SitesSeen& operator=(const SitesSeen&) = delete;

  // A kernel for that site is on its way. From any thread: backward has its own.
  static void note(const at::Tensor& sites, int64_t site, int64_t width);

  // A new micro-batch; sites of steps that are not recorded are not noted.
  void begin(bool recorded);
  bool has(int64_t site) const;
  // Units of all sites that were ever seen.
  int64_t units() const;
  void set_width(int64_t site, int64_t width);

 private:
  const void* key_;
  mutable std::mutex mutex_;
  bool recorded_ = true;
  std::vector<char> seen_;
  std::vector<int64_t> widths_;
};

}  // namespace tfc::ops::on_cuda
