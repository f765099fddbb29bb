/* The C ABI between this project and whatever runs its tensors on a Tenstorrent mesh.
 *
 * A provider is a shared library that exports every function below: `shim/` (TT-NN on silicon) and
 * `tt-mesh-sim` (the same mesh in software). The Rust declarations in src/ are held to this file by
 * tests/header.rs; change both together and raise TTP_ABI_VERSION.
 *
 * Conventions, for every function unless it says otherwise
 *   - The return value is a status. Anything but TTP_OK leaves the outputs untouched, and
 *     ttp_last_error() of the same thread then holds one line of UTF-8 that names the value, the
 * place and the remedy.
 *   - No exception or panic crosses this boundary. What would have is reported as TTP_INTERNAL.
 *   - Handles are numbers, never reused within a process; 0 is no handle. A freed, foreign or
 * made-up handle is answered with TTP_BAD_HANDLE.
 *   - Pointers passed in are borrowed for the duration of the call. NULL is refused where not
 * allowed.
 *   - Any thread may call any function. Calls on one mesh are serialised by the provider; calls on
 *     different meshes do not wait for one another. The order of work on a mesh is the order of
 * calls.
 *   - Operations may be asynchronous: an error found while running is returned by a later call on
 *     the mesh, at the latest by ttp_mesh_synchronize or ttp_tensor_read.
 *   - Shapes have four dimensions [d0, d1, rows, columns] and are those of ONE chip, except where a
 * host array is described: that shape is the whole array. Operations run on every chip alike.
 *   - A tensor handle given out through `out` belongs to the caller, who frees it once.
 */
#ifndef TT_PROVIDER_H
#define TT_PROVIDER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TTP_ABI_VERSION 2u

typedef int32_t ttp_status;
enum {
    TTP_OK = 0,
    TTP_INVALID_ARGUMENT = 1, /* a value, shape, format or layout that the operation refuses */
    TTP_UNSUPPORTED = 2,      /* legal, but this provider does not do it */
    TTP_OUT_OF_MEMORY = 3, /* device memory; the error text gives needed, free and largest block */
    TTP_BAD_HANDLE = 4,    /* freed, foreign (another mesh) or never given out */
    TTP_UNWRITTEN = 5,     /* reads data that nothing has written */
    TTP_TRACE_RULE = 6,    /* forbidden while a trace is captured, or a trace that became stale */
    TTP_DEVICE = 7,        /* the device or its driver reported a failure */
    TTP_NOT_FOUND = 8,     /* no such device or mesh on this machine */
    TTP_INTERNAL = 9       /* a fault of the provider itself */
};

/* Boards, by the mesh they form. Wormhole: N150 1x1, N300 1x2, T3K 1x8 (ring). Blackhole: P150 1x1,
 * P300 1x2, QUIETBOX 1x4 (ring; four P150 or two P300), LOUDBOX 1x8 (ring). */
enum {
    TTP_BOARD_N150 = 1,
    TTP_BOARD_N300 = 2,
    TTP_BOARD_T3K = 3,
    TTP_BOARD_P150 = 4,
    TTP_BOARD_P300 = 5,
    TTP_BOARD_QUIETBOX = 6,
    TTP_BOARD_LOUDBOX = 7
};

/* Chips. */
enum { TTP_ARCH_WORMHOLE = 1, TTP_ARCH_BLACKHOLE = 2 };

/* Number formats. BFP: 16 neighbours of a row share an 8-bit exponent; sign + 7 or 3 magnitude
 * bits. */
enum {
    TTP_FORMAT_F32 = 0,
    TTP_FORMAT_BF16 = 1,
    TTP_FORMAT_BFP8_B = 2,
    TTP_FORMAT_BFP4_B = 3,
    TTP_FORMAT_U32 = 4,
    TTP_FORMAT_I32 = 5,
    TTP_FORMAT_U8 = 6
};

/* TILE: 32x32 tiles, each four 16x16 faces (top left, top right, bottom left, bottom right). */
enum { TTP_LAYOUT_ROW_MAJOR = 0, TTP_LAYOUT_TILE = 1 };

/* How a host array lies over the chips, in chip order. SHARD needs a dimension that divides evenly.
 */
