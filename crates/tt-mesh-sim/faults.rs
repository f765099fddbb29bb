// Shared by build.rs, which compiles each broken kernel, and by tests/kernels.rs, which runs it.

/// Deliberate faults of the kernels, as replacements in their text: kernel, from, to, and part of
/// the error that must result. With an empty text the run must give a wrong result.
pub const FAULTS: &[(&str, &str, &str, &str)] = &[
    (
        "dataflow/image_patches.cpp",
        "    noc_async_read_barrier();\n        const L1<uint8_t>",
        "    const L1<uint8_t>",
        "noc_async_read_barrier is missing",
    ),
    (
        "dataflow/image_patches.cpp",
        "cb_reserve_back(out_buffer, 1);",
        "",
        "which it has not reserved",
    ),
    ("dataflow/image_patches.cpp", "cb_push_back(out_buffer, 1);", "", "deadlock"),
    (
        "dataflow/image_patches.cpp",
        "cb_push_back(out_buffer, 1);",
        "cb_push_back(out_buffer, 2);",
        "pushes 2 pages of circular buffer 16 but reserved 1",
    ),
    (
        "dataflow/image_patches.cpp",
        "noc_async_read_page(first_row + row,",
        "noc_async_read_page(side + row,",
        "beyond the tensor's",
    ),
    (
        "dataflow/image_patches.cpp",
        "row < rows; ++row",
        "row < rows - 1; ++row",
        "L1 that nothing has written",
    ),
    (
        "dataflow/write_tiles.cpp",
        "noc_async_write_barrier();",
        "",
        "noc_async_write_barrier is missing",
    ),
    ("dataflow/write_tiles.cpp", "cb_wait_front(buffer, 1);", "", "which it has not waited for"),
    ("dataflow/write_tiles.cpp", "cb_pop_front(buffer, 1);", "", "deadlock"),
    (
        "dataflow/write_tiles.cpp",
        "noc_async_write_page(page,",
        "noc_async_write_page(page + 152,",
        "beyond the tensor's",
    ),
    (
        "dataflow/write_tiles.cpp",
        "noc_async_write_page(page, out",
        "noc_async_write_page(start, out",
        "",
    ),
    (
        "dataflow/read_columns.cpp",
        "        noc_async_read_barrier();\n",
        "",
        "while a NoC read into it is in flight",
    ),
    (
        "dataflow/read_columns.cpp",
        "cb_push_back(w_buffer, block);",
        "cb_push_back(w_buffer, block - 1);",
        "",
    ),
    ("dataflow/read_columns.cpp", "(k + i) * columns + n", "(k + i) * columns + n + 1", ""),
    (
        "compute/column_matmul.cpp",
        "cb_wait_front(w_buffer, block);",
        "cb_wait_front(w_buffer, 1);",
        "which it has not waited for",
    ),
    ("compute/column_matmul.cpp", "tile_regs_wait();", "", "packs without tile_regs_wait"),
    (
        "compute/column_matmul.cpp",
        "mm_init(x_buffer, w_buffer, out_buffer);",
        "",
        "without mm_init",
    ),
    ("compute/column_matmul.cpp", "cb_pop_front(x_buffer, block);", "", "deadlock"),
    (
        "compute/column_matmul.cpp",
        "tile_regs_release();",
        "",
        "without releasing the destination register",
    ),
    (
        "dataflow/pick_action.cpp",
        "    noc_async_read_barrier();\n\n    const L1<uint32_t> values",
        "\n    const L1<uint32_t> values",
        "noc_async_read_barrier is missing",
    ),
    (
        "dataflow/pick_action.cpp",
        "noc_async_read_page(id, table",
        "noc_async_read_page(id + 1, table",
        "",
    ),
    (
        "dataflow/pick_action.cpp",
        "row.get_noc_addr(tile, 512)",
        "row.get_noc_addr(tile, 520)",
        "they must agree modulo 16",
    ),
];
