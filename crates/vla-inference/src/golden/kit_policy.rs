//! A policy of an OpenVLA-OFT kit's checkpoint.

use std::path::Path;

use crate::backend::{Backend, TraceBackend};
use crate::checkpoint::OftCheckpoint;
use crate::policy::{
    OftContract, OftError, OftPolicy, Policy, PolicyError, PolicyLoadError, PolicyOptions,
    PolicySource, WithBackend, with_backend,
};

/// Like [`load_policy`](crate::policy::load_policy), for what [`OftKit::options`] says: kits have
/// statistics that no data set has, such as upper bounds below the lower ones, and parts of a
/// checkpoint that are not used.
///
/// [`OftKit::options`]: super::OftKit::options
///
/// # Errors
/// When the device is not available or the checkpoint is not the kit's.
pub fn oft_kit_policy(mut source: PolicySource<'_>) -> Result<Box<dyn Policy>, PolicyLoadError> {
    let Some(contract) = source.options.oft.take() else {
        let folder = source.checkpoint.display().to_string();
        return Err(PolicyError::Oft(OftError::NoContract(folder)).into());
    };
    let work = Load { folder: source.checkpoint, options: source.options, contract };
    with_backend(source.device, source.precision, source.threads, &source.mesh, work)
}

struct Load<'a> {
    folder: &'a Path,
    options: PolicyOptions,
    contract: OftContract,
}

impl Load<'_> {
    fn open<B: Backend>(
        self,
        backend: B,
        precision: &str,
    ) -> Result<OftPolicy<B>, PolicyLoadError> {
        let options = PolicyOptions { precision: precision.to_owned(), ..self.options };
        let checkpoint = OftCheckpoint::open(self.folder).map_err(PolicyError::from)?;
        Ok(OftPolicy::from_checkpoint(backend, checkpoint, &options, self.contract)?)
    }
}

impl WithBackend for Load<'_> {
    type Output = Box<dyn Policy>;

    fn run<B: Backend + 'static>(
        self,
        backend: B,
        precision: &str,
    ) -> Result<Self::Output, PolicyLoadError> {
        Ok(Box::new(self.open(backend, precision)?))
    }

    fn run_traced<B: TraceBackend + 'static>(
        self,
        backend: B,
        precision: &str,
    ) -> Result<Self::Output, PolicyLoadError> {
        Ok(Box::new(self.open(backend, precision)?.with_traces()))
    }
}