enum { TTP_REPLICATE = 0, TTP_SHARD = 1 };

/* Matmul passes: how many of the operands' mantissa bits take part. */
enum { TTP_LOFI = 0, TTP_HIFI2 = 2, TTP_HIFI3 = 3, TTP_HIFI4 = 4 };

enum {
    TTP_ACT_NONE = 0,
    TTP_ACT_GELU = 1 /* erf */,
    TTP_ACT_SILU = 2,
    TTP_ACT_RELU = 3,
    TTP_ACT_GELU_TANH = 4 /* TT-NN 0.66 computes erf instead: at most 0.0005 apart */
};
enum { TTP_ADD = 0, TTP_SUB = 1, TTP_MUL = 2 };

/* ROPE_HALF rotates pairs (i, i + d/2), the order of Hugging Face checkpoints; ROPE_PAIRS rotates
 * (2i, 2i + 1), which needs permuted query and key weights. */
enum { TTP_ROPE_HALF = 0, TTP_ROPE_PAIRS = 1 };

enum { TTP_ROLE_READER = 0, TTP_ROLE_WRITER = 1, TTP_ROLE_COMPUTE = 2 };

typedef uint64_t ttp_mesh;
typedef uint64_t ttp_tensor;
typedef uint64_t ttp_trace;

typedef struct ttp_mesh_config {
    uint32_t struct_size;        /* sizeof(ttp_mesh_config) */
    uint32_t board;              /* TTP_BOARD_* */
    uint64_t trace_region_bytes; /* taken from every DRAM bank for traces; 0 forbids capture */
    uint64_t dram_limit_bytes;   /* pretend a chip has only this much; 0 = all. Simulators only */
    uint32_t command_queues;     /* 1 or 2 */
    uint32_t reserved;           /* 0 */
} ttp_mesh_config;

typedef struct ttp_mesh_info {
    uint32_t struct_size; /* set by the caller */
    uint32_t board;
    uint32_t rows;
    uint32_t columns;
    uint32_t ring;   /* 1: the last chip is wired to the first */
    uint32_t grid_x; /* compute cores per chip */
    uint32_t grid_y;
    uint32_t dram_banks; /* per chip */
    uint64_t dram_bytes; /* per chip, usable by tensors */
    uint64_t l1_bytes;   /* per core */
    uint32_t simulated;  /* 1: no silicon behind this mesh */
    uint32_t architecture; /* TTP_ARCH_* */
    /* Bytes: pages in DRAM start at multiples of it, and a kernel's read needs the same remainder
     * in L1. */
    uint32_t dram_alignment;
    uint32_t links; /* Ethernet links that a collective uses between neighbours; 0: one chip */
} ttp_mesh_info;

typedef struct ttp_memory {
    uint64_t total;
    uint64_t allocated;
    uint64_t free;
    uint64_t largest_free; /* the largest tensor that would still fit, in bytes over all banks */
    uint64_t peak;         /* highest `allocated` since the mesh was opened */
} ttp_memory;

typedef struct ttp_spec {
    uint32_t dims[4]; /* of one chip */
    uint32_t format;
    uint32_t layout;
} ttp_spec;

/* A host array. Row-major: F32, BF16, U32, I32 or U8 elements of the whole array. TILE: what
 * ttp_pack wrote for the same dims, format and distribution. */
typedef struct ttp_host {
    const void* data;
    uint64_t bytes;
    uint32_t dims[4]; /* of the whole array */
    uint32_t format;
    uint32_t layout;
} ttp_host;

typedef struct ttp_distribution {
    uint32_t kind; /* TTP_REPLICATE, TTP_SHARD */
    uint32_t dim;  /* 0..3, for TTP_SHARD */
} ttp_distribution;

typedef struct ttp_compute {
    uint32_t fidelity;  /* TTP_LOFI ... TTP_HIFI4 */
    uint32_t fp32_dest; /* 1: accumulate in float32, 0: the running sum is rounded to bf16 */
    uint32_t approx;    /* 1: fast approximate exp and friends */
} ttp_compute;

typedef struct ttp_core_range {
    uint32_t x0, y0, x1, y1; /* inclusive */
} ttp_core_range;

