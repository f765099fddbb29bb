//! Traces: device work captured once and executed many times without the host.

use std::sync::Arc;

use tt_metal_sys as abi;

use crate::mesh::{Capturing, Inner};
use crate::{Mesh, Result, Tensor};

/// Captured device work. Keeps alive every tensor that it reads and did not create; dropping it
/// releases the trace.
pub struct Trace {
    mesh: Arc<Inner>,
    handle: abi::TraceHandle,
    _reads: Vec<Tensor>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        if self.mesh.is_closed() {
            return;
        }
        // SAFETY: a plain call with a number; this is its only owner.
        let status = unsafe { (self.mesh.api().ttp_trace_free)(self.handle) };
        if let Err(error) = self.mesh.checked("ttp_trace_free", status) {
            self.mesh.defer(error);
        }
    }
}

impl Trace {
    /// Executes the trace. Its inputs are overwritten before with [`Tensor::write`]; its outputs
    /// are the tensors that the capture returned.
    pub fn execute(&self, blocking: bool) -> Result<()> {
        self.mesh.take_deferred_error()?;
        // SAFETY: a plain call with numbers.
        let status = unsafe { (self.mesh.api().ttp_trace_run)(self.handle, u32::from(blocking)) };
        self.mesh.checked("ttp_trace_run", status)
    }
}

/// Ends a capture on return, error and panic.
struct Ending(Option<Arc<Inner>>);

impl Ending {
    fn end(&mut self) -> Result<Option<Trace>> {
        let Some(mesh) = self.0.take() else { return Ok(None) };
        let around = mesh.capturing().take().unwrap_or_default();
        let mut handle = 0;
        // SAFETY: the pointer is valid for the call.
        let status = unsafe { (mesh.api().ttp_trace_end)(mesh.handle, &raw mut handle) };
        mesh.checked("ttp_trace_end", status)?;
        Ok(Some(Trace { mesh, handle, _reads: around.read.into_values().collect() }))
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(mesh) = self.0.clone()
            && let Err(error) = self.end()
        {
            mesh.defer(error);
        }
    }
}

impl Mesh {
    /// Captures the operations of `work` on this mesh; they run with [`Trace::execute`]. The same
    /// sequence must have run once before, so that its programs are compiled. `work` must not
    /// upload, read or create tensors. Its result usually holds the trace's output tensors, which
    /// must live as long as the trace.
    pub fn capture<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(Trace, T)> {
        self.0.take_deferred_error()?;
        // SAFETY: a plain call with a number.
        let status = unsafe { (self.0.api().ttp_trace_begin)(self.0.handle) };
        self.0.checked("ttp_trace_begin", status)?;
        *self.0.capturing() = Some(Capturing::default());
        let mut ending = Ending(Some(self.0.clone()));
        // On an error or a panic the guard ends the capture, and the trace it gives is dropped and
        // freed.
        let output = work()?;
        match ending.end()? {
            Some(trace) => Ok((trace, output)),
            None => Err(crate::Error::Host("the capture had already ended".into())),
        }
    }
}
