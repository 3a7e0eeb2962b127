/* Includes TYPED, a file of functions, for each width of vectors: BYTES is 16, and on x86-64 also 32 and 64. */

#define BYTES 16
#include TYPED
#if defined(__x86_64__)
#define BYTES 32
#include TYPED
#define BYTES 64
#include TYPED
#endif