typedef struct ttp_kernel {
    const char* name;             /* file name under kernels/, zero-terminated */
    const char* source;           /* its text, zero-terminated */
    const uint32_t* compile_args; /* followed by one tensor accessor per entry of `accessors` */
    const uint32_t* accessors;    /* indices into the operation's tensors */
    const uint32_t* runtime_args; /* runtime_arg_count words per core; x fastest */
    uint32_t compile_arg_count;
    uint32_t accessor_count;
    uint32_t runtime_arg_count;
    uint32_t role;
    ttp_core_range cores;
    ttp_compute compute;
    uint32_t reserved;
} ttp_kernel;

typedef struct ttp_circular_buffer {
    uint32_t index;
    uint32_t format;
    uint32_t page_bytes;
    uint32_t pages;
    ttp_core_range cores;
} ttp_circular_buffer;

typedef struct ttp_semaphore {
    uint32_t id;
    uint32_t initial;
    ttp_core_range cores;
} ttp_semaphore;

typedef struct ttp_program {
    const ttp_kernel* kernels;
    const ttp_circular_buffer* buffers;
    const ttp_semaphore* semaphores;
    uint32_t kernel_count;
    uint32_t buffer_count;
    uint32_t semaphore_count;
    uint32_t reserved;
} ttp_program;

/* ---- the provider -------------------------------------------------------------------------------
 */

/* TTP_ABI_VERSION of the header the provider was built with. Never fails. */
uint32_t ttp_abi_version(void);
/* Name and version of the provider and of its runtime. Static text; never NULL. */
const char* ttp_provider_name(void);
/* Why this thread's last failed call failed. Valid until the thread's next call; never NULL. */
const char* ttp_last_error(void);

/* ---- mesh ---------------------------------------------------------------------------------------
 */

/* Opens a mesh: sets the fabric first, dispatches over Ethernet cores where the machine has N300
 * cards and over a column of Tensix cores on Blackhole. One process, one silicon mesh. */
ttp_status ttp_mesh_open(const ttp_mesh_config* config, ttp_mesh* out);
/* Closes it and frees every tensor and trace on it; their handles are dead afterwards. */
ttp_status ttp_mesh_close(ttp_mesh mesh);
ttp_status ttp_mesh_describe(ttp_mesh mesh, ttp_mesh_info* out);
/* DRAM of one chip. Chips are numbered from 0 in mesh order. */
ttp_status ttp_mesh_memory(ttp_mesh mesh, uint32_t chip, ttp_memory* out);
/* Waits until all work is done. Forbidden while a trace is captured. */
ttp_status ttp_mesh_synchronize(ttp_mesh mesh);

/* ---- tensors ------------------------------------------------------------------------------------
 */

/* A tensor in DRAM, interleaved over the banks. zeroed = 0 leaves it unwritten: reading it is an
 * error. */
ttp_status ttp_tensor_create(ttp_mesh mesh, const ttp_spec* spec, uint32_t zeroed, ttp_tensor* out);
/* Copies a host array to the mesh, converting to `format` and `layout` with the host's rounding. */
ttp_status ttp_tensor_upload(ttp_mesh mesh, const ttp_host* host,
                             const ttp_distribution* distribution, uint32_t format, uint32_t layout,
                             ttp_tensor* out);
/* The same into an existing tensor: how inputs of a trace are renewed. */
ttp_status ttp_tensor_write(ttp_tensor tensor, const ttp_host* host,
                            const ttp_distribution* distribution);
/* Reads one chip's shard, row-major, as `format` (F32, BF16, U32, I32 or U8). Waits for the work
 * before it. `bytes` is the room behind `data`; too little is refused with the size needed. */
ttp_status ttp_tensor_read(ttp_tensor tensor, uint32_t chip, uint32_t format, void* data,
                           uint64_t bytes);
/* What the tensor is on one chip. */
ttp_status ttp_tensor_describe(ttp_tensor tensor, ttp_spec* out);
/* Device address, as runtime arguments of custom kernels need it. */
ttp_status ttp_tensor_address(ttp_tensor tensor, uint32_t* out);
/* Gives the memory back. The handle is dead afterwards. */
ttp_status ttp_tensor_free(ttp_tensor tensor);
/* Packs a row-major host array into tiles of `format`, shard after shard (`chips` of them when
 * sharded, one when replicated), with the host's rounding. With data = NULL only *needed is set. No
 * mesh needed. */
