"""The operations of crates/tt-metal-sys/shim on TT-NN's Python interface.

Every function here makes the calls that the shim makes for the operation of that name
(operations.cpp, decode.cpp), with the same program, compute and memory configuration;
tools/silicon/check_calls.py compares the calls. TT-NN then checks shapes, formats, layouts, L1 and
circular buffers as it would for the shim.
"""

import struct

import ttnn

DRAM = ttnn.DRAM_MEMORY_CONFIG
FORMATS = {
    "F32": ttnn.float32,
    "Bf16": ttnn.bfloat16,
    "Bfp8B": ttnn.bfloat8_b,
    "Bfp4B": ttnn.bfloat4_b,
    "U32": ttnn.uint32,
    "I32": ttnn.int32,
    "U8": ttnn.uint8,
}
LAYOUTS = {"RowMajor": ttnn.ROW_MAJOR_LAYOUT, "Tile": ttnn.TILE_LAYOUT}
# Formats as the ABI numbers them, for circular buffers.
DATA_FORMATS = ["F32", "Bf16", "Bfp8B", "Bfp4B", "U32", "I32", "U8"]


class Refused(Exception):
    """What the shim itself refuses."""


def f32(bits):
    """The float of a recorded bit pattern."""
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def tiles(elements):
    return (elements + 31) // 32


def dims_of(tensor):
    shape = [int(dim) for dim in tensor.shape]
    return [1] * (4 - len(shape)) + shape


def largest_divisor(value, limit):
    return next((part for part in range(min(value, limit), 1, -1) if value % part == 0), 1)


def compute_of(compute):
    return ttnn.WormholeComputeKernelConfig(
        math_fidelity=getattr(ttnn.MathFidelity, compute["fidelity"]),
        math_approx_mode=False,
        fp32_dest_acc_en=compute["fp32_dest"],
        packer_l1_acc=True,
        dst_full_sync_en=False,
    )


def activation_of(activation):
    if activation == "None":
        return None
    if activation in ("Gelu", "GeluTanh"):
        return ttnn.UnaryWithParam(ttnn.UnaryOpType.GELU, 0.0)
    if activation in ("Silu", "Relu"):
        return ttnn.UnaryWithParam(getattr(ttnn.UnaryOpType, activation.upper()))
    raise Refused(f"activation {activation}")


