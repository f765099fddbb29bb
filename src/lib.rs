//! openvla_tt.
