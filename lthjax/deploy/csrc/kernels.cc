// Sparse matrix products on the CPU, as handlers of XLA's foreign function
// interface. The loops are in loops.h, rows.h and lookup.h, compiled for several
// instruction sets; the one that the machine has is chosen once.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "xla/ffi/api/ffi.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ffi = xla::ffi;

namespace {

constexpr long CHUNK = 512;      // Inputs per chunk of the tiles layout.
constexpr long SHARING = 4;      // Outputs of a block, which share their inputs.
constexpr long WINDOW = 128;      // Inputs that a group of lookups sees,
constexpr long STEP = 32;         // where windows begin,
constexpr long LOOKUP_ROWS = 16;  // and outputs, or blocks of them, per tile.

struct Tiles {
  const float* values;
  const uint16_t* indices;
  const int32_t* starts;
  long in, out, chunks;
  long block, rows;  // Outputs per row, 1 or 4, and rows per chunk.
};

struct Lookup {
  const uint16_t* windows;
  const uint8_t* locs;
  const float* values;        // Either these,
  const int8_t* int8_values;  // or these, with a scale per output.
  const float* scale;
  const int32_t* offsets;
  long out, block, tiles, padded;  // Inputs are padded to whole windows.
};

struct Lookups {
  void (*prepare)(const float*, long, float*);
  void (*product[4])(const Lookup&, const float*, const float*, long, long,
                     float*);
};

struct Loops {
  void (*transpose)(const float*, long, long, long, float*, long, long);
  void (*row)(const Tiles&, const float*, const float*, long, long, float*);
  void (*forward[3])(const Tiles&, const float*, const float*, long, long,
                     float*, float*, long);
  void (*input_gradient[3])(const Tiles&, const float*, long, float*);
  void (*value_gradients[3])(const Tiles&, const float*, const float*, long,
                             long, long, long, float*);
};

namespace baseline {
#define LANES 4
#include "loops.h"
#include "rows.h"
#undef LANES
}  // namespace baseline

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#define LANES 8
#include "loops.h"
#include "rows.h"
#undef LANES
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                        \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq"))), \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")
#endif
namespace avx512 {
#define LANES 16
#include "loops.h"
#include "rows.h"
#undef LANES

#include "lookup.h"
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                      \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq," \
                          "avx512vbmi"))),                             \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")
#endif
namespace avx512vbmi {
#define BYTES
#include "lookup.h"
#undef BYTES
}  // namespace avx512vbmi
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__

// 0: baseline, 3: AVX2, 4: AVX-512, 5: with VBMI; LTHJAX_ISA caps it.
int Isa() {
  static const int isa = [] {
    int found = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      found = 3;
      if (__builtin_cpu_supports("avx512f") &&
          __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512vl") &&
          __builtin_cpu_supports("avx512dq")) {
        found = __builtin_cpu_supports("avx512vbmi") ? 5 : 4;
      }
    }
#endif
    const char* cap = std::getenv("LTHJAX_ISA");
    if (cap && *cap) found = std::min(found, std::atoi(cap));
    return found < 3 ? 0 : found;
  }();
  return isa;
}

const Loops& Chosen(long block = 1) {
#if defined(__x86_64__)
  if (Isa() >= 4) return block == 1 ? avx512::kLoops : avx512::kBlockLoops;
  if (Isa() == 3) return block == 1 ? avx2::kLoops : avx2::kBlockLoops;
#endif
  return block == 1 ? baseline::kLoops : baseline::kBlockLoops;
}

// Scratch of the calling thread; it grows and is kept. Handlers do not nest.
float* Scratch(size_t floats) {
  struct Freed {
    float* data = nullptr;
    size_t size = 0;
    ~Freed() { std::free(data); }
  };
  static thread_local Freed kept;
  if (kept.size < floats) {
    std::free(kept.data);
    const size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
    kept.data = static_cast<float*>(std::aligned_alloc(64, bytes));
    kept.size = kept.data ? floats : 0;
  }
  return kept.data;
}

// Whether work is not worth waking other threads: some 100 microseconds.
bool IsShort(double operations) { return operations < 3e5; }

