"""Gives the recorded calls of a model to TT-NN in mock mode, which checks them without a device.

    replay.py --cluster n300 calls.jsonl

Mock mode allocates memory, builds programs and checks shapes, formats, layouts, L1 and circular
buffers as on silicon; it compiles and runs no kernel. Prints one JSON object: calls replayed and
skipped by kind, and every refusal with the line that it happened at. The exit code is 1 when
anything was refused.
"""

import argparse
import collections
import json
import os
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "kernels"
# Reads and writes move no bytes in mock mode, and traces cannot be executed there.
SKIPPED = {"write", "read", "trace_run"}
ROLE_COMPUTE = 2


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--cluster", required=True, help="a cluster of clusters.py, such as n300")
    parser.add_argument("--stop", type=int, default=20, help="refusals after which to stop")
    parser.add_argument("recording", type=pathlib.Path)
    return parser.parse_args()


def prepare_environment(cluster, folder):
    """Before TT-NN is imported: its libraries read these variables once."""
    import importlib.util

    import clusters

    package = pathlib.Path(importlib.util.find_spec("ttnn").origin).parent
    folder = pathlib.Path(folder)
    descriptor = folder / f"{cluster.name}.yaml"
    descriptor.write_text(clusters.descriptor(cluster))
    os.environ["TT_METAL_MOCK_CLUSTER_DESC_PATH"] = str(descriptor)
    os.environ["TT_METAL_RUNTIME_ROOT"] = str(package)
    os.environ.setdefault("TT_LOGGER_LEVEL", "fatal")
    os.environ.setdefault("LOGURU_LEVEL", "ERROR")


def one_line(error):
    """TT-NN's reason without its backtrace and source position."""
    text = str(error).split("backtrace:")[0]
    if "info:" in text:
        text = text.split("info:", 1)[1]
    return " ".join(text.split())[:400]


