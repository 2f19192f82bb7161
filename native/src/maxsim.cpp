// MaxSim of one query against documents, on token vectors as they are stored.
#include "maxsim.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <vector>

#include "buffer.hpp"
#include "gil.hpp"
#include "names.hpp"

namespace nb = nanobind;

namespace opengte {
namespace {

using Vectors = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Scales = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Starts = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Scores = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

int item_bytes(Precision p) { return p == Precision::fp32 ? 4 : p == Precision::bf16 ? 2 : 1; }

// The tokens of a query as the panels that a product reads.
class Query {
 public:
  Query(const Kernels& k, Precision precision, const void* rows, int count, int dims)
      : layout_(k.layouts[static_cast<int>(precision)]), precision_(precision), count_(count) {
    const int width = 2 * k.lanes, item = item_bytes(precision);
    args.panels = (count + width - 1) / width;
    args.steps = (dims + layout_.group - 1) / layout_.group;
    args.dims = dims;
    const std::size_t bytes = static_cast<std::size_t>(args.panels) * width * args.steps * layout_.group * item;
    packed_.reserve(bytes);
    std::memset(packed_.as<char>(), 0, bytes);
    sums_.resize(static_cast<std::size_t>(args.panels) * width);
    best_.reserve(sums_.size() * sizeof(float));
    scratch_.reserve(static_cast<std::size_t>(k.query_rows) *
                     (width * sizeof(float) + args.steps * layout_.group * sizeof(float)));
    const auto* from = static_cast<const char*>(rows);
    for (int i = 0; i < count; ++i) {
      for (int d = 0; d < dims; ++d) {
        const auto at = (static_cast<std::size_t>(i / width) * args.steps + d / layout_.group) * width;
        char* to = packed_.as<char>() + ((at + i % width) * layout_.group + d % layout_.group) * item;
        const char* value = from + (static_cast<std::size_t>(i) * dims + d) * item;
        std::memcpy(to, value, item);
        if (precision == Precision::int8) sums_[i] += *reinterpret_cast<const std::int8_t*>(value);
      }
    }
    args.query = packed_.as<void>();
    args.sums = sums_.data();
    args.best = best_.as<float>();
    args.scratch = scratch_.as<void>();
  }

  // The sum over query tokens of their highest product with a document token.
  double score(const Kernels& k, const void* tokens, const float* scales, int count,
               const float* query_scales) {
    args.tokens = tokens;
    args.scales = scales;
    args.count = count;
    std::fill(args.best, args.best + sums_.size(), -std::numeric_limits<float>::infinity());
    k.maxsim(precision_, args);
    double total = 0.0;
    for (int i = 0; i < count_; ++i) {
      total += double{args.best[i]} * (query_scales == nullptr ? 1.0 : double{query_scales[i]});
    }
    return total;
  }

 private:
  Layout layout_;
  Precision precision_;
  int count_;
  Buffer packed_, best_, scratch_;
  std::vector<std::int32_t> sums_;
  MaxSimArgs args{};
};

void maxsim(const std::string& isa, const std::string& precision, Vectors query,
            std::optional<Scales> query_scales, Vectors tokens, std::optional<Scales> scales,
            Starts starts, Scores scores) {
  const Kernels& k = *usable_kernels(isa);
  const Precision p = precision_of(precision);
  const std::size_t dims = query.shape(1), item = item_bytes(p), n = scores.size();
  if (query.itemsize() != item || tokens.itemsize() != item || tokens.shape(1) != dims || dims == 0 ||
      query.shape(0) == 0 || starts.size() != n + 1 || starts.data()[0] != 0 ||
      starts.data()[n] != static_cast<std::int64_t>(tokens.shape(0)) ||
      (query_scales && query_scales->size() != query.shape(0)) ||
      (scales && scales->size() != tokens.shape(0)) || dims > 1 << 16 || query.shape(0) > 1 << 20) {
    throw std::invalid_argument("the arrays of a MaxSim do not belong together");
  }
  for (std::size_t i = 0; i < n; ++i) {
    if (starts.data()[i + 1] <= starts.data()[i] || starts.data()[i + 1] - starts.data()[i] > 1 << 30) {
      throw std::invalid_argument("document " + std::to_string(i) + " has no token vectors");
    }
  }
  const WithoutGil released;
  Query packed(k, p, query.data(), static_cast<int>(query.shape(0)), static_cast<int>(dims));
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t first = starts.data()[i];
    scores.data()[i] = packed.score(
        k, static_cast<const char*>(tokens.data()) + static_cast<std::size_t>(first) * dims * item,
        scales ? scales->data() + first : nullptr, static_cast<int>(starts.data()[i + 1] - first),
        query_scales ? query_scales->data() : nullptr);
  }
}

}  // namespace

void add_maxsim(nb::module_& parent) {
  parent.def("maxsim", &maxsim, nb::arg("isa"), nb::arg("precision"), nb::arg("query"),
             nb::arg("query_scales").none(), nb::arg("tokens"), nb::arg("scales").none(),
             nb::arg("starts"), nb::arg("scores"));
}

}  // namespace opengte