// Runs task(0..tasks - 1) on XLA's pool. The caller works too, and waits only
// for tasks that others have begun: it may itself run on a thread of the pool,
// where waiting for queued work would deadlock. Workers that come late find
// nothing left, and touch nothing of the caller's.
void Parallel(ffi::ThreadPool& pool, long tasks, double operations,
              const std::function<void(long)>& task) {
  struct Work {
    std::atomic<long> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  const long threads = std::min<long>(pool.num_threads(), tasks);
  if (threads <= 1 || IsShort(operations)) {
    for (long i = 0; i < tasks; ++i) task(i);
    return;
  }
  auto work = std::make_shared<Work>();
  const std::function<void(long)>* f = &task;
  auto run = [work, f, tasks] {
    for (long i; (i = work->next.fetch_add(1)) < tasks;) {
      (*f)(i);
      if (work->done.fetch_add(1) + 1 == tasks) {
        std::lock_guard<std::mutex> lock(work->mutex);
        work->all_done.notify_all();
      }
    }
  };
  for (long i = 1; i < threads; ++i) pool.Schedule(std::function<void()>(run));
  run();
  for (int spin = 0; spin < 2000 && work->done.load() < tasks; ++spin) {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }
  std::unique_lock<std::mutex> lock(work->mutex);
  work->all_done.wait(lock, [&] { return work->done.load() == tasks; });
}

long Ceil(long a, long b) { return (a + b - 1) / b; }

long Product(ffi::AnyBuffer::Dimensions dims, size_t from, size_t to) {
  long product = 1;
  for (size_t i = from; i < to; ++i) product *= dims[i];
  return product;
}

// Counts of entries that say where others lie: monotone, and within size.
template <typename T>
bool Monotone(const T* x, long n, long size) {
  T falls = 0;  // Not a bool, so that compilers take many at a time.
  for (long i = 1; i < n; ++i) falls |= x[i] < x[i - 1];
  return n > 0 && x[0] == 0 && x[n - 1] <= size && !falls;
}

ffi::Error Bad(const std::string& what) {
  return ffi::Error::InvalidArgument("lthjax: " + what);
}

using F32 = ffi::Buffer<ffi::F32>;
using U16 = ffi::Buffer<ffi::U16>;
using S32 = ffi::Buffer<ffi::S32>;
using U8 = ffi::Buffer<ffi::U8>;

ffi::Error MakeTiles(const F32& values, const U16& indices, const S32& starts,
                     long in, long out, Tiles* tiles) {
  const long chunks = std::max(Ceil(in, CHUNK), 1L);
  const long capacity = indices.element_count(), count = starts.element_count();
  const bool blocks = out % SHARING == 0 && count != chunks * out + 1;
  const long block = blocks ? SHARING : 1, rows = out / block;
  *tiles = {values.typed_data(), indices.typed_data(), starts.typed_data(),
            in, out, chunks, block, rows};
  if (static_cast<long>(values.element_count()) != capacity * block ||
      count != chunks * rows + 1) {
    return Bad("a sparse kernel whose parts do not fit each other");
  }
  if (!Monotone(tiles->starts, chunks * rows + 1, capacity)) {
    return Bad("`starts` of a sparse kernel must rise from 0 and stay within"
               " its number of entries");
  }
  return ffi::Error::Success();
}

ffi::Error MakeLookup(const U16& windows, const U8& locs,
                      const ffi::AnyBuffer& values, const F32& scale,
                      const S32& offsets, long in, long out, Lookup* lookup) {
  const bool int8 = values.element_type() == ffi::S8;
  if (!int8 && values.element_type() != ffi::F32) {
    return Bad("values of a lookup layout that are neither float32 nor int8");
  }
  const long groups = windows.element_count(), count = offsets.element_count();
  const long numbers = values.element_count();
  // Without entries, the number of tiles says whether there are blocks.
  const bool blocks =
      out % SHARING == 0 && (groups ? numbers == 64 * groups * SHARING
                                    : count != Ceil(out, LOOKUP_ROWS) + 1);
  const long block = blocks ? SHARING : 1;
  const long tiles = Ceil(out / block, LOOKUP_ROWS);
  *lookup = {windows.typed_data(),
             locs.typed_data(),
             int8 ? nullptr : values.reinterpret_data<float>(),
             int8 ? values.reinterpret_data<int8_t>() : nullptr,
             scale.typed_data(),
             offsets.typed_data(),
             out, block, tiles, Ceil(in, WINDOW) * WINDOW + WINDOW};
  if (count != tiles + 1 || !Monotone(lookup->offsets, count, groups) ||
      static_cast<long>(locs.element_count()) != 64 * groups ||
      numbers != 64 * groups * block ||
      (int8 && (blocks || static_cast<long>(scale.element_count()) != out))) {
    return Bad("a lookup layout whose parts do not fit each other");
  }
  return ffi::Error::Success();
}

// Tiles of the batch: lanes and which of the loops they take.
struct Lanes {
  long batch, lanes, tiles;
  int which;
  explicit Lanes(long batch) : batch(batch) {
    Choose(batch <= 8 ? 0 : batch <= 16 ? 1 : 2);
  }
  void Choose(int loops) {
    which = loops;
    lanes = 8L << loops;
    tiles = Ceil(batch, lanes);
  }
};

// The columns of tile t from `first` on, at most CHUNK of them; see ToTiles.
void ToTile(const Lanes& shape, long t, long first, const float* from,
            long batch, long columns, long padded, float* to) {
  const long n = std::min(CHUNK, columns - first);
  float* tile = to + t * padded * shape.lanes;
  Chosen().transpose(from + t * shape.lanes * columns + first, columns,
                     std::min(shape.lanes, batch - t * shape.lanes), n,
                     tile + first * shape.lanes, shape.lanes, shape.lanes);
  if (first + n == columns) {  // Indices may reach the end of the chunk.
    std::memset(tile + columns * shape.lanes, 0,
                (padded - columns) * shape.lanes * sizeof(float));
  }
}

// to[tile][column][lane] = from[row][column], columns padded to `padded`.
void ToTiles(ffi::ThreadPool& pool, const Lanes& shape, const float* from,
             long batch, long columns, long padded, float* to) {
  const long pieces = Ceil(columns, CHUNK);
  Parallel(pool, shape.tiles * pieces, 1.0 * batch * columns, [&](long i) {
    ToTile(shape, i / pieces, i % pieces * CHUNK, from, batch, columns, padded,
           to);
  });
}

// How many groups of rows to deal out beside the tiles of the batch.
long Groups(ffi::ThreadPool& pool, long tiles, long out) {
  const long wanted = Ceil(4 * pool.num_threads(), tiles);
  return std::max(1L, std::min(wanted, out / 64));
}

// A row of x, padded with zeros to `padded`.
void PadRow(const float* x, long in, long padded, float* row) {
  std::memcpy(row, x, in * sizeof(float));
  std::memset(row + in, 0, (padded - in) * sizeof(float));
}

ffi::Error OutOfMemory() {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                    "lthjax: no memory for the scratch of a sparse product");
}

