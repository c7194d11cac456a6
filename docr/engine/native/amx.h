/* The matrix unit of Intel's processors (AMX), where the compiler is told that there is one.

Eight tiles of 16 rows of 64 bytes. A product's left side is 16 rows as they lie in memory, its right
side 16 rows whose words are transposed, and of the tile of sums each row is one of the left's.
*/

#pragma once

#include "lanes.h"

#ifdef __AMX_BF16__

enum { SIDE = 16 }; /* rows and columns of a tile of sums */

/* Before tiles are loaded: gcc does not know that these read memory, and might write it later. */
#define WRITTEN() __asm__ volatile("" ::: "memory")

/* In each thread, before it multiplies: all tiles are whole. */
INLINE void open_tiles(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } tiles = {.palette = 1};
    for (int i = 0; i < 8; i++) tiles.bytes[i] = LINE, tiles.rows[i] = SIDE;
    WRITTEN();
    _tile_loadconfig(&tiles);
}

INLINE void close_tiles(void) { _tile_release(); }

#else

INLINE void open_tiles(void) {}
INLINE void close_tiles(void) {}

#endif
