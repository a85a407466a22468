// The lookup layout: products for batches of one to four rows, with AVX-512.
//
// This file is included once without and once with BYTES, which says that the
// processor looks up bytes (VBMI); it must not include anything itself.
//
// A tile has LOOKUP_ROWS rows; a row is one output, or a block of B = 4 that
// share their inputs. A group has 64 slots, four for each row of its tile, which
// hold entries whose inputs lie in a window of WINDOW inputs; it begins at a
// multiple of STEP. Slot 16 k + 4 j + m belongs to row 4 j + m. The place of its
// input in the window is locs[16 j + 4 k + m], with bit 7 set where the slot is
// taken: in this order lie the bytes that unpacking brings into the order of
// slots. It has a value for each output of the row, values[output][slot].

#ifdef BYTES
// Rows are four planes of bytes, plane k with byte k of each float.
static void Prepare(const float* row, long padded, float* to) {
  uint8_t* planes = reinterpret_cast<uint8_t*>(to);
  uint8_t places[64];  // Bytes k and k + 1 of 32 floats.
  for (int i = 0; i < 32; ++i) places[i] = 4 * i, places[32 + i] = 4 * i + 1;
  const __m512i low = _mm512_loadu_si512(places);
  const __m512i high = _mm512_add_epi8(low, _mm512_set1_epi8(2));
  for (long i = 0; i < padded; i += 64) {
    const __m512i a = _mm512_loadu_si512(row + i);
    const __m512i b = _mm512_loadu_si512(row + i + 16);
    const __m512i c = _mm512_loadu_si512(row + i + 32);
    const __m512i d = _mm512_loadu_si512(row + i + 48);
    const __m512i* order[2] = {&low, &high};
    for (int k = 0; k < 2; ++k) {
      const __m512i first = _mm512_permutex2var_epi8(a, *order[k], b);
      const __m512i last = _mm512_permutex2var_epi8(c, *order[k], d);
      uint8_t* plane = planes + 2 * k * padded + i;
      _mm512_storeu_si512(plane, _mm512_shuffle_i64x2(first, last, 0x44));
      _mm512_storeu_si512(plane + padded,
                          _mm512_shuffle_i64x2(first, last, 0xee));
    }
  }
}

// The inputs of 64 slots, zero where there is no weight: no 0 * inf.
static inline void Find(const float* row, long padded, long window,
                        __m512i locs, __m512 (&found)[4]) {
  const uint8_t* from = reinterpret_cast<const uint8_t*>(row) + window;
  const __mmask64 alive = _mm512_movepi8_mask(locs);
  __m512i plane[4];
  for (int k = 0; k < 4; ++k, from += padded) {
    plane[k] = _mm512_maskz_permutex2var_epi8(
        alive, _mm512_loadu_si512(from), locs, _mm512_loadu_si512(from + 64));
  }
  const __m512i a = _mm512_unpacklo_epi8(plane[0], plane[1]);
  const __m512i b = _mm512_unpackhi_epi8(plane[0], plane[1]);
  const __m512i c = _mm512_unpacklo_epi8(plane[2], plane[3]);
  const __m512i d = _mm512_unpackhi_epi8(plane[2], plane[3]);
  found[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(a, c));
  found[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(a, c));
  found[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(b, d));
  found[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(b, d));
}
#else
static void Prepare(const float* row, long padded, float* to) {
  std::memcpy(to, row, padded * sizeof(float));
}

