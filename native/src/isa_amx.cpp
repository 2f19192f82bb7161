#include "kernels.hpp"

// The compiler may lack the flags or the assembler the instructions, or the target be another.
#if defined(OPENGTE_HAS_AMX) && defined(__linux__) && defined(__AVX512BF16__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels_gemm.hpp"
#include "simd_avx512.hpp"

// Intel's matrix tiles (Sapphire Rapids and later): one instruction adds the products of 16 rows and
// 16 outputs over 64 bytes of inputs. Packed weights already have the layout of tiles, so that only
// the product differs from AVX-512.
namespace opengte {
namespace {

struct Amx : Avx512 {};  // its own copies of the templates

constexpr int tile_rows = 16;    // of sums
constexpr int tile_groups = 16;  // of inputs, 4 bytes each
constexpr int tile_bytes = 64;   // of a row
constexpr int panel = 2 * Avx512::lanes;
constexpr std::ptrdiff_t group_bytes = panel * 4;  // of weights

// The operand of LDTILECFG. Registers 0 and 1 hold the sums of tiles of the greater height, 2 holds
// their rows; 3, 4 and 5 hold the same for the lesser height; 6 and 7 hold weights.
struct alignas(64) Shapes {
  std::uint8_t palette = 1, start = 0, reserved[14] = {};
  std::uint16_t bytes[16] = {};
  std::uint8_t rows[16] = {};

  Shapes(int taller, int height) {
    for (int i = 0; i < 8; ++i) {
      bytes[i] = tile_bytes;
      rows[i] = static_cast<std::uint8_t>(i < 3 ? taller : i < 6 ? height : tile_groups);
    }
  }
};

template <int Tile>
OGTE_INLINE void clear() {
  asm volatile("tilezero %%tmm%c0" ::"i"(Tile));
}
template <int Tile>
OGTE_INLINE void load(const void* from, std::ptrdiff_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(Tile) : "memory");
}
template <int Tile>
OGTE_INLINE void store(void* to, std::ptrdiff_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(Tile) : "memory");
}
template <int Sum, int Rows, int Weights, class Format>
OGTE_INLINE void dot() {
  if constexpr (Format::operand == OperandKind::u8) {
    asm volatile("tdpbusd %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"i"(Weights), "i"(Rows), "i"(Sum));
  } else {
    asm volatile("tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"i"(Weights), "i"(Rows), "i"(Sum));
  }
}

// One tile of rows by one panel of outputs, over `chunks` tiles of inputs.
template <int Sum, class Format>
void multiply(const char* a, std::ptrdiff_t stride, const char* b, int chunks, float* values) {
  clear<Sum>();
  clear<Sum + 1>();
  for (int i = 0; i < chunks; ++i) {
    load<Sum + 2>(a, stride);
    load<6>(b, group_bytes);
    load<7>(b + tile_bytes, group_bytes);
    dot<Sum, Sum + 2, 6, Format>();
    dot<Sum + 1, Sum + 2, 7, Format>();
    a += tile_bytes;
    b += tile_groups * group_bytes;
  }
  store<Sum>(values, panel * sizeof(float));
  store<Sum + 1>(values + Avx512::lanes, panel * sizeof(float));
}

// The remaining inputs, which do not fill a tile.
template <class Format>
void multiply_rest(const char* a, std::ptrdiff_t stride, int rows, const char* b, int groups,
                   float* values) {
  for (int r = 0; r < rows; ++r) {
    for (int half = 0; half < 2; ++half) {
      float* sum = values + r * panel + half * Avx512::lanes;
      typename Format::Acc acc;
      __builtin_memcpy(&acc, sum, sizeof acc);
      for (int g = 0; g < groups; ++g) {
        const char* weights = b + g * group_bytes + half * tile_bytes;
        Format::dot(acc, Format::broadcast(a + r * stride + 4 * g),
                    Format::weights(reinterpret_cast<const typename Format::B*>(weights)));
      }
      Format::store(sum, acc);
    }
  }
}

template <class Format>
void multiply_tiles(const GemmArgs& args) {
  if (args.rows <= 0) return;
  const Linear& linear = *args.linear;
  const auto finish =
      Finish<Amx>::template of<Format::operand == OperandKind::u8>(args.then);
  const int tiles = ceil_div(args.rows, tile_rows);
  const int height = args.rows / tiles, taller = args.rows % tiles;
  const Shapes shapes(height + (taller > 0), height);
  asm volatile("ldtilecfg (%0)" ::"r"(&shapes) : "memory");
  const int chunks = linear.steps / tile_groups, rest = linear.steps % tile_groups;
  const std::ptrdiff_t panel_bytes = linear.steps * group_bytes;

  alignas(64) float values[tile_rows * panel];
  for (int p = args.first_panel; p < args.last_panel; ++p) {
    const char* b = reinterpret_cast<const char*>(linear.weights) + p * panel_bytes;
    int row = 0;
    for (int i = 0; i < tiles; ++i) {
      const int rows = height + (i < taller);
      const char* a = static_cast<const char*>(args.a.data) + row * args.a.stride;
      if (args.then.kind == Epilogue::residual) fetch_ahead(args.then, row, rows, p * panel);
      (i < taller ? multiply<0, Format> : multiply<3, Format>)(a, args.a.stride, b, chunks, values);
      if (rest > 0) {
        multiply_rest<Format>(a + chunks * tile_bytes, args.a.stride, rows,
                              b + chunks * tile_groups * group_bytes, rest, values);
      }
      finish({values, rows, row, p, &linear, args.a.scale + row, args.a.low + row, &args.then});
      row += rows;
    }
  }
  asm volatile("tilerelease");
}

void multiply_any(const GemmArgs& args) {
  switch (args.linear->precision) {
    case Precision::fp32: return kernels_avx512()->gemm(args);
    case Precision::bf16: return multiply_tiles<Avx512::Bf16>(args);
    case Precision::int8: return multiply_tiles<Avx512::Int8>(args);
  }
}

// Whether the CPU has tiles, and the operating system lets this process use them.
bool has_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned wanted = 1u << 22 | 1u << 24 | 1u << 25;  // bf16, tile, int8
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & wanted) != wanted) return false;
  constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

Kernels make() {
  Kernels table = *kernels_avx512();
  table.name = "amx";
  table.gemm = &multiply_any;
  return table;
}

}  // namespace

const Kernels* kernels_amx() {
  static const bool supported = kernels_avx512() != nullptr && has_tiles();
  if (!supported) return nullptr;
  static const Kernels table = make();
  return &table;
}

}  // namespace opengte
#else
namespace opengte {
const Kernels* kernels_amx() { return nullptr; }
}  // namespace opengte
#endif