#if defined(__x86_64__)
const Lookups& Chosen(const Lookup& w) {
  if (Isa() == 5) {
    return w.block != 1    ? avx512vbmi::kBlockLookups
           : w.int8_values ? avx512vbmi::kInt8Lookups
                           : avx512vbmi::kLookups;
  }
  return w.block != 1    ? avx512::kBlockLookups
         : w.int8_values ? avx512::kInt8Lookups
                         : avx512::kLookups;
}

ffi::Error RunLookup(ffi::ThreadPool& pool, const Lookup& w, const float* x,
                     const float* bias, long batch, long in, float* y) {
  const Lookups& run = Chosen(w);
  float* rows = Scratch((batch + 1) * w.padded);
  if (!rows) return OutOfMemory();
  float* row = rows + batch * w.padded;
  for (long b = 0; b < batch; ++b) {
    PadRow(x + b * in, in, w.padded, row);
    run.prepare(row, w.padded, rows + b * w.padded);
  }
  const long groups = std::min<long>(w.tiles, 4 * pool.num_threads());
  const double operations =
      (5.0 + 3 * w.block + 13 * batch) * w.offsets[w.tiles];
  Parallel(pool, groups, operations, [&](long g) {
    run.product[batch - 1](w, rows, bias, w.tiles * g / groups,
                           w.tiles * (g + 1) / groups, y);
  });
  return ffi::Error::Success();
}
#endif

