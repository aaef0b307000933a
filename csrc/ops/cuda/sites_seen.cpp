#include "sites_seen.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>

namespace tfc::ops::on_cuda {
namespace {

// Never destroyed: graphs may outlive everything else.
struct Recorders {
  std::mutex mutex;
  std::unordered_map<const void*, SitesSeen*> by_sites;
};
Recorders& recorders() {
  static auto* all = new Recorders;
  return *all;
}

}  // namespace

SitesSeen::SitesSeen(const at::Tensor& sites)
    : key_(sites.const_data_ptr()), seen_(sites.size(0) - 1), widths_(sites.size(0) - 1) {
  const std::lock_guard lock(recorders().mutex);
  recorders().by_sites[key_] = this;
}

SitesSeen::~SitesSeen() {
  const std::lock_guard lock(recorders().mutex);
  recorders().by_sites.erase(key_);
}

void SitesSeen::note(const at::Tensor& sites, int64_t site, int64_t width) {
  const std::lock_guard lock(recorders().mutex);
  const auto found = recorders().by_sites.find(sites.const_data_ptr());
  if (found == recorders().by_sites.end()) return;
  SitesSeen& seen = *found->second;
  const std::lock_guard lock_of_one(seen.mutex_);
  if (!seen.recorded_) return;
  seen.seen_[site] = 1;
  seen.widths_[site] = std::max(seen.widths_[site], width);
}

void SitesSeen::begin(bool recorded) {
  const std::lock_guard lock(mutex_);
  recorded_ = recorded;
  std::fill(seen_.begin(), seen_.end(), 0);
}

bool SitesSeen::has(int64_t site) const {
  const std::lock_guard lock(mutex_);
  return seen_[site] != 0;
}

int64_t SitesSeen::units() const {
  const std::lock_guard lock(mutex_);
  return std::accumulate(widths_.begin(), widths_.end(), int64_t{0});
}

void SitesSeen::set_width(int64_t site, int64_t width) {
  const std::lock_guard lock(mutex_);
  widths_[site] = width;
}

}  // namespace tfc::ops::on_cuda
