/* Includes TYPED, a file of functions, for each width of vectors: BYTES is 16, and on x86-64 also 32 and 64; with ONE also
   for single elements of so many bytes. What all these files define for a width goes with it. */

#ifdef ONE
#define BYTES ONE
#include TYPED
#undef BYTES
#undef LANES
#undef Vector
#endif
#define BYTES 16
#include TYPED
#undef BYTES
#undef LANES
#undef Vector
#if defined(__x86_64__)
#define BYTES 32
#include TYPED
#undef BYTES
#undef LANES
#undef Vector
#define BYTES 64
#include TYPED
#undef BYTES
#undef LANES
#undef Vector
#endif