ttp_status ttp_pack(const ttp_host* host, const ttp_distribution* distribution, uint32_t chips,
                    uint32_t format, void* data, uint64_t bytes, uint64_t* needed);

/* ---- operations: every one leaves its inputs alone and gives out a new tensor, unless it says so
 * --- */

/* y = activation(x @ w + bias). x [a,b,M,K], w [1,1,K,N], bias [1,1,1,N] or 0. All TILE. */
ttp_status ttp_linear(ttp_tensor x, ttp_tensor w, ttp_tensor bias, uint32_t activation,
                      const ttp_compute* compute, uint32_t format, ttp_tensor* out);
/* Over the last dimension. weight and bias [1,1,1,W]; bias may be 0. */
ttp_status ttp_layer_norm(ttp_tensor x, ttp_tensor weight, ttp_tensor bias, float eps,
                          const ttp_compute* compute, ttp_tensor* out);
ttp_status ttp_rms_norm(ttp_tensor x, ttp_tensor weight, float eps, const ttp_compute* compute,
                        ttp_tensor* out);
/* x [1,H,S,D], cosine and sine [1,1,T,D] (D wide in both orders), of which rows 0..S are used. */
ttp_status ttp_rope(ttp_tensor x, ttp_tensor cosine, ttp_tensor sine, uint32_t order,
                    const ttp_compute* compute, ttp_tensor* out);
/* [1,1,S,(q+2*kv)*D] -> q [1,q,S,D], k and v [1,kv,S,D]. */
ttp_status ttp_split_heads(ttp_tensor qkv, uint32_t q_heads, uint32_t kv_heads, ttp_tensor* q,
                           ttp_tensor* k, ttp_tensor* v);
/* One row, BF16, heads as rows: [1,1,1,(q+2*kv)*D] -> q [1,1,q,D], k and v [1,1,kv,D]. At most 32
 * query heads. The results may lie in the L1 of cores: they are for ttp_rope,
 * ttp_cache_update_pair and ttp_attention_decode, and to be freed soon after. */
ttp_status ttp_split_heads_decode(ttp_tensor qkv, uint32_t q_heads, uint32_t kv_heads,
                                  ttp_tensor* q, ttp_tensor* k, ttp_tensor* v);
/* [1,H,S,D] -> [1,1,S,H*D]. */
ttp_status ttp_concat_heads(ttp_tensor x, ttp_tensor* out);
/* softmax(scale * q k^T + mask) v. q [1,H,S,D], k and v [1,G,T,D], G divides H; D a multiple of 32.
 * causal needs S = T and no mask. mask [1,1|H,S,T] or 0; with a mask TT-NN wants S and T to be
 * multiples of 32. */
ttp_status ttp_attention(ttp_tensor q, ttp_tensor k, ttp_tensor v, ttp_tensor mask, uint32_t causal,
                         float scale, const ttp_compute* compute, ttp_tensor* out);
/* One query row against a cache: q [1,H,1,D], or [1,1,H,D] as ttp_split_heads_decode gives it;
 * caches [1,G,T,D], position I32 [1,1,1,1] on the device: rows 0..=position take part. The result
 * is [1,H,1,D]. */
ttp_status ttp_attention_decode(ttp_tensor q, ttp_tensor k_cache, ttp_tensor v_cache,
                                ttp_tensor position, float scale, const ttp_compute* compute,
                                ttp_tensor* out);
/* Writes x [1,G,S,D] into rows 0..S of the cache, in place. */
ttp_status ttp_cache_fill(ttp_tensor cache, ttp_tensor x);
/* Writes x [1,G,1,D] into row `position` (I32 [1,1,1,1], on the device), in place. */
ttp_status ttp_cache_update(ttp_tensor cache, ttp_tensor x, ttp_tensor position);
/* The same for keys and values at once, each with its heads as rows, [1,1,G,D]. */
ttp_status ttp_cache_update_pair(ttp_tensor k_cache, ttp_tensor v_cache, ttp_tensor k, ttp_tensor v,
                                 ttp_tensor position);