ffi::Error ForwardImpl(ffi::ThreadPool pool, F32 x, F32 values, U16 indices,
                       S32 starts, F32 bias_or_none, U16 windows, U8 locs,
                       ffi::AnyBuffer lookup_values, F32 scale, S32 offsets,
                       ffi::Result<F32> y) {
  const auto dims = x.dimensions();
  const long in = dims.back(), batch = Product(dims, 0, dims.size() - 1);
  const long out = y->dimensions().back();
  const float* bias =
      bias_or_none.element_count() ? bias_or_none.typed_data() : nullptr;
  if (batch == 0 || out == 0) return ffi::Error::Success();
  if (bias && static_cast<long>(bias_or_none.element_count()) != out) {
    return Bad("a bias that does not fit the kernel");
  }
#if defined(__x86_64__)
  // Without VBMI, tiles are as fast from three rows on.
  if (offsets.element_count() && Isa() >= 4 && batch <= (Isa() == 5 ? 4 : 2)) {
    Lookup l;
    if (auto error = MakeLookup(windows, locs, lookup_values, scale, offsets,
                                in, out, &l);
        error.failure()) {
      return error;
    }
    return RunLookup(pool, l, x.typed_data(), bias, batch, in, y->typed_data());
  }
#endif
  Tiles w;
  if (auto error = MakeTiles(values, indices, starts, in, out, &w);
      error.failure()) {
    return error;
  }
  const double operations = 1.0 * w.starts[w.chunks * w.rows] * batch * w.block;
  if (batch == 1) {  // From two rows on, tiles are faster.
    float* row = Scratch(w.chunks * CHUNK);
    if (!row) return OutOfMemory();
    PadRow(x.typed_data(), in, w.chunks * CHUNK, row);
    const long wanted = 4 * pool.num_threads();
    const long groups = std::max(1L, std::min(out / 16, wanted));
    Parallel(pool, groups, operations, [&](long g) {
      Chosen(w.block).row(w, row, bias, w.rows * g / groups * w.block,
                          w.rows * (g + 1) / groups * w.block, y->typed_data());
    });
    return ffi::Error::Success();
  }
  Lanes shape(batch);
  // With a tile for each thread, threads keep to tiles that they made. Narrower
  // ones serve more threads; with AVX-512 their sums are the same, to the bit.
  const long threads = pool.num_threads();
  for (int which = shape.which; which >= 0 && Isa() >= 4; --which) {
    if (IsShort(operations / 8) || Ceil(batch, 8L << which) < threads) continue;
    shape.Choose(which);
    break;
  }
  const bool own = shape.tiles >= threads;
  const long padded = w.chunks * CHUNK;
  const long groups = own ? 1 : Groups(pool, shape.tiles, out);
  const size_t inputs = shape.tiles * padded * shape.lanes;
  float* xt = Scratch(inputs + shape.tiles * out * shape.lanes);
  if (!xt) return OutOfMemory();
  if (!own) ToTiles(pool, shape, x.typed_data(), batch, in, padded, xt);
  Parallel(pool, shape.tiles * groups, operations / 8, [&](long i) {
    const long t = i / groups, g = i % groups;
    for (long c = 0; own && c < in; c += CHUNK) {
      ToTile(shape, t, c, x.typed_data(), batch, in, padded, xt);
    }
    const long first = w.rows * g / groups * w.block;
    const long last = w.rows * (g + 1) / groups * w.block;
    Chosen(w.block).forward[shape.which](
        w, xt + t * padded * shape.lanes, bias, first, last,
        xt + inputs + (t * out + first) * shape.lanes,
        y->typed_data() + t * shape.lanes * out,
        std::min(shape.lanes, batch - t * shape.lanes));
  });
  return ffi::Error::Success();
}

