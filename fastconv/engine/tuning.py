"""Every tuning constant of the engine, once: name, value, unit, and in brackets the section of bench/NOTES.md.

They were measured; no result is wrong with others, only slower or summed in another order. Those that several
algorithms share come first. How many rows or sums a register tile has is no matter of taste: the kernels say it.
"""

from __future__ import annotations

# --- the cut of work ("The engine"): by shape, never by thread count --------------------------------------------------

TASKS = 16  # pieces that a layer is cut into where its size allows: enough for the threads of one socket
BAND_BYTES = 256 << 10  # bytes that a band's windows see: a quarter of a core's L2
BAND_PIXELS = 448  # outputs of a band: longer sums of a gradient lose digits
JOINED_PIXELS = 112  # outputs: small images are joined until a band has so many
LONGEST_SUM_PIXELS = 1 << 16  # outputs whose gradients are summed in one go: longer sums lose digits
CHUNK_PIXELS = 256  # outputs at least, whose gradients are summed apart
CHUNK_COST = 12  # of an element of the chunks' sum, in elements of x that are read once more
SCRATCH_ELEMENTS = 1 << 20  # elements of a thread's scratch, at most

# --- caches ("The engine") --------------------------------------------------------------------------------------------

CACHED_BYTES = 1 << 20  # bytes of what is read, beyond which it is prefetched
NON_TEMPORAL_BYTES = 4 << 20  # bytes of y, from which on it is written past the caches
DEPTHWISE_NON_TEMPORAL_BYTES = 2 << 20  # the same for depthwise and grouped, which read less beside

# --- im2col ("Tiles and OpenBLAS's unpacked kernels") -----------------------------------------------------------------

TILE_BYTES = 1 << 20  # bytes of a column tile with short rows: half of a core's L2
SHORT_ROW_ELEMENTS = 16  # elements of such a row
GEMM_FILTERS = 16  # filters: below, BLAS is slow however it is called
GEMM_PIXELS = 12  # pixels, likewise
HALO_RATIO = 8  # a band is so many times as long as what neighbours compute twice, or an image is not cut into bands

# --- narrow: few channels are read ("The engine") ---------------------------------------------------------------------

NARROW_CHANNELS = 8  # channels: tables of pixels would take as long as the sums
NARROW_FILTERS = 5  # filters at least, for vectors of 8
NARROW_MOST_CHANNELS = 128  # channels that are read, at most
NARROW_WIDE_FILTERS = 16  # filters that more than NARROW_CHANNELS channels pay for: fewer are planar's
NARROW_WEIGHTS = 1 << 15  # weights whose gradients are added by one thread
NARROW_BAND_ELEMENTS = 1 << 16  # elements of what a band's windows see, about: a quarter of a core's L2
NARROW_CHUNK_PIXELS = 1 << 10  # outputs at least, whose gradients are summed apart

# --- planar: few channels are written ("The engine") ------------------------------------------------------------------

PLANAR_COST = 1.25  # over direct's full tiles: it also transposes what it reads
PLANAR_CHANNELS = 8  # channels: fewer pay for planes even if only few are read
PLANAR_FILTERS = 16  # channels that are read pay for planes if at least an eighth of the lanes stays empty otherwise
PLANAR_MOST_CHANNELS = 24  # channels that are written, at most
PLANAR_SUMS_ELEMENTS = 40 << 10  # elements of the sums of a task, most of its scratch
PLANAR_SHORT_SUM = 24  # terms over the filters and the rows of a window: up to so many, all taps are summed at once
PLANAR_LINES = 8  # lines of a batch, at least
PLANAR_LINE_ELEMENTS = 1536  # elements of y in a line of several images: one image's next row is better prefetched
PLANAR_LINE_COLUMNS = 256  # columns of a line of several images

# --- depthwise and grouped ("The engine") -----------------------------------------------------------------------------