/* Rows of table [1,1,V,D] (BF16, row-major) named by ids U32 [1,1,1,N] row-major -> [1,1,N,D] in
 * `layout`. TILE output needs N = 1 or a multiple of 32. */
ttp_status ttp_embedding(ttp_tensor ids, ttp_tensor table, uint32_t layout, ttp_tensor* out);
/* Element by element; a dimension of 1 is spread. left_activation is applied to a first (silu(a) *
 * b). */
ttp_status ttp_binary(ttp_tensor a, ttp_tensor b, uint32_t operation, uint32_t left_activation,
                      uint32_t format, ttp_tensor* out);
ttp_status ttp_unary(ttp_tensor x, uint32_t activation, ttp_tensor* out);
/* Adds `value` to an I32 or U32 tensor, in place: counts positions and shifts ids on the device. */
ttp_status ttp_increment(ttp_tensor x, int32_t value);
ttp_status ttp_concat(const ttp_tensor* tensors, uint32_t count, uint32_t dim, ttp_tensor* out);
/* [begin, end) in each dimension. */
ttp_status ttp_slice(ttp_tensor x, const uint32_t* begin, const uint32_t* end, ttp_tensor* out);
/* The result may share its memory with x: change neither in place while both live. */
ttp_status ttp_reshape(ttp_tensor x, const uint32_t* dims, ttp_tensor* out);
/* Exchanges the last two dimensions. */
ttp_status ttp_transpose(ttp_tensor x, ttp_tensor* out);
/* Changes format and layout with the device's rounding. */
ttp_status ttp_convert(ttp_tensor x, uint32_t format, uint32_t layout, ttp_tensor* out);
/* Copies x into target, which keeps its address; same spec. In place. */
ttp_status ttp_copy(ttp_tensor x, ttp_tensor target);
/* Index of the largest of columns [begin, end) in each row; the lowest index wins ties. x BF16 or
 * F32 [1,1,R,W] -> U32 [1,1,1,R], row-major, counted from column 0 of x. */
ttp_status ttp_argmax(ttp_tensor x, uint32_t begin, uint32_t end, ttp_tensor* out);

/* ---- between chips ------------------------------------------------------------------------------
 */

/* Every chip gets all shards, joined along `dim` in chip order. */
ttp_status ttp_all_gather(ttp_tensor x, uint32_t dim, ttp_tensor* out);
/* Sums over the chips; chip i keeps part i along `dim`. */
ttp_status ttp_reduce_scatter(ttp_tensor x, uint32_t dim, ttp_tensor* out);
/* Sums over the chips; every chip gets the sum. */
ttp_status ttp_all_reduce(ttp_tensor x, ttp_tensor* out);
/* Chip i keeps part i of its own tensor along `dim`; nothing is sent. */
ttp_status ttp_partition(ttp_tensor x, uint32_t dim, ttp_tensor* out);

/* ---- own kernels --------------------------------------------------------------------------------
 */

/* Runs a program on every chip. The last tensor is the output and is considered written. */
ttp_status ttp_run_program(const ttp_tensor* tensors, uint32_t count, const ttp_program* program);

/* ---- trace --------------------------------------------------------------------------------------
 */

/* From here to ttp_trace_end operations on the mesh are captured, not run. Each must have run
 * before with the same shapes and parameters (its program must be cached). Forbidden inside:
 * upload, write, read, create, synchronize. Outputs made inside hold data only after the trace has
 * run. */
ttp_status ttp_trace_begin(ttp_mesh mesh);
ttp_status ttp_trace_end(ttp_mesh mesh, ttp_trace* out);
/* Runs it with the addresses of its capture. Tensors it reads and did not make must be alive. A
 * tensor allocated after the capture at an address that the trace writes is overwritten; simulators
 * answer a later read with TTP_UNWRITTEN. */
ttp_status ttp_trace_run(ttp_trace trace, uint32_t blocking);
ttp_status ttp_trace_free(ttp_trace trace);

#ifdef __cplusplus
}
#endif

#endif
