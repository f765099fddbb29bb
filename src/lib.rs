//! openvla_tt.
pub mod checkpoint;
