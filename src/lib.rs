//! openvla_tt.
pub mod chunk;
pub mod control;
pub mod time;
pub mod units;
