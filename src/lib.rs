//! openvla_tt.

pub mod bag;