ffi::Error InputGradientImpl(ffi::ThreadPool pool, F32 dy, F32 values,
                             U16 indices, S32 starts, ffi::Result<F32> dx) {
  const auto dims = dy.dimensions();
  const long out = dims.back(), batch = Product(dims, 0, dims.size() - 1);
  const long in = dx->dimensions().back();
  if (batch == 0 || in == 0) return ffi::Error::Success();
  Tiles w;
  if (auto error = MakeTiles(values, indices, starts, in, out, &w);
      error.failure()) {
    return error;
  }
  const Lanes shape(batch);
  const size_t outputs = shape.tiles * out * shape.lanes;
  float* dyt = Scratch(outputs + shape.tiles * w.chunks * CHUNK * shape.lanes);
  if (!dyt) return OutOfMemory();
  ToTiles(pool, shape, dy.typed_data(), batch, out, out, dyt);
  const double operations =
      1.0 * w.starts[w.chunks * w.rows] * batch * w.block / 8;
  Parallel(pool, shape.tiles * w.chunks, operations, [&](long i) {
    const long t = i / w.chunks, c = i % w.chunks;
    const long rows = std::min(shape.lanes, batch - t * shape.lanes);
    float* sums = dyt + outputs + i * CHUNK * shape.lanes;
    Chosen(w.block).input_gradient[shape.which](
        w, dyt + t * out * shape.lanes, c, sums);
    Chosen().transpose(sums, shape.lanes, std::min(CHUNK, in - c * CHUNK), rows,
                       dx->typed_data() + t * shape.lanes * in + c * CHUNK, in,
                       std::min(CHUNK, in - c * CHUNK));
  });
  return ffi::Error::Success();
}

ffi::Error ValueGradientsImpl(ffi::ThreadPool pool, F32 x, F32 dy, F32 values,
                              U16 indices, S32 starts,
                              ffi::Result<F32> gradients) {
  const auto dims = x.dimensions();
  const long in = dims.back(), batch = Product(dims, 0, dims.size() - 1);
  const long out = dy.dimensions().back();
  Tiles w;
  if (auto error = MakeTiles(values, indices, starts, in, out, &w);
      error.failure()) {
    return error;
  }
  const long entries = w.starts[w.chunks * w.rows];
  float* to = gradients->typed_data();
  std::memset(to, 0, gradients->element_count() * sizeof(float));
  if (batch == 0 || entries == 0) return ffi::Error::Success();
  const Lanes shape(batch);
  const long padded = w.chunks * CHUNK, groups = Groups(pool, w.chunks, out);
  const size_t inputs = shape.tiles * padded * shape.lanes;
  float* xt = Scratch(inputs + shape.tiles * out * shape.lanes);
  if (!xt) return OutOfMemory();
  ToTiles(pool, shape, x.typed_data(), batch, in, padded, xt);
  ToTiles(pool, shape, dy.typed_data(), batch, out, out, xt + inputs);
  const double operations = 1.0 * entries * batch * w.block / 8;
  Parallel(pool, w.chunks * groups, operations, [&](long i) {
    const long c = i / groups, g = i % groups;
    Chosen(w.block).value_gradients[shape.which](
        w, xt, xt + inputs, shape.tiles, c, w.rows * g / groups * w.block,
        w.rows * (g + 1) / groups * w.block, to);
  });
  return ffi::Error::Success();
}

}  // namespace

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(lthjax_sparse_forward, ForwardImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()             // x
                                  .Arg<F32>()             // values
                                  .Arg<U16>()             // indices
                                  .Arg<S32>()             // starts
                                  .Arg<F32>()             // bias
                                  .Arg<U16>()             // windows
                                  .Arg<U8>()              // locs
                                  .Arg<ffi::AnyBuffer>()  // lookup values
                                  .Arg<F32>()             // scale
                                  .Arg<S32>()             // offsets
                                  .Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(lthjax_sparse_input_gradient, InputGradientImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()  // dy
                                  .Arg<F32>()  // values
                                  .Arg<U16>()  // indices
                                  .Arg<S32>()  // starts
                                  .Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(lthjax_sparse_value_gradients,
                              ValueGradientsImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()  // x
                                  .Arg<F32>()  // dy
                                  .Arg<F32>()  // values
                                  .Arg<U16>()  // indices
                                  .Arg<S32>()  // starts
                                  .Ret<F32>());

// The interface that this library was compiled for, the digest of its sources,
// and what it runs on.
extern "C" int lthjax_ffi_version() {
  return XLA_FFI_API_MAJOR * 1000 + XLA_FFI_API_MINOR;
}
extern "C" const char* lthjax_sources() { return LTHJAX_SOURCES; }
extern "C" int lthjax_isa() { return Isa(); }

#pragma GCC visibility pop
