// The loops for a single row of x, which is read as it is, and all that the
// handlers call. This file is included behind loops.h, as that is.

// Outputs first..last of a row of `chunks * CHUNK` floats: dot products with
// eight scalar loads put together.
static void ForwardRow(const Tiles& w, const float* x, const float* bias,
                       long first, long last, float* y) {
  for (long o = first; o < last; ++o) {
    Vec8 acc = {};
    float rest = 0;
    for (long c = 0; c < w.chunks; ++c) {
      long e = w.starts[c * w.out + o];
      const long end = w.starts[c * w.out + o + 1];
      const float* r = x + c * CHUNK;
      for (; e + 8 <= end; e += 8) {
        uint64_t four[2];  // Indices.
        __builtin_memcpy(four, w.indices + e, sizeof(four));
        Vec8 in;
        for (int u = 0; u < 8; ++u) {
          in[u] = r[four[u / 4] >> 16 * (u % 4) & (CHUNK - 1)];
        }
        acc += Load<Vec8>(w.values + e) * in;
      }
      for (; e < end; ++e) rest += w.values[e] * r[w.indices[e] & (CHUNK - 1)];
    }
    const float sum = ((acc[0] + acc[4]) + (acc[1] + acc[5])) +
                      ((acc[2] + acc[6]) + (acc[3] + acc[7])) + rest;
    y[o] = bias ? sum + bias[o] : sum;
  }
}

typedef Reg<4>::Vec Vec4;

// The same where four outputs share an entry.
static void ForwardBlockRow(const Tiles& w, const float* x, const float* bias,
                            long first, long last, float* y) {
  for (long o = first; o < last; o += 4) {
    Vec4 acc[4] = {};  // Entries in flight.
    for (long c = 0; c < w.chunks; ++c) {
      const int32_t* starts = w.starts + c * w.rows + o / 4;
      const float* r = x + c * CHUNK;
      const long end = starts[1];
      long e = starts[0];
      for (; e + 4 <= end; e += 4) {
#pragma GCC unroll 4
        for (int u = 0; u < 4; ++u) {
          acc[u] += Load<Vec4>(w.values + 4 * (e + u)) *
                    r[w.indices[e + u] & (CHUNK - 1)];
        }
      }
      for (; e < end; ++e) {
        acc[0] += Load<Vec4>(w.values + 4 * e) * r[w.indices[e] & (CHUNK - 1)];
      }
    }
    Vec4 sum = (acc[0] + acc[1]) + (acc[2] + acc[3]);
    if (bias) sum += Load<Vec4>(bias + o);
    Store(y + o, sum);
  }
}

// What the handlers call, for the number of lanes that the batch asks for.
template <int B>
static constexpr Loops AllLoops() {
  return {
      TransposeInto,
      B == 1 ? ForwardRow : ForwardBlockRow,
      {ForwardTile<8, B>, ForwardTile<16, B>, ForwardTile<32, B>},
      {InputGradient<8, B>, InputGradient<16, B>, InputGradient<32, B>},
      {ValueGradients<8, B>, ValueGradients<16, B>, ValueGradients<32, B>},
  };
}
static const Loops kLoops = AllLoops<1>(), kBlockLoops = AllLoops<4>();