class Shim:
    """The shim's operations on one open mesh."""

    def __init__(self, mesh, chips, ring, links):
        self.mesh = mesh
        self.chips = chips
        self.topology = ttnn.Topology.Ring if ring else ttnn.Topology.Linear
        self.links = links
        self.grid = mesh.compute_with_storage_grid_size()
        self.rope_matrix = None
        self.first_of_pair = None

    def linear_config(self, m, k, n, fp32_dest, activation):
        columns, rows = self.grid.x, self.grid.y
        one_row = m <= 16
        per_core_m = m if one_row else -(-m // rows)
        per_core_n = -(-n // (columns * rows)) if one_row else -(-n // columns)
        room = 4 if fp32_dest else 8
        out_n = per_core_n
        while not one_row and out_n > 1 and per_core_m * out_n * (4096 + 2048) > 700 * 1024:
            out_n = largest_divisor(per_core_n, out_n - 1)
        sub_w = largest_divisor(out_n, room)
        sub_h = largest_divisor(per_core_m, room // sub_w) if sub_w == out_n else 1
        block = largest_divisor(k, 8)
        result = per_core_m * out_n * (4096 + 2048)
        while block > 1 and result + 2 * 2048 * block * (per_core_m + out_n) > 1200 * 1024:
            block = largest_divisor(k, block - 1)
        common = {
            "compute_with_storage_grid_size": self.grid,
            "in0_block_w": block,
            "out_subblock_h": sub_h,
            "out_subblock_w": sub_w,
            "out_block_h": per_core_m,
            "out_block_w": out_n,
            "per_core_M": per_core_m,
            "per_core_N": per_core_n,
            "fuse_batch": True,
            "fused_activation": activation,
        }
        if one_row:
            return ttnn.MatmulMultiCoreReuseMultiCast1DProgramConfig(mcast_in0=True, **common)
        return ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(transpose_mcast=False, **common)

    def linear(self, op, x, w, bias=None):
        left, right = dims_of(x), dims_of(w)
        program = self.linear_config(
            left[0] * left[1] * tiles(left[2]),
            tiles(left[3]),
            tiles(right[3]),
            op["compute"]["fp32_dest"],
            activation_of(op["activation"]),
        )
        return ttnn.linear(
            x,
            w,
            bias=bias,
            memory_config=DRAM,
            dtype=FORMATS[op["format"]],
            program_config=program,
            compute_kernel_config=compute_of(op["compute"]),
        )

    def layer_norm(self, op, x, weight, bias=None):
        return ttnn.layer_norm(
            x,
            epsilon=f32(op["eps"]),
            weight=weight,
            bias=bias,
            memory_config=DRAM,
            program_config=ttnn.LayerNormDefaultProgramConfig(),
            compute_kernel_config=compute_of(op["compute"]),
        )

    def rms_norm(self, op, x, weight):
        return ttnn.rms_norm(
            x,
            epsilon=f32(op["eps"]),
            weight=weight,
            memory_config=DRAM,
            program_config=ttnn.LayerNormDefaultProgramConfig(),
            compute_kernel_config=compute_of(op["compute"]),
        )

    def slice(self, tensor, begin, end):
        return ttnn.slice(tensor, begin, end, [1, 1, 1, 1], memory_config=DRAM)

    def rope(self, op, x, cosine, sine):
        compute = compute_of(op["compute"])
        if op["half"]:
            memory = x.memory_config() if x.is_sharded() else DRAM
            turned = ttnn.experimental.rotary_embedding(
                x, cosine, sine, memory_config=memory, compute_kernel_config=compute
            )
            if dims_of(turned) != dims_of(x):
                # Python's view takes no padded shape; of shapes of different volume, reshape is
                # that view.
                turned = ttnn.reshape(turned, x.shape, x.padded_shape)
            return turned
        if self.rope_matrix is None:
            self.rope_matrix = allocate(self.mesh, [1, 1, 32, 32], "Bf16", "Tile")
        return ttnn.experimental.rotary_embedding_llama(
            x,
            cosine,
            sine,
            self.rope_matrix,
            is_decode_mode=False,
            memory_config=DRAM,
            compute_kernel_config=compute,
        )

    def split_heads(self, op, qkv):
        width, heads = dims_of(qkv)[3], op["q"] + 2 * op["kv"]
        if width % heads or width // heads % 32:
            raise Refused(f"{width} columns in {heads} heads do not fill whole tiles")
        return ttnn.experimental.nlp_create_qkv_heads(
            qkv,
            num_heads=op["q"],
            num_kv_heads=op["kv"],
            transpose_k_heads=False,
            memory_config=DRAM,
        )

    def split_heads_decode(self, op, qkv):
        dims, heads = dims_of(qkv), op["q"] + 2 * op["kv"]
        if dims[3] % heads or dims[3] // heads % 32:
            raise Refused(f"{dims[3]} columns in {heads} heads do not fill whole tiles")
        if dims[:3] != [1, 1, 1]:
            raise Refused(f"{dims[2]} rows; one is needed")
        return ttnn.experimental.nlp_create_qkv_heads_decode(
            qkv,
            num_heads=op["q"],
            num_kv_heads=op["kv"],
            overlap_qk_coregrid=True,
            memory_config=on_core(0, dims[3] // heads),
        )

    def concat_heads(self, _op, x):
        if dims_of(x)[3] % 32:
            raise Refused("the head dimension is not a multiple of 32")
        return ttnn.experimental.nlp_concat_heads(x, memory_config=DRAM)

    def attention(self, op, q, k, v, mask=None):
        def chunk(rows):
            whole = mask is None or rows % 64 == 0
            return min(64, tiles(rows) * 32) if whole else 32

        program = ttnn.SDPAProgramConfig(
            compute_with_storage_grid_size=self.grid,
            q_chunk_size=chunk(dims_of(q)[2]),
            k_chunk_size=chunk(dims_of(k)[2]),
            exp_approx_mode=False,
        )
        return ttnn.transformer.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=op["causal"],
            scale=f32(op["scale"]),
            memory_config=DRAM,
            program_config=program,
            compute_kernel_config=compute_of(op["compute"]),
        )

    def attention_decode(self, op, q, k_cache, v_cache, position):
        rows = dims_of(q)[1] == 1
        query = q if rows else ttnn.transpose(q, 1, 2, memory_config=DRAM)
        at = ttnn.reshape(position, [1], memory_config=DRAM)
        program = ttnn.SDPAProgramConfig(
            compute_with_storage_grid_size=self.grid,
            q_chunk_size=0,
            k_chunk_size=0,
            exp_approx_mode=False,
        )
        result = ttnn.transformer.scaled_dot_product_attention_decode(
            query,
            k_cache,
            v_cache,
            is_causal=True,
            cur_pos_tensor=at,
            scale=f32(op["scale"]),
            memory_config=DRAM,
            program_config=program,
            compute_kernel_config=compute_of(op["compute"]),
        )
        return ttnn.transpose(result, 1, 2, memory_config=DRAM)

    def heads_over_cores(self, dims):
        columns = largest_divisor(dims[1], self.grid.x)
        rows = dims[1] // columns
        if rows > self.grid.y:
            raise Refused(f"{dims[1]} heads do not fit a rectangle of cores")
        return height_sharded(columns, rows, dims)

    def cache_fill(self, _op, cache, x):
        if x.dtype != cache.dtype:
            x = ttnn.typecast(x, cache.dtype, memory_config=DRAM)
        dims = dims_of(x)
        if dims[1] > 1 and dims[1] * tiles(dims[2]) > self.grid.x * self.grid.y:
            x = ttnn.to_memory_config(x, self.heads_over_cores(dims))
        ttnn.fill_cache(cache, x, 0)

    def cache_update(self, _op, cache, x, position):
        row = ttnn.transpose(x, 1, 2, memory_config=DRAM)
        dims = dims_of(row)
        placed = ttnn.to_memory_config(row, height_sharded(1, 1, dims))
        at = ttnn.reshape(position, [1], memory_config=DRAM)
        ttnn.experimental.paged_update_cache(
            cache, placed, update_idxs=[], update_idxs_tensor=at, batch_offset=0
        )

    def placed(self, row, column):
        config = on_core(column, dims_of(row)[3])
        if row.memory_config() == config:
            return row
        return ttnn.to_memory_config(row, config)

    def cache_update_pair(self, op, cache, x, position):
        # The simulated mesh records one call of the shim as two, for keys and for values.
        if op["first"]:
            self.first_of_pair = cache, x, position
            return
        k_cache, k, position = self.first_of_pair
        key, value = self.placed(k, 0), self.placed(x, 1)
        at = ttnn.reshape(position, [1], memory_config=DRAM)
        ttnn.experimental.paged_fused_update_cache(
            k_cache, key, cache, value, update_idxs=[], update_idxs_tensor=at, batch_offset=0
        )

    def embedding(self, op, ids, table):
        count, width = dims_of(ids)[3], dims_of(table)[3]
        flat = ttnn.reshape(ids, [1, count], memory_config=DRAM)
        direct = op["layout"] == "Tile" and count % 32 == 0
        rows = ttnn.embedding(
            flat,
            table,
            layout=LAYOUTS["Tile" if direct else "RowMajor"],
            dtype=ttnn.bfloat16,
            memory_config=DRAM,
        )
        rows = ttnn.reshape(rows, [1, 1, count, width], memory_config=DRAM)
        if op["layout"] == "Tile" and not direct:
            rows = ttnn.to_layout(rows, ttnn.TILE_LAYOUT, memory_config=DRAM)
        return rows

    def binary(self, op, a, b):
        left = activation_of(op["left"])
        # In the order of TTP_ADD, TTP_SUB, TTP_MUL.
        call = [ttnn.add, ttnn.subtract, ttnn.multiply][op["operation"]]
        return call(
            a,
            b,
            dtype=FORMATS[op["format"]],
            memory_config=DRAM,
            input_tensor_a_activations=[] if left is None else [left],
        )

    def unary(self, op, x):
        activation = op["activation"]
        if activation == "None":
            return ttnn.assign(x, memory_config=DRAM)
        if activation in ("Gelu", "GeluTanh"):
            return ttnn.gelu(x, fast_and_approximate_mode=False, memory_config=DRAM)
        if activation == "Silu":
            return ttnn.silu(x, memory_config=DRAM)
        if activation == "Relu":
            return ttnn.relu(x, memory_config=DRAM)
        raise Refused(f"activation {activation}")

    def increment(self, op, x):
        if op["value"] != 1:
            raise Refused(f"increment by {op['value']}: TT-NN adds one")
        ttnn.plus_one(x)

    def concat(self, op, *parts):
        return ttnn.concat(list(parts), op["dim"], memory_config=DRAM)

    def slice_of(self, op, x):
        return self.slice(x, op["begin"], op["end"])

    def reshape(self, op, x):
        return ttnn.reshape(x, op["dims"], memory_config=DRAM)

    def transpose(self, _op, x):
        return ttnn.transpose(x, 2, 3, memory_config=DRAM)

    def convert(self, op, x):
        layout, dtype = LAYOUTS[op["layout"]], FORMATS[op["format"]]
        if layout == ttnn.TILE_LAYOUT and x.layout != layout:
            x = ttnn.to_layout(x, layout, memory_config=DRAM)
        if x.dtype != dtype:
            x = ttnn.typecast(x, dtype, memory_config=DRAM)
        if x.layout != layout:
            x = ttnn.to_layout(x, layout, memory_config=DRAM)
        return x

    def copy(self, _op, target, x):
        ttnn.copy(x, target)

    def argmax(self, op, x):
        dims = dims_of(x)
        if op["begin"]:
            raise Refused(f"argmax from column {op['begin']}")
        if op["end"] != dims[3]:
            x = self.slice(x, [0, 0, 0, 0], [*dims[:3], op["end"]])
        x = ttnn.to_layout(x, ttnn.ROW_MAJOR_LAYOUT, memory_config=DRAM)
        found = ttnn.argmax(x, dim=3, keepdim=True, use_multicore=True, memory_config=DRAM)
        return ttnn.reshape(found, [1, 1, 1, dims[2]], memory_config=DRAM)

    def all_gather(self, op, x):
        if self.chips == 1:
            return ttnn.assign(x, memory_config=DRAM)
        return ttnn.all_gather(
            x,
            op["dim"],
            cluster_axis=1,
            memory_config=DRAM,
            num_links=self.links,
            topology=self.topology,
        )

    def reduce_scatter(self, op, x):
        if self.chips == 1:
            return ttnn.assign(x, memory_config=DRAM)
        return ttnn.reduce_scatter(
            x,
            op["dim"],
            cluster_axis=1,
            memory_config=DRAM,
            intermediate_memory_config=DRAM,
            num_links=self.links,
            topology=self.topology,
        )

    def all_reduce(self, _op, x):
        if self.chips == 1:
            return ttnn.assign(x, memory_config=DRAM)
        return ttnn.all_reduce(
            x,
            cluster_axis=1,
            memory_config=DRAM,
            num_links=self.links,
            topology=self.topology,
        )

    def partition(self, op, x):
        if self.chips == 1:
            return ttnn.assign(x, memory_config=DRAM)
        return ttnn.mesh_partition(x, op["dim"], cluster_axis=1, memory_config=DRAM)


def height_sharded(columns, rows, dims):
    """Memory of [.., rows, columns] in the L1 of a rectangle of cores."""
    corners = ttnn.CoreCoord(0, 0), ttnn.CoreCoord(columns - 1, rows - 1)
    shape = [tiles(dims[2]) * 32, tiles(dims[3]) * 32]
    cores = ttnn.CoreRangeSet({ttnn.CoreRange(*corners)})
    shard = ttnn.ShardSpec(cores, shape, ttnn.ShardOrientation.ROW_MAJOR)
    return ttnn.MemoryConfig(ttnn.TensorMemoryLayout.HEIGHT_SHARDED, ttnn.BufferType.L1, shard)


def on_core(column, width):
    """Memory of the heads of one row, padded to 32, in the L1 of a core of the first row."""
    corner = ttnn.CoreCoord(column, 0)
    cores = ttnn.CoreRangeSet({ttnn.CoreRange(corner, corner)})
    shard = ttnn.ShardSpec(cores, [32, width], ttnn.ShardOrientation.ROW_MAJOR)
    return ttnn.MemoryConfig(ttnn.TensorMemoryLayout.HEIGHT_SHARDED, ttnn.BufferType.L1, shard)


def allocate(mesh, dims, format_name, layout):
    """A tensor in DRAM, interleaved, without content."""
    return ttnn.allocate_tensor_on_device(
        ttnn.Shape(dims), FORMATS[format_name], LAYOUTS[layout], mesh, DRAM
    )
