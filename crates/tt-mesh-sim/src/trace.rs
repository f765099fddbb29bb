//! Traces. A trace keeps addresses, not tensors: its inputs must still exist when it is executed,
//! and a tensor allocated later at an address that it writes is lost.

use std::collections::HashSet;

use serde_json::json;
use tt_metal_sys as abi;
use tt_metal_sys::boards::TRACE_BYTES_PER_OPERATION;

use crate::error::{Result, refusal};
use crate::format::Spec;
use crate::memory::Block;
use crate::mesh::{Mesh, Written};
use crate::op::Op;

/// One captured operation.
#[derive(Debug, Clone)]
pub struct Command {
    /// The operation.
    pub op: Op,
    /// Tensors it reads (and changes, for operations in place).
    pub inputs: Vec<u64>,
    /// Tensors it creates.
    pub outputs: Vec<u64>,
    /// Specs of the inputs.
    pub specs: Vec<Spec>,
    /// Specs of the outputs.
    pub output_specs: Vec<Spec>,
}

/// A capture in progress.
#[derive(Debug, Default)]
pub struct Capture {
    /// The operations so far.
    pub commands: Vec<Command>,
    /// Tensors created by the trace.
    pub owned: HashSet<u64>,
    blocks: Vec<Block>,
}

/// A captured trace.
#[derive(Debug)]
pub struct Trace {
    commands: Vec<Command>,
    /// Tensors created by the trace.
    pub owned: HashSet<u64>,
    /// Addresses it writes.
    blocks: Vec<Block>,
}

impl Mesh {
    /// Begins a capture.
    pub fn trace_begin(&mut self) -> Result<()> {
        self.not_while_capturing("capturing another trace")?;
        if self.trace_region() == 0 {
            return Err(refusal(
                abi::TTP_TRACE_RULE,
                "the mesh was opened without a trace region: set trace_region_bytes",
            ));
        }
        self.record("trace_begin", || json!({}))?;
        self.capture = Some(Capture::default());
        Ok(())
    }

    /// Stores the blocks of the captured tensors while they exist.
    pub(crate) fn note_blocks(&mut self) {
        let Some(capture) = &mut self.capture else { return };
        let Some(command) = capture.commands.last() else { return };
        capture.blocks.extend(
            command
                .outputs
                .iter()
                .filter_map(|handle| self.tensors.get(handle).and_then(|tensor| tensor.block)),
        );
    }

    /// Ends a capture.
    pub fn trace_end(&mut self) -> Result<u64> {
        let Some(capture) = self.capture.take() else {
            return Err(refusal(
                abi::TTP_TRACE_RULE,
                "no trace is being captured: call ttp_trace_begin first",
            ));
        };
        // TT-NN compares the sum of all traces with what is taken from every bank.
        let bytes = |commands: &[Command]| commands.len() as u64 * TRACE_BYTES_PER_OPERATION;
        let needed = bytes(&capture.commands);
        let others = self.traces.values().map(|trace| bytes(&trace.commands)).sum::<u64>();
        if needed + others > self.trace_region() {
            self.forget_freed(capture.owned);
            return Err(refusal(
                abi::TTP_TRACE_RULE,
                format!(
                    "a trace of {} operations takes about {needed} B and other traces {others} B, \
                    more than the trace region of {} B: raise trace_region_bytes where the mesh is \
                    opened",
                    capture.commands.len(),
                    self.trace_region()
                ),
            ));
        }
        let handle = self.handle();
        self.traces.insert(
            handle,
            Trace { commands: capture.commands, owned: capture.owned, blocks: capture.blocks },
        );
        self.record("trace_end", || json!({ "trace": handle }))?;
        Ok(handle)
    }

    /// Executes a trace.
    pub fn trace_run(&mut self, handle: u64) -> Result<()> {
        self.not_while_capturing("running a trace")?;
        let Some(trace) = self.traces.remove(&handle) else {
            return Err(self.bad_handle(handle, "trace"));
        };
        let result = self
            .record("trace_run", || json!({ "trace": handle }))
            .and_then(|()| self.execute_operations(handle, &trace));
        self.traces.insert(handle, trace);
        result
    }

    fn execute_operations(&mut self, handle: u64, trace: &Trace) -> Result<()> {
        for command in &trace.commands {
            for input in &command.inputs {
                if !trace.owned.contains(input) && self.tensor(*input).is_err() {
                    return Err(refusal(
                        abi::TTP_TRACE_RULE,
                        format!(
                            "trace {handle:#x} is stale: {} reads tensor {input:#x}, which was \
                            freed after the capture; keep a trace's inputs alive and renew them \
                            with ttp_tensor_write",
                            command.op.name()
                        ),
                    ));
                }
            }
        }
        for (other, tensor) in &mut self.tensors {
            let lost = tensor.block.is_some_and(|block| {
                !trace.owned.contains(other)
                    && trace.blocks.iter().any(|written| written.overlaps(block))
            });
            if lost {
                tensor.written = Written::Overwritten(handle);
            }
        }
        trace.commands.iter().try_for_each(|command| {
            self.clock.launch(command.op.launches(&command.specs), false);
            self.execute(
                command.op,
                &command.inputs,
                &command.specs,
                &command.outputs,
                &command.output_specs,
            )
        })
    }

    /// Releases a trace and the tensors that only it kept.
    pub fn trace_free(&mut self, handle: u64) -> Result<()> {
        self.not_while_capturing("freeing a trace")?;
        let Some(trace) = self.traces.remove(&handle) else {
            return Err(self.bad_handle(handle, "trace"));
        };
        self.record("trace_free", || json!({ "trace": handle }))?;
        self.forget_freed(trace.owned);
        Ok(())
    }

    /// Drops the elements of tensors that only a trace kept.
    fn forget_freed(&mut self, owned: HashSet<u64>) {
        for tensor in owned {
            if self.tensors.get(&tensor).is_some_and(|tensor| tensor.block.is_none()) {
                self.tensors.remove(&tensor);
                self.forget_address(tensor);
            }
        }
    }
}