// The inputs of 64 slots, zero where there is no weight: no 0 * inf.
static inline void Find(const float* row, long, long window, __m512i locs,
                        __m512 (&found)[4]) {
  const __m512i slots = _mm512_permutexvar_epi32(
      _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0),
      locs);
  alignas(64) uint8_t bytes[64];
  _mm512_store_si512(bytes, slots);
  __m512 in[8];
  for (int i = 0; i < 8; ++i) in[i] = _mm512_loadu_ps(row + window + 16 * i);
  for (int k = 0; k < 4; ++k) {
    const __m128i b =
        _mm_load_si128(reinterpret_cast<const __m128i*>(bytes + 16 * k));
    const __m512i loc = _mm512_cvtepu8_epi32(b);
    // Bits 5 and 6 say which quarter of the window.
    const __mmask16 odd = _mm_movepi8_mask(_mm_slli_epi16(b, 2));
    const __mmask16 high = _mm_movepi8_mask(_mm_slli_epi16(b, 1));
    __m512 half[2];
    for (int h = 0; h < 2; ++h) {
      const __m512* from = in + 4 * h;
      half[h] = _mm512_mask_blend_ps(
          odd, _mm512_permutex2var_ps(from[0], loc, from[1]),
          _mm512_permutex2var_ps(from[2], loc, from[3]));
    }
    found[k] = _mm512_maskz_mov_ps(
        _mm_movepi8_mask(b), _mm512_mask_blend_ps(high, half[0], half[1]));
  }
}
#endif

template <bool INT8>
static inline __m512 Values(const Lookup& w, long at) {
  if (!INT8) return _mm512_loadu_ps(w.values + at);
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(
      reinterpret_cast<const __m128i*>(w.int8_values + at))));
}

// Outputs of tiles first..last for `R` rows of x, which are `padded` long.
template <int R, int B, bool INT8>
static void LookupTiles(const Lookup& w, const float* x, const float* bias,
                        long first, long last, float* y) {
  constexpr int U = B == 1 ? 4 : 1;  // Sums of each output, to hide latency.
  for (long t = first; t < last; ++t) {
    __m512 acc[R][B][U];
    for (auto& row : acc) {
      for (auto& sums : row) {
        for (auto& sum : sums) sum = _mm512_setzero_ps();
      }
    }
    for (long g = w.offsets[t]; g < w.offsets[t + 1]; ++g) {
      const __m512i locs = _mm512_loadu_si512(w.locs + 64 * g);
      const long window = std::min(w.windows[g] * STEP, w.padded - WINDOW);
      for (int r = 0; r < R; ++r) {
        __m512 found[4];
        Find(x + r * w.padded, w.padded, window, locs, found);
        for (int k = 0; k < 4; ++k) {
          for (int b = 0; b < B; ++b) {
            __m512& sum = acc[r][b][k % U];
            sum = _mm512_fmadd_ps(
                found[k], Values<INT8>(w, 64 * (B * g + b) + 16 * k), sum);
          }
        }
      }
    }
    const long o = t * B * LOOKUP_ROWS;
    const long n = std::min<long>(B * LOOKUP_ROWS, w.out - o);
    for (int r = 0; r < R; ++r) {
      alignas(64) float sums[B][LOOKUP_ROWS];
      for (int b = 0; b < B; ++b) {
        __m512 sum = acc[r][b][0];
        if constexpr (U == 4) {
          sum = _mm512_add_ps(_mm512_add_ps(sum, acc[r][b][1]),
                              _mm512_add_ps(acc[r][b][2], acc[r][b][3]));
        }
        _mm512_store_ps(sums[b], sum);
      }
      for (long i = 0; i < n; ++i) {
        float sum = sums[i % B][i / B];
        if (INT8) sum *= w.scale[o + i];
        y[r * w.out + o + i] = bias ? sum + bias[o + i] : sum;
      }
    }
  }
}

// What the handler calls, for one to four rows of x.
template <int B, bool INT8>
static constexpr Lookups AllLookups() {
  return {Prepare,
          {LookupTiles<1, B, INT8>, LookupTiles<2, B, INT8>,
           LookupTiles<3, B, INT8>, LookupTiles<4, B, INT8>}};
}
static const Lookups kLookups = AllLookups<1, false>();
static const Lookups kInt8Lookups = AllLookups<1, true>();
static const Lookups kBlockLookups = AllLookups<4, false>();