DEPTHWISE_TASKS = 32  # pieces that a layer is cut into where its size allows
DEPTHWISE_SEGMENT_PIXELS = 256  # outputs of a line's segment
DEPTHWISE_SUM_PIXELS = 128  # outputs of one whose products are summed one by one: float32 loses 1e-6 there
DEPTHWISE_GROUP_CHANNELS = 8  # channels and filters of a group, at most: wider ones have enough to do for products
PERMUTING_VECTOR_BYTES = 32  # bytes of a vector that permutes quickly, at least
GROUPED_BLOCK_BYTES = 24 << 10  # bytes of a band of one block: most of the first cache, for it is read tap by tap
GROUPED_WINDOWS = 6  # windows that it is as large as at least, or a band is copied for a few outputs
GROUPED_PAIR_COST = 1.05  # of a record of two vectors

# --- winograd ("The engine") ------------------------------------------------------------------------------------------

WINOGRAD_CHANNELS = 12  # channels: fewer stay exact on integers, for little
WINOGRAD_SMALL_LAYER_CHANNELS = 48  # channels: with fewer, small layers stay exact, for little
WINOGRAD_TRANSFORM_CHANNELS = 12  # channels that cost as much as the transforms
WINOGRAD_ROWS = 14  # tiles: a block has a multiple of so many, the rows of the widest register tile
WINOGRAD_FEW_ROWS = 8  # rows of a register tile that still keep it busy
WINOGRAD_PRODUCT_LANES = 8  # lanes: products take no fewer
WINOGRAD_PHASES_READ_COST = 1.25  # of strides: all that is transformed is as many times larger
WINOGRAD_PHASES_WRITTEN_COST = 1.1  # of pixels that lie apart
WINOGRAD_FILTER_TILES = 6  # tiles that cost as much as the transform of the filters
WINOGRAD_WEIGHT_OUTPUTS = 27  # outputs that cost as much as what other algorithms spend on weights, and do not count
WINOGRAD_PRODUCTS_PER_BYTE = 20  # products that are worth as much as a byte, to threads_for
WINOGRAD_ALIASED_FLOATS = 128  # floats: rows a multiple of so many apart share few sets of the first cache
WINOGRAD_LONGEST_SUM_TILES = 1 << 10  # tiles: longer sums lose digits
WINOGRAD_CHUNK_TILES = 32  # tiles: fewer of them are not worth a gradient of their own
WINOGRAD_BLOCK_BYTES = 1 << 19  # bytes of a block of transformed tiles: half of a core's L2
WINOGRAD_SHARED_BYTES = 1 << 22  # bytes of transformed filters that all blocks read
WINOGRAD_OWN_FILTERS_BYTES = 640 << 10  # bytes of transformed filters that each thread makes for itself
WINOGRAD_OWN_BYTES = 1 << 21  # bytes of the transformed gradients that a thread adds up
WINOGRAD_SUMMED_BYTES = 4 << 20  # bytes of the transformed tiles whose products are added up at a time
WINOGRAD_SUMMED_SHARE = 0.75  # of those are taken at a time where each thread has its own
WINOGRAD_SUM_TILES = 64  # tiles: the square of the sums that are added up apart, times so many
WINOGRAD_FULL_ROUNDS = 0.75  # of the threads have a run of tiles of their own, or all work on the same tiles
WINOGRAD_ALONE_TILES = 128  # tiles that a thread transforms alone before their products are taken
WINOGRAD_PANEL_TILES = 256  # tiles that are transformed before their products are taken
WINOGRAD_PANEL_STEPS = 64  # channels, and
WINOGRAD_PANEL_FILTERS = 64  # filters that are transformed at a time: a quarter of a core's L2
WINOGRAD_PIECE_FILTERS = 56  # filters, and
WINOGRAD_PIECE_CHANNELS = 64  # channels whose gradients are summed at a time
WINOGRAD_PIECE_TILES = 128  # tiles that are summed at a time: a panel of them fits the first cache