class Replay:
    """The calls of one recording on one mesh."""

    def __init__(self, ttnn, ops, mesh, cluster):
        self.ttnn, self.ops, self.mesh = ttnn, ops, mesh
        self.shim = ops.Shim(mesh, cluster.chips, cluster.ring, cluster.links)
        self.tensors, self.programs, self.traces = {}, {}, {}
        self.capturing = None
        self.done = collections.Counter()
        self.operations = 0
        self.refused = []

    def spec(self, tensor):
        names = {value: key for key, value in self.ops.FORMATS.items()}
        layout = "Tile" if tensor.layout == self.ttnn.TILE_LAYOUT else "RowMajor"
        return {
            "dims": self.ops.dims_of(tensor),
            "format": names[tensor.dtype],
            "layout": layout,
        }

    def allocate(self, call):
        spec = call["spec"]
        args = (spec["dims"], spec["format"], spec["layout"])
        self.tensors[call["tensor"]] = self.ops.allocate(self.mesh, *args)

    def run(self, call):
        op = call["op"]
        inputs = [self.tensors[handle] for handle in call["in"]]
        if op["op"] == "program":
            self.generic(self.programs[op["id"]], inputs)
            return
        name = "slice_of" if op["op"] == "slice" else op["op"]
        function = getattr(self.shim, name, None)
        if function is None:
            raise self.ops.Refused(f"shim_ops.py has no operation {name}: add it")
        outputs = function(op, *inputs)
        if outputs is None:
            outputs = []
        elif not isinstance(outputs, (list, tuple)):
            outputs = [outputs]
        for handle, tensor, wanted in zip(call["out"], outputs, call["out_specs"], strict=True):
            self.tensors[handle] = tensor
            got = self.spec(tensor)
            if got != wanted:
                raise self.ops.Refused(f"TT-NN gives {got}, the simulated mesh {wanted}")

    def cores(self, rectangle):
        ttnn = self.ttnn
        x0, y0, x1, y1 = rectangle
        corners = ttnn.CoreCoord(x0, y0), ttnn.CoreCoord(x1, y1)
        return ttnn.CoreRangeSet({ttnn.CoreRange(*corners)})

    def kernel(self, kernel, tensors):
        ttnn = self.ttnn
        arguments = list(kernel["compile_args"])
        for index in kernel["accessors"]:
            arguments += ttnn.TensorAccessorArgs(tensors[index]).get_compile_time_args()
        x0, y0, x1, y1 = kernel["cores"]
        count = kernel["runtime_arg_count"]
        runtime, at = ttnn.RuntimeArgs(), 0
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                runtime[x][y] = kernel["runtime_args"][at : at + count]
                at += count
        if kernel["role"] == ROLE_COMPUTE:
            fidelity, fp32_dest, approx = kernel["compute"]
            config = ttnn.ComputeConfigDescriptor(
                math_fidelity=ttnn.MathFidelity(fidelity),
                math_approx_mode=bool(approx),
                fp32_dest_acc_en=bool(fp32_dest),
                bfp8_pack_precise=True,
            )
        elif kernel["role"] == 0:
            config = ttnn.ReaderConfigDescriptor()
        else:
            config = ttnn.WriterConfigDescriptor()
        return ttnn.KernelDescriptor(
            kernel_source=(KERNELS / kernel["name"]).read_text(),
            source_type=ttnn.KernelDescriptor.SourceType.SOURCE_CODE,
            core_ranges=self.cores(kernel["cores"]),
            compile_time_args=arguments,
            runtime_args=runtime,
            config=config,
        )

    def generic(self, program, tensors):
        ttnn = self.ttnn
        buffers = []
        for index, form, page, pages, *cores in program["buffers"]:
            name = self.ops.DATA_FORMATS[form]
            entry = ttnn.CBFormatDescriptor(
                buffer_index=index, data_format=self.ops.FORMATS[name], page_size=page
            )
            buffers.append(
                ttnn.CBDescriptor(
                    total_size=page * pages,
                    core_ranges=self.cores(cores),
                    format_descriptors=[entry],
                )
            )
        kernels = [self.kernel(kernel, tensors) for kernel in program["kernels"]]
        ttnn.generic_op(
            tensors, ttnn.ProgramDescriptor(kernels=kernels, semaphores=[], cbs=buffers)
        )

    def call(self, call):
        """One call; what it was for the report."""
        ttnn, kind = self.ttnn, call["call"]
        if kind in ("create", "upload"):
            self.allocate(call)
        elif kind == "free":
            self.tensors.pop(call["tensor"], None)
        elif kind == "run":
            self.run(call)
            self.operations += 1
            return call["op"]["op"]
        elif kind == "program":
            self.programs[call["id"]] = call["program"]
            return "program (description)"
        elif kind == "trace_begin":
            self.capturing = ttnn.begin_trace_capture(self.mesh, cq_id=0)
        elif kind == "trace_end":
            ttnn.end_trace_capture(self.mesh, self.capturing, cq_id=0)
            self.traces[call["trace"]], self.capturing = self.capturing, None
        elif kind == "trace_free":
            ttnn.release_trace(self.mesh, self.traces.pop(call["trace"]))
        elif kind in SKIPPED:
            return f"{kind} (skipped)"
        else:
            raise self.ops.Refused(f"a call of kind {kind}")
        return kind

    def refuse(self, number, call, error):
        """Keeps the reason; the simulated mesh's outputs stand in for those that are missing."""
        op = call.get("op", {"op": call["call"]})
        specs = [list(spec.values()) for spec in call.get("in_specs", [])]
        reason = {"line": number, "op": op, "inputs": specs, "why": one_line(error)}
        if all(known["op"] != op or known["inputs"] != specs for known in self.refused):
            self.refused.append(reason)
        for handle, spec in zip(call.get("out", []), call.get("out_specs", []), strict=True):
            if handle not in self.tensors or self.spec(self.tensors[handle]) != spec:
                self.allocate({"tensor": handle, "spec": spec})


def main():
    options = arguments()
    sys.path.insert(0, str(HERE))
    import clusters

    cluster = clusters.CLUSTERS[options.cluster]
    recording = options.recording.resolve()
    with tempfile.TemporaryDirectory() as folder:
        # TT-NN writes its reports and logs to generated/ in the working directory.
        os.chdir(folder)
        prepare_environment(cluster, folder)
        # After the environment, which its libraries read when they are loaded.
        import shim_ops
        import ttnn

        with recording.open() as lines:
            opened = json.loads(next(lines))
            if opened["chips"] != cluster.chips:
                sys.exit(
                    f"{options.recording} is of {opened['chips']} chips, {cluster.name} has "
                    f"{cluster.chips}: record for a mesh of as many"
                )
            mesh = clusters.open_mesh(ttnn, cluster, opened)
            replay = Replay(ttnn, shim_ops, mesh, cluster)
            for number, line in enumerate(lines, 2):
                call = json.loads(line)
                try:
                    replay.done[replay.call(call)] += 1
                except (RuntimeError, TypeError, ValueError, shim_ops.Refused) as error:
                    replay.refuse(number, call, error)
                    if len(replay.refused) >= options.stop:
                        break
    report = {
        "recording": options.recording.name,
        "cluster": cluster.name,
        "grid": [replay.shim.grid.x, replay.shim.grid.y],
        "operations": replay.operations,
        "calls": dict(sorted(replay.done.items())),
        "refused": replay.refused,
    }
    print(json.dumps(report, indent=1), flush=True)
    # TT-NN's destructors reach for devices that a mock cluster does not have.
    os._exit(1 if replay.refused else 0)


if __name__ == "__main__":
    main()
